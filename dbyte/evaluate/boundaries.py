"""How well the router's boundaries agree with the teacher's tokens: precision, recall and F1 on held-out text.

Only bytes that the router decides count (`losses.routed`): what the format fixes would flatter the score.

Shape letters: B rows, L bytes, D byte width.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from dbyte.distill.losses import routed
from dbyte.kernels.fast import fast_products
from dbyte.model.student import ByteStudent
from dbyte.text.packing import Batch, Rows
from dbyte.text.spans import BOS

BATCH_ROWS = 16


@dataclass(frozen=True)
class Agreement:
    """Counts over bytes; precision, recall and f1 in [0, 1].

    hits: boundaries of both. false_cuts: the router's alone. missed_cuts: the teacher's alone. n: bytes that count.
    """

    hits: int
    false_cuts: int
    missed_cuts: int
    n: int

    @property
    def precision(self) -> float:
        return self.hits / max(self.hits + self.false_cuts, 1)

    @property
    def recall(self) -> float:
        return self.hits / max(self.hits + self.missed_cuts, 1)

    @property
    def f1(self) -> float:
        return 2 * self.hits / max(2 * self.hits + self.false_cuts + self.missed_cuts, 1)

    @property
    def f1_stderr(self) -> float:
        """Of F1 by the delta method, counts taken as multinomial."""
        total = max(2 * self.hits + self.false_cuts + self.missed_cuts, 1)
        errors = self.false_cuts + self.missed_cuts
        return 2 * (self.hits * errors * (self.hits + errors)) ** 0.5 / total**2


@torch.no_grad()
def decisions(student: ByteStudent, rows: Rows) -> Iterator[tuple[Batch, torch.Tensor, torch.Tensor]]:
    """Yield all rows, batch by batch: (batch, boundary_prob_BL in [0, 1], routed_BL True where the router decides)."""
    for start in range(0, len(rows), BATCH_ROWS):
        batch = rows.batch(range(start, min(start + BATCH_ROWS, len(rows)))).to(student.device)
        with fast_products():
            encoded_BLD = student.encode(batch.byte_ids_BL, batch.document_BL)
            prob_BL = student.route(encoded_BLD, batch.byte_ids_BL, batch.document_BL)
        yield batch, prob_BL, routed(batch.byte_ids_BL, batch.document_BL)


def byte_rows(student: ByteStudent, row: Rows, **where: str) -> list[dict]:
    """Tidy rows of one row of text, one per byte, BOS and EOS left out.

    value: the router's probability of a boundary after the byte, 1 where the format fixes one. teacher: 1 where a token
    ends. decided: 1 where the router decides. ValueError for more than one row.
    """
    if len(row) != 1:
        raise ValueError(f"bytes are listed for one row of text, found {len(row)}")
    ((batch, prob_BL, routed_BL),) = decisions(student, row)
    columns = (batch.byte_ids_BL, prob_BL, batch.boundary_BL, routed_BL)
    text = ((batch.byte_ids_BL < BOS) & batch.mask_BL)[0]
    return [where | {"place": place, "value": value, "stderr": math.nan, "n": 1, "byte": byte, "teacher": int(true),
                     "decided": int(decided)}
            for place, (byte, value, true, decided) in enumerate(zip(
                *(column_BL[0][text].tolist() for column_BL in columns), strict=True))]
