"""Prefill == step, batched == alone, and scores that equal a plain computation."""

import math

import pytest
import torch
from conftest import VARIANTS, make_student

from dbyte.decode.generate import generate
from dbyte.decode.stream import ByteStream
from dbyte.evaluate.bits import bits_per_byte, heldout_pieces, student_nats, teacher_nats
from dbyte.evaluate.scoring import Request, Scorer
from dbyte.text.spans import BOS

PROMPTS = [b"", b"x", b"The cat sat", "Where does Mira live? 😀 caf\u00e9".encode()]


@pytest.mark.parametrize("variant", [name for name, sizes in VARIANTS.items() if sizes.get("decoding") != "mbp"])
@pytest.mark.parametrize("split", range(4))
def test_steps_equal_the_parallel_forward_for_rows_with_their_own_boundaries(teacher, tokenizer, variant, split):
    """Prompts of different lengths, cut at any byte: the joint head decides the flag of a prompt's last byte."""
    student = make_student(teacher, tokenizer, **VARIANTS[variant])
    prompts = [prompt[: len(prompt) * (split + 1) // 4] for prompt in PROMPTS]
    torch.manual_seed(split)
    new, ends = torch.randint(0, 250, (4, 7)), torch.rand(4, 7) < 0.4
    stream = ByteStream(student, prompts, new_bytes=7, byte_head=True, close_last=False)
    found = [stream.joint_logits_BK2]
    for i in range(7):
        stream.step(new[:, i], ends[:, i])
        found.append(stream.joint_logits_BK2)
    for row, prompt in enumerate(prompts):
        ids, n = torch.tensor([[BOS, *prompt, *new[row].tolist()]]), len(prompt) + 1
        boundary = student(ids[:, :n]).boundary
        if n > 1:
            logits = student(ids[:, : n - 1], boundary[:, :-1]).byte_logits[0, -1]
            boundary[0, -1] = logits[ids[0, n - 1] + 256] >= logits[ids[0, n - 1]]
        whole = student(ids, torch.cat([boundary, ends[row : row + 1]], 1))
        torch.testing.assert_close(torch.stack(found)[:, row], whole.byte_logits[0, n - 1 :], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", ["paper", "authors", "window"])
@pytest.mark.parametrize("stage", [1, 2])
def test_a_batch_writes_what_each_prompt_writes_alone(teacher, tokenizer, stage, variant):
    student = make_student(teacher, tokenizer, **VARIANTS[variant])
    together = generate(student, PROMPTS, max_new_bytes=24, stage=stage, as_bytes=True)
    alone = [generate(student, [p], max_new_bytes=24, stage=stage, as_bytes=True)[0] for p in PROMPTS]
    assert together == alone and all(len(text) <= 24 for text in together) and any(together)


def test_stage_1_writes_the_likeliest_token_of_the_parallel_forward(student):
    text = generate(student, [b"The cat"], max_new_bytes=40, stage=1, as_bytes=True)[0]
    ids = torch.tensor([[BOS, *b"The cat"]])
    boundary = student(ids).boundary
    boundary[0, -1] = True
    first = student(ids, boundary).token_logits[0, -1].argmax()
    assert text.startswith(student.token_text(int(first))) and text


def test_sampling_is_seeded_and_stops_cut(student):
    one, two, other = (generate(student, [b"a"], max_new_bytes=30, temperature=1.0, seed=s, as_bytes=True)[0]
                       for s in (1, 1, 2))
    assert one == two != other
    stop = one[5:6].decode("latin-1")
    if stop.isascii():
        cut = generate(student, [b"a"], max_new_bytes=30, temperature=1.0, seed=1, stop=[stop], as_bytes=True)[0]
        assert cut == one[: one.index(stop.encode())]


@pytest.mark.parametrize("wrong", [dict(prompts="text"), dict(prompts=[b"\xfe"]), dict(prompts=["a"], max_new_bytes=0),
                                   dict(prompts=["a"], temperature=-1.0)])
def test_wrong_requests_are_refused(student, wrong):
    with pytest.raises(ValueError):
        generate(student, **wrong)


def test_stage_1_scores_with_an_oracle_encoder_are_the_teachers(any_teacher, tokenizer, token_bytes, monkeypatch):
    student = make_student(any_teacher, tokenizer)
    pieces = heldout_pieces(["The cat lives in the house of Mira.", "naïve 😀 1 + 2"], token_bytes, row_bytes=200)
    tokens = iter([torch.tensor(p.token_ids[:-1].astype("int64"))
                   for p in sorted(pieces, key=lambda p: len(p.byte_ids))])

    def oracle(encoded_BLD, chunks):
        rows = [next(tokens) for _ in range(len(encoded_BLD))]
        return any_teacher.get_input_embeddings()(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True))

    monkeypatch.setattr(student, "chunk_embeddings", oracle)
    found = student_nats(Scorer(student, stage=1), pieces, boundaries="tokenizer")
    assert found == pytest.approx(teacher_nats(any_teacher, pieces), rel=1e-5)


def test_teacher_nats_are_the_models_own(any_teacher, token_bytes):
    pieces = heldout_pieces(["The cat lives in the house.", "x"], token_bytes, row_bytes=200)
    for piece, nats in zip(pieces, teacher_nats(any_teacher, pieces), strict=True):
        ids = torch.tensor(piece.token_ids[None, :-1].astype("int64"))  # without EOS
        loss = any_teacher(ids, labels=ids).loss
        assert nats == pytest.approx(loss.item() * (ids.shape[1] - 1), rel=1e-5)


@pytest.mark.parametrize("stage", [1, 2])
def test_scores_do_not_depend_on_the_batch(student, stage):
    requests = [Request(b"Hello there world", 5), Request(b"ab", 1), Request("é 😀x".encode(), 0),
                Request(b"a b c d e", 8)]
    alone = [Scorer(student, stage=stage).score([request])[0] for request in requests]
    for batch_bytes in (1, 40, 10_000):
        scores = Scorer(student, stage=stage, batch_bytes=batch_bytes).score(requests)
        for found, expected in zip(scores, alone, strict=True):
            assert found.nats == pytest.approx(expected.nats, abs=1e-4) and found.greedy == expected.greedy


def test_stage_2_scores_the_joint_by_hand(student):
    text = b"Hello world"
    out = student(torch.tensor([[BOS, *text]]))
    log = out.byte_logits[0].log_softmax(-1)
    joint = [log[i, byte + 256 * int(out.boundary[0, i + 1])].item() for i, byte in enumerate(text)]
    whole, score = Scorer(student, stage=2).score([Request(text, 0), Request(text, 4)])
    flag = joint[3] - torch.logaddexp(log[3, text[3]], log[3, text[3] + 256]).item()
    assert score.nats == pytest.approx(sum(joint[4:]) + flag, abs=1e-4) and score.folded_nats > score.nats
    assert whole.nats == pytest.approx(sum(joint), abs=1e-4)


@pytest.mark.parametrize("stage", [1, 2])
def test_scores_of_all_continuations_add_up_to_at_most_one(student, stage):
    """The router sees one byte ahead: a score that left its flag out would give more than one."""
    for context in (b"", b"The cat", b"a b", b"Hello wor"):
        scores = Scorer(student, stage=stage).score([Request(context + bytes([b]), len(context)) for b in range(192)])
        assert sum(math.exp(score.nats) for score in scores) <= 1 + 1e-4


def test_router_cuts_at_stage_1_become_tokens_that_spell_the_text(student):
    vocabulary = Scorer(student, stage=1).vocabulary
    for chunk in (b"The", b"Mira lives", "😀".encode()[:3], b"zq\x00"):
        pieces = vocabulary.split(chunk)
        assert b"".join(pieces) == chunk and all(piece in vocabulary.id_of for piece in pieces)


def test_bits_per_byte_by_hand(token_bytes):
    pieces = heldout_pieces(["abcd", "ab"], token_bytes, row_bytes=50)
    assert bits_per_byte([8 * math.log(2), 4 * math.log(2)], pieces).value == pytest.approx(2.0)
    assert bits_per_byte([8 * math.log(2), 4 * math.log(2)], pieces).stderr == pytest.approx(0.0)
    with pytest.raises(ValueError, match="held-out"):
        heldout_pieces([], token_bytes, row_bytes=50)
    with pytest.raises(ValueError, match="nothing to score"):
        Request(b"ab", 2)


def test_a_prompt_is_read_along_given_boundaries(student):
    prompts, ends = [b"The cat", b"", b"a b"], [[3, 7], [], [1, 3]]
    found = generate(student, prompts, max_new_bytes=12, stage=1, as_bytes=True, prompt_ends=ends)
    for prompt, places, text in zip(prompts, ends, found, strict=True):
        boundary = torch.zeros(1, len(prompt) + 1, dtype=torch.bool)
        boundary[0, [0, *places]] = True
        logits = student(torch.tensor([[BOS, *prompt]]), boundary).token_logits
        assert text.startswith(student.token_text(int(logits[0, len(places)].argmax()))[:12])


def test_a_student_with_two_byte_heads_is_refused_where_the_joint_law_is_needed(teacher, tokenizer):
    student = make_student(teacher, tokenizer, decoding="mbp")
    with pytest.raises(ValueError, match="decoding='jbp'"):
        Scorer(student, stage=2)
    with pytest.raises(ValueError, match="decoding='jbp'"):
        generate(student, ["a"], stage=2)
    assert generate(student, ["a"], stage=1, max_new_bytes=4)
