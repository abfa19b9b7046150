"""Several notebooks at a time: needs come first, never more than asked for, a failure starts none, Ctrl-C ends all."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from test_reproduce import PARAMETERS, outputs, run, script

from dbyte.__main__ import main
from dbyte.notebook import schedule
from dbyte.notebook.execution import Planned
from dbyte.notebook.reproduce import TIMES
from dbyte.notebook.schedule import needs, startable
from dbyte.report.results import read_results

MEETING = """# %%
import time
from pathlib import Path
def meet(mine, other):
    Path(mine).touch()
    until = time.monotonic() + 100
    while not Path(other).exists():
        assert time.monotonic() < until, f"{other} does not run beside {mine}"
        time.sleep(0.01)

"""
THREADS = PARAMETERS + "# %%\nimport os\nprint(scale, seed, os.environ['OMP_NUM_THREADS'])\n"


def with_needs(path, declared):
    path.write_text(path.read_text().replace("# jupyter:\n", f"# jupyter:\n#   dbyte:\n#     needs: {declared}\n"))
    return path


def meeting(folder, name, other, after=""):
    """A notebook that goes on when the other one runs at the same time."""
    call = f"# %%\nmeet({str(folder / name)!r}, {str(folder / other)!r})\nprint(scale, seed)\n{after}"
    return script(folder, name, PARAMETERS + MEETING + call)


def events(log):
    """(name, "start" or "done") in the order in which this process said so."""
    words = [line.split() for line in log.split("\n") if line.startswith("[") and "_" in line.split("]")[0]]
    return [(line[0].strip("[]"), line[1].rstrip(",")) for line in words]


def test_needs_come_first_and_never_more_than_asked_for_run(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    meeting(tmp_path, "00_a", "02_c")
    with_needs(script(tmp_path, "01_b", THREADS), "['00']")
    meeting(tmp_path, "02_c", "00_a")
    with_needs(script(tmp_path, "03_d", THREADS), "['01', '02']")
    script(tmp_path, "04_e", THREADS)
    with_needs(script(tmp_path, "99_z", THREADS), "all")
    assert run(tmp_path, scale="small", jobs=2) == 0
    log = capsys.readouterr().out
    said = events(log)
    at = {event: place for place, event in enumerate(said)}
    running = [sum({"start": 1, "done": -1}[what] for _, what in said[:end + 1]) for end in range(len(said))]
    assert max(running) == 2 and running[-1] == 0 and len(said) == 12
    assert [name for name, what in said if what == "start"][:2] == ["00_a", "02_c"], "in order of names"
    for name, needed in (("01_b", ["00_a"]), ("03_d", ["01_b", "02_c"]), ("99_z", ["00_a", "03_d", "04_e"])):
        assert all(at[name, "start"] > at[other, "done"] for other in needed), name
    assert outputs(tmp_path / "out" / "01_b.ipynb") == "small 0 3\n", "a kernel's share of six cores"
    assert outputs(tmp_path / "01_b.ipynb") == "small 0 3\n", "the pair is written"
    assert "[01]             | small 0 3" in log and "[01] " + " " in log
    with pytest.raises(FileNotFoundError):
        read_results(TIMES, scale="small", folder=tmp_path / "results")  # minutes of shared cores are not kept
    assert "6 notebooks done in" in log and "min of notebooks" in log


@pytest.mark.parametrize(("chosen", "used"), [("5", 5), ("", 1)])
def test_a_chosen_number_of_threads_wins_if_it_is_one(tmp_path, monkeypatch, chosen, used):
    monkeypatch.setenv("OMP_NUM_THREADS", chosen)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    for name in ("00_a", "01_b"):
        script(tmp_path, name, THREADS)
    assert schedule.threads_each(2) == used
    assert run(tmp_path, jobs=2) == 0
    assert outputs(tmp_path / "out" / "01_b.ipynb") == f"smoke 0 {used}\n"


def test_after_a_failure_nothing_starts_and_what_runs_is_finished(tmp_path, capsys):
    failed = tmp_path / "out" / "00_bad.failed.ipynb"
    meeting(tmp_path, "00_bad", "01_long", after="assert seed < 0, 'wrong seed'\n")
    meeting(tmp_path, "01_long", "00_bad", after=f"meet('/dev/null', {str(failed)!r})\ntime.sleep(1)\n")
    script(tmp_path, "02_never", THREADS)
    assert run(tmp_path, jobs=2) == 1
    log = capsys.readouterr().out
    assert "AssertionError: wrong seed" in log and "failed: 00_bad; not started: 02_never" in log
    assert events(log)[2:] == [("00_bad", "FAILED"), ("01_long", "done")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["00_bad.failed.ipynb", "01_long.ipynb"]
    assert not (tmp_path / "results" / "smoke" / "REPORT.md").exists()


def test_a_process_that_is_killed_is_a_failure_with_its_status(tmp_path, capsys):
    script(tmp_path, "00_killed", PARAMETERS + "# %%\nimport os\nprint(scale, seed)\nos.kill(os.getppid(), 9)\n")
    script(tmp_path, "01_fine", THREADS)
    assert run(tmp_path, jobs=2) == 1
    assert "ended with status -9" in capsys.readouterr().out


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
@pytest.mark.parametrize("ends", ["ctrl-c", "interrupt", "kill"])
def test_no_kernel_outlives_the_run(tmp_path, ends):
    """Ctrl-C on a terminal reaches the whole group, an interrupt the first process, and a kill leaves it no word."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "temporary").mkdir()
    written = [tmp_path / "00_a", tmp_path / "01_b"]
    for path in written:
        script(tmp_path / "notebooks", path.name, PARAMETERS + "# %%\nimport os, time\nfrom pathlib import Path\n"
               f"Path({str(path)!r}).write_text(f'{{os.getpid()}} {{os.getppid()}} {{scale}} {{seed}}')\n"
               "time.sleep(300)\n")
    environment = os.environ | {"PYTHONPATH": str(Path(schedule.__file__).parents[1]), "DBYTE_ROOT": str(tmp_path),
                                "TMPDIR": str(tmp_path / "temporary")}
    process = subprocess.Popen([sys.executable, "-m", "dbyte", "reproduce", "--jobs", "2"], env=environment,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
                               # tests that run in a shell's background inherit that it is ignored
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    try:
        wait_until(lambda: all(path.exists() and path.read_text().endswith("0") for path in written))
        if ends == "ctrl-c":
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.2)
            for path in written:  # pressed once more while kernels stop
                with suppress(ProcessLookupError):
                    os.kill(int(path.read_text().split()[1]), signal.SIGINT)
        else:
            process.send_signal(signal.SIGINT if ends == "interrupt" else signal.SIGKILL)
        error = process.communicate(timeout=1.5 * schedule.GRACE)[1]  # stopped in time, not killed one after the other
        assert process.returncode == (-signal.SIGKILL if ends == "kill" else 130)
        assert ends == "kill" or "dbyte: interrupted" in error
        processes = [number for path in written for number in path.read_text().split()[:2]]
        if ends != "kill":
            assert not [number for number in processes if alive(number)], "it says so when all is stopped"
            assert not list((tmp_path / "temporary").iterdir()), "kernels were stopped in good order"
        wait_until(lambda: not any(map(alive, processes)))
    finally:
        process.kill()


@pytest.mark.parametrize("declared", ["['02']", "['01']", "['7']", "[0]", "00", "{'a': 1}", "[['00']]"])
def test_needs_are_earlier_notebooks(tmp_path, declared):
    script(tmp_path, "00_a")
    script(tmp_path, "02_c")
    path = with_needs(script(tmp_path, "01_b"), declared)
    with pytest.raises(ValueError, match="01_b: `needs` must be"):
        needs(path)
    with pytest.raises(ValueError, match="01_b: `needs` must be"):
        run(tmp_path)


def test_all_means_every_earlier_notebook_and_nothing_declared_none(tmp_path):
    paths = [script(tmp_path, name) for name in ("00_a", "01_b", "02_c")]
    with_needs(paths[1], "all")
    assert [needs(path) for path in paths] == [set(), {"00"}, set()]


def test_what_is_not_planned_is_not_waited_for():
    one, two = (Planned(Path(name), None, Path(), frozenset(needed))
                for name, needed in (("02_c.py", {"00", "01"}), ("03_d.py", {"02"})))
    assert startable([one, two], ["02", "03"]) is one
    assert startable([two], ["02", "03"]) is None
    assert startable([one], ["01", "02"]) is None and startable([], []) is None


@pytest.mark.parametrize("jobs", ["0", "-1", "two", "1.5", ""])
def test_a_wrong_number_of_jobs_is_told_what_was_expected(jobs, capsys):
    assert main(["reproduce", "--jobs", jobs]) == 2
    error = capsys.readouterr().err
    assert "--jobs must be a whole number of at least 1" in error and repr(jobs) in error
