"""Errors and verdicts: hand-computed cases, agreement with lm-evaluation-harness, and what pairing must buy."""

import dataclasses

import numpy as np
import pytest

from dbyte.evaluate import stats
from dbyte.evaluate.exposure import claim_rows


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
    (0.1, 0.2, "above", "shown"), (-0.2, -0.1, "above", "opposite"), (-0.1, 0.1, "above", "not shown"),
    (-0.2, -0.1, "below", "shown"), (0.1, 0.2, "below", "opposite"), (0.0, 0.1, "above", "not shown"),
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
    assert rows["A"]["value"] == 0 and rows["A"]["verdict"] == "not shown"
    assert rows["GSM8K"]["value"] == pytest.approx(50) and rows["GSM8K"]["verdict"] == "shown"
    beyond = rows["GSM8K beyond the others"]
    assert beyond["value"] == pytest.approx(50) and beyond["verdict"] == "shown" and beyond["n"] == 150
    assert beyond["low"] == pytest.approx(rows["GSM8K"]["low"], abs=1.0)  # A never differs
    rows = {row["what"]: row for row in claim_rows(other, one, generated="GSM8K")}
    assert rows["GSM8K"]["verdict"] == rows["GSM8K beyond the others"]["verdict"] == "opposite"


# -- several seeds ----------------------------------------------------------------------------------------------------


def test_errors_over_seeds_by_hand():
    found = stats.mean_over_seeds([1.0, 2.0, 3.0])  # t(2) = 4.3027, s = 1
    assert found.value == 2.0 and found.high - 2.0 == pytest.approx(4.3027 / 3**0.5, abs=1e-3)
    assert np.isnan(stats.mean_over_seeds([1.0]).low)


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
    assert stats.retention([teacher] * 3, teacher) == stats.Interval(100.0, 100.0, 100.0)
    apart = stats.retention([{"A": [1, 1, 0, 0], "B": [1, 0, 0, 0]}, teacher], teacher)
    assert apart.high - apart.low > found.high - found.low
