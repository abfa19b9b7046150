"""Two processes that need one run: one trains it and the other waits, and neither breaks what the other reads."""

import fcntl
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from conftest import TEXTS

from dbyte import presets
from dbyte.distill import run_list, runs, trainer
from dbyte.distill import teacher as teacher_module
from dbyte.distill.loader import Feed
from dbyte.distill.runs import Run
from dbyte.distill.steps import stage1
from dbyte.distill.trainer import train

UPDATES = 6
BUDGET = UPDATES * 2 * 160  # updates of two rows
STEP = stage1(align_bytes=BUDGET, distill_bytes=BUDGET, boundary_bytes=BUDGET)[0]


def later(action, *arguments):
    """Call it after the waiting process has said that it waits."""
    threading.Timer(1.0, action, arguments).start()


@pytest.mark.parametrize("end", ["finished", "killed"])
def test_two_that_need_one_training_train_once(end, student, teacher, rows, tmp_path, monkeypatch, capsys):
    """The second waits, and trains if the first was killed. A lock is of an open file: one process can be two."""
    run, made, update = Run({"what": "both"}, root=tmp_path), [], trainer.train_on
    monkeypatch.setattr(trainer, "train_on", lambda *a, **k: made.append(None) or update(*a, **k))
    held = ExitStack()
    held.enter_context(run.locked())

    def stop():
        if end == "finished":
            run.complete(lambda folder: (folder / "weights").write_text("trained"), facts={})
        held.close()

    later(stop)
    train(run, STEP, Feed(rows, 2, seed=0), model=student, teacher=teacher)
    assert run.is_complete() and len(made) == (0 if end == "finished" else UPDATES)
    assert capsys.readouterr().out.count(f"{run.hash[:16]}: another process works on it, waiting") == 1


def test_ctrl_c_ends_the_waiting(tmp_path):
    run = Run({}, root=tmp_path)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    try:
        with run.locked():
            later(os.kill, os.getpid(), signal.SIGINT)
            with pytest.raises(KeyboardInterrupt), run.locked():
                pass
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_run_that_was_pruned_while_another_waited_is_made_again_and_held(tmp_path):
    run = Run({}, root=tmp_path)
    run.folder.mkdir()
    lock = (run.folder / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)

    def prune():
        run.folder.rename(tmp_path / "gone")
        lock.close()

    later(prune)
    with run.locked():
        assert run_list.is_held(run.folder) and (run.folder / "config.json").exists()


def test_two_processes_may_find_the_same_damage(tmp_path, monkeypatch):
    run = Run({}, root=tmp_path)
    with run.locked():
        run.complete(lambda folder: (folder / "weights").write_text("whole"), facts={})

    def other_was_first(folder):
        (run.folder / "complete.json").unlink()
        return "weights are damaged"

    monkeypatch.setattr(runs, "verify", other_was_first)
    assert not run.is_complete()


def test_two_writers_train_a_tokenizer_once(tmp_path, monkeypatch):
    """A second writer would move the folder that the first one has begun to read."""
    scale, trained = presets.scale("smoke"), []
    made = teacher_module.train_tokenizer(TEXTS * 8, vocabulary=300)

    def slow(*_, **__):
        trained.append(None)
        time.sleep(0.5)
        return made

    monkeypatch.setattr(teacher_module, "RUNS", tmp_path)
    monkeypatch.setattr(teacher_module, "training_corpora", lambda *_, **__: [])
    monkeypatch.setattr(teacher_module, "train_tokenizer", slow)
    with ThreadPoolExecutor(2) as both:
        found = list(both.map(lambda _: teacher_module._tokenizer(scale, continued=None, seed=0), range(2)))
    assert len(trained) == 1 and [len(one) for one in found] == [300, 300]
