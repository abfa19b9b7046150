"""One byte through a stack of blocks, with states that are updated in place: the recurrent form, for generation.

It continues from the states of `Stack.prefill` and gives the outputs of `Stack.forward`. What every byte needs is
prepared once: the convolution's taps, -exp(A_log), the norm's weight in the projection after it. Later changes of
weights are not seen. A byte can be tried (`commit=False`): outputs are returned and states do not change, which is how
MBP looks ahead.

Shape letters: B rows, D width, I inner width, H heads, P head width, N state size, W taps, X convolved channels.
"""

from dataclasses import fields

import torch
import torch.nn.functional as F
from torch import Tensor

from dbyte.model.attention import Attention, AttentionState
from dbyte.model.blocks import Block, Stack, State
from dbyte.model.mamba2 import Mamba2, Mamba2State
from dbyte.model.norm import rms_norm


class StackStep:
    """A stack for one byte at a time: [B, D] to [B, D]."""

    def __init__(self, stack: Stack):
        self.norm = stack.norm
        self.blocks = [(_mixer_step(block), block) for block in stack.blocks]
        self.kind = type(stack.empty_state(0)[0])
        self._run = self._plain

    def compile(self) -> "StackStep":
        """Fuse a step by torch.compile, where the stack is of Mamba2: seconds at the first byte, and a C++ compiler."""
        if self.kind is Mamba2State:
            # dynamic: rows that finish leave, and a new number of rows must not mean a new compilation
            self._run = torch.compile(self._plain, dynamic=True)
        return self

    def step(self, hidden_BD: Tensor, states: list[State], *, commit: bool = True) -> Tensor:
        """Run one byte per row; commit False: leave the states as they are."""
        return self._run(hidden_BD, commit, *(tensor for state in states for tensor in vars(state).values()))

    def _plain(self, hidden_BD: Tensor, commit: bool, *tensors: Tensor) -> Tensor:
        states = [self.kind(*some) for some in zip(*[iter(tensors)] * len(fields(self.kind)), strict=True)]
        for (mixer, block), state in zip(self.blocks, states, strict=True):
            norm = block.mixer_norm
            hidden_BD = hidden_BD + mixer.step(rms_norm(hidden_BD, norm.weight, norm.eps), state, commit)
            if block.ffn is not None:
                norm = block.ffn_norm
                ffn = block.ffn
                normed_BD = rms_norm(hidden_BD, norm.weight, norm.eps)
                gate_BF, up_BF = F.linear(normed_BD, ffn.gate_up.weight).chunk(2, dim=-1)
                hidden_BD = hidden_BD.add_(F.linear(F.silu(gate_BF).mul_(up_BF), ffn.down.weight))
        return rms_norm(hidden_BD, self.norm.weight, self.norm.eps)


def _mixer_step(block: Block):
    """What mixes one byte: step(hidden_BD, state, commit) to [B, D]."""
    step = {Mamba2: _MambaStep, Attention: _AttentionStep}.get(type(block.mixer))
    return step(block) if step else block.mixer  # a convolution has a step of its own


class _MambaStep:
    def __init__(self, block: Block):
        mixer = block.mixer
        self.wide = torch.promote_types(mixer.in_proj.weight.dtype, torch.float32)
        self.project = mixer.in_proj.weight
        self.bias_X = mixer.conv1d.bias
        self.sizes = (mixer.inner, mixer.inner + 2 * mixer.state_size, mixer.heads)
        self.parts = (mixer.inner, mixer.state_size, mixer.state_size)
        self.heads = (mixer.heads, mixer.head_width)
        self.taps_WX = mixer.conv1d.weight[:, 0].T.contiguous()
        self.dt_bias_H = mixer.dt_bias.to(self.wide)
        self.rate_H = (-mixer.A_log.exp()).to(self.wide)
        self.skip_H1 = mixer.D[:, None].to(self.wide)
        self.out_DI = mixer.out_proj.weight * mixer.norm.weight
        self.eps = mixer.norm.eps

    def step(self, hidden_BD: Tensor, state: Mamba2State, commit: bool) -> Tensor:
        gate_BI, xBC_BX, dt_BH = F.linear(hidden_BD, self.project).split(self.sizes, dim=-1)
        dt_BH = F.softplus(dt_BH.to(self.wide) + self.dt_bias_H)
        window_BWX = torch.cat([state.conv_BWX, xBC_BX[:, None]], dim=1)
        mixed_BX = F.silu((window_BWX * self.taps_WX).sum(1).add_(self.bias_X), inplace=True).to(self.wide)
        x_BI, B_BN, C_BN = mixed_BX.split(self.parts, dim=-1)
        x_BHP = x_BI.unflatten(-1, self.heads)
        decay_BH1 = (dt_BH * self.rate_H).exp_()[..., None]
        added_BHP = x_BHP * dt_BH[..., None]
        if commit:
            state.conv_BWX.copy_(window_BWX[:, 1:])
            # a factor a column: one a head would be multiplied in by short runs, at half the speed
            state.ssm_BNI.mul_(decay_BH1.expand_as(x_BHP).reshape(len(x_BI), 1, -1))
            state.ssm_BNI.addcmul_(B_BN[:, :, None], added_BHP.flatten(1)[:, None])
            y_BHP = torch.bmm(C_BN[:, None], state.ssm_BNI).unflatten(2, self.heads)[:, 0]
        else:  # what the new state would say, without making it
            along_B11 = (B_BN * C_BN).sum(-1)[:, None, None]
            y_BHP = torch.bmm(C_BN[:, None], state.ssm_BNI).unflatten(2, self.heads)[:, 0]
            y_BHP = y_BHP.mul_(decay_BH1).addcmul_(added_BHP, along_B11)
        y_BHP = y_BHP.addcmul_(x_BHP, self.skip_H1)
        gated_BI = F.silu(gate_BI).mul_(y_BHP.flatten(1).to(gate_BI.dtype))
        return F.linear(rms_norm(gated_BI, None, self.eps), self.out_DI)


class _AttentionStep:
    def __init__(self, block: Block):
        self.mixer = block.mixer

    def step(self, hidden_BD: Tensor, state: AttentionState, commit: bool) -> Tensor:
        mixer = self.mixer
        length_B = state.length_B
        rows_B = torch.arange(len(hidden_BD), device=hidden_BD.device)
        used = int(length_B.max()) + 1
        query_BH1W, key_BH1W, value_BH1W = mixer._project(hidden_BD[:, None], length_B[:, None])
        # a byte that is only tried is written too: nothing reads its slot before the next byte overwrites it
        state.key_BHSW[rows_B, :, length_B] = key_BH1W[:, :, 0]
        state.value_BHSW[rows_B, :, length_B] = value_BH1W[:, :, 0]
        back_BS = length_B[:, None] - torch.arange(used, device=hidden_BD.device)
        mixed_BH1W = F.scaled_dot_product_attention(
            query_BH1W, state.key_BHSW[:, :, :used], state.value_BHSW[:, :, :used],
            attn_mask=mixer._sees(back_BS)[:, None, None])
        if commit:
            state.length_B.add_(1)
        return mixer.out_proj(mixed_BH1W.flatten(1))
