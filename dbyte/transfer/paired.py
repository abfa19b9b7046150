"""Texts along two tokenizers at once: rows of the same bytes with the student's tokens and with the teacher's.

A document is cut where both have a token end, so that every row holds the same bytes in both, and each token is one of
the whole document. Both tokenizers must leave the text as it is, or normalise it alike.

Shape letters: B rows, L bytes, K symbols that are kept of a byte's distribution.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from torch import Tensor

from dbyte.distill.data import documents
from dbyte.distill.runs import content_hash
from dbyte.text.packing import Batch, Document, Rows, cut, pack
from dbyte.text.spans import TokenBytes


@dataclass(frozen=True)
class PairedBatch(Batch):
    """A batch of the student's tokens; teacher: the same bytes with the teacher's.

    symbol_BLK, prob_BLK: byte targets, int16 and fp16, see `byte_targets.Targets`; None: there are none.
    """

    teacher: Batch
    symbol_BLK: Tensor | None = None
    prob_BLK: Tensor | None = None

    def split(self, rows: int | None) -> list["PairedBatch"]:
        """The rows in batches of at most `rows`, as `Batch.split` says."""
        parts = zip(super().split(rows), self.teacher.split(rows), strict=True)
        return [replace(part, teacher=teacher) for part, teacher in parts]

    def _each(self, change: Callable[[Tensor], Tensor]) -> "PairedBatch":
        def changed(part: Tensor | Batch | None) -> Tensor | Batch | None:
            return part._each(change) if isinstance(part, Batch) else None if part is None else change(part)

        return super()._each(changed)


@dataclass(frozen=True)
class PairedRows(Rows):
    """Rows of the student's tokens; teacher: the same bytes with the teacher's.

    targets: gives (symbol_BLK, prob_BLK) of rows with these numbers; None: there are none.
    """

    teacher: Rows
    targets: Callable[[Sequence[int]], tuple[Tensor, Tensor]] | None = None

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of both."""
        return content_hash([super().hash, self.teacher.hash])

    def batch(self, indices: Sequence[int]) -> PairedBatch:
        """The rows with these numbers, on the CPU."""
        targets = self.targets(indices) if self.targets else ()
        return PairedBatch(*vars(super().batch(indices)).values(), self.teacher.batch(indices), *targets)


def paired_rows(texts: Sequence[str], student: TokenBytes, teacher: TokenBytes, *, row_bytes: int) -> PairedRows:
    """Texts packed along both tokenizers; raises as `paired_documents`, or ValueError if no text is left."""
    pairs = list(paired_documents(texts, student, teacher, row_bytes=row_bytes))
    if not pairs:
        raise ValueError("no text is left that both tokenizers can spell and that fits the rows: give more text, or "
                         "longer rows")
    # where a document is placed depends on its bytes alone, so both are packed alike
    own, other = (pack(each, row_bytes=row_bytes) for each in zip(*pairs, strict=True))
    assert np.array_equal(own.byte_ids, other.byte_ids) and np.array_equal(own.document, other.document)
    return PairedRows(own.byte_ids, own.boundary, own.document, own.token_ids, other)


def paired_documents(
    texts: Sequence[str], student: TokenBytes, teacher: TokenBytes, *, row_bytes: int
) -> Iterator[tuple[Document, Document]]:
    """The documents of texts along the student's and the teacher's tokenizer, in pieces of at most `row_bytes` bytes.

    Texts that one of them cannot spell, or where no token ends in both for longer than a row, are left out, and their
    number is printed. Raises ValueError if the tokenizers normalise a text differently.
    """
    texts = [same_text(text, student, teacher) for text in teacher.spelled(student.spelled(texts))]
    too_long = 0
    for own, other in zip(documents(texts, student), documents(texts, teacher), strict=True):
        common_L = own.boundary & other.boundary
        if np.diff(np.flatnonzero(common_L)).max() + 2 > row_bytes:
            too_long += 1
            continue
        joint = Document(own.byte_ids, common_L, np.arange(common_L.sum(), dtype=np.int32))
        start = 1  # after BOS, with which every piece begins
        for piece in cut(joint, row_bytes=row_bytes):
            stop = start + len(piece) - 1
            yield _part(own, start, stop), _part(other, start, stop)
            start = stop
    if too_long:
        print(f"{too_long} documents are left out: for {row_bytes} bytes no token ends in both tokenizers", flush=True)


def same_text(text: str, student: TokenBytes, teacher: TokenBytes) -> str:
    """The text after both normalisers; ValueError if they disagree about it."""
    normal = student.normalise(teacher.normalise(text))
    if teacher.normalise(normal) != normal:
        raise ValueError(f"{student.name} and {teacher.name} normalise the same text differently (NFC and NFD), so "
                         "their bytes are not the same: choose a tokenizer with the teacher's normaliser, or none")
    return normal


def _part(whole: Document, start: int, stop: int) -> Document:
    """BOS and the bytes from start to stop, both of them where tokens begin."""
    first, last = (int(whole.boundary[:place].sum()) for place in (start, stop))
    bytes_L = np.r_[0, start:stop]
    return Document(whole.byte_ids[bytes_L], whole.boundary[bytes_L], whole.token_ids[np.r_[0, first:last]])
