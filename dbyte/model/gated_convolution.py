"""A gated depthwise convolution over the bytes of a document: a control for Table 5 that sees nearby bytes only.

It is Mamba2 without its state: the same gate, norm and projections around a causal convolution of more taps. It has the
interface of `Mamba2`: a row in parallel, a prompt with its state, and a step.

Shape letters: B rows, L bytes, D width, I inner width (expand * D), W taps.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dbyte.model.backends import gated_linear, operators
from dbyte.model.mamba2 import last_inputs

NORM_EPS = 1e-5


@dataclass
class ConvolutionState:
    """The state between two bytes: the last W - 1 inputs of the convolution, oldest first."""

    conv_BWI: Tensor


class GatedConvolution(nn.Module):
    """Map hidden_BLD to hidden_BLD; a byte sees the last `taps` (>= 2) bytes of its document, itself included."""

    def __init__(self, width: int, *, expand: int, taps: int):
        super().__init__()
        inner = expand * width
        self.taps = taps
        self.eps = NORM_EPS
        self.backend = "fast"  # of backends.py
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, taps, groups=inner)
        self.norm_weight = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(self, hidden_BLD: Tensor, document_BL: Tensor | None = None) -> Tensor:
        """Mix each document on its own: [B, L, D]; document_BL: int, contiguous, None: one document per row."""
        return self._mix(hidden_BLD, document_BL)[0]

    def prefill(self, hidden_BLD: Tensor, length_B: Tensor, *, slots: int = 0) -> tuple[Tensor, ConvolutionState]:
        """Mix right-padded rows that hold one document each; also return the state after byte length_B - 1 (int64).

        slots: not used here, only by attention: this state does not grow.
        """
        mixed_BLD, input_BLI = self._mix(hidden_BLD, None)
        return mixed_BLD, ConvolutionState(last_inputs(input_BLI, length_B, self.taps - 1))

    def step(self, hidden_BD: Tensor, state: ConvolutionState, commit: bool) -> Tensor:
        """Mix one byte per row: [B, D]; commit False: leave the state as it is."""
        gate_BI, input_BI = F.linear(hidden_BD, self.in_proj.weight).chunk(2, dim=-1)
        window_BWI = torch.cat([state.conv_BWI, input_BI[:, None]], dim=1)
        if commit:
            state.conv_BWI.copy_(window_BWI[:, 1:])
        mixed_BI = F.silu((window_BWI * self.conv1d.weight[:, 0].T).sum(1) + self.conv1d.bias)
        return gated_linear(mixed_BI, gate_BI, self.norm_weight, self.out_proj.weight, eps=self.eps)

    def _mix(self, hidden_BLD: Tensor, document_BL: Tensor | None) -> tuple[Tensor, Tensor]:
        """The mixer's output, and what its convolution read."""
        by = operators("fast" if self.backend == "fast" else "torch", hidden_BLD)  # triton has no kernel for this mixer
        inner = len(self.norm_weight)
        gate_BLI, input_BLI = by.split_linear(hidden_BLD, self.in_proj.weight, [inner, inner])
        mixed_BLI = by.convolve_silu(input_BLI, self.conv1d.weight[:, 0], self.conv1d.bias, document_BL)
        mixed_BLD = by.gated_linear(mixed_BLI, gate_BLI, self.norm_weight, self.out_proj.weight, eps=self.eps)
        return mixed_BLD, input_BLI
