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
