"""The closed-form FLOPs against torch's counter: every step, packed rows, Muon, what is frozen."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from conftest import make_student, make_teacher

from dbyte.distill import objectives
from dbyte.distill.steps import stage1, stage2
from dbyte.distill.terms import Forward
from dbyte.plan.flops import RowShape, muon_flops, part_work, step_flops
from dbyte.text.packing import Batch
from dbyte.text.spans import BOS

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from measuring import flops  # noqa: E402

TOLERANCE = 0.001  # the promise is 2 %; the model is exact, and a product that it forgets would show
BYTES = dict(align_bytes=1, distill_bytes=1, boundary_bytes=1), dict(head_bytes=1, full_bytes=1)
STEPS = stage1(**BYTES[0]) + stage2(**BYTES[1])
WITH_BOUNDARY = stage1(**BYTES[0], boundary_loss=True) + stage2(**BYTES[1], boundary_loss=True)
NAMES = [step.name for step in STEPS]
SIZES = {"paper": {}, "authors": dict(ffn_width=0, router_ffn_width=12)}


def make_batch(rows=2, row_bytes=800, document_bytes=800, bytes_per_token=4):
    """Random bytes, a token every `bytes_per_token` of them, whole documents of equal length."""
    torch.manual_seed(0)
    order_L = torch.arange(row_bytes)
    document_BL = (order_L // document_bytes).expand(rows, -1)
    byte_ids_BL = torch.randint(0, 250, (rows, row_bytes))
    byte_ids_BL[:, ::document_bytes] = BOS
    boundary_BL = (order_L % bytes_per_token == bytes_per_token - 1).expand(rows, -1)
    token_document_BM = document_BL[:, bytes_per_token - 1 :: bytes_per_token]
    return Batch(byte_ids_BL, boundary_BL, document_BL, torch.ones_like(boundary_BL),
                 torch.randint(0, 300, token_document_BM.shape), token_document_BM,
                 torch.ones_like(token_document_BM, dtype=torch.bool))


def rows_met(step, student, batch):
    """What a step's rows hold: in stage 2 the router cuts them."""
    document_BM = batch.token_document_BM
    if step.stage == 2:
        with torch.no_grad():
            document_BM = Forward(student, None, batch).router_chunks.document_BM
    return RowShape.of_documents(batch.byte_ids_BL.shape[1], document_BM)


def counted(step, student, teacher, batch):
    """FLOPs per byte of a step, forward and backward, as torch counts them."""
    step.optimisers(student)

    def call():
        loss = step.objective(student, teacher, batch)
        (loss[0] if isinstance(loss, tuple) else loss).backward()

    return flops(call) / batch.byte_ids_BL.numel()


@pytest.fixture(scope="module")
def batch():
    return make_batch()


def roomy(teacher, **changes):
    """A student with room for rows that an untrained router cuts into many chunks."""
    teacher.config.max_position_embeddings = 1024
    return make_student(teacher, **(dict(byte_width=32, ffn_width=48) | changes))


@pytest.mark.parametrize("steps, family, sizes, document_bytes", [
    (STEPS, "llama", "paper", 800), (WITH_BOUNDARY, "olmo2", "authors", 200),
    pytest.param(WITH_BOUNDARY, "qwen3", "paper", 200, marks=pytest.mark.exhaustive)], ids=["llama", "olmo2", "qwen3"])
@pytest.mark.parametrize("place", range(5), ids=NAMES)
def test_every_step_agrees_with_torch(place, steps, family, sizes, document_bytes):
    teacher, step, batch = make_teacher(family), steps[place], make_batch(document_bytes=document_bytes)
    student = roomy(teacher, **SIZES[sizes])
    modelled = sum(step_flops(student.config, rows_met(step, student, batch), step).values())
    assert modelled == pytest.approx(counted(step, student, teacher, batch), rel=TOLERANCE)


def test_packed_documents_attend_to_less():
    whole, packed = (RowShape.of_documents(800, make_batch(document_bytes=size).token_document_BM)
                     for size in (800, 200))
    assert packed.pairs < whole.pairs and packed.predicted == whole.predicted - 3 == 196
    assert RowShape.one_document(800, 4) == whole


def test_checkpointing_runs_the_blocks_twice(batch):
    student = roomy(make_teacher())
    rows = RowShape.of_documents(800, batch.token_document_BM)
    once, twice = (step_flops(student.config, rows, STEPS[4], checkpointing=again) for again in (False, True))
    assert {part for part in once if twice[part] > once[part]} == {"encoder", "core", "decoder"}
    assert twice["core"] - once["core"] == pytest.approx(part_work(student.config, rows)["core"][0])


def test_muon_agrees_with_torch():
    student = roomy(make_teacher())
    step = stage1(**BYTES[0], align_muon=0.03)[0]
    for weight in (w for optimiser in step.optimisers(student) for group in optimiser.param_groups
                   for w in group["params"]):
        weight.grad = torch.ones_like(weight)
    muon = next(optimiser for optimiser in step.optimisers(student) if isinstance(optimiser, torch.optim.Muon))
    assert muon_flops(student, step) == flops(muon.step) > 0
    assert muon_flops(student, STEPS[0]) == 0


@pytest.mark.parametrize("step, changes, named", [
    (dataclasses.replace(STEPS[0], objective=objectives.token), {}, "1.1 align"),
    (STEPS[0], dict(decoding="mbp"), "'decoding': 'mbp'")], ids=["objective", "student"])
def test_what_is_not_planned_is_refused(step, changes, named):
    with pytest.raises(ValueError, match=named):
        step_flops(roomy(make_teacher(), **changes).config, RowShape.one_document(800, 4), step)
