"""Samples for on-policy distillation: they are what `generate` writes, and degenerate ones are limited."""

import pytest
import torch
from conftest import make_student

from dbyte.decode.generate import generate
from dbyte.decode.trajectories import COPIES, REPEATED_BYTES, repetition, sample, student_writes, teacher_writes
from dbyte.decode.utf8 import state_after
from dbyte.text.spans import EOS

PROMPTS = [b"The cat", b"", "naïve café".encode(), b"Where does Mira live?"]
HOW = dict(new_bytes=40, temperature=1.0, seed=3)
TEXTS = [b"", b"a", b"\xc3", b"\xa9", b"lo", b"xy ", b"\xa9xy "]  # token 0 is EOS


def test_a_student_writes_the_tokens_of_the_text_that_generate_writes(any_student):
    if not any_student.config.token_table_bytes:
        pytest.skip("a student without a table of tokens writes none")
    wanted = generate(any_student, PROMPTS, max_new_bytes=40, temperature=1.0, seed=3, stage=1, as_bytes=True,
                      valid_utf8=True)
    texts = any_student.token_texts()
    for found, text in zip(student_writes(any_student, PROMPTS, **HOW), wanted, strict=True):
        ended = found.text.endswith(bytes([EOS]))
        assert text == found.text[:-1] if ended else text.startswith(found.text)
        assert found.text == b"".join(texts[token] or bytes([EOS]) for token in found.token_ids)
        assert [sum(len(texts[token]) or 1 for token in found.token_ids[: k + 1])
                for k in range(len(found.token_ids))] == list(found.ends)


def test_a_row_is_written_as_it_would_be_alone_and_equal_prompts_differ(teacher, tokenizer):
    student = make_student(teacher, tokenizer)
    prompts = [*PROMPTS, PROMPTS[0]]
    together = student_writes(student, prompts, **HOW)
    assert [student_writes(student, [prompt], **HOW)[0] for prompt in PROMPTS] == together[:-1]
    assert student_writes(student, [PROMPTS[0]], **HOW, repeats=[1]) == together[-1:] != together[:1]


def is_utf8(text):
    """Whether these bytes begin a text: its last character may be broken off."""
    try:
        state_after(text)
    except ValueError:
        return False
    return True


def test_the_teacher_writes_as_it_does_without_cache_and_padding(teacher, tokenizer, token_bytes):
    student = make_student(teacher, tokenizer)
    prompts = [[token_bytes.bos_token_id, *token_bytes.align(text.decode()).token_ids.tolist()] for text in PROMPTS]
    texts = student.token_texts()
    together = teacher_writes(teacher, student, prompts, **HOW)
    assert together == [teacher_writes(teacher, student, [prompt], **HOW)[0] for prompt in prompts]
    greedy = teacher_writes(teacher, student, prompts, new_bytes=40, temperature=0.0, seed=0)
    for prompt, found in zip(prompts, greedy, strict=True):
        for k, token in enumerate(found.token_ids):  # no likelier token keeps the text UTF-8
            with torch.inference_mode():
                logits_V = teacher(torch.tensor([prompt + list(found.token_ids[:k])])).logits[0, -1]
            text = b"".join(texts[each] for each in found.token_ids[:k])
            for better in (logits_V > logits_V[token] + 1e-4).nonzero()[:, 0].tolist():
                assert not is_utf8(text + (texts[better] or bytes([EOS]))), better


@pytest.mark.parametrize("tokens, text, kind", [
    ([0], b"\xff", "empty"), ([4, 5, 0], b"loxy \xff", ""), ([4, 5, 4], b"loxy lo", "endless"),
    ([4, 2, 3, 0], "loé".encode() + b"\xff", ""), ([4, 2], b"lo", "endless"), ([4, 4, 4, 2, 6], b"lololo", "endless"),
    ([4] * 6, b"lolololol"[:8], "endless"),
    ([5] * 12 + [0], b"xy " * 8, "repeating"), ([4, *[5] * 13], b"lo" + b"xy " * 8, "repeating"), ([], b"", "endless"),
])
def test_a_degenerate_sample_is_named_and_limited(tokens, text, kind):
    found = sample(tokens, TEXTS, limit=50 if kind == "repeating" else 9)
    assert (found.text, found.kind) == (text, kind) and found.token_ids == tuple(tokens[: len(found.ends)])
    assert (found.ends[-1] if found.ends else 0) == len(text)


@pytest.mark.parametrize("text, kept", [
    (b"no loop here at all, is there", None), (b"." * 23, None), (b"." * 200, REPEATED_BYTES),
    (b"so: " + b"abcdefgh" * 9, 4 + 8 * COPIES), (b"abcdefgh" * (COPIES - 1), None), (b"", None),
])
def test_a_repetition_is_kept_up_to_some_copies(text, kept):
    assert repetition(text) == kept
