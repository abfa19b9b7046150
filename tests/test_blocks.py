"""The stacks: equal sizes for either mixer, prefill == step, and how far attention sees."""

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding

from dbyte.decode.stack_step import stack_step
from dbyte.model.attention import Attention
from dbyte.model.blocks import Stack, StackShape
from dbyte.model.core import document_mask, positions_within

MAMBA = StackShape(width=16, layers=2, ffn_width=24, state_size=8, conv_width=4, expand=2, head_width=8, chunk_size=4)
SHAPES = {"mamba2": MAMBA, "without FFN": replace(MAMBA, ffn_width=0), "attention": replace(MAMBA, mixer="attention"),
          "window": replace(MAMBA, mixer="attention", window=3),
          "convolution": replace(MAMBA, mixer="convolution", window=5)}


@pytest.fixture(params=SHAPES)
def stack(request):
    torch.manual_seed(0)
    return Stack(SHAPES[request.param]).double()


@pytest.mark.parametrize("width, ffn_width", [(128, 256), (128, 0), (1536, 8192)])
@pytest.mark.parametrize("mixer", ["attention", "convolution"])
def test_any_stack_has_the_parameters_of_a_mamba2_stack(width, ffn_width, mixer):
    shape = replace(MAMBA, width=width, ffn_width=ffn_width, head_width=64, state_size=32, window=8)
    with torch.device("meta"):
        mamba, other = (sum(w.numel() for w in Stack(replace(shape, mixer=kind)).parameters())
                        for kind in ("mamba2", mixer))
    assert abs(other - mamba) <= 1.5 * width * shape.layers < 0.02 * mamba


def test_steps_from_nothing_are_the_forward_and_tries_between_them_leave_no_trace(stack):
    hidden, states = torch.randn(2, 70, 16, dtype=torch.float64), stack.empty_state(2, slots=70)
    expected = stack(hidden)
    with torch.inference_mode():
        for i in range(70):
            other = torch.randn(2, 16, dtype=torch.float64)
            tried = [stack_step(stack, some, states, commit=False) for some in (hidden[:, i], other)]
            torch.testing.assert_close(tried[0], expected[:, i])
            assert not torch.allclose(tried[1], expected[:, i])
            torch.testing.assert_close(stack_step(stack, hidden[:, i], states), expected[:, i])


@pytest.mark.parametrize("mixer", ["attention", "convolution"])
def test_a_window_is_how_far_a_byte_sees(mixer):
    torch.manual_seed(0)
    stack = Stack(replace(MAMBA, mixer=mixer, window=3, layers=1)).double()
    hidden = torch.randn(1, 12, 16, dtype=torch.float64)
    changed = hidden.clone()
    changed[0, 4] += 1
    differs = (stack(changed) - stack(hidden)).abs().amax(-1)[0] > 1e-9
    assert differs.nonzero()[:, 0].tolist() == [4, 5, 6]


def test_attention_gives_the_outputs_of_transformers_llama_attention():
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=32, num_attention_heads=4, num_key_value_heads=4, attn_implementation="sdpa")
    peer, ours = LlamaAttention(config, layer_idx=0).double(), Attention(32, head_width=8).double()
    with torch.no_grad():
        ours.qkv_proj.weight.copy_(torch.cat([peer.q_proj.weight, peer.k_proj.weight, peer.v_proj.weight]))
        ours.out_proj.weight.copy_(peer.o_proj.weight)
    hidden, document = torch.randn(1, 21, 32, dtype=torch.float64), torch.tensor([[0] * 8 + [1] * 13])
    rotary = LlamaRotaryEmbedding(config)(hidden, positions_within(document))
    expected = peer(hidden, position_embeddings=rotary, attention_mask=document_mask(document, torch.float64))[0]
    torch.testing.assert_close(ours(hidden, document), expected, rtol=1e-6, atol=1e-6)  # fp32 angles
