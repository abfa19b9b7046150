"""Dense products of many rows with a weight, without a bias: `F.linear`, and on a CPU in fp32 a faster way to it.

On a CPU torch hands matrix products to one library and convolutions to another, and for bytes by the thousand with the
widths of an encoder the second is ahead (`benchmarks/mixer.md`): so the rows go as one image of one line through a 1x1
convolution. The gradient of the weight, a product of another shape, stays with the first.

Shape letters: T positions, D width in, O width out.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ROWS_WORTH_IT = 64


def project(hidden: Tensor, weight_OD: Tensor) -> Tensor:
    """hidden [..., D] times the transposed weight: [..., O]."""
    rows = hidden.numel() // max(hidden.shape[-1], 1)
    if rows < ROWS_WORTH_IT or weight_OD.dtype != hidden.dtype or not _is_faster(hidden) \
            or torch.is_autocast_enabled("cpu"):
        return F.linear(hidden, weight_OD)
    return _Projection.apply(hidden.reshape(rows, -1), weight_OD).view(*hidden.shape[:-1], -1)


def _is_faster(hidden: Tensor) -> bool:
    """Whether the convolution is: in fp32 on a CPU."""
    return hidden.device.type == "cpu" and hidden.dtype == torch.float32 and torch.backends.mkldnn.is_available()


class Projection(nn.Linear):
    """`nn.Linear` without a bias, by `project`."""

    def __init__(self, width_in: int, width_out: int):
        super().__init__(width_in, width_out, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return project(hidden, self.weight)


def project_everywhere(model: nn.Module) -> nn.Module:
    """Make every linear layer of a transformers model that has no bias a `Projection`; weights and names stay."""
    for module in model.modules():
        if type(module) is nn.Linear and module.bias is None:
            module.__class__ = Projection
    return model


class _Projection(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_TD: Tensor, weight_OD: Tensor) -> Tensor:
        ctx.save_for_backward(hidden_TD, weight_OD)
        return product(hidden_TD, weight_OD)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_TO: Tensor) -> tuple[Tensor | None, Tensor | None]:
        hidden_TD, weight_OD = ctx.saved_tensors
        wants_hidden, wants_weight = ctx.needs_input_grad
        return (product(grad_TO, weight_OD.T.contiguous()) if wants_hidden else None,
                grad_TO.T @ hidden_TD if wants_weight else None)


def product(hidden_TD: Tensor, weight_OD: Tensor) -> Tensor:
    """[T, D] times [O, D] transposed, outside of autograd; fp32 on a CPU goes through the convolution."""
    if not _is_faster(hidden_TD):
        return hidden_TD @ weight_OD.T
    T, D = hidden_TD.shape
    image_1D1T = hidden_TD.contiguous().as_strided((1, D, 1, T), (T * D, 1, T * D, D))  # channels last, in place
    # a stride over one line changes nothing, but without one torch takes a slow convolution of its own at one thread
    return F.conv2d(image_1D1T, weight_OD[:, :, None, None], stride=(2, 1))[0, :, 0].T
