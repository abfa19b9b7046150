"""What each step of the curriculum minimises: a sum of weighted terms, each a mean over its positions.

    lambda_1 L_align + lambda_2 L_distill + lambda_3 L_boundary        section 4.2.1, `joint`

A name is a part of the addresses of runs: a new objective takes a new name.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from dbyte.distill import on_policy_loss, terms
from dbyte.distill.terms import Forward, Term
from dbyte.text.packing import Batch


@dataclass(frozen=True)
class Objective:
    """The sum over its (weight, term) of weight * summed loss / count.

    Sums and counts are separate: the counts of all micro-batches and processes are known before one of them runs. way:
    the class of the forward passes that the terms read.
    """

    name: str
    terms: tuple[tuple[float, Term], ...]
    way: type[Forward] = Forward

    def sums(self, model: nn.Module, teacher: nn.Module | None, batch: Batch) -> tuple[Tensor, ...]:
        """The weighted sum of each term over a batch, fp32 scalars."""
        forward = self.way(model, teacher, batch, routes=any(term.routes for _, term in self.terms))
        return tuple(weight * term.loss(forward, term.where(batch))[0] for weight, term in self.terms)

    def counts(self, batch: Batch) -> tuple[Tensor, ...]:
        """The positions of each term in a batch, int64 scalars; no model runs."""
        return tuple(term.where(batch).sum() for _, term in self.terms)

    @property
    def reads_teacher(self) -> str:
        """What the terms read of the teacher: "whole", "embeddings", or "" for nothing (it may be None)."""
        read = {term.reads_teacher for _, term in self.terms}
        return "whole" if "whole" in read else "embeddings" if "embeddings" in read else ""

    def __call__(self, model: nn.Module, teacher: nn.Module | None, batch: Batch) -> Tensor:
        """The loss of one batch by itself."""
        return mean(self.sums(model, teacher, batch), self.counts(batch))


def mean(sums: tuple[Tensor, ...], counts: tuple[Tensor, ...]) -> Tensor:
    """The sum of sum / count over terms; a term without positions is zero."""
    return sum(total / count.clamp(min=1) for total, count in zip(sums, counts, strict=True))


# The small teachers: next-token cross-entropy.
token = Objective("token", ((1, terms.next_token_of_teacher),))

# Step 1.1: Eq. 2. With Eq. 4, the encoder learns to carry what the router reads.
align = Objective("align", ((1, terms.align),))
align_mean = Objective("align_mean", ((1, terms.align_mean),))
align_with_boundary = Objective("align_with_boundary", ((1, terms.align), (1, terms.boundary)))

# Step 1.2: Eq. 3, or another divergence. With Eq. 4, the encoder keeps what the router reads.
distill = Objective("distill", ((1, terms.distill),))
distill_reverse = Objective("distill_reverse", ((1, terms.distill_reverse),))
distill_js = Objective("distill_js", ((1, terms.distill_js),))
distill_with_boundary = Objective("distill_with_boundary", ((1, terms.distill), (1, terms.boundary)))

# Step 1.3: Eq. 4.
boundary = Objective("boundary", ((1, terms.boundary),))

# Steps 2.1 and 2.2: the next byte (section 4.2.2). They differ in what trains. With Eq. 4, the encoder moves and the
# router must follow it.
head = Objective("head", ((1, terms.next_byte), (1, terms.second_byte)))
full = Objective("full", ((1, terms.next_byte), (1, terms.second_byte)))
full_with_boundary = Objective(
    "full_with_boundary", ((1, terms.next_byte), (1, terms.second_byte), (1, terms.boundary)))

# Stage 1 on its own tokens (Table 8): next-token cross-entropy along the teacher's tokens, with Eq. 4.
next_token = Objective("next_token", ((1, terms.next_token), (1, terms.boundary)))


def boundary_penalised(weight: float) -> Objective:
    """Step 1.3 with a penalty on boundaries right before white space (appendix A.2's Whitespace Penalty)."""
    return Objective(f"boundary_penalised {weight:g}", ((1, terms.boundary), (weight, terms.space_penalty)))


def on_policy(beta: float = 1.0) -> Objective:
    """Section 5.3: a divergence from the teacher along what was written (1: reverse KL, 0: Eq. 3), and Eq. 4."""
    return Objective(f"on_policy {beta:g}", ((1, on_policy_loss.judged(beta)), (1, terms.boundary)))


def joint(align: float, distill: float, boundary: float) -> Objective:
    """The joint objective of section 4.2.1: Eq. 2, Eq. 3 and Eq. 4 at these weights."""
    return Objective(f"joint {align:g} {distill:g} {boundary:g}",
                     ((align, terms.align), (distill, terms.distill), (boundary, terms.boundary)))
