"""Boundaries by kind, at spaces, by chunk length; Figure 3: each byte has its place, each number its counts."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TEXTS, make_student

from dbyte import presets
from dbyte.distill.losses import routed
from dbyte.evaluate import boundary_kinds as bk
from dbyte.evaluate import measure
from dbyte.evaluate.boundaries import Agreement, byte_rows
from dbyte.text.corpus import Corpus
from dbyte.text.packing import document, pack
from dbyte.text.perturb import perturb
from dbyte.text.spans import BOS, EOS
from dbyte_paper import chunk_view, tables


def one_row(token_bytes, text):
    whole = document(token_bytes.align(text), token_bytes)
    return pack([whole], row_bytes=len(whole))


@pytest.mark.parametrize(("text", "expected"), [
    ("ab c", ["inside a word", "before a space", "other white space"]),
    ("a.\n\nb", ["punctuation", "other white space", "other white space", "other white space"]),
    ("é 1", ["non-ASCII", "before a space", "other white space"]),
    ("a1é", ["digits", "non-ASCII", "non-ASCII"]),
    ("(1_", ["digits", "digits"]), ("a\t b", ["other white space", "other white space", "other white space"]),
])
def test_the_kind_is_the_first_that_fits(text, expected):
    byte_ids_BL = torch.tensor([list(text.encode())])
    assert [bk.KINDS[kind] for kind in bk.kinds(byte_ids_BL)[0, :-1].tolist()] == expected


def test_each_routed_byte_has_one_kind_and_counts_add_up_to_the_agreement(student, rows, batch, monkeypatch):
    monkeypatch.setattr("dbyte.evaluate.boundaries.BATCH_ROWS", 2)
    found = bk.tally(student, rows)
    whole = found.agreement()
    assert whole.hits and whole.false_cuts and whole.missed_cuts, "a student that is always right would prove nothing"
    true_BL = batch.boundary_BL & routed(batch.byte_ids_BL, batch.document_BL)
    assert whole.hits + whole.missed_cuts == int(true_BL.sum())
    assert whole.n == int(routed(batch.byte_ids_BL, batch.document_BL).sum())
    assert len(found.counts_PK4) == (batch.byte_ids_BL == BOS).sum(), "one line a piece"
    assert found.counts_PK4.sum(0)[:, 3].all(), "the texts of the tests have every kind"


def test_agreement_by_hand():
    found = Agreement(hits=6, false_cuts=2, missed_cuts=4, n=20)
    assert (found.precision, found.recall, found.f1) == (0.75, 0.6, pytest.approx(2 / 3)) and found.f1_stderr > 0


def test_chunks_cover_the_text_once_and_the_teachers_are_its_tokens(student, token_bytes):
    documents = [document(aligned, token_bytes) for aligned in token_bytes.align_batch(TEXTS)]
    rows = pack(documents, row_bytes=max(map(len, documents)) + 40)  # every piece whole, and padding
    found = bk.tally(student, rows)
    for lengths_PN in found.lengths_PN.values():
        covered = lengths_PN @ np.arange(lengths_PN.shape[1])
        assert sorted(covered) == sorted(len(one) - 2 for one in documents), "all bytes but BOS and EOS"
    tokens = sorted(len(one.token_ids) - 2 for one in documents)
    assert sorted(found.lengths_PN["teacher"].sum(1)) == tokens
    lengths = pd.DataFrame(bk.length_rows(found))
    assert lengths.groupby("who").value.sum().tolist() == pytest.approx([100, 100])


def by_hand():
    """Two pieces; (hits, false, missed, all) before a space 6 1 2 10, 3 0 1 5, inside words 2 3 4 20, 1 0 0 10."""
    counts_PK4 = np.zeros((2, len(bk.KINDS), 4), dtype=int)
    counts_PK4[:, bk.BEFORE_SPACE] = [[6, 1, 2, 10], [3, 0, 1, 5]]
    counts_PK4[:, bk.IN_WORD] = [[2, 3, 4, 20], [1, 0, 0, 10]]
    return bk.Tally(counts_PK4, {})


def test_kinds_by_hand():
    rows = {row["kind"]: row for row in bk.kind_rows(by_hand(), corpus="c", text="clean")}
    assert set(rows) == {"before a space", "inside a word", "all"}, "a kind without any cut has no row"
    space = rows["before a space"]
    assert (space["hits"], space["false_cuts"], space["missed_cuts"], space["n"]) == (9, 1, 3, 15)
    assert space["precision"] == pytest.approx(90) and space["recall"] == pytest.approx(75)
    assert space["value"] == pytest.approx(100 * 18 / 22) and space["corpus"] == "c"
    assert rows["all"]["n"] == 45 and rows["all"]["value"] == pytest.approx(100 * 24 / (24 + 4 + 7))


def test_space_bias_by_hand(monkeypatch):
    monkeypatch.setattr(bk, "FEWEST", 1)
    rows = {row["what"]: row for row in bk.space_rows(by_hand())}
    assert list(rows) == list(bk.SPACE_MEASURES)
    values = {what: row["value"] / 100 for what, row in rows.items()}
    # uncut by the teacher: 3 of 15 before a space, 26 of 45 anywhere... 10 - 8, 5 - 4; 20 - 6, 10 - 1
    assert values == pytest.approx({
        "router cuts": 10 / 15, "teacher cuts": 12 / 15, "router - teacher": -2 / 15,
        "recall beyond elsewhere": 9 / 12 - 3 / 7, "false cuts": 1 / 4, "false cuts beyond chance": 1 / 4 - 3 / 26})
    # pieces pull by (false - missed + 2/15 all) / 15: (-1 + 20/15) / 15 and (-1 + 10/15) / 15
    assert rows["router - teacher"]["stderr"] == pytest.approx(100 * math.sqrt(2 * 2 * (1 / 45) ** 2))
    assert rows["router cuts"]["threshold"] == bk.CONSISTENT and rows["router cuts"]["verdict"] == "opposite"
    assert rows["teacher cuts"]["verdict"] == "" and rows["router - teacher"]["verdict"] == "opposite"


def test_mean_lengths_by_hand():
    """Chunks of 1 and 3 bytes against one of 4 in the first piece, one of 2 on both sides in the second."""
    found = bk.Tally(np.zeros((2, len(bk.KINDS), 4), dtype=int), {
        "router": np.array([[0, 0, 0, 0, 1], [0, 0, 1, 0, 0]]), "teacher": np.array([[0, 1, 0, 1], [0, 0, 1, 0]])})
    values = {row["what"]: (row["value"], row["n"]) for row in bk.mean_rows(found)}
    assert values == {"router": (3, 2), "teacher": (2, 3), "router - teacher": (1, 3)}


def test_few_positions_show_nothing():
    rows = {row["what"]: row for row in bk.space_rows(by_hand())}
    assert math.isnan(bk.kind_rows(by_hand())[0]["stderr"]) and bk.kind_rows(by_hand())[0]["n"] < bk.FEWEST
    assert rows["router cuts"]["n"] < bk.FEWEST and {row["verdict"] for row in rows.values()} == {"", "not shown"}


def test_a_router_that_cuts_before_every_space_and_nowhere_else_is_shown_to(teacher, tokenizer, rows, monkeypatch):
    student = make_student(teacher, tokenizer)
    monkeypatch.setattr(student, "route", lambda encoded, ids, document: (bk.kinds(ids) == bk.BEFORE_SPACE).float())
    found = {row["what"]: row for row in bk.space_rows(bk.tally(student, rows))}
    assert found["router cuts"]["value"] == 100 and found["router cuts"]["verdict"] == "shown"
    assert found["recall beyond elsewhere"]["value"] == 100


def test_a_ratio_of_sums_has_the_error_of_its_clusters():
    assert bk.ratio_of_sums(([1, 1, 1, 0], [1, 1, 1, 1])).stderr == pytest.approx(math.sqrt(0.75 * 0.25 / 3))
    whole = bk.ratio_of_sums(([5, 0, 0], [5, 5, 5]))
    assert whole.value == pytest.approx(1 / 3) and whole.stderr == pytest.approx(1 / 3), "what comes together is one"
    assert math.isnan(bk.ratio_of_sums(([1], [2])).stderr)
    same = [3, 1, 2], [4, 4, 5]
    assert bk.ratio_of_sums(same, same).value == bk.ratio_of_sums(same, same).stderr == 0
    with pytest.raises(ValueError, match="under the bar"):
        bk.ratio_of_sums(([1.0], [0.0]))


@pytest.fixture
def measured(tmp_path, student, token_bytes, monkeypatch):
    """A Measurer of two documents, whose student and tokenizer are those of the tests."""
    documents = ("The cat sat on the mat. " * 3, "naïve cats, and the dog slept in the house")
    monkeypatch.setattr(measure, "RUNS", tmp_path)
    monkeypatch.setattr(measure, "heldout_corpus", lambda scale, name, seed: Corpus(name, "heldout", documents))
    monkeypatch.setattr(measure, "model_hash", lambda folder: "model")
    monkeypatch.setattr(measure, "_student", lambda folder, device: student)
    monkeypatch.setattr(measure, "_token_bytes", lambda folder: token_bytes)
    return measure.Measurer(presets.scale("smoke"), 0), documents


@pytest.mark.parametrize("noise", measure.TEXTS)
def test_the_truth_of_perturbed_text_is_its_own_tokens(measured, tmp_path, token_bytes, noise):
    measurer, documents = measured
    texts = [text if noise == "clean" else perturb(text, noise, 0) for text in documents]
    found = measurer.tally(tmp_path, "world", noise)
    tokens = sum(len(token_bytes.align(text).token_ids) for text in texts)
    assert found.lengths_PN["teacher"].sum() == tokens
    assert found.counts_PK4.sum((0, 1))[[0, 2]].sum() == tokens - len(texts), "the last byte's cut is not decided"
    again = measurer.tally(tmp_path, "world", noise)
    assert np.array_equal(again.counts_PK4, found.counts_PK4), "as kept"
    kept = {file.name for file in (tmp_path / "measured").iterdir()}
    assert len(kept) == 1 and measurer.passage(tmp_path, "world", noise)[0]["text"] == noise


def test_a_passage_holds_the_first_character_beyond_ascii_and_whole_words(measured, tmp_path):
    measurer, documents = measured
    assert bytes(row["byte"] for row in measurer.passage(tmp_path, "world")).decode() == documents[1]
    long = "a short line\n" + "many words — " * 20
    text = bk.passage_of(["ascii", long])
    assert long.split("\n")[1].startswith(text) and 100 < len(text) <= bk.PASSAGE and text.endswith(("words", "—"))


TRICKY = "<b>&amp; 'x' \"é\" 😀 中\n\ty</b>"


def tricky_rows(student, token_bytes, text=TRICKY):
    return pd.DataFrame(byte_rows(student, one_row(token_bytes, text), corpus="c", text="clean"))


def test_byte_rows_are_the_text_with_the_teachers_tokens(student, token_bytes):
    rows, aligned = tricky_rows(student, token_bytes), token_bytes.align(TRICKY)
    assert bytes(rows.byte).decode() == TRICKY and EOS not in set(rows.byte)
    assert rows.teacher.astype(bool).tolist() == aligned.boundary.tolist()
    assert rows.decided.tolist() == [1] * (len(rows) - 1) + [0] and rows.value.iloc[-1] == 1
    with pytest.raises(ValueError, match="found 2"):
        byte_rows(student, pack([document(token_bytes.align("ab"), token_bytes)] * 2, row_bytes=4))


def test_it_says_whose_boundary_it_is_and_marks_one_inside_a_character():
    rows = pd.DataFrame({"place": range(4), "byte": list("aéb".encode()), "value": [0.6, 0.9, 0.1, 1.0],
                         "teacher": [1, 0, 1, 1]})
    text = chunk_view.read(rows)
    assert list(text.label) == ["a", "é", "é", "b"] and list(text.start) == [0, 1, 1, 3]
    assert list(text.who) == [chunk_view.BOTH, chunk_view.ROUTER, chunk_view.TEACHER, chunk_view.BOTH]
    assert list(text.split) == [False, True, True, False]
    assert list(text.chunk) == [0, 1, 2, 2] and list(text.token) == [0, 1, 1, 2]
    assert chunk_view.tallied(text) == "chunks: router 3, teacher 3; boundaries of one alone: router 1, teacher 1"
    with pytest.raises(ValueError, match="all bytes of one text"):
        chunk_view.read(pd.concat([rows, rows]))


def test_tables_of_estimates_keep_the_order_and_show_no_number_for_a_missing_row():
    frame = pd.DataFrame([{"corpus": "c", "text": text, "kind": kind, "value": 50.0, "stderr": 1.0}
                          for text, kind in (("drop", "x"), ("clean", "x"), ("clean", "y"))])
    table = tables.estimates(frame, rows=["corpus", "kind"], columns="text", order=measure.TEXTS)
    assert list(table) == ["corpus", "kind", "clean", "drop"]
    assert table.values.tolist() == [["c", "x", "50.0 ± 1.0", "50.0 ± 1.0"], ["c", "y", "50.0 ± 1.0", ""]]
