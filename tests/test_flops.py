"""The closed-form FLOPs against torch's counter: every step, kind of student and family; packed rows, Muon, frozen."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from conftest import VARIANTS, make_student, make_teacher

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


def deviation(step, student, teacher, batch):
    modelled = sum(step_flops(student.config, rows_met(step, student, batch), step).values())
    return modelled / counted(step, student, teacher, batch) - 1


@pytest.fixture(scope="module")
def batch():
    return make_batch()


def roomy(teacher, **changes):
    """A student with room for rows that an untrained router cuts into many chunks."""
    teacher.config.max_position_embeddings = 1024
    return make_student(teacher, **(dict(byte_width=32, ffn_width=48) | changes))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("step", STEPS, ids=NAMES)
def test_every_step_agrees_with_torch(step, variant, batch):
    teacher = make_teacher()
    assert abs(deviation(step, roomy(teacher, **VARIANTS[variant]), teacher, batch)) < TOLERANCE


@pytest.mark.parametrize("family", ["llama", pytest.param("qwen3", marks=pytest.mark.exhaustive), "olmo2"])
@pytest.mark.parametrize("step", WITH_BOUNDARY, ids=NAMES)
def test_steps_that_train_the_router_too_agree_on_packed_rows(step, family):
    teacher = make_teacher(family)
    assert abs(deviation(step, roomy(teacher), teacher, make_batch(document_bytes=200))) < TOLERANCE


def test_packed_documents_attend_to_less():
    whole, packed = (RowShape.of_documents(800, make_batch(document_bytes=size).token_document_BM)
                     for size in (800, 200))
    assert packed.pairs < whole.pairs and packed.predicted == whole.predicted - 3 == 196
    assert RowShape.one_document(800, 4) == whole


def test_frozen_parts_cost_what_is_asked_of_them(batch):
    teacher = make_teacher()
    student, rows = roomy(teacher), RowShape.of_documents(800, batch.token_document_BM)
    parts = part_work(student.config, rows)
    costs = {step.name: step_flops(student.config, rows, step) for step in STEPS}
    forward = {name: work.forward for name, work in parts.items()}
    assert costs["1.2 distill"]["token_head"] == 2 * forward["token_head"]  # frozen, and the core asks through it
    assert costs["1.2 distill"]["teacher core"] == costs["2.1 head"]["core"] == forward["core"]
    assert costs["1.3 boundary"]["router"] == costs["2.1 head"]["residual"] / forward["residual"] * forward["router"]
    assert costs["2.1 head"]["residual"] == 2 * forward["residual"]  # trained, and nobody asks the frozen encoder
    assert costs["2.2 full"]["residual"] == 3 * forward["residual"]
    assert costs["2.2 full"]["router"] == forward["router"]


def test_checkpointing_runs_the_blocks_twice(batch):
    student = roomy(make_teacher())
    rows = RowShape.of_documents(800, batch.token_document_BM)
    once, twice = (step_flops(student.config, rows, STEPS[4], checkpointing=again) for again in (False, True))
    parts = part_work(student.config, rows)
    assert {part for part in once if twice[part] > once[part]} == {"encoder", "core", "decoder"}
    assert twice["core"] - once["core"] == pytest.approx(parts["core"].forward)


def test_muon_agrees_with_torch(batch):
    teacher = make_teacher()
    student = roomy(teacher)
    step = stage1(**BYTES[0], align_muon=0.03)[0]
    for weight in (w for optimiser in step.optimisers(student) for group in optimiser.param_groups
                   for w in group["params"]):
        weight.grad = torch.ones_like(weight)
    muon = next(optimiser for optimiser in step.optimisers(student) if isinstance(optimiser, torch.optim.Muon))
    assert muon_flops(student, step) == flops(muon.step) > 0
    assert muon_flops(student, STEPS[0]) == 0


def test_what_is_not_known_is_refused(batch):
    student = roomy(make_teacher())
    other = dataclasses.replace(STEPS[0], objective=objectives.token)
    with pytest.raises(ValueError, match="1.1 align"):
        step_flops(student.config, RowShape.of_documents(800, batch.token_document_BM), other)
