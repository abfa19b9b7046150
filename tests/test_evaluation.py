"""The adapter's texts and pieces, boundary agreement, what measurements are remembered, the README's generated part."""

import pytest
import torch
from conftest import make_student

from dbyte import presets
from dbyte.distill.losses import routed
from dbyte.evaluate import measure
from dbyte.evaluate.boundaries import Agreement
from dbyte.evaluate.boundary_kinds import tally
from dbyte.evaluate.lm import StudentLM
from dbyte.report.page import BEGIN, END, with_numbers
from dbyte.tasks import minibench


class Ask:
    """A harness request: only its arguments are read."""

    def __init__(self, *args):
        self.args = args


@pytest.fixture
def tokens_lm(student, token_bytes):
    return StudentLM(student, token_bytes, stage=1, boundaries="tokenizer")


def test_trailing_spaces_move_to_the_continuation_and_joins_that_merge_tokens_are_scored(tokens_lm):
    moved, plain = tokens_lm.loglikelihood([Ask("The cat ", "sat"), Ask("The cat", " sat")])
    assert moved == pytest.approx(plain, abs=1e-5)
    pairs = [("o", "w"), ("a", "b"), ("", "x"), ("The ca", "t"), ("#", "#")]
    assert all(nats < 0 for nats, _ in tokens_lm.loglikelihood([Ask(*pair) for pair in pairs]))


def test_the_scored_tokens_are_the_harness_own(tokens_lm, token_bytes):
    """The tokens of the text after those of the context, as in the harness's Hugging Face adapter."""
    context, continuation = "The cat sat on", " the mat"
    request = tokens_lm._requests([(context, continuation)])[0]
    whole, before = (token_bytes.align(text).token_ids for text in (context + continuation, context))
    text = b"".join(token_bytes.token_bytes[token] for token in whole[len(before):].tolist())
    assert request.text[request.start:] == text


@pytest.mark.parametrize("stage, boundaries", [(1, "tokenizer"), (2, "router")])
def test_rolling_adds_up_the_pieces_of_a_long_text(student, token_bytes, stage, boundaries):
    lm = StudentLM(student, token_bytes, stage=stage, boundaries=boundaries)
    text = "The cat sat on the mat, and the dog slept. " * 40
    pieces = lm._pieces(text)
    assert b"".join(piece.text for piece in pieces) == text.encode() and len(pieces) > 1
    total = lm.loglikelihood_rolling([Ask(text)])[0]
    assert total == pytest.approx(sum(lm.scorer.score([piece])[0].nats for piece in pieces), rel=1e-5)


def test_generation_ends_at_a_stop_and_at_the_limit(student, token_bytes):
    lm = StudentLM(student, token_bytes, stage=2, rows=2)
    asks = [Ask("The cat", {"until": [], "max_gen_bytes": 9}), Ask("x", {"until": ["e"], "max_gen_toks": 3}),
            Ask("The", {"until": [], "max_gen_bytes": 9})]
    texts = lm.generate_until(asks)
    alone = [lm.generate_until([ask])[0] for ask in asks]
    assert texts == alone and "e" not in texts[1]


@pytest.mark.parametrize("stage, boundaries", [(3, "router"), (2, "tokenizer"), (1, "teacher")])
def test_a_reading_that_does_not_exist_is_refused(student, token_bytes, stage, boundaries):
    with pytest.raises(ValueError, match="expected stage 1"):
        StudentLM(student, token_bytes, stage=stage, boundaries=boundaries)


def test_agreement_by_hand():
    found = Agreement(hits=6, false_cuts=2, missed_cuts=4, n=20)
    assert (found.precision, found.recall, found.f1) == (0.75, 0.6, pytest.approx(2 / 3)) and found.f1_stderr > 0


def test_agreement_counts_only_what_the_router_decides(teacher, tokenizer, rows, monkeypatch):
    student, batch = make_student(teacher, tokenizer), rows.batch(range(len(rows)))
    monkeypatch.setattr(student, "route", lambda encoded, ids, document: torch.ones_like(ids, dtype=torch.float32))
    counted = routed(batch.byte_ids_BL, batch.document_BL)
    monkeypatch.setattr("dbyte.evaluate.boundaries.BATCH_ROWS", 2)
    found = tally(student, rows).agreement()
    assert found.n == counted.sum() and found.hits == (batch.boundary_BL & counted).sum() and found.missed_cuts == 0


def test_the_readme_takes_a_generated_part_between_its_markers():
    text = f"before\n{BEGIN}\nold\n{END}\nafter"
    assert with_numbers(text, "new") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter"
    with pytest.raises(ValueError, match="once each"):
        with_numbers("no markers", "new")


@pytest.mark.parametrize("reading, apart", [("stage2/router", True), ("stage1/router", True), ("token", False)])
def test_what_compiled_steps_wrote_is_remembered_apart_and_scores_are_not(reading, apart, monkeypatch, tmp_path):
    keys, answered = {}, dict(column="", metric="", accuracy=0.0, stderr=0.0, n=0, chance=0.0, correct=[],
                              items_hash="")
    for compiler in ("c++", None):
        monkeypatch.setattr(measure, "find_compiler", lambda compiler=compiler: compiler)
        monkeypatch.setattr(measure.Measurer, "_known",
                            lambda self, key, *rest: keys.setdefault(key["column"], []).append(key) or answered.copy())
        for name in ("GSM8K", "PIQA"):
            measure.Measurer(presets.scale("smoke"), 0).column(tmp_path, reading, minibench.EVERY[name], items=2)
    assert (keys["GSM8K"][0] != keys["GSM8K"][1]) == apart and keys["PIQA"][0] == keys["PIQA"][1]
