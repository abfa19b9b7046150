"""The backends: fast == torch == triton in values and gradients, which one runs, and `F.linear` by fast_products."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from dbyte.kernels import fast
from dbyte.kernels.fast import ROWS_WORTH_IT, fast_products, linear
from dbyte.model.backends import FAST, TORCH, check_backend, operators, training_backend
from dbyte.model.gated_convolution import GatedConvolution
from dbyte.model.mamba2 import Mamba2

BOTH = FAST, TORCH
CLOSE = dict(rtol=1e-3, atol=1e-4)
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 3e-2}  # relative to the largest output; TF32 products in the kernels


def random(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def documents(lengths):
    """Two rows: one document each of these lengths, and one of all the bytes."""
    first = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return torch.stack([first, torch.zeros_like(first)])


def assert_same_function(found, expected, leaves, **close):
    """Equal outputs, and equal gradients of every leaf from the same random gradients; outputs are one or a tuple."""
    torch.testing.assert_close(found, expected, **close)
    grads = torch.randn_like(expected) if torch.is_tensor(expected) else [torch.randn_like(out) for out in expected]
    torch.testing.assert_close(torch.autograd.grad(found, leaves, grads),
                               torch.autograd.grad(expected, leaves, grads), **close)


# -- fast -------------------------------------------------------------------------------------------------------------

PACKED = {"one byte": [1], "shorter than a tap": [3], "one document": [37], "packed": [1, 2, 5, 16, 13]}


@pytest.mark.parametrize("lengths", PACKED.values(), ids=PACKED)
@pytest.mark.parametrize("given", [True, False], ids=["documents", "none"])
def test_fast_operators_are_the_references(lengths, given):
    torch.manual_seed(0)
    document, L = documents(lengths) if given else None, sum(lengths)
    hidden, weight, bias = leaves = random(2, L, 6), random(6, 4), random(6)
    assert_same_function(*(by.convolve_silu(hidden, weight, bias, document) for by in BOTH), leaves)
    x, dt, A, B, C, D = leaves = (random(2, L, 3, 4), random(2, L, 3), random(3), random(2, L, 5), random(2, L, 5),
                                  random(3))
    assert_same_function(*(by.scan(x, F.softplus(dt), -A.exp(), B, C, D, document, chunk_size=8) for by in BOTH),
                         leaves)
    hidden, gate, norm, weight = leaves = random(2, L, 6), random(2, L, 6), random(6), random(5, 6)
    before = [leaf.detach().clone() for leaf in leaves]
    assert_same_function(*(by.gated_linear(hidden, gate, norm, weight, eps=1e-2) for by in BOTH), leaves)
    assert all(map(torch.equal, leaves, before))  # it works in place, on its own tensors alone


@pytest.mark.parametrize("make", [lambda: Mamba2(32, state_size=8, head_width=16, chunk_size=16),
                                  lambda: GatedConvolution(32, expand=2, taps=5)], ids=["mamba2", "convolution"])
def test_a_mixer_by_fast_is_the_mixer_by_torch(make):
    torch.manual_seed(0)
    mixer, document = make(), documents([30, 1, 17, 42])
    hidden = random(2, 90, 32, dtype=torch.float32)
    found = []
    for mixer.backend in ("fast", "torch"):
        _, state = mixer.prefill(hidden, torch.tensor([90, 1]))
        found.append((mixer(hidden, document), *vars(state).values()))
    assert_same_function(*found, (hidden, mixer.in_proj.weight, mixer.conv1d.weight), **CLOSE)


def test_fast_runs_fp32_on_a_cpu_alone():
    hidden = torch.randn(1, 9, 16)
    assert operators("fast", hidden) is FAST
    assert operators("torch", hidden) is operators("fast", hidden.double()) is TORCH
    with torch.autocast("cpu", torch.bfloat16):
        assert operators("fast", hidden) is TORCH


def test_training_takes_fast_for_fp32_on_a_cpu():
    assert training_backend(None, device="cpu", precision="fp32") == "fast"
    for device, precision in (("cuda", "fp32"), ("cpu", "bf16")):
        assert training_backend(None, device=device, precision=precision) == "torch"
        with pytest.raises(ValueError, match=f"device {device} and precision {precision}: use 'torch'"):
            training_backend("fast", device=device, precision=precision)
    with pytest.raises(ValueError, match="unknown backend 'compiled'"):
        training_backend("compiled", device="cpu", precision="fp32")


# -- products ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 24), (ROWS_WORTH_IT, 24), (2, 70, 24), (3, 1, 40, 24)], ids=str)
def test_a_fast_product_is_linear_in_value_and_gradient(shape):
    torch.manual_seed(0)
    hidden, weight = random(*shape, dtype=torch.float32), random(17, 24, dtype=torch.float32)
    assert_same_function(linear(hidden, weight), F.linear(hidden, weight), (hidden, weight), **CLOSE)
    apart = torch.randn(80, 3, 24)[:, 1]  # rows that do not follow one another in memory
    torch.testing.assert_close(linear(apart, weight), F.linear(apart, weight), **CLOSE)
    (grad,) = torch.autograd.grad(linear(hidden.detach(), weight).sum(), weight)  # a frozen side asks for none
    assert grad.shape == weight.shape


def test_the_context_changes_products_inside_it_and_no_others(monkeypatch):
    rows, product = [], fast.product
    monkeypatch.setattr(fast, "product", lambda hidden, weight: (rows.append(len(hidden)), product(hidden, weight))[1])
    layer, with_bias, hidden = torch.nn.Linear(8, 4, bias=False), torch.nn.Linear(8, 4), torch.randn(2, 70, 8)
    layer(hidden)
    assert rows == []
    with fast_products(), fast_products():  # nested
        layer(hidden)
    assert rows == [140]
    with fast_products():
        layer(hidden[:, : ROWS_WORTH_IT // 2 - 1])
        with_bias(hidden)
        layer.double()(hidden.double())
        layer.bfloat16()(hidden.bfloat16())
        layer.float()
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(hidden).dtype == torch.bfloat16
    layer(hidden)
    assert rows == [140]


def test_the_convolution_of_a_product_is_the_librarys_at_any_number_of_threads():
    threads, weight = torch.get_num_threads(), torch.randn(40, 64)
    hidden, found = torch.randn(500, 64), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            with torch.profiler.profile() as recorded:
                found.append(fast.product(hidden, weight))
            names = {event.key for event in recorded.key_averages()}
            assert "aten::mkldnn_convolution" in names and "aten::_slow_conv2d_forward" not in names
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(found[0], found[1], **CLOSE)


# -- triton -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cuda():
    try:
        check_backend("triton")
    except ValueError as error:
        pytest.skip(f"triton is not compared with torch nor with mamba_ssm here: {error}")
    return torch.device("cuda")


def mixer_and_input(dtype, device):
    torch.manual_seed(0)
    mixer = Mamba2(256, state_size=128, head_width=64, chunk_size=256).to(device, dtype)
    return mixer, torch.randn(2, 700, 256, device=device, dtype=dtype)


def assert_near(found, expected, dtype):
    assert (found - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_triton_equals_torch_over_documents(cuda, dtype):
    mixer, hidden = mixer_and_input(dtype, cuda)
    document = (torch.arange(700, device=cuda) // 160).expand(2, -1).clone()
    document[1, 650:] = -1
    outputs, gradients = [], []
    for backend in ("torch", "triton"):
        mixer.backend, leaf = backend, hidden.clone().requires_grad_()
        outputs.append(mixer(leaf, document))
        outputs[-1].float().square().mean().backward()
        gradients.append(leaf.grad)
    assert_near(outputs[1], outputs[0], dtype)
    assert_near(gradients[1], gradients[0], dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_equals_mamba_ssm(cuda, dtype):
    from mamba_ssm.modules.mamba2 import Mamba2 as Peer

    mixer, hidden = mixer_and_input(dtype, cuda)
    peer = Peer(256, d_state=128, headdim=64, chunk_size=256).to(cuda, dtype)
    peer.load_state_dict(mixer.state_dict())
    assert_near(mixer(hidden), peer(hidden), dtype)


class Products(TorchDispatchMode):
    """Notes what kinds of numbers are multiplied."""

    def __init__(self):
        super().__init__()
        self.dtypes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.dtypes.add(args[0].dtype)
        return func(*args, **(kwargs or {}))


def test_muon_takes_fp32_products_where_a_cpu_has_none_in_bf16(monkeypatch):
    monkeypatch.setattr(fast, "MULTIPLIES_BF16", False)
    weights = [torch.nn.Parameter(torch.zeros(24, 40)) for _ in range(2)]
    gradient = torch.randn(24, 40, generator=torch.Generator().manual_seed(0))
    for weight, products in zip(weights, (nullcontext(), fast.fast_products()), strict=True):
        weight.grad = gradient.clone()
        optimiser = torch.optim.Muon([weight], lr=0.1)
        with products, Products() as seen:
            optimiser.step()
    assert seen.dtypes == {torch.float32}
    assert (weights[0] - weights[1]).norm() < 0.03 * weights[0].norm()  # bf16 sums in another order
