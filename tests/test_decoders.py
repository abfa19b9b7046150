"""Table 4's decoders: rounds of equal bytes after one Stage 1, and a rule that ends them where little is gained."""

import dataclasses
import math
import re

import pytest
from test_curriculum import TOY

from dbyte.distill.curriculum import curriculum, run_steps
from dbyte.presets import SCALES, Ablation
from dbyte.text.corpus import load_corpus
from dbyte_paper import decoders, evidence
from dbyte_tasks.world.full import ALONE
from dbyte_tasks.world.world import NAMES

TINY = dataclasses.replace(TOY, ablation=Ablation(step_bytes=4_096, batch_rows=2, items=4, seeds=1, doses=(1.0,),
                                                  heldout_bytes=2_000))


def test_in_text_of_one_person_no_name_comes_as_a_surprise():
    documents = load_corpus(ALONE, max_bytes=60_000).documents
    names = [set(re.findall(rf"\b(?:{'|'.join(NAMES)})\b", text)) for text in documents]
    assert set().union(*names) == {NAMES[0]}
    assert sum("Question: How do you" in text for text in documents) > 5
    assert sum("####" in text for text in documents) > 20, "sums are worked out, which is what the claim is about"


@pytest.mark.parametrize("scale", [scale for scale in SCALES.values() if scale.name in ("smoke", "small", "gpu")],
                         ids=lambda scale: scale.name)
def test_rounds_give_both_decoders_as_much_and_continue_the_curriculums_stage_1(scale):
    jbp, mbp = (decoders.rounds_of(scale, name, 2) for name in decoders.DECODERS)
    size = min(round(scale.ablation.doses[0] * scale.ablation.step_bytes), scale.ablation.step_bytes)
    for steps in (jbp, mbp):
        assert [step.describe() for step in steps[:3]] == [step.describe() for step in curriculum(scale)[:3]]
        assert [step.train_bytes for step in steps[3:]] == [size] * 3
        assert len({step.name for step in steps}) == 6, "a round is a run of its own"
    assert [step.decoding for step in (jbp[3], mbp[3], jbp[4], mbp[4])] == [None, "mbp", None, None]


@pytest.mark.parametrize(("bits", "rounds", "left"), [
    ((1.0, 0.9, 0.8, 0.72, 0.1), 4, 10.0),  # it still falls when the rounds are used up
    ((1.0, 0.96, 0.5), 2, 4.0), ((1.0, 1.1, 0.5), 2, -10.0)])
def test_rounds_end_where_less_than_that_is_gained(bits, rounds, left):
    class Stub:
        def __init__(self, number):
            self.model_folder = number

    found = decoders.until_flat(lambda number: [Stub(number)], lambda number: {"value": bits[number - 1]})
    assert len(found) == rounds and decoders.fallen(found) == pytest.approx(left)
    assert math.isnan(decoders.fallen(found[:1])) and (decoders.fallen(found) < decoders.FLAT) == (left < 5)


def test_a_trained_decoder_reads_text_of_one_person_in_stage_2_alone():
    main = run_steps(TINY, curriculum(TINY)[:3], seed=0)
    once, twice = (decoders.train(TINY, "MBP", rounds, factor=3.0, seed=0) for rounds in (1, 2))
    assert [run.hash for run in once[:3]] == [run.hash for run in main]
    assert [run.hash for run in once] == [run.hash for run in twice[:5]] and len(twice) == 6
    assert once[3].config["data"] != once[2].config["data"] == main[2].config["data"]
    assert once[3].config["step"]["groups"][0]["rate"] == pytest.approx(
        3 * curriculum(TINY)[3].groups[0].rate), "the sweep is of Stage 2"
    choosing, reporting = evidence.halves(TINY, ALONE, seed=0)
    assert choosing and reporting and not {*choosing} & {*reporting}
    found = [(runs, decoders.own_bits(TINY, runs[-1].model_folder, reporting)) for runs in (once, twice)]
    rows = decoders.round_rows("MBP", found, ALONE)
    assert [row["train_bytes"] for row in rows] == [8_192, 12_288] and math.isnan(rows[0]["falling"])
    assert rows[1]["falling"] == pytest.approx(100 * (1 - rows[1]["value"] / rows[0]["value"]))
