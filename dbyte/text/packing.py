"""Documents packed into rows of bytes: from aligned texts to the batches that training reads.

A document is BOS + text + EOS. BOS and EOS are chunks of their own and stand for the teacher's own tokens. A row holds
whole documents and a padded tail, never a split token, and every byte carries the number of its document. A document
longer than a row is cut at token ends into pieces. Each piece opens with BOS, since it is a document of its own to the
model; only the last closes with EOS.
The paper (arXiv 2602.01007, section 5) trains on rows of a fixed number of bytes and does not say how rows end.

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
MAX_ROW_BYTES = 65534  # two bytes a document at least, and document numbers are int16
DTYPES = {"byte_ids": np.uint8, "boundary": np.bool_, "document": np.int16, "token_ids": np.int32}


@dataclass(frozen=True)
class Document:
    """BOS + text + EOS, or a piece of it: byte_ids uint8 [L], boundary bool [L], token_ids int32 [M]."""

    byte_ids: np.ndarray
    boundary: np.ndarray
    token_ids: np.ndarray

    def __post_init__(self) -> None:
        for name in ("byte_ids", "boundary", "token_ids"):
            found = getattr(self, name).dtype
            if found != DTYPES[name]:
                raise ValueError(f"a document's {name} must be {np.dtype(DTYPES[name])}, found {found}")
        if self.byte_ids.shape != self.boundary.shape or np.count_nonzero(self.boundary) != len(self.token_ids):
            raise ValueError(
                f"a document needs one boundary a token: found {len(self.byte_ids)} bytes, {self.boundary.sum()} "
                f"boundaries in {len(self.boundary)}, {len(self.token_ids)} tokens"
            )
        if len(self.byte_ids) == 0 or self.byte_ids[0] != BOS or not self.boundary[0] or not self.boundary[-1]:
            raise ValueError("a document opens with BOS, a chunk of its own, and ends where a token ends")
        if np.count_nonzero(self.byte_ids >= BOS) != 1 + (self.byte_ids[-1] == EOS):
            raise ValueError(f"bytes {BOS} and {EOS} are BOS and EOS and cannot be text; is the text UTF-8?")

    def __len__(self) -> int:
        return len(self.byte_ids)


def document(aligned: Aligned, token_bytes: TokenBytes) -> Document:
    """The document of an aligned text: BOS before it and EOS after it, each a chunk of its own."""
    text_L = aligned.byte_ids.numpy()
    if text_L.max(initial=0) >= BOS:
        raise ValueError(f"bytes {BOS} and {EOS} are BOS and EOS and cannot be text; is the text UTF-8?")
    # Filled in place: documents are short and many, and every pass over one costs as much as tokenising some words.
    byte_ids = np.empty(len(text_L) + 2, dtype=np.uint8)
    byte_ids[0] = BOS
    byte_ids[1:-1] = text_L
    byte_ids[-1] = EOS
    boundary = np.ones(len(byte_ids), dtype=np.bool_)
    boundary[1:-1] = aligned.boundary.numpy()
    token_ids = np.empty(len(aligned.token_ids) + 2, dtype=np.int32)
    token_ids[0] = token_bytes.bos_token_id
    token_ids[1:-1] = aligned.token_ids.numpy()
    token_ids[-1] = token_bytes.eos_token_id
    return Document(byte_ids=byte_ids, boundary=boundary, token_ids=token_ids)


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
        return self._mapped(lambda tensor: tensor.to(device))

    def split(self, rows: int | None) -> list["Batch"]:
        """The rows in batches of at most `rows` >= 1 (None: all), each padded to the most tokens of its own rows."""
        if rows is None or rows >= len(self.byte_ids_BL):
            return [self]
        if rows < 1:
            raise ValueError(f"a batch is split into batches of at least one row, found {rows}")
        parts = []
        for start in range(0, len(self.byte_ids_BL), rows):
            chosen = slice(start, start + rows)
            parts.append(self._mapped(lambda tensor, chosen=chosen: tensor[chosen])._trimmed())
        return parts

    def _mapped(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        return Batch(**{each.name: change(getattr(self, each.name)) for each in fields(self)})

    def _trimmed(self) -> "Batch":
        most = max(int(self.token_mask_BM.sum(1).max()), 1)
        return replace(self, token_ids_BM=self.token_ids_BM[:, :most],
                       token_document_BM=self.token_document_BM[:, :most], token_mask_BM=self.token_mask_BM[:, :most])


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
        for name, dtype in DTYPES.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.ndim != 2 or len(array) != len(self.byte_ids):
                raise ValueError(f"rows' {name} must be {np.dtype(dtype)} with {len(self.byte_ids)} rows, "
                                 f"found {array.dtype} {array.shape}")
        if not self.byte_ids.shape == self.boundary.shape == self.document.shape or self.byte_ids.size == 0:
            raise ValueError(f"rows need bytes, boundaries and documents of one shape, not empty; found "
                             f"{self.byte_ids.shape}, {self.boundary.shape}, {self.document.shape}")
        if not np.array_equal(self.boundary.sum(axis=1), (self.token_ids >= 0).sum(axis=1)):
            raise ValueError("rows need one boundary a token in every row")

    def __len__(self) -> int:
        return len(self.byte_ids)

    @property
    def row_bytes(self) -> int:
        """Bytes in a row, padding included."""
        return self.byte_ids.shape[1]

    @cached_property
    def fill(self) -> float:
        """The share of bytes that are not padding, 0..1."""
        return float((self.document >= 0).mean())

    @cached_property
    def text_bytes(self) -> int:
        """Bytes of text: neither padding nor BOS nor EOS."""
        return int(((self.document >= 0) & (self.byte_ids < BOS)).sum())

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the shapes and the content."""
        return rows_hash({name: getattr(self, name) for name in DTYPES})

    def batch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The rows `indices`, int [B], as a Batch on the CPU."""
        boundary_BL = self.boundary[indices]
        document_BL = self.document[indices].astype(np.int64)
        token_mask_BM = self.token_ids[indices] >= 0
        token_mask_BM = token_mask_BM[:, :token_mask_BM.sum(axis=1).max(initial=0)]
        token_ids_BM = np.where(token_mask_BM, self.token_ids[indices, :token_mask_BM.shape[1]], 0)
        # Both masks are read row by row, left to right, so the k-th boundary of a row meets its k-th token.
        token_document_BM = np.full(token_mask_BM.shape, -1, dtype=np.int64)
        token_document_BM[token_mask_BM] = document_BL[boundary_BL]
        return Batch(
            byte_ids_BL=torch.from_numpy(self.byte_ids[indices].astype(np.int64)),
            boundary_BL=torch.from_numpy(boundary_BL),
            document_BL=torch.from_numpy(document_BL),
            mask_BL=torch.from_numpy(document_BL >= 0),
            token_ids_BM=torch.from_numpy(token_ids_BM.astype(np.int64)),
            token_document_BM=torch.from_numpy(token_document_BM),
            token_mask_BM=torch.from_numpy(token_mask_BM),
        )

    def save(self, path: Path | str) -> None:
        """Write the rows as safetensors, atomically: a reader sees the complete file or none."""
        from safetensors.numpy import save

        arrays = {name: getattr(self, name) for name in DTYPES}
        atomic_write(Path(path), save(arrays, metadata={**FORMAT, "hash": self.hash}))

    @classmethod
    def load(cls, path: Path | str) -> "Rows":
        """Read what `save` wrote; ValueError names a damaged or foreign file, FileNotFoundError a missing one."""
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise FileNotFoundError(f"no packed rows at {path}: pack the documents first and save them there")
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                names = set(file.keys())
                arrays = {name: file.get_tensor(name) for name in DTYPES if name in names}
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or no safetensors file ({error}); delete it and pack again") from error
        if names != set(DTYPES) or any(metadata.get(key) != value for key, value in FORMAT.items()):
            raise ValueError(f"{path} does not hold rows of this version: expected {FORMAT} with {sorted(DTYPES)}, "
                             f"found {metadata} with {sorted(names)}; delete it and pack again")
        if rows_hash(arrays) != metadata.get("hash"):
            raise ValueError(f"{path} is damaged: its content does not match its checksum; delete it and pack again")
        return cls(**arrays)


def joined(chosen: Sequence[tuple[Rows, int]]) -> Rows:
    """New rows from chosen ones: (rows, index) for each; all rows must have the same number of bytes."""
    names = ("byte_ids", "boundary", "document")
    arrays = {name: np.stack([getattr(rows, name)[index] for rows, index in chosen]) for name in names}
    most_tokens = max(rows.token_ids.shape[1] for rows, _ in chosen)
    token_ids_RM = np.full((len(chosen), most_tokens), -1, dtype=np.int32)
    for tokens_M, (rows, index) in zip(token_ids_RM, chosen, strict=True):
        tokens_M[: rows.token_ids.shape[1]] = rows.token_ids[index]
    return Rows(**arrays, token_ids=token_ids_RM)


def rows_hash(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 (hex) of the shapes and content of the arrays of rows; it is equal on every machine."""
    digest = hashlib.sha256(f"rows {FORMAT['schema']} {[arrays[name].shape for name in DTYPES]}".encode())
    for name, dtype in DTYPES.items():
        digest.update(np.ascontiguousarray(arrays[name], dtype=np.dtype(dtype).newbyteorder("<")).data)
    return digest.hexdigest()


def pack(documents: Iterable[Document], *, row_bytes: int, positions: int | None = None) -> Rows:
    """Pack documents into rows of `row_bytes` bytes; the same documents always give the same rows.

    positions: the most tokens of a document that the core has room for, BOS and EOS included; None: no limit. Raises
    ValueError for no documents, a size out of range, or a token that no row can hold.
    """
    if not 3 <= row_bytes <= MAX_ROW_BYTES:
        raise ValueError(f"row_bytes must lie in 3..{MAX_ROW_BYTES}, found {row_bytes}")
    pieces = [piece for whole in documents for piece in cut(whole, row_bytes=row_bytes, positions=positions)]
    if not pieces:
        raise ValueError("there are no documents to pack; is the corpus or the split empty?")
    placed = place([len(piece) for piece in pieces], row_bytes=row_bytes)
    # Rows are ordered by their first document, and documents keep their order in a row: rows follow the text.
    ordered = [sorted(row) for row in sorted(placed, key=min)]
    return materialise([[pieces[index] for index in row] for row in ordered], row_bytes=row_bytes)


def cut(whole: Document, *, row_bytes: int, positions: int | None = None) -> Iterator[Document]:
    """Cut a document of more bytes than a row, or more tokens than `positions`, at token ends, as late as possible.

    A document that fits is returned as it is. Raises ValueError for fewer than 3 positions, or a token that no row can
    hold.
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
        yield piece_of(whole, start=start, end=ends_M[stop - 1], tokens=slice(token, stop))
        token = stop


def piece_of(whole: Document, *, start: int, end: int, tokens: slice) -> Document:
    """A document of BOS and the bytes start..end - 1 of another, whose tokens are `tokens`."""
    return Document(
        byte_ids=np.concatenate([whole.byte_ids[:1], whole.byte_ids[start:end]]),
        boundary=np.concatenate([whole.boundary[:1], whole.boundary[start:end]]),
        token_ids=np.concatenate([whole.token_ids[:1], whole.token_ids[tokens]]),
    )


def place(sizes: Sequence[int], *, row_bytes: int) -> list[list[int]]:
    """Best-fit decreasing packing, one window of documents after another: the documents (by index) of every row."""
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


def materialise(rows: list[list[Document]], *, row_bytes: int) -> Rows:
    """Write the documents of every row one after the other into padded arrays."""
    most_tokens = max(sum(len(each.token_ids) for each in row) for row in rows)
    byte_ids_RL = np.zeros((len(rows), row_bytes), dtype=np.uint8)
    boundary_RL = np.zeros((len(rows), row_bytes), dtype=np.bool_)
    document_RL = np.full((len(rows), row_bytes), -1, dtype=np.int16)
    token_ids_RM = np.full((len(rows), most_tokens), -1, dtype=np.int32)
    for r, row in enumerate(rows):
        sizes = [len(each) for each in row]
        tokens = np.concatenate([each.token_ids for each in row])
        byte_ids_RL[r, :sum(sizes)] = np.concatenate([each.byte_ids for each in row])
        boundary_RL[r, :sum(sizes)] = np.concatenate([each.boundary for each in row])
        document_RL[r, :sum(sizes)] = np.repeat(np.arange(len(row)), sizes)
        token_ids_RM[r, :len(tokens)] = tokens
    return Rows(byte_ids=byte_ids_RL, boundary=boundary_RL, document=document_RL, token_ids=token_ids_RM)
