"""Projections: the product they stand for, in value and gradient, whichever path the rows take."""

import pytest
import torch
import torch.nn.functional as F
from conftest import make_teacher

from dbyte.model import projection
from dbyte.model.gated_projection import gated_projection
from dbyte.model.projection import ROWS_WORTH_IT, Projection, project, project_everywhere


@pytest.mark.parametrize("shape", [(5, 24), (ROWS_WORTH_IT, 24), (2, 70, 24), (1, 200, 24), (3, 1, 40, 24)])
def test_project_is_linear_in_value_and_gradient(shape):
    torch.manual_seed(0)
    hidden, weight = torch.randn(shape, requires_grad=True), torch.randn(17, 24, requires_grad=True)
    expected, found = F.linear(hidden, weight), project(hidden, weight)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    grad = torch.randn_like(expected)
    for a, b in zip(torch.autograd.grad(found, [hidden, weight], grad),
                    torch.autograd.grad(expected, [hidden, weight], grad), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def test_many_rows_go_through_the_convolution_and_few_do_not(monkeypatch):
    def refuse(*_):
        raise AssertionError("the convolution ran")

    monkeypatch.setattr(projection, "product", refuse)
    project(torch.randn(ROWS_WORTH_IT - 1, 8), torch.randn(4, 8))
    project(torch.randn(ROWS_WORTH_IT, 8).double(), torch.randn(4, 8).double())
    with pytest.raises(AssertionError, match="the convolution ran"):
        project(torch.randn(ROWS_WORTH_IT, 8), torch.randn(4, 8))


def test_the_convolution_is_the_librarys_at_any_number_of_threads():
    threads, weight = torch.get_num_threads(), torch.randn(40, 64)
    hidden, found = torch.randn(500, 64), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            with torch.profiler.profile() as recorded:
                found.append(projection.product(hidden, weight))
            names = {event.key for event in recorded.key_averages()}
            assert "aten::mkldnn_convolution" in names and "aten::_slow_conv2d_forward" not in names
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


def test_rows_that_are_a_view_are_read_where_they_lie():
    hidden = torch.randn(80, 3, 24)[:, 1]
    weight = torch.randn(5, 24)
    torch.testing.assert_close(project(hidden, weight), F.linear(hidden, weight), rtol=1e-4, atol=1e-4)


def test_a_frozen_side_gets_no_gradient():
    hidden, weight = torch.randn(80, 8), torch.randn(4, 8, requires_grad=True)
    project(hidden, weight).sum().backward()
    assert hidden.grad is None and weight.grad.shape == (4, 8)


def test_autocast_gives_half_precision():
    layer = Projection(8, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(80, 8)).dtype == torch.bfloat16


def test_a_transformers_model_computes_the_same_through_projections():
    teacher, ids = make_teacher(), torch.randint(0, 300, (2, 60))
    names, expected = list(teacher.state_dict()), teacher(ids).logits
    assert project_everywhere(teacher) is teacher
    assert type(teacher.lm_head) is Projection and list(teacher.state_dict()) == names
    torch.testing.assert_close(teacher(ids).logits, expected, rtol=1e-4, atol=1e-4)


def gated_plainly(hidden, gate, norm, weight, eps):
    gated = hidden * F.silu(gate)
    return F.linear(gated * torch.rsqrt(gated.square().mean(-1, keepdim=True) + eps) * norm, weight)


@pytest.mark.parametrize("shape", [(3, 6), (2, 4, 6)])
def test_gated_projection_is_norm_then_projection_in_value_and_gradient(shape):
    torch.manual_seed(0)
    inputs = [torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in (shape, shape, (6,), (5, 6))]
    found, expected = gated_projection(*inputs, eps=1e-2), gated_plainly(*inputs, 1e-2)
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(found)
    for a, b in zip(torch.autograd.grad(found, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True):
        torch.testing.assert_close(a, b)


def test_gated_projection_keeps_its_inputs():
    inputs = [torch.randn(*s, requires_grad=True) for s in ((70, 6), (70, 6), (6,), (5, 6))]
    before = [value.detach().clone() for value in inputs]
    gated_projection(*inputs, eps=1e-5).sum().backward()
    for value, kept in zip(inputs, before, strict=True):
        assert torch.equal(value, kept)


def test_gated_projection_in_half_precision_follows_the_wide_one():
    inputs = [torch.randn(*s) for s in ((70, 16), (70, 16), (16,), (5, 16))]
    wide = gated_projection(*inputs, eps=1e-5)
    half = gated_projection(inputs[0].bfloat16(), inputs[1].bfloat16(), inputs[2], inputs[3], eps=1e-5)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), wide, rtol=0.05, atol=0.15)
