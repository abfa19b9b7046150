"""A core as one call into `step.cpp`: a step, in place of `CoreStep`, and trees, in place of whole rows.

Same arguments, the same cache, the same function within rounding. The core's weights are copied into the order in which
they are read: as many numbers again, and what changes afterwards is not seen.

Shape letters: R rows chosen, E core width, S slots, G key-value heads, W head width, T nodes of trees, C of them
whose paths are kept.
"""

import numpy as np
import torch
from torch import Tensor, nn

from dbyte.decode.core_step import CoreStep, can_step
from dbyte.native.library import TILE, Layer, Pack, Room, integers, kept, library, runs_here, shares
from dbyte.text.prefix_tree import Tree


def core_step(core: nn.Module, *, slots: int, compiled: bool = False) -> "CoreStep | FusedCore | None":
    """The core for steps, fused if compiled where it can be; None for a core that only its own forward computes.

    FileNotFoundError where a compiled step lacks a C++ compiler.
    """
    if not can_step(core):
        return None
    return FusedCore(core, slots=slots) if compiled and can_fuse(core) else CoreStep(core, slots=slots)


def can_fuse(core: nn.Module) -> bool:
    """Whether `step.cpp` has this core's function: fp32 on a CPU, SiLU, no biases."""
    return (runs_here(core) and core.config.hidden_act == "silu"
            and all(part.bias is None for part in core.modules() if isinstance(part, nn.Linear)))


class FusedCore:
    """As `CoreStep`, for a core that `can_fuse`."""

    def __init__(self, core: nn.Module, *, slots: int):
        self.call, self.call_read = library().core_step, library().core_read
        self.packed, plain = kept(core, _Packed), CoreStep(core, slots=slots)
        self.cos_SW, self.sin_SW = plain.cos_SW.contiguous(), plain.sin_SW.contiguous()
        self.heads, self.key_heads = core.config.num_attention_heads, core.config.num_key_value_heads
        self.room = Room(per_row=self.packed.per_row,
                         besides=self.heads * (slots + plain.width) + core.config.hidden_size)

    def step(self, hidden_RE: Tensor, keys: Tensor, values: Tensor, rows: list[int], slots: list[int]) -> Tensor:
        """Append one position to each of these rows; keys and values: [layers, B, S, G, W], written at `slots`."""
        hidden_RE, packed = hidden_RE.clone(memory_format=torch.contiguous_format), self.packed
        S, G, W = keys.shape[2:]
        assert keys.stride() == values.stride() and keys.stride()[1:] == (S * G * W, G * W, W, 1)
        self.call(packed.layers, len(packed.layers), packed.norm, packed.eps, hidden_RE.data_ptr(), len(rows),
                  integers(rows), integers(slots), keys.data_ptr(), values.data_ptr(), keys.stride(0), S, self.heads, G,
                  W, self.cos_SW.data_ptr(), self.sin_SW.data_ptr(),
                  *self.room.of(len(rows)))
        return hidden_RE

    def read(self, hidden_TE: Tensor, tree: Tree) -> Tensor:
        """Run every node of the trees, which are at most as deep as there are slots, behind its ancestors."""
        return self.read_keeping(hidden_TE, tree, np.zeros(0, dtype=int))[0]

    def read_keeping(self, hidden_TE: Tensor, tree: Tree, node_C: np.ndarray) -> tuple[Tensor, Tensor]:
        """The same, and keys, then values, of the paths to these nodes: [C, 2 * layers, slots, G * W]."""
        keep_T = torch.full((len(tree),), -1, dtype=torch.int)
        keep_T[torch.from_numpy(node_C)] = torch.arange(len(node_C), dtype=torch.int)
        slots = int(tree.depth_T[node_C].max(initial=0)) + 1
        kept = torch.empty(len(node_C), 2 * len(self.packed.layers), slots, self.key_heads * self.cos_SW.shape[1])
        return self._read(hidden_TE, tree, torch.full_like(keep_T, -1), keep_T, kept), kept

    def read_behind(self, hidden_TE: Tensor, tree: Tree, kept: Tensor, origin_T: np.ndarray) -> Tensor:
        """Run trees whose roots go on from kept paths, -1: from none; a root's depth counts the path before it."""
        from_T = torch.from_numpy(origin_T).int()
        return self._read(hidden_TE, tree, from_T, torch.full_like(from_T, -1), kept)

    def _read(self, hidden_TE: Tensor, tree: Tree, from_T: Tensor, keep_T: Tensor, kept: Tensor) -> Tensor:
        hidden_TE, packed = hidden_TE.clone(memory_format=torch.contiguous_format), self.packed
        S, width = self.cos_SW.shape
        depth_T = torch.from_numpy(tree.depth_T).int()
        assert int(depth_T.max()) < S
        bounds, count = shares(tree.places())
        each = 2 * len(packed.layers) * S * self.key_heads * width + TILE * self.room.per_row + self.room.besides
        work = torch.empty(count * each)
        self.call_read(packed.layers, len(packed.layers), packed.norm, packed.eps, hidden_TE.data_ptr(),
                       depth_T.data_ptr(), S, self.heads, self.key_heads, width, self.cos_SW.data_ptr(),
                       self.sin_SW.data_ptr(), TILE, from_T.data_ptr(), keep_T.data_ptr(), kept.data_ptr(),
                       kept.shape[2], bounds, count, work.data_ptr(), each)
        return hidden_TE


class _Packed:
    """A core's weights as `step.cpp` reads them."""

    def __init__(self, core: nn.Module):
        plain, pack = CoreStep(core, slots=1), Pack()
        self.pack, self.norm, self.eps = pack, pack.vector(plain.norm[0]), plain.norm[1]
        self.layers = (Layer * len(plain.layers))(*(_layer(pack, layer) for layer in plain.layers))
        first = self.layers[0]
        self.per_row = first.out.out + max(first.query_key_value.out + first.out.in_,
                                           first.gate_up.out + first.down.in_)


def _layer(pack: Pack, layer) -> Layer:
    norms = dict(before_attention=layer.before_attention, after_attention=layer.after_attention,
                 after_feed_forward=layer.after_feed_forward, query_norm=layer.query_norm, key_norm=layer.key_norm)
    epsilons = dict(before_eps=layer.before_attention, after_eps=layer.after_attention,
                    feed_forward_eps=layer.after_feed_forward, query_eps=layer.query_norm, key_eps=layer.key_norm)
    return Layer(
        query_key_value=pack.weight(layer.query[0], layer.key[0], layer.value[0]), out=pack.weight(layer.out[0]),
        gate_up=pack.weight(layer.gate[0], layer.up[0]), down=pack.weight(layer.down[0]), scale=layer.scale,
        **{name: pack.vector(norm[0]) for name, norm in norms.items() if norm},
        **{name: norm[1] for name, norm in epsilons.items() if norm})
