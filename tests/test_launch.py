"""What travels to a machine without network and back: wheels, and a student without its teacher's weights; Colab."""

import ast
import dataclasses
import importlib.util
import os
import re
import subprocess
import sys
import tomllib

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_curriculum import TOY

from dbyte import presets
from dbyte.__main__ import parser
from dbyte.distill.curriculum import curriculum, run_steps
from dbyte.distill.teacher import teacher_run
from dbyte.model.student import ByteStudent
from dbyte.paths import ROOT
from dbyte_paper import pairing


def script(name):
    """A module of launch/."""
    specification = importlib.util.spec_from_file_location(name, ROOT / "launch" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


delta, wheels = script("delta"), script("wheels")


def test_the_scale_of_one_gpu_gives_every_step_the_rows_of_a_gpu(monkeypatch, tmp_path):
    monkeypatch.setenv("DBYTE_TEXT", str(tmp_path))
    given = presets.scale(str(ROOT / "launch" / "real_gpu.toml"))
    assert {step.batch_rows or given.batch_rows for step in curriculum(given)} == {given.batch_rows}
    assert {step.batch_rows for step in curriculum(presets.scale("real")) if step.stage == 2} == {2}, "as on a CPU"


def test_all_of_it_ends_within_twelve_minutes_and_each_command_within_eight():
    lines = (ROOT / "launch" / "real_gpu.sh").read_text().split("\n  2)\n")
    limits = [sum(int(seconds) for seconds in re.findall(r"^ *limited (\d+) ", part, re.M)) for part in lines]
    assert len(limits) == 2 and min(limits) > 0 and max(limits) <= 480 and sum(limits) <= 720


@pytest.fixture(scope="module")
def scale():
    """The toy scale around a teacher that is a folder, with fewer bytes."""
    return dataclasses.replace(TOY, teacher=str(teacher_run(TOY, seed=0)), stage1=TOY.stage1 | dict(align_bytes=4_000))


def test_a_student_is_put_together_from_what_came_back(scale, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(delta, "MOST_BYTES", 8_000)
    folder = run_steps(scale, curriculum(scale)[:1], seed=0)[0].model_folder
    delta.take_apart(scale, tmp_path / "back")
    files = sorted((tmp_path / "back").glob("*.safetensors"))
    assert len(files) > 2 and "NOT in these files" not in capsys.readouterr().out
    assert not any(name.startswith(delta.TEACHERS) for path in files for name in load_file(path))
    assert (tmp_path / "back" / "curves.json").read_text().startswith('{"1.1 align": [{')
    delta.join(scale, tmp_path / "back", tmp_path / "whole")
    trained, found = (ByteStudent.from_pretrained(each).state_dict() for each in (folder, tmp_path / "whole"))
    for name, weight in trained.items():
        torch.testing.assert_close(found[name], weight, rtol=2**-8, atol=0, msg=name)
    files[0].unlink()
    with pytest.raises(ValueError, match="must hold the files of one step"):
        delta.join(scale, tmp_path / "back", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_core_that_has_trained_is_told(scale, tmp_path, capsys):
    model = run_steps(scale, curriculum(scale)[:1], seed=0)[0].model_folder / "model.safetensors"
    weights = load_file(model)
    before = model.read_bytes()
    try:
        save_file(weights | {"core.norm.weight": 2 * weights["core.norm.weight"]}, model)
        with pytest.MonkeyPatch.context() as patch:  # the run counts as complete, although its checksum is another
            patch.setattr("dbyte.distill.runs.verify", lambda folder: None)
            delta.take_apart(scale, tmp_path)
    finally:
        model.write_bytes(before)
    assert "1 tensors of the core have trained and are NOT in these files" in capsys.readouterr().out


def test_what_a_machine_has_does_not_travel_and_what_it_needs_does():
    everything = wheels.needed(["datasets"], set())
    assert {"datasets", "pyarrow", "dill"} <= everything.keys()
    some = wheels.needed(["datasets"], {"pyarrow", "torch"})
    assert "pyarrow" not in some and some["dill"] == everything["dill"]
    assert "socksio" not in wheels.needed(["httpx"], set()), "extras that nobody asked for"


# -- launch/colab.ipynb -----------------------------------------------------------------------------------------------

COLAB = ROOT / "launch" / "colab.py"


def cells(*, without=()):
    """The code cells of launch/colab.py, but for those with a tag of `without`."""
    return [cell.source for cell in pairing.read_script(COLAB).cells
            if cell.cell_type == "code" and not set(pairing.tags(cell)) & set(without)]


def test_the_notebook_for_one_gpu_agrees_with_its_script_and_shows_no_outputs():
    paired = pairing.read_notebook(COLAB.with_suffix(".ipynb"))
    assert not pairing.mismatches(pairing.read_script(COLAB), paired), "dbyte_paper.pairing.sync(COLAB)"
    assert not [cell for cell in paired.cells if cell.get("outputs")]


def test_what_the_notebook_for_one_gpu_installs_and_runs_exists():
    lists = [[one.value if isinstance(one, ast.Constant) else ast.unparse(one) for one in node.elts]
             for source in cells() for node in ast.walk(ast.parse(source)) if isinstance(node, ast.List)]
    (install,) = [each for each in lists if "pip" in each]
    assert (ROOT / install[install.index("-c") + 1]).is_file()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert install[-1].removeprefix(".[").removesuffix("]") in project["optional-dependencies"]
    (command,) = [each for each in lists if "dbyte" in each and "-m" in each]
    given = pairing.parameters(pairing.read_script(COLAB), name="colab")
    asked = parser().parse_args([str(given.get(word, word)) for word in command[command.index("dbyte") + 1:]])
    assert asked.scale in presets.SCALES and asked.device == "cuda"
    assert len(pairing.find_scripts(ROOT / "notebooks", only=asked.only)) == len(asked.only.split(","))


@pytest.mark.exhaustive
def test_all_of_the_notebook_for_one_gpu_but_the_installing_runs_on_a_cpu(tmp_path):
    """In an empty folder, as on Colab, with a clone of this checkout and the notebook that trains nothing."""
    given = f"source, notebooks, device = {str(ROOT)!r}, '99', 'cpu'"
    first, imports, place, *rest = cells(without=["install"])
    program = "\n".join([first, given, imports, place, "python = sys.executable", *rest])
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "DBYTE_ROOT")}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=clean, capture_output=True, text=True,
                          timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(tmp_path / "dbyte") in done.stdout and "[99_claims] done in" in done.stdout
    assert (tmp_path / "dbyte" / "results" / "smoke" / "REPORT.md").is_file()


@pytest.mark.exhaustive
def test_every_part_of_the_check_of_a_gpu_runs_at_toy_size_on_a_cpu(tmp_path):
    """But the kernels of mamba-ssm, which have no other device."""
    check = ROOT / "launch" / "gpu_check.sh"
    done = subprocess.run([check, tmp_path / "out"], env=os.environ | {"DEVICE": "cpu", "PYTHON": sys.executable},
                          cwd=tmp_path, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = [line for line in check.read_text().splitlines() if line.strip().startswith("part ")]
    assert sum(int(line.split()[1]) for line in parts) <= 480, "eight minutes"
    told = (tmp_path / "out" / "gpu_check.md").read_text()
    for name in (line.split()[2] for line in parts if "triton" not in line):
        assert f"## {name}\n\nStatus 0 " in told
    assert told.count("| 2.2 full |") == 2
    assert "| kl, V = 1,024 | 16 |" in told and "| targets, V = 1,024 | 16 |" in told
    assert not [*(ROOT / "benchmarks").glob("steps-*.md")]


def test_a_part_of_the_check_that_does_not_end_loses_only_itself(tmp_path):
    """The function `part` of the script, alone."""
    script = (ROOT / "launch" / "gpu_check.sh").read_text()
    function = script[script.index("failed=0"):script.index("\n}\n") + 3]
    said = "kl: X, random weights. CPU.\nCopies at 3,000 GB/s, 9 MB of weights.\n| quick |\nLoading weights: 3%"
    calls = f"part 1 slow bash -c 'echo \"| kept |\"; sleep 60'\npart 9 next echo '{said}'\nexit $failed\n"
    done = subprocess.run(["bash", "-c", f"out={tmp_path}\n{function}{calls}"], capture_output=True, text=True,
                          timeout=60)
    told = (tmp_path / "gpu_check.md").read_text()
    assert done.returncode == 1 and re.search(r"slow: status 124 after \d s of at most 1\n", done.stdout)
    assert "| kept |" in told and "## next\n\nStatus 0 " in told
    assert told.endswith(said.rpartition("\n")[0] + "\n"), "what a table is of stands above it"
