"""The two open questions: parts that add up, arms that differ in one thing, and paragraphs that follow the numbers."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_under_noise import found

from dbyte.evaluate.boundary_kinds import KINDS as PLACES_IN_TEXT
from dbyte.evaluate.boundary_kinds import Tally
from dbyte.presets import SCALES
from dbyte_paper import evidence, resilience, under_noise
from dbyte_paper.evidence import at_rate, sized
from dbyte_paper.resilience import (
    BIAS,
    BITS,
    F1,
    HEAD,
    HEAD_CUTS,
    PARTS,
    POINTS,
    STAGE1,
    STAGE1_CUTS,
    STAGE2,
    TEXTS,
    bias_rows,
    bits_part_rows,
    effect_rows,
    on_spaces,
    on_stage2,
    part_rows,
)
from dbyte_paper.variants import boundary_learning, denoising, resilient, second_dose

# -- arms -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["smoke", "small"])
def test_four_students_of_stage_2_read_as_much_and_pairs_differ_in_one_thing(name):
    four = resilient(SCALES[name], 1 / 3)
    assert len({sum(step.train_bytes for step in one.steps) for one in four}) == 1
    asked = [(any("router" in group.parts for group in one.steps[4].groups), "dense" in one.steps[3].objective.name)
             for one in four]
    assert asked == [(False, False), (False, True), (True, False), (True, True)], "the last factor changes fastest"
    assert resilience.FACTORS == ("Eq. 4", "dense")
    assert evidence.main_share(SCALES["small"]) == SCALES["small"], "where results are committed it is all of it"


def test_denoising_differs_from_its_control_in_the_rows_alone_and_reads_as_much_as_the_others():
    clean, noisy = (one.steps[-1].describe() for one in denoising(SCALES["small"]))
    assert {name for name in noisy if clean.get(name) != noisy[name]} == {"name", "noisy"}
    control = boundary_learning(SCALES["small"])[1].steps[-1]
    assert clean["train_bytes"] == control.train_bytes and "encoder" in clean["groups"][0]["parts"]
    assert clean["groups"][1:] == control.describe()["groups"], "the router as in step 1.3"


def test_a_sweep_may_leave_the_first_steps_as_they_are():
    (*_, variant) = boundary_learning(SCALES["small"])
    fast = sized(at_rate(variant, 3.0, since=3), 0.1, since=3)
    assert fast.steps[:3] == variant.steps[:3] and fast.rate == 3.0
    assert fast.steps[3].groups[0].rate == 3 * variant.steps[3].groups[0].rate
    assert fast.steps[3].train_bytes == variant.steps[3].train_bytes // 10


def test_the_share_of_noise_in_what_the_teacher_has_read_is_a_share():
    scale = SCALES["small"]
    assert 0.1 < 5 / 6 * second_dose(scale) / (second_dose(scale) + scale.teacher.train_bytes) < 0.2


# -- graded noise, and parts ------------------------------------------------------------------------------------------


class Graded:
    """A measurer whose answers and margins fall with the share of words that is hit."""

    scale, seed = SCALES["smoke"], 3

    def __init__(self):
        self.asked = set()

    def column(self, folder, reading, column, *, items, noise=None):
        share = noise.share if noise else 0.0
        self.asked.add(noise and (noise.kind, noise.place, share))
        return type("Result", (), {"correct": (1 - share,) * items, "margins": (-share,) * items, "column": column})


def test_grades_are_asked_in_prompt_and_completion_and_averaged():
    measurer = Graded()
    each = under_noise.graded(measurer, Path(), "token", items=2, only=["PIQA"])
    assert {noise[1] for noise in measurer.asked if noise} == {"both"} and len(measurer.asked) == 1 + 5 * 3
    assert each[0.5]["PIQA"]["drop"].tolist() == [0.5] * 2 and list(each) == [0.0, *under_noise.GRADES]
    mean = 1 - np.mean(under_noise.GRADES)
    assert each[0.0]["PIQA"]["drop"] == pytest.approx([mean] * 2) and each[0.0]["PIQA"]["clean"].tolist() == [1, 1]
    nats = under_noise.graded(measurer, Path(), "token", items=2, only=["PIQA"], what="margins")[1.0]
    rows = {row["model"]: row for row in under_noise.margin_rows({"a": nats, "b": nats}, "a") if row["kind"] == "drop"}
    assert rows["a"]["value"] == -1 and rows["b - a"]["value"] == 0 and math.isnan(rows["a"]["chance"])
    with pytest.raises(ValueError, match="measured without correct"):
        Graded.column = lambda *_, **__: type("Result", (), {"correct": (), "column": "PIQA"})
        under_noise.answers(Graded(), Path(), "token", items=2, only=["PIQA"])


def test_parts_add_up_whatever_the_numbers():
    rest = [signs for part, signs in PARTS.items() if part != "all"]
    assert {name: total for name in (STAGE1, STAGE1_CUTS, HEAD, HEAD_CUTS, STAGE2)
            if (total := sum(signs.get(name, 0) for signs in rest))} == PARTS["all"]
    several = {name: found(0.9, 0.8 - 0.1 * k, seed=k) for k, name in enumerate((
        STAGE1_CUTS, STAGE1, HEAD_CUTS, HEAD, STAGE2))}
    rows = {row["part"]: row for row in part_rows(POINTS, several)}
    assert rows["all"]["value"] == pytest.approx(sum(row["value"] for part, row in rows.items() if part != "all"))
    noisy = {name: np.mean([np.mean(under_noise.of("noise average", each)[task]) - np.mean(each[task]["clean"])
                            for task in each]) for name, each in several.items()}
    assert rows["decoder"]["value"] == pytest.approx(100 * (noisy[HEAD] - noisy[STAGE2]))
    assert rows["all"]["low"] > 0, "three tenths less, of four hundred items"


def test_parts_in_bits_are_those_of_noisy_text_less_those_of_clean_text():
    class Bits:
        scale, seed = SCALES["smoke"], 0

        def bits(self, folder, reading, corpus, noise):
            nats = {"stage2/router": 3.0}.get(reading, 1.0) * (2 if noise else 1) * math.log(2)
            return {"nats_P": [nats, nats], "text_bytes": 2, "n": 2, "value": nats}

    models = resilience.readings(Path("one"), Path("two"))
    rows = {row["part"]: row for row in bits_part_rows(Bits(), models)}
    assert rows["decoder"]["value"] == rows["all"]["value"] == pytest.approx(2) and rows["boundaries"]["value"] == 0


def test_effects_on_what_noise_costs_by_hand():
    """The second factor saves a fifth of the items under noise, the first nothing."""
    names = ("none", "dense", "Eq. 4", "both")
    answers = {name: {"A": {"clean": np.ones(100), "together": ()} | {
        kind: np.array([1.0] * (70 if "dense" in name or name == "both" else 50) + [0.0] * (
            30 if "dense" in name or name == "both" else 50)) for kind in under_noise.KINDS}} for name in names}
    rows = {(row["what"], row["outcome"]): row for row in effect_rows(answers)}
    assert rows["dense", "cost of noise"]["value"] == pytest.approx(-20)
    assert rows["Eq. 4", "cost of noise"]["value"] == pytest.approx(0)
    assert rows["dense", "clean"]["value"] == pytest.approx(0) and rows["dense", "cost of noise"]["high"] < 0


# -- boundaries -------------------------------------------------------------------------------------------------------


class Cuts:
    """A measurer of two routers: one finds all boundaries, the other misses half of those that are at no space."""

    scale, seed = SCALES["smoke"], 0

    def tally(self, folder, corpus, text):
        counts_PK4 = np.zeros((3, len(PLACES_IN_TEXT), 4), dtype=int)
        counts_PK4[:, 0] = (10, 2, 0, 20)  # two cuts before spaces that the tokenizer has not
        counts_PK4[:, -1] = (10, 0, 0, 50) if folder.name == "good" else (5, 0, 5, 50)
        return Tally(counts_PK4, {})

    def bits(self, folder, reading, corpus, noise=None):
        nats = (1.0 if noise is None else 2.0) * (1.0 if folder.name == "good" else 1.1)
        return {"nats_P": [nats] * 3, "value": nats, "stderr": 0.1, "n": 3}


def test_bias_rows_by_hand():
    rows = pd.DataFrame(bias_rows(Cuts(), {"good": Path("good"), "bad": Path("bad")}, {"good": "good", "bad": "good"}))
    (f1,) = rows[(rows.model == "bad") & (rows.measure == F1) & (rows.text == "clean")
                 & (rows.corpus == "world")].itertuples()
    assert f1.value == pytest.approx(100 * 30 / (30 + 2 + 5)) and f1.over == pytest.approx(f1.value - 100 * 40 / 42)
    bias = rows[rows.measure == BIAS]
    assert bias.value.tolist() == pytest.approx([10.0] * len(bias)) and (bias.over == 0).all()
    bits = rows[(rows.measure == BITS) & (rows.model == "bad")]
    assert bits.over.tolist() == pytest.approx([10.0] * len(bits)) and set(rows.text) == set(TEXTS)


def bias_frame(*, f1=0.0, bits=-10.0, bias=3.0, noisy=2.0):
    rows = []
    for model, over in (("control", 0.0), ("arm", 1.0)):
        for text in TEXTS:
            where = {"model": model, "control": "control", "corpus": "world", "text": text, "n": 9}
            rows += [where | {"measure": F1, "value": 95.0, "stderr": 0.1, "over": over * f1, "over_stderr": 0.1},
                     where | {"measure": BIAS, "value": bias, "stderr": 0.5, "over": 0.0, "over_stderr": 0.5},
                     where | {"measure": BITS, "value": 1.0 if text == "clean" else noisy, "stderr": 0.1,
                              "over": over * bits, "over_stderr": 1.0}]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("given", "said"), [
    ({}, "is reached by `arm`"), ({"f1": -0.5}, "is reached by none"), ({"bits": -5.0}, "is reached by none"),
    ({"noisy": 1.02}, "uninformative"), ({"bias": 0.5}, "which is no bias of its own"), ({}, "a bias of its own")])
def test_the_first_answer_follows_its_goal_and_preconditions(given, said):
    text = on_spaces(bias_frame(**given))
    assert said in text and ("reached" in text) != ("uninformative" in text)


def stage2_frames(*, total=5.0, boundaries=4.0, head=80.0):
    parts = pd.DataFrame([{"part": part, "measure": POINTS, "value": value, "low": value - 1, "high": value + 1}
                          for part, value in (("all", total), ("encoder and core", 0.0), ("boundaries", boundaries),
                                              ("decoder", total - boundaries))])
    probe = pd.DataFrame([{"model": model, "task": "average", "kind": "clean", "value": value}
                          for model, value in ((STAGE1_CUTS, 85.0), (HEAD_CUTS, head))])
    effects = pd.DataFrame([{"what": what, "outcome": "cost of noise", "value": value, "low": value - 1,
                             "high": value + 1} for what, value in (("Eq. 4", -6.0), ("dense", 0.0))])
    return parts, probe, effects


SCORE = pd.DataFrame([{"model": "teacher", "task": "average", "value": 60.0}])


def test_the_second_answer_names_the_parts_and_what_changes_the_cost():
    text = on_stage2(*stage2_frames(), SCORE)
    assert "Above zero: boundaries." in text and "floor" not in text and "token head of Stage 2 has lost" not in text
    assert "(Eq. 4) lowers what noise costs" in text and "as the target does not change what noise costs" in text
    assert "nothing to be told apart" in on_stage2(*stage2_frames(total=0.5), SCORE)
    assert "may be the head's" in on_stage2(*stage2_frames(head=70.0), SCORE)
    for near in (SCORE.assign(value=10.0), SCORE.iloc[:0], None):
        assert "accuracies are uninformative" in on_stage2(*stage2_frames(), near)


def test_what_was_not_measured_has_no_answer():
    section = list(resilience.open_questions(lambda name: None))
    assert sum(resilience.UNASKED in part for part in section) == 2
