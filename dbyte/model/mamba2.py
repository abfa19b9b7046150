"""The Mamba2 mixer with the parameter names, shapes and initialisation of `mamba_ssm.modules.mamba2.Mamba2`.

Source: Dao and Gu (arXiv 2405.21060); sizes of the paper's encoder and decoder in its Table 12. One group of B and C,
gated RMSNorm after the scan (gate first), depthwise causal convolution that never reads another document:

    gate, xBC, dt = in_proj(hidden)
    x, B, C = silu(convolve(xBC))
    out = out_proj(norm(SSD(x, softplus(dt + dt_bias), A, B, C) + D x, gate))          A = -exp(A_log)

Shape letters: B rows, L bytes, D width, I inner width (expand * D), H heads, P head width, N state size,
W convolution width, X = I + 2 N (the convolved channels).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dbyte.model.backends import check_backend, operators

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4
A_MIN, A_MAX = 1.0, 16.0


@dataclass
class Mamba2State:
    """The state between two bytes: the last W - 1 inputs of the convolution, and the SSM state.

    N comes first, so that a step reads the SSM state along C with one product per row.
    """

    conv_BWX: Tensor  # W - 1 rows, oldest first
    ssm_BNI: Tensor


class Mamba2(nn.Module):
    """Map hidden_BLD to hidden_BLD with a causal convolution and an SSD scan.

    backend: one of backends.py; it changes speed, not the function, and is not saved with the weights.
    Raises ValueError if expand * width is not a multiple of head_width, or the backend cannot be used here.
    """

    def __init__(
        self, width: int, *, state_size: int = 128, conv_width: int = 4, expand: int = 2, head_width: int = 64,
        chunk_size: int = 64, backend: str = "fast",
    ):
        super().__init__()
        self.backend = check_backend(backend)
        inner = expand * width
        if inner % head_width:
            raise ValueError(f"expand * width = {inner} must be a multiple of head_width = {head_width}; "
                             f"choose a head_width that divides {inner}")
        self.inner = inner
        self.state_size = state_size
        self.heads = inner // head_width
        self.head_width = head_width
        self.conv_width = conv_width
        self.chunk_size = chunk_size
        channels = inner + 2 * state_size
        self.parts = [inner, channels, self.heads]  # of in_proj: the gate, what is convolved, and the step sizes
        self.in_proj = nn.Linear(width, sum(self.parts), bias=False)
        self.conv1d = nn.Conv1d(channels, channels, conv_width, groups=channels, padding=conv_width - 1)
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.A_log = nn.Parameter(torch.empty(self.heads))
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm = nn.RMSNorm(inner, eps=1e-5)  # its weight alone: the gate comes first
        self.out_proj = nn.Linear(inner, width, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise as mamba_ssm does: A uniform in [1, 16], softplus(dt_bias) log-uniform in [1e-3, 1e-1]."""
        if self.D.is_meta:
            return  # asked for its sizes alone: torch takes milliseconds to set values that are not there
        self.in_proj.reset_parameters()
        self.conv1d.reset_parameters()
        self.out_proj.reset_parameters()
        log_dt_H = torch.rand_like(self.dt_bias) * math.log(DT_MAX / DT_MIN) + math.log(DT_MIN)
        dt_H = torch.exp(log_dt_H).clamp(min=DT_FLOOR)
        self.dt_bias.copy_(dt_H + torch.log(-torch.expm1(-dt_H)))  # the inverse of softplus
        self.A_log.copy_(torch.empty_like(self.A_log).uniform_(A_MIN, A_MAX).log())
        self.D.fill_(1.0)
        self.norm.weight.fill_(1.0)

    def forward(self, hidden_BLD: Tensor, document_BL: Tensor | None = None) -> Tensor:
        """Mix each document on its own: [B, L, D]; document_BL: int, contiguous, None: one document per row."""
        return self._mix(hidden_BLD, document_BL, None)[0]

    def prefill(self, hidden_BLD: Tensor, length_B: Tensor, *, slots: int = 0) -> tuple[Tensor, Mamba2State]:
        """Mix right-padded rows that hold one document each; also return the state after byte length_B - 1 (int64).

        slots: not used here, only by attention: this state does not grow.
        """
        real_BL = torch.arange(hidden_BLD.shape[1], device=hidden_BLD.device) < length_B[:, None]
        mixed_BLD, xBC_BLX, state_BHPN = self._mix(hidden_BLD, None, real_BL)
        ssm_BNI = state_BHPN.permute(0, 3, 1, 2).flatten(2).contiguous()
        return mixed_BLD, Mamba2State(last_inputs(xBC_BLX, length_B, self.conv_width - 1), ssm_BNI)

    def _mix(
        self, hidden_BLD: Tensor, document_BL: Tensor | None, real_BL: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The mixer's output, what its convolution read [B, L, X], and the SSM state after the last byte [B, H, P, N].

        real_BL: bool, False for padding at a row's tail, which leaves the state as it is; None: no padding.
        """
        by = operators(self.backend, hidden_BLD)
        gate_BLI, xBC_BLX, dt_BLH = by.split_linear(hidden_BLD, self.in_proj.weight, self.parts)
        convolved_BLX = by.convolve_silu(xBC_BLX, self.conv1d.weight[:, 0], self.conv1d.bias, document_BL)
        y_BLHP, state_BHPN = by.scan(*self._scan_inputs(convolved_BLX, dt_BLH, real_BL), self.D, document_BL,
                                     chunk_size=self.chunk_size)
        mixed_BLD = by.gated_linear(y_BLHP.flatten(2), gate_BLI, self.norm.weight, self.out_proj.weight,
                                    eps=self.norm.eps)
        return mixed_BLD, xBC_BLX, state_BHPN

    def _scan_inputs(
        self, convolved_BLX: Tensor, dt_BLH: Tensor, real_BL: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """x_BLHP, dt_BLH, A_H, B_BLN, C_BLN of `ssd`; step sizes are fp32 at least."""
        x_BLI, B_BLN, C_BLN = convolved_BLX.split([self.inner, self.state_size, self.state_size], dim=-1)
        wide = torch.promote_types(dt_BLH.dtype, torch.float32)
        dt_BLH = F.softplus(dt_BLH.to(wide) + self.dt_bias.to(wide))
        if real_BL is not None:
            dt_BLH = dt_BLH * real_BL[..., None]
        return x_BLI.unflatten(-1, (self.heads, -1)), dt_BLH, -self.A_log.exp(), B_BLN, C_BLN


def last_inputs(input_BLX: Tensor, length_B: Tensor, keep: int) -> Tensor:
    """The last `keep` inputs of a convolution up to byte length_B - 1, oldest first, zeros where a row is shorter."""
    padded_BLX = F.pad(input_BLX, (0, 0, keep, 0))
    place_BW = length_B[:, None] + torch.arange(keep, device=length_B.device)
    return padded_BLX.gather(1, place_BW[..., None].expand(-1, -1, input_BLX.shape[-1]))
