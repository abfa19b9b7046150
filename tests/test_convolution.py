"""The convolution of documents: the taps of a plain sum, gradients of the function, nothing of another document."""

import pytest
import torch

from dbyte.model.convolution import convolve


def plain(hidden, weight, bias, document):
    """One output byte at a time."""
    out = torch.empty_like(hidden)
    for row in range(hidden.shape[0]):
        for i in range(hidden.shape[1]):
            out[row, i] = bias
            for back in range(min(weight.shape[1], i + 1)):
                if document[row, i - back] == document[row, i]:
                    out[row, i] += hidden[row, i - back] * weight[:, -1 - back]
    return out


def inputs(L, W):
    torch.manual_seed(0)
    return torch.randn(2, L, 3, dtype=torch.float64), torch.randn(3, W, dtype=torch.float64), torch.randn(
        3, dtype=torch.float64)


@pytest.mark.parametrize("L, W", [(1, 4), (3, 4), (17, 4), (17, 2)])
@pytest.mark.parametrize("starts", [[], [1], [4, 5, 6], [16]])
def test_equals_the_plain_sum(L, W, starts):
    hidden, weight, bias = inputs(L, W)
    document = torch.zeros(2, L, dtype=torch.long)
    document[0, [start for start in starts if start < L]] = 1
    document = document.cumsum(1)
    torch.testing.assert_close(convolve(hidden, weight, bias, document), plain(hidden, weight, bias, document))


def test_without_documents_a_row_is_one():
    hidden, weight, bias = inputs(17, 4)
    document = torch.zeros(2, 17, dtype=torch.long)
    torch.testing.assert_close(convolve(hidden, weight, bias), plain(hidden, weight, bias, document))


@pytest.mark.parametrize("L", [2, 9])
def test_gradients_are_those_of_the_function(L):
    hidden, weight, bias = (t.requires_grad_() for t in inputs(L, 4))
    document = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 2], [0] * 9])[:, :L]
    assert torch.autograd.gradcheck(lambda h, w, b: convolve(h, w, b, document), (hidden, weight, bias))
    assert torch.autograd.gradcheck(lambda h, w, b: convolve(h, w, b), (hidden, weight, bias))


def test_nothing_of_another_document_is_left_not_even_what_is_not_finite():
    hidden, weight, bias = inputs(9, 4)
    document = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 1]] * 2)
    poisoned = hidden.clone()
    poisoned[:, :4] = float("nan")
    alone = convolve(hidden[:, 4:], weight, bias)
    torch.testing.assert_close(convolve(poisoned, weight, bias, document)[:, 4:], alone)
    poisoned.requires_grad_()
    convolve(poisoned, weight, bias, document)[:, 4:].sum().backward()
    assert torch.isfinite(poisoned.grad[:, 4:]).all()
