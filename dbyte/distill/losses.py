"""The losses of the curriculum: pure functions that return (sum, count), in fp32.

    align       L_align     Eq. 2      squared L2 distance to the teacher's static embedding, at token ends
    distill     L_distill   Eq. 3      KL(teacher || student) over the vocabulary, at token ends
    boundary    L_boundary  Eq. 4      binary cross-entropy of the router's probability, per byte
    next_byte   section 4.2.2          cross-entropy over the 512 joint symbols of JBP (section 4.1.2)
    dense       not in the paper       KL(teacher || student) over these symbols, within the teacher's tokens
    match       arXiv 2512.15586       distance of the core's states after its first layers, at token ends
    ratio       arXiv 2507.07955       how far a row's share of boundaries is from the tokens', per byte
    threshold   for arXiv 2412.09871   least where as many entropies exceed it as tokens end, per byte

The caller divides the summed loss by the summed count once, so that a mean is never a mean of means.

Logits over a large vocabulary do not fit in memory, so training evaluates Eq. 3 on a slice of positions at a time:
`sliced_losses.py` applies the heads there and calls the same functions.

Shape letters: B rows, L bytes, M chunks or tokens, E core width, V vocabulary, K2 = 512 joint symbols, T positions.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dbyte.text.spans import is_special

Loss = tuple[Tensor, Tensor]
Divergence = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # of log-probabilities [T, V] of student and teacher
WHITE_SPACE = tuple(b" \t\n\r\v\f")
RAREST = 0.01  # share of boundaries in a row for which the ratio loss stays finite
PROB_FLOOR = 1e-6  # a cosine router reaches p = 0 or 1 exactly; the log must not


def align(chunk_BME: Tensor, embedding_BME: Tensor, mask_BM: Tensor) -> Loss:
    """Squared L2 distance between chunk and teacher embeddings (Eq. 2), summed over E and over masked positions."""
    squared_BM = (chunk_BME.float() - embedding_BME.float()).square().sum(-1)
    return (squared_BM * mask_BM).sum(), mask_BM.sum()


def distill(student_logits_BMV: Tensor, teacher_logits_BMV: Tensor, mask_BM: Tensor) -> Loss:
    """KL(teacher || student) (Eq. 3), the sum of P_T (log P_T - log P_S) over V, in nats, summed over masked positions.

    It is zero iff the distributions agree. `forward_kl` is the formula, and what training evaluates.
    """
    student_TV = log_softmax(student_logits_BMV[mask_BM])
    teacher_TV = log_softmax(teacher_logits_BMV[mask_BM])
    return forward_kl(student_TV, teacher_TV)[0], mask_BM.sum()


def boundary(prob_BL: Tensor, label_BL: Tensor, mask_BL: Tensor) -> Loss:
    """Binary cross-entropy of boundary probabilities in [0, 1] (Eq. 4), in nats, over masked bytes."""
    prob_BL = prob_BL.float().clamp(PROB_FLOOR, 1 - PROB_FLOOR)
    with torch.autocast(prob_BL.device.type, enabled=False):  # on CUDA autocast refuses it, in fp32 too
        bce_BL = F.binary_cross_entropy(prob_BL, label_BL.float(), reduction="none")
    return (bce_BL * mask_BL).sum(), mask_BL.sum()


def space_penalty(prob_BL: Tensor, before_space_BL: Tensor, mask_BL: Tensor) -> Loss:
    """-log(1 - p) in nats, summed over the masked bytes right before white space (appendix A.2's penalty).

    This is what Eq. 4 would say if no such byte ended a token. The count is that of all masked bytes.
    """
    prob_BL = prob_BL.float().clamp(PROB_FLOOR, 1 - PROB_FLOOR)
    return (-torch.log1p(-prob_BL) * (before_space_BL & mask_BL)).sum(), mask_BL.sum()


def next_byte(joint_logits_BLK2: Tensor, label_BL: Tensor, mask_BL: Tensor) -> Loss:
    """Cross-entropy in nats of the joint symbol (next byte, ends a chunk), over masked bytes."""
    ce_BL = F.cross_entropy(joint_logits_BLK2.float().transpose(1, 2), label_BL, reduction="none")
    return (ce_BL * mask_BL).sum(), mask_BL.sum()


def dense(joint_logits_PK2: Tensor, teacher_PK2: Tensor) -> Loss:
    """KL(teacher || student) in nats over the joint symbols, summed over P bytes.

    teacher_PK2: the teacher's log-probabilities, as `byte_probabilities/within_token.py` has them; -inf is allowed.
    """
    kl = F.kl_div(log_softmax(joint_logits_PK2), teacher_PK2.exp(), reduction="sum")
    return kl, torch.tensor(len(teacher_PK2), device=teacher_PK2.device)


def match(student_BME: Tensor, teacher_BME: Tensor, mask_BM: Tensor) -> Loss:
    """Root mean square over E of the difference of two states (Bolmo's encoder loss), summed over masked positions."""
    difference_BME = student_BME.float() - teacher_BME.float()
    distance_BM = torch.linalg.vector_norm(difference_BME, dim=-1) / math.sqrt(difference_BME.shape[-1])
    return (distance_BM * mask_BM).sum(), mask_BM.sum()


def ratio(prob_BL: Tensor, boundary_BL: Tensor, label_BL: Tensor, mask_BL: Tensor) -> Loss:
    """H-Net's ratio loss, a row's value for each of its masked bytes: F G / s + (1 - F) (1 - G) / (1 - s).

    F, G and s are the row's means of boundaries, of their probabilities, and of label_BL, which H-Net sets to 1 / N by
    hand. It is 1 at F = G = s. F has no gradient: G moves as long as F is off, and boundaries follow.
    """
    count_B = mask_BL.sum(1)
    F_B, G_B, s_B = ((one_BL.float() * mask_BL).sum(1) / count_B.clamp(min=1)
                     for one_BL in (boundary_BL, prob_BL, label_BL))
    s_B = s_B.clamp(RAREST, 1 - RAREST)
    loss_B = F_B * G_B / s_B + (1 - F_B) * (1 - G_B) / (1 - s_B)
    return (loss_B * count_B).sum(), count_B.sum()


def threshold(entropy_BL: Tensor, threshold_1: Tensor, label_BL: Tensor, mask_BL: Tensor) -> Loss:
    """Sum of max(entropy - threshold, 0) + label * threshold over masked bytes: a quantile as the least of a sum.

    Its gradient in the threshold is the number of labels less that of entropies above it; entropies have none.
    """
    above_BL = (entropy_BL.detach().float() - threshold_1).clamp(min=0)
    return ((above_BL + label_BL * threshold_1) * mask_BL).sum(), mask_BL.sum()


# -- divergences ------------------------------------------------------------------------------------------------------


def log_softmax(logits_TV: Tensor) -> Tensor:
    """Log-probabilities, in fp32 or wider."""
    return logits_TV.to(torch.promote_types(logits_TV.dtype, torch.float32)).log_softmax(-1)


def forward_kl(student_TV: Tensor, teacher_TV: Tensor) -> tuple[Tensor, Tensor]:
    """KL(teacher || student) from log-probabilities (Eq. 3): its sum in nats, and the gradient in student logits."""
    return F.kl_div(student_TV, teacher_TV, reduction="sum", log_target=True), student_TV.exp() - teacher_TV.exp()


def reverse_kl(student_TV: Tensor, teacher_TV: Tensor) -> tuple[Tensor, Tensor]:
    """KL(student || teacher) from log-probabilities: its sum in nats, and the gradient in student logits."""
    prob_TV = student_TV.exp()
    ratio_TV = student_TV - teacher_TV
    kl_T1 = (prob_TV * ratio_TV).sum(-1, keepdim=True)
    return kl_T1.sum(), prob_TV * (ratio_TV - kl_T1)


def generalised(beta: float) -> Divergence:
    """The generalised Jensen-Shannon divergence of on-policy distillation (Agarwal et al. 2024), for beta in [0, 1].

    beta KL(teacher || mean) + (1 - beta) KL(student || mean) with mean = beta teacher + (1 - beta) student; at 0 it is
    Eq. 3, at 1 reverse KL. As above: the sum in nats, and the gradient in the student's logits. ValueError for another
    beta.
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must lie in [0, 1] (0: KL(teacher || student), 1: the reverse), found {beta}")
    if beta in (0, 1):
        return reverse_kl if beta else forward_kl

    def pair(student_TV: Tensor, teacher_TV: Tensor) -> tuple[Tensor, Tensor]:
        mean_TV = torch.logaddexp(student_TV + math.log1p(-beta), teacher_TV + math.log(beta))
        prob_TV = student_TV.exp()
        ratio_TV = student_TV - mean_TV
        own_T1 = (prob_TV * ratio_TV).sum(-1, keepdim=True)
        other = F.kl_div(mean_TV, teacher_TV, reduction="sum", log_target=True)
        return (1 - beta) * own_T1.sum() + beta * other, (1 - beta) * prob_TV * (ratio_TV - own_T1)

    return pair


jensen_shannon = generalised(0.5)  # in [0, log 2] for each position


def whether(log_T: Tensor) -> Tensor:
    """Log-probabilities [T, 2] of an event of log-probability log_T (<= 0) and of its contrary, in fp32 or wider."""
    log_T = log_T.to(torch.promote_types(log_T.dtype, torch.float32)).clamp(max=-PROB_FLOOR)
    return torch.stack([log_T, torch.log(-torch.expm1(log_T))], dim=-1)


# -- labels and masks -------------------------------------------------------------------------------------------------


def joint_labels(byte_ids_BL: Tensor, boundary_BL: Tensor) -> Tensor:
    """JBP's label at byte i: byte[i + 1] + 256 * boundary[i + 1] (section 4.1.2); the last column is 0, mask it."""
    joint_BL = byte_ids_BL + 256 * boundary_BL.long()
    return F.pad(joint_BL[:, 1:], (0, 1))


def before_space(byte_ids_BL: Tensor, document_BL: Tensor) -> Tensor:
    """True for the bytes right before white space of the same document, where the space bias sets boundaries (A.2)."""
    space_BL = torch.isin(byte_ids_BL, torch.tensor(WHITE_SPACE, device=byte_ids_BL.device))
    return F.pad(space_BL[:, 1:], (0, 1)) & has_next(document_BL)


def has_next(document_BX: Tensor) -> Tensor:
    """True where the next position of the row belongs to the same document (padding is document -1)."""
    same_BX = (document_BX[:, 1:] == document_BX[:, :-1]) & (document_BX[:, :-1] >= 0)
    return F.pad(same_BX, (0, 1))


def has_two(document_BX: Tensor) -> Tensor:
    """True where the next two positions of the row belong to the same document (padding is document -1)."""
    has_next_BX = has_next(document_BX)
    return has_next_BX & F.pad(has_next_BX[:, 1:], (0, 1))


def routed(byte_ids_BL: Tensor, document_BL: Tensor) -> Tensor:
    """True for the bytes whose boundary the router decides: text bytes that another text byte follows.

    Bytes that are tokens by themselves (BOS, EOS), the byte before one and a document's last are boundaries by rule.
    """
    special_BL = is_special(byte_ids_BL)
    next_special_BL = F.pad(special_BL[:, 1:], (0, 1), value=True)
    return has_next(document_BL) & ~special_BL & ~next_special_BL
