"""The Mamba2 mixer with the parameter names, shapes and initialisation of `mamba_ssm.modules.mamba2.Mamba2`.

Source: Dao and Gu (arXiv 2405.21060); sizes of the paper's encoder and decoder in its Table 12. One group of B and C,
gated RMSNorm after the scan (gate first), depthwise causal convolution that never reads another document.

Shape letters: B rows, L bytes, D width, I inner width (expand * D), H heads, P head width, N state size,
W convolution width, X = I + 2 N (the convolved channels).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dbyte.model.backends import check_backend, convolve_silu, mix
from dbyte.model.gated_projection import gated_projection
from dbyte.model.projection import project
from dbyte.model.ssd import last_state

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4
A_MIN, A_MAX = 1.0, 16.0


@dataclass
class Mamba2State:
    """What a mixer remembers between bytes: the last W - 1 convolution inputs and the SSM state.

    With N first, a step reads the SSM state along C by one product a row.
    """

    conv_BWX: Tensor  # W - 1 rows, oldest first
    ssm_BNI: Tensor


class GatedRMSNorm(nn.Module):
    """Holds the weight of the norm under mamba_ssm's name; `gated_projection` applies it."""

    def __init__(self, width: int, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps


class Mamba2(nn.Module):
    """Map hidden_BLD to hidden_BLD with a causal convolution and an SSD scan.

    backend: one of kernels.py; it changes speed, not the function, and is not saved with the weights.
    Raises ValueError if expand * width is not a multiple of head_width, or the backend cannot be used here.
    """

    def __init__(
        self, width: int, *, state_size: int = 128, conv_width: int = 4, expand: int = 2, head_width: int = 64,
        chunk_size: int = 64, backend: str = "torch",
    ):
        super().__init__()
        self.backend = check_backend(backend)
        inner = expand * width
        if inner % head_width:
            raise ValueError(f"expand * width = {inner} must be a multiple of head_width = {head_width}; "
                             f"choose a head_width that divides {inner}")
        self.inner, self.state_size, self.heads, self.head_width = inner, state_size, inner // head_width, head_width
        self.conv_width, self.chunk_size = conv_width, chunk_size
        self.in_proj = nn.Linear(width, 2 * inner + 2 * state_size + self.heads, bias=False)
        channels = inner + 2 * state_size
        self.conv1d = nn.Conv1d(channels, channels, conv_width, groups=channels, padding=conv_width - 1)
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.A_log = nn.Parameter(torch.empty(self.heads))
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm = GatedRMSNorm(inner)
        self.out_proj = nn.Linear(inner, width, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise as mamba_ssm does: A uniform in [1, 16], softplus(dt_bias) log-uniform in [1e-3, 1e-1]."""
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
        """Mix each document of each row on its own; document_BL int, contiguous per document, None: one a row."""
        return self._mix(hidden_BLD, document_BL, None)[0]

    def prefill(self, hidden_BLD: Tensor, length_B: Tensor, *, slots: int = 0) -> tuple[Tensor, Mamba2State]:
        """Mix right-padded rows that hold one document each; also return the state after byte length_B - 1 (int64).

        slots: for attention; this state does not grow.
        """
        real_BL = torch.arange(hidden_BLD.shape[1], device=hidden_BLD.device) < length_B[:, None]
        return self._mix(hidden_BLD, None, real_BL)

    @torch.no_grad()
    def prefill_last(self, hidden_BLD: Tensor, length_B: Tensor) -> tuple[Tensor, Mamba2State]:
        """As `prefill`, but return the output of byte length_B - 1 alone, [B, D], which takes no scan.

        For a row of no bytes it means nothing.
        """
        rows_B, last_B = torch.arange(len(hidden_BLD), device=hidden_BLD.device), (length_B - 1).clamp(min=0)
        real_BL = torch.arange(hidden_BLD.shape[1], device=hidden_BLD.device) < length_B[:, None]
        gate, xBC, dt = self.in_proj.weight.split(self._sizes())
        xBC_BLX, dt_BLH = project(hidden_BLD, xBC), self._step_sizes(project(hidden_BLD, dt)) * real_BL[..., None]
        convolved_BLX = convolve_silu(xBC_BLX, self.conv1d.weight[:, 0], self.conv1d.bias, None, backend=self.backend)
        x_BLI, B_BLN, C_BLN = convolved_BLX.split([self.inner, self.state_size, self.state_size], dim=-1)
        ssm_BNI = last_state(x_BLI.unflatten(-1, (self.heads, -1)), dt_BLH, -self.A_log.exp(), B_BLN)
        skip_I = self.D.to(ssm_BNI.dtype).repeat_interleave(self.head_width)
        read_BI = torch.bmm(C_BLN[rows_B, last_B][:, None].to(ssm_BNI.dtype), ssm_BNI)[:, 0]
        y_BI = torch.addcmul(read_BI, x_BLI[rows_B, last_B].to(ssm_BNI.dtype), skip_I)
        mixed_BD = gated_projection(y_BI, project(hidden_BLD[rows_B, last_B], gate), self.norm.weight,
                                    self.out_proj.weight, eps=self.norm.eps)
        return mixed_BD, Mamba2State(self._last_inputs(xBC_BLX, length_B), ssm_BNI)

    def empty_state(self, rows: int, *, slots: int = 0) -> Mamba2State:
        """The state before the first byte of a document, for `rows` rows; the SSM state is fp32 at least."""
        new = self.in_proj.weight.new_zeros
        wide = torch.promote_types(self.in_proj.weight.dtype, torch.float32)
        return Mamba2State(new(rows, self.conv_width - 1, self.inner + 2 * self.state_size),
                           new(rows, self.state_size, self.inner, dtype=wide))

    def _project(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gate, what is convolved, and dt: three products, so that backward need not join gradients of parts."""
        gate, xBC, dt = (project(hidden, part) for part in self.in_proj.weight.split(self._sizes()))
        return gate, xBC, self._step_sizes(dt)

    def _sizes(self) -> list[int]:
        return [self.inner, self.inner + 2 * self.state_size, self.heads]

    def _step_sizes(self, dt: Tensor) -> Tensor:
        wide = torch.promote_types(dt.dtype, torch.float32)
        return F.softplus(dt.to(wide) + self.dt_bias.to(wide))

    def _mix(
        self, hidden_BLD: Tensor, document_BL: Tensor | None, real_BL: Tensor | None
    ) -> tuple[Tensor, Mamba2State | None]:
        gate_BLI, xBC_BLX, dt_BLH = self._project(hidden_BLD)
        if real_BL is not None:
            dt_BLH = dt_BLH * real_BL[..., None]  # a padded byte must not touch the state that is handed on
        y_BLI, ssm_BNI = mix(xBC_BLX, dt_BLH, -self.A_log.exp(), self.D, self.conv1d.weight[:, 0], self.conv1d.bias,
                             document_BL, state_size=self.state_size, chunk_size=self.chunk_size, backend=self.backend)
        mixed_BLD = gated_projection(y_BLI, gate_BLI, self.norm.weight, self.out_proj.weight, eps=self.norm.eps)
        if real_BL is None:
            return mixed_BLD, None
        return mixed_BLD, Mamba2State(self._last_inputs(xBC_BLX, real_BL.sum(1)), ssm_BNI.contiguous())

    def _last_inputs(self, xBC_BLX: Tensor, length_B: Tensor) -> Tensor:
        """The last W - 1 convolution inputs before length_B, zeros where the document is shorter."""
        keep = self.conv_width - 1
        padded_BLX = F.pad(xBC_BLX, (0, 0, keep, 0))
        index_BW = length_B[:, None] + torch.arange(keep, device=length_B.device)
        return padded_BLX.gather(1, index_BW[..., None].expand(-1, -1, xBC_BLX.shape[-1]))
