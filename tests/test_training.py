"""The loop and its runs: frozen means frozen, resume == straight, verify is found, nothing is half-written."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from conftest import make_student
from safetensors.torch import load_file

from dbyte.distill import trainer
from dbyte.distill.loader import Feed
from dbyte.distill.runs import Run, atomic_dir, content_hash, verify
from dbyte.distill.steps import Group, Step, stage1, stage2
from dbyte.distill.trainer import train

BUDGET = 6 * 2 * 160  # six updates of two rows
STEPS = (stage1(align_bytes=BUDGET, distill_bytes=BUDGET, boundary_bytes=BUDGET)
         + stage2(head_bytes=BUDGET, full_bytes=BUDGET))


@pytest.fixture
def feed(rows):
    return Feed(rows, 2, seed=0)


@pytest.fixture
def straight(student, teacher, feed, tmp_path):
    """A run of step 1.2 from beginning to end."""
    run = Run({"what": "straight"}, root=tmp_path)
    train(run, STEPS[1], feed, model=student, teacher=teacher)
    return run


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


MUON = replace(STEPS[1], groups=(Group(("core",), 1e-3, muon_rate=1e-2), Group(("encoder",), 1e-3)))


@pytest.mark.parametrize("step", [STEPS[1], MUON], ids=["adamw", "muon"])
@pytest.mark.parametrize("stop_after", [1, 4])
def test_resume_equals_a_straight_run(step, stop_after, student, teacher, tokenizer, feed, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    straight = Run({"what": "straight"}, root=tmp_path)
    train(straight, step, feed, model=student, teacher=teacher)
    written, update = [], trainer.train_on

    def counted(*arguments, **options):
        if len(written) == stop_after:
            raise Killed
        written.append(None)
        return update(*arguments, **options)

    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(trainer, "CHECKPOINT_SHARE", float("inf"))
    monkeypatch.setattr(trainer, "train_on", counted)
    from conftest import make_teacher

    run = Run({"what": "killed"}, root=tmp_path)
    with pytest.raises(Killed):
        train(run, step, feed, model=make_student(make_teacher(), tokenizer), teacher=teacher)
    assert not run.is_complete()
    with run.metrics_path.open("a") as file:  # what a kill after the last checkpoint leaves behind
        file.write('{"update": 5, "loss": 0.0}\n{"upda')
    monkeypatch.setattr(trainer, "train_on", update)
    train(run, step, feed, model=make_student(make_teacher(), tokenizer), teacher=teacher)
    one, two = (load_file(r.model_folder / "model.safetensors") for r in (straight, run))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    lines = [[{k: v for k, v in line.items() if k != "seconds"} for line in r.metrics()] for r in (straight, run)]
    assert lines[0] == lines[1] and len(lines[0]) == 6


def test_a_finished_run_is_known_and_a_damaged_one_is_done_again(straight, capsys):
    assert straight.is_complete() and straight.facts()["updates"] == 6
    weights = straight.model_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert "model.safetensors is damaged" in verify(straight.model_folder)
    assert not straight.is_complete() and "model.safetensors" in capsys.readouterr().err


def test_an_unreadable_word_of_completion_is_named_and_the_run_done_again(straight, capsys):
    (straight.folder / "complete.json").write_text("{")
    assert not straight.is_complete() and "complete.json cannot be read" in capsys.readouterr().err


def test_what_a_killed_write_left_is_cleared_by_the_next_sitting(straight):
    (straight.folder / "checkpoint.1.tmp").mkdir()
    with straight.locked():
        assert not list(straight.folder.glob("*.tmp"))


def test_a_foreign_config_is_not_taken_for_this_run(straight):
    (straight.folder / "config.json").write_text(json.dumps({"what": "else"}))
    assert not straight.is_complete()


def test_two_processes_do_not_share_a_run(straight):
    with straight.locked(), pytest.raises(BlockingIOError, match="another process"), straight.locked():
        pass


def test_a_folder_is_atomic_dir_or_not_at_all(tmp_path):
    target = tmp_path / "checkpoint"
    with atomic_dir(target) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(OSError, match="disk full"), atomic_dir(target) as folder:
        (folder / "a").write_text("new")
        raise OSError("disk full")
    assert (target / "a").read_text() == "old" and verify(target) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]


def test_sigkill_leaves_a_run_that_resumes(tmp_path):
    script = (
        "import sys; sys.path.insert(0, sys.argv[2]); import conftest, time, pathlib\n"
        "from dbyte.distill import trainer; from dbyte.distill.loader import Feed; from dbyte.distill.runs import Run\n"
        "from test_training import STEPS\n"
        "from dbyte.text.packing import Rows\n"
        "trainer.CHECKPOINT_SECONDS, trainer.CHECKPOINT_SHARE = 0.0, float('inf'); slow = trainer.train_on\n"
        "trainer.train_on = lambda *a, **k: (time.sleep(0.2 * (sys.argv[3] == 'slow')), slow(*a, **k))[1]\n"
        "root = pathlib.Path(sys.argv[1]); teacher = conftest.make_teacher()\n"
        "trainer.train(Run({}, root=root), STEPS[0], Feed(Rows.load(root / 'rows.safetensors'), 2, 0),\n"
        "              model=conftest.make_student(conftest.make_teacher()), teacher=teacher)\n")
    from conftest import TEXTS

    from dbyte.distill.teacher import train_tokenizer
    from dbyte.text.packing import document, pack
    from dbyte.text.spans import TokenBytes

    table = TokenBytes.from_tokenizer(train_tokenizer(TEXTS * 2, vocabulary=270))
    rows = pack([document(a, table) for a in table.align_batch(TEXTS)], row_bytes=160)
    here = os.path.dirname(__file__)
    results, logged = [], []
    for name, speed in (("killed", "slow"), ("straight", "fast")):
        root = tmp_path / name
        root.mkdir()
        rows.save(root / "rows.safetensors")
        command = [sys.executable, "-c", script, str(root), here]
        if speed == "slow":
            process = subprocess.Popen([*command, speed], cwd=here)
            checkpoint = Run({}, root=root).checkpoint_folder
            while not checkpoint.exists() and process.poll() is None:
                pass
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert not Run({}, root=root).is_complete()
        subprocess.run([*command, "fast"], cwd=here, check=True)
        results.append(load_file(Run({}, root=root).model_folder / "model.safetensors"))
        logged.append([line | {"seconds": None} for line in Run({}, root=root).metrics()])
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[1])
    assert logged[0] == logged[1] and len(logged[1]) == 6


def test_a_loss_that_is_not_finite_stops_the_run(student, teacher, feed, tmp_path):
    with torch.no_grad():
        student.encoder_projection.weight.fill_(float("nan"))
    run = Run({}, root=tmp_path)
    with pytest.raises(FloatingPointError, match="update 0"):
        train(run, STEPS[0], feed, model=student, teacher=teacher)
    assert not run.is_complete()


def test_every_row_is_seen_once_a_pass_in_seeded_order(rows):
    feed = Feed(rows, 1, seed=3)
    seen = [feed.batch(i).byte_ids_BL.tolist() for i in range(len(rows))]
    assert sorted(map(str, seen)) == sorted(str([row]) for row in rows.batch(range(len(rows))).byte_ids_BL.tolist())
    again = Feed(rows, 1, seed=3, first_row=1)
    assert torch.equal(again.batch(0).byte_ids_BL, feed.batch(1).byte_ids_BL)


def test_the_schedule_rises_falls_and_ends_at_the_floor():
    step = Step("x", 1, STEPS[0].objective, (Group(("encoder",), 1.0),), 1, warmup=0.2, floor=0.1)
    rates = [step.lr_scale(i, 100) for i in range(100)]
    assert rates[19] == 1.0 and rates[0] == pytest.approx(0.05) and max(rates) == 1.0
    assert rates[:20] == sorted(rates[:20]) and rates[20:] == sorted(rates[20:], reverse=True)
    assert step.lr_scale(100, 100) == pytest.approx(0.1)


def test_snapshots_are_kept_and_load(student, teacher, feed, tmp_path):
    from dbyte.model.student import ByteStudent

    step = stage1(align_bytes=BUDGET, distill_bytes=1, boundary_bytes=1, snapshots=2)[0]
    run = Run({}, root=tmp_path)
    train(run, step, feed, model=student, teacher=teacher)
    assert [size for size, _ in run.snapshots()] == [640, 1280] and step.snapshot_updates(6) == {2, 4}
    assert isinstance(ByteStudent.from_pretrained(run.snapshots()[0][1]), ByteStudent)


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


def test_content_hash_sees_values_not_order():
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1}) != content_hash({"a": 2, "b": 1})
