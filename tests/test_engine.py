"""How a run is computed changes nothing of what it computes; what goes wrong is reported, and nothing half-written."""

import json
import os
import resource
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import make_student, make_teacher
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.flop_counter import FlopCounterMode

from dbyte.distill import losses, objectives, trainer
from dbyte.distill.curriculum import curriculum, run_steps
from dbyte.distill.loader import Feed
from dbyte.distill.processes import ALONE, Launch, Processes
from dbyte.distill.runs import Run
from dbyte.distill.steps import check_sharding, stage1, stage2
from dbyte.distill.trainer import Trainee, train, train_on
from dbyte.model.checkpointing import EmbeddingsOnly, checkpoint_activations, halve, sharding_units, share_frozen
from dbyte.model.mamba2 import Mamba2
from dbyte.presets import scale

BUDGET = 20 * 4 * 160
BYTES = dict(align_bytes=BUDGET, distill_bytes=BUDGET, boundary_bytes=BUDGET)
PLAIN = stage1(**BYTES) + stage2(head_bytes=BUDGET, full_bytes=BUDGET)
STEPS = {step.name[:3]: step for step in PLAIN} | {
    "1.1+4": stage1(**BYTES, boundary_loss=True)[0], "1.2+4": stage1(**BYTES, boundary_loss=True)[1],
    "1.2 reverse": replace(PLAIN[1], objective=objectives.distill_reverse),
    "1.2 js": replace(PLAIN[1], objective=objectives.distill_js),
    "2.2+4": stage2(head_bytes=BUDGET, full_bytes=BUDGET, boundary_loss=True)[1]}
some_steps = pytest.mark.parametrize("step", [STEPS["1.2+4"], STEPS["1.3"], STEPS["2.2+4"]], ids=lambda step: step.name)


@pytest.fixture
def feed(rows):
    return Feed(rows, 4, seed=0)


def gradients(step, feed, *, launch=ALONE, recompute=False, **changes):
    """The loss of one update at rate zero, and the gradients it left behind."""
    teacher, student = make_teacher(), make_student(make_teacher(), **changes).train()
    optimisers = step.optimisers(student)
    checkpoint_activations(student, recompute)
    made = train_on(feed.batch(0), replace(step, clip=1e9), 0.0, Trainee(student, teacher, step.objective), optimisers,
                    launch=launch)
    return made, {name: w.grad for name, w in student.named_parameters() if w.grad is not None}


def assert_same(one, two) -> None:
    assert one[0].loss == pytest.approx(two[0].loss, rel=1e-5) and one[0].norm == pytest.approx(two[0].norm, rel=1e-4)
    assert one[1].keys() == two[1].keys() and one[1]
    for name, gradient in one[1].items():
        torch.testing.assert_close(two[1][name], gradient, rtol=1e-4, atol=1e-5 * one[0].norm, msg=name)


@pytest.mark.parametrize("step, sizes, rows_at_once", [
    *((step, {}, 3) for step in STEPS.values()), (STEPS["2.2"], dict(decoding="mbp"), 1)], ids=[*STEPS, "2.2 mbp"])
def test_micro_batches_add_up_to_one_large_batch(step, sizes, rows_at_once, feed):
    launch = Launch(rows_at_once=rows_at_once)
    assert_same(gradients(step, feed, **sizes), gradients(step, feed, **sizes, launch=launch))


@some_steps
def test_what_is_recomputed_is_what_was_kept(step, feed):
    assert_same(gradients(step, feed), gradients(step, feed, recompute=True))


def test_recomputing_runs_every_block_again_and_can_be_undone(feed):
    student, batch = make_student(make_teacher()).train(), feed.batch(0)
    assert len(sharding_units(student)) == 2 + 1 + 2

    def flops() -> int:
        with FlopCounterMode(display=False) as counter:
            STEPS["2.2"].objective(student, None, batch).backward()
        return counter.get_total_flops()

    kept = flops()
    checkpoint_activations(student, True)
    assert flops() > 1.2 * kept
    checkpoint_activations(student, False)
    assert flops() == kept


@some_steps
def test_half_precision_follows_the_full_one_with_fp32_weights_and_sums(step, feed):
    student, teacher, batch = make_student(make_teacher()).train(), make_teacher(), feed.batch(0)
    step.optimisers(student)
    full = Trainee(student, teacher, step.objective)(batch)
    half = Trainee(student, teacher, step.objective, "bf16")(batch)
    sum(half).backward()
    for one, two in zip(full, half, strict=True):
        assert two.dtype == torch.float32 and two.item() == pytest.approx(one.item(), rel=0.1)
    trained = [w for w in student.parameters() if w.requires_grad]
    assert all(w.dtype == w.grad.dtype == torch.float32 and torch.isfinite(w.grad).all() for w in trained)


def test_what_runs_through_the_blocks_stays_wide_under_autocast(feed):
    student, batch, seen = make_student(make_teacher()), feed.batch(0), {}
    for unit in sharding_units(student):
        unit.register_forward_hook(lambda unit, _, out: seen.setdefault(
            type(unit).__name__, []).append((out[0] if isinstance(out, tuple) else out).dtype))
    with torch.autocast("cpu", torch.bfloat16):
        STEPS["2.2"].objective(student, None, batch)
    assert {dtype for found in seen.values() for dtype in found} == {torch.float32} and len(seen) == 2


def test_a_teacher_in_half_precision_keeps_its_rotary_frequencies():
    teacher = make_teacher()
    frequencies = teacher.model.rotary_emb.inv_freq.clone()
    halve(teacher)
    assert {weight.dtype for weight in teacher.parameters()} == {torch.bfloat16}
    assert teacher.model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.equal(teacher.model.rotary_emb.inv_freq, frequencies)


def test_eq_4_runs_where_autocast_refuses_its_formula(monkeypatch):
    """CUDA's autocast refuses F.binary_cross_entropy; a CPU's does not, so the refusal is put in by hand."""
    plain = torch.nn.functional.binary_cross_entropy

    def refusing(*arguments, **options):
        assert not torch.is_autocast_enabled("cpu"), "unsafe to autocast"
        return plain(*arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "binary_cross_entropy", refusing)
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = losses.boundary(torch.rand(2, 3), torch.ones(2, 3).bool(), torch.ones(2, 3).bool())
    assert total.dtype == torch.float32


def test_scan_states_stay_wide_under_autocast(student):
    with torch.autocast("cpu", torch.bfloat16):
        _, states = student.encoder.prefill(torch.randn(2, 9, 16), torch.tensor([9, 4]))
    assert all(state.ssm_BNI.dtype == torch.float32 for state in states)


def test_what_is_not_finite_stops_untouched_and_is_kept(feed, tmp_path):
    student = make_student(make_teacher())
    with torch.no_grad():
        student.encoder_projection.weight[0, 0] = float("nan")
    before = {name: weight.clone() for name, weight in student.named_parameters()}
    run = Run({}, root=tmp_path)
    with pytest.raises(FloatingPointError, match=r"update 0.*not_finite\.0"):
        train(run, STEPS["1.1"], feed, model=student, teacher=make_teacher())
    where = json.loads((run.folder / "not_finite.0" / "where.json").read_text())
    assert where["update"] == 0 and where["step"] == "1.1 align"
    kept = load_file(run.folder / "not_finite.0" / "batch.safetensors")
    assert torch.equal(kept["byte_ids"], feed.batch(0).byte_ids_BL)
    assert all(torch.equal(weight.nan_to_num(), before[name].nan_to_num())
               for name, weight in student.named_parameters())
    assert not run.is_complete() and run.sound_checkpoint() is None


def test_a_full_disk_is_told_and_leaves_the_last_checkpoint_complete(feed, tmp_path, monkeypatch):
    made, update, limits = [], trainer.train_on, resource.getrlimit(resource.RLIMIT_FSIZE)

    def filling(*arguments, **options):
        made.append(None)
        if len(made) == 4:  # three checkpoints are there: from now on no file may grow beyond a few kilobytes
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
        return update(*arguments, **options)

    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(trainer, "CHECKPOINT_SHARE", float("inf"))
    monkeypatch.setattr(trainer, "train_on", filling)
    run = Run({}, root=tmp_path)
    try:
        with pytest.raises(OSError, match="checkpoint could not be written"):
            train(run, STEPS["1.1"], feed, model=make_student(make_teacher()), teacher=make_teacher())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    state = json.loads((run.sound_checkpoint() / "state.json").read_text())
    assert state["update"] == 3 and not run.is_complete() and not list(run.folder.glob("*.tmp"))


@pytest.mark.parametrize("tied", [False, True])
def test_equal_frozen_weights_are_held_once_and_trained_ones_never(tied):
    teacher = make_teacher(tied=tied)
    student = make_student(teacher)
    STEPS["1.1"].thaw(student)
    core = sum(w.numel() for w in student.core.parameters())
    assert share_frozen(student, teacher) == 4 * (core + student.token_head.weight.numel())
    assert student.token_head.weight.data_ptr() == teacher.get_output_embeddings().weight.data_ptr()
    assert share_frozen(student, teacher) == 0

    student = make_student(teacher)
    STEPS["1.2"].thaw(student)
    assert share_frozen(student, teacher) == 4 * student.token_head.weight.numel()
    with torch.no_grad():
        student.token_head.weight = torch.nn.Parameter(student.token_head.weight + 1, requires_grad=False)
    assert share_frozen(student, teacher) == 0


def test_the_targets_of_step_1_1_are_a_look_up(feed):
    teacher, student, batch = make_teacher(), make_student(make_teacher()), feed.batch(0)
    alone = EmbeddingsOnly(teacher)
    assert sum(w.numel() for w in alone.parameters()) == teacher.get_input_embeddings().weight.numel()
    for name in ("1.1", "1.1+4"):
        step = STEPS[name]
        assert step.objective.reads_teacher == "embeddings"
        assert torch.equal(step.objective(student, alone, batch), step.objective(student, teacher, batch))
    assert STEPS["1.2"].objective.reads_teacher == "whole" and not STEPS["2.2+4"].objective.reads_teacher


@pytest.mark.parametrize("name, forwards", [("1.1", 0), ("1.2", 1), ("1.2 js", 1), ("1.3", 0), ("2.1", 0), ("2.2", 0)])
def test_the_teacher_runs_once_a_batch_and_without_a_graph(name, forwards, feed):
    teacher, student, seen = make_teacher(), make_student(make_teacher()).train(), []
    teacher.model.register_forward_hook(lambda *found: seen.append(found[-1].last_hidden_state.requires_grad))
    trainee = Trainee(student, teacher, STEPS[name].objective)
    train_on(feed.batch(0), STEPS[name], 1.0, trainee, STEPS[name].optimisers(student))
    assert seen == [False] * forwards and all(weight.grad is None for weight in teacher.parameters())


@pytest.mark.parametrize("backend, expected", [(None, "fast"), ("torch", "torch")])
def test_fp32_on_a_cpu_trains_by_the_fast_backend_unless_told_otherwise(backend, expected, feed, tmp_path, monkeypatch):
    entered = []
    monkeypatch.setattr(trainer, "fast_products", lambda: entered.append(True) or nullcontext())
    student = make_student(make_teacher())
    train(Run({}, root=tmp_path), STEPS["1.3"], feed, model=student, launch=Launch(backend=backend))
    assert {part.backend for part in student.modules() if isinstance(part, Mamba2)} == {expected}
    assert len(entered) == (expected == "fast")


GOLDEN = Path(__file__).with_name("golden_curve.json")


def curve(rows, tmp_path) -> dict[str, list[float]]:
    """Losses of twenty updates of every step, each continuing the one before."""
    teacher, student, losses = make_teacher(), make_student(make_teacher()), {}
    for step in PLAIN:
        run = Run({"step": step.name}, root=tmp_path)
        train(run, step, Feed(rows, 4, seed=0), model=student, teacher=teacher)
        losses[step.name] = [round(line["loss"], 6) for line in run.metrics()]
    return losses


def test_the_golden_curve(rows, tmp_path):
    """A change of these numbers must be meant: DBYTE_GOLDEN=write makes the file anew."""
    found = curve(rows, tmp_path)
    if os.environ.get("DBYTE_GOLDEN") == "write":
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    golden = json.loads(GOLDEN.read_text())
    assert found.keys() == golden.keys()
    for step, kept in golden.items():
        assert len(kept) == 20
        torch.testing.assert_close(torch.tensor(found[step]), torch.tensor(kept), rtol=2e-3, atol=2e-3, msg=step)


def test_tensorboard_gets_what_the_log_gets(feed, tmp_path):
    run = Run({}, root=tmp_path)
    train(run, STEPS["1.3"], feed, model=make_student(make_teacher()), launch=Launch(tensorboard=True))
    board = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    assert [(event.step, pytest.approx(event.value)) for event in board.Scalars("loss")] == [
        (line["update"], line["loss"]) for line in run.metrics()]


def test_muon_and_fsdp2_do_not_go_together(feed, tmp_path):
    """It is refused before a model or teacher is looked at."""
    launch = Launch(processes=Processes(sharding="fsdp2"))
    run = Run({}, root=tmp_path)
    with pytest.raises(ValueError, match=r"whole matrices.*\(hub, paper\)"):
        train(run, stage1(**BYTES, align_muon=0.01)[0], feed, model=None, launch=launch)
    with pytest.raises(ValueError, match="whole matrices"):
        run_steps(scale("smoke"), curriculum(scale("smoke")), seed=0, launch=launch)
    assert not run.folder.exists()
    for name in ("hub", "paper"):
        check_sharding(curriculum(scale(name)), "fsdp2")
