"""What one batch contributes to each step's loss: the model's parts that the step needs, and no others.

An objective is a function (model, teacher, batch) -> (sum, count). Frozen parts run without a graph, and parts that
the loss does not reach do not run: step 1.1 needs no core, step 1.3 neither core nor head.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from dbyte.distill import losses
from dbyte.distill.in_rows import distill_in_rows, token_in_rows
from dbyte.model.chunking import Chunks, find_chunks
from dbyte.model.core import run_core
from dbyte.model.router import THRESHOLD
from dbyte.model.student import ByteStudent
from dbyte.text.packing import Batch

Objective = Callable[[nn.Module, PreTrainedModel | None, Batch], losses.Loss]


def token(model: PreTrainedModel, _: None, batch: Batch) -> losses.Loss:
    """Next-token cross-entropy: how the small teachers are trained."""
    embedded_BME = model.get_input_embeddings()(batch.token_ids_BM)
    hidden_BME = run_core(model.model, embedded_BME, batch.token_document_BM)
    mask_BM = losses.has_next(batch.token_document_BM)
    next_BM = batch.token_ids_BM.roll(-1, dims=1)
    return token_in_rows(hidden_BME[mask_BM], model.get_output_embeddings().weight, next_BM[mask_BM])


def align(student: ByteStudent, teacher: PreTrainedModel, batch: Batch) -> losses.Loss:
    """Step 1.1: chunk embeddings against the teacher's static embeddings, at the teacher's boundaries (Eq. 2)."""
    return _align(student, teacher, batch, student.encode(batch.byte_ids_BL, batch.document_BL))


def align_with_boundary(student: ByteStudent, teacher: PreTrainedModel, batch: Batch) -> losses.Loss:
    """Step 1.1 with Eq. 4 beside the distance, at equal weight: the encoder learns to carry what the router reads."""
    encoded_BLD = student.encode(batch.byte_ids_BL, batch.document_BL)
    prob_BL = student.route(encoded_BLD, batch.byte_ids_BL, batch.document_BL)
    return _with_boundary(_align(student, teacher, batch, encoded_BLD), prob_BL, batch)


def _align(student: ByteStudent, teacher: PreTrainedModel, batch: Batch, encoded_BLD: Tensor) -> losses.Loss:
    chunk_BME = student.chunk_embeddings(encoded_BLD, teacher_chunks(batch))
    with torch.no_grad():
        embedding_BME = teacher.get_input_embeddings()(batch.token_ids_BM)
    return losses.align(chunk_BME, embedding_BME, batch.token_mask_BM)


def distill(student: ByteStudent, teacher: PreTrainedModel, batch: Batch) -> losses.Loss:
    """Step 1.2: KL(teacher || student) over the next token, at the teacher's boundaries (Eq. 3)."""
    return _distill(student, teacher, batch, student.encode(batch.byte_ids_BL, batch.document_BL))


def distill_reverse(student: ByteStudent, teacher: PreTrainedModel, batch: Batch) -> losses.Loss:
    """Step 1.2 with KL(student || teacher), as in the authors' code."""
    return _distill(student, teacher, batch, student.encode(batch.byte_ids_BL, batch.document_BL), "reverse")


def distill_js(student: ByteStudent, teacher: PreTrainedModel, batch: Batch) -> losses.Loss:
    """Step 1.2 with the Jensen-Shannon divergence."""
    return _distill(student, teacher, batch, student.encode(batch.byte_ids_BL, batch.document_BL), "js")


def distill_with_boundary(student: ByteStudent, teacher: PreTrainedModel, batch: Batch) -> losses.Loss:
    """Step 1.2 with Eq. 4 beside the divergence, at equal weight: the encoder learns to carry what the router reads."""
    encoded_BLD = student.encode(batch.byte_ids_BL, batch.document_BL)
    prob_BL = student.route(encoded_BLD, batch.byte_ids_BL, batch.document_BL)
    return _with_boundary(_distill(student, teacher, batch, encoded_BLD), prob_BL, batch)


def _distill(
    student: ByteStudent, teacher: PreTrainedModel, batch: Batch, encoded_BLD: Tensor, divergence: str = "forward"
) -> losses.Loss:
    chunks = teacher_chunks(batch)
    student_BME = student.run_core(student.chunk_embeddings(encoded_BLD, chunks), chunks)
    with torch.no_grad():
        embedded_BME = teacher.get_input_embeddings()(batch.token_ids_BM)
        teacher_BME = run_core(teacher.model, embedded_BME, batch.token_document_BM)
    predicts_BM = losses.has_next(batch.token_document_BM)
    return distill_in_rows(student_BME[predicts_BM], student.token_head.weight, teacher_BME[predicts_BM],
                           teacher.get_output_embeddings().weight, divergence=divergence)


def boundary(student: ByteStudent, _: PreTrainedModel, batch: Batch) -> losses.Loss:
    """Step 1.3: the router against the teacher's boundaries, on a frozen encoder (Eq. 4)."""
    with torch.no_grad():
        encoded_BLD = student.encode(batch.byte_ids_BL, batch.document_BL)
    prob_BL = student.route(encoded_BLD, batch.byte_ids_BL, batch.document_BL)
    return losses.boundary(prob_BL, batch.boundary_BL, losses.routed(batch.byte_ids_BL, batch.document_BL))


def head(student: ByteStudent, _: PreTrainedModel, batch: Batch) -> losses.Loss:
    """Step 2.1: next byte, with encoder, router and core frozen (section 4.2.2)."""
    with torch.no_grad():
        encoded_BLD = student.encode(batch.byte_ids_BL, batch.document_BL)
        chunks, prob_BL = router_chunks(student, encoded_BLD, batch)
        core_BME = student.run_core(student.chunk_embeddings(encoded_BLD, chunks), chunks)
    return _next_byte(student, encoded_BLD, core_BME, chunks, prob_BL, batch)


def full(student: ByteStudent, _: PreTrainedModel, batch: Batch) -> losses.Loss:
    """Step 2.2: next byte, through everything (section 4.2.2)."""
    encoded_BLD = student.encode(batch.byte_ids_BL, batch.document_BL)
    chunks, prob_BL = router_chunks(student, encoded_BLD, batch)
    core_BME = student.run_core(student.chunk_embeddings(encoded_BLD, chunks), chunks)
    return _next_byte(student, encoded_BLD, core_BME, chunks, prob_BL, batch)


def full_with_boundary(student: ByteStudent, _: PreTrainedModel, batch: Batch) -> losses.Loss:
    """Step 2.2 with Eq. 4 beside the next byte, at equal weight: the encoder moves, and the router must not lose it."""
    encoded_BLD = student.encode(batch.byte_ids_BL, batch.document_BL)
    prob_BL = student.route(encoded_BLD, batch.byte_ids_BL, batch.document_BL)
    chunks = _cut(prob_BL, batch)
    core_BME = student.run_core(student.chunk_embeddings(encoded_BLD, chunks), chunks)
    return _with_boundary(_next_byte(student, encoded_BLD, core_BME, chunks, prob_BL, batch), prob_BL, batch)


def _with_boundary(loss: losses.Loss, prob_BL: Tensor, batch: Batch) -> losses.Loss:
    """A loss plus the mean of Eq. 4 against the teacher's boundaries."""
    total, count = loss
    wrong, routed = losses.boundary(prob_BL, batch.boundary_BL, losses.routed(batch.byte_ids_BL, batch.document_BL))
    return total + wrong * count / routed.clamp(min=1), count


def _next_byte(
    student: ByteStudent, encoded_BLD: Tensor, core_BME: Tensor, chunks: Chunks, prob_BL: Tensor, batch: Batch
) -> losses.Loss:
    """JBP: the joint symbol, whose flags are the boundaries that chunked the row. MBP: the next two bytes, summed."""
    decoded_BLD = student.decode(core_BME, encoded_BLD, chunks, batch.document_BL, prob_BL)
    has_next_BL = losses.has_next(batch.document_BL)
    if student.second_head is None:
        labels_BL = losses.joint_labels(batch.byte_ids_BL, chunks.boundary_BL)
        return losses.next_byte(student.byte_head(decoded_BLD), labels_BL, has_next_BL)
    first, count = losses.next_byte(student.byte_head(decoded_BLD), batch.byte_ids_BL.roll(-1, 1), has_next_BL)
    second, seconds = losses.next_byte(student.second_head(decoded_BLD), batch.byte_ids_BL.roll(-2, 1),
                                       has_next_BL & F.pad(has_next_BL[:, 1:], (0, 1)))
    return first + second * count / seconds.clamp(min=1), count


def teacher_chunks(batch: Batch) -> Chunks:
    """The chunks that the teacher's tokens close."""
    return find_chunks(batch.boundary_BL, batch.document_BL, batch.mask_BL)


def router_chunks(student: ByteStudent, encoded_BLD: Tensor, batch: Batch) -> tuple[Chunks, Tensor]:
    """The chunks that the router closes, and boundary_prob_BL, with gradients where the decoder reads it."""
    if not (student.config.smoothing or student.config.confidence):
        encoded_BLD = encoded_BLD.detach()
    prob_BL = student.route(encoded_BLD, batch.byte_ids_BL, batch.document_BL)
    return _cut(prob_BL, batch), prob_BL


def _cut(prob_BL: Tensor, batch: Batch) -> Chunks:
    return find_chunks((prob_BL >= THRESHOLD) & batch.mask_BL, batch.document_BL, batch.mask_BL)
