"""The arithmetic of the memory model by hand, and what FSDP2 gathers against a run of it."""

import pytest
import torch.distributed as dist
from conftest import make_teacher
from test_counting import NAMES, STEPS, make_batch, roomy
from torch.distributed.tensor import DTensor

from dbyte.distill.processes import Processes
from dbyte.distill.steps import stage1
from dbyte.distill.trainer import Trainee, train_on
from dbyte.model.checkpointing import sharding_units
from dbyte.plan.counting import count_step, one_document
from dbyte.plan.footprint import ROWS_AT_ONCE, footprint

pytestmark = pytest.mark.usefixtures("counted_once")
MOMENTS, COPIES = "moments of the optimiser", "bf16 copies, gathered units, buckets"


@pytest.fixture(scope="module")
def batch():
    return make_batch()


def sized(student, teacher_parameters, step, *, gpus=1, sharding="none"):
    """The footprint of rows of one document, in bf16."""
    counted = count_step(student.config, step, one_document(student.config, 400, 4), half=True)
    return footprint(student, teacher_parameters, step, counted, half=True, gpus=gpus, sharding=sharding)


def test_states_by_hand():
    student = roomy(make_teacher())
    every = sum(weight.numel() for weight in student.parameters())
    encoder = sum(weight.numel() for part in (student.byte_embedding, student.encoder, student.encoder_projection)
                  for weight in part.parameters())
    align, distill = (sized(student, 1000, step, gpus=4, sharding="fsdp2").kinds for step in STEPS[:2])
    # 4 bytes over 4 GPUs
    assert (align["weights"], align["gradients"], align[MOMENTS]) == (every, encoder, 2 * encoder)
    core = student.config.core_config
    assert align["teacher"] == 2 * core.vocab_size * core.hidden_size and distill["teacher"] == 2000
    assert align["logits of one slice"] == 0
    assert distill["logits of one slice"] == 5 * 4 * ROWS_AT_ONCE * core.vocab_size
    assert all(sized(student, 1000, step).kinds["teacher"] == 0 for step in STEPS[2:])
    alone, ddp = (sized(student, 1000, STEPS[0], gpus=4, sharding=how).kinds for how in ("none", "ddp"))
    assert alone["weights"] == ddp["weights"] == 4 * every
    assert ddp[COPIES] - alone[COPIES] == 4 * encoder  # the buckets
    muon = sized(student, 1000, stage1(align_bytes=1, distill_bytes=1, boundary_bytes=1, align_muon=0.1)[0]).kinds
    assert muon["gradients"] < muon[MOMENTS] < alone[MOMENTS]


@pytest.fixture
def group():
    """A gloo group of this process alone, over which fully_shard gathers as it does over many."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("step", STEPS, ids=NAMES)
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_what_fsdp2_holds_whole_is_what_a_run_of_it_holds(step, batch, group):
    """On a CPU nothing is fetched ahead, so of GATHERED units it is one that runs next to the root."""
    student = roomy(make_teacher(), encoder_layers=2)
    counted = count_step(student.config, step, one_document(student.config, 400, 4))
    model = footprint(student, 0, step, counted, half=False, gpus=1, sharding="fsdp2")
    largest = max(sum(weight.numel() for weight in unit.parameters()) for unit in sharding_units(student))
    missed = {name: weight.numel() for name, weight in student.named_parameters() if weight.requires_grad
              and not any(weight is one for unit in sharding_units(student) for one in unit.parameters())}
    trainee = Processes(sharding="fsdp2").wrap(Trainee(student, make_teacher(), step.objective),
                                               sharding_units(student))
    weights, gradients = set(), set()

    def look(*_):
        whole = {name: weight for name, weight in student.named_parameters() if not isinstance(weight, DTensor)}
        have_gradient = {name: weight.numel() for name, weight in whole.items() if weight.grad is not None}
        weights.add(sum(weight.numel() for weight in whole.values()))
        gradients.add(sum(have_gradient.values()))
        for name in have_gradient:
            missed.pop(name, None)

    for unit in sharding_units(student):
        unit.register_forward_hook(look, prepend=True)  # before FSDP2's own, which frees the unit
        unit.register_full_backward_hook(look)
    train_on(batch, step, 1.0, trainee, step.optimisers(student))
    # Gradients of the root that are made after the last unit's (the embedding's) are seen by no hook of a unit.
    assert max(weights) + max(gradients) + sum(missed.values()) == model.kinds[COPIES] / 4 - largest


def test_rows_fill_the_memory():
    student = roomy(make_teacher())
    plain = sized(student, 0, STEPS[4])
    memory = (plain.fixed + 2.5 * plain.row) / 0.9
    assert plain.rows_that_fit(memory) == 2 and plain.rows_that_fit(plain.fixed) == 0
