"""Which backend trains; where mamba-ssm and a GPU are at hand, triton == torch and Mamba2 == mamba_ssm's own module."""

import pytest
import torch

from dbyte.model import backends as kernels
from dbyte.model.backends import check_backend, training_backend
from dbyte.model.mamba2 import Mamba2
from dbyte.native import library as native

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


def test_training_takes_what_the_device_and_the_compiler_allow(monkeypatch):
    monkeypatch.setattr(native, "works", lambda: True)
    assert training_backend(None, device="cpu", precision="fp32") == "compiled"
    for device, precision in (("cuda", "fp32"), ("cpu", "bf16")):
        assert training_backend(None, device=device, precision=precision) == "torch"
        with pytest.raises(ValueError, match=f"device {device} and precision {precision}: use 'torch'"):
            training_backend("compiled", device=device, precision=precision)
    monkeypatch.setattr(native, "works", lambda: False)
    assert training_backend(None, device="cpu", precision="fp32") == "torch"
    with pytest.raises(ValueError, match="needs a C\\+\\+ compiler"):
        training_backend("compiled", device="cpu", precision="fp32")


def test_few_rows_on_many_threads_go_by_torch(monkeypatch):
    mixer, hidden, rows = Mamba2(32, state_size=8, head_width=16), torch.randn(2, 9, 32), []
    mixer.backend, expected = "compiled", mixer(hidden)
    monkeypatch.setattr(kernels, "fused_mix", lambda xBC_BLX, *given, **options: (
        rows.append(len(xBC_BLX)), kernels.mix(xBC_BLX, *given, chunk_size=8, backend="torch", **options))[1])
    for threads, fused in ((1, True), (4, True), (5, False)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        torch.testing.assert_close(mixer(hidden), expected)
        assert bool(rows) == fused
        rows.clear()
