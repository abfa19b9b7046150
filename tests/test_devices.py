"""Nothing is made on another device than the models are on: what a GPU would refuse, asked where there is none.

Within `torch.device("meta")` every tensor that is made without a device has no values, and does not mix with those of a
CPU. So a tensor that follows the models' device is as it was, and one that does not is refused. What a GPU computes is
asked of a real one, where there is one, by tests/test_cuda.py.
"""

import pytest
import torch
from conftest import TEXTS, make_student, make_teacher

from dbyte.distill.loader import Feed
from dbyte.distill.steps import stage1, stage2
from dbyte.evaluate.score import Request, Scorer
from dbyte.evaluate.score_own_boundaries import OwnBoundariesScorer
from dbyte.model.packed_attention import ALIGNED, attention_blocks

BUDGET = dict(align_bytes=1, distill_bytes=1, boundary_bytes=1), dict(head_bytes=1, full_bytes=1)
STEPS = stage1(**BUDGET[0], encoder_muon=0.02, boundary_loss=True) + stage2(**BUDGET[1])


def asked_student(tokenizer, decoding):
    """A student as a GPU runs it: backend fast is a CPU's alone."""
    return make_student(make_teacher(), tokenizer, decoding=decoding).use_backend("torch")


@pytest.mark.parametrize("decoding", ["jbp", "mbp"])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_a_step_makes_every_tensor_where_the_model_is(step, decoding, rows, tokenizer):
    student, teacher = asked_student(tokenizer, decoding), make_teacher()
    batch = Feed(rows, 2, seed=0).batch(0)
    optimisers = step.optimisers(student)
    with torch.device("meta"):
        loss = step.objective(student, teacher, batch)
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
    assert all(weight.device.type == "cpu" for weight in student.parameters())


@pytest.mark.parametrize("decoding", ["jbp", "mbp"])
def test_scoring_makes_every_tensor_where_the_model_is(decoding, tokenizer):
    """Its own boundaries are found by the steps that also write text."""
    student = asked_student(tokenizer, decoding)
    requests = [Request(text.encode(), 1) for text in TEXTS[:2]]
    scorers = [Scorer(student, stage=1), OwnBoundariesScorer(student, stage=2)]
    if decoding == "jbp":
        scorers.append(Scorer(student, stage=2))
    expected = [score.nats for scorer in scorers for score in scorer.score(requests)]
    with torch.device("meta"):
        assert [score.nats for scorer in scorers for score in scorer.score(requests)] == expected


def test_blocks_begin_where_a_gpu_can_read_a_mask():
    position_BM = torch.arange(3000)[None] % 37
    plain, aligned = (attention_blocks(position_BM, gpu=gpu) for gpu in (False, True))
    assert any(first % ALIGNED for _, _, first in plain) and any(first for _, _, first in aligned)
    for start, _, first in aligned:
        document = start - start % 37  # where the one begins that is open there
        assert first % ALIGNED == 0 and 0 <= document - first < ALIGNED
    assert [start for start, _, _ in aligned] + [3000] == [0] + [end for _, end, _ in aligned]
