"""Which backend trains; where mamba-ssm and a GPU are at hand, triton == torch and Mamba2 == mamba_ssm's own module."""

import pytest
import torch

from dbyte.model.backends import check_backend, training_backend
from dbyte.model.mamba2 import Mamba2

TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 3e-2}  # relative to the largest output; TF32 products in the kernels


@pytest.fixture
def cuda():
    try:
        check_backend("triton")
    except ValueError as error:
        pytest.skip(str(error))
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


def test_training_takes_torch_unless_asked():
    assert training_backend(None, device="cpu", precision="fp32") == "torch"
    with pytest.raises(ValueError, match="unknown backend 'compiled'"):
        training_backend("compiled", device="cpu", precision="fp32")
