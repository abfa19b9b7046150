"""Backends of Mamba2's convolution and scan: `torch` and `triton`, which compute the same function.

`torch` is pure PyTorch on any device, the reference.
`triton` takes causal-conv1d and mamba-ssm (extra `cuda`), both imported at its first use, and a CUDA device; where a
GPU is at hand the tests hold it against the reference.

Shape letters: B rows, L bytes, X convolved channels, W taps, H heads, P head width, I = H P, N state size.
"""

from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from dbyte.model.convolution import convolve
from dbyte.model.ssd import ssd

BACKENDS = ("torch", "triton")
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
    """Return the backend to train with, `torch` for None; ValueError with the remedy if it cannot be used here."""
    return check_backend(backend or "torch")


def mix(
    xBC_BLX: Tensor, dt_BLH: Tensor, A_H: Tensor, D_H: Tensor, weight_XW: Tensor, bias_X: Tensor,
    document_BL: Tensor | None, *, state_size: int, chunk_size: int, backend: str,
) -> tuple[Tensor, Tensor]:
    """Convolve, SiLU and scan inside each document: (y_BLI, the state after the last byte BNI)."""
    convolved_BLX = convolve_silu(xBC_BLX, weight_XW, bias_X, document_BL, backend=backend)
    x_BLI, B_BLN, C_BLN = convolved_BLX.tensor_split((-2 * state_size, -state_size), dim=-1)
    y_BLHP, final_BHPN = scan(x_BLI.unflatten(-1, (len(A_H), -1)), dt_BLH, A_H, B_BLN, C_BLN, D_H, document_BL,
                              chunk_size=chunk_size, backend=backend)
    return y_BLHP.flatten(-2), final_BHPN.permute(0, 3, 1, 2).flatten(2)


def convolve_silu(
    hidden_BLX: Tensor, weight_XW: Tensor, bias_X: Tensor, document_BL: Tensor | None, *, backend: str
) -> Tensor:
    """silu of the depthwise causal convolution inside each document: [B, L, X]."""
    if backend != "triton":
        return F.silu(convolve(hidden_BLX, weight_XW, bias_X, document_BL))
    from causal_conv1d import causal_conv1d_fn

    return causal_conv1d_fn(hidden_BLX.transpose(1, 2), weight_XW, bias_X, seq_idx=_sequence_index(document_BL),
                            activation="silu").transpose(1, 2)


def scan(
    x_BLHP: Tensor, dt_BLH: Tensor, A_H: Tensor, B_BLN: Tensor, C_BLN: Tensor, D_H: Tensor,
    document_BL: Tensor | None, *, chunk_size: int, backend: str,
) -> tuple[Tensor, Tensor]:
    """SSD plus the skip D x: (y_BLHP, the state after the last byte BHPN); arguments as in `ssd`."""
    if backend != "triton":
        return ssd(x_BLHP, dt_BLH, A_H, B_BLN, C_BLN, D_H=D_H, chunk_size=chunk_size, document_BL=document_BL,
                   return_final_state=True)
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    return mamba_chunk_scan_combined(x_BLHP, dt_BLH, A_H, B_BLN[:, :, None], C_BLN[:, :, None], chunk_size, D=D_H,
                                     seq_idx=_sequence_index(document_BL), return_final_states=True)


def _sequence_index(document_BL: Tensor | None) -> Tensor | None:
    """Documents as the kernels want them: int32, and not negative, which would mean padding to skip."""
    return None if document_BL is None else (document_BL + 1).int().contiguous()
