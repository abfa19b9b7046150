"""Many processes train as one: the same curve and weights, checkpoints that load in either, a count that is checked.

Two gloo processes on the CPU. Sums are taken in another order, so curves agree to 1e-4 and weights to 1e-4, no more.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import train_together
from conftest import TEXTS
from safetensors.torch import load_file
from train_together import LENGTH, UPDATES

from dbyte.distill.processes import Processes, join
from dbyte.distill.runs import Run
from dbyte.model.student import ByteStudent

HERE = Path(__file__).parent
CLOSE = dict(rtol=1e-4, atol=1e-4)


def launch(root: Path, count: int, *arguments: object, expected: int | None = None, check: bool = True,
           then: tuple[object, ...] = ()):
    """Run train_together.py in `count` processes: one that nothing stops is this one.

    then: the arguments of another training by the same processes, root first.
    """
    step, sharding, *rest = map(str, arguments)
    if count == 1 and not rest:
        train_together.main(root, step, sharding, "1")
        return None
    together = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    start = together if count > 1 else [sys.executable]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}"}
    found = subprocess.run([*start, str(HERE / "train_together.py"), str(root), step, sharding,
                            str(expected or count), *rest, *(["then", *map(str, then)] if then else [])],
                           env=environment, capture_output=True, text=True)
    assert not check or found.returncode == 0, found.stderr[-3000:]
    return found


@pytest.fixture(scope="module")
def folder(rows, tmp_path_factory):
    """Make a root of its own for a launch, with the rows in it."""
    def make(name: str) -> Path:
        root = tmp_path_factory.mktemp(name)
        rows.save(root / "rows.safetensors")
        return root

    assert rows.row_bytes == LENGTH
    return make


@pytest.fixture(scope="module")
def of_two_processes(folder):
    """The roots of a step by two processes, and of the step killed after three updates: one launch for all tests."""
    found = {}

    def train(step: str, sharding: str) -> tuple[Path, Path]:
        if (step, sharding) not in found:
            whole, killed = folder("together"), folder("killed")
            told = launch(whole, 2, step, sharding, then=(killed, step, sharding, 2, 3), check=False)
            assert told.returncode != 0 and "died after 3" in told.stderr, told.stderr[-3000:]
            found[step, sharding] = whole, killed
        return found[step, sharding]

    return train


def result(root: Path, step: str) -> tuple[list[float], dict[str, torch.Tensor]]:
    run = Run({"step": step}, root=root)
    assert run.is_complete()
    return [line["loss"] for line in run.metrics()], load_file(run.model_folder / "model.safetensors")


def assert_same(one, two) -> None:
    assert len(one[0]) == UPDATES
    torch.testing.assert_close(torch.tensor(one[0]), torch.tensor(two[0]), **CLOSE)
    assert one[1].keys() == two[1].keys()
    for name, weight in one[1].items():
        torch.testing.assert_close(two[1][name], weight, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")


def exhaustive(*values):
    return pytest.param(*values, marks=pytest.mark.exhaustive)


@pytest.fixture(scope="module")
def of_one_process(folder):
    """The curve and weights of a step by one process, trained once for all tests."""
    found = {}

    def train(step: str):
        if step not in found:
            root = folder("alone")
            launch(root, 1, step, "ddp")
            found[step] = result(root, step)
        return found[step]

    return train


@pytest.mark.parametrize("step, sharding", [
    ("1.2", "fsdp2"), exhaustive("1.2", "ddp"), exhaustive("1.3", "ddp"), exhaustive("2.1", "fsdp2"),
    exhaustive("2.2", "ddp")])
def test_two_processes_train_as_one(of_one_process, of_two_processes, step, sharding):
    """Also their snapshots are complete."""
    root, _ = of_two_processes(step, sharding)
    assert_same(of_one_process(step), result(root, step))
    run = Run({"step": step}, root=root)
    assert type(ByteStudent.from_pretrained(run.model_folder)) is ByteStudent
    for _, snapshot in run.snapshots():
        kept = load_file(snapshot / "model.safetensors")
        assert {name: weight.shape for name, weight in kept.items()} == {
            name: weight.shape for name, weight in result(root, step)[1].items()}


@pytest.mark.parametrize("before, after", [
    ((2, "fsdp2"), (1, "ddp")), exhaustive((1, "ddp"), (2, "fsdp2")), exhaustive((2, "ddp"), (1, "ddp"))])
def test_a_checkpoint_resumes_in_another_number_of_processes(folder, of_one_process, of_two_processes, before, after):
    if before[0] == 2:
        _, root = of_two_processes("1.2", before[1])
    else:
        root = folder("moved")
        assert launch(root, before[0], "1.2", before[1], 3, check=False).returncode != 0
    run = Run({"step": "1.2"}, root=root)
    assert run.sound_checkpoint() and not run.is_complete()
    launch(root, after[0], "1.2", after[1])
    assert_same(of_one_process("1.2"), result(root, "1.2"))


@pytest.mark.exhaustive
@pytest.mark.parametrize("sharding", ["fsdp2", "ddp"])
def test_one_of_four_is_killed_and_two_then_four_go_on(folder, of_one_process, sharding):
    """The others end within seconds, and not when their patience does; what they had written is sound."""
    root = folder("lost")
    began = time.monotonic()
    found = launch(root, 4, "1.2", sharding, "3:2", check=False)
    assert found.returncode != 0 and "exitcode  : -9" in found.stderr, found.stderr[-3000:]
    assert time.monotonic() - began < 300
    run = Run({"step": "1.2"}, root=root)
    assert not run.is_complete()
    assert json.loads((run.sound_checkpoint() / "state.json").read_text())["update"] == 3
    assert launch(root, 2, "1.2", sharding, 5 - 3, check=False).returncode != 0
    assert json.loads((run.sound_checkpoint() / "state.json").read_text())["update"] == 5
    launch(root, 4, "1.2", sharding)
    assert_same(of_one_process("1.2"), result(root, "1.2"))


@pytest.mark.exhaustive
def test_a_stream_resumes_in_another_number_of_processes(tokenizer, tmp_path):
    roots = [tmp_path / name for name in ("alone", "moved")]
    for root in roots:
        tokenizer.save_pretrained(root / "tokenizer")
        (root / "shards").mkdir()
        for shard in range(2):
            lines = [json.dumps({"text": f"{text} {number}."}) for number in range(40) for text in TEXTS[shard::2]]
            (root / "shards" / f"train-{shard}.jsonl").write_text("\n".join(lines))
    launch(roots[0], 1, "1.2", "ddp")
    assert launch(roots[1], 2, "1.2", "ddp", 3, check=False).returncode != 0
    run = Run({"step": "1.2"}, root=roots[1])
    state = json.loads((run.sound_checkpoint() / "state.json").read_text())
    assert state["feed"].keys() == {"0", "1"}, "the lanes of both processes are in one checkpoint"
    launch(roots[1], 1, "1.2", "ddp")
    assert_same(result(roots[0], "1.2"), result(roots[1], "1.2"))


@pytest.mark.exhaustive
def test_another_number_of_processes_than_asked_for_is_refused(folder):
    found = launch(folder("two"), 2, "1.2", "ddp", expected=3, check=False)
    assert found.returncode != 0 and "3 processes were asked for, but 2 met" in found.stderr


def test_a_single_process_needs_no_launcher():
    assert join() == Processes() and Processes().is_first
    assert Processes().total(torch.tensor([3])).tolist() == [3] and Processes().gathered("x") == ["x"]
    with pytest.raises(ValueError, match="unknown sharding"):
        join(sharding="zero3")
    with pytest.raises(ValueError, match="8 processes were asked for, but 1 met"):
        join(expected=8)
