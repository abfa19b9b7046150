"""RMSNorm of a few rows, outside of autograd: what a step of generation needs at every turn."""

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(hidden_RD: Tensor, weight_D: Tensor | None, eps: float) -> Tensor:
    """hidden over its root mean square, times a weight: [..., D].

    On a CPU in fp32 a few plain operations take half the time that torch's own takes for few rows, or less.
    """
    if hidden_RD.dtype != torch.float32 or hidden_RD.device.type != "cpu":
        return F.rms_norm(hidden_RD, hidden_RD.shape[-1:], weight_D, eps)
    scale_R1 = torch.linalg.vector_norm(hidden_RD, dim=-1, keepdim=True)
    scaled_RD = hidden_RD * scale_R1.square_().mul_(1 / hidden_RD.shape[-1]).add_(eps).rsqrt_()
    return scaled_RD if weight_D is None else scaled_RD.mul_(weight_D)
