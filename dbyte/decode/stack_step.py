"""One byte through a stack of blocks, with states that are updated in place: the recurrent form, for generation.

It continues from the states of `Stack.prefill` and gives the outputs of `Stack.forward`. A byte can be tried
(`commit=False`): outputs are returned and states do not change, which is how MBP looks ahead.

Shape letters: B rows, D width, I inner width, H heads, P head width, N state size, W taps, X convolved channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dbyte.model.attention import Attention, AttentionState
from dbyte.model.backends import gated_linear
from dbyte.model.blocks import Stack, State
from dbyte.model.gated_convolution import GatedConvolution
from dbyte.model.mamba2 import Mamba2, Mamba2State


def stack_step(stack: Stack, hidden_BD: Tensor, states: list[State], *, commit: bool = True) -> Tensor:
    """Run one byte per row: [B, D]; commit False: leave the states as they are."""
    for block, state in zip(stack.blocks, states, strict=True):
        mix = MIXER_STEPS[type(block.mixer)]
        hidden_BD = hidden_BD + mix(block.mixer, block.mixer_norm(hidden_BD), state, commit)
        if block.ffn is not None:
            hidden_BD = hidden_BD + block.ffn(block.ffn_norm(hidden_BD))
    return stack.norm(hidden_BD)


def mamba2_step(mixer: Mamba2, hidden_BD: Tensor, state: Mamba2State, commit: bool) -> Tensor:
    """Mix one byte per row: h = exp(dt A) h + B (dt x), then y = C h + D x, with h the SSM state [N, I]."""
    gate_BI, xBC_BX, dt_BH = mixer.in_proj(hidden_BD).split(mixer.parts, dim=-1)
    window_BWX = torch.cat([state.conv_BWX, xBC_BX[:, None]], dim=1)
    mixed_BX = F.silu((window_BWX * mixer.conv1d.weight[:, 0].T).sum(1) + mixer.conv1d.bias).to(state.ssm_BNI.dtype)
    x_BHP, dt_BH, A_H, B_BN, C_BN = mixer._scan_inputs(mixed_BX, dt_BH, None)
    added_BI = (x_BHP * dt_BH[..., None]).flatten(1)
    # one factor per column: one per head would be multiplied in short runs, at half the speed
    decay_BI = (dt_BH * A_H).exp().repeat_interleave(mixer.head_width, dim=1)
    ssm_BNI = state.ssm_BNI if commit else state.ssm_BNI.clone()
    ssm_BNI.mul_(decay_BI[:, None]).addcmul_(B_BN[:, :, None], added_BI[:, None])
    if commit:
        state.conv_BWX.copy_(window_BWX[:, 1:])
    y_BI = torch.bmm(C_BN[:, None], ssm_BNI)[:, 0] + (x_BHP * mixer.D[:, None]).flatten(1)
    return gated_linear(y_BI, gate_BI, mixer.norm.weight, mixer.out_proj.weight, eps=mixer.norm.eps)


def attention_step(mixer: Attention, hidden_BD: Tensor, state: AttentionState, commit: bool) -> Tensor:
    """Mix one byte per row: [B, D]; its key and value take the row's next free slot."""
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


MIXER_STEPS = {Mamba2: mamba2_step, Attention: attention_step, GatedConvolution: GatedConvolution.step}
