"""The C++ of this folder, compiled for this machine and bound as native.hpp declares it: for fp32 on a CPU.

It is compiled once per process, in a second or two, into a folder that is deleted afterwards: code for one machine's
CPU is of no use to another that shares its disk.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import cffi
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Packed = TypeVar("Packed")

SOURCE = Path(__file__).with_name("native.cpp")
ffi = cffi.FFI()
ffi.cdef(SOURCE.with_suffix(".hpp").read_text())
# finite numbers, unsigned zeros: then GCC makes a clamp a minimum and a maximum instead of branches
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffinite-math-only",
         "-fno-signed-zeros", "-fopenmp", "-shared", "-fPIC")
PANEL = 32  # outputs next to each other in a packed weight, as in arithmetic.hpp
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
def library() -> Any:
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
            return ffi.dlopen(str(path))  # calls release Python's lock: other threads run meanwhile
        except OSError as error:
            raise OSError(f"compiled steps cannot be loaded ({error}): set TMPDIR to a folder from which programs may "
                          "run, or leave compiled out") from error


def address(tensor: Tensor) -> Any:
    """A tensor's data pointer, as a C `void *`."""
    return ffi.cast("void *", tensor.data_ptr())


# -- weights ----------------------------------------------------------------------------------------------------------


def is_cpu_fp32(part: nn.Module | Tensor) -> bool:
    """Whether a weight, or all weights of a module, are what `native.cpp` takes: fp32 on a CPU."""
    weights = [part] if isinstance(part, Tensor) else part.parameters()
    return all(weight.dtype == torch.float32 and weight.device.type == "cpu" for weight in weights)


class PackedWeights:
    """Copies of tensors in the layout that C++ reads; they live as long as this object does."""

    def __init__(self):
        self.held: list[Tensor] = []

    def vector(self, values: Tensor) -> Any:
        """The address of a copy of the values, fp32."""
        self.held.append(values.detach().to(torch.float32).contiguous().clone())
        return address(self.held[-1])

    def weight(self, *parts_OD: Tensor) -> dict[str, Any]:
        """A `Weight`: weights with one input, stacked, in panels [PANEL outputs][in, PANEL]; zeros fill the last."""
        weight_OD = torch.cat([part.detach() for part in parts_OD])
        out, width = weight_OD.shape
        panels = F.pad(weight_OD, (0, 0, 0, -out % PANEL)).unflatten(0, (-1, PANEL)).transpose(1, 2)
        return {"panels": self.vector(panels), "in": width, "out": out}


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


def split_trees(roots: np.ndarray) -> tuple[list[int], int]:
    """Split nodes of trees into runs of similar length, one per thread: their bounds, and how many runs there are.

    roots: where trees begin, ascending, from 0, and at the end the number of nodes.
    """
    even = np.linspace(0, roots[-1], min(num_threads(int(roots[-1])), len(roots) - 1) + 1)
    bounds = np.unique(roots[np.searchsorted(roots, even)]).tolist()
    return bounds, len(bounds) - 1
