"""SSD == the sequential recurrence, in value and gradient, with documents, states and any chunk size."""

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


def sequential(x, dt, A, b, c, document, state):
    """The recurrence as the module prints it, byte by byte."""
    outputs = []
    for i in range(x.shape[1]):
        if i:
            state = state * (document[:, i] == document[:, i - 1])[:, None, None, None]
        added = torch.einsum("bh,bhp,bn->bhpn", dt[:, i], x[:, i], b[:, i])
        state = (dt[:, i] * A).exp()[..., None, None] * state + added
        outputs.append(torch.einsum("bhpn,bn->bhp", state, c[:, i]))
    return torch.stack(outputs, 1), state


@pytest.mark.parametrize("chunk_size", [1, 4, 16, 37, 64])
@pytest.mark.parametrize("starts", [[], [1], [5, 6, 7], [16], [15, 17, 36]])
def test_equals_the_recurrence(inputs, chunk_size, starts):
    document = torch.zeros(B, L, dtype=torch.long)
    document[0, starts] = 1
    document = document.cumsum(1)
    state = torch.randn(B, H, P, N, dtype=torch.float64)
    y, final = ssd(
        *inputs, chunk_size=chunk_size, document_BL=document, initial_state_BHPN=state, return_final_state=True)
    expected_y, expected_final = sequential(*inputs, document, state)
    torch.testing.assert_close(y, expected_y)
    torch.testing.assert_close(final, expected_final)


def test_gradients_are_those_of_the_function(inputs):
    document = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2, 2]])
    leaves = [t[:1, :9].clone().requires_grad_() if t.dim() > 1 else t.clone().requires_grad_() for t in inputs]
    state = torch.randn(1, H, P, N, dtype=torch.float64, requires_grad=True)
    skip = torch.randn(H, dtype=torch.float64, requires_grad=True)

    def run(x, dt, A, b, c, D, state):
        return ssd(x, dt, A, b, c, D_H=D, chunk_size=4, document_BL=document, initial_state_BHPN=state,
                   return_final_state=True)

    assert torch.autograd.gradcheck(run, (*leaves, skip, state))


def test_the_skip_adds_D_x_and_leaves_the_state(inputs):
    skip = torch.randn(H, dtype=torch.float64)
    with_skip, state = ssd(*inputs, D_H=skip, chunk_size=8, return_final_state=True)
    without, same_state = ssd(*inputs, chunk_size=8, return_final_state=True)
    torch.testing.assert_close(with_skip, without + inputs[0] * skip[:, None])
    assert torch.equal(state, same_state)


def test_a_split_row_continues_from_its_state(inputs):
    whole = ssd(*inputs, chunk_size=8)
    parts = [[t[:, s] if t.dim() > 1 else t for t in inputs] for s in (slice(0, 20), slice(20, L))]
    head, state = ssd(*parts[0], chunk_size=8, return_final_state=True)
    tail = ssd(*parts[1], chunk_size=8, initial_state_BHPN=state)
    torch.testing.assert_close(torch.cat([head, tail], 1), whole)


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
