"""What is timed: every decoder writes as much as was asked, the teacher's bytes are its tokens', EOS ends nothing."""

import time

import pytest
import torch
from conftest import make_student

from dbyte_paper.speed import Output, rates, student_writes, teacher_writes

PROMPTS = [b"The cat sat", b"Mira lives in", b"x"]


@pytest.mark.parametrize("stage, decoding", [(1, "jbp"), (2, "jbp"), (2, "mbp")])
def test_students_write_as_many_bytes_as_asked_whatever_they_would_end(teacher, tokenizer, stage, decoding):
    student = make_student(teacher, tokenizer, decoding=decoding)
    with torch.no_grad():  # EOS would be the likeliest by far
        for head, symbols in ((student.byte_head, [255, 511]), (student.token_head, [0, 1])):
            head.weight[[symbol for symbol in symbols if symbol < len(head.weight)]] *= 50
    started = time.perf_counter()
    wrote = student_writes(student, PROMPTS, 20, stage=stage)()
    assert 0 < wrote.reading < time.perf_counter() - started
    assert wrote.text_bytes == 20 * len(PROMPTS) and 0 < wrote.positions <= wrote.text_bytes
    assert student_writes(student, PROMPTS, 20, stage=stage)() == wrote


def test_a_teachers_bytes_are_those_of_the_tokens_that_it_wrote(teacher, token_bytes):
    wrote = teacher_writes(teacher, token_bytes, PROMPTS, 30)()
    tokens = 30 * sum(len(token_bytes.align(p.decode()).token_ids) + 1 for p in PROMPTS) // sum(map(len, PROMPTS))
    assert wrote.positions == tokens * len(PROMPTS)
    alone = teacher_writes(teacher, token_bytes, PROMPTS[:1], 30)()
    ids = torch.tensor([[token_bytes.bos_token_id, *token_bytes.align(PROMPTS[0].decode()).token_ids.tolist()]])
    total = 0
    for _ in range(alone.positions):
        logits = teacher(ids).logits[0, -1].clone()
        logits[token_bytes.eos_token_id] = float("-inf")
        ids = torch.cat([ids, logits.argmax().view(1, 1)], 1)
        total += len(token_bytes.token_bytes[int(ids[0, -1])])
    assert alone.text_bytes == total


def test_rates_are_medians_after_an_unmeasured_round():
    called = []
    found = rates({"one": lambda: called.append(1) or Output(10, 1), "two": lambda: Output(0, 1)}, rounds=3)
    assert len(called) == 4 and found["one"][0] > 0 and found["two"] == (0.0, 0.0)
