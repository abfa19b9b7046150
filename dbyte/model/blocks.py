"""Stacks of pre-norm blocks over bytes: the student's encoder and local decoder (paper section 4.1, Table 12).

A block is a mixer and, as in the paper, a SwiGLU feed-forward network. The authors' code has no feed-forward network
inside its blocks: `ffn_width=0` builds that.

Shape letters: B rows, L bytes, D byte width, F feed-forward width.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from dbyte.model.mamba2 import Mamba2, Mamba2State

NORM_EPS = 1e-5


@dataclass(frozen=True)
class StackShape:
    """The sizes of one stack; raises ValueError where a size is below its minimum."""

    width: int
    layers: int
    ffn_width: int
    state_size: int
    conv_width: int
    expand: int
    head_width: int
    chunk_size: int

    def __post_init__(self):
        for name, least in (("width", 1), ("layers", 1), ("ffn_width", 0), ("state_size", 1), ("conv_width", 2),
                            ("expand", 1), ("head_width", 1), ("chunk_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, found {getattr(self, name)}")


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), from width to out_width (width where that is None)."""

    def __init__(self, width: int, ffn_width: int, out_width: int | None = None):
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * ffn_width, bias=False)
        self.down = nn.Linear(ffn_width, out_width or width, bias=False)

    def forward(self, hidden_BLD: Tensor) -> Tensor:
        gate_BLF, up_BLF = self.gate_up(hidden_BLD).chunk(2, dim=-1)
        return self.down(F.silu(gate_BLF) * up_BLF)


class Mamba2Block(nn.Module):
    """hidden + Mamba2(norm(hidden)), then hidden + SwiGLU(norm(hidden)) unless ffn_width is 0."""

    def __init__(self, shape: StackShape):
        super().__init__()
        self.mixer_norm = nn.RMSNorm(shape.width, eps=NORM_EPS)
        self.mixer = Mamba2(shape.width, state_size=shape.state_size, conv_width=shape.conv_width, expand=shape.expand,
                            head_width=shape.head_width, chunk_size=shape.chunk_size)
        self.ffn_norm = nn.RMSNorm(shape.width, eps=NORM_EPS) if shape.ffn_width else None
        self.ffn = SwiGLU(shape.width, shape.ffn_width) if shape.ffn_width else None

    def _feed_forward(self, hidden: Tensor) -> Tensor:
        return hidden if self.ffn is None else hidden + self.ffn(self.ffn_norm(hidden))

    def forward(self, hidden_BLD: Tensor, document_BL: Tensor | None = None) -> Tensor:
        return self._feed_forward(hidden_BLD + self.mixer(self.mixer_norm(hidden_BLD), document_BL))

    def prefill(self, hidden_BLD: Tensor, length_B: Tensor) -> tuple[Tensor, Mamba2State]:
        mixed_BLD, state = self.mixer.prefill(self.mixer_norm(hidden_BLD), length_B)
        return self._feed_forward(hidden_BLD + mixed_BLD), state

    def step(self, hidden_BD: Tensor, state: Mamba2State) -> tuple[Tensor, Mamba2State]:
        mixed_BD, state = self.mixer.step(self.mixer_norm(hidden_BD), state)
        return self._feed_forward(hidden_BD + mixed_BD), state


class Mamba2Stack(nn.Module):
    """Blocks and a final RMSNorm, [B, L, D] to [B, L, D]; causal, and isolated by document."""

    def __init__(self, shape: StackShape):
        super().__init__()
        self.blocks = nn.ModuleList(Mamba2Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, eps=NORM_EPS)

    def forward(self, hidden_BLD: Tensor, document_BL: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            hidden_BLD = block(hidden_BLD, document_BL)
        return self.norm(hidden_BLD)

    def prefill(self, hidden_BLD: Tensor, length_B: Tensor) -> tuple[Tensor, list[Mamba2State]]:
        """Run right-padded rows of one document each; also return each block's state after byte length_B - 1."""
        states = []
        for block in self.blocks:
            hidden_BLD, state = block.prefill(hidden_BLD, length_B)
            states.append(state)
        return self.norm(hidden_BLD), states

    def empty_state(self, rows: int) -> list[Mamba2State]:
        """The state before the first byte of a document."""
        return [block.mixer.empty_state(rows) for block in self.blocks]

    def step(self, hidden_BD: Tensor, states: list[Mamba2State]) -> tuple[Tensor, list[Mamba2State]]:
        """Run one byte per row."""
        advanced = []
        for block, state in zip(self.blocks, states, strict=True):
            hidden_BD, state = block.step(hidden_BD, state)
            advanced.append(state)
        return self.norm(hidden_BD), advanced
