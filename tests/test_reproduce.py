"""The runner: checks before it runs, runs in its own interpreter, leaves whole files, writes pairs that stay so."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch

from dbyte import paths
from dbyte.__main__ import main
from dbyte.notebook.execution import own_kernel
from dbyte.notebook.pairing import (
    differences,
    find_scripts,
    parameters,
    read_notebook,
    read_script,
    sync,
    with_outputs,
    write_notebook,
)
from dbyte.notebook.reproduce import TIMES, remember, remembered, reproduce
from dbyte.report.results import read_results
from dbyte.text import files

HEADER = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A title

"""
PARAMETERS = '# %% tags=["parameters"]\nscale = "smoke"\nseed = 0\n\n'
READING = '# %%\nimport os, sys\nprint(sys.executable, scale, seed, os.getcwd())\n'


def script(folder, name, body=PARAMETERS + READING):
    path = folder / f"{name}.py"
    path.write_text(HEADER + body, encoding="utf-8")
    return path


def outputs(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    return "".join(output.get("text", "") for cell in cells for output in cell.outputs)


def run(folder, scale="smoke", **kwargs):
    return reproduce(scale, out=folder / "out", notebooks=folder, results=folder / "results", **kwargs)


def test_a_run_uses_this_interpreter_and_the_given_parameters_from_the_root(tmp_path, monkeypatch, capsys):
    """A stale user kernel of the same name must lose, and the caller's folder must not matter."""
    stale = tmp_path / "user" / "kernels" / "python3"
    stale.mkdir(parents=True)
    stale.joinpath("kernel.json").write_text(json.dumps(
        {"argv": ["/nonexistent/python", "-f", "{connection_file}"], "display_name": "stale", "language": "python"}))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "user"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    monkeypatch.chdir(tmp_path)
    script(tmp_path, "00_first")
    script(tmp_path, "01_second", PARAMETERS + "# %%\nprint(scale, seed)\n")
    assert run(tmp_path, seed=7, only="00") == 0
    assert outputs(tmp_path / "out" / "00_first.ipynb").split() == [sys.executable, "smoke", "7", str(paths.ROOT)]
    assert not (tmp_path / "out" / "01_second.ipynb").exists()
    log = capsys.readouterr().out
    assert "A title" in log and "[00_first] done in" in log and "out/00_first.ipynb" in log
    assert f"| {sys.executable} smoke 7" in log, "what a notebook prints shows while it runs"
    times = read_results(TIMES, scale="smoke", folder=tmp_path / "results")
    assert list(times["notebook"]) == ["00_first"] and times.at[0, "value"] > 0
    assert not (tmp_path / "00_first.ipynb").exists(), "smoke writes nothing beside the scripts"
    report = tmp_path / "results" / "smoke" / "REPORT.md"
    assert "00_first" in report.read_text(encoding="utf-8") and report.with_suffix(".html").exists()
    assert not (tmp_path / "results" / "REPORT.md").exists(), "the committed report is not smoke's"


def test_the_device_goes_to_every_kernel_and_one_that_is_not_here_is_refused_before_anything_runs(
        tmp_path, monkeypatch, capsys):
    script(tmp_path, "00_first", PARAMETERS + "# %%\nfrom dbyte.presets import scale as of\n"
                                               "print(scale, seed, of('gpu').device)\n")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("DBYTE_DEVICE", "cpu")
    assert run(tmp_path) == 0 and outputs(tmp_path / "out" / "00_first.ipynb").split() == ["smoke", "0", "cpu"]
    (tmp_path / "out" / "00_first.ipynb").unlink()
    for device in ("cuda:1", "gpu", "cuda:x", "cuda:-1"):
        assert main(["reproduce", "--device", device, "--out", str(tmp_path / "out")]) == 2
        assert f"device '{device}' was asked for, which is not here" in capsys.readouterr().err
    monkeypatch.setenv("DBYTE_DEVICE", "cuda")
    with pytest.raises(ValueError, match="device 'cuda' was asked for"):
        run(tmp_path)
    assert not (tmp_path / "out" / "00_first.ipynb").exists()


def test_text_of_ones_own_that_is_not_there_is_missed_before_anything_runs(tmp_path, monkeypatch):
    script(tmp_path, "00_first")
    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DBYTE_DEVICE", "cpu")
    with pytest.raises(FileNotFoundError, match="no file or folder 'text'.*put .txt or .jsonl files there"):
        run(tmp_path, scale="gpu")
    assert not (tmp_path / "out").exists()


def test_times_of_another_device_are_not_remembered(tmp_path):
    remember({"00_first": 9.0, "01_second": 3.0}, scale="smoke", seed=0, results=tmp_path, device="cpu")
    remember({"00_first": 5.0}, scale="smoke", seed=0, results=tmp_path, device="cpu")
    kept = remembered("smoke", results=tmp_path, device="cpu")
    assert {name: row["value"] for name, row in kept.items()} == {"00_first": 9.0, "01_second": 3.0}
    assert remembered("smoke", results=tmp_path, device="cuda") == {}


def test_seeds_of_ablations_go_to_the_notebooks_that_have_them(tmp_path, capsys):
    script(tmp_path, "00_first")
    script(tmp_path, "01_ablation", PARAMETERS.rstrip() + "\nablation_seeds = None\n\n"
                                    "# %%\nprint(scale, seed, ablation_seeds)\n")
    assert run(tmp_path, ablation_seeds=2) == 0
    assert outputs(tmp_path / "out" / "01_ablation.ipynb").split() == ["smoke", "0", "2"]
    assert run(tmp_path, only="01") == 0
    assert outputs(tmp_path / "out" / "01_ablation.ipynb").split() == ["smoke", "0", "None"]
    for seeds, only, message in ((0, None, "at least one seed, found 0"),
                                 (1, "00", "none of these notebooks has a parameter 'ablation_seeds'")):
        with pytest.raises(ValueError, match=message):
            run(tmp_path, ablation_seeds=seeds, only=only)


def test_a_failing_notebook_is_shown_and_never_taken_for_a_whole_one(tmp_path, capsys):
    script(tmp_path, "00_bad", PARAMETERS + "# %%\nassert seed < 0, scale\n")
    script(tmp_path, "01_after")
    assert run(tmp_path) == 1
    assert not (tmp_path / "results").exists(), "no report on a run that failed"
    log = capsys.readouterr().out
    assert "AssertionError: smoke" in log and "assert seed < 0, scale" in log and "00_bad.failed.ipynb" in log
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["00_bad.failed.ipynb"], "and the next did not run"
    script(tmp_path, "00_bad", PARAMETERS + "# %%\nprint(scale, seed)\n")
    assert run(tmp_path, only="00") == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["00_bad.ipynb"]


def test_a_kernel_that_dies_is_a_failure_not_a_success(tmp_path, capsys):
    script(tmp_path, "00_dies", PARAMETERS + "# %%\nimport os\nprint(scale, seed)\nos._exit(9)\n")
    assert run(tmp_path) == 1
    assert "ran out of memory" in capsys.readouterr().out
    assert not (tmp_path / "out" / "00_dies.ipynb").exists()


def test_the_committed_scale_writes_the_pair_and_writes_it_again_the_same(tmp_path):
    path = script(tmp_path, "00_first", PARAMETERS + "# %%\nimport sys\nprint(scale, seed)\nprint(3, file=sys.stderr)\n"
                                                     "# %%\n{'a': 1}\n")
    assert run(tmp_path, scale="small") == 0
    paired = path.with_suffix(".ipynb")
    first = paired.read_bytes()
    assert outputs(paired) == "small 0\n", "this machine's warnings stay out"
    assert not differences(read_script(path), read_notebook(paired))
    text = first.decode()
    assert "papermill" not in text and "injected" not in text and str(tmp_path) not in text
    assert run(tmp_path, scale="small") == 0
    assert paired.read_bytes() == first


@pytest.mark.parametrize(("body", "message"), [
    (READING, "one cell tagged"),
    (PARAMETERS + PARAMETERS + READING, "one cell tagged"),
    ('# %% tags=["parameters"]\nscale = "smoke"\n\n' + "# %%\nprint(scale)\n", "no parameter 'seed'"),
    (PARAMETERS + "# %%\nprint(scale)\n", "nothing reads the parameter seed"),
    (PARAMETERS.replace("0", "int(3)") + READING, "word = literal"),
    (PARAMETERS.replace("0", "'none'") + READING, "must be str"),
])
def test_a_notebook_that_would_ignore_a_parameter_stops_everything_before_it_runs(tmp_path, body, message):
    script(tmp_path, "00_fine")
    script(tmp_path, "01_wrong", body)
    with pytest.raises(ValueError, match=message):
        run(tmp_path)
    assert not (tmp_path / "out").exists()


def test_bad_input_is_named_with_the_choices(tmp_path):
    with pytest.raises(FileNotFoundError, match="DBYTE_ROOT"):
        run(tmp_path)
    script(tmp_path, "00_first")
    with pytest.raises(ValueError, match="small"):
        run(tmp_path, scale="tiny")
    with pytest.raises(ValueError, match="expected some of 00_first"):
        run(tmp_path, only="07")
    with pytest.raises(ValueError, match="no parameter 'sede'"):
        run(tmp_path, extra={"sede": 1})
    assert not (tmp_path / "out").exists()


def test_the_command_line_says_it_in_one_line(capsys):
    assert main(["reproduce", "--scale", "tiny"]) == 2
    lines = capsys.readouterr().err.strip().split("\n")
    assert len(lines) == 1 and "tiny" in lines[0] and "smoke" in lines[0]


def test_only_picks_by_number_and_by_name_in_order(tmp_path):
    for name in ("02_c", "00_a", "01_b", "helper"):
        script(tmp_path, name)
    assert [path.stem for path in find_scripts(tmp_path)] == ["00_a", "01_b", "02_c"]
    assert [path.stem for path in find_scripts(tmp_path, only="02_c,00")] == ["00_a", "02_c"]


def test_sync_keeps_the_outputs_and_ids_of_unchanged_cells(tmp_path):
    path = script(tmp_path, "00_a", PARAMETERS + "# %%\nprint(scale)\n\n# %%\nprint(seed)\n")
    assert sync(path) and not sync(path)
    executed = read_notebook(path.with_suffix(".ipynb"))
    for count, cell in enumerate((cell for cell in executed.cells if cell.cell_type == "code"), start=11):
        cell.id = f"given-by-jupyterlab-{count}"
        cell.execution_count, cell.outputs = count, [nbformat.v4.new_output("stream", text=cell.source)]
    write_notebook(path.with_suffix(".ipynb"), with_outputs(read_script(path), executed=executed))
    path.write_text(path.read_text().replace("print(seed)", "print(seed + 1)"))
    assert differences(read_script(path), read_notebook(path.with_suffix(".ipynb")))
    before = read_notebook(path.with_suffix(".ipynb"))
    assert sync(path)
    after = read_notebook(path.with_suffix(".ipynb"))
    assert [cell.id for cell in after.cells][:-1] == [cell.id for cell in before.cells][:-1]
    assert after.cells[-2].outputs[0].text == "print(scale)" and after.cells[-2].execution_count == 2
    assert after.cells[-1].outputs == [] and after.cells[-1].execution_count is None


def test_differences_sees_source_tags_type_and_a_lost_cell(tmp_path):
    notebook = read_script(script(tmp_path, "00_a"))
    assert parameters(notebook, name="a") == {"scale": "smoke", "seed": 0}
    for change in (lambda cells: cells[2].update(source="1"), lambda cells: cells[1].metadata.update(tags=[]),
                   lambda cells: cells[2].update(cell_type="markdown"), lambda cells: cells.pop()):
        other = nbformat.from_dict(notebook)
        assert not differences(notebook, other)
        change(other.cells)
        assert len(differences(notebook, other)) == 1


def test_own_kernel_leaves_the_environment_as_it_was(monkeypatch):
    monkeypatch.setenv("JUPYTER_PATH", "/somewhere")
    with pytest.raises(KeyError), own_kernel():
        assert os.environ["JUPYTER_PATH"].endswith(":/somewhere")
        raise KeyError
    assert os.environ["JUPYTER_PATH"] == "/somewhere"


def test_the_root_is_found_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.delenv("DBYTE_ROOT", raising=False)
    package = paths.ROOT / "dbyte"
    assert paths.find_root(paths.ROOT / "notebooks", package=tmp_path) == paths.ROOT
    assert paths.find_root(tmp_path, package=package) == paths.ROOT, "an editable install used from elsewhere"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"\n')
    with pytest.warns(UserWarning, match="DBYTE_ROOT"):
        assert paths.find_root(tmp_path, package=tmp_path / "dbyte") == tmp_path
    monkeypatch.setenv("DBYTE_ROOT", str(tmp_path))
    assert paths.find_root(paths.ROOT, package=package) == tmp_path
    monkeypatch.setenv("DBYTE_ROOT", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        paths.find_root(paths.ROOT, package=package)


@pytest.mark.parametrize("where", ["", "notebooks"])
def test_plain_papermill_runs_a_notebook_from_the_root_and_from_its_folder(tmp_path, where):
    """Without an output path papermill prints the notebook; either way dbyte must find its folders."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "dbyte"\n')
    (tmp_path / "notebooks").mkdir()
    reading = "# %%\nfrom dbyte.paths import ROOT\nprint(ROOT, scale, seed)\n"
    sync(script(tmp_path / "notebooks", "00_a", PARAMETERS + reading))
    target = Path("notebooks", "00_a.ipynb") if not where else Path("00_a.ipynb")
    environment = os.environ | {"PYTHONPATH": str(Path(paths.__file__).parents[1])}
    answer = subprocess.run([sys.executable, "-m", "papermill", str(target), "-p", "seed", "3"], env=environment,
                            cwd=tmp_path / where, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=100)
    assert answer.returncode == 0, answer.stderr
    assert f"{tmp_path.resolve()} smoke 3" in answer.stdout
