"""Writing text with a stream of rows: draw, append, drop the rows that are finished, step the rest.

One loop for three decoders. Each advance gives every row that needs one a new symbol and feeds one byte per row:
- tokens (Stage 1): a row that has fed all bytes of its token draws the next one; a token's last byte ends the chunk
- JBP: the joint symbol (next byte, ends a chunk)
- MBP: the next byte, and the second head's guess of the one after it, by which the router decides (`lookahead.py`)

Shape letters: B rows that still write, R rows that draw, V tokens, K bytes.
"""

import re
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from dbyte.decode.engine import Engine
from dbyte.decode.sampling import Sampler, Sampling
from dbyte.decode.stream import ByteStream
from dbyte.decode.stream_file import load_stream, save_stream
from dbyte.decode.utf8 import Alphabet, anything, broken_character, over_tokens, state_after, transitions
from dbyte.model.student import BYTES, ByteStudent
from dbyte.text.spans import EOS, RESERVED

NOT_TEXT = re.compile(b"[" + re.escape(bytes(RESERVED)) + b"]")
SAVED = ("before", "written", "stops", "limit", "valid_utf8", "rows", "states", "queues", "ended", "core_rows")


class Writer:
    """Continues the rows of a stream; `written` holds each row's new bytes, without EOS and stop strings.

    `ended` holds, for each row and each byte that was taken in, whether a chunk ended there; a row's last symbol is
    not taken in. `core_rows` counts the core positions that were computed while writing, over all rows.
    """

    def __init__(
        self, stream: ByteStream, before: Sequence[bytes], *, sampling: Sampling, limit: int,
        stops: Sequence[bytes] = (), valid_utf8: bool = True, repeats: Sequence[int] | None = None,
        drawn: Sequence[int] | None = None, chat: bool = False,
    ):
        """before: the text of each row of the stream so far. limit: the most new bytes per row.

        repeats, drawn: see `Sampler`. chat: as in `ByteStream`.

        Raises:
            ValueError: with valid_utf8, for a row that is no UTF-8; its last character may be broken off.
        """
        self.stream = stream
        self.limit = limit
        self.stops = list(stops)
        self.valid_utf8 = valid_utf8
        self.before = [bytes(text) for text in before]
        self.written = [bytearray() for _ in before]
        self.ended: list[list[bool]] = [[] for _ in before]
        self.rows = list(range(len(before)))  # the numbers of the texts that the stream's rows hold
        self.sampler = Sampler(sampling, before, repeats=repeats, drawn=drawn)
        texts = [NOT_TEXT.split(text)[-1] for text in self.before] if chat else self.before
        self.states = [state_after(text) if valid_utf8 else 0 for text in texts]
        self.broken = [broken_character(text) if valid_utf8 else b"" for text in texts]
        self.queues = [b""] * len(before)  # at Stage 1, bytes of each text's token that have not been taken in
        self.core_rows = 0
        student = stream.student
        device = stream.core_BE.device
        next_SK = transitions() if valid_utf8 else anything()
        self.bytes = Alphabet(next_SK, device=device)
        if stream.stage == 1:
            self.tokens = student.token_texts()
            self.symbols = Alphabet(over_tokens(student, next_SK), device=device)
        else:
            joint = stream.look_ahead is None  # (byte, flag) pairs of JBP
            self.symbols = Alphabet(next_SK.repeat(1, 2), device=device) if joint else self.bytes

    @torch.inference_mode()
    def advance(self) -> bool:
        """Write one more symbol or, at Stage 1, one more byte per row; False once every row has finished."""
        if not self.rows:
            return False
        fed = self._token_bytes() if self.stream.stage == 1 else self._byte_symbols()
        open_rows = [place for place, feed in enumerate(fed) if feed is not None]
        if len(open_rows) < len(fed):
            if not open_rows:
                self.rows = []
                return False
            self.stream.take(open_rows)
            self.rows = [self.rows[place] for place in open_rows]
            fed = [fed[place] for place in open_rows]
        self._step(fed)
        return True

    def run(self) -> "Writer":
        """Write to the end."""
        while self.advance():
            pass
        return self

    # -- writers on disk ----------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the stream, the texts and the state of the draws to one file; `load` continues from there."""
        facts = {"sampling": asdict(self.sampler.sampling), "repeats": self.sampler.repeats,
                 "drawn": self.sampler.drawn}
        save_stream(self.stream, path, notes=facts | {name: getattr(self, name) for name in SAVED})

    @classmethod
    def load(cls, student: ByteStudent, path: str | Path, *, engine: Engine | None = None) -> "Writer":
        """Read a writer that `save` wrote with this student; it continues as if it had never stopped.

        engine: computes the student's parts; None: plain torch.
        Raises:
            FileNotFoundError: if there is no such file. ValueError: if it holds no writer, or another student's.
        """
        stream, notes = load_stream(student, path, engine=engine)
        if missing := [name for name in (*SAVED, "sampling", "drawn") if name not in notes]:
            raise ValueError(f"{path} holds a stream but no writer, it lacks {', '.join(missing)}: name a file that "
                             "Writer.save wrote")
        writer = cls(stream, notes["before"], sampling=Sampling(**notes["sampling"]), limit=notes["limit"],
                     valid_utf8=notes["valid_utf8"], repeats=notes.get("repeats"), drawn=notes["drawn"])
        for name in SAVED:
            setattr(writer, name, notes[name])
        writer.written = [bytearray(text) for text in notes["written"]]
        return writer

    # -- drawing ------------------------------------------------------------------------------------------------------

    def _draw(self, logits_RX: Tensor, rows: list[int]) -> list[int]:
        """A symbol for each of these rows (numbers of texts), and their new UTF-8 states."""
        bounded_RX = self.symbols.bounded(logits_RX, [self.states[row] for row in rows])
        symbols = self.sampler.draw(bounded_RX, rows).tolist()
        for row, symbol in zip(rows, symbols, strict=True):
            self.states[row] = self.symbols.next[self.states[row]][symbol]
        return symbols

    def _byte_symbols(self) -> list[tuple[int, bool] | None]:
        """(byte, whether it ends a chunk) for each row of the stream, None for one that is finished by it."""
        symbols = self._draw(self.stream.logits_BX, self.rows)
        return [None if self._append(place, bytes([symbol % BYTES])) else (symbol % BYTES, symbol >= BYTES)
                for place, symbol in enumerate(symbols)]

    def _token_bytes(self) -> list[tuple[int, bool] | None]:
        """(byte, whether it ends its token) for each row, None for a finished one; draws tokens where none is left."""
        empty = [place for place, row in enumerate(self.rows) if not self.queues[row]]
        finished = set()
        if empty:
            core_RE = self.stream.core_BE if len(empty) == len(self.rows) else self.stream.core_BE[empty]
            tokens = self._draw(self.stream.token_head(core_RE), [self.rows[place] for place in empty])
            for place, token in zip(empty, tokens, strict=True):
                text = self.tokens[token] or bytes([EOS])
                self.queues[self.rows[place]] = text
                if self._append(place, text):
                    finished.add(place)
        fed: list[tuple[int, bool] | None] = []
        for place, row in enumerate(self.rows):
            queue = self.queues[row]
            fed.append(None if place in finished else (queue[0], len(queue) == 1))
            self.queues[row] = queue[1:]
        return fed

    def _step(self, fed: list[tuple[int, bool]]) -> None:
        device = self.stream.core_BE.device
        before = sum(self.stream.core_cache.length)
        byte_B = torch.tensor([byte for byte, _ in fed], device=device)
        if self.stream.look_ahead is None:
            self.stream.step(byte_B, torch.tensor([ends for _, ends in fed], device=device))
        else:
            states = [self.states[row] for row in self.rows]
            self.stream.step(byte_B, guess_B=self.bytes.bounded(self.stream.second_logits_BK, states).argmax(-1))
        self.core_rows += sum(self.stream.core_cache.length) - before
        for row, ended in zip(self.rows, self.stream.ended_B.tolist(), strict=True):
            self.ended[row].append(ended)

    # -- the texts ----------------------------------------------------------------------------------------------------

    def _append(self, place: int, new: bytes) -> bool:
        """Append to the text of a row of the stream; True if that finishes it: EOS, stop or limit."""
        row = self.rows[place]
        text = self.written[row]
        before = len(text)
        text += new[: self.limit - before]
        ends = [before + new.index(EOS)] if EOS in new else []
        ends += [found for stop in self.stops if (found := text.find(stop, max(before - len(stop) + 1, 0))) >= 0]
        if ends:
            del text[min(ends):]
            return True
        if len(text) < self.limit:
            cache = self.stream.core_cache
            if cache.length[place] < cache.slots:
                return False
            warnings.warn(f"text {row} ends after {len(text)} bytes: its document has {cache.slots} chunks, and there "
                          "is room for no more: give a shorter prompt", stacklevel=2)
        if self.valid_utf8:  # drop a character that the limit broke, and all of the text if it began in the prompt
            broken = broken_character(self.broken[row] + text)
            del text[max(len(text) - len(broken), 0):]
        return True

    def is_open(self, row: int) -> bool:
        """Whether a text (by its number) is still being written."""
        return row in self.rows

    def text(self, row: int) -> str:
        """A row's text, with the whole character where its prompt broke one off, and U+FFFD for what is not UTF-8."""
        whole = self.broken[row] if self.written[row] else b""
        return (whole + self.written[row]).decode(errors="replace")
