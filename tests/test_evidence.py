"""Fair arms: equal bytes, each at the best of its own rates; the paper's recipe is one of eight; effects by hand."""

import dataclasses

import numpy as np
import pytest
from test_variants import TINY

from dbyte.evaluate.harness import ColumnResult
from dbyte.evaluate.measure import Measurer
from dbyte.presets import SCALES
from dbyte_paper import ablation_runs, evidence
from dbyte_paper.evidence import AS_PRINTED, DEPARTURES, at_rate, doses, rate_matched, recipes, sized
from dbyte_paper.nested import nested_difference
from dbyte_paper.variants import alignments
from dbyte_tasks.column import Marks

DOSED = dataclasses.replace(TINY, ablation=dataclasses.replace(TINY.ablation, doses=(1.5, 3.0)))


def marks(right, n=10, clusters=()):
    answers = Marks.in_clusters((1,) * right + (0,) * (n - right), clusters)
    return {"A": ColumnResult("A", "acc", right / n, 0.0, n, 0.5, answers, "")}


@pytest.mark.parametrize("scale", SCALES.values(), ids=list(SCALES))
def test_every_choice_of_departures_is_there_at_equal_bytes_and_the_first_is_the_papers_own(scale):
    rows = {row.name: row for row in recipes(scale)}
    assert len(rows) == 2 ** len(DEPARTURES) and list(rows)[-1] == ", ".join(DEPARTURES)
    assert len({sum(step.train_bytes for step in row.steps) for row in rows.values()}) == 1
    paper = rows[AS_PRINTED]
    assert not any(group.muon_rate for step in paper.steps for group in step.groups), "AdamW alone"
    assert [step.objective.name for step in paper.steps] == ["align", "distill", "boundary", "head", "full"]
    assert [step.name for step in paper.steps if any("router" in group.parts for group in step.groups)] == [
        "1.3 boundary"]
    assert paper.student == {"router_ffn_width": 0}, "two linear maps"


def test_all_departures_together_are_the_scales_own_curriculum():
    from dbyte.distill.curriculum import curriculum

    for name in ("smoke", "small"):
        last = recipes(SCALES[name])[-1]
        assert [step.describe() for step in last.steps] == [step.describe() for step in curriculum(SCALES[name])]


@pytest.mark.parametrize("name", ["smoke", "small"])
def test_at_each_dose_both_arms_read_as_much_and_half_of_the_sequence_aligns(name):
    sizes = []
    for total, (sequence, joint) in doses(SCALES[name]):
        assert [sum(step.train_bytes for step in one.steps) for one in (sequence, joint)] == [total, total]
        assert sequence.steps[0].train_bytes == total // 2
        sizes.append(total)
    assert sizes == sorted(sizes) and (name != "small" or sizes == [900_000, 3_000_000, 9_000_000, 13_000_000])


def test_rates_are_matched_and_a_sweep_multiplies_all_of_them():
    first, only = rate_matched(TINY)
    assert only.steps[0].groups[0] == first.steps[0].groups[0], "the encoder's own rates, from the start"
    assert only.steps[0].groups[1:] == first.steps[1].groups[1:]
    assert sum(step.train_bytes for step in first.steps) == sum(step.train_bytes for step in only.steps)
    fast = at_rate(first, 3.0)
    for step, faster in zip(first.steps, fast.steps, strict=True):
        assert [(3 * group.rate, 3 * group.muon_rate) for group in step.groups] == [
            (group.rate, group.muon_rate) for group in faster.groups]
    assert sized(first, 1.0) is first and sized(first, 0.5).steps[0].train_bytes == first.steps[0].train_bytes // 2
    assert evidence.arms([first, fast])[first.name] == {
        "train_bytes": sum(step.train_bytes for step in first.steps), "rate": 3.0, "sweep": evidence.SWEEP}
    assert evidence.arms([first])[first.name]["sweep"] == "", "of no sweep"


def test_the_rate_that_is_kept_is_the_best_by_items_that_are_not_reported():
    (variant,) = alignments(TINY)[2:3]  # one step
    (best,) = evidence.at_best_rate(TINY, [variant], "stage1/tokenizer", seed=0)
    measurer = Measurer(TINY, 0, drawn=evidence.CHOOSING)
    scores = {}
    for factor in evidence.RATES:
        folder = ablation_runs.train(dataclasses.replace(TINY, ablation=dataclasses.replace(TINY.ablation, seeds=1)),
                                [at_rate(variant, factor)], seed=0)[variant.name][0][-1].model_folder
        found = measurer.columns(folder, "stage1/tokenizer", items=TINY.ablation.items, only=["LMB"])
        scores[factor] = (found["LMB"].accuracy, -measurer.bits(folder, "stage1/tokenizer", "world")["value"])
    assert scores[best.rate] == max(scores.values()) and len(set(scores.values())) > 1
    reported = Measurer(TINY, 0).columns(folder, "stage1/tokenizer", items=4, only=["LMB"])["LMB"]
    assert reported.items_hash != found["LMB"].items_hash


def test_effects_are_means_over_the_pairs_that_differ_in_one_factor():
    right = {"none": 1, "b": 3, "a": 4, "a, b": 8}  # b adds 2 and 4, a adds 3 and 5
    rows = {row["what"]: row for row in evidence.effect_rows({name: [marks(k)] for name, k in right.items()}, "ab")}
    assert (rows["a"]["value"], rows["b"]["value"]) == pytest.approx((40, 30)) and rows["a"]["pairs"] == 2


def test_a_row_over_teachers_is_the_nested_difference():
    measured = [{"teacher": marks(9), "students": [marks(k), marks(k - 1)]} for k in (8, 6, 7)]
    row = evidence.nested_row(measured, "student - teacher")
    found = nested_difference([[{"A": one["A"].correct} for one in each["students"]] for each in measured],
                              [{"A": each["teacher"]["A"].correct} for each in measured])
    assert (row["value"], row["low"], row["high"]) == dataclasses.astuple(found)
    assert row["value"] == pytest.approx(-25) and (row["teachers"], row["seeds"], row["clusters"]) == (3, 2, 10)


def test_a_plateau_falls_by_nothing():
    class Log:
        def __init__(self, *losses):
            self.losses = losses

        def metrics(self):
            return [{"loss": loss} for loss in self.losses]

    found = evidence.falling({"flat": [[Log(9, 4, 2, 2)]], "still": [[Log(9, 4, 2, 1)], [Log(8, 8, 2, 1)]]})
    assert found == {"flat": 0.0, "still": 50.0}


def test_rows_count_their_clusters():
    measured = {"one": [marks(5, clusters=[k // 2 for k in range(10)])], "other": [marks(4)]}
    rows = ablation_runs.accuracy_rows(measured, arms={"one": {"train_bytes": 5}})
    assert [row["clusters"] for row in rows] == [5, 5, 10, 10] and rows[0]["train_bytes"] == 5
    assert np.isfinite([row["stderr"] for row in rows]).all()
