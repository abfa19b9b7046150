"""Texts along two tokenizers at once: rows of the same bytes with the student's tokens and with the teacher's.

A document is cut where both have a token end, so that every row holds the same bytes in both, and each token is one of
the whole document. Both tokenizers must leave the text as it is, or normalise it alike.

Shape letters: B rows, L bytes, M tokens, K symbols that are kept of a byte's distribution.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
from torch import Tensor

from dbyte.distill.runs import content_hash
from dbyte.text.packing import Batch, Document, Rows, cut, document, pack
from dbyte.text.spans import TokenBytes

TEXTS_AT_ONCE = 512
Pair = tuple[Document, Document]  # of the student and of the teacher, over the same bytes


@dataclass(frozen=True)
class PairedBatch(Batch):
    """A batch of the student's tokens; teacher: the same bytes with the teacher's; byte targets if they were computed.

    symbol_BLK, prob_BLK: the likeliest symbols at each byte and their probabilities, int16 and fp16.
    """

    teacher: Batch
    symbol_BLK: Tensor | None = None
    prob_BLK: Tensor | None = None

    def split(self, rows: int | None) -> list["PairedBatch"]:
        """The rows in batches of at most `rows`, as `Batch.split` says."""
        teachers = self.teacher.split(rows)
        if len(teachers) == 1:
            return [self]
        return [replace(part, teacher=each) for part, each in zip(super().split(rows), teachers, strict=True)]

    def _each(self, change: Callable[[Tensor], Tensor]) -> "PairedBatch":
        def changed(value: Batch | Tensor | None) -> Batch | Tensor | None:
            return value._each(change) if isinstance(value, Batch) else None if value is None else change(value)

        return PairedBatch(*(changed(getattr(self, one.name)) for one in fields(self)))


@dataclass(frozen=True)
class PairedRows:
    """Rows of the same bytes, as `Feed` reads them. ValueError where the bytes differ.

    targets: gives (symbol_BLK, prob_BLK) of rows, None: there are none.
    """

    student: Rows
    teacher: Rows
    targets: Callable[[Sequence[int]], tuple[Tensor, Tensor]] | None = None

    def __post_init__(self) -> None:
        if not (np.array_equal(self.student.byte_ids, self.teacher.byte_ids)
                and np.array_equal(self.student.document, self.teacher.document)):
            raise ValueError("the rows of student and teacher hold different bytes: make both with `paired_rows`")

    def __len__(self) -> int:
        return len(self.student)

    @property
    def row_bytes(self) -> int:
        """Bytes in a row, padding included."""
        return self.student.row_bytes

    @property
    def token_ids(self) -> np.ndarray:
        """The student's tokens, int32 [R, M], -1 on padding."""
        return self.student.token_ids

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of both."""
        return content_hash([self.student.hash, self.teacher.hash])

    def batch(self, indices: Sequence[int]) -> PairedBatch:
        """The rows with these numbers, on the CPU."""
        targets = self.targets(indices) if self.targets else ()
        return PairedBatch(*vars(self.student.batch(indices)).values(), self.teacher.batch(indices), *targets)


def paired_rows(texts: Sequence[str], student: TokenBytes, teacher: TokenBytes, *, row_bytes: int) -> PairedRows:
    """Texts packed along both tokenizers; raises as `paired_documents`, or ValueError if no text is left."""
    pairs = list(paired_documents(texts, student, teacher, row_bytes=row_bytes))
    if not pairs:
        raise ValueError("no text is left that both tokenizers can spell and that fits the rows: give more text, or "
                         "longer rows")
    # where a document is placed depends on its bytes alone, so both are packed alike
    return PairedRows(*(pack(each, row_bytes=row_bytes) for each in zip(*pairs, strict=True)))


def paired_documents(
    texts: Sequence[str], student: TokenBytes, teacher: TokenBytes, *, row_bytes: int
) -> Iterator[Pair]:
    """The documents of texts along both tokenizers, in pieces of at most `row_bytes` bytes.

    Texts that one of them cannot spell, or where no token ends in both for longer than a row, are left out, and their
    number is printed. Raises ValueError if the tokenizers normalise a text differently.
    """
    texts = teacher.spelled(student.spelled(texts))
    too_long = 0
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        some = [same_text(text, student, teacher) for text in texts[start : start + TEXTS_AT_ONCE]]
        for own, other in zip(student.align_batch(some), teacher.align_batch(some), strict=True):
            own, other = document(own, student), document(other, teacher)
            common_L = own.boundary & other.boundary
            if np.diff(np.flatnonzero(common_L)).max() + 2 > row_bytes:
                too_long += 1
                continue
            joint = Document(own.byte_ids, common_L, np.arange(common_L.sum(), dtype=np.int32))
            cursor = 1  # after BOS, with which every piece begins
            for piece in cut(joint, row_bytes=row_bytes):
                end = cursor + len(piece) - 1
                yield _slice(own, cursor, end), _slice(other, cursor, end)
                cursor = end
    if too_long:
        print(f"{too_long} documents are left out: for {row_bytes} bytes no token ends in both tokenizers", flush=True)


def same_text(text: str, student: TokenBytes, teacher: TokenBytes) -> str:
    """The text after both normalisers; ValueError if they disagree about it."""
    normal = student.normalise(teacher.normalise(text))
    if teacher.normalise(normal) != normal:
        raise ValueError(f"{student.name} and {teacher.name} normalise the same text differently (NFC and NFD), so "
                         "their bytes are not the same: choose a tokenizer with the teacher's normaliser, or none")
    return normal


def _slice(whole: Document, start: int, end: int) -> Document:
    """BOS and the bytes from start to end, both of them where tokens begin."""
    first, last = (int(whole.boundary[:place].sum()) for place in (start, end))
    bytes_L = np.r_[0, start:end]
    return Document(whole.byte_ids[bytes_L], whole.boundary[bytes_L], whole.token_ids[np.r_[0, first:last]])
