"""Scores along a decoder's own boundaries: exact, those of the forward, of any batch; deviations by hand."""


import pytest
import torch
from conftest import make_student
from test_decoding import best, looked_ahead, student_of, with_last
from test_shared_prefix import COMPILED

from dbyte.decode.generate import begin, generate
from dbyte.decode.sampling import Sampling
from dbyte.evaluate.exposure import deviations, finished, word_splits
from dbyte.evaluate.score import Request, Scorer
from dbyte.evaluate.score_own_boundaries import OwnBoundariesScorer, byte_log_probs, settle, walk
from dbyte.model.student import BYTES
from dbyte.native import engine_for
from dbyte.text.spans import BOS

REQUESTS = [Request(b"Hello there world", 5), Request(b"ab", 1), Request("é 😀x".encode(), 0), Request(b"a b c d e", 8),
            Request(b"Hello you", 5), Request(b"Hello", 4), Request(b"ax", 1), Request("é 😀y".encode(), 1)]
STORY = b"Where does Mira live? She lives in "
AT_ONCE = [*REQUESTS, Request(b"ab\xff", 1), Request(b"a\xfeb", 1),
           *(Request(STORY + city, start) for start in (0, 21, len(STORY)) for city in (b"Oslo", b"Osaka, Japan"))]


@pytest.fixture(params=["paper", "mbp", "mbp, split"])
def writes_bytes(request, teacher, tokenizer):
    return student_of(request.param, teacher, tokenizer)


def test_each_byte_is_scored_by_the_forward_along_the_boundaries_of_its_past(writes_bytes):
    student = writes_bytes
    for request, walked in zip(REQUESTS, walk(student, REQUESTS), strict=True):
        ids, boundary = with_last(student, request.text[: request.start])
        for byte, nats, right, ended in zip(request.text[request.start :], walked.nats_L, walked.right_L,
                                            walked.ended_L, strict=True):
            out = student(ids, boundary)
            logits = out.byte_logits[0, -1]
            log_X = byte_log_probs(logits[None])[0]
            assert nats == pytest.approx(log_X[byte].item(), abs=1e-3)
            assert log_X.exp().sum().item() == pytest.approx(1.0, abs=1e-4)
            assert right == (int(logits.argmax()) % BYTES == byte)
            ids = torch.cat([ids, torch.tensor([[byte]])], 1)
            expected = (bool(logits[byte + BYTES] >= logits[byte]) if student.second_head is None else
                        bool(looked_ahead(student, ids, best(out.second_logits[0, -1], BOS))))
            assert ended == expected
            boundary = torch.cat([boundary, torch.tensor([[ended]])], 1)


def test_given_token_ends_and_a_joint_score_of_two_byte_heads_are_refused(teacher, tokenizer):
    student = make_student(teacher, tokenizer, decoding="mbp")
    with pytest.raises(ValueError, match="no token ends"):
        OwnBoundariesScorer(student, stage=2).score([Request(b"ab", 0, (1, 2))])
    with pytest.raises(ValueError, match="never occurs in UTF-8"):
        OwnBoundariesScorer(student, stage=2).score([Request(b"a\xffb", 2)])
    with pytest.raises(ValueError, match="decoding='jbp'"):
        Scorer(student, stage=2)


def test_deviations_are_those_of_a_count_by_hand(writes_bytes):
    student = writes_bytes
    texts = [b"The cat sat on the mat, and", b"Mira lives in Oslo now", b"short", b"1 + 2 = 3. 1 + 2 = 3."]
    found = deviations(student, texts, rows=8, prompt_bytes=6, new_bytes=12, seed=3)
    texts = [text for text in texts if len(text) > 6]
    writer = begin(student, [text[:6] for text in texts], max_new_bytes=12, sampling=Sampling(1.0, seed=3),
                   valid_utf8=False).run()
    given = walk(student, [Request(text[:18], 6) for text in texts])
    for name, rows in (("given", [(text[6:18], walked.ended_L) for text, walked in zip(texts, given, strict=True)]),
                       ("written", list(zip(writer.written, writer.ended, strict=True)))):
        counts = {}
        for text, (new, ended) in zip(texts, rows, strict=True):
            for i in range(len(ended) - 1):
                ids = torch.tensor([[BOS, *text[:6], *new[: i + 2]]])
                wrong = ended[i] != bool(student(ids).boundary[0, -2])
                decided, deviating = counts.get(i // 2, (0, 0))
                counts[i // 2] = decided + 1, deviating + wrong
        ours = {one["first"] // 2: (one["decided"], one["deviating"]) for one in found if one["text"] == name}
        assert ours == counts and all(one["last"] == one["first"] + 1 for one in found)
    assert any(one["deviating"] for one in found) and all(one["squares"] >= 0 for one in found)
    with pytest.raises(ValueError, match="shorter prompts"):
        deviations(student, [b"abc"], rows=8, prompt_bytes=6, new_bytes=12, seed=3)


def test_words_are_cut_at_every_byte_and_held_to_their_rest(writes_bytes):
    assert word_splits(b"The cat.") == [(b"T", b"he"), (b"Th", b"e"), (b"The c", b"at"), (b"The ca", b"t")]
    texts = [b"ab cde", b"x yz"]
    (more,) = generate(writes_bytes, [b"ab c"], max_new_bytes=40, as_bytes=True)
    word = next((i for i, byte in enumerate(more) if not chr(byte).isalpha() or byte > 127), len(more))
    if word:  # a text whose word is what the student writes
        texts.append(b"ab c" + more[:word])
    expected = [int(generate(writes_bytes, [before], max_new_bytes=len(rest), as_bytes=True)[0] == rest)
                for text in texts for before, rest in word_splits(text)]
    assert finished(writes_bytes, texts, stage=2, rows=2) == expected


# -- all bytes at once ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("kind", ["paper", "authors", "attention", "split"])
def test_boundaries_that_have_settled_are_those_of_reading_byte_by_byte(teacher, tokenizer, kind, compiled):
    """Students with large random heads change their minds in many rounds, each at its own places."""
    student = student_of(kind, teacher, tokenizer)
    scorer, unsettled = Scorer(student, stage=2, engine=engine_for(student, compiled)), set()
    for seed in range(3):
        torch.manual_seed(seed)
        torch.nn.init.normal_(student.byte_head.weight)
        torch.nn.init.normal_(student.byte_embedding.weight)
        walked = walk(student, AT_ONCE)
        for rounds in (1, 2, 64):
            found = settle(scorer.read(AT_ONCE), AT_ONCE, rounds=rounds)
            unsettled.add(found.count(None))
            for score, expected in zip(found, walked, strict=True):
                if score is not None:
                    assert score.nats == pytest.approx(sum(expected.nats_L), abs=1e-4)
                    assert score.greedy == all(expected.right_L)
        assert None not in found
    assert len(unsettled) > 2, "some texts settle sooner than others"


@pytest.mark.parametrize("compiled", COMPILED)
def test_scores_are_those_of_each_text_read_alone_byte_by_byte_in_any_batch(writes_bytes, compiled, monkeypatch):
    torch.nn.init.normal_(writes_bytes.byte_head.weight)  # so that some texts are left after two rounds
    monkeypatch.setattr(settle, "__kwdefaults__", {"rounds": 2})
    alone = [walk(writes_bytes, [request])[0] for request in AT_ONCE]
    walked = [sum(one.nats_L) for one in alone]
    engine = engine_for(writes_bytes, compiled)
    for rows in (2, 64):
        found = walk(writes_bytes, AT_ONCE, rows=rows, engine=engine)
        assert [one.ended_L for one in found] == [one.ended_L for one in alone]
        assert [sum(one.nats_L) for one in found] == pytest.approx(walked, abs=1e-4)
    for batch_bytes in (100, 16384):
        scores = OwnBoundariesScorer(writes_bytes, stage=2, batch_bytes=batch_bytes, engine=engine).score(AT_ONCE)
        assert [score.nats for score in scores] == pytest.approx(walked, abs=1e-4)
        assert [score.greedy for score in scores] == [all(one.right_L) for one in alone]


def test_a_guess_of_more_chunks_than_the_core_has_positions_refuses_no_text(teacher, tokenizer):
    student, compared = make_student(teacher, tokenizer), []
    for positions in range(3, 7):
        student.core.config.max_position_embeddings = positions
        for size in range(3, 12):
            request = Request(b"Hello there"[:size], 2)
            try:
                (walked,) = walk(student, [request])
            except (ValueError, IndexError):
                continue  # more chunks than positions
            (score,) = OwnBoundariesScorer(student, stage=2).score([request])
            assert score.nats == pytest.approx(sum(walked.nats_L), abs=1e-4)
            compared.append(settle(Scorer(student, stage=2).read([request]), [request])[0] is None)
    assert True in compared and False in compared
