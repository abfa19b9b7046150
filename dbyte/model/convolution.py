"""The depthwise causal convolution of Mamba2 over packed documents: a tap that would read another document reads zero.

The rows go through the library's convolution as if each were one document; then the first W - 1 bytes of every document
but a row's first are computed again with the taps they may use. They are few, and nothing of another document is left
in them, where a subtraction would leave its rounding.

Shape letters: B rows, L bytes, X channels, W taps, R bytes computed again.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

PIECE = 2**18  # numbers of a piece of a row that a CPU's cache holds thrice


def convolve(hidden_BLX: Tensor, weight_XW: Tensor, bias_X: Tensor, document_BL: Tensor | None = None) -> Tensor:
    """Return [B, L, X]: byte i sees bytes i - W + 1 .. i of its own document, the last tap being its own.

    document_BL: int, contiguous per document; None: one document a row.
    """
    dtype = hidden_BLX.dtype
    with torch.autocast(hidden_BLX.device.type, enabled=False):
        return _Convolution.apply(hidden_BLX, weight_XW.to(dtype), bias_X.to(dtype), document_BL)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_BLX: Tensor, weight_XW: Tensor, bias_X: Tensor, document_BL: Tensor | None) -> Tensor:
        ctx.save_for_backward(hidden_BLX, weight_XW, document_BL)
        out_BLX = _along_rows(hidden_BLX, weight_XW, bias_X)
        _mend(out_BLX, hidden_BLX, weight_XW, bias_X, document_BL, towards=-1)
        return out_BLX

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BLX: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """The gradient of the input is the same convolution of the output's gradient with time reversed."""
        hidden_BLX, weight_XW, document_BL = ctx.saved_tensors
        zero_X = weight_XW.new_zeros(len(weight_XW))
        dhidden_BLX = _along_rows(grad_BLX, weight_XW.flip(1), zero_X, ahead=True)
        _mend(dhidden_BLX, grad_BLX, weight_XW, zero_X, document_BL, towards=1)
        one_1T = grad_BLX.new_ones(1, grad_BLX.shape[0] * grad_BLX.shape[1])  # a product adds up faster than a sum
        return dhidden_BLX, _weight_gradient(grad_BLX, hidden_BLX, document_BL, weight_XW.shape[1]), (
            one_1T @ grad_BLX.flatten(0, 1))[0], None


def _weight_gradient(grad_BLX: Tensor, hidden_BLX: Tensor, document_BL: Tensor | None, taps: int) -> Tensor:
    """The gradient of the weight [X, W]: for each tap, the sum of grad times hidden where both lie in one document."""
    B, L, X = grad_BLX.shape
    place_T = torch.arange(L, device=grad_BLX.device).repeat(B)
    document_T = torch.zeros_like(place_T) if document_BL is None else document_BL.reshape(-1)
    grad_TX, hidden_TX = grad_BLX.reshape(B * L, X), hidden_BLX.reshape(B * L, X)
    dweight_WX = grad_TX.new_zeros(taps, X)
    size = max(PIECE // X, taps) if grad_BLX.device.type == "cpu" else B * L
    for start in range(0, B * L, size):
        for back in range(taps):
            here = slice(max(start, back), min(start + size, B * L))
            there = slice(here.start - back, here.stop - back)
            if here.start < here.stop:
                same_T = (place_T[here] >= back) & (document_T[here] == document_T[there])
                dweight_WX[taps - 1 - back].addmv_((grad_TX[here] * hidden_TX[there]).T, same_T.to(grad_TX.dtype))
    return dweight_WX.T


def _along_rows(hidden_BLX: Tensor, weight_XW: Tensor, bias_X: Tensor, *, ahead: bool = False) -> Tensor:
    """Convolve whole rows, each byte with those before it, or with those ahead of it.

    A row is an image of one line with its channels last, which is the layout that the library's convolution is fast in.
    """
    L, W = hidden_BLX.shape[1], weight_XW.shape[1]
    image_BX1L = hidden_BLX.transpose(1, 2)[:, :, None]
    with _full_precision(hidden_BLX):
        out_BX1L = F.conv2d(image_BX1L, weight_XW[:, None, None], bias_X, padding=(0, W - 1), groups=len(weight_XW))
    return out_BX1L[:, :, 0, W - 1 :][..., :L].transpose(1, 2) if ahead else out_BX1L[:, :, 0, :L].transpose(1, 2)


def _full_precision(hidden: Tensor) -> AbstractContextManager:
    """Where fp32 is asked for, no TF32: a GPU's library may use it for convolutions, though torch not for products."""
    if hidden.device.type != "cuda" or hidden.dtype != torch.float32:
        return nullcontext()
    cudnn = torch.backends.cudnn
    return cudnn.flags(enabled=cudnn.enabled, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic,
                       allow_tf32=False)


def _mend(
    out_BLX: Tensor, hidden_BLX: Tensor, weight_XW: Tensor, bias_X: Tensor, document_BL: Tensor | None, *, towards: int
) -> None:
    """Compute bytes again, in place, whose taps reach into the document before theirs (towards -1) or behind it (1)."""
    if document_BL is None:
        return
    W, L = weight_XW.shape[1], document_BL.shape[1]
    reaches_BL = torch.zeros_like(document_BL, dtype=torch.bool)
    for reach in range(1, min(W, L)):
        crosses_BL = document_BL[:, reach:] != document_BL[:, :-reach]
        (reaches_BL[:, reach:] if towards < 0 else reaches_BL[:, :-reach]).logical_or_(crosses_BL)
    row_R, byte_R = reaches_BL.nonzero(as_tuple=True)
    again_RX = bias_X.expand(len(row_R), -1)
    for reach in range(W):
        other_R = byte_R + towards * reach
        inside_R = (other_R >= 0) & (other_R < L)
        other_R = other_R.clamp(0, L - 1)
        inside_R &= document_BL[row_R, other_R] == document_BL[row_R, byte_R]
        taps_RX = torch.where(inside_R[:, None], hidden_BLX[row_R, other_R], 0)
        again_RX = torch.addcmul(again_RX, taps_RX, weight_XW[:, W - 1 - reach])
    out_BLX[row_R, byte_R] = again_RX
