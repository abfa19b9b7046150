"""Section 5.3's loss: the teacher judges tokens that were written, whoever wrote them, where boundaries may differ.

The writer's tokens are the student's chunks; the teacher reads the tokenizer's tokens of the same bytes. Where both
have one token between two common ends, their distributions over the next token are compared in full, by a divergence of
losses.py. With equal boundaries that is everywhere, and the loss is the per-token divergence. Elsewhere the tokens of
either side are merged up to the next common end (GOLD, Patino et al. 2025): the chain rule gives the likelihood of the
merged bytes on both sides, and the same divergence compares the event that these bytes follow with its contrary.
Deviation: GOLD scales the distribution of one token of the span by the likelihood of the others, which leaves two
vectors that are no distributions.

Shape letters: B rows, L bytes, M chunks or tokens, E core width, T tokens, S spans, P spans of one token on both sides.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dbyte.distill import losses, sliced_losses
from dbyte.distill.losses import Loss
from dbyte.distill.terms import Forward, Term, language_model
from dbyte.model.router import THRESHOLD
from dbyte.text.packing import Batch


@dataclass(frozen=True)
class Judged(Batch):
    """Rows whose bytes were written; `Batch` holds the tokenizer's tokens of them, these fields the writer's.

    own_boundary_BL: bool, True at the last byte of each of the writer's tokens. own_ids_BL: int64, its id there.
    routed_BL: bool, bytes of a prompt, whose boundaries the student's router decides. judged_BL: bool, bytes whose
    tokens are judged.
    """

    own_boundary_BL: Tensor
    own_ids_BL: Tensor
    routed_BL: Tensor
    judged_BL: Tensor

    @property
    def common_BL(self) -> Tensor:
        """True at judged bytes that end a token on both sides: one for each span."""
        return self.own_boundary_BL & self.boundary_BL & self.judged_BL


class Side(NamedTuple):
    """The judged tokens of one side in the order of their bytes; int64 [T].

    row_T: their rows. byte_T: their last bytes. before_T: the chunk or token of the row that predicts each. span_T: the
    span that each belongs to.
    """

    row_T: Tensor
    byte_T: Tensor
    before_T: Tensor
    span_T: Tensor

    @classmethod
    def of(cls, boundary_BL: Tensor, batch: Judged) -> "Side":
        """The tokens that these boundaries end."""
        row_T, byte_T = (boundary_BL & batch.judged_BL).nonzero(as_tuple=True)
        span_BL = span_numbers(batch.common_BL)
        return cls(row_T, byte_T, boundary_BL.cumsum(1)[row_T, byte_T] - 2, span_BL[row_T, byte_T])


def span_numbers(common_BL: Tensor) -> Tensor:
    """The number over all rows of the span that each byte is in; spans end at common_BL (bool). int64 [B, L]."""
    return common_BL.flatten().cumsum(0).view_as(common_BL) - common_BL.long()


def spans(own: Side, other: Side, batch: Judged) -> Tensor:
    """True for spans of one token on both sides: bool [S]. Every judged token is in a span of both, or this asserts."""
    last_BL = batch.judged_BL & ~F.pad(batch.judged_BL[:, 1:], (0, 1))
    assert bool((batch.common_BL | ~last_BL).all()), "what is judged ends with a token on both sides"
    count = int(batch.common_BL.sum())
    own_S, other_S = (torch.bincount(side.span_T, minlength=count) for side in (own, other))
    assert len(own_S) == len(other_S) == count and bool((own_S * other_S > 0).all()), "every token is in a span"
    return (own_S == 1) & (other_S == 1)


def judged(beta: float) -> Term:
    """The divergence of `losses.generalised(beta)`, a mean over spans."""
    divergence = losses.generalised(beta)
    return Term(partial(_judged, divergence=divergence), lambda batch: batch.common_BL, reads_teacher="whole")


def _judged(forward: Forward, mask_BL: Tensor, *, divergence: losses.Divergence) -> Loss:
    batch = forward.batch
    boundary_BL = torch.where(batch.routed_BL, forward.prob_BL >= THRESHOLD, batch.own_boundary_BL)
    student_BME = forward.core_along(forward.chunks_along(boundary_BL))
    with torch.no_grad():
        teacher_BME = language_model(forward.teacher, batch)
    heads = forward.model.token_head.weight, forward.teacher.get_output_embeddings().weight
    return over_spans(batch, boundary_BL, (student_BME, teacher_BME), heads, divergence), mask_BL.sum()


def over_spans(
    batch: Judged, boundary_BL: Tensor, states: tuple[Tensor, Tensor], heads: tuple[Tensor, Tensor],
    divergence: losses.Divergence, in_full: losses.Divergence | None = None,
) -> Tensor:
    """The divergence in nats, summed over spans.

    boundary_BL: bool, where the student's tokens end. states, heads: the student's last hidden states and the weight of
    its head, then the teacher's. in_full: another divergence, of next-token distributions; None: the same.
    """
    student_BME, teacher_BME = states
    own, other = Side.of(boundary_BL, batch), Side.of(batch.boundary_BL, batch)
    single_S = spans(own, other, batch)
    own_TE, other_TE = (hidden_BME[side.row_T, side.before_T]
                        for hidden_BME, side in ((student_BME, own), (teacher_BME, other)))
    single_T, other_single_T = single_S[own.span_T], single_S[other.span_T]
    total, _ = sliced_losses.distill(own_TE[single_T], heads[0], other_TE[other_single_T], heads[1],
                                     divergence=in_full or divergence)
    if not bool(single_S.all()):
        own_ids_T = batch.own_ids_BL[own.row_T, own.byte_T]
        other_ids_T = batch.token_ids_BM[other.row_T, other.before_T + 1]
        own_S = _merged(own_TE[~single_T], heads[0], own_ids_T[~single_T], own.span_T[~single_T], single_S)
        with torch.no_grad():
            other_S = _merged(other_TE[~other_single_T], heads[1], other_ids_T[~other_single_T],
                              other.span_T[~other_single_T], single_S)
        total = total + divergence(losses.whether(own_S), losses.whether(other_S))[0]
    return total


def _merged(hidden_TE: Tensor, head_VE: Tensor, ids_T: Tensor, span_T: Tensor, single_S: Tensor) -> Tensor:
    """Log-likelihoods of the bytes of spans that are not single, by the chain rule: the sum over the tokens of each."""
    log_T = sliced_losses.token_log_probs(hidden_TE, head_VE, ids_T)
    return log_T.new_zeros(len(single_S)).index_add(0, span_T, log_T)[~single_S]
