"""What is counted without numbers is what torch counts and autograd keeps with them, for every step and student."""

import dataclasses
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from conftest import SIZES as SIZES_OF_STUDENTS
from conftest import VARIANTS, make_student, make_teacher

from dbyte.distill import objectives
from dbyte.distill.steps import EVERYTHING, Group, Step, stage1, stage2
from dbyte.distill.terms import Forward
from dbyte.kernels.fast import fast_products
from dbyte.plan.counting import count_step, muon_flops, one_document
from dbyte.plan.plan import meta_student

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from measuring import flops  # noqa: E402
from steps import made_up  # noqa: E402

BYTES = dict(align_bytes=1, distill_bytes=1, boundary_bytes=1), dict(head_bytes=1, full_bytes=1)
STEPS = stage1(**BYTES[0]) + stage2(**BYTES[1])
WITH_BOUNDARY = stage1(**BYTES[0], boundary_loss=True) + stage2(**BYTES[1], boundary_loss=True)
PERTURBED = Step("1 perturbed", 1, objectives.next_token, (Group(EVERYTHING, 1e-3),), 1, warmup=0.0)  # Table 8
NAMES = [step.name for step in STEPS]
SIZES = {"paper": {}, "authors": dict(ffn_width=0, router_ffn_width=12)}


def make_batch(rows=2, document_bytes=400):
    """Random bytes, whole documents of equal length."""
    torch.manual_seed(0)
    return made_up(rows, 400, 300, document_bytes=document_bytes)


def as_cut(step, student, batch):
    """The batch as a step cuts it: in stage 2 its boundaries are the router's."""
    if step.stage == 1:
        return batch
    with torch.no_grad():
        return dataclasses.replace(batch, boundary_BL=Forward(student, None, batch).router_chunks.boundary_BL)


def torch_counts(step, student, teacher, batch):
    """FLOPs of a step, forward and backward, as torch counts them."""
    step.thaw(student)
    return flops(lambda: step.objective(student, teacher, batch).backward())


def kept_bytes(step, student, teacher, batch, *, half=False):
    """Bytes of the tensors that a step leaves for its backward pass: activations, and autocast's copies of weights."""
    step.thaw(student)
    own = {weight.untyped_storage().data_ptr() for model in (student, teacher)
           for weight in (*model.parameters(), *model.buffers())}
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


@pytest.fixture(scope="module")
def batch():
    return make_batch()


def roomy(teacher, **changes):
    """A student with room for rows that an untrained router cuts into many chunks."""
    teacher.config.max_position_embeddings = 1024
    return make_student(teacher, **(dict(byte_width=32, ffn_width=48) | changes))


@pytest.mark.parametrize("backend", ["fast", pytest.param("torch", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("steps, family, sizes, document_bytes", [
    (STEPS, "llama", "paper", 400), (WITH_BOUNDARY, "olmo2", "authors", 100),
    pytest.param(WITH_BOUNDARY, "qwen3", "paper", 100, marks=pytest.mark.exhaustive)], ids=["llama", "olmo2", "qwen3"])
@pytest.mark.parametrize("place", range(5), ids=NAMES)
def test_every_step_is_counted_as_with_numbers(place, steps, family, sizes, document_bytes, backend):
    teacher, step = make_teacher(family), steps[place]
    student = roomy(teacher, encoder_layers=3, **SIZES[sizes]).use_backend(backend)
    batch = as_cut(step, student, make_batch(document_bytes=document_bytes))
    counted = count_step(student.config, step, batch, backend=backend)
    assert sum(counted.flops.values()) == torch_counts(step, student, teacher, batch)
    with fast_products() if backend == "fast" else nullcontext():
        assert counted.kept == kept_bytes(step, student, teacher, batch)


@pytest.mark.parametrize("kind", sorted(set(VARIANTS) - {"paper"}))
def test_every_kind_of_student_is_counted(kind):
    teacher = make_teacher()
    student = roomy(teacher, **VARIANTS[kind])
    for step in WITH_BOUNDARY[1], WITH_BOUNDARY[4]:
        batch = as_cut(step, student, make_batch())
        counted = count_step(student.config, step, batch, backend="fast")
        assert sum(counted.flops.values()) == torch_counts(step, student, teacher, batch)


@pytest.mark.parametrize("kind", [
    pytest.param(kind, marks=() if kind in ("authors", "suffix", "router_suffixes") else pytest.mark.exhaustive)
    for kind in VARIANTS])
def test_no_part_is_negative_and_a_head_is_counted_where_it_runs(kind, batch):
    config = roomy(make_teacher(), **(VARIANTS[kind] | dict(encoder_layers=1))).config
    core = config.core_config
    core.num_hidden_layers = 1
    one = 2 * (batch.token_ids_BM.numel() - len(batch.token_ids_BM)) * core.vocab_size * core.hidden_size
    heads = {"1.2 distill": (2 * one, one), "1 perturbed": (3 * one, 0)}  # the second trains the student's head too
    in_graph = set(heads)
    if kind == "prior":  # which reads the head after every chunk
        heads |= dict.fromkeys(("2.1 head", "2.2 full"), (
            2 * int(batch.boundary_BL.sum()) * core.vocab_size * core.hidden_size, 0))
    for step in *WITH_BOUNDARY, PERTURBED:
        counted = count_step(config, step, batch, backend="fast")
        assert min(counted.flops.values()) >= 0
        assert (counted.flops["token_head"], counted.flops["teacher head"]) == heads.get(step.name, (0, 0)), step.name
        assert ("token_head" in counted.in_graph) == (step.name in in_graph)


@pytest.mark.parametrize("step", STEPS, ids=NAMES)
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
def test_in_bf16_autocasts_copies_are_those_of_the_weights_in_the_graph(step, batch):
    teacher = make_teacher()
    student = roomy(teacher).use_backend("torch")
    batch = as_cut(step, student, batch)
    counted = count_step(student.config, step, batch, half=True)
    copies = 2 * sum(weight.numel() for name, weight in student.named_parameters()
                     if name.split(".")[0] in counted.in_graph)
    assert counted.kept + copies == pytest.approx(kept_bytes(step, student, teacher, batch, half=True), rel=0.02)


def test_a_row_of_one_document():
    student = roomy(make_teacher())
    batch, made = one_document(student.config, 400, 4), make_batch(rows=1)
    assert all(torch.equal(getattr(batch, name), getattr(made, name)) for name in (
        "boundary_BL", "document_BL", "mask_BL", "token_document_BM", "token_mask_BM"))
    student.config.core_config.max_position_embeddings = 75
    _, bytes_D = one_document(student.config, 400, 4).document_BL.unique_consecutive(return_counts=True)
    assert bytes_D.tolist() == [300, 100]


@pytest.mark.usefixtures("counted_once")
def test_checkpointing_runs_the_blocks_twice_and_keeps_less(batch):
    config = roomy(make_teacher(), encoder_layers=4, decoder_layers=4).config
    once, twice = (count_step(config, STEPS[4], batch, checkpointing=again) for again in (False, True))
    assert {part for part in once.flops if twice.flops[part] > once.flops[part]} == {"encoder", "core", "decoder"}
    assert twice.flops["core"] - once.flops["core"] == count_step(config, STEPS[3], batch).flops["core"]
    assert twice.kept < once.kept and count_step(config, STEPS[4], batch, backend="triton").kept < once.kept


def test_muon_agrees_with_torch():
    student = roomy(make_teacher())
    step = stage1(**BYTES[0], align_muon=0.03)[0]
    for weight in (w for optimiser in step.optimisers(student) for group in optimiser.param_groups
                   for w in group["params"]):
        weight.grad = torch.ones_like(weight)
    muon = next(optimiser for optimiser in step.optimisers(student) if isinstance(optimiser, torch.optim.Muon))
    bare = meta_student(student.config.core_config, SIZES_OF_STUDENTS | dict(byte_width=32, ffn_width=48))
    assert muon_flops(bare, step) == flops(muon.step) > 0
    assert muon_flops(bare, STEPS[0]) == 0
