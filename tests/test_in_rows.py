"""Losses over a large vocabulary: the slices give the plain formula, its gradients, and no more memory."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dbyte.distill import losses
from dbyte.distill.in_rows import distill_in_rows, token_in_rows


def plain(divergence: str, student_TV: Tensor, teacher_TV: Tensor) -> Tensor:
    """The textbook formulas on whole logits."""
    def kl(p: Tensor, q: Tensor) -> Tensor:
        return (p * (p / q).log()).sum()

    s, t = student_TV.softmax(-1), teacher_TV.softmax(-1)
    m = (s + t) / 2
    return {"forward": kl(t, s), "reverse": kl(s, t), "js": (kl(s, m) + kl(t, m)) / 2}[divergence]


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    student, head, teacher, teacher_head = (torch.randn(*shape, dtype=torch.float64)
                                            for shape in ((9, 6), (11, 6), (9, 4), (11, 4)))
    return student.requires_grad_(), head.requires_grad_(), teacher, teacher_head


@pytest.mark.parametrize("rows", [1, 4, 100])
@pytest.mark.parametrize("divergence", ["forward", "reverse", "js"])
def test_slices_give_the_plain_value_and_gradients(inputs, divergence, rows):
    student, head, teacher, teacher_head = inputs
    expected = plain(divergence, student @ head.T, teacher @ teacher_head.T)
    total, count = distill_in_rows(*inputs, divergence=divergence, rows=rows)
    assert count == 9
    torch.testing.assert_close(total, expected)
    for found, wanted in zip(torch.autograd.grad(2 * total, [student, head]),
                             torch.autograd.grad(2 * expected, [student, head]), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_token_slices_give_the_plain_value_and_gradients(inputs, rows):
    hidden, head, *_ = inputs
    next_T = torch.tensor([0, 10, 3, 3, 5, 6, 7, 8, 9])
    expected = F.cross_entropy(hidden @ head.T, next_T, reduction="sum")
    total, count = token_in_rows(hidden, head, next_T, rows=rows)
    assert count == 9
    torch.testing.assert_close(total, expected)
    for found, wanted in zip(torch.autograd.grad(2 * total, [hidden, head]),
                             torch.autograd.grad(2 * expected, [hidden, head]), strict=True):
        torch.testing.assert_close(found, wanted)


def test_forward_is_eq_3_as_losses_has_it(inputs):
    student, head, teacher, teacher_head = inputs
    eq3, _ = losses.distill((student @ head.T)[None], (teacher @ teacher_head.T)[None], torch.ones(1, 9).bool())
    torch.testing.assert_close(distill_in_rows(*inputs)[0].float(), eq3.float())


@pytest.mark.parametrize("divergence, bound", [("forward", math.inf), ("reverse", math.inf), ("js", 9 * math.log(2))])
def test_a_divergence_is_zero_where_both_agree_and_within_its_bound_where_not(inputs, divergence, bound):
    student, head, teacher, teacher_head = inputs
    assert distill_in_rows(student, head, student, head, divergence=divergence)[0].abs() < 1e-9
    assert 0.1 < distill_in_rows(student, 50 * head, teacher, teacher_head, divergence=divergence)[0] <= bound


def test_a_frozen_head_gets_no_gradient():
    student, head = torch.randn(5, 3, requires_grad=True), torch.randn(7, 3)
    distill_in_rows(student, head, torch.randn(5, 2), torch.randn(7, 2))[0].backward()
    assert student.grad is not None and head.grad is None


def test_no_position_gives_zero_and_no_gradient():
    student = torch.randn(0, 3, requires_grad=True)
    total, count = distill_in_rows(student, torch.randn(7, 3), torch.randn(0, 2), torch.randn(7, 2))
    total.backward()
    assert total == 0 and count == 0 and student.grad.shape == (0, 3)


class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """Numbers in the largest tensor that any operation returns."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self.largest = max(self.largest, value.numel())
        return result


@pytest.mark.parametrize("positions", [64, 512])
def test_no_tensor_grows_with_positions_times_vocabulary(positions):
    student, head = torch.randn(positions, 4, requires_grad=True), torch.randn(300, 4)
    with LargestTensor() as seen:
        distill_in_rows(student, head, torch.randn(positions, 4), torch.randn(300, 4), rows=16)[0].backward()
        token_in_rows(student, head, torch.zeros(positions).long(), rows=16)[0].backward()
    assert seen.largest == max(16 * 300, positions * 4)
