"""The losses of the curriculum, as pure functions that return (sum, count) in fp32.

    align      L_align     Eq. 2   squared L2 distance to the teacher's static embedding, at token ends
    distill    L_distill   Eq. 3   KL(teacher || student) over the vocabulary, at token ends
    boundary   L_boundary  Eq. 4   binary cross-entropy per byte
    next_byte  section 4.2.2       cross-entropy over the 512 joint symbols of JBP (section 4.1.2)
    token      the teacher's own next-token cross-entropy

The caller divides the summed loss by the summed count once, so that a mean is never a mean of means.

Shape letters: B rows, L bytes, M chunks or tokens, E core width, V vocabulary, K2 = 512 joint symbols, T positions.
"""


import torch
import torch.nn.functional as F
from torch import Tensor

from dbyte.text.spans import BOS, EOS

Loss = tuple[Tensor, Tensor]
PROB_FLOOR = 1e-6  # a cosine router reaches p = 0 or 1 exactly; the log must not
ROWS_AT_ONCE = 1024


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


def distill_in_rows(
    student_TE: Tensor, student_head_VE: Tensor, teacher_TE: Tensor, teacher_head_VE: Tensor,
    *, rows: int = ROWS_AT_ONCE,
) -> Loss:
    """`distill` from hidden states, with both heads applied to `rows` positions at a time.

    Memory beyond the inputs is O(rows * V), whatever T is: the gradient of each slice is taken while its logits exist.

    Args:
        student_TE, teacher_TE: the hidden states of the positions that count, widths may differ.
        student_head_VE, teacher_head_VE: head weights; the student's receives a gradient if it asks for one.
    """
    loss = _InRows.apply(student_TE, student_head_VE, teacher_TE.detach(), teacher_head_VE.detach(), rows)
    return loss, torch.tensor(len(student_TE), device=loss.device)


class _InRows(torch.autograd.Function):
    """Sum the KL over slices of positions, keeping gradients instead of logits."""

    @staticmethod
    def forward(ctx, student_TE, student_head_VE, teacher_TE, teacher_head_VE, rows):
        wants_hidden, wants_head = ctx.needs_input_grad[:2]
        grad_TE = torch.zeros_like(student_TE) if wants_hidden else None
        grad_head_VE = torch.zeros_like(student_head_VE, dtype=torch.float32) if wants_head else None
        total = student_TE.new_zeros((), dtype=torch.float32)
        for start in range(0, len(student_TE), rows):
            slice_ = slice(start, start + rows)
            student_TV = F.linear(student_TE[slice_], student_head_VE).float().log_softmax(-1)
            teacher_TV = F.linear(teacher_TE[slice_], teacher_head_VE).float().log_softmax(-1)
            total += F.kl_div(student_TV, teacher_TV, reduction="sum", log_target=True)
            if wants_hidden or wants_head:  # d KL / d student logits = p_student - p_teacher
                difference_TV = (student_TV.exp_() - teacher_TV.exp_()).to(student_TE.dtype)
            if wants_hidden:
                grad_TE[slice_] = difference_TV @ student_head_VE
            if wants_head:
                grad_head_VE += difference_TV.T @ student_TE[slice_]
        ctx.save_for_backward(grad_TE, grad_head_VE)
        ctx.head_dtype = student_head_VE.dtype
        return total

    @staticmethod
    def backward(ctx, grad):
        grad_TE, grad_head_VE = ctx.saved_tensors
        return (None if grad_TE is None else grad_TE * grad,
                None if grad_head_VE is None else (grad_head_VE * grad).to(ctx.head_dtype), None, None, None)


def boundary(prob_BL: Tensor, label_BL: Tensor, mask_BL: Tensor) -> Loss:
    """Binary cross-entropy of boundary probabilities in [0, 1] (Eq. 4), in nats, over masked bytes."""
    prob_BL = prob_BL.float().clamp(PROB_FLOOR, 1 - PROB_FLOOR)
    bce_BL = F.binary_cross_entropy(prob_BL, label_BL.float(), reduction="none")
    return (bce_BL * mask_BL).sum(), mask_BL.sum()


def next_byte(joint_logits_BLK2: Tensor, label_BL: Tensor, mask_BL: Tensor) -> Loss:
    """Cross-entropy in nats of the joint symbol (next byte, ends a chunk), over masked bytes."""
    ce_BL = F.cross_entropy(joint_logits_BLK2.float().transpose(1, 2), label_BL, reduction="none")
    return (ce_BL * mask_BL).sum(), mask_BL.sum()


def token(logits_BMV: Tensor, next_token_BM: Tensor, mask_BM: Tensor) -> Loss:
    """Cross-entropy in nats of the next token, over masked positions."""
    ce_BM = F.cross_entropy(logits_BMV.float().transpose(1, 2), next_token_BM, reduction="none")
    return (ce_BM * mask_BM).sum(), mask_BM.sum()


# -- labels and masks -------------------------------------------------------------------------------------------------


def joint_labels(byte_ids_BL: Tensor, boundary_BL: Tensor) -> Tensor:
    """JBP's label at byte i: byte[i + 1] + 256 * boundary[i + 1] (section 4.1.2); the last column is 0, mask it."""
    joint_BL = byte_ids_BL + 256 * boundary_BL.long()
    return F.pad(joint_BL[:, 1:], (0, 1))


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


