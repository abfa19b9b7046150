"""A stack of Mamba2 as one call into `step.cpp`: a step, in place of `StackStep`, and trees, in place of whole rows.

Same arguments, same states, the same function within rounding; weights are copied into the order in which they are
read, so what changes afterwards is not seen.

Shape letters: B rows, D width, T nodes of trees, C of them whose states are kept, X numbers of a state,
S tries, M nodes and tries.
"""

from ctypes import c_void_p

import numpy as np
import torch
from torch import Tensor, nn

from dbyte.model.blocks import Stack, State
from dbyte.model.mamba2 import Mamba2, Mamba2State
from dbyte.model.native import TILE, Block, Pack, Room, Weight, kept, library, runs_here, shares
from dbyte.model.stack_step import StackStep
from dbyte.text.tree import Tree

TRIED = -2  # as in tree.cpp
LEAVE, COMMIT, TRY = 0, 1, 2  # as in step.cpp


def stack_step(stack: Stack, *, compiled: bool = False) -> "StackStep | FusedStack":
    """The stack for steps; FileNotFoundError where compiled ones lack a C++ compiler.

    Compiled is `step.cpp` where that runs and the mixers are Mamba2, else torch.compile.
    """
    if not compiled:
        return StackStep(stack)
    return kept(stack, FusedStack if can_fuse(stack) else _by_torch)


def prefill(
    stack: Stack, hidden_BLD: Tensor, length_B: Tensor, *, slots: int = 0, compiled: bool = False
) -> tuple[Tensor, list[State]]:
    """As `Stack.prefill`, compiled where that can be; outputs behind a row's end mean nothing."""
    if compiled and can_fuse(stack):
        return kept(stack, FusedStack).prefill(hidden_BLD, length_B)
    return stack.prefill(hidden_BLD, length_B, slots=slots)


def prefill_last(
    stack: Stack, hidden_BLD: Tensor, length_B: Tensor, *, compiled: bool = False
) -> tuple[Tensor, list[State]]:
    """As `Stack.prefill_last`, compiled where that can be."""
    if not compiled or not can_fuse(stack):
        return stack.prefill_last(hidden_BLD, length_B)
    output_BLD, states = kept(stack, FusedStack).prefill(hidden_BLD, length_B, last_only=True)
    return output_BLD[torch.arange(len(length_B)), (length_B - 1).clamp(min=0)], states


def can_fuse(stack: Stack) -> bool:
    """Whether `step.cpp` has this stack's function: Mamba2 in fp32 on a CPU."""
    return runs_here(stack) and all(isinstance(block.mixer, Mamba2) for block in stack.blocks)


def _by_torch(stack: Stack) -> StackStep:
    return StackStep(stack, compiled=True)


class FusedStack:
    """As `StackStep`, for a stack of Mamba2."""

    def __init__(self, stack: Stack):
        self.call, self.call_read, self.pack = library().stack_step, library().stack_read, Pack()
        self.blocks = (Block * len(stack.blocks))(*(_block(self.pack, block) for block in stack.blocks))
        self.norm, self.eps = self.pack.vector(stack.norm.weight), stack.norm.eps
        self.room = Room(per_row=stack.norm.weight.numel() + max(map(_widest, self.blocks)),
                         besides=max(3 * _channels(block) for block in self.blocks))
        self.state = sum(tensor.numel() for state in stack.empty_state(1) for tensor in vars(state).values())

    def step(self, hidden_BD: Tensor, states: list[State], *, commit: bool = True) -> Tensor:
        """Run one byte per row; commit False: leave the states as they are."""
        hidden_BD = hidden_BD.clone(memory_format=torch.contiguous_format)
        self._step(hidden_BD, states, COMMIT if commit else LEAVE, self.room.of(len(hidden_BD)))
        return hidden_BD

    def step_and_try(self, hidden_BD: Tensor, tried_BD: Tensor, states: list[State]) -> Tensor:
        """Run one byte per row and return the outputs of what is tried behind it, which leaves no trace."""
        both_B2D = torch.stack([hidden_BD, tried_BD], dim=1)
        self._step(both_B2D, states, TRY, self.room.of(len(hidden_BD), each=2))
        return both_B2D[:, 1]

    def _step(self, hidden: Tensor, states: list[State], commit: int, room: tuple[int, int, int]) -> None:
        rows, tensors = len(hidden), [tensor for state in states for tensor in vars(state).values()]
        assert all(tensor.is_contiguous() and len(tensor) == rows for tensor in tensors)
        places = (c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
        self.call(self.blocks, len(self.blocks), self.norm, self.eps, hidden.data_ptr(), rows, places, commit, *room)

    def read(self, hidden_TD: Tensor, tree: Tree, wanted_T: Tensor | None = None) -> Tensor:
        """Run every node behind its ancestors; outputs of nodes that are not wanted (bool [T]) mean nothing."""
        return self.read_keeping(hidden_TD, tree, np.zeros(0, dtype=int), wanted_T)[0]

    def read_keeping(
        self, hidden_TD: Tensor, tree: Tree, node_C: np.ndarray, wanted_T: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The same, and the states behind these nodes: [C, numbers of all blocks]."""
        hidden_TD = hidden_TD.clone(memory_format=torch.contiguous_format)
        from_T, keep_T = tree.forks(node_C)
        states = torch.empty(int(keep_T.max()) + 1, self.state)
        self._run_tree(hidden_TD, tree, from_T, keep_T, wanted_T, states)
        return hidden_TD, states[: len(node_C)]

    def read_behind(
        self, hidden_TD: Tensor, tree: Tree, kept_CX: Tensor, origin_T: np.ndarray, wanted_T: Tensor | None = None
    ) -> Tensor:
        """As `read` for trees whose roots go on from kept states, -1: from none."""
        hidden_TD = hidden_TD.clone(memory_format=torch.contiguous_format)
        from_T, keep_T, states = self._begun(tree, kept_CX, origin_T)
        self._run_tree(hidden_TD, tree, from_T, keep_T, wanted_T, states)
        return hidden_TD

    def read_tries(
        self, hidden_TD: Tensor, tree: Tree, parent_S: np.ndarray, tried_SD: Tensor, *, kept_CX: Tensor,
        origin_T: np.ndarray
    ) -> Tensor:
        """The outputs [S, D] of what is tried behind nodes (parent_S, ascending), which go on as if it had not been.

        kept_CX, origin_T as of `read_behind`.
        """
        is_try = np.zeros(len(tree) + len(parent_S), dtype=bool)
        is_try[parent_S + 1 + np.arange(len(parent_S))] = True
        is_try = torch.from_numpy(is_try)
        both_MD = hidden_TD.new_empty(len(is_try), hidden_TD.shape[1])
        both_MD[~is_try], both_MD[is_try] = hidden_TD, tried_SD
        from_T, keep_T, states = self._begun(tree, kept_CX, origin_T)
        places = tree.places() + np.searchsorted(parent_S, tree.places())
        from_M, keep_M = np.insert(from_T, parent_S + 1, -1), np.insert(keep_T, parent_S + 1, TRIED)
        self._run(both_MD, torch.from_numpy(from_M), torch.from_numpy(keep_M), is_try, states, places)
        return both_MD[is_try]

    def _begun(
        self, tree: Tree, kept_CX: Tensor, origin_T: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, Tensor]:
        """As `Tree.forks`, and room for the states, of which the first are those that roots go on from."""
        from_T, keep_T = tree.forks()
        begun_T = origin_T >= 0
        used, place = np.unique(origin_T[begun_T], return_inverse=True)
        states = torch.empty(len(used) + int(keep_T.max()) + 1, self.state)
        torch.index_select(kept_CX, 0, torch.from_numpy(used), out=states[: len(used)])
        for number_T in (from_T, keep_T):
            number_T[number_T >= 0] += len(used)
        from_T[begun_T] = place
        return from_T, keep_T, states

    def _run_tree(
        self, hidden_TD: Tensor, tree: Tree, from_T: np.ndarray, keep_T: np.ndarray, wanted_T: Tensor | None,
        states: Tensor
    ) -> None:
        wanted_T = torch.ones(len(tree), dtype=torch.bool) if wanted_T is None else wanted_T.contiguous()
        self._run(hidden_TD, *map(torch.from_numpy, (from_T, keep_T)), wanted_T, states, tree.places())

    def prefill(
        self, hidden_BLD: Tensor, length_B: Tensor, *, last_only: bool = False
    ) -> tuple[Tensor, list[State]]:
        """As `Stack.prefill`; outputs behind a row's end are zero. last_only: those of other bytes mean nothing."""
        real_BL = torch.arange(hidden_BLD.shape[1]) < length_B[:, None]
        hidden_TD, output_BLD = hidden_BLD[real_BL], torch.zeros_like(hidden_BLD)
        end_B, some_B = length_B.cumsum(0), length_B > 0
        from_T, keep_T = torch.full((2, len(hidden_TD)), -1, dtype=torch.int)
        from_T[(end_B - length_B)[some_B]] = -2
        keep_T[end_B[some_B] - 1] = some_B.nonzero()[:, 0].int()
        wanted_T = keep_T >= (0 if last_only else -1)
        states = torch.zeros(len(length_B), self.state)
        self._run(hidden_TD, from_T, keep_T, wanted_T, states, np.append(0, end_B.numpy()))
        output_BLD[real_BL] = hidden_TD
        return output_BLD, self._as_rows(states)

    def _run(
        self, hidden_TD: Tensor, from_T: Tensor, keep_T: Tensor, wanted_T: Tensor, states: Tensor, places: np.ndarray
    ) -> None:
        if not len(hidden_TD):
            return
        (bounds, count), each = shares(places), self.state + TILE * self.room.per_row + self.room.besides
        work = torch.empty(count * each)
        self.call_read(self.blocks, len(self.blocks), self.norm, self.eps, hidden_TD.data_ptr(), from_T.data_ptr(),
                       keep_T.data_ptr(), wanted_T.data_ptr(), TILE, states.data_ptr(), bounds, count,
                       work.data_ptr(), each)

    def go_on(self, kept_CX: Tensor, number_B: Tensor) -> list[State]:
        """The states, for steps, of rows that go on from kept ones, -1: from none."""
        states_BX = torch.zeros(len(number_B), self.state)
        begun_B = number_B >= 0
        states_BX[begun_B] = kept_CX[number_B[begun_B]]
        return self._as_rows(states_BX)

    def _as_rows(self, states_BX: Tensor) -> list[State]:
        """The states of each block from what `tree.cpp` keeps: convolution inputs, then the SSM state, by block."""
        B, found = len(states_BX), []
        for part, block in zip(states_BX.chunk(len(self.blocks), dim=1), self.blocks, strict=True):
            conv = (block.taps - 1) * _channels(block)
            found.append(Mamba2State(part[:, :conv].reshape(B, block.taps - 1, -1).contiguous(),
                                     part[:, conv:].reshape(B, block.state_size, -1).contiguous()))
        return found


def _block(pack: Pack, block: nn.Module) -> Block:
    mixer, ffn = block.mixer, block.ffn
    return Block(
        in_=pack.weight(mixer.in_proj.weight), out=pack.weight(mixer.out_proj.weight * mixer.norm.weight),
        gate_up=pack.weight(ffn.gate_up.weight) if ffn else Weight(),
        down=pack.weight(ffn.down.weight) if ffn else Weight(),
        norm=pack.vector(block.mixer_norm.weight), ffn_norm=pack.vector(block.ffn_norm.weight if ffn else None),
        taps_WX=pack.vector(mixer.conv1d.weight[:, 0].T), bias_X=pack.vector(mixer.conv1d.bias),
        dt_bias_H=pack.vector(mixer.dt_bias), rate_H=pack.vector(-mixer.A_log.exp()), skip_H=pack.vector(mixer.D),
        heads=mixer.heads, state_size=mixer.state_size, taps=mixer.conv_width, norm_eps=block.mixer_norm.eps,
        gate_eps=mixer.norm.eps, ffn_eps=block.ffn_norm.eps if ffn else 0.0)


def _channels(block: Block) -> int:
    return block.out.in_ + 2 * block.state_size


def _widest(block: Block) -> int:
    return max(block.in_.out + block.out.in_, block.gate_up.out + block.down.in_)
