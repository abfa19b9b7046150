"""A student's running state: rows of bytes that advance one byte at a time, each with boundaries of its own.

The recurrent path gives the parallel path's logits. A prompt is read in parallel; from then on a step costs one byte
of encoder and decoder, and one core position for just those rows whose chunk closed. States are preallocated and
updated in place; rows that are finished leave, and what is left moves together.

Whether the prompt's last byte closes a chunk is not assumed where it can be known: with JBP the joint head of the byte
before decides, given the byte; with MBP the look-ahead does (`lookahead.py`). Stage 1 writes tokens, so its prompt ends
where a token ends, as a token model's does. BOS is a chunk of its own.

Shape letters: B rows, L prompt bytes, D byte width, E core width, R rows that closed a chunk, X = 512 joint symbols or
256 bytes, K bytes.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from dbyte.atomic import atomic_write
from dbyte.decode.confidence import OpeningConfidence
from dbyte.decode.engine import Engine
from dbyte.decode.lookahead import LookAhead
from dbyte.model.chunking import dechunk, find_chunks, opening_confidence, smooth
from dbyte.model.router import THRESHOLD
from dbyte.model.student import BYTES, ByteStudent, is_special
from dbyte.text.spans import BOS, EOS


class ByteStream:
    """Encoder, core and decoder states of B rows, each holding one document that begins with BOS.

    `core_BE` is what the last byte sees of the core, `up_BD` its projection for the decoder, `ended_B` whether the byte
    ended a chunk. At stage 2 `logits_BX` is the law of the next byte, with its flag for JBP, and `second_logits_BK`
    MBP's of the byte after it. `row_B` numbers the rows as they were at the start.
    """

    @torch.inference_mode()
    def __init__(
        self, student: ByteStudent, prompts: list[bytes], *, new_bytes: int, stage: int = 2,
        prompt_ends: list[list[int]] | None = None, engine: Engine | None = None,
    ):
        """Read prompts (bytes without BOS, may be empty), leaving room for `new_bytes` more.

        stage 1: no decoder runs. prompt_ends: where chunks end in each prompt (bytes from its start), for a student
        whose router has not learned yet; None: the router decides. engine: computes the
        student's steps; None: plain torch.
        Raises:
            ValueError: for a prompt of more chunks than the core has positions, or bytes that UTF-8 does not have.
        """
        for prompt in prompts:
            check_text_bytes(prompt)
        engine = Engine(student) if engine is None else engine
        texts = [bytes([BOS]) + prompt for prompt in prompts]
        length_B = torch.tensor([len(text) for text in texts], device=student.device)
        ids_BL = pad_bytes(texts, device=student.device)
        byte_slots = ids_BL.shape[1] + new_bytes + 1
        encoded_BLD, states = engine.prefill(student.encoder, student.byte_embedding(ids_BL), length_B,
                                             slots=byte_slots)
        prob_BL = student.route(encoded_BLD, ids_BL, torch.zeros_like(ids_BL))
        boundary_BL = prob_BL >= THRESHOLD if prompt_ends is None else _given(ids_BL, prompt_ends)
        # the router needs the next byte, so a prompt's last byte is decided below
        boundary_BL &= torch.arange(ids_BL.shape[1], device=ids_BL.device) < length_B[:, None] - 1
        chunks, positions = boundary_BL.sum(1).tolist(), student.core.config.max_position_embeddings
        check_prompts(prompts, chunks, positions)
        slots = min(max(chunks) + 1 + new_bytes, positions)  # at most a chunk a byte
        self._allocate(student, len(texts), stage=stage, slots=slots, byte_slots=byte_slots, engine=engine)
        self.encoder_states = states
        if self.look_ahead is not None:
            self.look_ahead.prefill(ids_BL, length_B)
        self._prefill(encoded_BLD, ids_BL, prob_BL, boundary_BL, length_B - 1)
        rows_B = torch.arange(len(texts), device=ids_BL.device)
        last_B, encoded_BD = ids_BL[rows_B, length_B - 1], encoded_BLD[rows_B, length_B - 1]
        ends_B = torch.ones_like(last_B, dtype=torch.bool) if stage == 1 else self._own_end(last_B, encoded_BD)
        self._take_in(last_B, encoded_BD, ends_B)

    def _allocate(
        self, student: ByteStudent, rows: int, *, stage: int, slots: int, byte_slots: int, engine: Engine
    ) -> None:
        """Empty states for so many rows, with room for so many chunks and, where the encoder is attention, bytes."""
        self.student = student
        self.engine = engine
        self.stage = stage
        self.byte_slots = byte_slots
        self.encoder = engine.stack_step(student.encoder)
        self.decoder = engine.stack_step(student.decoder)
        self.core_cache = engine.core_cache(rows=rows, slots=slots)
        self._prepare_maps()
        self.core_BE = student.null_E.repeat(rows, 1)
        self.encoder_states = student.encoder.empty_state(rows, slots=byte_slots)
        self.decoder_states = student.decoder.empty_state(rows) if stage == 2 else []
        self.up_BD = self.core_BE.new_zeros(rows, student.config.byte_width if stage == 2 else 0)
        self.logits_BX = self.core_BE.new_zeros(rows, len(student.byte_head.weight) if stage == 2 else 0)
        two = stage == 2 and student.second_head is not None
        self.second_logits_BK = self.core_BE.new_zeros(rows, BYTES if two else 0)
        self.row_B = torch.arange(rows, device=student.device)
        self.ended_B = torch.ones_like(self.row_B, dtype=torch.bool)
        self.opening = OpeningConfidence(student, rows) if student.config.smoothing and stage == 2 else None
        self.look_ahead = LookAhead(student, self.encoder, rows, engine=engine) if two else None

    def _prepare_maps(self) -> None:
        """The projections and heads that a step runs."""
        student, engine = self.student, self.engine
        self.to_core = engine.map(student.encoder_projection)
        if self.stage == 1:
            self.token_head = engine.map(student.token_head)
            return
        self.to_decoder = engine.map(student.decoder_projection)
        self.byte_head = engine.map(student.byte_head)
        self.second_head = None if student.second_head is None else engine.map(student.second_head)
        self.around_DD = student.around_core()
        self.around = engine.map(self.around_DD)

    def _prefill(
        self, encoded_BLD: Tensor, ids_BL: Tensor, prob_BL: Tensor, boundary_BL: Tensor, length_B: Tensor
    ) -> None:
        """Run core and decoder over the first length_B (>= 0) bytes of each row, whose encoder states are at hand."""
        student, (B, L) = self.student, ids_BL.shape
        mask_BL = torch.arange(L, device=ids_BL.device) < length_B[:, None]
        document_BL = torch.zeros_like(ids_BL).masked_fill(~mask_BL, -1)
        chunks = find_chunks(boundary_BL, document_BL, mask_BL)
        core_BME = self.core_cache.prefill(student.chunk_embeddings(encoded_BLD, chunks), chunks.document_BM)
        if self.opening is not None:
            core_BME = smooth(core_BME, opening_confidence(prob_BL, chunks), chunks)
            self.opening.prefill(encoded_BLD, ids_BL, prob_BL, boundary_BL, length_B)
        count_B, rows_B = chunks.mask_BM.sum(1), torch.arange(B, device=ids_BL.device)
        last_BE = core_BME[rows_B, (count_B - 1).clamp(min=0)]
        self.core_BE = torch.where((count_B > 0)[:, None], last_BE, student.null_E)
        if self.stage == 2:
            self.up_BD, null_D = map(student.decoder_projection, (self.core_BE, student.null_E))
            up_BLD = dechunk(student.decoder_projection(core_BME), null_D, chunks)
            decoded_BD, self.decoder_states = self.engine.prefill_last(
                student.decoder, up_BLD + F.linear(encoded_BLD, self.around_DD), length_B)
            self._predict(decoded_BD)

    @torch.inference_mode()
    def step(self, byte_B: Tensor, ends_B: Tensor | None = None, *, guess_B: Tensor | None = None) -> None:
        """Take in one byte per row (int64) and whether it ends a chunk (bool).

        guess_B: for MBP in place of ends_B, the byte that is taken to follow (int64); the router then decides.
        """
        encoded_BD = self.encoder.step(self.student.byte_embedding(byte_B), self.encoder_states)
        if guess_B is not None:
            self.look_ahead.take_in(byte_B)
            ends_B = self.look_ahead.decide(byte_B, encoded_BD, self.encoder_states, guess_B)
        self._take_in(byte_B, encoded_BD, ends_B)

    @torch.inference_mode()
    def read(self, byte_B: Tensor) -> None:
        """Take in one byte per row (int64) that was given, not drawn: the decoder says whether it ends a chunk."""
        encoded_BD = self.encoder.step(self.student.byte_embedding(byte_B), self.encoder_states)
        if self.look_ahead is not None:
            self.look_ahead.take_in(byte_B)
        self._take_in(byte_B, encoded_BD, self._own_end(byte_B, encoded_BD))

    def _own_end(self, byte_B: Tensor, encoded_BD: Tensor) -> Tensor:
        """Whether a given byte ends a chunk (bool [B]): the likelier flag of the joint head, or the look-ahead."""
        if self.look_ahead is not None:
            guess_BK = self.second_logits_BK.index_fill(1, torch.tensor([BOS], device=byte_B.device), float("-inf"))
            return self.look_ahead.decide(byte_B, encoded_BD, self.encoder_states, guess_BK.argmax(-1))
        flagged_B1, plain_B1 = (self.logits_BX.gather(1, byte_B[:, None] + flag) for flag in (BYTES, 0))
        return (flagged_B1 >= plain_B1)[:, 0] | is_special(byte_B)

    def _take_in(self, byte_B: Tensor, encoded_BD: Tensor, ends_B: Tensor) -> None:
        """Run core and decoder for a byte that the encoder has seen."""
        self.ended_B.copy_(ends_B)
        if self.opening is not None:
            self.opening.advance(encoded_BD, byte_B, ends_B)
        closing = [row for row, ends in enumerate(ends_B.tolist()) if ends]
        if closing:
            self._close(encoded_BD, closing)
        if self.stage == 2:
            self._predict(self.decoder.step(self.around(encoded_BD).add_(self.up_BD), self.decoder_states))

    def _close(self, encoded_BD: Tensor, closing: list[int]) -> None:
        """Run the core for the rows whose chunk ends at this byte."""
        everyone = len(closing) == len(encoded_BD)
        closing_R = None if everyone else torch.tensor(closing, device=encoded_BD.device)
        encoded_RD = encoded_BD if everyone else encoded_BD[closing_R]
        core_RE = self.core_cache.step(self.to_core(encoded_RD), closing)
        if self.opening is not None:
            weight_R1 = self.opening.value_B[closing, None].to(core_RE)
            core_RE = torch.lerp(self.core_BE[closing], core_RE, weight_R1)
        seen = [(self.core_BE, core_RE)]
        if self.stage == 2:
            seen.append((self.up_BD, self.to_decoder(core_RE)))
        for kept, new in seen:
            if everyone:
                kept.copy_(new)
            else:
                kept.index_copy_(0, closing_R, new)

    def _predict(self, decoded_BD: Tensor) -> None:
        self.logits_BX = self.byte_head(decoded_BD)
        if self.look_ahead is not None:
            self.second_logits_BK = self.second_head(decoded_BD)

    # -- rows that leave, and streams on disk -------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.row_B)

    def is_full(self, row: int) -> bool:
        """Whether a row has as many chunks as there is room for."""
        return self.core_cache.length[row] >= self.core_cache.slots

    @torch.inference_mode()
    def keep(self, rows: list[int]) -> list[int]:
        """Drop all but these rows (ascending), moving the last into the gaps; returns the places that they came from.

        Raises:
            ValueError: if no row is left.
        """
        if not rows:
            raise ValueError("a stream holds at least one row: let it go instead of keeping none")
        count = len(rows)
        gaps = sorted(set(range(count)) - set(rows))
        moves = dict(zip(gaps, (row for row in rows if row >= count), strict=True))
        order = [moves.get(place, place) for place in range(count)]
        for _, holder, name, dim in self._tensors():
            tensor = getattr(holder, name)
            for to, origin in moves.items():
                tensor.select(dim, to).copy_(tensor.select(dim, origin))
            setattr(holder, name, tensor.narrow(dim, 0, count))
        self.core_cache.length = [self.core_cache.length[origin] for origin in order]
        return order

    @torch.inference_mode()
    def take(self, rows: list[int]) -> None:
        """Go on with these rows, in this order; a row that is named several times goes on as several."""
        index = torch.tensor(rows, device=self.row_B.device)
        for _, holder, name, dim in self._tensors():
            setattr(holder, name, getattr(holder, name).index_select(dim, index))
        self.core_cache.length = [self.core_cache.length[row] for row in rows]

    def _tensors(self) -> Iterator[tuple[str, object, str, int]]:
        """Every tensor of these rows: its name, who holds it under which attribute, and the dimension of rows."""
        stacks = {"encoder": self.encoder_states, "decoder": self.decoder_states}
        plain = [("", self, ("core_BE", "up_BD", "logits_BX", "second_logits_BK", "row_B", "ended_B"))]
        if self.opening is not None:
            plain.append(("opening.", self.opening, ("encoded_BD", "byte_B", "closed_B", "value_B")))
        if self.look_ahead is not None:
            stacks["router"] = self.look_ahead.split_states
        for stack, states in stacks.items():
            for i, state in enumerate(states):
                plain.append((f"{stack}.{i}.", state, tuple(field.name for field in fields(state))))
        for prefix, holder, names in plain:
            yield from ((prefix + name, holder, name, 0) for name in names)
        yield from (("core." + name, self.core_cache, name, 1) for name in ("keys", "values"))

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by name."""
        return {name: getattr(holder, attribute) for name, holder, attribute, _ in self._tensors()}

    def save(self, path: str | Path, *, texts: dict | None = None) -> None:
        """Write the stream to one safetensors file, whole or not at all; the student is not written.

        texts: JSON data to keep with it, which `Writer.load` reads.
        """
        used = max(self.core_cache.length)
        tensors = {name: tensor[:, :, :used] if name.startswith("core.") else tensor
                   for name, tensor in self.tensors().items()}
        facts = {"student": fingerprint(self.student), "stage": self.stage, "rows": len(self),
                 "slots": self.core_cache.slots, "byte_slots": self.byte_slots, "length": self.core_cache.length}
        # clones: safetensors refuses tensors that share memory, and parts of a stream may hold one in common
        tensors = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        atomic_write(Path(path), save(tensors, {"facts": json.dumps(facts), "texts": json.dumps(texts)}))

    @classmethod
    @torch.inference_mode()
    def load(cls, student: ByteStudent, path: str | Path, *, engine: Engine | None = None) -> "ByteStream":
        """Read a stream that `save` wrote with this student; it goes on as if it had never stopped.

        Raises:
            FileNotFoundError: if there is no such file. ValueError: if it is no stream, or another student's.
        """
        facts = json.loads(metadata(path)["facts"])
        if facts["student"] != fingerprint(student):
            raise ValueError(f"the stream in {path} was written by another student: load it with the student that "
                             "wrote it, or read the prompt again")
        stream = cls.__new__(cls)
        stream._allocate(student, facts["rows"], stage=facts["stage"], slots=facts["slots"],
                         byte_slots=facts["byte_slots"],
                         engine=Engine(student) if engine is None else engine)
        loaded = load_file(path, device=str(student.device))
        for name, holder, attribute, _ in list(stream._tensors()):
            if name.startswith("core."):
                getattr(holder, attribute)[:, :, : loaded[name].shape[2]] = loaded[name]
            else:
                setattr(holder, attribute, loaded[name])
        stream.core_cache.length = facts["length"]
        return stream


def state_bytes(
    student: ByteStudent, *, rows: int, max_chunks: int, max_bytes: int = 0, stage: int = 2
) -> int:
    """Bytes of the tensors of a stream, in closed form.

    max_chunks: slots of the core's cache, per row. max_bytes: prompt, BOS, new bytes and one more, which matters only
    where the encoder is attention. Not counted: what a step allocates and frees, the core's rotary angles (2 * slots *
    head width, once for all rows), the few weights that steps prepare and, compiled, the copy of all they read.
    """
    config, core = student.config, student.core.config
    size = student.null_E.element_size()
    wide = max(size, torch.float32.itemsize)
    head = getattr(core, "head_dim", None) or core.hidden_size // core.num_attention_heads

    def stack(shape) -> int:
        if shape.mixer == "attention":
            return shape.layers * (2 * shape.width * max_bytes * size + 8)
        inner = shape.expand * shape.width
        if shape.mixer == "convolution":
            return shape.layers * (shape.window - 1) * inner * size
        return shape.layers * ((shape.conv_width - 1) * (inner + 2 * shape.state_size) * size
                               + inner * shape.state_size * wide)

    row = 2 * core.num_hidden_layers * max_chunks * core.num_key_value_heads * head * size
    row += stack(config.encoder_shape()) + core.hidden_size * size + 8 + 1
    if stage == 2:
        two = config.decoding == "mbp"
        row += stack(config.decoder_shape()) + (2 * BYTES + config.byte_width) * size
        row += config.smoothing * (config.byte_width * size + 8 + 1 + 4)
        row += stack(config.router_shape()) if two and config.router == "split" else 0
    return rows * row


def metadata(path: str | Path) -> dict[str, str]:
    """What `ByteStream.save` wrote beside the tensors; raises as `ByteStream.load`."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no stream {path}: name a file that ByteStream.save or Writer.save wrote")
    try:
        with safe_open(path, "pt") as file:
            found = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is no stream, or damaged ({error}): save it or read the prompt again") from error
    if not {"facts", "texts"} <= found.keys():
        raise ValueError(f"{path} is no stream: name a file that ByteStream.save or Writer.save wrote")
    return found


def fingerprint(student: ByteStudent) -> str:
    """What tells students apart: a hash of the weights of the two ends, the byte embedding and the byte head."""
    digest = hashlib.sha256()
    for weight in (student.byte_embedding.weight, student.byte_head.weight):
        digest.update(str((tuple(weight.shape), weight.dtype)).encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _given(ids_BL: Tensor, prompt_ends: list[list[int]]) -> Tensor:
    """Boundaries from given chunk ends: byte i of a prompt is byte i + 1 of its row, BOS is a chunk of its own."""
    boundary_BL = torch.zeros_like(ids_BL, dtype=torch.bool)
    for row, ends in enumerate(prompt_ends):
        boundary_BL[row, [0, *ends]] = True
    return boundary_BL


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


def check_prompts(prompts: list[bytes], chunks: list[int], positions: int) -> None:
    """Raise ValueError if a prompt leaves the core no position to go on from."""
    for number, (prompt, count) in enumerate(zip(prompts, chunks, strict=True)):
        if count + 1 > positions:
            raise ValueError(f"prompt {number} has {len(prompt)} bytes in at least {count + 1} chunks, but the core "
                             f"was built for {positions} positions (max_position_embeddings): shorten the prompt")
