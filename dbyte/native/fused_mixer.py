"""Convolution, SiLU and scan of a Mamba2 mixer as one function with a backward pass, by `mixer.cpp`: fp32 on a CPU.

The same function as `convolve_silu` and `ssd` (kernels.py), which go from one to the next through memory.

Shape letters: B rows, L bytes, H heads, P head width, I = H P, N state size, X = I + 2 N (the convolved channels),
W taps.
"""

from ctypes import Structure, byref, c_int, c_void_p

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dbyte.native import library as native

PIECE, LANES = 32, 16  # as in mixer.cpp


class _Mixer(Structure):
    _fields_ = [*((name, c_int) for name in ("rows", "length", "heads", "width", "state_size", "taps")),
                *((name, c_void_p) for name in ("rate_H", "skip_H", "taps_WX", "bias_X", "in_BLX", "dt_BLH",
                                                "document_BL"))]


class _Gradients(Structure):
    _fields_ = [(name, c_void_p) for name in ("in_BLX", "dt_BLH", "rate_BH", "skip_BH", "taps_BWX", "bias_BX")]


def fused_mix(
    xBC_BLX: Tensor, dt_BLH: Tensor, A_H: Tensor, D_H: Tensor, weight_XW: Tensor, bias_X: Tensor,
    document_BL: Tensor | None, *, state_size: int,
) -> tuple[Tensor, Tensor]:
    """y_BLI and the state after the last byte BNI, which has no gradient, of what is to be convolved; fp32.

    dt_BLH: step sizes after softplus, >= 0. A_H: decay rates, < 0. document_BL: int, contiguous per document; None:
    one document a row. Rows are shared between threads. Raises ValueError for another dtype or device.
    """
    given = (xBC_BLX, dt_BLH, A_H, D_H, weight_XW, bias_X)
    for each in given:
        if not native.fits(each):
            raise ValueError(f"backend 'compiled' takes fp32 on a CPU, found {each.dtype} on {each.device}: use "
                             "'torch'")
    keeps = torch.is_grad_enabled() and any(each.requires_grad for each in given)
    return _FusedMix.apply(state_size, keeps, None if document_BL is None else document_BL.long(), *given)


class _FusedMix(torch.autograd.Function):
    @staticmethod
    def forward(ctx, state_size, keeps, document_BL, xBC_BLX, dt_BLH, A_H, D_H, weight_XW, bias_X):
        given = [None if each is None else each.contiguous()
                 for each in (A_H, D_H, weight_XW.T, bias_X, xBC_BLX, dt_BLH, document_BL)]
        mixer, new = _mixer(state_size, *given), xBC_BLX.new_empty
        B, L, H, P = mixer.rows, mixer.length, mixer.heads, mixer.width
        y_BLI, final_BNI, kept = new(B, L, H * P), new(B, state_size, H * P), None
        if keeps:
            kept = new(B, -(-L // PIECE), H, state_size, -(-P // LANES) * LANES)
        native.library().mix_rows(byref(mixer), y_BLI.data_ptr(), _place(kept), final_BNI.data_ptr(),
                                  native.parts_of(B))
        ctx.save_for_backward(kept, *given)
        ctx.state_size = state_size
        ctx.mark_non_differentiable(final_BNI)
        return y_BLI, final_BNI

    @staticmethod
    @once_differentiable
    def backward(ctx, dy_BLI, _):
        kept, *given = ctx.saved_tensors
        A_H, D_H, taps_WX, bias_X, xBC_BLX, dt_BLH, _ = given
        mixer, dy_BLI = _mixer(ctx.state_size, *given), dy_BLI.contiguous()
        of_bytes = [torch.empty_like(each) for each in (xBC_BLX, dt_BLH)]
        of_rows = [each.new_zeros(mixer.rows, *each.shape) for each in (A_H, D_H, taps_WX, bias_X)]
        native.library().unmix_rows(byref(mixer), dy_BLI.data_ptr(), kept.data_ptr(),
                                    byref(_Gradients(*map(_place, of_bytes + of_rows))), native.parts_of(mixer.rows))
        dA_H, dD_H, dtaps_WX, dbias_X = (each.sum(0) for each in of_rows)
        return None, None, None, *of_bytes, dA_H, dD_H, dtaps_WX.T, dbias_X


def _mixer(
    state_size: int, A_H: Tensor, D_H: Tensor, taps_WX: Tensor, bias_X: Tensor, xBC_BLX: Tensor, dt_BLH: Tensor,
    document_BL: Tensor | None,
) -> _Mixer:
    """What C reads; the tensors must outlive it."""
    (B, L, X), H = xBC_BLX.shape, len(A_H)
    return _Mixer(B, L, H, (X - 2 * state_size) // H, state_size, len(taps_WX),
                  *map(_place, (A_H, D_H, taps_WX, bias_X, xBC_BLX, dt_BLH, document_BL)))


def _place(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
