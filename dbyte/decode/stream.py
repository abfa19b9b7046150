"""A student's running state: rows of bytes that advance one byte at a time, each with boundaries of its own.

The recurrent path gives the parallel path's logits. A prompt is read in parallel; from then on a step costs one byte
of encoder and decoder, and one core position for just those rows whose chunk closed.

Shape letters: B rows, L prompt bytes, D byte width, E core width, R rows that closed a chunk, K2 = 512 joint symbols.
"""

import torch
from torch import Tensor

from dbyte.decode.confidence import OpeningConfidence
from dbyte.model.blocks import State
from dbyte.model.chunking import dechunk, find_chunks, opening_confidence, smooth
from dbyte.model.core import CoreCache
from dbyte.model.router import THRESHOLD
from dbyte.model.student import BYTES, ByteStudent
from dbyte.text.spans import BOS, EOS


class ByteStream:
    """Encoder, core and decoder states of B rows, each holding one document that begins with BOS.

    After construction `core_BE` is what the last byte sees of the core, and with `byte_head` `joint_logits_BK2` is the
    law of the next byte and its flag.
    """

    @torch.no_grad()
    def __init__(
        self, student: ByteStudent, prompts: list[bytes], *, new_bytes: int, byte_head: bool, close_last: bool,
        prompt_ends: list[list[int]] | None = None,
    ):
        """Read prompts (bytes without BOS, may be empty), leaving room for `new_bytes` more.

        byte_head: run the decoder too (Stage 2). close_last: the prompt's last byte ends a chunk (Stage 1's rule); else
        the joint head decides it, given the byte (JBP). prompt_ends: where chunks end in each prompt (bytes from its
        start), for a student whose router has not learned yet; None: the router cuts.
        """
        if byte_head:
            student.check_jbp("streams of bytes")
        self.student, self.byte_head = student, byte_head
        self.smoothing = student.config.smoothing and byte_head
        texts = [bytes([BOS]) + prompt for prompt in prompts]
        length_B = torch.tensor([len(text) for text in texts], device=student.device)
        ids_BL = pad_bytes(texts, device=student.device)
        boundary_BL = self._route(ids_BL, length_B) if prompt_ends is None else _given(ids_BL, prompt_ends, length_B)
        slots = int(boundary_BL.sum(1).max()) + 1 + new_bytes  # at most a chunk a byte; a full cache says so
        limit = student.core.config.max_position_embeddings
        self.core_cache = CoreCache(student.core, rows=len(texts), slots=min(slots, limit))
        logits_BK2 = self._prefill(ids_BL, boundary_BL, length_B - 1)
        last_B = ids_BL.gather(1, length_B[:, None] - 1)[:, 0]
        ends_B = torch.ones_like(last_B, dtype=torch.bool)
        if not close_last:
            closed_B = logits_BK2.gather(1, last_B[:, None] + BYTES) >= logits_BK2.gather(1, last_B[:, None])
            ends_B = closed_B[:, 0] | (length_B == 1)  # BOS is a chunk of its own
        self.step(last_B, ends_B)

    def _route(self, ids_BL: Tensor, length_B: Tensor) -> Tensor:
        """The router's boundaries; it needs the next byte, so the last byte of a prompt is left to the caller."""
        document_BL = torch.zeros_like(ids_BL)
        encoded_BLD = self.student.encode(ids_BL, document_BL)  # causal: padding behind a byte does not change it
        boundary_BL = self.student.route(encoded_BLD, ids_BL, document_BL) >= THRESHOLD
        return boundary_BL & (torch.arange(ids_BL.shape[1], device=ids_BL.device) < length_B[:, None] - 1)

    def _prefill(self, ids_BL: Tensor, boundary_BL: Tensor, length_B: Tensor) -> Tensor | None:
        """Take in the first length_B (>= 0) bytes of each row in parallel; returns the joint logits after the last."""
        student, (B, L) = self.student, ids_BL.shape
        mask_BL = torch.arange(L, device=ids_BL.device) < length_B[:, None]
        document_BL = torch.zeros_like(ids_BL).masked_fill(~mask_BL, -1)
        encoded_BLD, self.encoder_states = student.encoder.prefill(student.byte_embedding(ids_BL), length_B)
        chunks = find_chunks(boundary_BL, document_BL, mask_BL)
        core_BME = self.core_cache.prefill(
            student.core, student.chunk_embeddings(encoded_BLD, chunks), chunks.document_BM)
        if self.smoothing:
            prob_BL = student.route(encoded_BLD, ids_BL, document_BL)
            core_BME = smooth(core_BME, opening_confidence(prob_BL, chunks), chunks)
            self.opening = OpeningConfidence(student, encoded_BLD, ids_BL, prob_BL, boundary_BL, length_B)
        count_B = chunks.mask_BM.sum(1)
        last_BE = core_BME[torch.arange(B), (count_B - 1).clamp(min=0)]
        self.core_BE = torch.where((count_B > 0)[:, None], last_BE, student.null_E)
        if not self.byte_head:
            return None
        up_BLE = dechunk(core_BME, student.null_E, chunks) + student.residual(encoded_BLD)
        decoded_BLD, self.decoder_states = student.decoder.prefill(student.decoder_projection(up_BLE), length_B)
        return student.byte_head(decoded_BLD[torch.arange(B), (length_B - 1).clamp(min=0)])

    @torch.no_grad()
    def step(self, byte_B: Tensor, ends_B: Tensor, active_B: Tensor | None = None) -> None:
        """Take in one byte per row (int64) and whether it ends a chunk (bool).

        Rows that are not active stay as they are.
        """
        student = self.student
        encoded_BD, states = student.encoder.step(student.byte_embedding(byte_B), self.encoder_states)
        self.encoder_states = _keep(self.encoder_states, states, active_B)
        if self.smoothing:
            self.opening.advance(encoded_BD, byte_B, ends_B, active_B)
        closing_R = (ends_B if active_B is None else ends_B & active_B).nonzero()[:, 0]
        if len(closing_R):
            core_RE = self.core_cache.step(student.core, student.encoder_projection(encoded_BD[closing_R]), closing_R)
            if self.smoothing:
                weight_R1 = self.opening.value_B[closing_R, None].to(core_RE)
                core_RE = torch.lerp(self.core_BE[closing_R], core_RE, weight_R1)
            self.core_BE = self.core_BE.clone()
            self.core_BE[closing_R] = core_RE
        if self.byte_head:
            up_BE = self.core_BE + student.residual(encoded_BD)
            decoded_BD, states = student.decoder.step(student.decoder_projection(up_BE), self.decoder_states)
            self.decoder_states = _keep(self.decoder_states, states, active_B)
            self.joint_logits_BK2 = student.byte_head(decoded_BD)


def _keep(old: list[State], new: list[State], active_B: Tensor | None) -> list[State]:
    if active_B is None:
        return new
    return [stale.advanced(fresh, active_B) for stale, fresh in zip(old, new, strict=True)]


def _given(ids_BL: Tensor, prompt_ends: list[list[int]], length_B: Tensor) -> Tensor:
    """Boundaries from given chunk ends: byte i of a prompt is byte i + 1 of its row, BOS is a chunk of its own."""
    boundary_BL = torch.zeros_like(ids_BL, dtype=torch.bool)
    for row, ends in enumerate(prompt_ends):
        boundary_BL[row, [0, *ends]] = True
    return boundary_BL & (torch.arange(ids_BL.shape[1], device=ids_BL.device) < length_B[:, None] - 1)


def pad_bytes(texts: list[bytes], *, device: torch.device | str) -> Tensor:
    """Stack byte strings into int64 [rows, longest], zeros at the tail."""
    padded = b"".join(text.ljust(max(map(len, texts)), b"\0") for text in texts)
    return torch.frombuffer(bytearray(padded), dtype=torch.uint8).view(len(texts), -1).long().to(device)


def check_text_bytes(text: bytes) -> None:
    """Raise ValueError if bytes contain BOS or EOS, which UTF-8 never does."""
    for special in (BOS, EOS):
        if special in text:
            raise ValueError(f"byte 0x{special:02X} at offset {text.index(special)} is reserved (BOS 0xFE, EOS 0xFF) "
                             "and never occurs in UTF-8: pass UTF-8 text")
