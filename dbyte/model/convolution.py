"""The depthwise causal convolution of Mamba2 over packed documents: a tap that would read another document reads zero.

Shape letters: B rows, L bytes, X channels, W taps.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def convolve_silu(hidden_BLX: Tensor, weight_XW: Tensor, bias_X: Tensor, document_BL: Tensor | None) -> Tensor:
    """SiLU of the convolution, [B, L, X]: byte i sees bytes i - W + 1 .. i of its document, the last tap being its own.

    document_BL: int, contiguous per document; None: one document per row. Half precision is summed in fp32.
    """
    L, W = hidden_BLX.shape[1], weight_XW.shape[1]
    wide = torch.promote_types(hidden_BLX.dtype, torch.float32)
    padded_BLX = F.pad(hidden_BLX, (0, 0, W - 1, 0))  # zeros before a row's first byte
    out_BLX = bias_X.to(wide)
    for tap in range(W):
        back = W - 1 - tap
        tap_BLX = padded_BLX[:, tap : tap + L] * weight_XW[:, tap].to(wide)
        if document_BL is not None:
            same_BL = F.pad(document_BL, (back, 0))[:, :L] == document_BL
            tap_BLX = torch.where(same_BL[..., None], tap_BLX, 0)
        out_BLX = out_BLX + tap_BLX
    return F.silu(out_BLX.to(hidden_BLX.dtype))
