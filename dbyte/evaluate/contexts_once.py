"""Contexts that core and decoder read once, for rounds over what lies behind them (`settled_cuts.py`); compiled alone.

The first round reads texts from their beginnings, and what core and decoder know where decisions begin is kept: the
decoder's state before a context's last byte, and the core's path to the last chunk that ends before it. Later rounds
read from there: the decoder that last byte anew, the core that last chunk, so that there is always something to read.

Shape letters: N texts, L bytes of the longest (BOS is one), K nodes of the chunks' trees, U of the decoder's, D width
of the decoder, E core width, C states that are kept, M chunks of a text that are read, B rows for steps, Y layers,
S slots, G key-value heads, W head width.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dbyte.model.mamba2 import Mamba2State
from dbyte.model.student import ByteStudent
from dbyte.model.trees import can_keep
from dbyte.native.core import FusedCore
from dbyte.native.stack import stack_step
from dbyte.text.prefix_tree import Tree


def can_keep_contexts(student: ByteStudent, *, compiled: bool) -> bool:
    """Whether there are states to keep: with smoothing a chunk depends on more than the core keeps."""
    return can_keep(student.decoder, student.core, compiled=compiled) and not student.config.smoothing


@dataclass
class Begun:
    """Core and decoder of B rows where their contexts end, as steps take them.

    The decoder is before a context's last byte, the core behind the last chunk that ends before it, core_BE being its
    state there. keys, values: [Y, B, S, G, W], of which row b has length[b].
    """

    core_BE: Tensor
    keys: Tensor
    values: Tensor
    length: list[int]
    decoder_states: list[Mamba2State]

    def narrow(self, count: int) -> None:
        """Keep the first rows."""
        self.core_BE, self.length = self.core_BE[:count], self.length[:count]
        self.keys, self.values = self.keys[:, :count], self.values[:, :count]
        narrow(self.decoder_states, count)


def narrow(states: list[Mamba2State], count: int) -> None:
    """Keep the first rows of the states of a stack, in place."""
    for state in states:
        state.conv_BWX, state.ssm_BNI = state.conv_BWX[:count], state.ssm_BNI[:count]


class Contexts:
    """What is kept for N texts; rows number some of them, and the first round has all that later ones have.

    first: whether the round is the first, until whoever reads ends it.
    """

    def __init__(self, student: ByteStudent, start_N: np.ndarray, bytes_L: int):
        self.student, self.decoder, self.start_N = student, stack_step(student.decoder, compiled=True), start_N
        self.place_L, self.first = np.arange(bytes_L), True
        # of each text: the byte that ends its last chunk before decisions begin, that chunk's depth, which path is kept
        self.end_N, self.depth_N, self.path_N, self.state_N = (np.zeros(len(start_N), dtype=int) for _ in range(4))
        self.paths, self.states, self.core_NE = torch.empty(0), torch.empty(0), torch.empty(0)

    def left(
        self, rows: list[int], flag_NL: np.ndarray, read_NL: np.ndarray, *, alone: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which of these chunk ends and bytes this round has to read; alone: contexts and no more, in the first."""
        if alone:
            context_NL = self.place_L < np.maximum(self.start_N[rows], 1)[:, None]  # BOS in any case
            return flag_NL & context_NL, read_NL & context_NL
        if self.first:
            return flag_NL, read_NL
        return (flag_NL & (self.place_L >= self.end_N[rows, None]),
                read_NL & (self.place_L >= self.start_N[rows, None]))

    def run_core(self, rows: list[int], chunk_KE: Tensor, chunks: Tree, flag_NL: np.ndarray) -> Tensor:
        """The core's states [K, E] of chunks, which end where flag_NL says."""
        first_N = chunks.node_NL[:, 0]
        if self.first:
            known_NL = flag_NL & (self.place_L < np.maximum(self.start_N[rows], 1)[:, None])  # BOS in any case
            self.end_N[rows] = np.where(known_NL, self.place_L, 0).max(1)
            self.depth_N[rows] = known_NL.sum(1) - 1
            last_N = chunks.node_NL[np.arange(len(rows)), self.depth_N[rows]]
            node_C, self.path_N[rows] = np.unique(last_N, return_inverse=True)
            core = FusedCore(self.student.core, slots=int(chunks.depth_T.max()) + 1)
            core_KE, self.paths = core.read_keeping(chunk_KE, chunks, node_C)
            self.core_NE = core_KE.new_empty(len(self.start_N), core_KE.shape[1])
            self.core_NE[rows] = core_KE[last_N]
            return core_KE
        depth_N, origin_K = self.depth_N[rows], np.full(len(chunks), -1)
        origin_K[first_N] = np.where(depth_N > 0, self.path_N[rows], -1)
        depth_K, real_NM = chunks.depth_T.copy(), chunks.node_NL >= 0
        depth_K[chunks.node_NL[real_NM]] = (depth_N[:, None] + np.arange(real_NM.shape[1]))[real_NM]
        core = FusedCore(self.student.core, slots=int(depth_K.max()) + 1)
        return core.read_behind(chunk_KE, replace(chunks, depth_T=depth_K), self.paths, origin_K)

    def run_decoder(
        self, rows: list[int], up_UD: Tensor, tree: Tree, before_NL: np.ndarray, wanted_U: Tensor
    ) -> Tensor:
        """The decoder's outputs [U, D] where they are wanted; before_NL: its node before each byte."""
        begun_N = self.start_N[rows] > 0
        if self.first:
            last_N = before_NL[np.arange(len(rows)), self.start_N[rows]]
            node_C, number_N = np.unique(last_N[begun_N], return_inverse=True)
            self.state_N[rows] = -1
            self.state_N[np.array(rows)[begun_N]] = number_N
            decoded_UD, self.states, _ = self.decoder.read_keeping(up_UD, tree, node_C, wanted_U)
            return decoded_UD
        origin_U = np.full(len(tree), -1)
        origin_U[tree.node_NL[:, 0]] = self.state_N[rows]
        return self.decoder.read_behind(up_UD, tree, self.states, origin_U, wanted_U)

    def begin(self, rows: list[int], *, more: int) -> Begun:
        """What steps go on from in these rows, with room for so many more chunks."""
        config, (_, layers, slots, wide) = self.student.core.config, self.paths.shape  # keys of all layers, then values
        cache = self.paths.new_empty(layers, len(rows), slots + more, wide)
        for row, (path, used) in enumerate(zip(self.path_N[rows].tolist(), self.depth_N[rows] + 1, strict=True)):
            cache[:, row, :used] = self.paths[path, :, :used]
        keys, values = cache.unflatten(-1, (config.num_key_value_heads, -1)).chunk(2)
        return Begun(self.core_NE[rows], keys, values, (self.depth_N[rows] + 1).tolist(),
                     self.decoder.go_on(self.states, torch.from_numpy(self.state_N[rows])))
