"""Memory of large tensors on a CPU: in huge pages, and kept for the next update instead of returned to the system.

A training step allocates and frees the same large tensors over and over. glibc maps each of them again, and the system
zeroes every page at its first use, four kilobytes at a time. On a virtual machine that can take longer than the
arithmetic: huge pages save up to a fifth of a mixer's time.
"""

import ctypes
import os
import resource
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
NEVER = 2**31 - 1


def ask_for_huge_pages() -> None:
    """Have torch ask Linux for pages of two megabytes, unless the environment already decides.

    torch reads the variable when it makes its first tensor and never again: call this where a program begins. Importing
    torch or dbyte before is fine.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def keep_freed_memory() -> bool:
    """Tell glibc to serve large blocks from a heap that is never trimmed; returns whether it accepted.

    The process then keeps its peak memory until it ends. Without glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, NEVER) == 1 for name in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD))


def peak_bytes(device: str) -> int:
    """The most memory that this process has held at once so far, in bytes: of the GPU for cuda, else of the machine."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
