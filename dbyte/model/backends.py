"""The backends of a mixer: four functions of tensors, which compute the same values in every backend.

    torch     as the equations stand, in plain torch, on any device: the reference
    fast      the products and hand-written backward passes of kernels/fast.py, for fp32 on a CPU; `torch` elsewhere
    triton    causal-conv1d and mamba-ssm (extra `cuda`), which need a CUDA device

Shape letters: B rows, L bytes, D width, O sum of the sizes, X convolved channels, W taps, H heads, P head width,
N state size, I inner width.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from dbyte.kernels import fast, triton
from dbyte.model.convolution import convolve_silu
from dbyte.model.ssd import ssd

BACKENDS = ("torch", "fast", "triton")
PACKAGES = ("mamba_ssm", "causal_conv1d")


def split_linear(hidden_BLD: Tensor, weight_OD: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    """hidden times weight_OD transposed, split into parts [B, L, size] of these sizes, whose sum is O."""
    return F.linear(hidden_BLD, weight_OD).split(sizes, dim=-1)


def scan(
    x_BLHP: Tensor, dt_BLH: Tensor, A_H: Tensor, B_BLN: Tensor, C_BLN: Tensor, D_H: Tensor,
    document_BL: Tensor | None, *, chunk_size: int,
) -> tuple[Tensor, Tensor]:
    """SSD plus the skip D x: y_BLHP, and the state after the last byte BHPN."""
    return ssd(x_BLHP, dt_BLH, A_H, B_BLN, C_BLN, D_H=D_H, document_BL=document_BL, chunk_size=chunk_size,
               return_final_state=True)


def gated_linear(hidden_BLI: Tensor, gate_BLI: Tensor, norm_I: Tensor, weight_DI: Tensor, *, eps: float) -> Tensor:
    """RMSNorm(hidden * silu(gate)) with the weight norm_I, fp32 at least, then a product: [B, L, D]."""
    wide = torch.promote_types(gate_BLI.dtype, torch.float32)
    gated_BLI = hidden_BLI.to(wide) * F.silu(gate_BLI.to(wide))
    normed_BLI = F.rms_norm(gated_BLI, norm_I.shape, norm_I.to(wide), eps)
    return F.linear(normed_BLI.to(gate_BLI.dtype), weight_DI)


@dataclass(frozen=True)
class Operators:
    """The four functions that a mixer calls, as one backend has them."""

    split_linear: Callable
    convolve_silu: Callable
    scan: Callable
    gated_linear: Callable


TORCH = Operators(split_linear, convolve_silu, scan, gated_linear)
FAST = Operators(fast.split_linear, fast.convolve_silu, fast.scan, fast.gated_linear)
TRITON = replace(TORCH, convolve_silu=triton.convolve_silu, scan=triton.scan)


def operators(backend: str | Operators, hidden: Tensor) -> Operators:
    """The functions with which a backend computes this input; Operators are returned as they are."""
    if isinstance(backend, Operators):
        return backend
    if backend == "triton":
        return TRITON
    return FAST if backend == "fast" and fast.is_fp32_cpu(hidden) else TORCH


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
