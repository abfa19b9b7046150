"""The loss on written tokens next to that of TRL's GOLD trainer, on the same inputs.

TRL is for development alone. Its trainer needs models with token ids of their own on both sides, so only its loss is
compared.
"""

import os

import pytest
import torch

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from trl.experimental.gold.gold_trainer import GOLDTrainer, ULDLoss  # noqa: E402

from dbyte.distill import losses  # noqa: E402
from dbyte.distill.on_policy_loss import Judged, Side, _merged, spans  # noqa: E402

ENDS = ([2, 5, 6, 9, 10, 14, 15], [2, 4, 6, 9, 12, 14, 15])  # of the tokens of both sides, in the same fifteen bytes
GROUPS = ([[0], [1, 2], [3], [4, 5], [6]], [[0], [1, 2], [3], [4, 5], [6]])


@pytest.mark.parametrize("beta", [0.0, 0.25, 0.5, 1.0])
def test_the_divergence_is_that_of_gold(beta):
    torch.manual_seed(0)
    student_TV, teacher_TV = (3 * torch.randn(1, 7, 11, dtype=torch.float64) for _ in range(2))
    student_TV.requires_grad_()
    theirs = GOLDTrainer.generalized_jsd_loss(student_TV, teacher_TV, beta=beta, reduction="sum")
    value, gradient_TV = losses.generalised(beta)(student_TV[0].log_softmax(-1), teacher_TV[0].log_softmax(-1))
    torch.testing.assert_close(value, theirs)
    torch.testing.assert_close(gradient_TV[None], torch.autograd.grad(theirs, student_TV)[0])


def judged():
    """One row of a BOS and fifteen bytes, with these tokens on both sides."""
    own_1L, other_1L = (torch.zeros(1, 16, dtype=torch.bool) for _ in range(2))
    for boundary_1L, ends in zip((own_1L, other_1L), ENDS, strict=True):
        boundary_1L[0, [0, *ends]] = True
    judged_1L = torch.arange(16)[None] > 0
    zeros_1L = torch.zeros(1, 16, dtype=torch.long)
    tokens_1M = torch.zeros(1, 8, dtype=torch.long)
    return Judged(zeros_1L, other_1L, zeros_1L, torch.ones_like(own_1L), tokens_1M, tokens_1M, tokens_1M == 0,
                  own_1L, zeros_1L, torch.zeros_like(own_1L), judged_1L)


def test_spans_are_the_groups_of_gold():
    batch = judged()
    own, other = Side.of(batch.own_boundary_BL, batch), Side.of(batch.boundary_BL, batch)
    starts = [[[first, end] for first, end in zip([0, *ends], ends, strict=False)] for ends in ENDS]
    theirs = ULDLoss._align_by_byte_offsets(*starts)
    for side, groups, known in zip((own, other), theirs, GROUPS, strict=True):
        found = [(side.span_T == span).nonzero()[:, 0].tolist() for span in range(len(groups))]
        assert found == groups == known
    assert spans(own, other, batch).tolist() == [len(a) == len(b) == 1 for a, b in zip(*theirs, strict=True)]


@pytest.mark.parametrize("strategy", ["observed", "bayesian"])
def test_the_merged_likelihood_is_that_of_gold_at_the_tokens_that_were_written(strategy):
    """GOLD keeps a distribution of one token of a span, times the likelihood of the others: ours is its entry there."""
    torch.manual_seed(0)
    hidden_TE, head_VE = torch.randn(7, 5, dtype=torch.float64), torch.randn(11, 5, dtype=torch.float64)
    ids_T = torch.tensor([3, 1, 4, 1, 5, 9, 2])
    prob_TV = (hidden_TE @ head_VE.T).softmax(-1)
    loss = ULDLoss.__new__(ULDLoss)
    torch.nn.Module.__init__(loss)
    loss.token_merge_strategy = strategy
    merged_SV = loss._merge_probabilities_with_alignment_groups(prob_TV, GROUPS[0], ids_T.tolist())
    kept = 0 if strategy == "observed" else -1
    theirs = torch.stack([merged_SV[span, ids_T[group[kept]]].log() for span, group in enumerate(GROUPS[0])])
    span_T = torch.tensor([0, 1, 1, 2, 3, 3, 4])
    found = _merged(hidden_TE, head_VE, ids_T, span_T, torch.zeros(5, dtype=torch.bool))
    torch.testing.assert_close(found, theirs)
