"""Causal self-attention over the bytes of a document: the mixer of the Transformer encoder in the paper's Table 5.

It has the interface of `Mamba2`: rows in parallel, and a prompt with the state after it.

Shape letters: B rows, L bytes, D width, H heads, W head width, S slots for past bytes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dbyte.model.core import positions_within

ROTARY_BASE = 10_000.0


@dataclass
class AttentionState:
    """The state between two bytes: rotated keys and values of the first length_B bytes of each row."""

    key_BHSW: Tensor
    value_BHSW: Tensor
    length_B: Tensor


class Attention(nn.Module):
    """Multi-head attention with rotary positions that restart with each document.

    window: how many bytes back a byte sees, itself included; 0: all of its document. Raises ValueError if width is not
    a multiple of an even head_width.
    """

    def __init__(self, width: int, *, head_width: int = 64, window: int = 0):
        super().__init__()
        if width % head_width or head_width % 2:
            raise ValueError(f"width = {width} must be a multiple of head_width = {head_width}, which must be even: "
                             f"choose an even head_width that divides {width}")
        self.head_width = head_width
        self.window = window
        self.qkv_proj = nn.Linear(width, 3 * width, bias=False)
        self.out_proj = nn.Linear(width, width, bias=False)

    def forward(self, hidden_BLD: Tensor, document_BL: Tensor | None = None) -> Tensor:
        """Mix each document on its own: [B, L, D]; document_BL: int, contiguous, None: one document per row."""
        return self._mix(hidden_BLD, document_BL)[0]

    def prefill(self, hidden_BLD: Tensor, length_B: Tensor, *, slots: int = 0) -> tuple[Tensor, AttentionState]:
        """Mix right-padded rows that hold one document each; also return the state after byte length_B - 1 (int64).

        slots: bytes that the state has room for; at least L.
        """
        mixed_BLD, *past = self._mix(hidden_BLD, None)
        more = max(slots - hidden_BLD.shape[1], 0)
        key_BHSW, value_BHSW = (F.pad(past_BHLW, (0, 0, 0, more)) for past_BHLW in past)
        return mixed_BLD, AttentionState(key_BHSW, value_BHSW, length_B.clone())

    def _mix(self, hidden_BLD: Tensor, document_BL: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The mixer's output, and the keys (rotated) and values that it read, each BHLW."""
        if document_BL is None:
            document_BL = torch.zeros(hidden_BLD.shape[:2], dtype=torch.long, device=hidden_BLD.device)
        query_BHLW, key_BHLW, value_BHLW = self._project(hidden_BLD, positions_within(document_BL))
        order_L = torch.arange(document_BL.shape[1], device=document_BL.device)
        sees_BLL = (document_BL[:, :, None] == document_BL[:, None]) & self._sees(order_L[:, None] - order_L)
        mixed_BHLW = F.scaled_dot_product_attention(query_BHLW, key_BHLW, value_BHLW, attn_mask=sees_BLL[:, None])
        return self.out_proj(mixed_BHLW.transpose(1, 2).flatten(2)), key_BHLW, value_BHLW

    def _project(self, hidden_BLD: Tensor, position_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys (both rotated) and values, each BHLW."""
        query, key, value = (part.unflatten(-1, (-1, self.head_width)).transpose(1, 2)
                             for part in self.qkv_proj(hidden_BLD).chunk(3, dim=-1))
        return _rotate(query, position_BL), _rotate(key, position_BL), value

    def _sees(self, back: Tensor) -> Tensor:
        """Whether a byte sees the byte `back` positions before it (bool)."""
        return (back >= 0) & (back < self.window) if self.window else back >= 0


def _rotate(heads_BHLW: Tensor, position_BL: Tensor) -> Tensor:
    """Rotary position embedding (Su et al., arXiv 2104.09864) of the two halves of a head; angles in fp32."""
    half = heads_BHLW.shape[-1] // 2
    rate_W = ROTARY_BASE ** (-torch.arange(half, device=heads_BHLW.device, dtype=torch.float32) / half)
    angle_BLW = position_BL[:, None, :, None] * rate_W
    cos, sin = angle_BLW.cos().to(heads_BHLW.dtype), angle_BLW.sin().to(heads_BHLW.dtype)
    one, two = heads_BHLW.chunk(2, dim=-1)
    return torch.cat([one * cos - two * sin, two * cos + one * sin], dim=-1)
