"""Errors and verdicts: hand-computed cases, agreement with lm-evaluation-harness, and what pairing must buy."""

import dataclasses

import numpy as np
import pytest

from dbyte.evaluate import stats
from dbyte.evaluate.exposure import claim_rows
from dbyte_paper import nested
from dbyte_tasks.column import Marks


def outcomes(seed, n, p):
    return np.random.default_rng(seed).binomial(1, p, n)


def test_proportion_by_hand_and_by_the_harness():
    from lm_eval.api.metrics import mean_stderr

    correct = [1, 1, 1, 0]
    estimate = stats.proportion(correct)
    assert (estimate.value, estimate.n) == (0.75, 4)
    assert estimate.stderr == pytest.approx((0.75 * 0.25 / 3) ** 0.5)
    assert estimate.stderr == pytest.approx(mean_stderr(correct))
    assert stats.proportion([1]).stderr == 0.0


def test_wilson_interval_is_not_empty_at_the_ends():
    assert stats.wilson([0] * 10).high == pytest.approx(0.2775, abs=1e-4)  # the textbook value for 0 of 10
    full = stats.wilson([1] * 10)
    assert full.value == full.high == 1.0 and full.low == pytest.approx(1 - 0.2775, abs=1e-4)


def test_paired_difference_matches_the_normal_approximation():
    teacher = outcomes(2, 2000, 0.8)
    student = np.where(outcomes(3, 2000, 0.1) == 1, 1 - teacher, teacher)
    interval = stats.difference({"A": student}, {"A": teacher})
    change = 100.0 * (student - teacher)
    half = 1.96 * change.std() / len(change) ** 0.5
    assert interval.value == pytest.approx(change.mean())
    assert interval.low == pytest.approx(change.mean() - half, abs=0.2)
    assert interval.high == pytest.approx(change.mean() + half, abs=0.2)


def test_columns_weigh_alike_whatever_their_size():
    teacher = {"big": np.ones(900), "small": np.ones(10)}
    student = {"big": np.ones(900), "small": np.zeros(10)}
    assert stats.retention(student, teacher).value == pytest.approx(50)
    assert stats.difference(student, teacher).value == pytest.approx(-50)
    teacher, student = {"A": [1, 1, 1, 1], "B": [1, 0, 0, 0]}, {"A": [1, 1, 0, 0], "B": [1, 0, 0, 0]}
    assert stats.retention(student, teacher).value == pytest.approx(100 * 0.75 / 1.25), "a ratio of averages"


def test_intervals_depend_on_the_seed_alone():
    teacher = {"A": outcomes(6, 50, 0.9), "B": outcomes(7, 60, 0.6)}
    student = {"A": outcomes(8, 50, 0.8), "B": outcomes(9, 60, 0.6)}
    swapped = ({k: side[k] for k in ("B", "A")} for side in (student, teacher))
    assert stats.retention(student, teacher, seed=1) == stats.retention(*swapped, seed=1)
    assert stats.retention(student, teacher, seed=1) != stats.retention(student, teacher, seed=2)


@pytest.mark.parametrize("low, high, direction, expected", [
    (0.1, 0.2, "above", "shown"), (-0.2, -0.1, "above", "opposite"), (-0.1, 0.1, "above", "equal"),
    (-0.2, -0.1, "below", "shown"), (0.1, 0.2, "below", "opposite"), (0.0, 0.1, "above", "equal"),
    (-1.9, 1.9, "above", "equal"), (-2.1, 1.9, "above", "not shown"), (-1.9, 2.1, "below", "not shown"),
])
def test_verdict(low, high, direction, expected):
    assert stats.verdict(low, high, direction=direction) == expected
    assert stats.verdict(low + 5, high + 5, threshold=5.0, direction=direction) == expected


@pytest.mark.parametrize("call, said", [
    (lambda: stats.proportion([]), "at least one"),
    (lambda: stats.proportion([0, 2]), "from 0 to 1"),
    (lambda: stats.difference({"A": [1.5]}, {"A": [1]}), "from 0 to 1"),
    (lambda: stats.difference({"A": [1, 0]}, {"A": [1]}), "same items"),
    (lambda: stats.difference({"A": [1]}, {"B": [1]}), "same items"),
    (lambda: stats.difference({}, {}), "same items"),
    (lambda: stats.retention({"A": [1]}, {"A": [0]}), "no correct item"),
    (lambda: stats.verdict(2.0, 1.0), "low <= high"),
    (lambda: stats.verdict(0.0, float("nan")), "low <= high"),
    (lambda: stats.verdict(0.0, 1.0, direction="up"), "above"),
    (lambda: stats.difference([], []), "as many seeds"),
    (lambda: stats.difference([{"A": [1]}], [{"A": [1]}] * 2), "as many seeds"),
    (lambda: stats.difference([{"A": [1]}, {"A": [1, 0]}], [{"A": [1]}] * 2), "every seed"),
])
def test_bad_input_is_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_a_difference_is_judged_with_its_interval():
    first, second = {"A": outcomes(0, 400, 0.9)}, {"A": outcomes(1, 400, 0.6)}
    rows = stats.difference_rows("A beats B", first, second, direction="above", threshold=30.0)
    assert [row["verdict"] for row in rows] == ["not shown"] * 2 and {row["n"] for row in rows} == {400}
    assert (rows[0]["low"], rows[0]["high"]) == dataclasses.astuple(stats.difference(first, second))[1:]


def test_claims_by_column_and_what_the_generated_one_loses_alone():
    one = {"A": [1] * 50, "GSM8K": [1] * 90 + [0] * 10}
    other = {"A": [1] * 50, "GSM8K": [1] * 40 + [0] * 60}
    rows = {row["what"]: row for row in claim_rows(one, other, generated="GSM8K")}
    assert rows["A"]["value"] == 0 and rows["A"]["verdict"] == "not shown", "50 items leave 7 points open"
    assert rows["GSM8K"]["value"] == pytest.approx(50) and rows["GSM8K"]["verdict"] == "shown"
    beyond = rows["GSM8K beyond the others"]
    assert beyond["value"] == pytest.approx(50) and beyond["verdict"] == "shown" and beyond["n"] == 150
    assert beyond["low"] < rows["GSM8K"]["low"], "A never differs, which 50 items do not prove"
    rows = {row["what"]: row for row in claim_rows(other, one, generated="GSM8K")}
    assert rows["GSM8K"]["verdict"] == rows["GSM8K beyond the others"]["verdict"] == "opposite"


# -- several seeds ----------------------------------------------------------------------------------------------------


def test_errors_over_seeds_by_hand():
    found = nested.mean_over_seeds([1.0, 2.0, 3.0])  # t(2) = 4.3027, s = 1
    assert found.value == 2.0 and found.high - 2.0 == pytest.approx(4.3027 / 3**0.5, abs=1e-3)
    assert np.isnan(nested.mean_over_seeds([1.0]).low)


def test_one_seed_has_the_error_of_its_items_and_more_seeds_are_never_narrower():
    first, second = ([{"A": outcomes(seed, 200, p)} for seed in range(3)] for p in (0.5, 0.7))
    one, plain = stats.difference(first[:1], second[:1]), stats.difference(first[0], second[0])
    assert dataclasses.astuple(one) == pytest.approx(dataclasses.astuple(plain))
    over_seeds = stats.difference(first, second)
    items = stats.difference(*({"A": np.mean([one["A"] for one in side], axis=0)} for side in (first, second)))
    assert over_seeds.value == pytest.approx(items.value)
    assert over_seeds.high - over_seeds.low > items.high - items.low


def test_what_students_keep_of_one_teacher_by_hand():
    teacher = {"A": [1, 1, 1, 0], "B": [1, 1, 0, 0]}  # 62.5 % on average
    found = stats.retention([{"A": [1, 1, 0, 0], "B": [1, 0, 0, 0]}] * 2, teacher)
    assert found.value == pytest.approx(100 * 37.5 / 62.5)
    same = stats.retention([teacher] * 3, teacher)
    assert same.value == 100 and same.low < 100 < same.high, "equal answers to four items prove nothing"
    apart = stats.retention([{"A": [1, 1, 0, 0], "B": [1, 0, 0, 0]}, teacher], teacher)
    assert apart.high - apart.low > found.high - found.low


# -- clusters, the ends, many teachers, many claims -------------------------------------------------------------------


def test_items_of_one_cluster_count_once():
    teacher, student = outcomes(0, 100, 0.9), outcomes(1, 100, 0.6)
    plain = stats.difference({"A": student}, {"A": teacher})
    pairs = [k // 2 for k in range(200)]
    doubled = [Marks.in_clusters(np.repeat(side, 2), pairs) for side in (student, teacher)]
    assert stats.difference({"A": doubled[0]}, {"A": doubled[1]}) == plain, "asked twice, nothing more is known"
    blind = stats.difference(*({"A": list(each)} for each in doubled))
    assert blind.high - blind.low < 0.8 * (plain.high - plain.low)
    assert stats.mean_of_items(doubled[0]).stderr == pytest.approx(stats.mean_of_items(student).stderr)
    assert (stats.clusters_in({"A": doubled[0], "B": student}), stats.items_in({"A": doubled[0]})) == (200, 200)
    with pytest.raises(ValueError, match="a cluster for each"):
        Marks.in_clusters([1, 0], ["one"])


def test_where_nothing_differs_the_interval_ends_where_wilsons_does():
    right = [1.0] * 100
    limit = 100 * stats.wilson([0] * 100).high  # 3.70
    same = stats.difference({"A": right}, {"A": right})
    assert (same.low, same.high) == pytest.approx((-limit, limit), abs=1e-3)
    apart = stats.difference({"A": right}, {"A": [0.0] * 100})
    assert (apart.low, apart.high) == pytest.approx((100 - limit, 100), abs=1e-3)
    over_two = stats.difference({"A": right, "B": right}, {"A": right, "B": right})
    assert over_two.high == pytest.approx(limit / 2**0.5, abs=1e-3), "two columns, each weighs half"
    in_fours = Marks.in_clusters(right, [k // 4 for k in range(100)])
    assert stats.difference({"A": in_fours}, {"A": right}).high == pytest.approx(100 * stats.wilson([0] * 25).high)
    assert stats.mean_of_items(right).stderr == pytest.approx(limit / 196)


def test_clustered_intervals_cover_what_blind_ones_miss(monkeypatch):
    monkeypatch.setattr(stats, "RESAMPLES", 400)
    rng = np.random.default_rng(1)
    hits = np.zeros(2)
    clusters = [k // 5 for k in range(160)]
    for sim in range(200):  # five items a cluster, right or wrong together: the true difference is -30 points
        teacher, student = (np.repeat(rng.binomial(1, p, 32), 5) for p in (0.8, 0.5))
        for which, drawn_with in enumerate((clusters, ())):
            found = stats.difference({"A": Marks.in_clusters(student, drawn_with)}, {"A": teacher}, seed=sim)
            hits[which] += found.low <= -30 <= found.high
    assert hits[0] / 200 > 0.9 and hits[1] / 200 < 0.75


def test_a_nested_bootstrap_knows_that_three_teachers_are_few(monkeypatch):
    monkeypatch.setattr(stats, "RESAMPLES", 400)
    rng = np.random.default_rng(3)
    covered = {"nested": 0, "as if students were independent": 0}
    for sim in range(150):  # teachers spread by 8 points, students by 2: the true difference is -20
        shift_TS = rng.normal(0, 0.08, (3, 1)) + rng.normal(0, 0.02, (3, 2))
        teachers = [{"A": rng.binomial(1, 0.75, 400)} for _ in range(3)]
        students = [[{"A": rng.binomial(1, min(0.55 + shift, 1), 400)} for shift in shift_S] for shift_S in shift_TS]
        found = (nested.nested_difference(students, teachers, seed=sim), stats.difference(
            [one for each in students for one in each], [one for one in teachers for _ in range(2)], seed=sim))
        for name, interval in zip(covered, found, strict=True):
            covered[name] += interval.low <= -20 <= interval.high
    assert covered["nested"] / 150 > 0.93 > 0.9 > covered["as if students were independent"] / 150
    with pytest.raises(ValueError, match="at least two teachers"):
        nested.nested_difference([[{"A": [1]}]], [{"A": [1]}])


def test_holm_and_p_by_hand():
    assert nested.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert nested.holm([0.9, 0.8]) == [1.0, 1.0]
    edge = stats.Interval(5.0, 0.0, 10.0)  # an interval that ends at the threshold is just at 5 %
    assert nested.p_value(edge) == pytest.approx(0.05, abs=1e-4)
    assert nested.p_value(edge, threshold=5.0) == 1.0
