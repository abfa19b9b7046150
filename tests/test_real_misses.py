"""Where bits are lost: the parts add up to the bits per byte that are measured elsewhere."""

import math

import pytest

from dbyte.evaluate.bits import bits_per_byte, student_scores, teacher_nats
from dbyte.evaluate.score import Scorer
from dbyte_paper import real_misses
from dbyte_paper.real_misses import pieces_of, span_rows, spans, student_place_rows, teacher_place_rows

TEXTS = ["Mira lives in the house of the cat.", "naïve 😀 1 + 2", "The bird sees the river and sleeps."]


@pytest.fixture
def folders(student, teacher, tokenizer, tmp_path):
    """A student and its teacher on disk, each with the tokenizer."""
    for name, model in (("student", student), ("teacher", teacher)):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    return tmp_path / "student", tmp_path / "teacher"


def test_spans_lie_between_common_ends():
    given = [2, 4, 6, 9, 12], [-1.0, -1.0, -2.0, -3.0, -4.0]
    own = [2, 6, 7, 9, 11, 12], [-1.5, -5.0, -1.0, -4.0, -2.0, -2.5]
    assert spans(given, own) == [(0, 0.5), (2, 2.0), (1, 2.0), (1, 0.5)]
    assert spans(([2, 4, 6], [-1.0] * 3), ([1, 3, 6], [-2.0] * 3)) == [(3, 3.0)]


def bits(nats, pieces):
    return bits_per_byte([-value for value in nats], pieces)["value"]


def test_the_costs_of_all_spans_are_the_difference_of_both_readings(student, folders):
    pieces = pieces_of(folders[0], TEXTS, row_bytes=24)
    rows = span_rows(folders[0], TEXTS, row_bytes=24)
    scorer = Scorer(student, stage=1)
    told, own = (bits([score.nats for score in student_scores(scorer, pieces, boundaries=which)], pieces)
                 for which in ("tokenizer", "router"))
    assert abs(own - told) > 0.1 and sum(row["value"] for row in rows) == pytest.approx(own - told, rel=1e-5)
    assert {row["kind"] for row in rows} <= {*real_misses.SPANS} and all(row["n"] for row in rows)
    assert sum(row["share"] for row in rows) == pytest.approx(100)


def test_the_places_of_a_student_are_its_joint_bits(student, folders):
    pieces = pieces_of(folders[0], TEXTS, row_bytes=24)
    rows = student_place_rows(folders[0], TEXTS, row_bytes=24)
    scores = student_scores(Scorer(student, stage=2), pieces, boundaries="router")
    whole = bits([score.nats for score in scores], pieces)
    assert sum(row["value"] for row in rows) == pytest.approx(whole, rel=1e-5)
    assert sum(row["value"] > 0 for row in rows) >= 2


def test_the_places_of_a_teacher_are_its_tokens(teacher, folders):
    pieces = pieces_of(folders[1], TEXTS, row_bytes=24)
    rows = teacher_place_rows(folders[1], TEXTS, row_bytes=24)
    whole = bits_per_byte(teacher_nats(teacher, pieces), pieces)["value"]
    assert sum(row["value"] for row in rows) == pytest.approx(whole, rel=1e-4)
    assert rows[0]["value"] > 0 and math.isfinite(rows[0]["stderr"])
