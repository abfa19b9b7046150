"""A student's parts in C++: stacks of Mamba2, the core and linear maps in fp32 on a CPU; the rest stays torch's.

The functions are those of `decode.engine.Engine` within rounding. Weights are copied into the order in which they are
read, so a student takes twice its memory; a part is copied again when its weights have changed.

Shape letters: R or B rows, L bytes of the longest row, D width in, O width out, E core width, T nodes of trees, C
states that are kept, X numbers of a state or channels, S slots, G key-value heads, W head width, N state size.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dbyte.decode.core_cache import CoreCache
from dbyte.decode.engine import Engine, Map, StackStep
from dbyte.model.blocks import Stack, State, SwiGLU
from dbyte.model.core import check_positions
from dbyte.model.mamba2 import Mamba2, Mamba2State
from dbyte.native import library
from dbyte.native.library import PackedWeights, address, cached_pack, ffi, is_cpu_fp32, num_threads
from dbyte.text.prefix_tree import Tree

NOWHERE, EMPTY = -1, -2  # in native.cpp: from[t] -1: the node before, -2: an empty state; keep[t] -1: not kept
PLAIN_ROTARY = ("default", "linear", "llama3", "yarn")  # whose angles do not depend on how long a text has grown


class NativeEngine(Engine):
    """The parts of one student, compiled; each method computes what `Engine`'s does."""

    compiled = True

    def stack_step(self, stack: Stack) -> StackStep:
        """A stack as a function of one byte per row; see `Engine.stack_step`."""
        return cached_pack(stack, NativeStack) if is_native_stack(stack) else super().stack_step(stack)

    def core_cache(self, *, rows: int, slots: int) -> CoreCache:
        """An empty cache of the core for so many rows, with room for so many chunks each."""
        if not is_native_core(self.student.core):
            return super().core_cache(rows=rows, slots=slots)
        return NativeCoreCache(self.student.core, rows=rows, slots=slots)

    def map(self, part: nn.Module | Tensor) -> Map:
        """A projection, a SwiGLU network or a weight [O, D] as a function of rows: [..., D] to [..., O]."""
        if not is_cpu_fp32(part) or getattr(part, "bias", None) is not None:
            return super().map(part)
        return NativeMap(part) if isinstance(part, Tensor) else cached_pack(part, NativeMap)

    def prefill(
        self, stack: Stack, hidden_BLD: Tensor, length_B: Tensor, *, slots: int = 0
    ) -> tuple[Tensor, list[State]]:
        """Run right-padded rows of one document each; see `Engine.prefill`."""
        if not is_native_stack(stack):
            return super().prefill(stack, hidden_BLD, length_B, slots=slots)
        return cached_pack(stack, NativeStack).prefill(hidden_BLD, length_B)

    def read_stack(self, stack: Stack, hidden_TD: Tensor, tree: Tree) -> Tensor:
        """Run a stack over every node of a tree, each once; see `Engine.read_stack`."""
        if not is_native_stack(stack):
            return super().read_stack(stack, hidden_TD, tree)
        return cached_pack(stack, NativeStack).read(hidden_TD, tree)

    def read_core(self, input_TE: Tensor, tree: Tree) -> Tensor:
        """Run the core over every node of a tree, each once; see `Engine.read_core`."""
        core = self.student.core
        if not is_native_core(core):
            return super().read_core(input_TE, tree)
        depth = int(tree.depth_T.max()) + 1
        check_positions(depth, core.config.max_position_embeddings)
        return NativeCore(core, slots=depth).read(input_TE, tree)


# -- linear maps ------------------------------------------------------------------------------------------------------


class NativeMap:
    """A weight [O, D], a projection without a bias or a SwiGLU network as a function of rows."""

    def __init__(self, part: Tensor | nn.Linear | SwiGLU):
        self.packed = PackedWeights()
        gate_up = part.gate_up if isinstance(part, SwiGLU) else part
        first_OD = gate_up if isinstance(gate_up, Tensor) else gate_up.weight
        self.out, self.width = first_OD.shape
        self.first = ffi.new("Weight *", self.packed.weight(first_OD))
        self.down = ffi.NULL
        if isinstance(part, SwiGLU):
            self.out = len(part.down.weight)
            self.down = ffi.new("Weight *", self.packed.weight(part.down.weight))

    def __call__(self, hidden_XD: Tensor) -> Tensor:
        """Outputs [..., O] of rows [..., D], fp32."""
        hidden_RD = hidden_XD.reshape(-1, self.width).contiguous()
        rows = len(hidden_RD)
        out_RO = torch.empty(rows, self.out)
        library.library().map_rows(self.first, self.down, address(hidden_RD), rows, address(out_RO), num_threads(rows))
        return out_RO.view(*hidden_XD.shape[:-1], self.out)


# -- stacks of Mamba2 -------------------------------------------------------------------------------------------------


def is_native_stack(stack: Stack) -> bool:
    """Whether `native.cpp` computes this stack: Mamba2 in fp32 on a CPU."""
    return is_cpu_fp32(stack) and all(isinstance(block.mixer, Mamba2) for block in stack.blocks)


class NativeStack:
    """A stack of Mamba2 in C++: one byte per row, prompts, trees of texts."""

    def __init__(self, stack: Stack):
        self.packed = PackedWeights()
        self.blocks = ffi.new("Block[]", [_block(self.packed, block) for block in stack.blocks])
        self.stack = ffi.new("Stack *", {"blocks": self.blocks, "count": len(self.blocks),
                                         "norm": self.packed.vector(stack.norm.weight), "eps": stack.norm.eps})
        self.shapes = [[tensor.shape[1:] for tensor in vars(state).values()] for state in stack.empty_state(1)]
        self.sizes = [shape.numel() for shapes in self.shapes for shape in shapes]

    def __call__(self, hidden_BD: Tensor, states: list[Mamba2State], *, commit: bool = True) -> Tensor:
        """Run one byte per row and return [B, D]; commit False: leave the states as they are."""
        hidden_BD = hidden_BD.clone(memory_format=torch.contiguous_format)
        rows = len(hidden_BD)
        tensors = [tensor for state in states for tensor in vars(state).values()]
        assert all(tensor.is_contiguous() and len(tensor) == rows for tensor in tensors)
        library.library().stack_step(self.stack, address(hidden_BD), rows, [address(tensor) for tensor in tensors],
                                     commit, num_threads(rows))
        return hidden_BD

    def read(self, hidden_TD: Tensor, tree: Tree) -> Tensor:
        """Run every node after its ancestors: [T, D]."""
        from_T, keep_T = map(torch.from_numpy, tree.forks())
        kept_CX = torch.empty(int(keep_T.max()) + 1, sum(self.sizes))
        return self._read(hidden_TD, from_T, keep_T, kept_CX, tree.places())

    def prefill(self, hidden_BLD: Tensor, length_B: Tensor) -> tuple[Tensor, list[Mamba2State]]:
        """Run right-padded rows of one document each: outputs [B, L, D], and the states after byte length_B - 1."""
        real_BL = torch.arange(hidden_BLD.shape[1]) < length_B[:, None]
        end_B = length_B.cumsum(0)
        some_B = length_B > 0
        from_T = torch.full((int(end_B[-1]),), NOWHERE, dtype=torch.int)
        keep_T = from_T.clone()
        from_T[(end_B - length_B)[some_B]] = EMPTY
        keep_T[end_B[some_B] - 1] = some_B.nonzero()[:, 0].int()
        kept_BX = torch.zeros(len(length_B), sum(self.sizes))
        output_BLD = torch.zeros_like(hidden_BLD)
        output_BLD[real_BL] = self._read(hidden_BLD[real_BL], from_T, keep_T, kept_BX, np.append(0, end_B.numpy()))
        return output_BLD, self._states(kept_BX)

    def _read(self, hidden_TD: Tensor, from_T: Tensor, keep_T: Tensor, kept_CX: Tensor, roots: np.ndarray) -> Tensor:
        """The outputs [T, D]; see `stack_read` in native.cpp."""
        hidden_TD = hidden_TD.clone(memory_format=torch.contiguous_format)
        if len(hidden_TD):
            library.library().stack_read(self.stack, address(hidden_TD), address(from_T), address(keep_T),
                                         address(kept_CX), *library.split_trees(roots))
        return hidden_TD

    def _states(self, kept_BX: Tensor) -> list[Mamba2State]:
        """Kept states as steps take them: convolution inputs, then the SSM state, block by block."""
        parts = iter(kept_BX.split(self.sizes, dim=1))
        return [Mamba2State(*(next(parts).unflatten(1, shape).contiguous() for shape in shapes))
                for shapes in self.shapes]


def _block(packed: PackedWeights, block: nn.Module) -> dict[str, Any]:
    mixer = block.mixer
    packed_block = {
        "in": packed.weight(mixer.in_proj.weight), "out": packed.weight(mixer.out_proj.weight * mixer.norm.weight),
        "norm": packed.vector(block.mixer_norm.weight), "taps_WX": packed.vector(mixer.conv1d.weight[:, 0].T),
        "bias_X": packed.vector(mixer.conv1d.bias), "dt_bias_H": packed.vector(mixer.dt_bias),
        "rate_H": packed.vector(-mixer.A_log.exp()), "skip_H": packed.vector(mixer.D), "heads": mixer.heads,
        "state_size": mixer.state_size, "taps": mixer.conv_width, "norm_eps": block.mixer_norm.eps,
        "gate_eps": mixer.norm.eps}
    if block.ffn is not None:
        packed_block |= {
            "gate_up": packed.weight(block.ffn.gate_up.weight), "down": packed.weight(block.ffn.down.weight),
            "ffn_norm": packed.vector(block.ffn_norm.weight), "ffn_eps": block.ffn_norm.eps}
    return packed_block


# -- the core ---------------------------------------------------------------------------------------------------------


def is_native_core(core: nn.Module) -> bool:
    """Whether `native.cpp` computes this core: Llama, Qwen3 or OLMo2 in fp32 on a CPU, SiLU, no biases."""
    config = core.config
    rope = getattr(config, "rope_parameters", None) or {}
    layers = getattr(config, "layer_types", None) or []
    return (config.model_type in ("llama", "qwen3", "olmo2") and rope.get("rope_type", "default") in PLAIN_ROTARY
            and all(kind == "full_attention" for kind in layers) and config.hidden_act == "silu" and is_cpu_fp32(core)
            and all(part.bias is None for part in core.modules() if isinstance(part, nn.Linear)))


class NativeCore:
    """A core in C++, for positions 0 to slots - 1; see `is_native_core`."""

    def __init__(self, core: nn.Module, *, slots: int):
        self.packed = cached_pack(core, _PackedCore)
        config = core.config
        width = core.layers[0].self_attn.head_dim
        cos_1SW, sin_1SW = core.rotary_emb(torch.empty(1), torch.arange(slots)[None])
        self.cos_SW = cos_1SW[0].contiguous()
        self.sin_SW = torch.cat([-sin_1SW[0, :, : width // 2], sin_1SW[0, :, width // 2 :]], dim=-1)
        self.core = ffi.new("Core *", {
            "layers": self.packed.layers, "count": len(self.packed.layers), "norm": self.packed.norm,
            "eps": core.norm.variance_epsilon, "heads": config.num_attention_heads,
            "key_heads": config.num_key_value_heads, "width": width, "slots": slots, "cos": address(self.cos_SW),
            "sin": address(self.sin_SW)})

    def read(self, hidden_TE: Tensor, tree: Tree) -> Tensor:
        """Run every node of trees, which are at most as deep as there are slots, after its ancestors: [T, E]."""
        hidden_TE = hidden_TE.clone(memory_format=torch.contiguous_format)
        depth_T = torch.from_numpy(tree.depth_T).int()
        assert int(depth_T.max()) < self.core.slots
        library.library().core_read(self.core, address(hidden_TE), address(depth_T),
                                    *library.split_trees(tree.places()))
        return hidden_TE


class NativeCoreCache(CoreCache):
    """A cache whose core takes single positions in C++; prompts are read by transformers."""

    def __init__(self, core: nn.Module, *, rows: int, slots: int):
        super().__init__(core, rows=rows, slots=slots)
        self.native = NativeCore(core, slots=slots)

    def _run(self, input_RE: Tensor, rows: list[int], slots: list[int]) -> Tensor:
        hidden_RE = input_RE.clone(memory_format=torch.contiguous_format)
        assert self.keys.is_contiguous() and self.values.is_contiguous()
        library.library().core_step(
            self.native.core, address(hidden_RE), len(rows), rows, slots, address(self.keys), address(self.values),
            self.keys.stride(0), num_threads(len(rows)))
        return hidden_RE


class _PackedCore:
    """A core's weights as `native.cpp` reads them."""

    def __init__(self, core: nn.Module):
        self.weights = PackedWeights()
        self.norm = self.weights.vector(core.norm.weight)
        self.layers = ffi.new("Layer[]", [_layer(self.weights, layer) for layer in core.layers])


def _layer(weights: PackedWeights, layer: nn.Module) -> dict[str, Any]:
    heads = layer.self_attn
    mlp = layer.mlp
    norms = {"before_attention": (layer, "input_layernorm"), "after_attention": (layer, "post_attention_layernorm"),
             "after_feed_forward": (layer, "post_feedforward_layernorm"), "query_norm": (heads, "q_norm"),
             "key_norm": (heads, "k_norm")}
    packed = {
        "query_key_value": weights.weight(heads.q_proj.weight, heads.k_proj.weight, heads.v_proj.weight),
        "out": weights.weight(heads.o_proj.weight),
        "gate_up": weights.weight(mlp.gate_proj.weight, mlp.up_proj.weight),
        "down": weights.weight(mlp.down_proj.weight), "scale": heads.scaling}
    for name, (module, attribute) in norms.items():
        norm = getattr(module, attribute, None)
        if norm is not None:  # which norms there are differs between the families
            packed |= {name: weights.vector(norm.weight), name + "_eps": norm.variance_epsilon}
    return packed
