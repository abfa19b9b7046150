"""A projection or a SwiGLU network of a few rows as one call into `native.cpp`.

torch shares even the product of 16 rows between its threads, which wait for each other longer than they multiply. Here
a row has the same bits whatever rows are next to it.

Shape letters: R rows, D width in, O width out, F feed-forward width, X any shape.
"""

from ctypes import byref

import torch
from torch import Tensor, nn

from dbyte.model.blocks import SwiGLU
from dbyte.native.library import TILE, PackedWeights, Scratch, library, num_threads


class NativeMap:
    """The product of rows with a weight [O, D], or SwiGLU by weights [2 F, D], gate first, and [O, F]."""

    def __init__(self, first_OD: Tensor, down_OF: Tensor | None = None):
        self.call = library().map_rows
        self.packed = PackedWeights()
        self.first = self.packed.weight(first_OD)
        self.down = None if down_OF is None else self.packed.weight(down_OF)
        self.out = (self.down or self.first).out
        self.each = TILE * (self.first.out + self.down.in_) if self.down else 0

    def __call__(self, hidden_XD: Tensor) -> Tensor:
        """Outputs [..., O] of rows [..., D], fp32."""
        hidden_RD = hidden_XD.reshape(-1, self.first.in_).contiguous()
        rows = len(hidden_RD)
        out_RO = torch.empty(rows, self.out)
        self.call(byref(self.first), byref(self.down) if self.down else None, hidden_RD.data_ptr(), rows,
                  out_RO.data_ptr(), byref(Scratch.of(self.each, num_threads(rows))))
        return out_RO.view(*hidden_XD.shape[:-1], self.out)


def pack_map(part: nn.Linear | SwiGLU) -> NativeMap:
    """A module's weights as a map."""
    if isinstance(part, SwiGLU):
        return NativeMap(part.gate_up.weight, part.down.weight)
    return NativeMap(part.weight)
