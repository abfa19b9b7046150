"""The losses of the curriculum, as pure functions that return (sum, count) in fp32.

    align      L_align     Eq. 2   squared L2 distance to the teacher's static embedding, at token ends
    distill    L_distill   Eq. 3   KL(teacher || student) over the vocabulary, at token ends
    boundary   L_boundary  Eq. 4   binary cross-entropy per byte
    white_space_cuts  appendix A.2 penalty on boundaries right before white space
    next_byte  section 4.2.2       cross-entropy over the 512 joint symbols of JBP (section 4.1.2)

Logits over the teacher's vocabulary are too large to hold whole: training takes them in slices, see in_rows.py. The
caller divides the summed loss by the summed count once, so that a mean is never a mean of means.

Shape letters: B rows, L bytes, M chunks or tokens, E core width, V vocabulary, K2 = 512 joint symbols, T positions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dbyte.text.spans import BOS, EOS

Loss = tuple[Tensor, Tensor]
WHITE_SPACE = tuple(b" \t\n\r\v\f")
PROB_FLOOR = 1e-6  # a cosine router reaches p = 0 or 1 exactly; the log must not


def align(chunk_BME: Tensor, embedding_BME: Tensor, mask_BM: Tensor) -> Loss:
    """Squared L2 distance between chunk and teacher embeddings (Eq. 2), summed over E and over masked positions."""
    squared_BM = (chunk_BME.float() - embedding_BME.float()).square().sum(-1)
    return (squared_BM * mask_BM).sum(), mask_BM.sum()


def distill(student_logits_BMV: Tensor, teacher_logits_BMV: Tensor, mask_BM: Tensor) -> Loss:
    """KL(teacher || student) in nats (Eq. 3), summed over masked positions; zero iff the distributions agree."""
    kl_BM = _kl(student_logits_BMV, teacher_logits_BMV)
    return kl_BM.masked_fill(~mask_BM, 0).sum(), mask_BM.sum()


def _kl(student_logits_TV: Tensor, teacher_logits_TV: Tensor) -> Tensor:
    student_TV, teacher_TV = student_logits_TV.float().log_softmax(-1), teacher_logits_TV.float().log_softmax(-1)
    return F.kl_div(student_TV, teacher_TV, reduction="none", log_target=True).sum(-1)


def boundary(prob_BL: Tensor, label_BL: Tensor, mask_BL: Tensor) -> Loss:
    """Binary cross-entropy of boundary probabilities in [0, 1] (Eq. 4), in nats, over masked bytes."""
    prob_BL = prob_BL.float().clamp(PROB_FLOOR, 1 - PROB_FLOOR)
    with torch.autocast(prob_BL.device.type, enabled=False):  # on CUDA autocast refuses it, in fp32 too
        bce_BL = F.binary_cross_entropy(prob_BL, label_BL.float(), reduction="none")
    return (bce_BL * mask_BL).sum(), mask_BL.sum()


def white_space_cuts(prob_BL: Tensor, before_space_BL: Tensor, mask_BL: Tensor) -> Loss:
    """-log(1 - p) in nats, summed over the masked bytes that stand right before white space (appendix A.2's penalty).

    It is what Eq. 4 would say if no such byte ended a token. The count is that of all masked bytes: a penalty per byte.
    """
    prob_BL = prob_BL.float().clamp(PROB_FLOOR, 1 - PROB_FLOOR)
    return (-torch.log1p(-prob_BL) * (before_space_BL & mask_BL)).sum(), mask_BL.sum()


def next_byte(joint_logits_BLK2: Tensor, label_BL: Tensor, mask_BL: Tensor) -> Loss:
    """Cross-entropy in nats of the joint symbol (next byte, ends a chunk), over masked bytes."""
    ce_BL = F.cross_entropy(joint_logits_BLK2.float().transpose(1, 2), label_BL, reduction="none")
    return (ce_BL * mask_BL).sum(), mask_BL.sum()


# -- labels and masks -------------------------------------------------------------------------------------------------


def joint_labels(byte_ids_BL: Tensor, boundary_BL: Tensor) -> Tensor:
    """JBP's label at byte i: byte[i + 1] + 256 * boundary[i + 1] (section 4.1.2); the last column is 0, mask it."""
    joint_BL = byte_ids_BL + 256 * boundary_BL.long()
    return F.pad(joint_BL[:, 1:], (0, 1))


def before_space(byte_ids_BL: Tensor, document_BL: Tensor) -> Tensor:
    """True for the bytes right before white space of the same document, where the space bias cuts (appendix A.2)."""
    space_BL = torch.isin(byte_ids_BL, torch.tensor(WHITE_SPACE, device=byte_ids_BL.device))
    return F.pad(space_BL[:, 1:], (0, 1)) & has_next(document_BL)


def has_next(document_BX: Tensor) -> Tensor:
    """True where the next position of the row belongs to the same document (padding is document -1)."""
    same_BX = (document_BX[:, 1:] == document_BX[:, :-1]) & (document_BX[:, :-1] >= 0)
    return F.pad(same_BX, (0, 1))


def routed(byte_ids_BL: Tensor, document_BL: Tensor) -> Tensor:
    """True for the bytes whose boundary the router decides: text bytes that another text byte follows.

    BOS, EOS, the byte before EOS and the last byte of a document are boundaries by contract.
    """
    special_BL = (byte_ids_BL == BOS) | (byte_ids_BL == EOS)
    next_special_BL = F.pad(special_BL[:, 1:], (0, 1), value=True)
    return has_next(document_BL) & ~special_BL & ~next_special_BL


