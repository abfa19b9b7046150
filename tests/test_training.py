"""The loop and its runs: frozen means frozen, resumed == uninterrupted, damage is found, nothing is half-written."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
import train_together
from conftest import make_student, make_teacher
from safetensors.torch import load_file, save_file

from dbyte.distill import trainer
from dbyte.distill.interrupts import noted_interrupts
from dbyte.distill.loader import Feed
from dbyte.distill.run_list import is_held
from dbyte.distill.runs import Run, atomic_dir, verify
from dbyte.distill.steps import Group, Step, stage1, stage2
from dbyte.distill.trainer import train

HERE = Path(__file__).resolve().parent
BUDGET = 6 * 2 * 160  # six updates of two rows
STEPS = (stage1(align_bytes=BUDGET, distill_bytes=BUDGET, boundary_bytes=BUDGET)
         + stage2(head_bytes=BUDGET, full_bytes=BUDGET))
MUON = replace(STEPS[1], groups=(Group(("core",), 1e-3, muon_rate=1e-2), Group(("encoder",), 1e-3)))


@pytest.fixture
def feed(rows):
    return Feed(rows, 2, seed=0)


@pytest.fixture
def finished(student, teacher, feed, tmp_path):
    """A complete run of step 1.2."""
    run = Run({"what": "straight"}, root=tmp_path)
    train(run, STEPS[1], feed, model=student, teacher=teacher)
    return run


def weights_of(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.model_folder / "model.safetensors")


def assert_same_run(one: Run, two: Run) -> None:
    """The same weights to the bit, and the same log but for its seconds."""
    first, second = weights_of(one), weights_of(two)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    logs = [[line | {"seconds": None} for line in run.metrics()] for run in (one, two)]
    assert logs[0] == logs[1] and len(logs[0]) == 6


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_what_a_step_trains_moves_and_nothing_else(step, student, teacher, feed, tmp_path):
    before = {name: weight.clone() for name, weight in student.named_parameters()}
    kept = {name: weight.clone() for name, weight in teacher.named_parameters()}
    train(Run({}, root=tmp_path), step, feed, model=student, teacher=teacher)
    parts = [part for group in step.groups for part in group.parts]
    for name, weight in student.named_parameters():
        if name == "null_E":  # every packed document begins with BOS, a chunk of its own: no byte sees NULL
            continue
        trained = any(name == part or name.startswith(part + ".") for part in parts)
        assert torch.equal(weight, before[name]) != trained, name
    assert all(torch.equal(weight, kept[name]) for name, weight in teacher.named_parameters())


@pytest.mark.parametrize("step, stop_after", [(STEPS[1], 4), (MUON, 1)], ids=["adamw", "muon"])
def test_a_resumed_run_equals_an_uninterrupted_one(step, stop_after, student, teacher, tokenizer, feed, tmp_path,
                                                   monkeypatch):
    class Killed(BaseException):
        pass

    straight = Run({"what": "straight"}, root=tmp_path)
    train(straight, step, feed, model=student, teacher=teacher)
    done, update = [], trainer.train_on

    def counted(*arguments, **options):
        if len(done) == stop_after:
            raise Killed
        done.append(None)
        return update(*arguments, **options)

    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(trainer, "CHECKPOINT_SHARE", float("inf"))
    monkeypatch.setattr(trainer, "train_on", counted)
    run = Run({"what": "killed"}, root=tmp_path)
    with pytest.raises(Killed):
        train(run, step, feed, model=make_student(make_teacher(), tokenizer), teacher=teacher)
    assert run.status() == "resumable" and not run.is_complete()
    with run.metrics_path.open("a") as file:  # what a kill after the last checkpoint leaves
        file.write('{"update": 5, "loss": 0.0}\n{"upda')
    monkeypatch.setattr(trainer, "train_on", update)
    train(run, step, feed, model=make_student(make_teacher(), tokenizer), teacher=teacher)
    assert_same_run(straight, run)


ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def forks():
    """A server of processes that have imported what a training needs, and have done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_training"])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        forkserver.ensure_running()
    return context


def trained_apart(told: Path, *arguments: str) -> None:
    """In a process of its own: `train_together.main`, with what it says of errors in a file."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as Python has it when it starts
    os.dup2(os.open(told, os.O_WRONLY | os.O_CREAT), sys.stderr.fileno())
    train_together.main(*arguments)


@pytest.fixture
def slow(forks, rows, tmp_path):
    """Start a training in a process of its own: seconds an update takes longer, seconds between checkpoints."""
    rows.save(tmp_path / "rows.safetensors")
    run = Run({"step": "1.1"}, root=tmp_path)

    def start(*seconds: str) -> tuple[BaseProcess, Run]:
        process = forks.Process(target=trained_apart,
                                args=(tmp_path / "told", tmp_path, "1.1", "ddp", "1", "0", *seconds))
        process.start()
        return process, run

    return start


def assert_goes_on(run: Run, root: Path) -> None:
    """A stopped run, gone on with here, equals one that nobody stopped."""
    straight = Run({"what": "straight"}, root=root)
    for one in (straight, run):
        train(one, train_together.STEPS["1.1"], train_together.feed(root), model=make_student(make_teacher()),
              teacher=make_teacher())
    assert_same_run(straight, run)


def test_a_run_that_is_killed_at_any_moment_resumes(slow, tmp_path):
    process, run = slow("0.2", "0")
    while not run.checkpoint_folder.exists() and process.is_alive():
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL and run.status() == "resumable"
    assert_goes_on(run, tmp_path)


def interrupted(process: BaseProcess, run: Run, *numbers: int) -> str:
    """What it says that gets these signals after its second update, long before a checkpoint is due."""
    while process.is_alive() and not (run.metrics_path.exists() and run.metrics_path.read_text().count("\n") == 2):
        time.sleep(0.01)
    for number in numbers:
        time.sleep(0.2)  # into the third update
        os.kill(process.pid, number)
    process.join()
    return (run.folder.parent / "told").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.exhaustive)])
def test_an_interrupted_run_keeps_what_it_did_and_resumes_there(number, slow, tmp_path, capsys):
    process, run = slow("1", "60")
    told = interrupted(process, run, number)
    assert process.exitcode == -number or "KeyboardInterrupt" in told, "it ends as if nothing had caught the signal"
    assert "a checkpoint is written" in told and run.status() == "resumable"
    assert json.loads((run.sound_checkpoint() / "state.json").read_text())["update"] == 3 == len(run.metrics())
    assert_goes_on(run, tmp_path)
    assert capsys.readouterr().out.count("6 updates, resumed at 3;") == 1


def test_a_second_interrupt_ends_a_run_at_once(slow):
    process, run = slow("1", "60")
    assert "KeyboardInterrupt" in interrupted(process, run, signal.SIGINT, signal.SIGINT)
    assert len(run.metrics()) == 2 and run.sound_checkpoint() is None


def test_a_signal_does_after_an_update_what_it_did_before_and_an_ignored_one_nothing():
    heard = []
    before = [signal.signal(signal.SIGTERM, lambda *_: heard.append("term")),
              signal.signal(signal.SIGINT, signal.SIG_IGN)]
    try:
        with pytest.raises(KeyboardInterrupt), noted_interrupts() as noted:
            signal.raise_signal(signal.SIGINT)
            assert noted == []
            signal.raise_signal(signal.SIGTERM)
            assert noted == [signal.SIGTERM] and heard == []
        assert heard == ["term"] and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])


FULL = """
import pathlib, sys
import conftest
from dbyte.atomic import atomic_write
from dbyte.distill import trainer
from dbyte.distill.loader import Feed
from dbyte.distill.runs import Run
from dbyte.text.packing import Rows
from test_training import STEPS

root = pathlib.Path(sys.argv[1])
rows = Rows.load(root / "rows.safetensors")
disk = root / "disk"
run = Run({}, root=disk)
for attempt in (lambda: atomic_write(disk / "text", "x" * 400_000), lambda: trainer.train(
        run, STEPS[0], Feed(rows, 2, 0), model=conftest.make_student(conftest.make_teacher()),
        teacher=conftest.make_teacher())):
    try:
        attempt()
    except OSError as error:
        print(error)
print([path.name for path in run.folder.iterdir() if path.is_dir()])
"""
MOUNT = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=$0 none "$1" && shift && exec "$@"']


def test_a_full_disk_is_told_with_what_it_has_and_what_is_needed(rows, tmp_path):
    """Where a file and a model do not fit; a checkpoint that does not is asked about in test_engine.py."""
    rows.save(tmp_path / "rows.safetensors")
    disk, size = tmp_path / "disk", 160_000
    disk.mkdir()
    if subprocess.run([*MOUNT, str(size), disk, "true"], capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here: what a full one does is not checked; allow user namespaces")
    done = subprocess.run([*MOUNT, str(size), disk, sys.executable, "-c", FULL, tmp_path], env=ENVIRONMENT,
                          capture_output=True, text=True, check=True)
    told = re.findall(r"^(/.*) could not be written .*No space left.*: ([\d.]+) MB are free there, ([\d.]+) MB are "
                      "needed", done.stdout, re.MULTILINE)
    assert [name for name, _, _ in told] == [str(disk / "text"), str(Run({}, root=disk).folder / "model")]
    assert all(0.7 * size < 1e6 * float(free) < 1.2 * size for _, free, _ in told), told
    assert all(float(free) < float(needed) for _, free, needed in told), told
    assert done.stdout.splitlines()[-1] == "[]", "nothing is half-written"


@pytest.mark.parametrize("name, damage, told", [
    ("model/model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\0"), "is damaged"),
    ("complete.json", lambda path: path.write_text("{"), "cannot be read"),
    ("config.json", lambda path: path.write_text(json.dumps({"what": "else"})), "does not describe this run")])
def test_a_damaged_run_is_named_and_done_again(finished, name, damage, told, capsys):
    assert finished.status() == "complete" and finished.is_complete() and finished.facts()["updates"] == 6
    damage(finished.folder / name)
    assert finished.status() == "damaged" and not finished.is_complete()
    assert told in capsys.readouterr().err and finished.status() == "new"


def test_a_run_is_held_by_one_process_and_cleared_of_what_a_killed_one_left(finished):
    (finished.folder / "checkpoint.1.tmp").mkdir()
    with finished.locked():
        assert not list(finished.folder.glob("*.tmp"))
        assert is_held(finished.folder)


@pytest.mark.parametrize("umask", [0o022, 0o007])
def test_what_is_written_has_the_rights_that_the_umask_leaves(umask, tmp_path):
    """safetensors alone would write its files for their owner."""
    before = os.umask(umask)
    try:
        with atomic_dir(tmp_path / "model") as folder:
            save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
            (folder / "more").mkdir()
            (folder / "more" / "text").write_text("plain")
    finally:
        os.umask(before)
    rights = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert rights == dict.fromkeys(("model.safetensors", "text", "sums.json"), 0o666 & ~umask)


def test_a_folder_is_written_in_full_or_not_at_all(tmp_path):
    target = tmp_path / "checkpoint"
    with atomic_dir(target) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(OSError, match="disk full"), atomic_dir(target) as folder:
        (folder / "a").write_text("new")
        raise OSError("disk full")
    assert (target / "a").read_text() == "old" and verify(target) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]


def test_every_row_is_seen_once_a_pass_in_seeded_order(rows):
    feed = Feed(rows, 1, seed=3)
    seen = [feed.batch(i).byte_ids_BL.tolist() for i in range(len(rows))]
    assert sorted(map(str, seen)) == sorted(str([row]) for row in rows.batch(range(len(rows))).byte_ids_BL.tolist())
    again = Feed(rows, 1, seed=3)
    again.follow({"next_row": 1})
    assert torch.equal(again.batch(0).byte_ids_BL, feed.batch(1).byte_ids_BL)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_the_shares_of_an_update_are_the_update(rows, parts):
    feed = Feed(rows, 4, seed=0)
    shares = [number for part in range(parts) for number in feed.row_numbers(3, part=part, parts=parts)]
    assert shares == list(feed.row_numbers(3))
    with pytest.raises(ValueError, match="3 processes cannot share equally"):
        feed.row_numbers(0, part=0, parts=3)


def test_the_schedule_rises_falls_and_ends_at_the_floor():
    step = Step("x", 1, STEPS[0].objective, (Group(("encoder",), 1.0),), 1, warmup=0.2, floor=0.1)
    scales = [step.lr_scale(i, 100) for i in range(100)]
    assert scales[19] == 1.0 and scales[0] == pytest.approx(0.05) and max(scales) == 1.0
    assert scales[:20] == sorted(scales[:20]) and scales[20:] == sorted(scales[20:], reverse=True)
    assert step.lr_scale(100, 100) == pytest.approx(0.1)


def test_weight_decay_spares_norms_biases_and_the_mambas_own(student):
    groups = [group for optimiser in STEPS[4].optimisers(student) for group in optimiser.param_groups]
    names = {id(weight): name for name, weight in student.named_parameters()}
    decayed = {names[id(w)] for g in groups if g["weight_decay"] for w in g["params"]}
    spared = {names[id(w)] for g in groups if not g["weight_decay"] for w in g["params"]}
    assert any(name.endswith("in_proj.weight") for name in decayed) and "byte_embedding.weight" in spared
    assert all(any(part in name for part in ("norm", "bias", "A_log", ".D", "null_E", "embedding")) for name in spared)


def test_wrong_steps_are_refused(student):
    with pytest.raises(ValueError, match="byte budget"):
        stage1(align_bytes=0, distill_bytes=1, boundary_bytes=1)
    with pytest.raises(ValueError, match="names no"):
        Step("x", 1, STEPS[0].objective, (Group(("encodr",), 1.0),), 1, 0.1).optimisers(student)
