"""What transfer minimises, as pure functions, in fp32.

    byte_cross_entropy, byte_divergence      the two byte terms of BLD's loss (arXiv 2604.07466, Eq. 5)
    binarised                                ALM's divergence of chunk probabilities (arXiv 2503.20083, section 3)
    hidden_distance                          ALM's loss on hidden states

Shape letters: N bytes, S symbols, K symbols that are kept, C chunks, E width.
"""

import torch
from torch import Tensor

from dbyte.distill.losses import log_softmax

LEAST = -1e-6  # the largest log-probability: 1 - p must have a logarithm


def byte_cross_entropy(logits_NS: Tensor, symbol_N: Tensor) -> Tensor:
    """-log p of the symbols, in nats, summed."""
    return -log_softmax(logits_NS).gather(1, symbol_N[:, None]).sum()


def byte_divergence(logits_NS: Tensor, symbol_NK: Tensor, prob_NK: Tensor) -> Tensor:
    """KL(teacher || student) in nats, summed; symbols that are not kept count as one, so it is never too large.

    symbol_NK: int64, the teacher's likeliest symbols, all different; prob_NK: their probabilities, with sums <= 1.
    """
    log_NS = log_softmax(logits_NS)
    log_rest_N = log_NS.scatter(1, symbol_NK, -torch.inf).logsumexp(1)
    prob_NK = prob_NK.float()
    rest_N = (1 - prob_NK.sum(1)).clamp(min=0)
    kept = torch.xlogy(prob_NK, prob_NK) - prob_NK * log_NS.gather(1, symbol_NK)
    # where nothing is left, 0 * -inf would be no number
    rest = torch.xlogy(rest_N, rest_N) - rest_N * log_rest_N.where(rest_N > 0, 0)
    return kept.sum() + rest.sum()


def binarised(teacher_C: Tensor, student_C: Tensor, *, temperature: float) -> Tensor:
    """f(p || q) + f(1 - p || 1 - q), times temperature [C]; p, q: chunk probabilities to the power of 1 / temperature.

    teacher_C, student_C: their logs (<= 0). f(a || b) = a log(a / b). At temperature 1 it is the divergence of
    two coins. The factor keeps its size as the temperature grows.
    """
    log_p_C, log_q_C = ((log_C.float() / temperature).clamp(max=LEAST) for log_C in (teacher_C, student_C))
    other_p_C, other_q_C = (torch.log(-torch.expm1(log_C)) for log_C in (log_p_C, log_q_C))
    return temperature * (log_p_C.exp() * (log_p_C - log_q_C) + other_p_C.exp() * (other_p_C - other_q_C))


def hidden_distance(student_CE: Tensor, teacher_CE: Tensor) -> Tensor:
    """The squared distance over the teacher's mean square, summed over chunks."""
    squared_CE = (student_CE.float() - teacher_CE.float()).square()
    return squared_CE.mean(1).sum() / teacher_CE.float().square().mean().clamp(min=1e-12)
