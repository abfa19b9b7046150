"""How well the router's cuts agree with the teacher's tokens: precision, recall and F1 on held-out text.

Only bytes that the router decides count (`losses.routed`): what the alignment contract fixes would flatter the score.
"""

from dataclasses import dataclass

import torch

from dbyte.distill.losses import routed
from dbyte.model.router import THRESHOLD
from dbyte.model.student import ByteStudent
from dbyte.text.packing import Rows


@dataclass(frozen=True)
class Agreement:
    """Counts over bytes; precision, recall and f1 in [0, 1]."""

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
def agreement(student: ByteStudent, rows: Rows, *, batch_rows: int = 16) -> Agreement:
    """Compare the router's boundaries with the teacher's over all rows."""
    counts = torch.zeros(4, dtype=torch.long)
    for start in range(0, len(rows), batch_rows):
        batch = rows.batch(range(start, min(start + batch_rows, len(rows)))).to(student.device)
        encoded_BLD = student.encode(batch.byte_ids_BL, batch.document_BL)
        cut_BL = student.route(encoded_BLD, batch.byte_ids_BL, batch.document_BL) >= THRESHOLD
        counts_BL = routed(batch.byte_ids_BL, batch.document_BL)
        true_BL = batch.boundary_BL
        counts += torch.stack([(kind & counts_BL).sum() for kind in
                               (cut_BL & true_BL, cut_BL & ~true_BL, ~cut_BL & true_BL, torch.ones_like(cut_BL))]).cpu()
    return Agreement(*counts.tolist())
