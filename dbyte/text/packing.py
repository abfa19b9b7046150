"""Documents packed into rows of bytes: from aligned texts to the batches that training reads.

A document is BOS + text + EOS, where BOS and EOS are chunks of their own and stand for the teacher's own tokens. A row
holds whole documents and a padded tail, and every byte carries the number of its document. A longer document is split
at token ends into pieces. Each piece opens with BOS, since it is a document of its own to the model; only the last
closes with EOS. The paper (arXiv 2602.01007, section 5) trains on rows of a fixed number of bytes and does not say how
rows end.

Shapes: R rows, L bytes in a row, M tokens in a row, B rows in a batch.
"""

import hashlib
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from dbyte.atomic import atomic_write
from dbyte.text.spans import BOS, EOS, Aligned, TokenBytes

FORMAT = {"format": "dbyte.rows", "schema": "1"}
WINDOW = 4096  # documents sorted together: more choice fills rows better, a bound keeps the order of the text
OPEN_ROWS = 512  # rows with room left that the next window may still fill
LEAST_ROW_BYTES = 3  # BOS, a byte, EOS
MAX_ROW_BYTES = 65534  # two bytes a document at least, and document numbers are int16
DTYPES = {"byte_ids": np.uint8, "boundary": np.bool_, "document": np.int16, "token_ids": np.int32}


@dataclass(frozen=True)
class Document:
    """BOS + text + EOS, or a piece of it: byte_ids uint8 [L], boundary bool [L], token_ids int32 [M]."""

    byte_ids: np.ndarray
    boundary: np.ndarray
    token_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.byte_ids)


def document(aligned: Aligned, token_bytes: TokenBytes) -> Document:
    """The document of an aligned text: BOS before it and EOS after it, each a chunk of its own."""
    text_L = aligned.byte_ids.numpy()
    if text_L.max(initial=0) >= BOS:
        raise ValueError(f"bytes {BOS} and {EOS} are BOS and EOS and cannot be text; is the text UTF-8?")
    ids = [token_bytes.bos_token_id], aligned.token_ids.numpy(), [token_bytes.eos_token_id]
    return Document(byte_ids=np.concatenate([[BOS], text_L, [EOS]], dtype=np.uint8, casting="unsafe"),
                    boundary=np.concatenate([[True], aligned.boundary.numpy(), [True]]),
                    token_ids=np.concatenate(ids, dtype=np.int32, casting="unsafe"))


@dataclass(frozen=True)
class Batch:
    """Some rows as torch tensors; M is the number of tokens of the row that has most.

    byte_ids_BL: int64, 0 on padding. boundary_BL: bool, True at the last byte of a token. document_BL: int64, a byte's
    document in its row, -1 on padding. mask_BL: bool, True on real bytes. token_ids_BM: int64, 0 on padding.
    token_document_BM: int64, -1 on padding. token_mask_BM: bool, True on real tokens.
    """

    byte_ids_BL: torch.Tensor
    boundary_BL: torch.Tensor
    document_BL: torch.Tensor
    mask_BL: torch.Tensor
    token_ids_BM: torch.Tensor
    token_document_BM: torch.Tensor
    token_mask_BM: torch.Tensor

    def to(self, device: torch.device | str) -> "Batch":
        """This batch on `device`."""
        return self._each(lambda tensor: tensor.to(device))

    def split(self, rows: int | None) -> list["Batch"]:
        """The rows in batches of at most `rows` >= 1 (None: all), each padded to the most tokens of its own rows."""
        if rows is None or rows >= len(self.byte_ids_BL):
            return [self]
        if rows < 1:
            raise ValueError(f"a batch is split into batches of at least one row, found {rows}")
        parts = []
        for start in range(0, len(self.byte_ids_BL), rows):
            part = self._each(lambda tensor, start=start: tensor[start : start + rows])
            most = max(int(part.token_mask_BM.sum(1).max()), 1)
            parts.append(replace(part, token_ids_BM=part.token_ids_BM[:, :most],
                                 token_document_BM=part.token_document_BM[:, :most],
                                 token_mask_BM=part.token_mask_BM[:, :most]))
        return parts

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        return type(self)(*(change(getattr(self, each.name)) for each in fields(self)))


@dataclass(frozen=True)
class Rows:
    """Packed rows: byte_ids uint8 [R, L]; boundary bool [R, L]; document int16 [R, L]; token_ids int32 [R, M].

    document counts 0, 1, 2 .. in each row and is -1 on padding, where bytes are 0 and boundaries False. The k-th token
    of a row ends at its k-th boundary; tokens are padded with -1. Raises ValueError where the arrays contradict this.
    """

    byte_ids: np.ndarray
    boundary: np.ndarray
    document: np.ndarray
    token_ids: np.ndarray

    def __post_init__(self) -> None:
        arrays = {name: getattr(self, name) for name in DTYPES}
        if (any(array.dtype != DTYPES[name] for name, array in arrays.items()) or self.byte_ids.size == 0
                or not self.byte_ids.shape == self.boundary.shape == self.document.shape):
            found = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in arrays.items())
            raise ValueError(f"rows need bytes uint8, boundaries bool and documents int16 of one shape, not empty, and "
                             f"token ids int32; found {found}")
        if not np.array_equal(self.boundary.sum(axis=1), (self.token_ids >= 0).sum(axis=1)):
            raise ValueError("rows need one boundary a token in every row, found others: pack the documents again")

    def __len__(self) -> int:
        return len(self.byte_ids)

    @property
    def row_bytes(self) -> int:
        """Bytes in a row, padding included."""
        return self.byte_ids.shape[1]

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the shapes and the content; it is equal on every machine."""
        shapes = [getattr(self, name).shape for name in DTYPES]
        digest = hashlib.sha256(f"rows {FORMAT['schema']} {shapes}".encode())
        for name, dtype in DTYPES.items():
            digest.update(np.ascontiguousarray(getattr(self, name), dtype=np.dtype(dtype).newbyteorder("<")).data)
        return digest.hexdigest()

    def batch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The rows with these numbers, int [B], as a Batch on the CPU."""
        boundary_BL = self.boundary[indices]
        document_BL = self.document[indices].astype(np.int64)
        most_tokens = (self.token_ids[indices] >= 0).sum(axis=1).max(initial=0)
        token_ids_BM = self.token_ids[indices, :most_tokens].astype(np.int64)
        token_mask_BM = token_ids_BM >= 0
        # Both masks are read row by row, left to right, so the k-th boundary of a row meets its k-th token.
        token_document_BM = np.full(token_mask_BM.shape, -1, dtype=np.int64)
        token_document_BM[token_mask_BM] = document_BL[boundary_BL]
        arrays = (self.byte_ids[indices].astype(np.int64), boundary_BL, document_BL, document_BL >= 0,
                  np.where(token_mask_BM, token_ids_BM, 0), token_document_BM, token_mask_BM)
        return Batch(*map(torch.from_numpy, arrays))

    def save(self, path: Path | str) -> None:
        """Write the rows as safetensors, atomically: a reader sees the complete file or none."""
        from safetensors.numpy import save

        arrays = {name: getattr(self, name) for name in DTYPES}
        atomic_write(Path(path), save(arrays, metadata={**FORMAT, "hash": self.hash}))

    @classmethod
    def load(cls, path: Path | str) -> "Rows":
        """Read what `save` wrote; ValueError names a damaged or foreign file, FileNotFoundError a missing one."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata()
                rows = cls(**{name: file.get_tensor(name) for name in DTYPES})
        except (SafetensorError, ValueError) as error:
            raise ValueError(f"{path} is damaged or does not hold packed rows ({error}); delete it and pack "
                             "again") from error
        if metadata != {**FORMAT, "hash": rows.hash}:
            raise ValueError(f"{path} is damaged or of another version: expected {FORMAT} with the hash {rows.hash} of "
                             f"its rows, found {metadata}; delete it and pack again")
        return rows


def joined(chosen: Sequence[tuple[Rows, int]]) -> Rows:
    """New rows from chosen ones: (rows, index) for each; all rows must have the same number of bytes."""
    arrays = {name: [getattr(rows, name)[index] for rows, index in chosen] for name in DTYPES}
    return Rows(**{name: padded(parts) for name, parts in arrays.items()})


def padded(parts: list[np.ndarray], size: int = 0) -> np.ndarray:
    """One-dimensional arrays as rows of `size`, or of the longest; padded with -1 if signed integers, else with 0."""
    fill = -1 if np.issubdtype(parts[0].dtype, np.signedinteger) else 0
    rows = np.full((len(parts), max(size, *map(len, parts))), fill, dtype=parts[0].dtype)
    for row, part in zip(rows, parts, strict=True):
        row[: len(part)] = part
    return rows


def pack(documents: Iterable[Document], *, row_bytes: int, positions: int | None = None) -> Rows:
    """Pack documents into rows of `row_bytes` bytes; the same documents always give the same rows.

    positions: the most tokens of a document that the core has room for, BOS and EOS included; None: no limit. Raises
    ValueError for no documents, a size out of range, or a token that no row can hold.
    """
    if not LEAST_ROW_BYTES <= row_bytes <= MAX_ROW_BYTES:
        raise ValueError(f"row_bytes must lie in {LEAST_ROW_BYTES}..{MAX_ROW_BYTES}, found {row_bytes}")
    pieces = [piece for whole in documents for piece in cut(whole, row_bytes=row_bytes, positions=positions)]
    if not pieces:
        raise ValueError("there are no documents to pack; is the corpus or the split empty?")
    placed = place([len(piece) for piece in pieces], row_bytes=row_bytes)
    # Rows are ordered by their first document, and documents keep their order in a row: rows follow the text.
    ordered = [[pieces[index] for index in sorted(row)] for row in sorted(placed, key=min)]
    numbers = [np.repeat(np.arange(len(row), dtype=np.int16), [len(each) for each in row]) for row in ordered]
    arrays = {name: [np.concatenate([getattr(each, name) for each in row]) for row in ordered]
              for name in ("byte_ids", "boundary", "token_ids")}
    return Rows(byte_ids=padded(arrays["byte_ids"], row_bytes), boundary=padded(arrays["boundary"], row_bytes),
                document=padded(numbers, row_bytes), token_ids=padded(arrays["token_ids"]))


def cut(whole: Document, *, row_bytes: int, positions: int | None = None) -> Iterator[Document]:
    """Split a document of more bytes than a row, or more tokens than `positions`, at token ends, as late as possible.

    A document that fits is yielded as it is. Raises ValueError for fewer than 3 positions, or a token that fits no row.
    """
    positions = row_bytes if positions is None else positions
    if positions < 3:
        raise ValueError(f"positions must be at least 3, for BOS, a token and EOS; found {positions}")
    if len(whole) <= row_bytes and len(whole.token_ids) <= positions:
        yield whole
        return
    ends_M = np.flatnonzero(whole.boundary) + 1
    longest = int(np.diff(ends_M).max())
    if longest + 2 > row_bytes:
        raise ValueError(f"a token of {longest} bytes, with BOS and EOS, does not fit a row of {row_bytes} bytes; "
                         f"set row_bytes to {longest + 2} or more")
    token = 1
    while token < len(ends_M):
        start = ends_M[token - 1]
        stop = int(np.searchsorted(ends_M, start + row_bytes - 1, side="right"))
        stop = min(stop, token + positions - 1)
        # A piece of EOS alone would be a document without text, so EOS takes the last token along.
        if stop == len(ends_M) - 1:
            stop -= 1
        inside = np.r_[0, start : ends_M[stop - 1]]
        tokens = np.r_[0, token:stop]
        yield Document(whole.byte_ids[inside], whole.boundary[inside], whole.token_ids[tokens])
        token = stop


def place(sizes: Sequence[int], *, row_bytes: int) -> list[list[int]]:
    """Best-fit decreasing packing of documents of these sizes in bytes, window by window: the indices in each row."""
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free bytes, row) of rows that may still be filled, ascending
    order = iter(range(len(sizes)))
    while window := list(islice(order, WINDOW)):
        for index in sorted(window, key=lambda i: (-sizes[i], i)):
            tightest = bisect_left(room, (sizes[index], 0))
            if tightest < len(room):
                free, row = room.pop(tightest)
            else:
                free = row_bytes
                row = len(rows)
                rows.append([])
            rows[row].append(index)
            insort(room, (free - sizes[index], row))
        room = room[-OPEN_ROWS:]
    return rows
