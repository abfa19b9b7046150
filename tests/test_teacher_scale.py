"""Table 10 in bits: differences by hand on the same pieces, teachers by name, what is kept above chance."""

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from dbyte.evaluate.harness import ColumnResult
from dbyte.presets import SCALES, Teachers
from dbyte_paper import evidence, teacher_scale, variants
from dbyte_paper.variants import LARGER, OTHER_FAMILY, OWN_SIZE

SMALL = SCALES["small"]


def test_sizes_ascend_and_all_but_the_other_family_share_core_and_step_1_1():
    shapes = variants.teacher_shapes(SMALL)
    assert list(shapes) == [OWN_SIZE, "between 1", LARGER, OTHER_FAMILY] and shapes[LARGER] == SMALL.teacher
    own, between, larger, other = variants.teachers(SMALL)
    assert [row.name for row in (own, between, larger, other)] == list(shapes)
    assert own.teacher == between.teacher == larger.teacher == shapes[OWN_SIZE]
    assert other.teacher == SMALL.teachers.other
    assert (own.predictions, between.predictions, larger.predictions) == (None, shapes["between 1"], shapes[LARGER])
    assert len({row.steps for row in (own, between, larger, other)}) == 1
    assert list(variants.teacher_shapes(SCALES["hub"])) == [OWN_SIZE, LARGER, OTHER_FAMILY]
    with pytest.raises(ValueError, match="sizes compares several"):
        dataclasses.replace(SMALL.teachers, sizes=SMALL.teachers.sizes[:1])
    assert Teachers("a", "b", "c").sizes == ()


def bits(*nats):
    return {"value": sum(nats), "stderr": 0.1, "n": len(nats), "nats_P": list(nats)}


def test_more_bits_are_of_the_same_pieces_and_say_whose_teacher_is_better():
    """By hand: 11 nats for 10 are 10 % more; teachers of 12 and 10 nats: the small one needs 20 % more."""
    known = {(Path("own"), teacher_scale.ALONG): bits(4.0, 6.0), (Path("larger"), teacher_scale.ALONG): bits(5.0, 6.0),
             (Path("t"), "token"): bits(5.0, 7.0), (Path("T"), "token"): bits(4.0, 6.0)}
    read = teacher_scale.Reader(SMALL, (), known)
    trained = {name: [[SimpleNamespace(model_folder=Path(folder))]]
               for name, folder in ((OWN_SIZE, "own"), (LARGER, "larger"), (OTHER_FAMILY, "none"))}
    teachers = {OWN_SIZE: Path("t"), LARGER: Path("T"), OTHER_FAMILY: Path("t")}
    rows = teacher_scale.more_rows(read, teachers, trained, "pydocs")
    assert {row["what"]: round(row["value"], 6) for row in rows} == {
        "larger - own size": 10.0, "teachers, own size - larger": 20.0, "own size - its teacher": -16.666667}
    arms = dict.fromkeys(trained, {"train_bytes": 5, "rate": 3.0, "sweep": evidence.SWEEP})
    del trained[OTHER_FAMILY]
    rows = {row["model"]: row for row in teacher_scale.bits_rows(read, teachers, trained, "pydocs", arms=arms,
                                                                 falling={OWN_SIZE: 1.5, LARGER: 1.5})}
    assert rows[LARGER]["value"] == 11 and rows[LARGER]["falling"] == 1.5 and rows["teacher, larger"]["sweep"] == ""
    assert math.isnan(rows["teacher, own size"]["train_bytes"])


def test_what_is_kept_is_printed_above_chance_too_and_names_the_tokenizers_policy():
    def column(right):
        answers = (1,) * right + (0,) * (100 - right)
        return {"PIQA": ColumnResult("PIQA", "acc", right / 100, 0.0, 100, 0.5, answers, "")}

    shapes = variants.teacher_shapes(SMALL)
    rows = {row["model"]: row for row in teacher_scale.kept_rows(
        {OWN_SIZE: [column(70)], LARGER: [column(80)], OTHER_FAMILY: [column(60)]},
        {OWN_SIZE: column(90), OTHER_FAMILY: column(50)}, shapes)}
    assert rows[OWN_SIZE]["value"] == pytest.approx(100 * 70 / 90) and rows[LARGER]["value"] == pytest.approx(8000 / 90)
    assert rows[OWN_SIZE]["above_chance"] == pytest.approx(50), "20 of 40 points"
    assert math.isnan(rows[OTHER_FAMILY]["above_chance"]), "its teacher is at chance"
    assert {row["tokenizer"] for row in rows.values()} == {"1024 tokens of world"}
    assert teacher_scale.policy("meta-llama/Llama-3.2-1B") == "meta-llama/Llama-3.2-1B"


def test_real_text_is_none_of_the_built_in_worlds():
    assert evidence.real_text(SMALL) == "pydocs"
    with pytest.raises(ValueError, match="built-in world alone"):
        evidence.real_text(dataclasses.replace(SMALL, corpora=SMALL.corpora[:1]))
