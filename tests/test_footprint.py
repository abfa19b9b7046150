"""The memory model against what autograd keeps, and its arithmetic by hand."""

from contextlib import nullcontext

import pytest
import torch
from conftest import VARIANTS, make_teacher
from test_flops import NAMES, STEPS, make_batch, roomy, rows_met

from dbyte.distill.steps import stage1
from dbyte.report.flops import RowShape, step_pass
from dbyte.report.footprint import ROWS_AT_ONCE, activation_bytes, footprint

TOLERANCE = 0.08


@pytest.fixture(scope="module")
def batch():
    return make_batch()


def kept_bytes(step, student, teacher, batch, *, half):
    """Bytes of the tensors that a step leaves for its backward pass: activations, and autocast's copies of weights."""
    step.optimisers(student)
    own = {weight.untyped_storage().data_ptr() for model in (student, teacher) for weight in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
            step.objective(student, teacher, batch)
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("step", STEPS, ids=NAMES)
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
def test_activations_are_what_autograd_keeps(step, variant, half, batch):
    teacher = make_teacher()
    student = roomy(teacher, **VARIANTS[variant])
    kept = kept_bytes(step, student, teacher, batch, half=half)
    rows, how = rows_met(step, student, batch), step_pass(student.config, step)
    copies = 2 * half * sum(weight.numel() for name, weight in student.named_parameters()
                            if how.keeps(name.split(".")[0]))
    a_row = sum(activation_bytes(student.config, rows, step, half=half).values())
    assert len(batch.byte_ids_BL) * a_row + copies == pytest.approx(kept, rel=TOLERANCE)


def test_states_by_hand():
    student, rows = roomy(make_teacher()), RowShape.one_document(800, 4)
    every = sum(weight.numel() for weight in student.parameters())
    encoder = sum(weight.numel() for part in (student.byte_embedding, student.encoder, student.encoder_projection)
                  for weight in part.parameters())
    align, distill = (footprint(student, 1000, rows, step, gpus=4, sharding="fsdp2") for step in STEPS[:2])
    assert (align.weights, align.gradients, align.moments) == (every, encoder, 2 * encoder)  # 4 bytes over 4 GPUs
    assert align.teacher == 2000 and align.logits == 0
    assert distill.logits == 5 * 4 * ROWS_AT_ONCE * student.config.core_config.vocab_size
    alone, ddp = (footprint(student, 1000, rows, STEPS[0], gpus=4, sharding=how) for how in ("none", "ddp"))
    assert alone.weights == ddp.weights == 4 * every
    assert ddp.copies - alone.copies == 4 * encoder  # the buckets
    muon = footprint(student, 1000, rows, stage1(align_bytes=1, distill_bytes=1, boundary_bytes=1, align_muon=0.1)[0],
                     gpus=1, sharding="none")
    assert muon.gradients < muon.moments < alone.moments


def test_checkpointing_and_kernels_keep_less_and_rows_fill_the_memory():
    student, rows = roomy(make_teacher(), encoder_layers=4, decoder_layers=4), RowShape.one_document(800, 4)
    plain, again, kernels = (footprint(student, 0, rows, STEPS[4], gpus=1, sharding="none", **options) for options in
                             ({}, {"checkpointing": True}, {"backend": "triton"}))
    assert again.row < plain.row and kernels.row < plain.row and again.fixed == plain.fixed == kernels.fixed
    memory = (plain.fixed + 2.5 * plain.row) / 0.9
    assert plain.rows_that_fit(memory) == 2 and plain.rows_that_fit(plain.fixed) == 0
    with pytest.raises(ValueError, match="none, ddp, fsdp2"):
        footprint(student, 0, rows, STEPS[4], gpus=1, sharding="zero3")
