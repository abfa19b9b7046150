"""Bytes from a teacher with other tokens: the divergence by hand, its place, and who is asked."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import make_student, make_teacher

from dbyte.distill import losses
from dbyte.distill.teacher import train_tokenizer
from dbyte.distill.terms import Forward
from dbyte.model.teacher import load_tokenizer
from dbyte.presets import SCALES
from dbyte.text.spans import EOS
from dbyte.transfer.heads import END
from dbyte.transfer.paired import PairedBatch
from dbyte_paper import foreign_teachers
from dbyte_paper.foreign_teachers import FOREIGN, TEXT
from dbyte_paper.teacher_scale import Reader
from dbyte_paper.variants import LARGER, OTHER_FAMILY, teacher_shapes


@torch.inference_mode()
def test_the_divergence_is_of_the_next_byte_whether_a_token_ends_folded_away(tokenizer, batch):
    student = make_student(make_teacher(), tokenizer)
    torch.manual_seed(0)
    said_BLS = torch.rand(*batch.byte_ids_BL.shape, END + 1).log_softmax(-1).exp()
    said_BLS[..., EOS] = 0  # the end of a text is END there
    said_BLS /= said_BLS.sum(-1, keepdim=True)
    said_BLS[..., END] *= 300  # so that it is among those that are kept
    said_BLS /= said_BLS.sum(-1, keepdim=True)
    prob_BLK, symbol_BLK = said_BLS.topk(16)
    paired = PairedBatch(*vars(batch).values(), batch, symbol_BLK.short(), prob_BLK)
    mask_BL = losses.has_next(batch.document_BL)
    forward = Forward(student, None, paired)
    total, count = foreign_teachers.bytes_of_teacher(forward, mask_BL)
    joint_BLK2 = forward.byte_logits_along_tokens_BLK.softmax(-1)
    byte_BLK = joint_BLK2[..., :256] + joint_BLK2[..., 256:]
    expected = 0.0
    for row, place in mask_BL.nonzero().tolist():
        teacher = said_BLS[row, place + 1]
        teacher = torch.cat([teacher[:EOS], teacher[END:], teacher[EOS + 1 : END]])  # END is the student's byte EOS
        kept = teacher.topk(16).indices
        p, q = teacher[kept], byte_BLK[row, place, kept]
        expected += (p * (p / q).log()).sum() + (1 - p.sum()) * ((1 - p.sum()) / (1 - q.sum())).log()
    assert count == mask_BL.sum()
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-3)


def test_a_foreign_teacher_is_as_large_as_the_larger_one_and_has_a_tokenizer_of_its_own():
    small = SCALES["small"]
    shape = foreign_teachers.other_tokens(small)
    larger = teacher_shapes(small)[LARGER]
    assert (shape.width, shape.layers, shape.train_bytes) == (larger.width, larger.layers, larger.train_bytes)
    assert shape.family == small.teachers.other.family != larger.family
    assert not shape.tokenizer_corpora and larger.tokenizer_corpora
    hub = SCALES["hub"]
    assert foreign_teachers.other_tokens(hub) == teacher_shapes(hub)[OTHER_FAMILY]


def test_all_read_the_same_rows_and_step_2_2_goes_on_where_2_1_stopped(tmp_path, monkeypatch):
    """And the router follows the encoder, by Eq. 4, in step 2.2 alone, whatever the teacher."""
    asked = []
    monkeypatch.setattr(foreign_teachers, "train", lambda run, step, feed, **_: asked.append(
        (step.name, feed.rows.hash, feed.first_row)))
    monkeypatch.setattr(foreign_teachers, "model_hash", str)
    monkeypatch.setattr(foreign_teachers.ByteStudent, "from_pretrained",
                        lambda folder: SimpleNamespace(config={}))
    monkeypatch.setattr(foreign_teachers, "read_tokenizer", lambda place: SimpleNamespace(save_pretrained=None))
    monkeypatch.setattr(foreign_teachers.Run, "is_complete", lambda run: False)
    monkeypatch.setattr(foreign_teachers.Run, "facts", lambda run: {"next_row": 7})
    texts = ["All human beings are born free and equal. " * 5, "Leo has 7 coins and a café."] * 3
    monkeypatch.setattr(foreign_teachers, "texts_of", lambda scale, size, seed: texts)
    places = {}
    for name, vocabulary in (("own", 270), ("foreign", 290)):
        places[name] = tmp_path / name
        train_tokenizer(texts, vocabulary=vocabulary).save_pretrained(places[name])
    monkeypatch.setattr(foreign_teachers, "read_teacher", lambda place: (None, load_tokenizer(place)))
    small = SCALES["small"]
    own, foreign = foreign_teachers.rows_of_all(small, places["own"], places["foreign"], seed=0)
    assert (own.byte_ids == foreign.byte_ids).all() and (own.boundary == foreign.boundary).all()
    assert (own.teacher.token_ids == own.token_ids).all() and own.hash != foreign.hash
    stage1 = foreign_teachers.Run({"step": "1.3"})
    for name, rows in ((TEXT, own), (FOREIGN, replace(foreign, targets=len))):
        foreign_teachers.trained(small, name, places["own"], stage1, rows, own=places["own"], seed=1, factor=3.0)
    assert asked == [(step, rows.hash, first) for rows in (own, foreign)
                     for step, first in (("2.1 head", 0), ("2.2 full", 7))]
    for name in (TEXT, FOREIGN):
        head, full = foreign_teachers.both_steps(small, name, 3.0)
        assert not any(term.routes for _, term in head.objective.terms)
        assert sum(term.routes for _, term in full.objective.terms) == 1
        assert any("router" in group.parts for group in full.groups)
        assert full.groups[0].rate == pytest.approx(3 * small.stage2["outer_rate"])


def test_rows_are_compared_with_the_text_alone_on_the_same_pieces():
    """By hand: 11 nats for 10 are 10 % more."""
    def bits(*nats):
        return {"value": sum(nats), "stderr": 0.1, "n": len(nats), "nats_P": list(nats)}

    folders = {TEXT: "text", FOREIGN: "told"}
    along = foreign_teachers.ALONG
    known = {(Path("text"), along): bits(5.0, 6.0), (Path("told"), along): bits(4.0, 6.0),
             (Path("t"), "token"): bits(3.0, 3.0)}
    read = Reader(SCALES["small"], (), known)
    found = {name: [[SimpleNamespace(model_folder=Path(folder))]] for name, folder in folders.items()}
    (row,) = foreign_teachers.more_rows(read, found, "pydocs")
    assert (row["what"], round(row["value"], 6)) == (f"{TEXT} - {FOREIGN}", 10.0)
    arms = dict.fromkeys(found, {"train_bytes": 5, "rate": 3.0, "sweep": "x"})
    rows = foreign_teachers.bits_rows(read, {TEXT: Path("t"), FOREIGN: Path("t")}, found, "pydocs", arms)
    assert {row["model"]: row["value"] for row in rows} == {f"teacher, {FOREIGN}": 6.0, TEXT: 11.0, FOREIGN: 10.0}
    assert [row["rate"] for row in rows[1:]] == [3.0, 3.0]
