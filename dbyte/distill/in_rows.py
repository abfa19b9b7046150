"""Losses over a large vocabulary, from hidden states: the heads run inside, on a few positions at a time.

With 128k tokens the logits are the largest tensors of a step. Here the logits of a slice of positions live until the
slice's gradient is taken and are gone before the next, so memory beyond the inputs is O(rows * V), whatever T is.

    forward   KL(teacher || student)          Eq. 3
    reverse   KL(student || teacher)          the authors' code
    js        Jensen-Shannon divergence       the mean of both KLs to the mean distribution
    token     cross-entropy of given tokens

Shape letters: T positions, E width, V vocabulary.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dbyte.distill.losses import Loss
from dbyte.model.projection import product

ROWS_AT_ONCE = 1024
# (the positions of a slice, the student's log probabilities there) -> (summed loss, its gradient in the logits)
SliceLoss = Callable[[slice, Tensor], tuple[Tensor, Tensor]]


def forward_kl(student_TV: Tensor, teacher_TV: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and gradient in the student's logits of KL(teacher || student), from log probabilities."""
    return F.kl_div(student_TV, teacher_TV, reduction="sum", log_target=True), student_TV.exp() - teacher_TV.exp()


def reverse_kl(student_TV: Tensor, teacher_TV: Tensor) -> tuple[Tensor, Tensor]:
    """The same for KL(student || teacher)."""
    prob_TV, ratio_TV = student_TV.exp(), student_TV - teacher_TV
    kl_T1 = (prob_TV * ratio_TV).sum(-1, keepdim=True)
    return kl_T1.sum(), prob_TV * (ratio_TV - kl_T1)


def jensen_shannon(student_TV: Tensor, teacher_TV: Tensor) -> tuple[Tensor, Tensor]:
    """The same for (KL(student || mean) + KL(teacher || mean)) / 2, in [0, log 2] nats a position."""
    mean_TV = torch.logaddexp(student_TV, teacher_TV) - math.log(2)
    prob_TV, ratio_TV = student_TV.exp(), student_TV - mean_TV
    own_T1 = (prob_TV * ratio_TV).sum(-1, keepdim=True)
    other = F.kl_div(mean_TV, teacher_TV, reduction="sum", log_target=True)
    return (own_T1.sum() + other) / 2, prob_TV * (ratio_TV - own_T1) / 2


DIVERGENCES = {"forward": forward_kl, "reverse": reverse_kl, "js": jensen_shannon}


def distill_in_rows(
    student_TE: Tensor, student_head_VE: Tensor, teacher_TE: Tensor, teacher_head_VE: Tensor,
    *, divergence: str = "forward", rows: int = ROWS_AT_ONCE,
) -> Loss:
    """A divergence of DIVERGENCES in nats, summed over positions; equal to the plain formula on whole logits.

    student_TE, teacher_TE: the hidden states of the positions that count; widths may differ. student_head_VE,
    teacher_head_VE: head weights; the student's receives a gradient if it asks for one. rows: positions a slice, >= 1.
    """
    pair, teacher_TE, teacher_head_VE = DIVERGENCES[divergence], teacher_TE.detach(), teacher_head_VE.detach()

    def loss(where: slice, student_TV: Tensor) -> tuple[Tensor, Tensor]:
        return pair(student_TV, _log_softmax(product(teacher_TE[where], teacher_head_VE)))

    return _InRows.apply(student_TE, student_head_VE, loss, rows), _count(student_TE)


def token_in_rows(hidden_TE: Tensor, head_VE: Tensor, next_T: Tensor, *, rows: int = ROWS_AT_ONCE) -> Loss:
    """Cross-entropy in nats of the tokens next_T (int64), summed over positions; arguments as `distill_in_rows`."""
    def loss(where: slice, log_TV: Tensor) -> tuple[Tensor, Tensor]:
        next_T1 = next_T[where, None]
        return -log_TV.gather(1, next_T1).sum(), log_TV.exp().scatter_add_(
            1, next_T1, log_TV.new_full((), -1).expand_as(next_T1))

    return _InRows.apply(hidden_TE, head_VE, loss, rows), _count(hidden_TE)


def _log_softmax(logits_TV: Tensor) -> Tensor:
    return logits_TV.to(torch.promote_types(logits_TV.dtype, torch.float32)).log_softmax(-1)


def _count(hidden_TE: Tensor) -> Tensor:
    return torch.tensor(len(hidden_TE), device=hidden_TE.device)


class _InRows(torch.autograd.Function):
    """Sum a loss over slices of positions, keeping gradients instead of logits."""

    @staticmethod
    def forward(ctx, hidden_TE: Tensor, head_VE: Tensor, loss: SliceLoss, rows: int) -> Tensor:
        wants_hidden, wants_head = ctx.needs_input_grad[:2]
        wide = torch.promote_types(hidden_TE.dtype, torch.float32)
        grad_TE = torch.zeros_like(hidden_TE) if wants_hidden else None
        grad_head_VE = torch.zeros_like(head_VE, dtype=wide) if wants_head else None
        total = hidden_TE.new_zeros((), dtype=wide)
        for start in range(0, len(hidden_TE), rows):
            where = slice(start, start + rows)
            value, grad_TV = loss(where, _log_softmax(product(hidden_TE[where], head_VE)))
            total += value
            grad_TV = grad_TV.to(hidden_TE.dtype)
            if wants_hidden:
                grad_TE[where] = grad_TV @ head_VE.to(hidden_TE.dtype)
            if wants_head:
                grad_head_VE += grad_TV.T @ hidden_TE[where]
        ctx.save_for_backward(grad_TE, grad_head_VE)
        ctx.head_dtype = head_VE.dtype
        return total

    @staticmethod
    def backward(ctx, grad: Tensor):
        grad_TE, grad_head_VE = ctx.saved_tensors
        return (None if grad_TE is None else (grad_TE * grad).to(grad_TE.dtype),
                None if grad_head_VE is None else (grad_head_VE * grad).to(ctx.head_dtype), None, None)
