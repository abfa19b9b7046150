"""The backends of a mixer, which compute the same function: `torch`, `fast` and `triton`.

    torch     the equation as the mixer's own file states it, in plain torch, on any device: the reference
    fast      the products and hand-written backward passes of kernels/fast.py, for fp32 on a CPU; `torch` elsewhere
    triton    causal-conv1d and mamba-ssm (extra `cuda`), which need a CUDA device

Shape letters: B rows, L bytes, D width, X convolved channels, H heads, P head width, N state size, I inner width.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dbyte.kernels import fast, triton
from dbyte.model.ssd import ssd

if TYPE_CHECKING:
    from dbyte.model.gated_convolution import GatedConvolution
    from dbyte.model.mamba2 import Mamba2

BACKENDS = ("torch", "fast", "triton")
PACKAGES = ("mamba_ssm", "causal_conv1d")


def check_backend(backend: str) -> str:
    """Return a backend that can be used here; ValueError with the remedy otherwise."""
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}: choose one of {', '.join(BACKENDS)}")
    if backend == "triton":
        missing = [name for name in PACKAGES if find_spec(name) is None]
        if missing:
            raise ValueError(f"backend 'triton' needs {' and '.join(missing)}, not found here: create the environment "
                             "of environment.yml or install the extra (pip install 'dbyte[cuda]'), or use 'torch'")
        if not torch.cuda.is_available():
            raise ValueError("backend 'triton' needs a CUDA device, and torch finds none: use backend 'torch'")
    return backend


def training_backend(backend: str | None, *, device: str, precision: str) -> str:
    """Return the backend to train with: the one asked for, or for None `fast` for fp32 on a CPU and else `torch`.

    Raises ValueError with the remedy for one that cannot be used here, or not on this device in this precision.
    """
    fits = device == "cpu" and precision == "fp32"
    if backend is None:
        return "fast" if fits else "torch"
    if backend == "fast" and not fits:
        raise ValueError(f"backend 'fast' takes fp32 on a CPU, found device {device} and precision {precision}: use "
                         "'torch' or 'triton'")
    return check_backend(backend)


def runs_fast(backend: str, hidden: Tensor) -> bool:
    """Whether a mixer with this backend takes the fast path for this input."""
    return backend == "fast" and fast.is_fp32_cpu(hidden)


def scan(x_BLHP: Tensor, dt_BLH: Tensor, A_H: Tensor, B_BLN: Tensor, C_BLN: Tensor, document_BL: Tensor) -> Tensor:
    """`ssd` by default sizes and without the skip, where no mixer names a backend: fast where that fits."""
    if fast.is_fp32_cpu(x_BLHP):
        return fast.scan(x_BLHP, dt_BLH, A_H, B_BLN, C_BLN, torch.zeros_like(A_H), document_BL, chunk_size=64)[0]
    return ssd(x_BLHP, dt_BLH, A_H, B_BLN, C_BLN, document_BL=document_BL)


def mamba2_by(backend: str, hidden: Tensor) -> Callable | None:
    """What computes Mamba2 in place of the reference, for this input; None: the reference does."""
    if backend == "triton":
        return triton_mamba2
    return fast_mamba2 if runs_fast(backend, hidden) else None


def fast_mamba2(
    mixer: "Mamba2", hidden_BLD: Tensor, document_BL: Tensor | None, real_BL: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """`Mamba2._mix` by kernels/fast.py."""
    gate_BLI, xBC_BLX, dt_BLH = fast.split_linear(hidden_BLD, mixer.in_proj.weight, mixer.parts)
    convolved_BLX = fast.convolve_silu(xBC_BLX, mixer.conv1d.weight[:, 0], mixer.conv1d.bias, document_BL)
    y_BLHP, state_BHPN = fast.scan(*mixer.scan_inputs(convolved_BLX, dt_BLH, real_BL), mixer.D, document_BL,
                                   chunk_size=mixer.chunk_size)
    mixed_BLD = fast.gated_linear(y_BLHP.flatten(2), gate_BLI, mixer.norm.weight, mixer.out_proj.weight,
                                  eps=mixer.norm.eps)
    return mixed_BLD, xBC_BLX, state_BHPN


def triton_mamba2(
    mixer: "Mamba2", hidden_BLD: Tensor, document_BL: Tensor | None, real_BL: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """`Mamba2._mix` with convolution and scan by kernels/triton.py."""
    gate_BLI, xBC_BLX, dt_BLH = mixer.in_proj(hidden_BLD).split(mixer.parts, dim=-1)
    convolved_BLX = triton.convolve_silu(xBC_BLX, mixer.conv1d.weight[:, 0], mixer.conv1d.bias, document_BL)
    y_BLHP, state_BHPN = triton.scan(*mixer.scan_inputs(convolved_BLX, dt_BLH, real_BL), mixer.D, document_BL,
                                     chunk_size=mixer.chunk_size)
    return mixer.out_proj(mixer.norm(y_BLHP.flatten(2), gate_BLI)), xBC_BLX, state_BHPN


def fast_gated_convolution(
    mixer: "GatedConvolution", hidden_BLD: Tensor, document_BL: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`GatedConvolution._mix` by kernels/fast.py."""
    inner = len(mixer.norm_weight)
    gate_BLI, input_BLI = fast.split_linear(hidden_BLD, mixer.in_proj.weight, [inner, inner])
    mixed_BLI = fast.convolve_silu(input_BLI, mixer.conv1d.weight[:, 0], mixer.conv1d.bias, document_BL)
    return fast.gated_linear(mixed_BLI, gate_BLI, mixer.norm_weight, mixer.out_proj.weight, eps=mixer.eps), input_BLI
