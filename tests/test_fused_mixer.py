"""Convolution and scan in one: == the reference in value and gradient, packed == separate, threads or not."""

import pytest
import torch

from dbyte.model import native
from dbyte.model.fused_mixer import PIECE, fused_mix
from dbyte.model.kernels import best_backend, check_backend, mix
from dbyte.model.mamba2 import Mamba2

pytestmark = pytest.mark.skipif(
    native.compiler_here() is None,
    reason="SKIPPED LOUDLY: no C++ compiler, so the mixer that training runs on CPUs that have one goes unchecked; "
           "install g++")

SIZES = {  # rows, bytes, heads, head width, state size, taps
    "as in small": (2, 3 * PIECE + 5, 4, 64, 32, 4), "one byte": (1, 1, 1, 4, 3, 2), "narrow": (2, 40, 3, 7, 5, 3),
    "wider than a block": (2, PIECE, 2, 112, 6, 4), "two of sixteen": (1, 2 * PIECE, 1, 32, 1, 4)}


def inputs(B, L, H, P, N, W):
    """xBC, dt, A, D, the convolution's weight and bias, in fp64, and the state size."""
    torch.manual_seed(0)
    X, kind = H * P + 2 * N, dict(dtype=torch.float64)
    return [torch.randn(B, L, X, **kind), torch.rand(B, L, H, **kind), -8 * torch.rand(H, **kind),
            torch.randn(H, **kind), torch.randn(X, W, **kind) / 2, torch.randn(X, **kind)], N


def documents(B, L, often):
    return (torch.rand(B, L) < often).long().cumsum(1)


def value_and_gradients(given, document, N, backend):
    leaves = [each.clone().requires_grad_() for each in given]
    y, state = mix(*leaves, document, state_size=N, chunk_size=8, backend=backend)
    weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y).sin()
    (y * weight).sum().backward()
    return [y, state, *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("often", [None, 0.02, 0.5])
@pytest.mark.parametrize("size", SIZES)
def test_equals_the_reference_in_value_and_gradient(size, often):
    given, N = inputs(*SIZES[size])
    document = None if often is None else documents(*given[0].shape[:2], often)
    expected = value_and_gradients(given, document, N, "torch")
    found = value_and_gradients([each.float() for each in given], document, N, "compiled")
    for one, other in zip(found, expected, strict=True):
        scale = other.abs().max().clamp(min=1.0)
        torch.testing.assert_close(one.double() / scale, other / scale, rtol=0, atol=1e-5)


def test_packed_documents_give_the_very_numbers_of_separate_ones():
    given, N = inputs(1, 5 * PIECE, 2, 20, 6, 4)
    lengths = [1, 2, PIECE - 1, 2 * PIECE + 3, PIECE]
    lengths.append(5 * PIECE - sum(lengths))
    packed = [each.float() for each in given]
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]
    leaf = packed[0].clone().requires_grad_()
    together, _ = fused_mix(leaf, *packed[1:], document, state_size=N)
    together.square().sum().backward()
    parts = [part.clone().requires_grad_() for part in packed[0].split(lengths, 1)]
    alone = [fused_mix(part, dt, *packed[2:], None, state_size=N)[0]
             for part, dt in zip(parts, packed[1].split(lengths, 1), strict=True)]
    torch.cat(alone, 1).square().sum().backward()
    assert torch.equal(together, torch.cat(alone, 1))
    assert torch.equal(leaf.grad, torch.cat([part.grad for part in parts], 1))


def test_nothing_of_another_document_is_left_not_even_what_is_not_finite():
    given, N = inputs(1, 3 * PIECE, 2, 16, 4, 4)
    xBC, *others = [each.float() for each in given]
    xBC[:, :40] = float("inf")
    document = (torch.arange(3 * PIECE) >= 40).long()[None]
    leaf = xBC.requires_grad_()
    y, state = fused_mix(leaf, *others, document, state_size=N)
    y[:, 40:].sum().backward()
    assert torch.isfinite(y[:, 40:]).all() and torch.isfinite(state).all() and torch.isfinite(leaf.grad[:, 40:]).all()


def test_rows_and_threads_change_no_number():
    given, N = inputs(5, 50, 2, 16, 4, 4)
    given, document = [each.float() for each in given], documents(5, 50, 0.1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = value_and_gradients(given, document, N, "compiled")
        torch.set_num_threads(3)
        together = value_and_gradients(given, document, N, "compiled")
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, alone, together))
    y = fused_mix(given[0][3:4], given[1][3:4], *given[2:], document[3:4], state_size=N)[0]
    assert torch.equal(y[0], alone[0][3])


def test_a_prompt_leaves_the_state_that_the_reference_leaves():
    torch.manual_seed(0)
    mixer, hidden, length = Mamba2(32, state_size=8, head_width=16), torch.randn(3, 40, 32), torch.tensor([40, 7, 1])
    kept = {}
    for backend in ("torch", "compiled"):
        mixer.backend = backend
        with torch.no_grad():
            kept[backend] = mixer.prefill(hidden, length)
    real = (torch.arange(40) < length[:, None])[..., None]
    torch.testing.assert_close(kept["compiled"][0] * real, kept["torch"][0] * real)
    for name in ("conv_BWX", "ssm_BNI"):
        torch.testing.assert_close(getattr(kept["compiled"][1], name), getattr(kept["torch"][1], name))


def test_a_state_that_is_trained_through_has_its_gradient():
    mixer = Mamba2(32, state_size=8, head_width=16, backend="compiled")
    _, state = mixer.prefill(torch.randn(1, 9, 32), torch.tensor([9]))
    state.ssm_BNI.sum().backward()
    assert mixer.in_proj.weight.grad.abs().sum() > 0


def test_other_dtypes_and_devices_are_refused():
    mixer = Mamba2(32, state_size=8, head_width=16, backend="compiled").double()
    with pytest.raises(ValueError, match="fp32 on a CPU, found torch.float64"):
        mixer(torch.randn(1, 5, 32, dtype=torch.float64))
    assert best_backend("cuda", "fp32") == best_backend("cpu", "bf16") == "torch"


def test_without_a_compiler_the_reference_is_taken(monkeypatch):
    monkeypatch.setattr(native, "works", lambda: False)
    assert best_backend("cpu", "fp32") == "torch"
    with pytest.raises(ValueError, match="needs a C\\+\\+ compiler"):
        check_backend("compiled")
