"""The C++ of this folder, compiled for this machine and bound: `native.cpp` for fp32 on a CPU.

It is compiled once a process, in a second or two, into a folder that is deleted afterwards: code for one machine's CPU
is of no use to another that shares its disk.
"""

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from ctypes import POINTER, Structure, c_float, c_int, c_long, c_void_p
from functools import cache
from pathlib import Path
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Packed = TypeVar("Packed")

SOURCE = Path(__file__).with_name("native.cpp")
# finite, unsigned zeros: then a clamp is a minimum and a maximum, and not branches, of which GCC computes each
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffinite-math-only",
         "-fno-signed-zeros", "-fopenmp", "-shared", "-fPIC")
PANEL = 32  # outputs next to each other in a packed weight, as in arithmetic.hpp
TILE = 64  # rows that go through all blocks or layers before the next ones do, as in native.cpp
# Two rows are worth a thread (docs/log.md, 2026-11-30, has the times). On a machine that is busy with other work, torch
# on one thread (OMP_NUM_THREADS=1) is faster.
ROWS_A_THREAD = 2
_PACKED: WeakKeyDictionary = WeakKeyDictionary()  # module -> the state of its weights, and what was packed of them


# -- the compiler -----------------------------------------------------------------------------------------------------


def find_compiler() -> str | None:
    """The C++ compiler that is used, if there is one."""
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


@cache
def compiles() -> bool:
    """Whether there is a compiler that takes the sources; the first call compiles them."""
    try:
        library()
    except (OSError, RuntimeError):  # OSError: none found, or its result cannot be loaded (a noexec temporary folder)
        return False
    return True


@cache
def library() -> ctypes.CDLL:
    """The compiled functions.

    Raises:
        FileNotFoundError: where there is no C++ compiler. RuntimeError: where it refuses the sources. OSError: where
            what it made cannot be loaded, for example from a temporary folder that is mounted noexec.
    """
    compiler = find_compiler()
    if compiler is None:
        raise FileNotFoundError("compiled steps need a C++ compiler and found none (looked for $CXX, c++, g++ and "
                                "clang++): install g++, or leave compiled out")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "native.so"
        done = subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(path)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{compiler} refuses {SOURCE}: leave compiled out, or see why:\n{done.stderr}")
        try:
            found = ctypes.CDLL(str(path))  # calls release Python's lock: other threads run meanwhile
        except OSError as error:
            raise OSError(f"compiled steps cannot be loaded ({error}): set TMPDIR to a folder from which programs may "
                          "run, or leave compiled out") from error
    stack, core, scratch = POINTER(Stack), POINTER(Core), POINTER(Scratch)
    integers, bounds, memory = POINTER(c_int), POINTER(c_long), c_void_p
    signatures = {
        "stack_step": [stack, memory, c_int, POINTER(c_void_p), c_int, scratch],
        "stack_read": [stack, memory, memory, memory, memory, bounds, c_int, scratch],
        "core_step": [core, memory, c_int, integers, integers, memory, memory, c_long, scratch],
        "core_read": [core, memory, memory, bounds, c_int, scratch],
        "map_rows": [POINTER(Weight), POINTER(Weight), memory, c_int, memory, scratch],
    }
    for name, arguments in signatures.items():
        function = getattr(found, name)
        function.argtypes = arguments
        function.restype = None
    return found


# -- the structures of native.cpp -------------------------------------------------------------------------------------


class Weight(Structure):
    """A packed weight; see `PackedWeights.weight`."""

    _fields_ = [("panels", c_void_p), ("in_", c_int), ("out", c_int)]


class Block(Structure):
    """A block of a stack of Mamba2."""

    _fields_ = [*((name, Weight) for name in ("in_", "out", "gate_up", "down")),
                *((name, c_void_p) for name in ("norm", "ffn_norm", "taps_WX", "bias_X", "dt_bias_H", "rate_H",
                                                "skip_H")),
                *((name, c_int) for name in ("heads", "state_size", "taps")),
                *((name, c_float) for name in ("norm_eps", "gate_eps", "ffn_eps"))]


class Stack(Structure):
    """A stack of Mamba2 blocks."""

    _fields_ = [("blocks", POINTER(Block)), ("count", c_int), ("norm", c_void_p), ("eps", c_float)]


class Layer(Structure):
    """A layer of a core."""

    _fields_ = [*((name, Weight) for name in ("query_key_value", "out", "gate_up", "down")),
                *((name, c_void_p) for name in ("before_attention", "after_attention", "after_feed_forward",
                                                "query_norm", "key_norm")),
                *((name, c_float) for name in ("before_attention_eps", "after_attention_eps", "after_feed_forward_eps",
                                               "query_norm_eps", "key_norm_eps", "scale"))]


class Core(Structure):
    """A core, with rotary angles for `slots` positions."""

    _fields_ = [("layers", POINTER(Layer)), ("count", c_int), ("norm", c_void_p), ("eps", c_float),
                *((name, c_int) for name in ("heads", "key_heads", "width", "slots")),
                ("cos", c_void_p), ("sin", c_void_p)]


class Scratch(Structure):
    """Memory of one call, `each` numbers for every thread; a call allocates it, so threads of Python share none."""

    _fields_ = [("memory", c_void_p), ("each", c_long), ("threads", c_int)]

    @classmethod
    def of(cls, each: int, threads: int) -> "Scratch":
        """Allocate it."""
        block = torch.empty(threads * each)
        scratch = cls(block.data_ptr(), each, threads)
        scratch.block = block  # lives as long as what points to it
        return scratch


# -- weights ----------------------------------------------------------------------------------------------------------


def is_cpu_fp32(part: nn.Module | Tensor) -> bool:
    """Whether a weight, or all weights of a module, are what `native.cpp` takes: fp32 on a CPU."""
    weights = [part] if isinstance(part, Tensor) else part.parameters()
    return all(weight.dtype == torch.float32 and weight.device.type == "cpu" for weight in weights)


class PackedWeights:
    """Copies of tensors in the layout that C++ reads; they live as long as this object does."""

    def __init__(self):
        self.held: list[Tensor] = []

    def vector(self, values: Tensor | None) -> int | None:
        """The address of a copy of the values, fp32; None stays None."""
        if values is None:
            return None
        self.held.append(values.detach().to(torch.float32).contiguous().clone())
        return self.held[-1].data_ptr()

    def weight(self, *parts_OD: Tensor) -> Weight:
        """Weights with one input, stacked, in panels [PANEL outputs][in, PANEL]; zeros fill the last panel."""
        weight_OD = torch.cat([part.detach() for part in parts_OD])
        out, width = weight_OD.shape
        panels = F.pad(weight_OD, (0, 0, 0, -out % PANEL)).unflatten(0, (-1, PANEL)).transpose(1, 2)
        return Weight(self.vector(panels), width, out)


def cached_pack(module: nn.Module, pack: Callable[[nn.Module], Packed]) -> Packed:
    """What `pack` made of a module before, as long as the module's weights have not changed; else make it again."""
    weights = tuple((weight.data_ptr(), weight._version) for weight in module.parameters())
    have = _PACKED.get(module)
    if have is None or have[0] != weights:
        have = weights, pack(module)
        _PACKED[module] = have
    return have[1]


# -- calls ------------------------------------------------------------------------------------------------------------


def num_threads(rows: int) -> int:
    """How many threads share so many rows: as many as torch has, with ROWS_A_THREAD rows at least for each."""
    return max(min(rows // ROWS_A_THREAD, torch.get_num_threads()), 1)


def split_trees(roots: np.ndarray) -> tuple[ctypes.Array, int]:
    """Split nodes of trees into runs of similar length, one a thread: their bounds, and how many runs there are.

    roots: where trees begin, ascending, from 0, and at the end the number of nodes.
    """
    even = np.linspace(0, roots[-1], min(num_threads(int(roots[-1])), len(roots) - 1) + 1)
    bounds = np.unique(roots[np.searchsorted(roots, even)]).tolist()
    return (c_long * len(bounds))(*bounds), len(bounds) - 1
