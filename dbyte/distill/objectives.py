"""What one batch contributes to each step's loss: the model's parts that the step needs, and no others.

A loss is a sum of means, and what each mean is divided by depends on the batch alone. So an objective gives sums and
counts apart: the counts of all micro-batches and processes are known before the first of them runs, and a mean is
never a mean of means. Frozen parts run without a graph, and parts that the loss does not reach do not run: step 1.1
needs no core, step 1.3 neither core nor head.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from dbyte.distill import losses
from dbyte.distill.in_rows import distill_in_rows, token_in_rows
from dbyte.model.chunking import Chunks, find_chunks
from dbyte.model.core import restarted, run_core
from dbyte.model.router import THRESHOLD
from dbyte.model.student import ByteStudent
from dbyte.text.packing import Batch


@dataclass(frozen=True)
class Objective:
    """What a step minimises: the sum over its terms of (summed loss / count).

    sums: (model, teacher, batch) to one fp32 scalar a term. counts: (model, batch) to one int64 scalar a term, without
    running the model. reads_teacher: "whole"; "embeddings", its targets
    being a look-up; or "", where the teacher may be None.
    """

    name: str
    sums: Callable[[nn.Module, PreTrainedModel | None, Batch], tuple[Tensor, ...]]
    counts: Callable[[nn.Module, Batch], tuple[Tensor, ...]]
    reads_teacher: str = ""

    def __call__(self, model: nn.Module, teacher: PreTrainedModel | None, batch: Batch) -> Tensor:
        """The loss of one batch by itself."""
        return mean(self.sums(model, teacher, batch), self.counts(model, batch))


def mean(sums: tuple[Tensor, ...], counts: tuple[Tensor, ...]) -> Tensor:
    """The sum of sum / count over terms; a term without positions is zero."""
    return sum(total / count.clamp(min=1) for total, count in zip(sums, counts, strict=True))


# -- what the means are over ------------------------------------------------------------------------------------------


def _tokens(_: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
    return (batch.token_mask_BM.sum(),)


def _predicted_tokens(_: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
    return (losses.has_next(batch.token_document_BM).sum(),)


def _routed_bytes(_: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
    return (losses.routed(batch.byte_ids_BL, batch.document_BL).sum(),)


def _predicted_bytes(student: ByteStudent, batch: Batch) -> tuple[Tensor, ...]:
    first = losses.has_next(batch.document_BL).sum()
    return (first,) if student.second_head is None else (first, _has_two(batch).sum())


def _together(*terms: Callable) -> Callable[[nn.Module, Batch], tuple[Tensor, ...]]:
    return lambda model, batch: tuple(count for term in terms for count in term(model, batch))


def _has_two(batch: Batch) -> Tensor:
    """True for the bytes that two more bytes of their document follow."""
    has_next_BL = losses.has_next(batch.document_BL)
    return has_next_BL & F.pad(has_next_BL[:, 1:], (0, 1))


# -- the sums ---------------------------------------------------------------------------------------------------------


def _token(model: PreTrainedModel, _: None, batch: Batch) -> tuple[Tensor, ...]:
    embedded_BME = model.get_input_embeddings()(batch.token_ids_BM)
    hidden_BME = run_core(model.model, embedded_BME, batch.token_document_BM)
    mask_BM = losses.has_next(batch.token_document_BM)
    next_BM = batch.token_ids_BM.roll(-1, dims=1)
    return token_in_rows(hidden_BME[mask_BM], model.get_output_embeddings().weight, next_BM[mask_BM])[:1]


def _align(student: ByteStudent, teacher: PreTrainedModel, batch: Batch) -> tuple[Tensor, ...]:
    return (_distance(student, teacher, batch, student.encode(batch.byte_ids_BL, batch.document_BL)),)


def _align_with_boundary(student: ByteStudent, teacher: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    encoded_BLD = student.encode(batch.byte_ids_BL, batch.document_BL)
    return _distance(student, teacher, batch, encoded_BLD), _wrong_cuts(_route(student, encoded_BLD, batch), batch)


def _distance(student: ByteStudent, teacher: PreTrainedModel, batch: Batch, encoded_BLD: Tensor) -> Tensor:
    chunk_BME = student.chunk_embeddings(encoded_BLD, teacher_chunks(batch))
    with torch.no_grad():
        embedding_BME = teacher.get_input_embeddings()(batch.token_ids_BM)
    return losses.align(chunk_BME, embedding_BME, batch.token_mask_BM)[0]


def _align_mean(student: ByteStudent, teacher: PreTrainedModel, batch: Batch) -> tuple[Tensor, ...]:
    return tuple(total / student.config.core_config.hidden_size for total in _align(student, teacher, batch))


def _joint(*weights: float) -> Callable[[ByteStudent, PreTrainedModel, Batch], tuple[Tensor, ...]]:
    def sums(student: ByteStudent, teacher: PreTrainedModel, batch: Batch) -> tuple[Tensor, ...]:
        encoded_BLD = student.encode(batch.byte_ids_BL, batch.document_BL)
        terms = (_distance(student, teacher, batch, encoded_BLD),
                 _divergence(student, teacher, batch, encoded_BLD, "forward"),
                 _wrong_cuts(_route(student, encoded_BLD, batch), batch))
        return tuple(weight * term for weight, term in zip(weights, terms, strict=True))

    return sums


def _distill(divergence: str) -> Callable[[ByteStudent, PreTrainedModel, Batch], tuple[Tensor, ...]]:
    def sums(student: ByteStudent, teacher: PreTrainedModel, batch: Batch) -> tuple[Tensor, ...]:
        return (_divergence(student, teacher, batch, student.encode(batch.byte_ids_BL, batch.document_BL), divergence),)

    return sums


def _distill_with_boundary(student: ByteStudent, teacher: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    encoded_BLD = student.encode(batch.byte_ids_BL, batch.document_BL)
    return (_divergence(student, teacher, batch, encoded_BLD, "forward"),
            _wrong_cuts(_route(student, encoded_BLD, batch), batch))


def _divergence(
    student: ByteStudent, teacher: PreTrainedModel, batch: Batch, encoded_BLD: Tensor, divergence: str
) -> Tensor:
    chunks = teacher_chunks(batch)
    student_BME = student.run_core(student.chunk_embeddings(encoded_BLD, chunks), chunks)
    with torch.no_grad():
        embedded_BME = teacher.get_input_embeddings()(batch.token_ids_BM)
        teacher_BME = run_core(teacher.model, embedded_BME, batch.token_document_BM)
    predicts_BM = losses.has_next(batch.token_document_BM)
    return distill_in_rows(student_BME[predicts_BM], student.token_head.weight, teacher_BME[predicts_BM],
                           teacher.get_output_embeddings().weight, divergence=divergence)[0]


def _boundary(student: ByteStudent, _: PreTrainedModel, batch: Batch) -> tuple[Tensor, ...]:
    with torch.no_grad():
        encoded_BLD = student.encode(batch.byte_ids_BL, batch.document_BL)
    return (_wrong_cuts(_route(student, encoded_BLD, batch), batch),)


def _boundary_penalised(weight: float) -> Callable[[ByteStudent, None, Batch], tuple[Tensor, ...]]:
    def sums(student: ByteStudent, _: None, batch: Batch) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            encoded_BLD = student.encode(batch.byte_ids_BL, batch.document_BL)
        prob_BL = _route(student, encoded_BLD, batch)
        penalty, _ = losses.white_space_cuts(prob_BL, losses.before_space(batch.byte_ids_BL, batch.document_BL),
                                             losses.routed(batch.byte_ids_BL, batch.document_BL))
        return _wrong_cuts(prob_BL, batch), weight * penalty

    return sums


def _next_token(student: ByteStudent, _: None, batch: Batch) -> tuple[Tensor, Tensor]:
    """Next-token cross-entropy along the teacher's tokens, and Eq. 4: the router learns to cut that text too."""
    encoded_BLD = student.encode(batch.byte_ids_BL, batch.document_BL)
    chunks = teacher_chunks(batch)
    hidden_BME = student.run_core(student.chunk_embeddings(encoded_BLD, chunks), chunks)
    mask_BM = losses.has_next(batch.token_document_BM)
    next_BM = batch.token_ids_BM.roll(-1, dims=1)
    written, _ = token_in_rows(hidden_BME[mask_BM], student.token_head.weight, next_BM[mask_BM])
    return written, _wrong_cuts(_route(student, encoded_BLD, batch), batch)


def _route(student: ByteStudent, encoded_BLD: Tensor, batch: Batch) -> Tensor:
    return student.route(encoded_BLD, batch.byte_ids_BL, batch.document_BL)


def _wrong_cuts(prob_BL: Tensor, batch: Batch) -> Tensor:
    """Eq. 4 against the teacher's boundaries."""
    return losses.boundary(prob_BL, batch.boundary_BL, losses.routed(batch.byte_ids_BL, batch.document_BL))[0]


def _head(student: ByteStudent, _: PreTrainedModel, batch: Batch) -> tuple[Tensor, ...]:
    with torch.no_grad():
        encoded_BLD = student.encode(batch.byte_ids_BL, batch.document_BL)
        chunks, prob_BL = router_chunks(student, encoded_BLD, batch)
        core_BME = student.run_core(student.chunk_embeddings(encoded_BLD, chunks), chunks)
    return _next_bytes(student, encoded_BLD, core_BME, chunks, prob_BL, batch)


def _full(student: ByteStudent, _: PreTrainedModel, batch: Batch) -> tuple[Tensor, ...]:
    encoded_BLD = student.encode(batch.byte_ids_BL, batch.document_BL)
    chunks, prob_BL = router_chunks(student, encoded_BLD, batch)
    core_BME = student.run_core(student.chunk_embeddings(encoded_BLD, chunks), chunks)
    return _next_bytes(student, encoded_BLD, core_BME, chunks, prob_BL, batch)


def _full_with_boundary(student: ByteStudent, _: PreTrainedModel, batch: Batch) -> tuple[Tensor, ...]:
    encoded_BLD = student.encode(batch.byte_ids_BL, batch.document_BL)
    prob_BL = _route(student, encoded_BLD, batch)
    chunks = _cut(student, prob_BL, batch)
    core_BME = student.run_core(student.chunk_embeddings(encoded_BLD, chunks), chunks)
    return (*_next_bytes(student, encoded_BLD, core_BME, chunks, prob_BL, batch), _wrong_cuts(prob_BL, batch))


def _next_bytes(
    student: ByteStudent, encoded_BLD: Tensor, core_BME: Tensor, chunks: Chunks, prob_BL: Tensor, batch: Batch
) -> tuple[Tensor, ...]:
    """JBP: the joint symbol, whose flags are the boundaries that chunked the row. MBP: the next two bytes."""
    decoded_BLD = student.decode(core_BME, encoded_BLD, chunks, batch.document_BL, prob_BL)
    has_next_BL = losses.has_next(batch.document_BL)
    if student.second_head is None:
        labels_BL = losses.joint_labels(batch.byte_ids_BL, chunks.boundary_BL)
        return losses.next_byte(student.byte_head(decoded_BLD), labels_BL, has_next_BL)[:1]
    first, _ = losses.next_byte(student.byte_head(decoded_BLD), batch.byte_ids_BL.roll(-1, 1), has_next_BL)
    second, _ = losses.next_byte(student.second_head(decoded_BLD), batch.byte_ids_BL.roll(-2, 1), _has_two(batch))
    return first, second


def teacher_chunks(batch: Batch) -> Chunks:
    """The chunks that the teacher's tokens close."""
    return find_chunks(batch.boundary_BL, batch.document_BL, batch.mask_BL)


def router_chunks(student: ByteStudent, encoded_BLD: Tensor, batch: Batch) -> tuple[Chunks, Tensor]:
    """The chunks that the router closes, and boundary_prob_BL, with gradients where the decoder reads it."""
    if not (student.config.smoothing or student.config.confidence):
        encoded_BLD = encoded_BLD.detach()
    prob_BL = student.route(encoded_BLD, batch.byte_ids_BL, batch.document_BL)
    return _cut(student, prob_BL, batch), prob_BL


def _cut(student: ByteStudent, prob_BL: Tensor, batch: Batch) -> Chunks:
    chunks = find_chunks((prob_BL >= THRESHOLD) & batch.mask_BL, batch.document_BL, batch.mask_BL)
    # Rows are packed so that the teacher's tokens fit the core. A router may cut finer: then the core begins anew.
    positions = student.config.core_config.max_position_embeddings
    return replace(chunks, document_BM=restarted(chunks.document_BM, positions))


# -- the objectives ---------------------------------------------------------------------------------------------------

token = Objective("token", _token, _predicted_tokens)
"""Next-token cross-entropy: how the small teachers are trained."""
align = Objective("align", _align, _tokens, "embeddings")
"""Step 1.1: chunk embeddings against the teacher's static embeddings, at the teacher's boundaries (Eq. 2)."""
align_with_boundary = Objective(
    "align_with_boundary", _align_with_boundary, _together(_tokens, _routed_bytes), "embeddings")
"""Step 1.1 with Eq. 4 beside the distance, at equal weight: the encoder learns to carry what the router reads."""
align_mean = Objective("align_mean", _align_mean, _tokens, "embeddings")
"""Step 1.1 with the mean over E in place of Eq. 2's sum, as in the authors' code."""
distill = Objective("distill", _distill("forward"), _predicted_tokens, "whole")
"""Step 1.2: KL(teacher || student) over the next token, at the teacher's boundaries (Eq. 3)."""
distill_reverse = Objective("distill_reverse", _distill("reverse"), _predicted_tokens, "whole")
"""Step 1.2 with KL(student || teacher), as in the authors' code."""
distill_js = Objective("distill_js", _distill("js"), _predicted_tokens, "whole")
"""Step 1.2 with the Jensen-Shannon divergence."""
distill_with_boundary = Objective(
    "distill_with_boundary", _distill_with_boundary, _together(_predicted_tokens, _routed_bytes), "whole")
"""Step 1.2 with Eq. 4 beside the divergence, at equal weight."""
boundary = Objective("boundary", _boundary, _routed_bytes)
"""Step 1.3: the router against the teacher's boundaries, on a frozen encoder (Eq. 4)."""
head = Objective("head", _head, _predicted_bytes)
"""Step 2.1: next byte, with encoder, router and core frozen (section 4.2.2)."""
full = Objective("full", _full, _predicted_bytes)
"""Step 2.2: next byte, through everything (section 4.2.2)."""
full_with_boundary = Objective("full_with_boundary", _full_with_boundary, _together(_predicted_bytes, _routed_bytes))
"""Step 2.2 with Eq. 4 beside the next byte, at equal weight: the encoder moves, and the router must not lose it."""

next_token = Objective("next_token", _next_token, _together(_predicted_tokens, _routed_bytes))
"""Stage 1 on its own tokens: next-token cross-entropy along the teacher's tokens, with Eq. 4 beside it (Table 8)."""


def boundary_penalised(weight: float) -> Objective:
    """Step 1.3 with a penalty of this weight on cuts right before white space (appendix A.2's Whitespace Penalty)."""
    return Objective(f"boundary_penalised {weight:g}", _boundary_penalised(weight),
                     _together(_routed_bytes, _routed_bytes))


def joint(align: float, distill: float, boundary: float) -> Objective:
    """The joint objective of section 4.2.1: Eq. 2, Eq. 3 and Eq. 4 at these weights, through everything at once."""
    return Objective(f"joint {align:g} {distill:g} {boundary:g}", _joint(align, distill, boundary),
                     _together(_tokens, _predicted_tokens, _routed_bytes), "whole")
