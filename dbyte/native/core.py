"""A core as one call into `native.cpp`: one position of a few rows, in place of `CoreStep`, and trees of chunks.

`NativeCore.step` takes the arguments and the cache of `CoreStep.step` and computes the same function within rounding.
Weights are copied into the order in which they are read: a copy of all, and later changes are not seen.

Shape letters: R rows chosen, E core width, S slots, G key-value heads, W head width, T nodes of trees.
"""

from ctypes import byref

import torch
from torch import Tensor, nn

from dbyte.decode.core_step import CoreStep, can_step
from dbyte.native.library import (
    TILE,
    Core,
    Layer,
    PackedWeights,
    Scratch,
    as_ints,
    cached_pack,
    is_cpu_fp32,
    library,
    num_threads,
    split_trees,
)
from dbyte.text.prefix_tree import Tree


def is_native_core(core: nn.Module) -> bool:
    """Whether `native.cpp` computes this core: Llama, Qwen3 or OLMo2 in fp32 on a CPU, SiLU, no biases."""
    return (can_step(core) and is_cpu_fp32(core) and core.config.hidden_act == "silu"
            and all(part.bias is None for part in core.modules() if isinstance(part, nn.Linear)))


class NativeCore:
    """A core in C++, for positions 0 to slots - 1; see `is_native_core`."""

    def __init__(self, core: nn.Module, *, slots: int):
        functions = library()
        self.call_step = functions.core_step
        self.call_read = functions.core_read
        self.packed = cached_pack(core, _Packed)
        plain = CoreStep(core, slots=slots)
        self.cos_SW = plain.cos_SW.contiguous()
        self.sin_SW = plain.sin_SW.contiguous()
        packed, heads, key_heads = self.packed, core.config.num_attention_heads, core.config.num_key_value_heads
        self.core = Core(packed.layers, len(packed.layers), packed.norm, packed.eps, heads, key_heads, plain.width,
                         slots, self.cos_SW.data_ptr(), self.sin_SW.data_ptr())
        self.per_thread = heads * (slots + plain.width) + core.config.hidden_size

    def step(self, hidden_RE: Tensor, keys: Tensor, values: Tensor, rows: list[int], slots: list[int]) -> Tensor:
        """Append one position to each of these rows; keys and values: [layers, B, S, G, W], written at `slots`."""
        hidden_RE = hidden_RE.clone(memory_format=torch.contiguous_format)
        S, G, W = keys.shape[2:]
        assert S == self.core.slots
        assert keys.stride() == values.stride() and keys.stride()[1:] == (S * G * W, G * W, W, 1)
        threads = num_threads(len(rows))
        scratch = Scratch.of(-(-len(rows) // threads) * self.packed.per_row + self.per_thread, threads)
        self.call_step(byref(self.core), hidden_RE.data_ptr(), len(rows), as_ints(rows), as_ints(slots),
                       keys.data_ptr(), values.data_ptr(), keys.stride(0), byref(scratch))
        return hidden_RE

    def read(self, hidden_TE: Tensor, tree: Tree) -> Tensor:
        """Run every node of trees, which are at most as deep as there are slots, after its ancestors: [T, E]."""
        hidden_TE = hidden_TE.clone(memory_format=torch.contiguous_format)
        depth_T = torch.from_numpy(tree.depth_T).int()
        assert int(depth_T.max()) < self.core.slots
        bounds, parts = split_trees(tree.places())
        cache = 2 * self.core.count * self.core.slots * self.core.key_heads * self.core.width
        scratch = Scratch.of(cache + TILE * self.packed.per_row + self.per_thread, parts)
        self.call_read(byref(self.core), hidden_TE.data_ptr(), depth_T.data_ptr(), bounds, parts, byref(scratch))
        return hidden_TE


class _Packed:
    """A core's weights as `native.cpp` reads them."""

    def __init__(self, core: nn.Module):
        plain = CoreStep(core, slots=1)
        self.weights = PackedWeights()
        self.norm = self.weights.vector(plain.norm[0])
        self.eps = plain.norm[1]
        self.layers = (Layer * len(plain.layers))(*(_layer(self.weights, layer) for layer in plain.layers))
        first = self.layers[0]
        self.per_row = first.out.out + max(first.query_key_value.out + first.out.in_,
                                           first.gate_up.out + first.down.in_)


def _layer(weights: PackedWeights, layer) -> Layer:
    norms = dict(before_attention=layer.before_attention, after_attention=layer.after_attention,
                 after_feed_forward=layer.after_feed_forward, query_norm=layer.query_norm, key_norm=layer.key_norm)
    epsilons = dict(before_eps=layer.before_attention, after_eps=layer.after_attention,
                    feed_forward_eps=layer.after_feed_forward, query_eps=layer.query_norm, key_eps=layer.key_norm)
    return Layer(
        query_key_value=weights.weight(layer.query[0], layer.key[0], layer.value[0]), out=weights.weight(layer.out[0]),
        gate_up=weights.weight(layer.gate[0], layer.up[0]), down=weights.weight(layer.down[0]), scale=layer.scale,
        **{name: weights.vector(norm[0]) for name, norm in norms.items() if norm},
        **{name: norm[1] for name, norm in epsilons.items() if norm})
