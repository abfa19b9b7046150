"""Bounds of many rows over one: two rows by hand, one row is itself, every weight that a step reads is counted once."""

import pytest
from conftest import make_student, make_teacher

from dbyte.plan.traffic import chance_of_a_chunk, longest_chunk, rows_over_one, traffic_text, weights_read


def test_two_rows_by_hand():
    assert chance_of_a_chunk(2, 2.0) == 3 / 4
    assert longest_chunk(2, 2.0) == pytest.approx(8 / 3)  # 2 + 2 - the expected shorter one, 4/3
    apart, waiting = rows_over_one(2, 1.0, 2.0, 2.0)
    assert apart == pytest.approx(2 * (1 + 2 / 2) / (1 + 2 * 3 / 4))
    assert waiting == pytest.approx(2 * (1 + 2 / 2) / ((8 / 3 + 2) / 2))


@pytest.mark.parametrize("m", [1.0, 1.5, 4.3])
def test_one_row_is_once_itself_and_rows_that_close_together_are_as_many_times(m):
    assert longest_chunk(1, m) == pytest.approx(m)
    assert rows_over_one(1, 3.0, 7.0, m) == pytest.approx((1, 1))
    assert rows_over_one(16, 3.0, 7.0, 1.0) == pytest.approx((16, 16))
    assert rows_over_one(16, 3.0, 0.0, m)[0] == pytest.approx(16)
    assert rows_over_one(16, 0.0, 7.0, m)[1] == pytest.approx(16)


def test_what_a_stage_2_step_does_not_read_is_not_counted():
    student = make_student(make_teacher())
    unread = [student.byte_embedding, student.token_head, student.router]
    rest = sum(weight.numel() for part in unread for weight in part.parameters()) + student.null_E.numel()
    assert sum(weights_read(student)) + rest == sum(weight.numel() for weight in student.parameters())
    assert weights_read(student)[1] > sum(weight.numel() for weight in student.core.parameters())


def test_the_papers_students_are_listed():
    text = traffic_text(16)
    assert "Llama-3.2-3B" in text and "OLMo-2-0425-1B" in text
