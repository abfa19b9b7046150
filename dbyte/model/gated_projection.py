"""The way out of a Mamba2 mixer: a gated RMSNorm and a projection, as one function with a backward pass by hand.

    out = scale * ((hidden * silu(gate)) (W * norm)^T)        scale = 1 / rms(hidden * silu(gate))

The norm's weight moves into the projection and its scale behind it, where rows are narrower; the recorded backward pass
would touch memory twice as often.

Shape letters: T positions, I inner width, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dbyte.model.projection import product


def gated_projection(hidden: Tensor, gate: Tensor, norm_I: Tensor, weight_DI: Tensor, *, eps: float) -> Tensor:
    """RMSNorm(hidden * silu(gate)) with the weight norm_I, times the transposed weight_DI: [..., I] to [..., D].

    The norm's scale is fp32 at least; the result has gate's dtype.
    """
    dtype, inner = gate.dtype, gate.shape[-1]
    with torch.autocast(gate.device.type, enabled=False):
        out_TD = _GatedProjection.apply(hidden.to(dtype).reshape(-1, inner), gate.reshape(-1, inner),
                                        (weight_DI * norm_I).to(dtype), eps)
    return out_TD.view(*gate.shape[:-1], -1)


class _GatedProjection(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_TI: Tensor, gate_TI: Tensor, weight_DI: Tensor, eps: float) -> Tensor:
        gated_TI = F.silu(gate_TI).mul_(hidden_TI)
        wide = torch.promote_types(gated_TI.dtype, torch.float32)
        square_T1 = torch.linalg.vector_norm(gated_TI, dim=-1, keepdim=True, dtype=wide).square_()
        scale_T1 = torch.rsqrt(square_T1 / gated_TI.shape[-1] + eps)
        out_TD = product(gated_TI, weight_DI)
        ctx.save_for_backward(hidden_TI, gate_TI, weight_DI, gated_TI, scale_T1, out_TD)
        return out_TD * scale_T1.to(out_TD.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_TD: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        hidden_TI, gate_TI, weight_DI, gated_TI, scale_T1, out_TD = ctx.saved_tensors
        # d scale / d gated = -scale^3 gated / I
        along_T1 = (grad_TD * out_TD).sum(-1, keepdim=True, dtype=scale_T1.dtype)
        along_T1 = (along_T1 * scale_T1**3 / -gated_TI.shape[-1]).to(grad_TD.dtype)
        grad_TD = grad_TD * scale_T1.to(grad_TD.dtype)
        dgated_TI = product(grad_TD, weight_DI.T.contiguous()).addcmul_(gated_TI, along_T1)
        dhidden_TI = F.silu(gate_TI).mul_(dgated_TI)
        dgate_TI = torch.ops.aten.silu_backward(dgated_TI.mul_(hidden_TI), gate_TI)
        return dhidden_TI, dgate_TI, grad_TD.T @ gated_TI, None
