"""`python -m dbyte train`: from a folder and a corpus to runs, alone and launched; wrong input is told."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from conftest import make_teacher
from safetensors.torch import load_file
from test_curriculum import TOY

from dbyte import presets
from dbyte.__main__ import is_too_large, main, parser
from dbyte.distill.curriculum import curriculum
from dbyte.distill.run_list import entries
from dbyte.distill.runs import Run
from dbyte.distill.teacher_source import WHEELS
from dbyte.model.teacher_sizes import CORES, core_config
from dbyte.paths import ROOT
from dbyte_paper.variants import Variant, run_variant

HERE = Path(__file__).parent


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(presets.SCALES, "toy", TOY)


def test_it_trains_through_a_step_and_says_where(toy, capsys):
    assert main(["train", "--scale", "toy", "--through", "1.2"]) == 0
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split()[0] for line in lines] == ["teacher", "1.1", "1.2"]
    assert all((Path(line.split()[1]) / "model.safetensors").exists() for line in lines)
    assert main(["train", "--scale", "toy", "--dry-run"]) == 0
    plan = [line.split() for line in capsys.readouterr().out.splitlines()[1:7]]
    assert [row[-1] for row in plan[:3]] == ["complete"] * 3
    assert [Path(line.split()[1]).parent.name for line in lines] == [row[2] for row in plan[:3]]
    assert [row[3] for row in plan[2:6]] == [row[2] for row in plan[1:5]], "each run continues the one before"


def test_the_list_of_runs_tells_whose_they_are_and_which_is_the_student_of_a_scale(toy, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dbyte", "train"])
    assert main(["train", "--scale", "toy", "--seed", "3"]) == 0
    run = Path(capsys.readouterr().out.splitlines()[-1].split()[1]).parent
    variant = Variant("head alone", curriculum(TOY)[:4])
    monkeypatch.setenv("DBYTE_NOTEBOOK", "05_ablation")
    other = run_variant(replace(TOY, stage2={**TOY.stage2, "head_bytes": 9_000}), replace(
        variant, steps=(*variant.steps[:3], replace(variant.steps[3], train_bytes=9_000))), seed=3, teacher_seed=3)[-1]
    assert main(["runs"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert re.search(r"complete +2\.2 full +toy +train +3 ", lines[run.name])
    assert re.search(r"complete +2\.1 head +toy +05_ablation +head alone +3 ", lines[other.folder.name])
    assert main(["runs", "show", "main", "--scale", "toy", "--seed", "3"]) == 0
    assert capsys.readouterr().out.splitlines()[6].startswith(run.name), "after its teacher and the steps before it"
    assert main(["runs", "show", "main", "--scale", "toy", "--seed", "99"]) == 2
    assert "the student of scale toy, seed 99, is not trained" in capsys.readouterr().err


def test_a_dry_run_trains_nothing(toy, tmp_path, monkeypatch, capsys):
    for module in ("teacher", "curriculum"):
        monkeypatch.setattr(f"dbyte.distill.{module}.Run", partial(Run, root=tmp_path))
    assert main(["train", "--scale", "toy", "--dry-run", "--through", "1.2"]) == 0
    out = capsys.readouterr().out
    assert out.count("after the teacher") == 2 and "3 of 3 runs would be trained, on 0.04 MB" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments, told", [
    (["--through", "3.1"], "--through must be one of teacher, 1.1"), (["--scale", "huge"], "unknown scale"),
    (["--corpus", "world"], "NAME=BYTES"), (["--corpus", "world=-1"], "corpora: world must be at least 1"),
    (["--scale", "smoke", "--set", "device=tpu", "--dry-run"], "device must be cpu, cuda or cuda:N, found 'tpu'"),
    (["--corpus", "world=1e30", "--dry-run"], "corpora: world must be at most 1,000,000,000,000,000, found 1"),
    (["--scale", "smoke", "--set", "teacher=SmolLM2-135", "--dry-run"], "did you mean smollm2-135m?"),
    (["--seed", "-1"], "--seed must be a whole number from 0"), (["--seed", str(2**63)], "9223372036854775807, found"),
    (["--batch-rows", "0"], "batch_rows must be at least 1"), (["--precision", "fp8"], "fp32 or bf16"),
    (["--sharding", "zero"], "unknown sharding"), (["--processes", "8"], "8 processes were asked for, but 1 met"),
    (["--backend", "slow"], "unknown backend 'slow'"), (["--device", "gpu"], "must be cpu, cuda or cuda:N"),
    (["--sharding", "fsdp2"], "'0 teacher' trains with Muon"),
    (["--scale", "small", "--teacher", "no/such/folder", "--sharding", "fsdp2"], "'1.1 align' trains with Muon"),
    (["--scale", "smoke", "--set", "student.byte_width=1e6", "--dry-run"], "its weights alone would take"),
    (["--teacher", "no/such/folder"], "no local folder and could not be fetched"),
])
def test_wrong_input_is_told_and_trains_nothing(toy, arguments, told, capsys):
    assert main(["train", "--scale", "toy", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_what_no_memory_holds_is_told_as_such_and_nothing_else_is():
    for make, too_large in ((lambda: torch.empty(2**60), True), (lambda: torch.empty(2**40, 2**40), True),
                            (lambda: np.empty(2**59), True), (lambda: torch.zeros(2) @ torch.zeros(3), False)):
        with pytest.raises((RuntimeError, MemoryError)) as raised:
            make()
        assert is_too_large(raised.value) == too_large, raised.value


def command(root: Path, teacher: Path, *arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    environment = {**os.environ, "DBYTE_ROOT": str(root), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent),
                   "ACCELERATE_USE_CPU": "true"}
    return subprocess.run(
        [sys.executable, *launcher, "-m", "dbyte", "train", "--scale", "smoke", "--teacher", str(teacher), "--corpus",
         "world=4e4", "--row-bytes", "2048", "--batch-rows", "8", "--through", "1.1", *arguments],
        env=environment, capture_output=True, text=True, cwd=root)


def test_what_is_not_installed_is_told_before_a_teacher_is_looked_for(toy, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for arguments, told in ((["--tensorboard"], "dbyte[tensorboard]"), (["--device", "cuda"], "device 'cuda'")):
        assert main(["train", "--scale", "toy", "--teacher", "no/such/folder", *arguments]) == 2
        assert told in capsys.readouterr().err


@pytest.fixture(scope="module")
def teacher_folder(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    make_teacher().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


ACCELERATE = ("-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1", "--mixed_precision",
              "no", "--dynamo_backend", "no")


@pytest.mark.exhaustive
@pytest.mark.parametrize("launcher", [
    ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
    (*ACCELERATE, "--multi_gpu", "--main_process_port", "29533")], ids=["torchrun", "accelerate"])
def test_two_launched_processes_end_with_the_run_of_one(launcher, teacher_folder, tmp_path):
    weights = []
    for name, start, processes in (("alone", (), "1"), ("launched", launcher, "2")):
        root = tmp_path / name
        root.mkdir()
        found = command(root, teacher_folder, "--processes", processes, launcher=start)
        assert found.returncode == 0, found.stderr[-3000:]
        assert found.stdout.count("updates; trains") == 1, "one process prints"
        (entry,) = entries(root / "runs")
        assert entry.facts["processes"] == int(processes)
        weights.append((entry.name, load_file(entry.folder / "model" / "model.safetensors")))
    (address, alone), (other, launched) = weights
    assert address == other, "how it is computed is no part of the address"
    for key, weight in alone.items():
        torch.testing.assert_close(launched[key], weight, rtol=2e-2, atol=2e-2, msg=key)


@pytest.mark.exhaustive
def test_the_launcher_that_starts_one_process_for_two_is_found_out(teacher_folder, tmp_path):
    found = command(tmp_path, teacher_folder, "--processes", "2", launcher=(*ACCELERATE, "--cpu"))
    assert found.returncode != 0 and "2 processes were asked for, but 1 met" in found.stderr + found.stdout


@pytest.mark.parametrize("name, count", [("one_gpu", 1), ("eight_gpus", 8)])
def test_launch_configurations_load_and_their_commands_parse(name, count):
    path = ROOT / "launch" / f"{name}.yaml"
    assert load_config_from_file(str(path)).num_processes == count
    line = path.read_text().splitlines()[0].split("-m dbyte ")[1].split()
    arguments = parser().parse_args(line)
    assert arguments.processes == count and arguments.scale in presets.SCALES


def test_every_named_teacher_is_pinned_and_known():
    assert presets.TEACHERS.keys() | WHEELS.keys() == CORES.keys(), "a hub name, or a wheel whose hash is pinned"
    assert all(len(wheel.sha256) == 64 for wheel in WHEELS.values())
    assert all(len(revision) == 40 and int(revision, 16) for revision in presets.TEACHERS.values())
    assert {core_config(name).model_type for name in presets.TEACHERS} == {"llama", "qwen3", "olmo2"}
    assert presets.scale("paper").teacher in presets.TEACHERS and presets.scale("hub").teacher in presets.TEACHERS
