"""Keep freed memory for the next update instead of giving it back to the system.

A training step allocates and frees the same large tensors over and over. glibc maps each anew, and the system zeroes
every page of it at first touch, which on a CPU is a visible share of a step.
"""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell glibc to serve large blocks from a heap that is never trimmed; returns whether it took it.

    Elsewhere than on Linux with glibc nothing happens. The process keeps its peak memory until it ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, NEVER) == 1 for name in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD))
