"""Scores along a decoder's own cuts: exact, those of the forward, of any batch and threads; deviations by hand."""

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import make_student
from test_decoding import PROMPTS, best, looked_ahead, student_of, with_last
from test_shared_context import COMPILED

from dbyte.decode.generate import begin, generate
from dbyte.decode.sampling import Sampling
from dbyte.evaluate import own_cuts, settled_cuts, side_by_side
from dbyte.evaluate.adapters import StudentLM
from dbyte.evaluate.contexts_once import can_keep_contexts
from dbyte.evaluate.exposure import deviations
from dbyte.evaluate.mid_word import cuts, finished
from dbyte.evaluate.own_cuts import OwnCutsScorer, byte_law, walk
from dbyte.evaluate.scoring import Request, Score, shares
from dbyte.evaluate.settled_cuts import can_settle, settle
from dbyte.model.student import BYTES
from dbyte.native.library import compiler_here
from dbyte.native.stack import FusedStack
from dbyte.text.spans import BOS

REQUESTS = [Request(b"Hello there world", 5), Request(b"ab", 1), Request("é 😀x".encode(), 0), Request(b"a b c d e", 8),
            Request(b"Hello you", 5), Request(b"Hello", 4), Request(b"ax", 1), Request("é 😀y".encode(), 1)]
STORY = b"Where does Mira live? She lives in "
AT_ONCE = [*REQUESTS, Request(b"ab\xff", 1), Request(b"a\xfeb", 1),
           *(Request(STORY + city, start) for start in (0, 21, len(STORY)) for city in (b"Oslo", b"Osaka, Japan"))]


@pytest.fixture(params=["paper", "mbp", "mbp, split"])
def writes_bytes(request, teacher, tokenizer):
    return student_of(request.param, teacher, tokenizer)


def test_scores_of_all_next_bytes_add_up_to_one(writes_bytes):
    for context in (b"", b"The cat", "caf\u00e9".encode()):
        scores = OwnCutsScorer(writes_bytes).score([Request(context + bytes([b]), len(context)) for b in range(256)])
        assert sum(math.exp(score.nats) for score in scores) == pytest.approx(1.0, abs=1e-4)


def test_each_byte_is_scored_by_the_forward_along_the_cuts_of_its_past(writes_bytes):
    student = writes_bytes
    for request, walked in zip(REQUESTS, walk(student, REQUESTS), strict=True):
        ids, boundary = with_last(student, request.text[: request.start])
        for byte, nats, right, ended in zip(request.text[request.start :], walked.nats_L, walked.right_L,
                                            walked.ended_L, strict=True):
            out = student(ids, boundary)
            logits = out.byte_logits[0, -1]
            assert nats == pytest.approx(byte_law(logits[None])[0, byte].item(), abs=1e-3)
            assert right == (int(logits.argmax()) % BYTES == byte)
            ids = torch.cat([ids, torch.tensor([[byte]])], 1)
            expected = (bool(logits[byte + BYTES] >= logits[byte]) if student.second_head is None else
                        bool(looked_ahead(student, ids, best(out.second_logits[0, -1], BOS))))
            assert ended == expected
            boundary = torch.cat([boundary, torch.tensor([[ended]])], 1)


@pytest.mark.parametrize("compiled", COMPILED)
def test_scores_depend_neither_on_the_batch_nor_on_who_shares_a_context(writes_bytes, compiled):
    alone = [walk(writes_bytes, [request])[0] for request in REQUESTS]
    for rows in (2, 64):
        for found, expected in zip(walk(writes_bytes, REQUESTS, rows=rows, compiled=compiled), alone, strict=True):
            assert found.nats_L == pytest.approx(expected.nats_L, abs=1e-4) and found.ended_L == expected.ended_L


def test_what_is_written_greedily_scores_as_greedy(writes_bytes):
    for prompt in PROMPTS:
        (text,) = generate(writes_bytes, [prompt], max_new_bytes=12, as_bytes=True)
        if text:
            (score,) = OwnCutsScorer(writes_bytes).score([Request(prompt + text, len(prompt))])
            assert score.greedy and isinstance(score, Score)


def test_given_token_ends_and_readings_that_do_not_exist_are_refused(teacher, tokenizer, token_bytes):
    student = make_student(teacher, tokenizer, decoding="mbp")
    with pytest.raises(ValueError, match="no token ends"):
        OwnCutsScorer(student).score([Request(b"ab", 0, (1, 2))])
    with pytest.raises(ValueError, match="never occurs in UTF-8"):
        OwnCutsScorer(student).score([Request(b"a\xffb", 2)])
    with pytest.raises(ValueError, match="'own'"):
        StudentLM(student, token_bytes, stage=1, boundaries="own")
    with pytest.raises(ValueError, match="decoding='jbp'"):
        StudentLM(student, token_bytes, stage=2, boundaries="router")
    assert StudentLM(student, token_bytes, stage=2, boundaries="own")


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
        ours = {one.first // 2: (one.decided, one.deviating) for one in found if one.text == name}
        assert ours == counts and all(one.last == one.first + 1 for one in found)
    assert any(one.deviating for one in found) and all(one.stderr >= 0 for one in found)
    with pytest.raises(ValueError, match="shorter prompts"):
        deviations(student, [b"abc"], rows=8, prompt_bytes=6, new_bytes=12, seed=3)


def test_words_are_cut_at_every_byte_and_held_to_their_rest(writes_bytes):
    assert cuts(b"The cat.") == [(b"T", b"he"), (b"Th", b"e"), (b"The c", b"at"), (b"The ca", b"t")]
    texts = [b"ab cde", b"x yz"]
    (more,) = generate(writes_bytes, [b"ab c"], max_new_bytes=40, as_bytes=True)
    word = next((i for i, byte in enumerate(more) if not chr(byte).isalpha() or byte > 127), len(more))
    if word:  # a text whose word is what the student writes
        texts.append(b"ab c" + more[:word])
    expected = [int(generate(writes_bytes, [before], max_new_bytes=len(rest), as_bytes=True)[0] == rest)
                for text in texts for before, rest in cuts(text)]
    assert finished(writes_bytes, texts, stage=2, rows=2) == expected


# -- all bytes at once ------------------------------------------------------------------------------------------------


JBP, MBP = ("paper", "authors", "attention", "split"), ("mbp", "mbp, authors", "mbp, split")


@pytest.mark.parametrize("kind", MBP)
def test_cuts_of_mbp_are_settled_in_compiled_code_alone(teacher, tokenizer, kind):
    assert not can_settle(student_of(kind, teacher, tokenizer), compiled=False)


@pytest.mark.parametrize("kind, compiled", [
    *((kind, False) for kind in JBP),
    *(pytest.param(kind, True, marks=COMPILED[1].marks) for kind in JBP + MBP)])
def test_cuts_that_have_settled_are_those_of_reading_byte_by_byte(teacher, tokenizer, kind, compiled):
    student = student_of(kind, teacher, tokenizer)
    assert can_settle(student, compiled=compiled)
    needed, goes_on = set(), can_keep_contexts(student, compiled=compiled)
    for seed in range(3):
        torch.manual_seed(seed)
        torch.nn.init.normal_(student.byte_head.weight)
        torch.nn.init.normal_(student.byte_embedding.weight)
        walked = walk(student, AT_ONCE)
        for rounds in (1, 2, 64):
            found = settle(student, AT_ONCE, compiled=compiled, rounds=rounds, worth=0.0)
            needed.add(found.count(None))
            for one, expected in zip(found, walked, strict=True):
                if one is not None:
                    assert one.nats == pytest.approx(sum(expected.nats_L), abs=1e-4)
                    assert (one.ended_L, one.greedy) == (expected.ended_L[:-1], all(expected.right_L))
        assert None not in found
    assert needed == {0} if goes_on else len(needed) > 2  # some settle sooner than others, which are read on or left


@pytest.mark.parametrize("compiled", COMPILED)
def test_a_scorer_gives_the_scores_of_reading_byte_by_byte_in_any_batch(writes_bytes, compiled):
    walked = [sum(one.nats_L) for one in walk(writes_bytes, AT_ONCE)]
    for batch_bytes in (1, 100, 16384):
        scores = OwnCutsScorer(writes_bytes, batch_bytes=batch_bytes, compiled=compiled).score(AT_ONCE)
        assert [score.nats for score in scores] == pytest.approx(walked, abs=1e-4)


@pytest.mark.skipif(compiler_here() is None, reason="texts are read on in compiled code alone: not compared with "
                    "rounds until all has settled; install g++ to check it")
@pytest.mark.parametrize("kind", ["paper", "split", "mbp", "mbp, split"])
def test_texts_that_are_read_on_by_the_byte_are_not_read_from_their_beginnings(teacher, tokenizer, monkeypatch, kind):
    student, passed, read = student_of(kind, teacher, tokenizer), [], []
    student.core.config.max_position_embeddings = 1000
    torch.nn.init.normal_(student.byte_head.weight)
    torch.nn.init.normal_(student.byte_embedding.weight)
    requests = [*AT_ONCE, *(Request(STORY[:size] + b" Where is it?", size) for size in (1, 20, 21, 30))]
    expected = settle(student, requests, compiled=True, rounds=64, worth=0.0)
    step, read_on = FusedStack.step, settled_cuts.read_on
    monkeypatch.setattr(FusedStack, "step", lambda self, hidden_BD, *given, **options: (
        passed.append(len(hidden_BD)), step(self, hidden_BD, *given, **options))[1])
    monkeypatch.setattr(settled_cuts, "read_on", lambda student, left, rows: (
        read.extend(rows), read_on(student, left, rows))[1])
    monkeypatch.setattr(FusedStack, "prefill", None)
    monkeypatch.setattr("dbyte.evaluate.read_on.ROWS", 3)
    for rounds in (0, 1, 2):
        found = settle(student, requests, compiled=True, rounds=rounds, worth=0.0)
        assert [one.ended_L for one in found] == [one.ended_L for one in expected]
        assert [one.greedy for one in found] == [one.greedy for one in expected]
        assert [one.nats for one in found] == pytest.approx([one.nats for one in expected], abs=1e-4)
    bytes_read = sum(len(requests[row].text) - requests[row].start for row in read)
    assert len(read) > 3 and sum(passed) <= (1 if student.second_head is None else 3) * bytes_read


@pytest.mark.skipif(compiler_here() is None, reason="texts are read on in compiled code alone: when rounds end is not "
                    "checked; install g++ to check it")
@pytest.mark.parametrize("kind", ["paper", "mbp"])
def test_rounds_end_where_they_settle_little_and_are_left_out_in_the_next_batches(
    teacher, tokenizer, monkeypatch, kind
):
    student, read, asked = student_of(kind, teacher, tokenizer), [], []
    torch.nn.init.normal_(student.byte_head.weight)
    expected = [sum(one.nats_L) for one in walk(student, AT_ONCE)]
    once, ask = settled_cuts._Texts.read, own_cuts.settle
    monkeypatch.setattr(settled_cuts._Texts, "read", lambda self, rows, **options: (
        read.append(len(rows)), once(self, rows, **options))[1])
    settle(student, AT_ONCE, compiled=True, worth=1.1)
    assert len(read) == 1
    monkeypatch.setattr(own_cuts, "settle", lambda *given, **options: (
        asked.append(options["rounds"]), ask(*given, worth=1.1, **options))[1])
    monkeypatch.setattr(own_cuts, "WORTH_A_ROUND", 0.99)
    scores = OwnCutsScorer(student, batch_bytes=1, compiled=True).score(AT_ONCE)
    assert [score.nats for score in scores] == pytest.approx(expected, abs=1e-4)
    assert asked[0] > 0 and asked[-1] == 0


@pytest.mark.skipif(compiler_here() is None, reason="guesses are tried in passing in compiled code alone: what they "
                    "pass is not checked; install g++ to check it")
@pytest.mark.parametrize("kind", MBP)
def test_guesses_are_tried_without_a_second_reading_of_contexts(teacher, tokenizer, monkeypatch, kind):
    student, passed, read_tries = student_of(kind, teacher, tokenizer), [], FusedStack.read_tries
    monkeypatch.setattr(FusedStack, "read_tries", lambda self, hidden_TD, *given, **options: (
        passed.append(len(hidden_TD)), read_tries(self, hidden_TD, *given, **options))[1])
    settle(student, [Request(STORY + b"Oslo", len(STORY)), Request(STORY + b"Bern", len(STORY))], compiled=True)
    assert passed and max(passed) <= 2 * len(b"Oslo")


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
            (score,) = OwnCutsScorer(student).score([request])
            assert score.nats == pytest.approx(sum(walked.nats_L), abs=1e-4)
            compared.append(settle(student, [request])[0] is None)
    assert True in compared and False in compared


@pytest.mark.skipif(compiler_here() is None, reason="compiled code keeps contexts: not compared with rounds that keep "
                    "none; install g++ to check it")
@pytest.mark.parametrize("kind", ["paper", *MBP])
def test_rounds_that_go_on_from_kept_contexts_find_what_rounds_over_whole_texts_do(
    teacher, tokenizer, monkeypatch, kind
):
    student = student_of(kind, teacher, tokenizer)
    long = b"In the house by the sea lives a cat that sleeps all day. " * 3
    requests = [*AT_ONCE, *(Request(long[:size] + b" Where is it?", size) for size in (60, 61, 120, 170))]
    kept = settle(student, requests, compiled=True, rounds=64, worth=0.0)
    monkeypatch.setattr(settled_cuts, "can_keep_contexts", lambda *_, **__: False)
    whole = settle(student, requests, compiled=True, rounds=64, worth=0.0)
    assert [one.ended_L for one in kept] == [one.ended_L for one in whole]
    assert [one.nats for one in kept] == pytest.approx([one.nats for one in whole], abs=1e-4)


# -- pieces side by side ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(compiler_here() is None, reason="pieces are side by side in compiled code alone: not compared with "
                    "a whole; install g++ to check it")
def test_pieces_side_by_side_have_the_scores_of_the_whole(writes_bytes, monkeypatch):
    requests, took, score = [*AT_ONCE, *AT_ONCE[::-3]] * 2, set(), OwnCutsScorer._score
    monkeypatch.setattr(OwnCutsScorer, "_score", lambda self, some: (
        took.add(threading.get_ident()), score(self, some))[1])
    scorer, found = OwnCutsScorer(writes_bytes, batch_bytes=100, compiled=True), []
    for count in (1, 2, 5):
        for module in (own_cuts, side_by_side):
            monkeypatch.setattr(module, "parts_of", lambda pieces, count=count: min(pieces, count))
        found += [scorer.score(requests), scorer.score(requests[::-1])[::-1]]
    assert len(took) > 2
    for scores in found[1:]:
        assert [one.greedy for one in scores] == [one.greedy for one in found[0]]
        assert [one.nats for one in scores] == pytest.approx([one.nats for one in found[0]], abs=1e-4)


def test_shares_are_runs_of_neighbours_with_about_as_many_bytes_to_read():
    contexts = [bytes([65 + k]) * (10 + 5 * k) for k in range(20)]
    requests = [Request(context + b"%d" % answer, len(context)) for answer in range(4) for context in contexts]
    for count in (1, 2, 3):
        pieces = shares(requests + requests, count)
        assert [request for piece in pieces for request in piece] == sorted(requests, key=lambda one: one.text)
        read = [sum(len(context) for context in {one.text[: one.start] for one in piece}) for piece in pieces]
        assert len(read) == count and max(read) - min(read) <= 2 * max(map(len, contexts))
    assert shares(requests[19::20], 2) == [requests[19::20]], "choices of one long context are read together"


def test_threads_have_one_thread_each_and_are_put_back_even_after_an_error(monkeypatch):
    monkeypatch.setattr(side_by_side, "parts_of", lambda pieces: min(pieces, 2))
    before = torch.get_num_threads()

    def work(piece):
        time.sleep(0.02 * (piece == 1))  # the first is done last
        return piece, torch.get_num_threads() if piece < 9 else 1 // 0

    try:
        torch.set_num_threads(3)
        assert side_by_side.side_by_side(work, [1, 2, 3]) == [(1, 1), (2, 1), (3, 1)]
        assert side_by_side.side_by_side(work, [4]) == [(4, 3)] and side_by_side.side_by_side(work, []) == []
        with pytest.raises(ZeroDivisionError):
            side_by_side.side_by_side(work, [8, 9])
        with ThreadPoolExecutor(1) as later:
            assert (torch.get_num_threads(), later.submit(torch.get_num_threads).result()) == (3, 3)
    finally:
        torch.set_num_threads(before)
