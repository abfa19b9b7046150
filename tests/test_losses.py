"""Losses: (sum, count), zero where they must be, equal to the plain formula, blind to padding and other documents."""

import math

import pytest
import torch
from conftest import make_student

from dbyte.distill import losses, objectives
from dbyte.text.spans import BOS, EOS


def test_align_by_hand():
    student = torch.tensor([[[1.0, 2.0], [0.0, 0.0], [9.0, 9.0]]])
    teacher = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]]])
    total, count = losses.align(student, teacher, torch.tensor([[True, True, False]]))
    assert total == 5 + 25 and count == 2


def test_distill_is_zero_iff_equal_and_ignores_the_masked():
    teacher = torch.randn(2, 3, 7)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    shifted = teacher + 3.0  # the same distribution
    shifted[~mask] = torch.randn(3, 7)
    total, count = losses.distill(shifted, teacher, mask)
    assert count == 3 and total.abs() < 1e-5
    assert losses.distill(torch.randn(2, 3, 7), teacher, mask)[0] > 0.1


def test_distill_by_hand():
    teacher, student = torch.tensor([[[0.75, 0.25]]]).log(), torch.tensor([[[0.5, 0.5]]]).log()
    total, _ = losses.distill(student, teacher, torch.tensor([[True]]))
    assert total.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))


def test_boundary_by_hand_and_finite_at_the_ends():
    prob, label = torch.tensor([[0.25, 1.0, 0.0]]), torch.tensor([[True, False, False]])
    total, count = losses.boundary(prob, label, torch.tensor([[True, False, True]]))
    assert count == 2 and total.item() == pytest.approx(math.log(4), abs=1e-5)
    assert torch.isfinite(losses.boundary(prob, label, torch.ones(1, 3).bool())[0])


def test_the_penalty_is_on_cuts_right_before_white_space_alone():
    ids = torch.tensor([[BOS, *b"a bc\n d", EOS, BOS, *b" e", EOS, 0]])
    document = torch.tensor([[0] * 9 + [1] * 4 + [-1]])
    before = losses.before_space(ids, document)
    assert before[0].nonzero().flatten().tolist() == [1, 4, 5, 9]  # a, c, the line's end, and the second BOS
    mask = losses.routed(ids, document)
    prob = torch.full((1, 14), 0.25, requires_grad=True)
    total, count = losses.white_space_cuts(prob, before, mask)
    assert total.item() == pytest.approx(-3 * math.log(0.75)) and count == mask.sum()
    total.backward()
    assert (prob.grad[before & mask] > 0).all() and not prob.grad[~(before & mask)].any(), "less p is less penalty"
    never = torch.where(before, 0.0, 0.9)
    assert losses.white_space_cuts(never, before, mask)[0].item() == pytest.approx(0, abs=1e-5)
    assert torch.isfinite(losses.white_space_cuts(torch.ones(1, 14), before, mask)[0])


def test_the_penalised_objective_is_eq_4_and_its_weight_times_the_penalty(teacher, tokenizer, rows):
    batch, student = rows.batch([0, 1]), make_student(teacher, tokenizer)
    plain = objectives.boundary.sums(student, None, batch)[0]
    (wrong, once), (_, thrice) = (objectives.boundary_penalised(w).sums(student, None, batch) for w in (1.0, 3.0))
    assert wrong == plain and once > 0 and thrice.item() == pytest.approx(3 * once.item())
    assert objectives.boundary_penalised(1.0).name != objectives.boundary_penalised(3.0).name, "a run's address"


def test_stage_1_on_its_own_tokens_is_its_teacher_where_the_encoder_is_exact(teacher, tokenizer, rows, monkeypatch):
    """With the teacher's embeddings in place of the chunks' the two losses are one and the same."""
    batch, student = rows.batch([0, 1]), make_student(teacher, tokenizer)
    exact = teacher.get_input_embeddings()(batch.token_ids_BM)
    monkeypatch.setattr(student, "chunk_embeddings", lambda encoded_BLD, chunks: exact)
    written, wrong = objectives.next_token.sums(student, None, batch)
    assert written.item() == pytest.approx(objectives.token.sums(teacher, None, batch)[0].item(), rel=1e-4)
    assert wrong == objectives.boundary.sums(student, None, batch)[0]
    assert objectives.next_token.counts(student, batch)[0] == objectives.token.counts(teacher, batch)[0]


def test_joint_labels_and_masks():
    ids = torch.tensor([[BOS, 65, 66, EOS, BOS, 67, EOS, 0]])
    boundary = torch.tensor([[1, 0, 1, 1, 1, 1, 1, 0]]).bool()
    document = torch.tensor([[0, 0, 0, 0, 1, 1, 1, -1]])
    assert losses.joint_labels(ids, boundary)[0, :3].tolist() == [65, 66 + 256, EOS + 256]
    assert losses.has_next(document)[0].tolist() == [True, True, True, False, True, True, False, False]
    assert losses.routed(ids, document)[0].tolist() == [False, True, False, False, False, False, False, False]


def test_next_byte_is_uniform_at_zero_logits():
    label = torch.randint(0, 512, (2, 5))
    mask = torch.ones(2, 5).bool()
    mask[1, 2:] = False
    total, count = losses.next_byte(torch.zeros(2, 5, 512), label, mask)
    assert count == 7 and total.item() == pytest.approx(7 * math.log(512), rel=1e-6)


def test_mbp_learns_the_next_two_bytes_of_its_document(teacher, tokenizer, rows):
    student, batch = make_student(teacher, tokenizer, decoding="mbp"), rows.batch(range(len(rows)))
    found = objectives.full(student, None, batch)
    out = student(batch.byte_ids_BL, None, batch.document_BL, batch.mask_BL)
    nats = {1: [], 2: []}
    for ahead, logits in ((1, out.byte_logits), (2, out.second_logits)):
        for row, i in batch.mask_BL.nonzero().tolist():
            later = i + ahead
            if later < batch.mask_BL.shape[1] and batch.document_BL[row, later] == batch.document_BL[row, i]:
                nats[ahead].append(-logits[row, i].log_softmax(-1)[batch.byte_ids_BL[row, later]])
    expected = sum(torch.stack(each).mean() for each in nats.values())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
