"""The step of a stack of Mamba2 as one call into `step.cpp`, in place of `StackStep`, and the choice between the two.

Same arguments, same states, the same function within rounding; weights are copied into the order in which they are
read, so what changes afterwards is not seen.

Shape letters: B rows, D width.
"""

from ctypes import c_void_p

import torch
from torch import Tensor, nn

from dbyte.model.blocks import Stack, State
from dbyte.model.mamba2 import Mamba2
from dbyte.model.native import Block, Pack, Room, Weight, kept, library, runs_here
from dbyte.model.stack_step import StackStep


def stack_step(stack: Stack, *, compiled: bool = False) -> "StackStep | FusedStack":
    """The stack for steps; FileNotFoundError where compiled ones lack a C++ compiler.

    Compiled is `step.cpp` where that runs and the mixers are Mamba2, else torch.compile.
    """
    if not compiled:
        return StackStep(stack)
    recurrent = all(isinstance(block.mixer, Mamba2) for block in stack.blocks)
    return kept(stack, FusedStack if recurrent and runs_here(stack) else _by_torch)


def _by_torch(stack: Stack) -> StackStep:
    return StackStep(stack, compiled=True)


class FusedStack:
    """As `StackStep`, for a stack of Mamba2."""

    def __init__(self, stack: Stack):
        self.call, self.pack = library().stack_step, Pack()
        self.blocks = (Block * len(stack.blocks))(*(_block(self.pack, block) for block in stack.blocks))
        self.norm, self.eps = self.pack.vector(stack.norm.weight), stack.norm.eps
        self.room = Room(per_row=stack.norm.weight.numel() + max(map(_widest, self.blocks)),
                         besides=max(3 * _channels(block) for block in self.blocks))

    def step(self, hidden_BD: Tensor, states: list[State], *, commit: bool = True) -> Tensor:
        """Run one byte per row; commit False: leave the states as they are."""
        hidden_BD = hidden_BD.clone(memory_format=torch.contiguous_format)
        rows, tensors = len(hidden_BD), [tensor for state in states for tensor in vars(state).values()]
        assert all(tensor.is_contiguous() and len(tensor) == rows for tensor in tensors)
        places = (c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
        self.call(self.blocks, len(self.blocks), self.norm, self.eps, hidden_BD.data_ptr(), rows, places, commit,
                  *self.room.of(rows))
        return hidden_BD


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
