"""A stack of Mamba2 as one call into `step.cpp`: a step, in place of `StackStep`, and trees, in place of whole rows.

Same arguments, same states, the same function within rounding; weights are copied into the order in which they are
read, so what changes afterwards is not seen.

Shape letters: B rows, D width, T nodes of trees, C of them whose states are kept, Q of them that are noted, X numbers
of a state, Y of a note, S tries, M nodes and tries.
"""

import ctypes
from ctypes import c_void_p

import numpy as np
import torch
from torch import Tensor, nn

from dbyte.decode.stack_step import StackStep
from dbyte.model.blocks import Stack, State
from dbyte.model.mamba2 import Mamba2, Mamba2State
from dbyte.native.library import TILE, Block, Pack, Room, Weight, kept, library, runs_here, shares
from dbyte.text.prefix_tree import Tree

NO_NODES = np.zeros(0, dtype=int)
GIVEN = -3  # as in tree.cpp


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
        calls, self.pack = library(), Pack()
        self.call, self.call_read, self.call_tries = calls.stack_step, calls.stack_read, calls.stack_tries
        self.blocks = (Block * len(stack.blocks))(*(_block(self.pack, block) for block in stack.blocks))
        self.norm, self.eps = self.pack.vector(stack.norm.weight), stack.norm.eps
        self.room = Room(per_row=stack.norm.weight.numel() + max(map(_widest, self.blocks)),
                         besides=max(3 * _channels(block) for block in self.blocks))
        self.state = sum(tensor.numel() for state in stack.empty_state(1) for tensor in vars(state).values())
        self.note = sum(block.in_.out for block in self.blocks)

    def step(self, hidden_BD: Tensor, states: list[State], *, commit: bool = True) -> Tensor:
        """Run one byte per row; commit False: leave the states as they are."""
        hidden_BD, rows = hidden_BD.clone(memory_format=torch.contiguous_format), len(hidden_BD)
        tensors = [tensor for state in states for tensor in vars(state).values()]
        assert all(tensor.is_contiguous() and len(tensor) == rows for tensor in tensors)
        places = (c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
        self.call(self.blocks, len(self.blocks), self.norm, self.eps, hidden_BD.data_ptr(), rows, places, commit,
                  *self.room.of(rows))
        return hidden_BD

    def read(self, hidden_TD: Tensor, tree: Tree, wanted_T: Tensor | None = None) -> Tensor:
        """Run every node behind its ancestors; outputs of nodes that are not wanted (bool [T]) mean nothing."""
        return self.read_keeping(hidden_TD, tree, NO_NODES, wanted_T)[0]

    def read_keeping(
        self, hidden_TD: Tensor, tree: Tree, node_C: np.ndarray, wanted_T: Tensor | None = None, *,
        node_Q: np.ndarray = NO_NODES
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same, the states behind these nodes [C, X], and notes by which those go on to others again [Q, Y]."""
        hidden_TD = hidden_TD.clone(memory_format=torch.contiguous_format)
        from_T, keep_T = tree.forks(node_C)
        states, notes = torch.empty(int(keep_T.max()) + 1, self.state), torch.empty(len(node_Q), self.note)
        note_T = torch.full((len(tree),), -1, dtype=torch.int)
        note_T[torch.from_numpy(node_Q)] = torch.arange(len(node_Q), dtype=torch.int)
        self._run_tree(hidden_TD, tree, from_T, keep_T, wanted_T, states, note_T=note_T, notes=notes)
        return hidden_TD, states[: len(node_C)], notes

    def read_behind(
        self, hidden_TD: Tensor, tree: Tree, kept_CX: Tensor, origin_T: np.ndarray, wanted_T: Tensor | None = None
    ) -> Tensor:
        """As `read` for trees whose roots go on from kept states, -1: from none."""
        hidden_TD = hidden_TD.clone(memory_format=torch.contiguous_format)
        from_T, keep_T, states = self._begun(tree, origin_T)
        self._run_tree(hidden_TD, tree, from_T, keep_T, wanted_T, states, given_CX=kept_CX)
        return hidden_TD

    def read_tries(
        self, tree: Tree, note_T: np.ndarray, parent_S: np.ndarray, tried_SD: Tensor, *, kept_CX: Tensor,
        origin_T: np.ndarray, noted_QY: Tensor
    ) -> Tensor:
        """The outputs [S, D] of what is tried behind nodes (parent_S, ascending), which go on as if it had not been.

        kept_CX, origin_T as of `read_behind`; note_T: which note each node has.
        """
        from_T, keep_T, states = self._begun(tree, origin_T)
        from_M, keep_M, note_M = (np.insert(number_T, parent_S + 1, -1) for number_T in (from_T, keep_T, note_T))
        places = tree.places() + np.searchsorted(parent_S, tree.places())
        return self._try(tried_SD, from_M, keep_M, note_M, states, kept_CX, noted_QY, places, in_place=False)

    def step_noted(
        self, note_B: np.ndarray, row_S: np.ndarray, tried_SD: Tensor, *, states_BX: Tensor, noted_QY: Tensor
    ) -> Tensor:
        """Have each row's state go on by a note; the outputs [S, D] of what is tried behind rows (ascending)."""
        from_M, note_M = (np.insert(number_B, row_S + 1, -1) for number_B in (np.arange(len(note_B)), note_B))
        places = np.arange(len(note_B) + 1)
        places = places + np.searchsorted(row_S, places)
        return self._try(tried_SD, from_M, np.full_like(from_M, -1), note_M, states_BX, states_BX, noted_QY, places,
                         in_place=True)

    def _try(
        self, tried_SD: Tensor, from_M: np.ndarray, keep_M: np.ndarray, note_M: np.ndarray, states: Tensor,
        given_CX: Tensor, noted_QY: Tensor, places: np.ndarray, *, in_place: bool
    ) -> Tensor:
        tried_SD = tried_SD.clone(memory_format=torch.contiguous_format)
        from_M, keep_M, note_M = (number_M.astype(np.int32) for number_M in (from_M, keep_M, note_M))
        bounds, count, work, each = self._room(places)
        self.call_tries(self.blocks, len(self.blocks), self.norm, self.eps, tried_SD.data_ptr(), from_M.ctypes.data,
                        keep_M.ctypes.data, note_M.ctypes.data, TILE, states.data_ptr(), given_CX.data_ptr(), in_place,
                        noted_QY.data_ptr(), bounds, count, work.data_ptr(), each)
        return tried_SD

    def _begun(self, tree: Tree, origin_T: np.ndarray) -> tuple[np.ndarray, np.ndarray, Tensor]:
        """As `Tree.forks`, where roots go on from given states; and room for those that are kept."""
        from_T, keep_T = tree.forks()
        begun_T = origin_T >= 0
        from_T[begun_T] = GIVEN - origin_T[begun_T]
        return from_T, keep_T, torch.empty(int(keep_T.max()) + 1, self.state)

    def _run_tree(
        self, hidden_TD: Tensor, tree: Tree, from_T: np.ndarray, keep_T: np.ndarray, wanted_T: Tensor | None,
        states: Tensor, **options: Tensor
    ) -> None:
        wanted_T = torch.ones(len(tree), dtype=torch.bool) if wanted_T is None else wanted_T.contiguous()
        self._run(hidden_TD, *map(torch.from_numpy, (from_T, keep_T)), wanted_T, states, tree.places(), **options)

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
        return output_BLD, self.go_on(states, torch.arange(len(states)))

    def _run(
        self, hidden_TD: Tensor, from_T: Tensor, keep_T: Tensor, wanted_T: Tensor, states: Tensor, places: np.ndarray,
        *, given_CX: Tensor | None = None, note_T: Tensor | None = None, notes: Tensor | None = None
    ) -> None:
        if not len(hidden_TD):
            return
        note_T = torch.full_like(from_T, -1) if note_T is None else note_T
        bounds, count, work, each = self._room(places)
        self.call_read(self.blocks, len(self.blocks), self.norm, self.eps, hidden_TD.data_ptr(), from_T.data_ptr(),
                       keep_T.data_ptr(), note_T.data_ptr(), wanted_T.data_ptr(), TILE, states.data_ptr(),
                       *(None if some is None else some.data_ptr() for some in (given_CX, notes)), bounds, count,
                       work.data_ptr(), each)

    def _room(self, places: np.ndarray) -> tuple[ctypes.Array, int, Tensor, int]:
        """The shares of trees as `shares` has them, room for what goes through, and its numbers from part to part."""
        (bounds, count), each = shares(places), self.state + TILE * self.room.per_row + self.room.besides
        return bounds, count, torch.empty(count * each), each

    def go_on(self, kept_CX: Tensor, number_B: Tensor) -> list[State]:
        """The states, for steps, of rows that go on from kept ones, -1: from none.

        `tree.cpp` keeps convolution inputs, then the SSM state, by block.
        """
        found = []
        for part_CX, block in zip(kept_CX.chunk(len(self.blocks), dim=1), self.blocks, strict=True):
            conv = (block.taps - 1) * _channels(block)
            conv_BX, ssm_BX = (of_rows(some_CX, number_B) for some_CX in part_CX.tensor_split((conv,), dim=1))
            found.append(Mamba2State(conv_BX.unflatten(1, (block.taps - 1, -1)),
                                     ssm_BX.unflatten(1, (block.state_size, -1))))
        return found


def of_rows(kept_CX: Tensor, number_B: Tensor) -> Tensor:
    """What is kept under these numbers, contiguous, zeros under -1: [B, X]."""
    begun_B = number_B >= 0
    if begun_B.all():
        return kept_CX.index_select(0, number_B)
    rows_BX = kept_CX.new_zeros(len(number_B), kept_CX.shape[1])
    rows_BX[begun_B] = kept_CX[number_B[begun_B]]
    return rows_BX


def _block(pack: Pack, block: nn.Module) -> Block:
    mixer, ffn = block.mixer, block.ffn
    gate, in_ = mixer.in_proj.weight.tensor_split((mixer.inner,))
    return Block(
        gate=pack.weight(gate), in_=pack.weight(in_), out=pack.weight(mixer.out_proj.weight * mixer.norm.weight),
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
    return max(block.gate.out + block.in_.out + block.out.in_, block.gate_up.out + block.down.in_)
