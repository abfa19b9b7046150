"""The runner: it checks before it runs, keeps the order of needs, leaves whole files, and stops what it started."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import torch
from conftest import hearing

from dbyte import paths, presets
from dbyte.__main__ import main
from dbyte.text import files
from dbyte_paper import pairing, provenance
from dbyte_paper import reproduce as reproduce_module
from dbyte_paper.given import check_cells
from dbyte_paper.reproduce import GRACE, TIMES, plan, remember, remembered, reproduce, threads_each
from dbyte_paper.results import read_results, write_results

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
TOLD = "('OMP_NUM_THREADS', 'OMP_WAIT_POLICY', 'DBYTE_NOTEBOOK')"
THREADS = PARAMETERS + f"# %%\nimport os\nprint(scale, seed, *map(os.environ.get, {TOLD}))\n"
MEETING = """# %%
import time
from pathlib import Path
def meet(mine, other):
    Path(mine).touch()
    until = time.monotonic() + 100
    while not Path(other).exists():
        assert time.monotonic() < until, f"{other} does not run at the same time as {mine}"
        time.sleep(0.01)

"""


def script(folder, name, body=PARAMETERS + READING, *, declared="[]"):
    path = folder / f"{name}.py"
    header = HEADER.replace("# jupyter:\n", f"# jupyter:\n#   dbyte:\n#     needs: {declared}\n")
    path.write_text(header + body, encoding="utf-8")
    return path


def meeting(folder, name, other, after=""):
    """A notebook that continues once the other one runs at the same time."""
    call = f"# %%\nmeet({str(folder / name)!r}, {str(folder / other)!r})\nprint(scale, seed)\n{after}"
    return script(folder, name, PARAMETERS + MEETING + call)


def outputs(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    return "".join(output.get("text", "") for cell in cells for output in cell.outputs)


def run(folder, scale="smoke", **kwargs):
    return reproduce(scale, out=folder / "out", notebooks=folder, results=folder / "results", **kwargs)


def test_a_scale_of_the_users_is_handed_to_the_notebooks_as_a_file(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(reproduce_module, "RUNS", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text('base = "smoke"\nitems = 7\n', encoding="utf-8")
    script(tmp_path, "00_first", PARAMETERS + "# %%\nfrom dbyte import presets\nfound = presets.scale(scale)\n"
           "print(found.name, found.items, found.row_bytes, seed)\n")
    assert run(tmp_path, scale="mine.toml", settings=["row_bytes=256"]) == 0
    name = presets.scale("mine.toml", ["row_bytes=256"]).name
    assert outputs(tmp_path / "out" / "00_first.ipynb").split() == [name, "7", "256", "0"] and name.startswith("mine-")
    assert presets.scale(str(tmp_path / "runs" / "scales" / f"{name}.toml")).row_bytes == 256
    assert (tmp_path / "results" / name / "REPORT.md").is_file() and not (tmp_path / "results" / "smoke").exists()
    with pytest.raises(ValueError, match="scale mine-.*: student: .*head_width"):
        run(tmp_path, scale="mine.toml", settings=["student.head_width=7"])


def events(log):
    """(name, "start", "done" or "FAILED") in the order in which they were printed."""
    words = [line.split() for line in log.split("\n") if line.startswith("[") and "_" in line.split("]")[0]]
    return [(line[0].strip("[]"), line[1].rstrip(",")) for line in words]


# -- what runs, and what it says --------------------------------------------------------------------------------------


def test_a_run_uses_this_interpreter_and_the_given_parameters_from_the_root(tmp_path, monkeypatch, capfd):
    """A stale user kernel of the same name must lose, and the caller's folder must not matter."""
    stale = tmp_path / "user" / "kernels" / "python3"
    stale.mkdir(parents=True)
    stale.joinpath("kernel.json").write_text(json.dumps(
        {"argv": ["/nonexistent/python", "-f", "{connection_file}"], "display_name": "stale", "language": "python"}))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "user"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    monkeypatch.chdir(tmp_path)
    script(tmp_path, "00_first")
    script(tmp_path, "01_second")
    assert run(tmp_path, seed=7, only="00") == 0
    assert outputs(tmp_path / "out" / "00_first.ipynb").split() == [sys.executable, "smoke", "7", str(paths.ROOT)]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["00_first.ipynb"]
    log = capfd.readouterr().out
    assert "cell 0: A title" in log and "[00_first] done in" in log and "out/00_first.ipynb" in log
    assert f"[00] {sys.executable} smoke 7" in log, "what a notebook prints shows while it runs"
    times = read_results(TIMES, scale="smoke", folder=tmp_path / "results")
    assert list(times["notebook"]) == ["00_first"] and times.at[0, "value"] > 0
    assert not (tmp_path / "00_first.ipynb").exists(), "smoke writes nothing next to the scripts"
    report = tmp_path / "results" / "smoke" / "REPORT.md"
    assert "00_first" in report.read_text(encoding="utf-8") and report.with_suffix(".html").exists()
    assert not (tmp_path / "results" / "REPORT.md").exists(), "the committed report is not smoke's"


def test_the_committed_scale_writes_the_pair_and_writes_it_again_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "commit", lambda: "a" * 40)
    path = script(tmp_path, "00_first", PARAMETERS + "# %%\nimport sys\nprint(scale, seed)\nprint(3, file=sys.stderr)\n"
                                                     "# %%\n{'a': 1}\n")
    assert run(tmp_path, scale="small", seed=3) == 0
    paired = path.with_suffix(".ipynb")
    first = paired.read_bytes()
    assert outputs(paired) == "small 3\n", "this machine's warnings stay out"
    cells = pairing.read_notebook(paired).cells
    assert [list(cell.metadata.get("tags", [])) for cell in cells] == [[], ["parameters"], [pairing.INJECTED], [], []]
    assert cells[2].source == '# Parameters\nscale = "small"\nseed = 3\n', "the parameters of these very outputs"
    assert cells[2].cell_type == "raw", "shown, not run: papermill alone and Run All take the defaults"
    assert [cell.get("execution_count") for cell in cells] == [None, 1, None, 2, 3]
    assert not pairing.mismatches(pairing.read_script(path), pairing.read_notebook(paired))
    text = first.decode()
    assert '"papermill"' not in text and str(tmp_path) not in text
    assert not pairing.sync(path) and run(tmp_path, scale="small", seed=3) == 0
    assert paired.read_bytes() == first


@pytest.mark.parametrize("commits", [["a" * 40, "b" * 40], ["a" * 40 + "+changes"] * 2])
def test_a_committed_notebook_is_of_one_commit_or_stays_as_it_was(tmp_path, monkeypatch, capfd, commits):
    """Code that changes during the run, or that no commit holds, must not end under one commit's name."""
    answers = iter(commits)
    monkeypatch.setattr(provenance, "commit", lambda: next(answers, commits[-1]))
    path = script(tmp_path, "00_first")
    pairing.sync(path)
    before = path.with_suffix(".ipynb").read_bytes()
    assert run(tmp_path, scale="small") == 0
    assert path.with_suffix(".ipynb").read_bytes() == before
    assert "[00_first] the .ipynb next to the script stays as it was" in capfd.readouterr().out
    assert outputs(tmp_path / "out" / "00_first.ipynb").split()[1] == "small", "the executed notebook is kept"


@pytest.mark.parametrize(("body", "says"), [
    ("print(scale, seed)\nimport os\nos._exit(9)", "run out of memory"),
    ("print(scale, seed)\nimport os\nos.kill(os.getppid(), 9)", "status -9 (killed")])
def test_a_notebook_that_fails_is_shown_and_the_next_does_not_run(tmp_path, capfd, body, says):
    script(tmp_path, "00_bad", PARAMETERS + f"# %%\n{body}\n")
    script(tmp_path, "01_after")
    assert run(tmp_path) == 1
    log = capfd.readouterr().out
    assert says in log and "failed: 00_bad; not started: 01_after" in log
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["00_bad.failed.ipynb"]
    assert not (tmp_path / "results").exists(), "no report on a run that failed"


def test_the_memory_of_a_kernel_is_kept_with_its_time_and_with_rows_that_have_none(tmp_path):
    rows = [{"notebook": "01_old", "value": 60.0, "stderr": float("nan"), "n": 1, "commit": "a"}]
    write_results(TIMES, rows, scale="smoke", keys=["notebook"], seeds=[0], config_hash="none", wall_seconds=1,
                  folder=tmp_path / "results")
    script(tmp_path, "00_first", PARAMETERS + "# %%\nheld = b'x' * 1_000_000_000\nprint(scale, seed)\n")
    assert run(tmp_path) == 0
    peaks = read_results(TIMES, scale="smoke", folder=tmp_path / "results").set_index("notebook")["peak_GB"]
    assert 1.0 < peaks["00_first"] < 1.5 and peaks.isna()["01_old"]


def test_times_of_another_device_are_not_remembered(tmp_path):
    for name, seconds, peak in (("00_first", 9.0, 2e9), ("01_second", 3.0, 1e9), ("00_first", 5.0, 3e9)):
        remember(name, seconds, peak, scale="smoke", seed=0, results=tmp_path, device="cpu")
    kept = remembered("smoke", results=tmp_path, device="cpu")
    assert {name: (row["value"], row["peak_GB"]) for name, row in kept.items()} == {
        "00_first": (9.0, 3.0), "01_second": (3.0, 1.0)}, "the longest and the largest, of two runs"
    assert remembered("smoke", results=tmp_path, device="cuda") == {}


# -- several at a time ------------------------------------------------------------------------------------------------


def test_needs_come_first_and_never_more_than_asked_for_run(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(provenance, "commit", lambda: "a" * 40)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    meeting(tmp_path, "00_a", "02_c")
    script(tmp_path, "01_b", THREADS, declared="['00']")
    meeting(tmp_path, "02_c", "00_a")
    script(tmp_path, "99_z", THREADS, declared="all")
    assert run(tmp_path, scale="small", jobs=2) == 0
    log = capfd.readouterr().out
    said = events(log)
    at = {event: place for place, event in enumerate(said)}
    running = [sum({"start": 1, "done": -1}[what] for _, what in said[:end + 1]) for end in range(len(said))]
    assert max(running) == 2 and running[-1] == 0 and len(said) == 8
    assert [name for name, what in said if what == "start"][:2] == ["00_a", "02_c"], "in order of names"
    for name, needed in (("01_b", ["00_a"]), ("99_z", ["00_a", "01_b", "02_c"])):
        assert all(at[name, "start"] > at[other, "done"] for other in needed), name
    assert outputs(tmp_path / "out" / "01_b.ipynb") == "small 0 3 PASSIVE 01_b\n", "a kernel's share of six cores"
    assert outputs(tmp_path / "01_b.ipynb") == "small 0 3 PASSIVE 01_b\n", "the pair is written"
    with pytest.raises(FileNotFoundError):
        read_results(TIMES, scale="small", folder=tmp_path / "results")  # minutes of shared cores are not kept


def test_after_a_failure_nothing_starts_and_what_runs_is_finished(tmp_path, capfd):
    failed = tmp_path / "out" / "00_bad.failed.ipynb"
    meeting(tmp_path, "00_bad", "01_long", after="assert seed < 0, 'wrong seed'\n")
    meeting(tmp_path, "01_long", "00_bad", after=f"meet('/dev/null', {str(failed)!r})\n")
    script(tmp_path, "02_never")
    assert run(tmp_path, jobs=2) == 1
    log = capfd.readouterr().out
    assert "[00] AssertionError: wrong seed" in log and "failed: 00_bad; not started: 02_never" in log
    assert events(log)[2:] == [("00_bad", "FAILED"), ("01_long", "done")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["00_bad.failed.ipynb", "01_long.ipynb"]
    assert not (tmp_path / "results").exists(), "no report on a run that failed"


@pytest.mark.parametrize(("chosen", "used"), [("5", 5), ("", 1)])
def test_a_chosen_number_of_threads_wins_if_it_is_one(monkeypatch, chosen, used):
    monkeypatch.setenv("OMP_NUM_THREADS", chosen)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert threads_each(2) == used


def wait_until(true):
    until = time.monotonic() + 100
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


def alive(process_id):
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rsplit(")")[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("ends", ["ctrl-c", "kill"])
def test_no_kernel_outlives_the_run(tmp_path, ends):
    """Ctrl-C on a terminal reaches the whole process group; a kill leaves no time for a last word."""
    (tmp_path / "notebooks").mkdir()
    written = [tmp_path / name for name in (["00_a", "01_b"] if ends == "ctrl-c" else ["00_a"])]
    for path in written:
        script(tmp_path / "notebooks", path.name, PARAMETERS + "# %%\nimport os, time\nfrom pathlib import Path\n"
               f"Path({str(path)!r}).write_text(f'{{os.getpid()}} {{os.getppid()}} {{scale}} {{seed}}')\n"
               "time.sleep(300)\n")
    environment = os.environ | {"PYTHONPATH": str(Path(paths.__file__).parents[1]), "DBYTE_ROOT": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-m", "dbyte", "reproduce", "--jobs", "2"], env=environment,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
                               preexec_fn=hearing)
    try:
        wait_until(lambda: all(path.exists() and path.read_text().endswith("0") for path in written))
        os.killpg(process.pid, signal.SIGINT) if ends == "ctrl-c" else process.kill()
        error = process.communicate(timeout=1.5 * GRACE)[1]
        processes = [number for path in written for number in path.read_text().split()[:2]]
        if ends == "ctrl-c":
            assert process.returncode == 130 and "dbyte: interrupted" in error
            assert not [number for number in processes if alive(number)], "it says so when all is stopped"
            assert not list((tmp_path / "runs" / "notebooks" / "smoke").iterdir()), "nothing half-run is left"
        wait_until(lambda: not any(map(alive, processes)))
    finally:
        process.kill()


# -- what is refused before anything runs -----------------------------------------------------------------------------


@pytest.mark.parametrize(("body", "message"), [
    (READING, "one cell tagged"),
    (PARAMETERS + PARAMETERS + READING, "one cell tagged"),
    ('# %% tags=["parameters"]\nscale = "smoke"\n\n' + "# %%\nprint(scale)\n", "no parameter 'seed'"),
    (PARAMETERS + "# %%\nprint(scale)\n", "nothing reads the parameter seed"),
    (PARAMETERS.replace("0", "int(3)") + READING, "word = literal"),
    (PARAMETERS.replace("0", "'none'") + READING, "01_wrong: parameter 'seed' must be str.*'none'; found 0"),
])
def test_a_notebook_that_would_ignore_a_parameter_stops_everything_before_it_runs(tmp_path, body, message):
    script(tmp_path, "00_fine")
    script(tmp_path, "01_wrong", body)
    with pytest.raises(ValueError, match=message):
        run(tmp_path)
    assert not (tmp_path / "out").exists()


def test_seeds_of_ablations_go_to_the_notebooks_that_have_them(tmp_path):
    script(tmp_path, "00_first")
    script(tmp_path, "01_ablation", PARAMETERS.rstrip() + "\nablation_seeds = None\n\n"
                                    "# %%\nprint(scale, seed, ablation_seeds)\n")
    first, second = plan(pairing.find_scripts(tmp_path), given={"seed": 1}, where_known={"ablation_seeds": 2},
                         out=tmp_path)
    assert first.parameters == {"seed": 1} and second.parameters == {"seed": 1, "ablation_seeds": 2}
    for seeds, only, message in ((0, None, "seeds must be at least 1, found 0"),
                                 (1, "00", "none of these notebooks has a parameter 'ablation_seeds'")):
        with pytest.raises(ValueError, match=message):
            run(tmp_path, ablation_seeds=seeds, only=only)


def test_bad_input_is_named_with_the_choices(tmp_path):
    with pytest.raises(FileNotFoundError, match="DBYTE_ROOT"):
        run(tmp_path)
    script(tmp_path, "00_first")
    for message, bad in (("small", {"scale": "tiny"}), ("expected some of 00_first", {"only": "07"}),
                         ("no parameter 'sede': it takes scale, seed", {"extra": {"sede": 1}}),
                         ("-p scale is an option of its own: say --scale", {"extra": {"scale": "tiny"}}),
                         ("say --ablation-seeds", {"extra": {"ablation_seeds": "two"}})):
        with pytest.raises(ValueError, match=message):
            run(tmp_path, **bad)
    assert not (tmp_path / "out").exists()


OURS = 'scale = "smoke"\nseed = 0\nablation_seeds = None  # as many as the scale has'


@pytest.mark.parametrize(("given", "message"), [
    ("sede = 1", "no parameter 'sede': it takes scale, seed, ablation_seeds"),
    ('seed = "one"', "parameter 'seed' must be int, where the default is 0; found 'one'"),
    ("seed = 1.5", "parameter 'seed' must be int"), ("seed = True", "parameter 'seed' must be int"),
    ("scale = 3", "parameter 'scale' must be str, where the default is 'smoke'; found 3"),
    ('ablation_seeds = "two"', "parameter 'ablation_seeds' must be int, where the default is None; found 'two'")])
def test_what_papermill_gave_wrongly_is_named_with_the_choices(given, message):
    with pytest.raises(ValueError, match=message):
        check_cells(["", OURS, f"# Parameters\n{given}\n", "import dbyte_paper"])
    check_cells(["", OURS, "# Parameters\nscale = \"tiny\"\nseed = 1\nablation_seeds = 2\n"])
    check_cells(["", OURS, "# Parameters\nablation_seeds = None\n"])
    check_cells(["", OURS, given])  # a cell of the reader's
    check_cells(["", "depth = 2 * 3", f"# Parameters\n{given}\n"])  # a notebook of others


@pytest.mark.parametrize("given, says", [("seed=1", ""), ("sede=1", "this notebook has no parameter 'sede'"),
                                         ("scale=mine.toml", "")])
def test_plain_papermill_ends_below_the_parameters_where_one_is_wrong(tmp_path, given, says):
    path = script(tmp_path, "00_a", PARAMETERS + "# %%\nimport dbyte_paper\nfrom dbyte import presets\n\n"
                  "# %%\nprint('went on', seed, presets.scale(scale).name)\n")
    pairing.sync(path)
    (tmp_path / "mine.toml").write_text('base = "smoke"\n', encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", "papermill", path.with_suffix(".ipynb"), tmp_path / "out.ipynb", "-p",
                           *given.split("=")], env=os.environ | reproduce_module.KERNEL, capture_output=True, text=True,
                          cwd=tmp_path)
    went_on = "went on 0 mine\n" if given == "scale=mine.toml" else "went on 1 smoke\n"
    assert (went_on in outputs(tmp_path / "out.ipynb")) == (done.returncode == 0) == (not says), done.stderr
    assert says in done.stderr


def test_a_device_or_text_that_is_not_here_is_refused(tmp_path, monkeypatch, capsys):
    script(tmp_path, "00_first")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DBYTE_DEVICE", "cpu")
    with pytest.raises(FileNotFoundError, match="no file or folder 'text'.*put .txt or .jsonl files there"):
        run(tmp_path, scale="gpu")
    for device in ("cuda:1", "gpu", "cuda:x", "cuda:-1"):
        assert main(["reproduce", "--device", device, "--out", str(tmp_path / "out")]) == 2
        assert f"device '{device}' was asked for, which is not here" in capsys.readouterr().err
    monkeypatch.setenv("DBYTE_DEVICE", "cuda")
    with pytest.raises(ValueError, match="device 'cuda' was asked for"):
        run(tmp_path)
    assert not (tmp_path / "out").exists()


def test_the_command_line_says_it_in_one_line(capsys):
    for arguments, words in ((["report", "--scale", "tiny"], ("tiny", "smoke")),
                             (["reproduce", "--scale", "tiny"], ("tiny", "smoke")),
                             (["reproduce", "--jobs", "0"], ("--jobs must be a whole number", "found 0"))):
        assert main(arguments) == 2
        lines = capsys.readouterr().err.strip().split("\n")
        assert len(lines) == 1 and all(word in lines[0] for word in words)


@pytest.mark.parametrize("declared", ["['02']", "['01']", "['7']", "[0]", "00", "{'a': 1}", "[['00']]"])
def test_needs_are_earlier_notebooks(tmp_path, declared):
    script(tmp_path, "00_a")
    script(tmp_path, "02_c", declared="all")
    path = script(tmp_path, "01_b", declared=declared)
    with pytest.raises(ValueError, match="01_b: `needs` must be"):
        pairing.needs(path)
    assert pairing.needs(tmp_path / "00_a.py") == set() and pairing.needs(tmp_path / "02_c.py") == {"00", "01"}


# -- scripts and their pairs ------------------------------------------------------------------------------------------


def test_only_picks_by_number_and_by_name_in_order(tmp_path):
    for name in ("02_c", "00_a", "01_b", "helper"):
        script(tmp_path, name)
    assert [path.stem for path in pairing.find_scripts(tmp_path)] == ["00_a", "01_b", "02_c"]
    assert [path.stem for path in pairing.find_scripts(tmp_path, only="02_c,00")] == ["00_a", "02_c"]


def test_sync_keeps_the_outputs_and_ids_of_unchanged_cells(tmp_path):
    path = script(tmp_path, "00_a", PARAMETERS + "# %%\nprint(scale)\n\n# %%\nprint(seed)\n")
    assert pairing.sync(path) and not pairing.sync(path)
    executed = pairing.read_notebook(path.with_suffix(".ipynb"))
    for count, cell in enumerate((cell for cell in executed.cells if cell.cell_type == "code"), start=11):
        cell.id = f"given-by-jupyterlab-{count}"
        cell.execution_count, cell.outputs = count, [nbformat.v4.new_output("stream", text=cell.source)]
    outputs_kept = pairing.with_outputs(pairing.read_script(path), executed=executed)
    pairing.write_notebook(path.with_suffix(".ipynb"), outputs_kept)
    path.write_text(path.read_text().replace("print(seed)", "print(seed + 1)"))
    assert pairing.mismatches(pairing.read_script(path), pairing.read_notebook(path.with_suffix(".ipynb")))
    before = pairing.read_notebook(path.with_suffix(".ipynb"))
    assert pairing.sync(path)
    after = pairing.read_notebook(path.with_suffix(".ipynb"))
    assert [cell.id for cell in after.cells][:-1] == [cell.id for cell in before.cells][:-1]
    assert after.cells[-2].outputs[0].text == "print(scale)" and after.cells[-2].execution_count == 2
    assert after.cells[-1].outputs == [] and after.cells[-1].execution_count is None


def test_mismatches_sees_source_tags_type_and_a_lost_cell(tmp_path):
    notebook = pairing.read_script(script(tmp_path, "00_a"))
    assert pairing.parameters(notebook, name="a") == {"scale": "smoke", "seed": 0}
    for change in (lambda cells: cells[2].update(source="1"), lambda cells: cells[1].metadata.update(tags=[]),
                   lambda cells: cells[2].update(cell_type="markdown"), lambda cells: cells.pop()):
        other = nbformat.from_dict(notebook)
        assert not pairing.mismatches(notebook, other)
        change(other.cells)
        assert len(pairing.mismatches(notebook, other)) == 1


@pytest.mark.parametrize(("places", "source", "lines"), [
    ([2], "# Parameters\nscale = 'small'\n", []),
    ([2, 3], "scale = 'small'\n", ["3 cells, the .ipynb 4", "cell 2"]),
    ([3], "scale = 'small'\n", ["3 cells, the .ipynb 4"]),
    ([1], "scale = 'small'\n", ["3 cells, the .ipynb 4", "cell 1", "cell 2"])])
def test_one_cell_of_papermill_below_the_parameters_is_no_difference(tmp_path, places, source, lines):
    notebook = pairing.read_script(script(tmp_path, "00_a"))
    paired = nbformat.from_dict(notebook)
    for place in places:
        paired.cells.insert(place, nbformat.v4.new_code_cell(source, metadata={"tags": [pairing.INJECTED]}))
    found = pairing.mismatches(notebook, paired)
    assert len(found) == len(lines) and all(words in line for words, line in zip(lines, found, strict=True)), found


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
