"""A gated depthwise convolution over the bytes of a document: a control for Table 5 that is local and nothing else.

It is Mamba2 without its memory: the same gate, norm and projections around a causal convolution of more taps, so what
it lacks is the state. It has the interface of `Mamba2`: a row in parallel, a prompt with its state, and a step.

Shape letters: B rows, L bytes, D width, I inner width (expand * D), W taps.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dbyte.model.convolution import convolve
from dbyte.model.gated_projection import gated_projection
from dbyte.model.norm import rms_norm
from dbyte.model.projection import project

NORM_EPS = 1e-5


@dataclass
class ConvolutionState:
    """What a mixer remembers between bytes: the last W - 1 inputs of the convolution, oldest first."""

    conv_BWI: Tensor


class GatedConvolution(nn.Module):
    """Map hidden_BLD to hidden_BLD; a byte sees the last `taps` (>= 2) bytes of its document, itself included."""

    def __init__(self, width: int, *, expand: int, taps: int):
        super().__init__()
        inner = expand * width
        self.taps = taps
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, taps, groups=inner)
        self.norm_weight = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(self, hidden_BLD: Tensor, document_BL: Tensor | None = None) -> Tensor:
        """Mix each document of each row on its own; document_BL int, contiguous per document, None: one a row."""
        return self._mix(hidden_BLD, document_BL)[0]

    def prefill(self, hidden_BLD: Tensor, length_B: Tensor, *, slots: int = 0) -> tuple[Tensor, ConvolutionState]:
        """Mix right-padded rows that hold one document each; also return the state after byte length_B - 1 (int64).

        slots: for attention; this state does not grow.
        """
        mixed_BLD, input_BLI = self._mix(hidden_BLD, None)
        keep = self.taps - 1
        place_BW = length_B[:, None] + torch.arange(keep, device=length_B.device)
        last_BWI = F.pad(input_BLI, (0, 0, keep, 0)).gather(1, place_BW[..., None].expand(-1, -1, input_BLI.shape[-1]))
        return mixed_BLD, ConvolutionState(last_BWI)

    def empty_state(self, rows: int, *, slots: int = 0) -> ConvolutionState:
        """The state before the first byte of a document, for `rows` rows."""
        return ConvolutionState(self.in_proj.weight.new_zeros(rows, self.taps - 1, len(self.norm_weight)))

    def step(self, hidden_BD: Tensor, state: ConvolutionState, commit: bool) -> Tensor:
        """Mix one byte a row; commit False: leave the state as it is."""
        gate_BI, input_BI = F.linear(hidden_BD, self.in_proj.weight).chunk(2, dim=-1)
        window_BWI = torch.cat([state.conv_BWI, input_BI[:, None]], dim=1)
        if commit:
            state.conv_BWI.copy_(window_BWI[:, 1:])
        mixed_BI = F.silu((window_BWI * self.conv1d.weight[:, 0].T).sum(1) + self.conv1d.bias)
        gated_BI = rms_norm(F.silu(gate_BI) * mixed_BI, self.norm_weight, NORM_EPS)
        return F.linear(gated_BI, self.out_proj.weight)

    def _mix(self, hidden_BLD: Tensor, document_BL: Tensor | None) -> tuple[Tensor, Tensor]:
        """What is mixed, and what went into the convolution."""
        gate_BLI, input_BLI = (project(hidden_BLD, half) for half in self.in_proj.weight.chunk(2))
        mixed_BLI = F.silu(convolve(input_BLI, self.conv1d.weight[:, 0], self.conv1d.bias, document_BL))
        return gated_projection(mixed_BLI, gate_BLI, self.norm_weight, self.out_proj.weight, eps=NORM_EPS), input_BLI
