"""A stack of Mamba2 as one call into `native.cpp`: one byte a row, whole prompts, trees of texts.

`NativeStack.step` takes the arguments and states of `StackStep.step` and computes the same function within rounding.
Weights are copied into the order in which they are read, so later changes are not seen.

Shape letters: B rows, L bytes of the longest, D width, T nodes of trees, C states that are kept, X numbers of a state.
"""

from ctypes import byref, c_void_p

import numpy as np
import torch
from torch import Tensor, nn

from dbyte.model import blocks
from dbyte.model.mamba2 import Mamba2, Mamba2State
from dbyte.native.library import (
    TILE,
    Block,
    PackedWeights,
    Scratch,
    Stack,
    Weight,
    is_cpu_fp32,
    library,
    num_threads,
    split_trees,
)
from dbyte.text.prefix_tree import Tree

NOWHERE, EMPTY = -1, -2  # of a node in native.cpp: from the node before it, or not kept; from no state at all


def is_native_stack(stack: blocks.Stack) -> bool:
    """Whether `native.cpp` computes this stack: Mamba2 in fp32 on a CPU."""
    return is_cpu_fp32(stack) and all(isinstance(block.mixer, Mamba2) for block in stack.blocks)


class NativeStack:
    """A stack of Mamba2 in C++; see `is_native_stack`."""

    def __init__(self, stack: blocks.Stack):
        functions = library()
        self.call_step = functions.stack_step
        self.call_read = functions.stack_read
        self.packed = PackedWeights()
        self.blocks = (Block * len(stack.blocks))(*(_block(self.packed, block) for block in stack.blocks))
        self.stack = Stack(self.blocks, len(self.blocks), self.packed.vector(stack.norm.weight), stack.norm.eps)
        self.per_row = stack.norm.weight.numel() + max(map(_widest, self.blocks))
        self.per_thread = max(3 * _channels(block) for block in self.blocks)
        self.state_size = sum(tensor.numel() for state in stack.empty_state(1) for tensor in vars(state).values())

    def step(self, hidden_BD: Tensor, states: list[Mamba2State], *, commit: bool = True) -> Tensor:
        """Run one byte per row and return [B, D]; commit False: leave the states as they are."""
        hidden_BD = hidden_BD.clone(memory_format=torch.contiguous_format)
        rows = len(hidden_BD)
        tensors = [tensor for state in states for tensor in vars(state).values()]
        assert all(tensor.is_contiguous() and len(tensor) == rows for tensor in tensors)
        places = (c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
        threads = num_threads(rows)
        scratch = Scratch.of(-(-rows // threads) * self.per_row + self.per_thread, threads)
        self.call_step(byref(self.stack), hidden_BD.data_ptr(), rows, places, commit, byref(scratch))
        return hidden_BD

    def read(self, hidden_TD: Tensor, tree: Tree, wanted_T: Tensor | None = None) -> Tensor:
        """Run every node after its ancestors: [T, D]; outputs of nodes that are not wanted (bool [T]) mean nothing."""
        hidden_TD = hidden_TD.clone(memory_format=torch.contiguous_format)
        from_T, keep_T = map(torch.from_numpy, tree.forks())
        wanted_T = torch.ones(len(tree), dtype=torch.bool) if wanted_T is None else wanted_T.contiguous()
        kept_CX = torch.empty(int(keep_T.max()) + 1, self.state_size)
        self._read(hidden_TD, from_T, keep_T, wanted_T, kept_CX, tree.places())
        return hidden_TD

    def prefill(
        self, hidden_BLD: Tensor, length_B: Tensor, *, last_only: bool = False
    ) -> tuple[Tensor, list[Mamba2State]]:
        """Run right-padded rows of one document each: outputs [B, L, D], and the states after byte length_B - 1.

        last_only: only the output of byte length_B - 1 is needed; those of other bytes mean nothing.
        """
        real_BL = torch.arange(hidden_BLD.shape[1]) < length_B[:, None]
        hidden_TD = hidden_BLD[real_BL]
        end_B = length_B.cumsum(0)
        some_B = length_B > 0
        from_T = torch.full((len(hidden_TD),), NOWHERE, dtype=torch.int)
        keep_T = from_T.clone()
        from_T[(end_B - length_B)[some_B]] = EMPTY
        keep_T[end_B[some_B] - 1] = some_B.nonzero()[:, 0].int()
        wanted_T = keep_T >= (0 if last_only else NOWHERE)
        kept_BX = torch.zeros(len(length_B), self.state_size)
        self._read(hidden_TD, from_T, keep_T, wanted_T, kept_BX, np.append(0, end_B.numpy()))
        output_BLD = torch.zeros_like(hidden_BLD)
        output_BLD[real_BL] = hidden_TD
        return output_BLD, self._states(kept_BX)

    def _read(
        self, hidden_TD: Tensor, from_T: Tensor, keep_T: Tensor, wanted_T: Tensor, kept_CX: Tensor, roots: np.ndarray
    ) -> None:
        """Replace hidden_TD by the outputs; see `stack_read` in native.cpp."""
        if not len(hidden_TD):
            return
        bounds, parts = split_trees(roots)
        scratch = Scratch.of(self.state_size + TILE * self.per_row + self.per_thread, parts)
        self.call_read(byref(self.stack), hidden_TD.data_ptr(), from_T.data_ptr(), keep_T.data_ptr(),
                       wanted_T.data_ptr(), kept_CX.data_ptr(), bounds, parts, byref(scratch))

    def _states(self, kept_BX: Tensor) -> list[Mamba2State]:
        """Kept states as steps take them: convolution inputs, then the SSM state, block by block."""
        states = []
        for part_BX, block in zip(kept_BX.chunk(len(self.blocks), dim=1), self.blocks, strict=True):
            conv_BX, ssm_BX = part_BX.tensor_split(((block.taps - 1) * _channels(block),), dim=1)
            states.append(Mamba2State(conv_BX.unflatten(1, (block.taps - 1, -1)).contiguous(),
                                      ssm_BX.unflatten(1, (block.state_size, -1)).contiguous()))
        return states


def _block(packed: PackedWeights, block: nn.Module) -> Block:
    mixer, ffn = block.mixer, block.ffn
    gate, in_ = mixer.in_proj.weight.tensor_split((mixer.inner,))
    return Block(
        gate=packed.weight(gate), in_=packed.weight(in_), out=packed.weight(mixer.out_proj.weight * mixer.norm.weight),
        gate_up=packed.weight(ffn.gate_up.weight) if ffn else Weight(),
        down=packed.weight(ffn.down.weight) if ffn else Weight(),
        norm=packed.vector(block.mixer_norm.weight), ffn_norm=packed.vector(block.ffn_norm.weight if ffn else None),
        taps_WX=packed.vector(mixer.conv1d.weight[:, 0].T), bias_X=packed.vector(mixer.conv1d.bias),
        dt_bias_H=packed.vector(mixer.dt_bias), rate_H=packed.vector(-mixer.A_log.exp()), skip_H=packed.vector(mixer.D),
        heads=mixer.heads, state_size=mixer.state_size, taps=mixer.conv_width, norm_eps=block.mixer_norm.eps,
        gate_eps=mixer.norm.eps, ffn_eps=block.ffn_norm.eps if ffn else 0.0)


def _channels(block: Block) -> int:
    """X: the channels that are convolved."""
    return block.out.in_ + 2 * block.state_size


def _widest(block: Block) -> int:
    """The most numbers of a row that lie next to each other in scratch memory, without the row itself."""
    return max(block.gate.out + block.in_.out + block.out.in_, block.gate_up.out + block.down.in_)
