"""On a real GPU, where there is one: it computes in fp32 what a CPU does, in training, scoring and writing."""

import copy

import pytest
import torch
from conftest import make_student, make_teacher
from transformers import LlamaConfig, LlamaModel

import dbyte
from dbyte.distill.loader import Feed
from dbyte.distill.steps import stage1, stage2
from dbyte.evaluate.score import Request, Scorer
from dbyte.evaluate.score_own_boundaries import OwnBoundariesScorer
from dbyte.model.core import positions_within, run_core
from dbyte.model.packed_attention import PACKED, attention_blocks

STEPS = stage1(align_bytes=1, distill_bytes=1, boundary_bytes=1) + stage2(head_bytes=1, full_bytes=1)
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # relative to the largest number

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: kernels, alignment and rounding "
                                "of a real GPU go unchecked; test_devices.py asks only where tensors are made")


def assert_near(found, expected, close):
    assert (found.cpu().float() - expected.float()).abs().max() <= close * expected.float().abs().max()


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("M", [2048, 2045])
def test_the_core_reads_packed_documents_of_any_length(M, dtype):
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=8, hidden_size=128, num_hidden_layers=2, num_attention_heads=2,
                         intermediate_size=128, max_position_embeddings=4096, initializer_range=0.1)
    core = LlamaModel._from_config(config, attn_implementation=PACKED).eval()
    input_BME = torch.randn(3, M, 128)
    document_BM = (torch.rand(3, M) < 0.02).cumsum(1)
    blocks = attention_blocks(positions_within(document_BM.cuda()))
    assert any(first for _, _, first in blocks), "rows of which a block leaves something out"
    expected = run_core(core, input_BME, document_BM)
    found = run_core(core.to("cuda", dtype), input_BME.to("cuda", dtype), document_BM.cuda())
    assert_near(found, expected, CLOSE[dtype])


@pytest.mark.parametrize("decoding", ["jbp", "mbp"])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_loss_and_gradients_of_every_step_are_those_of_a_cpu(step, decoding, student, teacher, rows):
    student = student if decoding == "jbp" or step.stage == 1 else student.with_decoding("mbp")
    batch, found = Feed(rows, 2, seed=0).batch(0), {}
    for device in ("cpu", "cuda"):
        model, reader = copy.deepcopy(student).to(device), copy.deepcopy(teacher).to(device)
        step.thaw(model)
        loss = step.objective(model, reader, batch.to(device))
        loss.backward()
        found[device] = {"loss": loss.detach()} | {name: weight.grad for name, weight in model.named_parameters()
                                                   if weight.grad is not None}
    assert found["cpu"].keys() == found["cuda"].keys() and len(found["cpu"]) > 1
    for name, expected in found["cpu"].items():
        assert_near(found["cuda"][name], expected, 1e-3)


@pytest.mark.parametrize("decoding", ["jbp", "mbp"])
def test_scores_and_texts_are_those_of_a_cpu(decoding, tokenizer):
    student = make_student(make_teacher(), tokenizer, decoding=decoding).eval()
    requests = [Request(text.encode(), 4) for text in ("The cat sat on", "naïve café", "1 + 2 = 3. 1 + 2", "abcdef")]
    scores, texts = {}, {}
    for device in ("cpu", "cuda"):
        student = student.to(device)
        scorers = [OwnBoundariesScorer(student, stage=2)] + ([Scorer(student, stage=2)] if decoding == "jbp" else [])
        scores[device] = [score.nats for scorer in scorers for score in scorer.score(requests)]
        texts[device] = dbyte.generate(student, ["The cat", "x", ""], max_new_bytes=24)
    assert scores["cuda"] == pytest.approx(scores["cpu"], abs=1e-3)
    assert texts["cuda"] == texts["cpu"]
