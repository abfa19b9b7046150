"""L_distill and next-token cross-entropy from hidden states: the heads are applied to a slice of positions at a time.

With 128k tokens the logits are the largest tensors of a step. Here the logits of a slice live until the slice's
gradient is taken and are gone before the next, so memory beyond the inputs is O(slice * V), whatever T is. The
divergence of a slice is a function of `losses.py`; the sum over slices equals `losses.distill` of all logits.

Shape letters: T positions, E width, V vocabulary.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dbyte.distill.losses import Divergence, Loss, forward_kl, log_softmax
from dbyte.kernels.fast import product

ROWS_AT_ONCE = 1024  # positions of a slice
# (positions of the slice, the student's log-probabilities there) -> (summed loss, its gradient in the logits)
SliceLoss = Callable[[slice, Tensor], tuple[Tensor, Tensor]]


def distill(
    student_TE: Tensor, student_head_VE: Tensor, teacher_TE: Tensor, teacher_head_VE: Tensor,
    *, divergence: Divergence = forward_kl, rows: int = ROWS_AT_ONCE,
) -> Loss:
    """A divergence in nats, summed over T positions; with forward KL it equals `losses.distill` of all logits.

    student_TE, teacher_TE: the hidden states of the positions that count; widths may differ. student_head_VE,
    teacher_head_VE: head weights; the student's gets a gradient if it asks for one. rows: positions per slice, >= 1.
    """
    teacher_TE = teacher_TE.detach()
    teacher_head_VE = teacher_head_VE.detach()

    def loss(where: slice, student_TV: Tensor) -> tuple[Tensor, Tensor]:
        return divergence(student_TV, log_softmax(product(teacher_TE[where], teacher_head_VE)))

    return _OverSlices.apply(student_TE, student_head_VE, loss, rows), _count(student_TE)


def next_token(hidden_TE: Tensor, head_VE: Tensor, next_T: Tensor, *, rows: int = ROWS_AT_ONCE) -> Loss:
    """Cross-entropy in nats of the tokens next_T (int64), summed over T positions.

    hidden_TE: hidden states of the positions that count. head_VE: head weight; it receives a gradient if it asks for
    one. rows: positions per slice, >= 1.
    """
    def loss(where: slice, log_TV: Tensor) -> tuple[Tensor, Tensor]:
        next_T1 = next_T[where, None]
        minus_one = log_TV.new_full((), -1).expand_as(next_T1)
        return -log_TV.gather(1, next_T1).sum(), log_TV.exp().scatter_add_(1, next_T1, minus_one)

    return _OverSlices.apply(hidden_TE, head_VE, loss, rows), _count(hidden_TE)


def token_log_probs(hidden_TE: Tensor, head_VE: Tensor, token_T: Tensor, *, rows: int = ROWS_AT_ONCE) -> Tensor:
    """Log-probability of each of the tokens token_T (int64) in nats, [T], fp32 or wider; backward computes logits anew.

    Arguments are those of `next_token`.
    """
    return taken(lambda log_TV, where: log_TV.gather(1, token_T[where, None])[:, 0], hidden_TE, head_VE, rows=rows)


def taken(
    take: Callable[[Tensor, slice], Tensor], hidden_TE: Tensor, head_VE: Tensor, *, rows: int = ROWS_AT_ONCE
) -> Tensor:
    """What `take` makes of log-probabilities, [T, ..]; backward computes logits anew.

    take: of those of a slice of positions ([.., V], fp32 or wider), and the slice. hidden_TE, head_VE, rows: as in
    `next_token`.
    """
    def of_slice(hidden_TE: Tensor, head_VE: Tensor, where: slice) -> Tensor:
        return take(log_softmax(product(hidden_TE[where], head_VE)), where)

    slices = [slice(start, start + rows) for start in range(0, max(len(hidden_TE), 1), rows)]
    return torch.cat([checkpoint(of_slice, hidden_TE, head_VE, where, use_reentrant=False) for where in slices])


def _count(hidden_TE: Tensor) -> Tensor:
    return torch.tensor(len(hidden_TE), device=hidden_TE.device)


class _OverSlices(torch.autograd.Function):
    """Sum a loss over slices of positions; keeps gradients in hidden states and head instead of logits."""

    @staticmethod
    def forward(ctx, hidden_TE: Tensor, head_VE: Tensor, loss: SliceLoss, rows: int) -> Tensor:
        wants_hidden, wants_head = ctx.needs_input_grad[:2]
        wide = torch.promote_types(hidden_TE.dtype, torch.float32)
        grad_TE = torch.zeros_like(hidden_TE) if wants_hidden else None
        grad_head_VE = torch.zeros_like(head_VE, dtype=wide) if wants_head else None
        total = hidden_TE.new_zeros((), dtype=wide)
        for start in range(0, len(hidden_TE), rows):
            where = slice(start, start + rows)
            value, grad_TV = loss(where, log_softmax(product(hidden_TE[where], head_VE)))
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
        to_hidden = None if grad_TE is None else (grad_TE * grad).to(grad_TE.dtype)
        to_head = None if grad_head_VE is None else (grad_head_VE * grad).to(ctx.head_dtype)
        return to_hidden, to_head, None, None
