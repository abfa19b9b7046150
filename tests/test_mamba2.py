"""The mixer: the function of transformers' Mamba2Mixer, and its convolution tap by tap."""

from types import FunctionType

import pytest
import torch
from transformers import Mamba2Config
from transformers.models.mamba2 import modeling_mamba2
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from dbyte.kernels import fast
from dbyte.model.convolution import convolve_silu
from dbyte.model.mamba2 import Mamba2

WIDTH = 32


@pytest.fixture
def mixer():
    torch.manual_seed(0)
    mixer = Mamba2(WIDTH, state_size=8, head_width=16, chunk_size=8).double()
    with torch.no_grad():  # ones at first, which would hide their absence
        mixer.norm.weight.normal_()
        mixer.D.normal_()
    return mixer


@pytest.fixture
def plain(monkeypatch):
    """transformers by torch alone: it takes mamba-ssm's kernels wherever they are installed, and these refuse a CPU."""
    for name, function in list(vars(modeling_mamba2).items()):
        if isinstance(function, FunctionType) and hasattr(function, "__wrapped__"):
            monkeypatch.setattr(modeling_mamba2, name, function.__wrapped__)


def test_same_weights_give_transformers_outputs(mixer, plain):
    config = Mamba2Config(hidden_size=WIDTH, num_heads=4, head_dim=16, state_size=8, n_groups=1, chunk_size=8, expand=2,
                          conv_kernel=4, layer_norm_epsilon=1e-5, use_conv_bias=True, use_bias=False)
    peer = Mamba2Mixer(config, layer_idx=0).double()
    peer.load_state_dict(mixer.state_dict())
    hidden = torch.randn(2, 29, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(mixer(hidden), peer(hidden), rtol=1e-4, atol=1e-5)  # the peer's scan is fp32 inside


def test_names_shapes_and_initialisation_are_mamba_ssms(mixer):
    shapes = {name: tuple(weight.shape) for name, weight in mixer.state_dict().items()}
    assert shapes == {"in_proj.weight": (64 + 64 + 16 + 4, 32), "conv1d.weight": (80, 1, 4), "conv1d.bias": (80,),
                      "dt_bias": (4,), "A_log": (4,), "D": (4,), "norm.weight": (64,), "out_proj.weight": (32, 64)}
    dt = torch.nn.functional.softplus(mixer.dt_bias)
    assert (dt >= 1e-4).all() and (dt <= 0.1001).all()
    mixer.reset_parameters()
    assert (mixer.A_log.exp() >= 1).all() and (mixer.A_log.exp() <= 16).all()
    assert (mixer.D == 1).all() and (mixer.norm.weight == 1).all()


def test_sizes_that_are_asked_without_weights_draw_no_random_numbers():
    """A config makes its mixers without weights; a student begins as its seed says, whatever is asked before."""
    before = torch.get_rng_state()
    with torch.device("meta"):
        asked = Mamba2(WIDTH, state_size=8, head_width=16)
    assert asked.in_proj.weight.is_meta and torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("L, W", [(1, 4), (3, 4), (17, 4), (17, 2)])
@pytest.mark.parametrize("starts", [[], [1], [4, 5, 6], [16]], ids=str)
def test_the_convolution_is_a_plain_sum_over_taps(L, W, starts):
    hidden, weight, bias = (torch.randn(*shape, dtype=torch.float64) for shape in ((2, L, 3), (3, W), (3,)))
    document = torch.zeros(2, L, dtype=torch.long)
    document[0, [start for start in starts if start < L]] = 1
    document = document.cumsum(1)
    expected = bias.expand(2, L, 3).clone()
    for row in range(2):
        for i in range(L):
            for back in range(min(W, i + 1)):
                if document[row, i - back] == document[row, i]:
                    expected[row, i] += hidden[row, i - back] * weight[:, -1 - back]
    torch.testing.assert_close(convolve_silu(hidden, weight, bias, document), torch.nn.functional.silu(expected))


@pytest.mark.parametrize("run", [convolve_silu, fast.convolve_silu], ids=["torch", "fast"])
def test_nothing_of_another_document_is_left_not_even_what_is_not_finite(run):
    hidden, weight, bias = torch.randn(2, 9, 3), torch.randn(3, 4), torch.randn(3)
    document = torch.tensor([[0] * 4 + [1] * 5] * 2)
    poisoned = hidden.clone()
    poisoned[:, :4] = float("nan")
    poisoned.requires_grad_()
    found = run(poisoned, weight, bias, document)[:, 4:]
    torch.testing.assert_close(found, run(hidden[:, 4:], weight, bias, None))
    found.sum().backward()
    assert torch.isfinite(poisoned.grad[:, 4:]).all()
