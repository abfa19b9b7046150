"""A student's running state: rows of bytes that advance one byte at a time, each with boundaries of its own.

One byte of a row goes through `ByteStream.step`:

    1. the encoder takes in the byte
    2. does a chunk end at it? The caller says so (JBP draws byte and flag together, Stage 1 writes whole tokens), or
       the look-ahead decides (MBP, `lookahead.py`)
    3. if so, the core takes in the chunk
    4. the decoder takes in the byte and the newest chunk, and the byte heads predict what follows (Stage 2)

Steps give the logits of the parallel forward. A prompt is read in parallel. From then on a byte costs one step of
encoder and decoder, and one core position in just those rows whose chunk ended. States are preallocated and updated in
place.

Whether a chunk ends at a prompt's last byte is decided as for a byte that was written: with JBP the joint head of the
byte before says so, given the byte; with MBP the look-ahead does. Stage 1 writes tokens, so its prompt ends where a
token ends, as a token model's does. BOS is a chunk of its own.

Shape letters: B rows, L prompt bytes, D byte width, E core width, M chunks, R rows whose chunk ended, X = 512 joint
symbols or 256 bytes, K bytes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dbyte.decode.confidence import OpeningConfidence
from dbyte.decode.engine import Engine
from dbyte.decode.lookahead import LookAhead
from dbyte.decode.running_prior import RunningPrior
from dbyte.kernels.fast import fast_products
from dbyte.model.chunking import dechunk, find_chunks, opening_confidence, smooth
from dbyte.model.student import BYTES, ByteStudent
from dbyte.model.suffix import LONGEST
from dbyte.text.spans import BOS, EOS, is_special


class ByteStream:
    """Encoder, core and decoder states of B rows, each holding one document that begins with BOS.

    `core_BE` is what the last byte sees of the core, `up_BD` its projection for the decoder, `ended_B` whether a chunk
    ended at the byte. At Stage 2 `logits_BX` are those of the next byte (JBP: with its flag), and `second_logits_BK`
    MBP's of the byte after it.
    """

    @torch.inference_mode()
    def __init__(
        self, student: ByteStudent, prompts: list[bytes], *, new_bytes: int, stage: int = 2,
        prompt_ends: list[list[int]] | None = None, engine: Engine | None = None, chat: bool = False,
    ):
        """Read prompts (bytes without BOS, may be empty), leaving room for `new_bytes` more.

        stage: at 1 no decoder runs. prompt_ends: where chunks end in each prompt (bytes from its start), for a student
        whose router has not learned yet; None: the router decides. engine: computes the student's parts; None: torch.
        chat: prompts may hold bytes that stand for tokens of a chat template (text/chat.py).
        Raises:
            ValueError: for a prompt of more chunks than the core has positions, or bytes that UTF-8 does not have.
        """
        for prompt in prompts if not chat else ():
            check_text_bytes(prompt)
        engine = Engine(student) if engine is None else engine
        with fast_products():
            self._read_prompts(engine, prompts, prompt_ends, new_bytes=new_bytes, stage=stage)

    @classmethod
    def empty(cls, engine: Engine, rows: int, *, stage: int, slots: int, byte_slots: int) -> "ByteStream":
        """A stream before any byte, with room for `slots` chunks and, for attention, `byte_slots` bytes per row."""
        stream = cls.__new__(cls)
        stream._allocate(engine, rows, stage=stage, slots=slots, byte_slots=byte_slots)
        return stream

    # -- one byte per row ---------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self, byte_B: Tensor, ends_B: Tensor | None = None, *, guess_B: Tensor | None = None) -> None:
        """Take in one byte per row (int64) and whether a chunk ends at it (bool).

        guess_B: for MBP in place of ends_B, the byte that is taken to follow (int64); the router then decides.
        """
        encoded_BD = self._encode(byte_B)
        if guess_B is not None:
            ends_B = self.look_ahead.decide(byte_B, encoded_BD, self.encoder_states, guess_B, self.tail_BW)
        self._take_in(byte_B, encoded_BD, ends_B)

    @torch.inference_mode()
    def read(self, byte_B: Tensor) -> None:
        """Take in one byte per row (int64) that was given and not drawn: the student decides whether a chunk ends."""
        encoded_BD = self._encode(byte_B)
        self._take_in(byte_B, encoded_BD, self._own_end(byte_B, encoded_BD))

    def _encode(self, byte_B: Tensor) -> Tensor:
        if self.look_ahead is not None:
            self.look_ahead.take_in(byte_B)
        if self.keeps_tail:
            self.tail_BW = torch.cat((self.tail_BW[:, 1:], byte_B[:, None]), dim=1)
        return self.encoder(self.student.byte_embedding(byte_B), self.encoder_states)

    def _take_in(self, byte_B: Tensor, encoded_BD: Tensor, ends_B: Tensor) -> None:
        """Run core and decoder for a byte that the encoder has taken in."""
        self.ended_B.copy_(ends_B)
        if self.opening is not None:
            self.opening.advance(encoded_BD, byte_B, ends_B)
        if self.prior is not None:
            self.prior.since_B = torch.where(ends_B, 0, self.prior.since_B + 1)
        closing = [row for row, ends in enumerate(ends_B.tolist()) if ends]
        if closing:
            self._run_core(encoded_BD, closing)
        if self.stage == 2:
            self._predict(self.decoder(self.around(encoded_BD) + self.up_BD, self.decoder_states), self.tail_BW)

    def _run_core(self, encoded_BD: Tensor, closing: list[int]) -> None:
        """One core position for the rows whose chunk ends at this byte."""
        closing_R = torch.tensor(closing, device=encoded_BD.device)
        embedding_RE = self.student.project_chunks(
            encoded_BD[closing_R], lambda: self.student.suffix_table.find(self.tail_BW[closing_R])[:, -1],
            project=self.to_core)
        core_RE = self.core_cache.step(embedding_RE, closing)
        if self.prior is not None:
            self.prior.close(self.token_head(core_RE), closing_R)
        if self.opening is not None:
            weight_R1 = self.opening.value_B[closing_R, None].to(core_RE)
            core_RE = torch.lerp(self.core_BE[closing_R], core_RE, weight_R1)
        self.core_BE.index_copy_(0, closing_R, core_RE)
        if self.stage == 2:
            self.up_BD.index_copy_(0, closing_R, self.to_decoder(core_RE))

    def _predict(self, decoded_BD: Tensor, tail_BW: Tensor) -> None:
        self.logits_BX = self.byte_head(decoded_BD)
        if self.prior is not None:
            self.logits_BX = self.logits_BX + self.prior.log_probs(tail_BW)
        if self.second_head is not None:
            self.second_logits_BK = self.second_head(decoded_BD)

    def _own_end(self, byte_B: Tensor, encoded_BD: Tensor) -> Tensor:
        """Whether a chunk ends at a given byte (bool [B]): by the joint head's likelier flag, or by the look-ahead."""
        if self.look_ahead is not None:
            guess_BK = self.second_logits_BK.index_fill(1, torch.tensor([BOS], device=byte_B.device), float("-inf"))
            guess_B = guess_BK.argmax(-1)
            return self.look_ahead.decide(byte_B, encoded_BD, self.encoder_states, guess_B, self.tail_BW)
        plain_B1 = self.logits_BX.gather(1, byte_B[:, None])
        flagged_B1 = self.logits_BX.gather(1, byte_B[:, None] + BYTES)
        return (flagged_B1 >= plain_B1)[:, 0] | is_special(byte_B)

    # -- prompts ------------------------------------------------------------------------------------------------------

    def _read_prompts(
        self, engine: Engine, prompts: list[bytes], prompt_ends: list[list[int]] | None, *, new_bytes: int, stage: int
    ) -> None:
        """Read all bytes but each prompt's last one in parallel, and the last one as `step` does."""
        student = engine.student
        texts = [bytes([BOS]) + prompt for prompt in prompts]
        length_B = torch.tensor([len(text) for text in texts], device=student.device)
        ids_BL = pad_bytes(texts, device=student.device)
        byte_slots = ids_BL.shape[1] + new_bytes + 1
        encoded_BLD, states = engine.prefill(student.encoder, student.byte_embedding(ids_BL), length_B,
                                             slots=byte_slots)
        prob_BL = student.route(encoded_BLD, ids_BL, torch.zeros_like(ids_BL))
        place_L = torch.arange(ids_BL.shape[1], device=ids_BL.device)
        boundary_BL = student.end_chunks(prob_BL, ids_BL, place_L < length_B[:, None])
        for row, ends in enumerate(prompt_ends or ()):  # byte i of a prompt is byte i + 1 of its row
            boundary_BL[row] = False
            boundary_BL[row, [0, *ends]] = True
        # the router needs the next byte, so the flag of a prompt's last byte is decided below
        boundary_BL &= place_L < length_B[:, None] - 1
        chunks = boundary_BL.sum(1).tolist()
        positions = student.core.config.max_position_embeddings
        for number, (prompt, count) in enumerate(zip(prompts, chunks, strict=True)):
            if count + 1 > positions:
                raise ValueError(f"prompt {number} has {len(prompt)} bytes in at least {count + 1} chunks, but the "
                                 f"core was built for {positions} positions (max_position_embeddings): shorten it")
        slots = min(max(chunks) + 1 + new_bytes, positions)  # at most one chunk per byte
        self._allocate(engine, len(texts), stage=stage, slots=slots, byte_slots=byte_slots)
        self.encoder_states = states
        W = self.tail_BW.shape[1]
        before_BW = F.pad(ids_BL, (W, 0), value=-1)
        self.tail_BW = before_BW.gather(1, length_B[:, None] + torch.arange(W, device=ids_BL.device))
        if self.look_ahead is not None:
            self.look_ahead.prefill(ids_BL, length_B)
        self._read_chunks(encoded_BLD, ids_BL, prob_BL, boundary_BL, length_B - 1)
        rows_B = torch.arange(len(texts), device=ids_BL.device)
        last_B = ids_BL[rows_B, length_B - 1]
        encoded_BD = encoded_BLD[rows_B, length_B - 1]
        ends_B = torch.ones_like(last_B, dtype=torch.bool) if stage == 1 else self._own_end(last_B, encoded_BD)
        self._take_in(last_B, encoded_BD, ends_B)

    def _read_chunks(
        self, encoded_BLD: Tensor, ids_BL: Tensor, prob_BL: Tensor, boundary_BL: Tensor, length_B: Tensor
    ) -> None:
        """Run core and decoder over the first length_B (>= 0) bytes of each row, given the encoder's states."""
        student = self.student
        mask_BL = torch.arange(ids_BL.shape[1], device=ids_BL.device) < length_B[:, None]
        document_BL = torch.zeros_like(ids_BL).masked_fill(~mask_BL, -1)
        chunks = find_chunks(boundary_BL, document_BL, mask_BL)
        core_BME = self.core_cache.prefill(student.chunk_embeddings(encoded_BLD, chunks, ids_BL), chunks.document_BM)
        count_B = chunks.mask_BM.sum(1)
        rows_B = torch.arange(len(ids_BL), device=ids_BL.device)
        newest_B = (count_B - 1).clamp(min=0)
        if self.prior is not None:
            self.prior.close(self.token_head(core_BME[rows_B, newest_B]), rows_B)
            self.prior.since_B = length_B - torch.where(count_B > 0, chunks.position_BM[rows_B, newest_B] + 1, 0)
        if self.opening is not None:
            core_BME = smooth(core_BME, opening_confidence(prob_BL, chunks), chunks)
            self.opening.prefill(encoded_BLD, ids_BL, prob_BL, boundary_BL, length_B)
        self.core_BE = torch.where((count_B > 0)[:, None], core_BME[rows_B, newest_B], student.null_E)
        if self.stage == 2:
            self.up_BD = student.decoder_projection(self.core_BE)
            null_D = student.decoder_projection(student.null_E)
            up_BLD = dechunk(student.decoder_projection(core_BME), null_D, chunks)
            decoded_BLD, self.decoder_states = self.engine.prefill(
                student.decoder, up_BLD + self.around(encoded_BLD), length_B)
            before_BW = F.pad(self.tail_BW[:, :-1], (1, 0), value=-1)  # the last byte is not taken in yet
            self._predict(decoded_BLD[rows_B, (length_B - 1).clamp(min=0)], before_BW)

    def _allocate(self, engine: Engine, rows: int, *, stage: int, slots: int, byte_slots: int) -> None:
        """Set every attribute for rows that have no byte yet."""
        student = engine.student
        self.student = student
        self.engine = engine
        self.stage = stage
        self.byte_slots = byte_slots
        prior = student.token_prior if stage == 2 else None
        self.keeps_tail = student.config.suffix or student.config.router_suffixes > 0 or prior is not None
        tail = max(LONGEST, prior.longest if prior else 0)
        self.tail_BW = torch.full((rows, tail), -1, device=student.device)  # the newest bytes, -1 where none was
        self.ended_B = torch.ones(rows, dtype=torch.bool, device=student.device)
        self.encoder = engine.stack_step(student.encoder)
        self.encoder_states = student.encoder.empty_state(rows, slots=byte_slots)
        self.to_core = engine.map(student.encoder_projection)
        self.core_cache = engine.core_cache(rows=rows, slots=slots)
        self.core_BE = student.null_E.repeat(rows, 1)
        writes_bytes = stage == 2
        two_heads = writes_bytes and student.second_head is not None
        self.decoder_states = student.decoder.empty_state(rows) if writes_bytes else []
        if writes_bytes:
            self.decoder = engine.stack_step(student.decoder)
            self.to_decoder = engine.map(student.decoder_projection)
            self.around = engine.map(student.around_core())
            self.byte_head = engine.map(student.byte_head)
            self.second_head = engine.map(student.second_head) if two_heads else None
        if not writes_bytes or prior:  # an engine's copy of it is large
            self.token_head = engine.map(student.token_head)
        self.prior = RunningPrior(prior, rows, device=student.device) if prior else None
        self.up_BD = self.core_BE.new_zeros(rows, student.config.byte_width if writes_bytes else 0)
        self.logits_BX = self.core_BE.new_zeros(rows, len(student.byte_head.weight) if writes_bytes else 0)
        self.second_logits_BK = self.core_BE.new_zeros(rows, BYTES if two_heads else 0)
        self.opening = OpeningConfidence(student, rows) if writes_bytes and student.config.smoothing else None
        self.look_ahead = LookAhead(self.encoder, rows, engine=engine) if two_heads else None

    # -- rows ----------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def take(self, rows: list[int]) -> None:
        """Keep these rows, in this order; a row that is named several times becomes several rows."""
        index = torch.tensor(rows, device=self.core_BE.device)
        for holder, name, dim in self.parts():
            setattr(holder, name, getattr(holder, name).index_select(dim, index))
        self.core_cache.length = [self.core_cache.length[row] for row in rows]

    def parts(self) -> list[tuple[object, str, int]]:
        """Every tensor of these rows: the object and attribute that hold it, and its dimension of rows.

        The core's keys and values are the last two.
        """
        parts = [(self, name, 0) for name in ("core_BE", "up_BD", "logits_BX", "second_logits_BK", "ended_B")]
        if self.keeps_tail:
            parts.append((self, "tail_BW", 0))
        if self.prior is not None:
            parts += [(self.prior, name, 0) for name in ("prob_BV", "since_B")]
        states = [*self.encoder_states, *self.decoder_states]
        if self.opening is not None:
            parts += [(self.opening, name, 0) for name in ("encoded_BD", "byte_B", "closed_B", "value_B")]
        if self.look_ahead is not None:
            states += self.look_ahead.split_states
        parts += [(state, name, 0) for state in states for name in vars(state)]
        return [*parts, (self.core_cache, "keys", 1), (self.core_cache, "values", 1)]


def pad_bytes(texts: list[bytes], *, device: torch.device | str) -> Tensor:
    """Stack byte strings into int64 [rows, longest], zeros at the tail."""
    longest = max(map(len, texts))
    padded = b"".join(text.ljust(longest, b"\0") for text in texts)
    return torch.frombuffer(bytearray(padded), dtype=torch.uint8).view(len(texts), -1).long().to(device)


def check_text_bytes(text: bytes) -> None:
    """Raise ValueError if bytes contain BOS or EOS, which never occur in UTF-8."""
    for special in (BOS, EOS):
        if special in text:
            raise ValueError(f"byte 0x{special:02X} at offset {text.index(special)} is reserved (BOS 0xFE, EOS 0xFF) "
                             "and never occurs in UTF-8: pass UTF-8 text")
