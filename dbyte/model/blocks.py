"""Stacks of pre-norm blocks over bytes: the student's encoder and local decoder (paper section 4.1, Table 12).

A block is a mixer and, as in the paper, a SwiGLU feed-forward network. The authors' code has no feed-forward network
inside its blocks: `ffn_width=0` builds that. The mixer is Mamba2, or attention for the Transformer encoder of Table 5,
or a convolution as its control; where it has fewer parameters than Mamba2, the feed-forward networks are widened until
the stack has as many.

Shape letters: B rows, L bytes, D byte width, F feed-forward width.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dbyte.model.attention import Attention, AttentionState
from dbyte.model.gated_convolution import ConvolutionState, GatedConvolution
from dbyte.model.mamba2 import Mamba2, Mamba2State

NORM_EPS = 1e-5
MIXERS = ("mamba2", "attention", "convolution")
Mixer = Mamba2 | Attention | GatedConvolution
State = Mamba2State | AttentionState | ConvolutionState


@dataclass(frozen=True)
class StackShape:
    """The sizes of one stack; raises ValueError where a size is below its minimum.

    mixer: "mamba2", "attention" or "convolution". ffn_width is that of a Mamba2 stack: with a mixer of fewer parameters
    the feed-forward networks are wider. window: how many bytes attention or the convolution sees, 2 at least with a
    convolution; 0: attention sees all of the document.
    """

    width: int
    layers: int
    ffn_width: int
    state_size: int
    conv_width: int
    expand: int
    head_width: int
    chunk_size: int
    mixer: str = "mamba2"
    window: int = 0

    def __post_init__(self):
        if self.mixer not in MIXERS:
            raise ValueError(f"unknown mixer {self.mixer!r}: choose one of {', '.join(MIXERS)}")
        for name, least in (("width", 1), ("layers", 1), ("ffn_width", 0), ("state_size", 1), ("conv_width", 2),
                            ("expand", 1), ("head_width", 1), ("chunk_size", 1),
                            ("window", 2 if self.mixer == "convolution" else 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, found {getattr(self, name)}")

    def make_mixer(self) -> Mixer:
        """A new mixer of this shape."""
        if self.mixer == "convolution":
            return GatedConvolution(self.width, expand=self.expand, taps=self.window)
        if self.mixer == "attention":
            return Attention(self.width, head_width=self.head_width, window=self.window)
        return Mamba2(self.width, state_size=self.state_size, conv_width=self.conv_width, expand=self.expand,
                      head_width=self.head_width, chunk_size=self.chunk_size)

    def parameters(self) -> int:
        """How many parameters its layers have, norms of feed-forward networks left out; nothing is allocated."""
        with torch.device("meta"):
            mixer = _parameters(self.make_mixer())
        return self.layers * (mixer + 3 * self.width * self.ffn_width)

    def block_ffn_width(self) -> int:
        """The feed-forward width that gives a block the parameters of a Mamba2 block, within half a unit of width."""
        if self.mixer == "mamba2":
            return self.ffn_width
        with torch.device("meta"):
            saved = _parameters(replace(self, mixer="mamba2").make_mixer()) - _parameters(self.make_mixer())
        if not self.ffn_width:
            saved -= self.width  # the norm of a feed-forward network that the Mamba2 block does not have
        return max(self.ffn_width + round(saved / (3 * self.width)), 0)


def _parameters(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), [B, L, D] to [B, L, D]."""

    def __init__(self, width: int, ffn_width: int):
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * ffn_width, bias=False)
        self.down = nn.Linear(ffn_width, width, bias=False)

    def forward(self, hidden_BLD: Tensor) -> Tensor:
        # two products, so that backward need not join the gradients of two halves
        gate_BLF, up_BLF = (F.linear(hidden_BLD, half) for half in self.gate_up.weight.chunk(2))
        return self.down(F.silu(gate_BLF) * up_BLF)


class Block(nn.Module):
    """hidden + mixer(norm(hidden)), then hidden + SwiGLU(norm(hidden)) unless its width is 0; all are [B, L, D]."""

    def __init__(self, shape: StackShape):
        super().__init__()
        self.mixer_norm = nn.RMSNorm(shape.width, eps=NORM_EPS)
        self.mixer = shape.make_mixer()
        ffn_width = shape.block_ffn_width()
        self.ffn_norm = nn.RMSNorm(shape.width, eps=NORM_EPS) if ffn_width else None
        self.ffn = SwiGLU(shape.width, ffn_width) if ffn_width else None

    def _feed_forward(self, hidden: Tensor) -> Tensor:
        return hidden if self.ffn is None else hidden + self.ffn(self.ffn_norm(hidden))

    def forward(self, hidden_BLD: Tensor, document_BL: Tensor | None = None) -> Tensor:
        """Run one block: [B, L, D]; document_BL as in `Mamba2.forward`."""
        return self._feed_forward(hidden_BLD + self.mixer(self.mixer_norm(hidden_BLD), document_BL))

    def prefill(self, hidden_BLD: Tensor, length_B: Tensor, *, slots: int) -> tuple[Tensor, State]:
        """Run right-padded rows of one document each; also return the mixer's state after byte length_B - 1."""
        mixed_BLD, state = self.mixer.prefill(self.mixer_norm(hidden_BLD), length_B, slots=slots)
        return self._feed_forward(hidden_BLD + mixed_BLD), state


class Stack(nn.Module):
    """Blocks and a final RMSNorm, [B, L, D] to [B, L, D]; causal, and isolated by document."""

    def __init__(self, shape: StackShape):
        super().__init__()
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, eps=NORM_EPS)

    def forward(self, hidden_BLD: Tensor, document_BL: Tensor | None = None) -> Tensor:
        """Run all blocks: [B, L, D]; document_BL: int, contiguous per document, None: one document per row."""
        for block in self.blocks:
            hidden_BLD = block(hidden_BLD, document_BL)
        return self.norm(hidden_BLD)

    def prefill(self, hidden_BLD: Tensor, length_B: Tensor, *, slots: int = 0) -> tuple[Tensor, list[State]]:
        """Run right-padded rows of one document each; also return each block's state after byte length_B - 1.

        slots: bytes that a state of attention has room for, at least L. `stack_step` continues from these states.
        """
        states = []
        for block in self.blocks:
            hidden_BLD, state = block.prefill(hidden_BLD, length_B, slots=slots)
            states.append(state)
        return self.norm(hidden_BLD), states

    @torch.no_grad()
    def empty_state(self, rows: int, *, slots: int = 0) -> list[State]:
        """Each block's state before the first byte of a document, for so many rows; slots as in `prefill`."""
        weight = self.norm.weight
        no_byte_B = weight.new_zeros(rows, dtype=torch.long)
        return self.prefill(weight.new_zeros(rows, 1, len(weight)), no_byte_B, slots=slots)[1]
