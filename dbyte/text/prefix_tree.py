"""Sequences as a tree: what several of them begin with is stored once.

Nodes are numbered in the order in which the sorted sequences reach them: parents before children, one subtree after the
other, and a run of nodes without a fork has consecutive numbers. Texts are sequences of bytes; a text's chunks are a
sequence of the nodes that end them, so chunks are shared exactly where bytes and boundaries are.

Shape letters: N sequences, L the longest of them, T nodes.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FEW = 8  # a sequence that shares fewer symbols begins a tree of its own
LARGE = 2048  # nodes; a larger tree takes a sequence only if it shares 1 / WORTH_A_FORK of as many nodes
WORTH_A_FORK = 4


@dataclass(frozen=True)
class Tree:
    """The nodes, all int64: symbol_T, parent_T (-1 for a root), depth_T (0 for a root).

    node_NL: the nodes of each sequence, -1 after its end. Sequences of different roots share nothing.
    """

    symbol_T: np.ndarray
    parent_T: np.ndarray
    depth_T: np.ndarray
    node_NL: np.ndarray

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]], *, apart: bool = False) -> "Tree":
        """A tree of sequences (bytes, or not negative integers) of at least one symbol each.

        apart: begin a new root where little is shared or a tree is large, since trees can be read in parallel.
        """
        order = sorted(range(len(sequences)), key=sequences.__getitem__)
        length_N = np.array([len(sequences[k]) for k in order])
        L = int(length_N.max())
        symbol_NL = np.full((len(order), L), -1, dtype=np.int64)
        for row, k in enumerate(order):
            given = sequences[k]
            symbol_NL[row, : length_N[row]] = np.frombuffer(given, np.uint8) if isinstance(given, bytes) else given
        real_NL = np.arange(L) < length_N[:, None]
        same_NL = (symbol_NL[1:] == symbol_NL[:-1]) & real_NL[1:]
        shared_N = np.append(0, same_NL.cumprod(1).sum(1))
        if apart:
            shared_N = _apart(shared_N, length_N)
        new_NL = (np.arange(L) >= shared_N[:, None]) & real_NL
        node_NL = np.cumsum(new_NL).reshape(new_NL.shape) - 1
        # a shared node is the last one that any sequence before has put at this depth
        node_NL = np.maximum.accumulate(np.where(new_NL, node_NL, -1), axis=0)
        node_NL[~real_NL] = -1
        parent_NL = np.pad(node_NL[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
        depth_NL = np.broadcast_to(np.arange(L), new_NL.shape)
        ordered_NL = np.empty_like(node_NL)
        ordered_NL[order] = node_NL
        return cls(symbol_NL[new_NL], parent_NL[new_NL], depth_NL[new_NL], ordered_NL)

    def __len__(self) -> int:
        return len(self.symbol_T)

    def leaves(self) -> np.ndarray:
        """The rows of node_NL whose last node has no child, each once; together they contain every node."""
        last_N = self.node_NL.max(1)  # a child has a higher number than its parent
        ends, row = np.unique(last_N, return_index=True)
        return self.node_NL[row[~np.isin(ends, self.parent_T)]]

    def forks(self) -> tuple[np.ndarray, np.ndarray]:
        """How states pass from node to node when nodes are read in turn: (begin_T, keep_T), int32 [T] both.

        begin_T: where a node's state comes from: -1 the node before it, -2 nowhere (a root), else the number of a kept
        state. keep_T: the number under which a node's own state is kept, -1 for one that no later node needs.
        """
        back_T = (self.parent_T != np.arange(-1, len(self) - 1)) & (self.parent_T >= 0)
        kept = np.unique(self.parent_T[back_T])
        begin_T = np.full(len(self), -1, np.int32)
        keep_T = np.full(len(self), -1, np.int32)
        keep_T[kept] = np.arange(len(kept))
        begin_T[self.parent_T < 0] = -2
        begin_T[back_T] = keep_T[self.parent_T[back_T]]
        return begin_T, keep_T

    def places(self) -> np.ndarray:
        """Where trees begin, ascending, and the number of nodes."""
        return np.append(np.flatnonzero(self.parent_T < 0), len(self))


def _apart(shared_N: np.ndarray, length_N: np.ndarray) -> np.ndarray:
    """How many symbols each sorted sequence shares with the one before; 0 where it begins a root of its own."""
    kept = []
    size = 0
    for shared, length in zip(shared_N.tolist(), length_N.tolist(), strict=True):
        if shared < FEW or size > max(LARGE, WORTH_A_FORK * shared):
            shared = 0
            size = 0
        size += length - shared
        kept.append(shared)
    return np.array(kept)


def shared_bytes(one: bytes, two: bytes) -> int:
    """How many bytes two texts have in common from their beginning."""
    return len(os.path.commonprefix([one, two]))
