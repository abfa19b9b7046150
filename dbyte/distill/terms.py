"""The terms of an objective: one loss of `losses.py` each, from the parts of the student that it reads.

A term names the positions that it is summed over without running the model: so the counts of all micro-batches and
processes are known before the first of them runs, and a mean is never a mean of means. Parts that no term reads do not
run: step 1.1 needs no core, step 1.3 neither core nor head. Parts that do not train leave no graph.

Shape letters: B rows, L bytes, M tokens or chunks, D byte width, E core width, K symbols of a byte head, T positions.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dbyte.distill import losses, sliced_losses
from dbyte.distill.losses import Loss
from dbyte.model.chunking import Chunks, find_chunks
from dbyte.model.core import first_layers, restarted, run_core
from dbyte.text.packing import Batch


@dataclass
class Forward:
    """One batch on its way through a model; each part runs once, when a term first reads it.

    model: the student, or a causal language model with the teacher's tokens. routes: whether a term reads the router's
    probabilities; if not, no gradient flows from the router into the encoder.
    """

    model: nn.Module
    teacher: nn.Module | None
    batch: Batch
    routes: bool = False

    @cached_property
    def encoded_BLD(self) -> Tensor:
        """The encoder's output for each byte."""
        return self.model.encode(self.batch.byte_ids_BL, self.batch.document_BL)

    @cached_property
    def prob_BL(self) -> Tensor:
        """The router's boundary probabilities, in [0, 1]."""
        encoded_BLD = self.encoded_BLD
        decoder_reads_it = self.model.config.smoothing or self.model.config.confidence
        if not (self.routes or decoder_reads_it):
            encoded_BLD = encoded_BLD.detach()
        return self.model.route(encoded_BLD, self.batch.byte_ids_BL, self.batch.document_BL)

    @cached_property
    def router_chunks(self) -> Chunks:
        """The chunks that the router's boundaries close."""
        return self.chunks_along(self.model.end_chunks(self.prob_BL, self.batch.byte_ids_BL, self.batch.mask_BL))

    def chunks_along(self, boundary_BL: Tensor) -> Chunks:
        """The chunks that boundaries of the student close."""
        chunks = find_chunks(boundary_BL, self.batch.document_BL, self.batch.mask_BL)
        # Rows are packed so that the teacher's tokens fit the core. Finer chunks may not: then the core starts again.
        positions = self.model.config.core_config.max_position_embeddings
        return replace(chunks, document_BM=restarted(chunks.document_BM, positions))

    def core_along(self, chunks: Chunks) -> Tensor:
        """The core's output for each chunk: [B, M, E]."""
        embedding_BME = self.model.chunk_embeddings(self.encoded_BLD, chunks, self.batch.byte_ids_BL)
        return self.model.run_core(embedding_BME, chunks)

    @cached_property
    def core_BME(self) -> Tensor:
        """The core's output along the router's chunks."""
        return self.core_along(self.router_chunks)

    @cached_property
    def decoded_BLD(self) -> Tensor:
        """The decoder's output for each byte, along the router's chunks."""
        return self._decode(self.core_BME, self.router_chunks)

    @cached_property
    def byte_logits_BLK(self) -> Tensor:
        """The (first) byte head's logits at each byte, along the router's chunks."""
        return self._byte_logits(self.decoded_BLD, self.core_BME, self.router_chunks)

    @cached_property
    def byte_logits_along_tokens_BLK(self) -> Tensor:
        """The byte head's logits at each byte, along the teacher's tokens."""
        core_BME = self.token_hidden()
        return self._byte_logits(self._decode(core_BME, self.teacher_chunks), core_BME, self.teacher_chunks)

    @cached_property
    def teacher_BME(self) -> Tensor:
        """The teacher's last hidden states."""
        with torch.no_grad():
            return language_model(self.teacher, self.batch)

    @cached_property
    def byte_logits_from_teacher_BLK(self) -> Tensor:
        """The byte head's logits at each byte, along the teacher's tokens, where the decoder reads its states."""
        decoded_BLD = self._decode(self.teacher_BME, self.teacher_chunks)
        return self._byte_logits(decoded_BLD, self.teacher_BME, self.teacher_chunks)

    def _decode(self, core_BME: Tensor, chunks: Chunks) -> Tensor:
        return self.model.decode(core_BME, self.encoded_BLD, chunks, self.batch.document_BL, self.prob_BL)

    def _byte_logits(self, decoded_BLD: Tensor, core_BME: Tensor, chunks: Chunks) -> Tensor:
        prior_BLK = self.model.prior_along(core_BME, self.batch.byte_ids_BL, chunks)
        return self.model.byte_logits(decoded_BLD, prior_BLK)

    @cached_property
    def teacher_chunks(self) -> Chunks:
        """The chunks that the teacher's tokens close."""
        return find_chunks(self.batch.boundary_BL, self.batch.document_BL, self.batch.mask_BL)

    def chunk_embeddings(self) -> Tensor:
        """What the core reads of each of the teacher's tokens: [B, M, E]."""
        return self.model.chunk_embeddings(self.encoded_BLD, self.teacher_chunks, self.batch.byte_ids_BL)

    def token_hidden(self) -> Tensor:
        """The core's output for each of the teacher's tokens: [B, M, E]."""
        return self.core_along(self.teacher_chunks)


@dataclass(frozen=True)
class Term:
    """One loss, and the positions that it is summed over.

    loss: (forward, mask) to (sum, count), fp32 and int64. where: batch to the bool mask, without running a model.
    reads_teacher: "whole"; "embeddings", a look-up; or "", where the teacher may be None. routes: whether it reads the
    router's probabilities.
    """

    loss: Callable[[Forward, Tensor], Loss]
    where: Callable[[Batch], Tensor]
    reads_teacher: str = ""
    routes: bool = False


def term(where: Callable[[Batch], Tensor], **reads: object) -> Callable[[Callable], Term]:
    """Make the decorated loss a Term over these positions."""
    return lambda loss: Term(loss, where, **reads)


def predicted_tokens(batch: Batch) -> Tensor:
    return losses.has_next(batch.token_document_BM)


def predicted_bytes(batch: Batch) -> Tensor:
    return losses.has_next(batch.document_BL)


def routed_bytes(batch: Batch) -> Tensor:
    return losses.routed(batch.byte_ids_BL, batch.document_BL)


@term(lambda batch: batch.token_mask_BM, reads_teacher="embeddings")
def align(forward: Forward, mask_BM: Tensor) -> Loss:
    """Eq. 2, at the teacher's boundaries."""
    with torch.no_grad():
        embedding_BME = forward.teacher.get_input_embeddings()(forward.batch.token_ids_BM)
    return losses.align(forward.chunk_embeddings(), embedding_BME, mask_BM)


@term(lambda batch: batch.token_mask_BM, reads_teacher="embeddings")
def align_mean(forward: Forward, mask_BM: Tensor) -> Loss:
    """Eq. 2 with the mean over E in place of the sum, as in the authors' code."""
    total, count = align.loss(forward, mask_BM)
    return total / forward.model.config.core_config.hidden_size, count


@cache
def match(layers: int) -> Term:
    """The core's states after its first layers, student against teacher, at the teacher's boundaries.

    arXiv 2512.15586, section 3.2.1, by the notes of its released code: the encoder learns through layers that do not.
    """
    def loss(forward: Forward, mask_BM: Tensor) -> Loss:
        batch = forward.batch
        student_BME = run_core(first_layers(forward.model.core, layers), forward.chunk_embeddings(),
                               forward.teacher_chunks.document_BM)
        with torch.no_grad():
            embedding_BME = forward.teacher.get_input_embeddings()(batch.token_ids_BM)
            teacher_BME = run_core(first_layers(forward.teacher.model, layers), embedding_BME,
                                   batch.token_document_BM)
        return losses.match(student_BME, teacher_BME, mask_BM)

    return Term(loss, lambda batch: batch.token_mask_BM, reads_teacher="whole")


def _divergence(forward: Forward, mask_BM: Tensor, *, divergence: losses.Divergence = losses.forward_kl) -> Loss:
    """Eq. 3, at the teacher's boundaries, or another divergence."""
    student_BME = forward.token_hidden()
    where = mask_BM.nonzero(as_tuple=True)
    return sliced_losses.distill(
        student_BME[where], forward.model.token_head.weight, forward.teacher_BME[where],
        forward.teacher.get_output_embeddings().weight, divergence=divergence)


distill = Term(_divergence, predicted_tokens, reads_teacher="whole")
distill_reverse = replace(distill, loss=partial(_divergence, divergence=losses.reverse_kl))
distill_js = replace(distill, loss=partial(_divergence, divergence=losses.jensen_shannon))


@term(routed_bytes, routes=True)
def boundary(forward: Forward, mask_BL: Tensor) -> Loss:
    """Eq. 4, against the teacher's boundaries."""
    return losses.boundary(forward.prob_BL, forward.batch.boundary_BL, mask_BL)


@term(routed_bytes, routes=True)
def space_penalty(forward: Forward, mask_BL: Tensor) -> Loss:
    """Appendix A.2's penalty on boundaries right before white space."""
    before_space_BL = losses.before_space(forward.batch.byte_ids_BL, forward.batch.document_BL)
    return losses.space_penalty(forward.prob_BL, before_space_BL, mask_BL)


@term(predicted_bytes)
def next_byte(forward: Forward, mask_BL: Tensor) -> Loss:
    """The next byte, along the router's boundaries (section 4.2.2).

    JBP predicts it together with its flag, and the flags are those boundaries.
    """
    byte_ids_BL = forward.batch.byte_ids_BL
    if forward.model.second_head is None:
        label_BL = losses.joint_labels(byte_ids_BL, forward.router_chunks.boundary_BL)
    else:
        label_BL = byte_ids_BL.roll(-1, 1)
    return losses.next_byte(forward.byte_logits_BLK, label_BL, mask_BL)


@term(lambda batch: losses.has_two(batch.document_BL))
def second_byte(forward: Forward, mask_BL: Tensor) -> Loss:
    """The byte after the next one by MBP's second head (section 4.1.2); zero for JBP, which has none."""
    if forward.model.second_head is None:
        return torch.zeros((), device=mask_BL.device), mask_BL.sum()
    second_logits_BLK = forward.model.second_head(forward.decoded_BLD)
    return losses.next_byte(second_logits_BLK, forward.batch.byte_ids_BL.roll(-2, 1), mask_BL)


@term(predicted_tokens)
def next_token(forward: Forward, mask_BM: Tensor) -> Loss:
    """Cross-entropy of the next token, at the teacher's boundaries."""
    where = mask_BM.nonzero(as_tuple=True)
    next_T = forward.batch.token_ids_BM.roll(-1, dims=1)[where]
    return sliced_losses.next_token(forward.token_hidden()[where], forward.model.token_head.weight, next_T)


@term(predicted_tokens)
def next_token_of_teacher(forward: Forward, mask_BM: Tensor) -> Loss:
    """Cross-entropy of the next token, where the model is a causal language model such as a teacher."""
    next_T = forward.batch.token_ids_BM.roll(-1, dims=1)[mask_BM]
    hidden_BME = language_model(forward.model, forward.batch)
    return sliced_losses.next_token(hidden_BME[mask_BM], forward.model.get_output_embeddings().weight, next_T)


def language_model(model: PreTrainedModel, batch: Batch) -> Tensor:
    """The last hidden states [B, M, E] of a causal language model on the batch's tokens."""
    return run_core(model.model, model.get_input_embeddings()(batch.token_ids_BM), batch.token_document_BM)
