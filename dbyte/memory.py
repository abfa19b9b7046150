"""Memory of large tensors on a CPU: in huge pages, and kept for the next update instead of given back to the system.

A training step allocates and frees the same large tensors over and over. glibc maps each anew, and the system zeroes
every page of it at first touch, four kilobytes at a time, which on a virtual machine can take longer than the sums.
"""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
NEVER = 2**31 - 1


def ask_for_huge_pages() -> None:
    """Have torch ask Linux for two-megabyte pages, unless its setting is there; it is read at the first tensor."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def keep_freed_memory() -> bool:
    """Tell glibc to serve large blocks from a heap that is never trimmed; returns whether it took it.

    Elsewhere than on Linux with glibc nothing happens. The process keeps its peak memory until it ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, NEVER) == 1 for name in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD))
