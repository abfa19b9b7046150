"""Convolution and scan in one: == the reference in value and gradient, packed == separate, threads or not."""

from types import SimpleNamespace

import pytest
import torch
from test_curriculum import TOY
from torch.utils.checkpoint import checkpoint

from dbyte.distill.curriculum import curriculum, run_steps
from dbyte.distill.runs import Run
from dbyte.distill.trainer import Launch
from dbyte.model.backends import mix
from dbyte.model.mamba2 import Mamba2
from dbyte.native import library as native
from dbyte.native.fused_mixer import PIECE, fused_mix

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


def test_rows_and_threads_change_no_number(monkeypatch):
    given, N = inputs(5, 50, 2, 16, 4, 4)
    given, document = [each.float() for each in given], documents(5, 50, 0.1)
    found = []
    for parts in (1, 2, 5):
        monkeypatch.setattr(native, "parts_of", lambda rows, parts=parts: min(rows, parts))
        found.append(value_and_gradients(given, document, N, "compiled"))
    alone, *others = found
    assert all(all(map(torch.equal, alone, other)) for other in others)
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


def test_any_layout_and_any_int_are_taken():
    given, N = inputs(2, 40, 3, 7, 5, 1)
    given, document = [each.float() for each in given], documents(2, 40, 0.1)
    expected = value_and_gradients(given, document, N, "compiled")
    wide = torch.stack([given[0], given[0]], dim=-1)[..., 1]
    assert not wide.is_contiguous()
    found = value_and_gradients([wide, *given[1:]], document.int(), N, "compiled")
    assert all(map(torch.equal, found, expected))
    leaf = given[0].clone().requires_grad_()
    y, _ = fused_mix(leaf, *given[1:], document, state_size=N)
    y.sum().backward(retain_graph=True)  # an expanded gradient
    once = leaf.grad.clone()
    y.backward(torch.ones_like(y))
    torch.testing.assert_close(leaf.grad, 2 * once)


@pytest.mark.parametrize("recompute", [False, True])
def test_blocks_that_run_again_in_backward_have_the_same_gradients(recompute):
    torch.manual_seed(0)
    mixer, hidden = Mamba2(32, state_size=8, head_width=16, backend="compiled"), torch.randn(2, 50, 32)
    mixer(hidden).square().sum().backward()
    expected = [weight.grad.clone() for weight in mixer.parameters()]
    mixer.zero_grad()
    again = checkpoint(mixer, hidden, use_reentrant=False) if recompute else mixer(hidden)
    again.square().sum().backward()
    assert all(torch.equal(weight.grad, other) for weight, other in zip(mixer.parameters(), expected, strict=True))


def test_states_for_backward_are_kept_where_there_will_be_one(monkeypatch):
    given, N = inputs(1, 40, 2, 16, 4, 4)
    given, kept, library = [each.float().requires_grad_() for each in given], [], native.library()
    call = SimpleNamespace(mix_rows=lambda mixer, y, states, *rest: (
        kept.append(states is not None), library.mix_rows(mixer, y, states, *rest))[1])
    monkeypatch.setattr(native, "library", lambda: call)
    fused_mix(*given, None, state_size=N)
    with torch.no_grad():
        fused_mix(*given, None, state_size=N)
    with torch.inference_mode():
        fused_mix(*given, None, state_size=N)
    fused_mix(*(each.detach() for each in given), None, state_size=N)
    assert kept == [True, False, False, False]


def test_other_dtypes_and_devices_are_refused():
    mixer = Mamba2(32, state_size=8, head_width=16, backend="compiled").double()
    with pytest.raises(ValueError, match="fp32 on a CPU, found torch.float64"):
        mixer(torch.randn(1, 5, 32, dtype=torch.float64))
    given, N = inputs(1, 5, 2, 16, 4, 4)
    with pytest.raises(ValueError, match="found torch.float32 on meta"):
        fused_mix(*(each.float().to("meta") for each in given), None, state_size=N)


def test_training_on_a_cpu_takes_it_unless_told_otherwise(monkeypatch):
    taken, complete = [], Run.is_complete
    monkeypatch.setattr("dbyte.distill.curriculum.train", lambda *_, model, **options: taken.append(
        {module.backend for module in model.modules() if isinstance(module, Mamba2)}))
    monkeypatch.setattr(Run, "is_complete", lambda self: "student" not in self.config and complete(self))
    for backend in ("torch", None):
        run_steps(TOY, curriculum(TOY)[:1], seed=0, launch=Launch(backend=backend))
    assert taken == [{"torch"}, {"compiled"}]


@pytest.mark.parametrize("where", ["in_proj.weight", "conv1d.weight", "conv1d.bias", "dt_bias", "A_log", "D"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so_and_training_can_stop(where, value):
    """The compiler may take numbers for finite (native.FLAGS): it must not make finite ones of others."""
    torch.manual_seed(0)
    mixer = Mamba2(32, state_size=8, head_width=16, backend="compiled")
    with torch.no_grad():
        mixer.get_parameter(where).view(-1)[-1] = value
    loss = mixer(torch.randn(2, 40, 32)).square().mean()
    loss.backward()
    assert not loss.isfinite() or not torch.nn.utils.get_total_norm(
        weight.grad for weight in mixer.parameters()).isfinite()
