"""Pieces of work that do not depend on each other, each by one thread of Python from its beginning to its end.

A call of compiled code can share its rows between threads (`step.cpp`), but those wait for each other at each of the
many calls and idle between them. Compiled code and torch run without Python's lock, so pieces side by side keep all
threads busy. Their threads have one thread each, for torch and `step.cpp` alike.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from dbyte.native.library import parts_of

Piece, Done = TypeVar("Piece"), TypeVar("Done")


def side_by_side(work: Callable[[Piece], Done], pieces: Sequence[Piece]) -> list[Done]:
    """What work makes of each piece, in their order; a single piece has all threads. Raises what work raises."""
    threads, at_once = torch.get_num_threads(), parts_of(len(pieces))
    if at_once < 2:
        return [work(piece) for piece in pieces]
    try:
        with ThreadPoolExecutor(at_once, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, pieces))
    finally:
        torch.set_num_threads(threads)  # else threads of Python that come later would have one as well
