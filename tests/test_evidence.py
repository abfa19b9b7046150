"""Fair arms: equal bytes, each at the best of its own rates; the paper's recipe is one of eight; effects by hand."""

import dataclasses

import numpy as np
import pytest
from test_variants import TINY

from dbyte.distill.steps import ROUTER
from dbyte.evaluate.harness import ColumnResult
from dbyte.evaluate.measure import Measurer
from dbyte.model.student import ByteStudent
from dbyte.model.student_config import StudentConfig
from dbyte.presets import SCALES
from dbyte_paper import ablation_runs, evidence, fairness
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
    assert sizes == sorted(sizes) and (name != "small" or sizes == [900_000, 3_000_000, 9_000_000])


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


@pytest.mark.parametrize("scale", SCALES.values(), ids=list(SCALES))
def test_at_each_budget_four_students_read_as_much_and_differ_in_their_router_alone(scale):
    several = evidence.routers(scale)
    assert [size for size, _ in several] == sorted(size for size, _ in several) and len(several) > 1
    for size, rows in several:
        assert [row.name for row in rows] == ["integrated", "split", "integrated, Eq. 4", "split, Eq. 4"]
        for row in rows:
            assert sum(step.train_bytes for step in row.steps) == size
            routed = [step.name for step in row.steps if any(group.parts == ROUTER for group in step.groups)]
            assert routed == [step.name for step in row.steps[0 if evidence.BESIDE in row.name else 2:]]
        assert len({tuple(step.train_bytes for step in row.steps) for row in rows}) == 1
        assert rows[0].steps == rows[1].steps and rows[2].steps == rows[3].steps
    before = [[step.describe() for step in rows[0].steps[:2]] for _, rows in several]
    assert all(each == before[0] for each in before), "one encoder for all budgets"


@pytest.mark.parametrize("name", ["smoke", "small", "gpu", "real"])
def test_both_routers_have_as_many_parameters_and_the_papers_split_one_is_appendix_bs(name):
    scale = SCALES[name]
    integrated, split = ({**scale.student, **row.student} for row in evidence.routers(scale)[0][1][:2])
    width = integrated["byte_width"]
    ours, theirs = 6 * width * integrated["router_ffn_width"], evidence._split_size(scale, split)
    assert abs(ours - theirs) <= fairness.NEAR * theirs
    paper = StudentConfig(**evidence.routers(SCALES["paper"])[0][1][1].student)
    assert (paper.router, paper.router_width, paper.router_layers) == ("split", 512, 4)


def test_a_sweep_of_the_router_leaves_the_encoder_as_it_is_and_its_steps_are_trained_once():
    toy = dataclasses.replace(TINY, student=TINY.student | {"router_ffn_width": 48},
                              ablation=dataclasses.replace(TINY.ablation, seeds=1, router_doses=(0.5, 1.0)))
    (_, small), (_, large) = evidence.routers(toy)
    fast = at_rate(large[0], 3.0, ROUTER)
    assert fast.steps[:2] == large[0].steps[:2]
    assert [group.rate for group in fast.steps[2].groups] == [3 * group.rate for group in large[0].steps[2].groups]
    trained = ablation_runs.train(toy, [small[0], dataclasses.replace(fast, name="fast"), large[1]], seed=0)
    one, other, split = (by_seed[0] for by_seed in trained.values())
    assert [run.hash for run in one[:2]] == [run.hash for run in other[:2]] and one[2].hash != other[2].hash
    counts = ablation_runs.sizes(trained, "router")
    assert counts["integrated"] == pytest.approx(counts["split"], rel=fairness.NEAR)
    assert isinstance(ByteStudent.from_pretrained(split[2].model_folder).router, evidence.SplitRouter)


@pytest.mark.parametrize("scale", SCALES.values(), ids=list(SCALES))
def test_at_each_dose_both_encoders_read_as_much_of_step_1_1(scale):
    several = evidence.encoder_doses(scale)
    assert [size for size, _ in several] == [round(dose * scale.ablation.step_bytes)
                                             for dose in scale.ablation.encoder_doses]
    for size, pair in several:
        assert [row.name for row in pair] == ["Mamba2", "Transformer"]
        assert [[step.train_bytes for step in row.steps] for row in pair] == [[size], [size]]


def test_what_a_router_gained_is_its_f1_after_the_largest_budget_less_that_after_the_one_before():
    rows = [{"model": model, "corpus": corpus, "train_bytes": size, "value": value}
            for model, values in (("a", (50, 60, 80, 90, 96, 97)), ("b", (1, 1, 2, 2, 2, 2)))
            for (size, corpus), value in zip(((5, "w"), (5, "p"), (30, "w"), (30, "p"), (200, "w"), (200, "p")), values,
                                             strict=True)]
    assert evidence.gained(rows[::-1]) == {"a": 11.5, "b": 0.0}


def test_arms_take_more_columns_by_name():
    pair = alignments(TINY)[:2]
    found = evidence.arms(pair, falling={row.name: place for place, row in enumerate(pair)})
    assert [found[row.name]["falling"] for row in pair] == [0, 1] and "sweep" in found[pair[0].name]


def test_the_best_of_several_is_chosen_by_accuracy_then_by_bits(monkeypatch):
    class Measured:
        def __init__(self, *_, drawn):
            assert drawn == evidence.CHOOSING

        def columns(self, folder, *_, **__):
            return {"LMB": ColumnResult("LMB", "acc", {"low": 0.1}.get(folder, 0.5), 0.0, 2, 0.0, (1, 0), "")}

        def bits(self, folder, *_):
            return {"value": {"good": 1.0, "low": 0.5}.get(folder, 2.0)}

    monkeypatch.setattr(evidence, "Measurer", Measured)
    assert evidence.best_of(TINY, ["low", "bad", "good", "worse"], str, "stage1/router", seed=0) == "good"


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
