"""The C++ beside this file compiled for this machine and bound: what `compiled` code runs in fp32 on a CPU.

It is compiled once a process, in a second or two, into a folder that is gone afterwards: code for one machine's CPU is
of no use to another that shares its disk.
"""

import ctypes
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from ctypes import POINTER, Structure, c_float, c_int, c_long, c_void_p
from functools import cache
from pathlib import Path
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Made = TypeVar("Made")

SOURCE = Path(__file__).with_name("tree.cpp")  # it includes step.cpp
# finite, unsigned zeros: a clamp is a minimum and a maximum then, and not branches, of which GCC computes each
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffinite-math-only",
         "-fno-signed-zeros", "-fopenmp-simd", "-pthread", "-shared", "-fPIC")
PANEL = 32  # outputs side by side in a packed weight, as in step.cpp
TILE = 64  # nodes of a tree that go through all blocks or layers before the next ones do: they stay in the cache
_MADE: WeakKeyDictionary = WeakKeyDictionary()  # module -> the state of its weights, and what was made of them


def runs_here(module: nn.Module) -> bool:
    """Whether a module's weights are what `step.cpp` takes: fp32 on a CPU."""
    return all(map(fits, module.parameters()))


def fits(weight: Tensor) -> bool:
    """The same of one weight."""
    return weight.dtype == torch.float32 and weight.device.type == "cpu"


def kept(module: nn.Module, make: Callable[[nn.Module], Made]) -> Made:
    """What was made of a module before, for as long as its weights stay as they were; else make it."""
    weights = tuple((weight.data_ptr(), weight._version) for weight in module.parameters())
    have = _MADE.get(module)
    if have is None or have[0] != weights:
        have = _MADE[module] = weights, make(module)
    return have[1]


class Weight(Structure):
    """A packed weight; see `Pack.weight`."""

    _fields_ = [("panels", c_void_p), ("in_", c_int), ("out", c_int)]


class Block(Structure):
    """A block of a stack of Mamba2; the way in is two weights, since the gate is not asked for where no output is."""

    _fields_ = [*((name, Weight) for name in ("gate", "in_", "out", "gate_up", "down")),
                *((name, c_void_p) for name in ("norm", "ffn_norm", "taps_WX", "bias_X", "dt_bias_H", "rate_H",
                                                "skip_H")),
                *((name, c_int) for name in ("heads", "state_size", "taps")),
                *((name, c_float) for name in ("norm_eps", "gate_eps", "ffn_eps"))]


class Layer(Structure):
    """A layer of a core."""

    _fields_ = [*((name, Weight) for name in ("query_key_value", "out", "gate_up", "down")),
                *((name, c_void_p) for name in ("before_attention", "after_attention", "after_feed_forward",
                                                "query_norm", "key_norm")),
                *((name, c_float) for name in ("before_eps", "after_eps", "feed_forward_eps", "query_eps", "key_eps",
                                               "scale"))]


class Pack:
    """Tensors as C finds them; it holds them for as long as it lives itself."""

    def __init__(self):
        self.held: list[Tensor] = []

    def vector(self, values: Tensor | None) -> int | None:
        """Where a copy of the values lies, fp32; None stays None."""
        if values is None:
            return None
        self.held.append(values.detach().to(torch.float32).contiguous().clone())
        return self.held[-1].data_ptr()

    def weight(self, *parts_OD: Tensor) -> Weight:
        """Weights of one input, one above the other, in panels [PANEL outputs][in, PANEL]; zeros fill the last."""
        weight_OD = torch.cat([part.detach() for part in parts_OD])
        out, width = weight_OD.shape
        panels = F.pad(weight_OD, (0, 0, 0, -out % PANEL)).unflatten(0, (-1, PANEL)).transpose(1, 2)
        return Weight(self.vector(panels), width, out)


def parts_of(rows: int) -> int:
    """In how many parts, a thread each, a call takes its rows: as torch has threads and the process may use CPUs."""
    if rows == 1:  # the system need not be asked
        return 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(rows, torch.get_num_threads(), allowed)


class Room(threading.local):
    """What a step keeps between its operations: a block of memory for each thread of Python, which never shrinks."""

    def __init__(self, *, per_row: int, besides: int = 0):
        """So many numbers a row, and so many more for each part of the rows."""
        self.per_row, self.besides, self.block = per_row, besides, torch.empty(0)

    def of(self, rows: int) -> tuple[int, int, int]:
        """In how many parts the rows are taken, where the first part's room is, and the numbers from part to part."""
        parts = parts_of(rows)
        numbers = -(-rows // parts) * self.per_row + self.besides
        if parts * numbers > self.block.numel():
            self.block = torch.empty(parts * numbers)
        return parts, self.block.data_ptr(), numbers


def compiler_here() -> str | None:
    """The C++ compiler that is used, if there is one."""
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def wanted(compiled: bool | None, module: nn.Module) -> bool:
    """Whether compiled code is to run: as asked; for None where it can, in fp32 on a CPU with a compiler at hand."""
    return works() and runs_here(module) if compiled is None else compiled


@cache
def works() -> bool:
    """Whether there is a compiler that takes the sources."""
    try:
        library()
    except (FileNotFoundError, RuntimeError):
        return False
    return True


@cache
def library() -> ctypes.CDLL:
    """The compiled functions.

    Raises:
        FileNotFoundError: where there is no C++ compiler. RuntimeError: where it refuses.
    """
    compiler = compiler_here()
    if compiler is None:
        raise FileNotFoundError("compiled steps need a C++ compiler and found none (looked for $CXX, c++, g++ and "
                                "clang++): install g++, or leave compiled out")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "step.so"
        made = subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(path)], capture_output=True, text=True)
        if made.returncode:
            raise RuntimeError(f"{compiler} refuses {SOURCE}: leave compiled out, or see why:\n{made.stderr}")
        found = ctypes.CDLL(str(path))  # it runs without Python's lock: other threads go on
    room = [c_int, c_void_p, c_long]  # as Room.of returns it
    found.stack_step.argtypes = [POINTER(Block), c_int, c_void_p, c_float, c_void_p, c_int, POINTER(c_void_p), c_int,
                                 *room]
    found.core_step.argtypes = [POINTER(Layer), c_int, c_void_p, c_float, c_void_p, c_int, POINTER(c_int),
                                POINTER(c_int), c_void_p, c_void_p, c_long, c_int, c_int, c_int, c_int, c_void_p,
                                c_void_p, *room]
    found.map_step.argtypes = [POINTER(Weight), POINTER(Weight), c_void_p, c_int, c_void_p, *room]
    found.stack_read.argtypes = [POINTER(Block), c_int, c_void_p, c_float, *[c_void_p] * 5, c_int, *[c_void_p] * 4,
                                 *room]
    found.stack_tries.argtypes = [POINTER(Block), c_int, c_void_p, c_float, *[c_void_p] * 4, c_int, c_void_p, c_void_p,
                                  c_int, c_void_p, c_void_p, *room]
    found.core_read.argtypes = [POINTER(Layer), c_int, c_void_p, c_float, c_void_p, c_void_p, *[c_int] * 4, c_void_p,
                                c_void_p, c_int, *[c_void_p] * 3, c_int, c_void_p, *room]
    for function in (found.stack_step, found.core_step, found.map_step, found.stack_read, found.stack_tries,
                     found.core_read):
        function.restype = None
    return found


def shares(places: np.ndarray) -> tuple[ctypes.Array, int]:
    """Runs of nodes of similar size, a thread each: where they begin and the last one ends, and how many they are.

    places: where one may begin, ascending, from 0 to the number of nodes.
    """
    wanted = np.linspace(0, places[-1], parts_of(len(places) - 1) + 1)
    bounds = np.unique(places[np.searchsorted(places, wanted)]).tolist()
    return (c_long * len(bounds))(*bounds), len(bounds) - 1


def integers(values: Sequence[int]) -> ctypes.Array:
    """The values as C's int."""
    return (c_int * len(values))(*values)
