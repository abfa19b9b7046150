"""One position through the core for a few rows: a layer of Llama, Qwen3 or OLMo2 without transformers' bookkeeping.

transformers' own forward makes masks, positions and keyword arguments for every layer, which with the widths of a small
core takes several times as long as the arithmetic. This is the same function on the same weights, without a copy;
`tests/test_decoding.py` compares the two for each family.

Shape letters: R rows, E width, H heads, G key-value heads, W head width, S slots.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dbyte.model.norm import rms_norm

PLAIN_ROTARY = ("default", "linear", "llama3", "yarn")  # whose angles do not depend on how long a text has grown
VIEWS_ON = ("cpu",)  # where an attention call a row, on the row's own keys, is cheaper than gathering the rows' keys


def can_step(core: nn.Module) -> bool:
    """Whether `CoreStep` computes what this core computes; if not, transformers' forward must be used."""
    rope = getattr(core.config, "rope_parameters", None) or {}
    layers = getattr(core.config, "layer_types", None) or []
    return (core.config.model_type in ("llama", "qwen3", "olmo2") and rope.get("rope_type", "default") in PLAIN_ROTARY
            and all(kind == "full_attention" for kind in layers))


Linear = tuple[Tensor, Tensor | None]
Norm = tuple[Tensor, float]


@dataclass(frozen=True)
class _Layer:
    """The weights of a layer: looking them up through modules takes time at every step."""

    query: Linear
    key: Linear
    value: Linear
    out: Linear
    gate: Linear
    up: Linear
    down: Linear
    act: Callable[[Tensor], Tensor]
    before_attention: Norm | None
    after_attention: Norm
    after_feed_forward: Norm | None
    query_norm: Norm | None
    key_norm: Norm | None
    scale: float

    @classmethod
    def of(cls, layer: nn.Module) -> "_Layer":
        heads = layer.self_attn
        mlp = layer.mlp
        linears = (heads.q_proj, heads.k_proj, heads.v_proj, heads.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        norms = ((layer, "input_layernorm"), (layer, "post_attention_layernorm"), (layer, "post_feedforward_layernorm"),
                 (heads, "q_norm"), (heads, "k_norm"))
        return cls(*((linear.weight, linear.bias) for linear in linears), mlp.act_fn,
                   *(_norm(getattr(module, name, None)) for module, name in norms), heads.scaling)


def _norm(norm: nn.Module | None) -> Norm | None:
    return None if norm is None else (norm.weight, norm.variance_epsilon)


class CoreStep:
    """The core's layers for one position a row: [R, E] to [R, E]."""

    def __init__(self, core: nn.Module, *, slots: int):
        self.norm = _norm(core.norm)
        self.layers = [_Layer.of(layer) for layer in core.layers]
        self.norm_after = core.config.model_type == "olmo2"
        weight = core.layers[0].self_attn.q_proj.weight
        position_1S = torch.arange(slots, device=weight.device)[None]
        cos_1SW, sin_1SW = core.rotary_emb(weight[:1, None], position_1S)
        self.cos_SW = cos_1SW[0].to(weight.dtype)
        half = self.cos_SW.shape[-1] // 2
        self.sin_SW = torch.cat([-sin_1SW[0, :, :half], sin_1SW[0, :, half:]], dim=-1).to(weight.dtype)
        self.width = 2 * half
        self.half = half

    def step(self, hidden_RE: Tensor, keys: Tensor, values: Tensor, rows: list[int], slots: list[int]) -> Tensor:
        """Append one position to each of these rows; keys and values: [layers, B, S, G, W], written at `slots`."""
        device = hidden_RE.device
        place_R = torch.tensor([row * keys.shape[2] + slot for row, slot in zip(rows, slots, strict=True)],
                               device=device)
        slot_R = torch.tensor(slots, device=device)
        rotary = self.cos_SW[slot_R][:, None], self.sin_SW[slot_R][:, None]
        gather = None
        if device.type not in VIEWS_ON:
            visible_RS = torch.arange(max(slots) + 1, device=device) <= slot_R[:, None]
            gather = (torch.tensor(rows, device=device), visible_RS[:, None, None])
        for i, layer in enumerate(self.layers):
            hidden_RE = self._layer(layer, hidden_RE, keys[i], values[i], place_R, rotary, gather, rows, slots)
        return rms_norm(hidden_RE, *self.norm)

    def _layer(
        self, layer: _Layer, hidden_RE: Tensor, keys_BSGW: Tensor, values_BSGW: Tensor, place_R: Tensor,
        rotary: tuple[Tensor, Tensor], gather: tuple[Tensor, Tensor] | None, rows: list[int], slots: list[int],
    ) -> Tensor:
        read_RE = hidden_RE if self.norm_after else rms_norm(hidden_RE, *layer.before_attention)
        query_RHW, key_RGW, value_RE = self._heads(layer, read_RE, rotary)
        keys_BSGW.view(-1, *keys_BSGW.shape[2:]).index_copy_(0, place_R, key_RGW)
        values_BSGW.view(-1, *values_BSGW.shape[2:]).index_copy_(0, place_R, value_RE.view_as(key_RGW))
        # the queries of a key-value head form one block: at one position there is nothing ahead to mask
        query_RGQW = query_RHW.unflatten(1, (key_RGW.shape[1], -1))
        if gather is not None:
            rows_R, visible_R11S = gather
            used = visible_R11S.shape[-1]
            mixed_RGQW = F.scaled_dot_product_attention(
                query_RGQW, keys_BSGW[rows_R, :used].transpose(1, 2), values_BSGW[rows_R, :used].transpose(1, 2),
                attn_mask=visible_R11S, scale=layer.scale)
        else:
            keys_BGSW = keys_BSGW.transpose(1, 2)
            values_BGSW = values_BSGW.transpose(1, 2)
            mixed_RGQW = torch.cat([F.scaled_dot_product_attention(
                query_RGQW[k : k + 1], keys_BGSW[row : row + 1, :, : slot + 1],
                values_BGSW[row : row + 1, :, : slot + 1], scale=layer.scale)
                for k, (row, slot) in enumerate(zip(rows, slots, strict=True))])
        mixed_RE = F.linear(mixed_RGQW.reshape(len(rows), -1), *layer.out)
        if self.norm_after:
            hidden_RE = hidden_RE + rms_norm(mixed_RE, *layer.after_attention)
            return hidden_RE + rms_norm(_feed_forward(hidden_RE, layer), *layer.after_feed_forward)
        hidden_RE = hidden_RE + mixed_RE
        return hidden_RE + _feed_forward(rms_norm(hidden_RE, *layer.after_attention), layer)

    def _heads(
        self, layer: _Layer, hidden_RE: Tensor, rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [R, H, W] and keys [R, G, W], normed where the family does and rotated, and values [R, G * W]."""
        query = F.linear(hidden_RE, *layer.query)
        key = F.linear(hidden_RE, *layer.key)
        normed = layer.query_norm is not None
        if normed and self.norm_after:  # OLMo2 norms all heads together, Qwen3 each
            query = rms_norm(query, *layer.query_norm)
            key = rms_norm(key, *layer.key_norm)
        query = query.unflatten(-1, (-1, self.width))
        key = key.unflatten(-1, (-1, self.width))
        if normed and not self.norm_after:
            query = rms_norm(query, *layer.query_norm)
            key = rms_norm(key, *layer.key_norm)
        cos, sin = rotary
        query = torch.addcmul(query * cos, query.roll(self.half, -1), sin)
        key = torch.addcmul(key * cos, key.roll(self.half, -1), sin)
        return query, key, F.linear(hidden_RE, *layer.value)


def _feed_forward(hidden_RE: Tensor, layer: _Layer) -> Tensor:
    gate_RF = layer.act(F.linear(hidden_RE, *layer.gate))
    return F.linear(gate_RF.mul_(F.linear(hidden_RE, *layer.up)), *layer.down)
