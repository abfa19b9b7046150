"""The calls into causal-conv1d and mamba-ssm (extra `cuda`), imported at their first use: what backend "triton" runs.

Shape letters: B rows, L bytes, X convolved channels, W taps, H heads, P head width, N state size.
"""

from torch import Tensor


def convolve_silu(hidden_BLX: Tensor, weight_XW: Tensor, bias_X: Tensor, document_BL: Tensor | None) -> Tensor:
    """SiLU of the depthwise causal convolution inside each document: [B, L, X]; see model/convolution.py."""
    from causal_conv1d import causal_conv1d_fn

    return causal_conv1d_fn(hidden_BLX.transpose(1, 2), weight_XW, bias_X, seq_idx=_sequence_index(document_BL),
                            activation="silu").transpose(1, 2)


def scan(
    x_BLHP: Tensor, dt_BLH: Tensor, A_H: Tensor, B_BLN: Tensor, C_BLN: Tensor, D_H: Tensor,
    document_BL: Tensor | None, *, chunk_size: int,
) -> tuple[Tensor, Tensor]:
    """SSD plus the skip D x: y_BLHP, and the state after the last byte BHPN; arguments as in `dbyte.ssd`."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    return mamba_chunk_scan_combined(x_BLHP, dt_BLH, A_H, B_BLN[:, :, None], C_BLN[:, :, None], chunk_size, D=D_H,
                                     seq_idx=_sequence_index(document_BL), return_final_states=True)


def _sequence_index(document_BL: Tensor | None) -> Tensor | None:
    """Documents as the kernels expect them: int32, and not negative, which would mean padding to skip."""
    return None if document_BL is None else (document_BL + 1).int().contiguous()
