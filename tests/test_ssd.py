"""SSD == the sequential recurrence, in value and gradient, with documents and any chunk size."""

import pytest
import torch

from dbyte.model.ssd import ssd

B, L, H, P, N = 2, 37, 3, 4, 5


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    kind = dict(dtype=torch.float64)
    x, dt = torch.randn(B, L, H, P, **kind), torch.rand(B, L, H, **kind)
    return x, dt, -16 * torch.rand(H, **kind), torch.randn(B, L, N, **kind), torch.randn(B, L, N, **kind)


def sequential(x, dt, A, b, c, skip, document):
    """The recurrence as the module prints it, byte by byte."""
    outputs, state = [], torch.zeros(B, H, P, N, dtype=x.dtype)
    for i in range(x.shape[1]):
        if i:
            state = state * (document[:, i] == document[:, i - 1])[:, None, None, None]
        added = torch.einsum("bh,bhp,bn->bhpn", dt[:, i], x[:, i], b[:, i])
        state = (dt[:, i] * A).exp()[..., None, None] * state + added
        outputs.append(torch.einsum("bhpn,bn->bhp", state, c[:, i]) + skip[:, None] * x[:, i])
    return torch.stack(outputs, 1), state


@pytest.mark.parametrize("chunk_size", [1, 4, 16, 37, 64])
@pytest.mark.parametrize("starts", [[], [1], [5, 6, 7], [16], [15, 17, 36]])
def test_equals_the_recurrence_in_value_and_gradient(inputs, chunk_size, starts):
    document = torch.zeros(B, L, dtype=torch.long)
    document[0, starts] = 1
    document = document.cumsum(1)
    leaves = [each.requires_grad_() for each in (*inputs, torch.randn(H, dtype=torch.float64))]
    found = ssd(*leaves[:5], D_H=leaves[5], chunk_size=chunk_size, document_BL=document, return_final_state=True)
    expected = sequential(*leaves, document)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(sum(each.square().sum() for each in found), leaves),
                               torch.autograd.grad(sum(each.square().sum() for each in expected), leaves))


def test_extreme_decay_stays_finite():
    x = torch.ones(1, 128, 1, 1)
    y = ssd(x, 1e3 * x[..., 0], torch.tensor([-1e3]), x[:, :, 0], x[:, :, 0])
    assert torch.isfinite(y).all() and y[0, 5, 0, 0] == 1e3


def test_contradicting_shapes_are_refused(inputs):
    x, dt, A, b, c = inputs
    with pytest.raises(ValueError, match="expects dt"):
        ssd(x, dt[:, :5], A, b, c)
    with pytest.raises(ValueError, match="chunk_size"):
        ssd(*inputs, chunk_size=0)
    with pytest.raises(ValueError, match="document_BL"):
        ssd(*inputs, document_BL=torch.zeros(B, 3))
