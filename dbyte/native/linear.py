"""A projection or a SwiGLU network of a few rows as one call into `step.cpp`, and the choice between it and torch.

torch shares even the product of 16 rows between its threads, which wait for each other longer than they multiply and
then keep the cores busy under the threads of `step.cpp`. Here a row has the same bits whatever rows are beside it.

Shape letters: R rows, D width in, O width out, F feed-forward width, X any shape.
"""

from collections.abc import Callable
from ctypes import byref
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dbyte.model.blocks import SwiGLU
from dbyte.native.library import Pack, Room, fits, kept, library, runs_here

Map = Callable[[Tensor], Tensor]
FEW = 512


def step_map(part: nn.Linear | SwiGLU, *, compiled: bool = False) -> Map:
    """The map [R, D] to [R, O] for steps; FileNotFoundError where a compiled one lacks a C++ compiler.

    Compiled is `step.cpp` where that runs and there is no bias, else the part itself.
    """
    return kept(part, _fused) if compiled and runs_here(part) and getattr(part, "bias", None) is None else part


def read_map(part: nn.Linear | SwiGLU, input_XD: Tensor, *, compiled: bool = False) -> Tensor:
    """A projection or a feed-forward network [..., D]; compiled a few rows at a time, whose inner values stay near."""
    if not compiled or not input_XD.numel():
        return part(input_XD)
    ready = step_map(part, compiled=True)
    output_RO = torch.cat([ready(some_RD) for some_RD in input_XD.flatten(0, -2).split(FEW)])
    return output_RO.unflatten(0, input_XD.shape[:-1])


def weight_map(weight_OD: Tensor, *, compiled: bool = False) -> Map:
    """The same for a weight that no module has."""
    return FusedMap(weight_OD) if compiled and fits(weight_OD) else partial(F.linear, weight=weight_OD)


def _fused(part: nn.Linear | SwiGLU) -> "FusedMap":
    weights = (part.gate_up.weight, part.down.weight) if isinstance(part, SwiGLU) else (part.weight,)
    return FusedMap(*weights)


class FusedMap:
    """The product of a few rows with a weight [O, D], or SwiGLU by weights [2 F, D], gate first, and [O, F]."""

    def __init__(self, first: Tensor, down_OF: Tensor | None = None):
        self.call, self.pack = library().map_step, Pack()
        self.first, self.down = self.pack.weight(first), None if down_OF is None else self.pack.weight(down_OF)
        self.out = (self.down or self.first).out
        self.room = Room(per_row=self.first.out + self.down.in_ if self.down else 0)

    def __call__(self, hidden_RD: Tensor) -> Tensor:
        """[R, O] of rows [R, D]."""
        hidden_RD, rows = hidden_RD.contiguous(), len(hidden_RD)
        out_RO = torch.empty(rows, self.out)
        self.call(byref(self.first), byref(self.down) if self.down else None, hidden_RD.data_ptr(), rows,
                  out_RO.data_ptr(), *self.room.of(rows))
        return out_RO
