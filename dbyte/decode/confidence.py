"""For students with smoothing: the router's confidence in the boundary before each row's open chunk.

In training the router sees the next byte at once. Here a boundary's confidence is known one byte later, when the byte
after it has been read, which is before the chunk that begins there can end.

Shape letters: B rows, L prompt bytes, D byte width.
"""

import torch
from torch import Tensor

from dbyte.model.chunking import CONFIDENCE_FLOOR
from dbyte.model.student import ByteStudent


class OpeningConfidence:
    """`value_B` in (0, 1], 1 in a document's first chunk; the running counterpart of `chunking.opening_confidence`."""

    def __init__(self, student: ByteStudent, rows: int):
        """Begin before the first byte of each row."""
        weight = student.null_E
        self.student = student
        self.encoded_BD = weight.new_zeros(rows, student.config.byte_width)
        self.byte_B = torch.zeros(rows, dtype=torch.long, device=weight.device)
        self.closed_B = torch.zeros(rows, dtype=torch.bool, device=weight.device)
        self.value_B = torch.ones(rows, device=weight.device)

    def prefill(
        self, encoded_BLD: Tensor, ids_BL: Tensor, prob_BL: Tensor, boundary_BL: Tensor, length_B: Tensor
    ) -> None:
        """Take in the first length_B (>= 0) bytes of each row, which hold all its boundaries."""
        rows = torch.arange(len(ids_BL), device=ids_BL.device)
        last_B = (length_B - 1).clamp(min=0)
        self.encoded_BD = encoded_BLD[rows, last_B]
        self.byte_B = ids_BL[rows, last_B]
        self.closed_B = boundary_BL[rows, last_B] & (length_B > 0)
        order_L = torch.arange(ids_BL.shape[1], device=ids_BL.device)
        opened_B = torch.where(boundary_BL, order_L, -1).max(1).values  # the byte before the open chunk
        self.value_B = _bounded(prob_BL[rows, opened_B.clamp(min=0)]).masked_fill(opened_B < 0, 1.0)

    def advance(self, encoded_BD: Tensor, byte_B: Tensor, ends_B: Tensor) -> None:
        """Take in one byte per row and whether a chunk ends at it; after a boundary the byte opens a chunk."""
        pair_B2 = torch.stack([self.byte_B, byte_B], 1)
        prob_B2 = self.student.route(torch.stack([self.encoded_BD, encoded_BD], 1), pair_B2, torch.zeros_like(pair_B2))
        self.value_B = torch.where(self.closed_B, _bounded(prob_B2[:, 0]), self.value_B)
        self.encoded_BD = encoded_BD
        self.byte_B = byte_B.clone()
        self.closed_B = ends_B.clone()


def _bounded(prob_B: Tensor) -> Tensor:
    return prob_B.clamp(CONFIDENCE_FLOOR, 1 - CONFIDENCE_FLOOR)
