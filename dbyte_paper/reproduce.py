"""Run the notebooks at one scale under papermill, each in a process of its own once those it builds on are done.

The percent script is what runs. The executed notebook goes to runs/notebooks/<scale>/. At the committed scale, or that
of the script's header, the .ipynb next to the script is written too, so that readers see what ran, if it is the work of
one commit. What papermill only warns about (an unknown parameter, a missing tag) is an error here, before it runs.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from nbformat import NotebookNode

from dbyte.atomic import atomic_write
from dbyte.distill.runs import NOTEBOOK, NOTEBOOK_SCALE
from dbyte.paths import FIGURES, NOTEBOOKS, RESULTS, ROOT, RUNS
from dbyte.presets import Scale
from dbyte_paper.given import check
from dbyte_paper.pairing import (
    find_scripts,
    home_scale,
    needs,
    parameters,
    read_notebook,
    read_script,
    with_outputs,
    write_notebook,
)

TIMES = "notebook_times"  # the results that remember how long each notebook took, and how much memory
GRACE = 20.0  # seconds in which a notebook that is told to stop stops its kernel
OPTIONS = ("scale", "seed", "ablation_seeds")  # parameters that are checked before notebooks are read
KERNEL = {"JUPYTER_PREFER_ENV_PATH": "1",  # kernel `python3` is this interpreter, not one of the user's
          "PYDEVD_DISABLE_FILE_VALIDATION": "1"}  # the kernel does not warn about its debugger


@dataclass(eq=False)
class NotebookRun:
    """A notebook that is ready to run, and while it runs its process.

    executed: where it goes. needs: numbers of the notebooks that it builds on. parameters: what replaces its defaults.
    process, relay, began, seconds: of its run, which ends with `process.returncode`; `relay` prints what it says.
    """

    script: Path
    notebook: NotebookNode
    executed: Path
    needs: frozenset[str]
    parameters: Mapping[str, object]
    process: subprocess.Popen | None = None
    relay: threading.Thread | None = None
    began: float = 0.0
    seconds: float = 0.0

    @property
    def name(self) -> str:
        return self.script.stem

    @property
    def number(self) -> str:
        return self.name[:2]

    def unfinished(self, how: str) -> Path:
        """Where the notebook is while it is `partial`, or stays if it `failed`."""
        return self.executed.with_suffix(f".{how}.ipynb")


def plan(scripts: Sequence[Path], *, given: Mapping[str, object], where_known: Mapping[str, object], out: Path
         ) -> tuple[NotebookRun, ...]:
    """Read every notebook and check that it takes the `given` parameters.

    where_known: parameters for those notebooks that have them. Raises ValueError that names the first misfit, and for
    one of these that no notebook has.
    """
    planned = []
    for script in scripts:
        notebook = read_script(script)
        known = parameters(notebook, name=script.stem)
        mine = {**given, **{name: value for name, value in where_known.items() if name in known}}
        check(mine, known, name=script.stem)
        planned.append(NotebookRun(script, notebook, out / f"{script.stem}.ipynb", needs(script), mine))
    for name in where_known:
        if not any(name in one.parameters for one in planned):
            raise ValueError(f"none of these notebooks has a parameter {name!r}: leave it out")
    return tuple(planned)


def threads_each(jobs: int) -> int:
    """Return the threads of each of so many kernels: the user's $OMP_NUM_THREADS, or an equal share of the cores."""
    chosen = os.environ.get("OMP_NUM_THREADS", "")
    if re.fullmatch(r"[1-9]\d*", chosen):
        return int(chosen)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores // jobs, 1)


def start(one: NotebookRun, *, jobs: int) -> None:
    """Start a notebook in a process of its own, on its share of the cores."""
    print(f"[{one.name}] start, {len(one.notebook.cells)} cells", flush=True)
    partial = one.unfinished("partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    one.unfinished("failed").unlink(missing_ok=True)
    write_notebook(partial, one.notebook)
    environment = os.environ | KERNEL | {NOTEBOOK: one.name, NOTEBOOK_SCALE: Path(one.parameters.get("scale", "")).stem}
    if jobs > 1:
        environment["OMP_NUM_THREADS"] = str(threads_each(jobs))
    one.began = time.monotonic()
    # Ctrl-C on a terminal reaches this process only; the others end as their standard input does.
    one.process = subprocess.Popen(
        [sys.executable, "-m", "dbyte_paper.execution", partial.absolute(), json.dumps(one.parameters)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8",
        errors="replace", env=environment, start_new_session=True)
    one.relay = threading.Thread(target=relay, args=(one,), daemon=True)
    one.relay.start()


def relay(one: NotebookRun) -> None:
    """Print each line that a notebook says after its number, so that several notebooks can share a terminal."""
    for line in one.process.stdout:
        print(f"[{one.number}] {line}", end="", flush=True)


def run_in_order(planned: Sequence[NotebookRun], *, jobs: int) -> Iterator[NotebookRun]:
    """Run up to `jobs` notebooks at a time, in order of need, and yield each as it ends; after a failure none starts.

    What is not planned is not waited for. Closed early, as by Ctrl-C, it stops those that run and their kernels.
    """
    waiting = list(planned)
    running = []
    try:
        while True:
            unfinished = {one.number for one in waiting + running}
            ready = [one for one in waiting if not one.needs & unfinished]
            for one in ready[: jobs - len(running)]:
                waiting.remove(one)
                running.append(one)
                start(one, jobs=jobs)
            if not running:
                return
            time.sleep(0.1)
            for ended in [one for one in running if one.process.poll() is not None]:
                running.remove(ended)
                ended.seconds = time.monotonic() - ended.began
                ended.process.stdin.close()
                ended.relay.join()
                if ended.process.returncode == 0:
                    os.replace(ended.unfinished("partial"), ended.executed)
                else:
                    os.replace(ended.unfinished("partial"), ended.unfinished("failed"))
                    waiting = []
                yield ended
    finally:
        for one in running:
            one.process.stdin.close()
        for one in running:
            try:
                one.process.wait(GRACE)
            except subprocess.TimeoutExpired:
                one.process.kill()
                one.process.wait()
            one.unfinished("partial").unlink(missing_ok=True)


def remembered(scale: str, *, results: Path, device: str) -> dict[str, dict[str, object]]:
    """Return notebook -> its row of times at this scale, empty where there are none or another device took them."""
    from dbyte_paper.results import read_results

    try:
        frame = read_results(TIMES, scale=scale, folder=results)
    except (FileNotFoundError, ValueError):  # they cost nothing to lose
        return {}
    if frame.attrs["provenance"]["device"].split()[0] != device:
        return {}
    return {row["notebook"]: row for row in frame.to_dict("records")}


def remember(name: str, seconds: float, peak_bytes: int, *, scale: str, seed: int, results: Path, device: str) -> None:
    """Keep what a notebook took: the most time and memory of all runs, since a rerun that loads models says little.

    Faster code shows when the file is removed before a run from empty `runs/`. Rows of older code hold no memory.
    """
    from numpy import fmax, nan

    from dbyte_paper.provenance import commit
    from dbyte_paper.results import write_results

    rows = remembered(scale, results=results, device=device)
    before = rows.get(name, {"value": -1.0})
    rows[name] = before if seconds <= before["value"] else {
        "notebook": name, "value": round(seconds, 1), "stderr": nan, "n": 1, "commit": commit()}
    rows[name]["peak_GB"] = fmax(before.get("peak_GB", nan), peak_bytes / 1e9)  # fmax: nan is less than any number
    write_results(TIMES, list(rows.values()), scale=scale, keys=["notebook"], seeds=[seed], config_hash="none",
                  wall_seconds=seconds, device=device, folder=results)


def check_writable(folder: Path) -> None:
    """Raise OSError that names the folder, or where it would be made, if no file can be written there."""
    there = next(each for each in (folder, *folder.parents) if each.is_dir())
    with tempfile.TemporaryFile(dir=there):
        pass


def check_scale(scale: Scale) -> None:
    """Raise ValueError for sizes or a device that cannot be, and FileNotFoundError for text or items that are not."""
    from dbyte.device import check_device
    from dbyte.distill.sizes import check_sizes
    from dbyte.text.files import readable_files

    check_sizes(scale)
    check_device(scale.device)
    for name, _ in scale.corpora:
        scheme, _, place = name.partition(":")
        if scheme == "file" and place:
            readable_files(place)


def shown(path: Path) -> str:
    """Return the path as a reader at the root would type it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def announce(planned: Sequence[NotebookRun], *, scale: str, results: Path, jobs: int, device: str) -> None:
    """Print what will run, how long each notebook took here before, and where everything goes."""
    rows = remembered(scale, results=results, device=device)
    at_once = f", {jobs} at a time, threads of each: {threads_each(jobs)}" if jobs > 1 else ""
    print(f"dbyte reproduce: scale {scale}, notebooks: {len(planned)}{at_once}")
    for one in planned:
        cost = f"{rows[one.name]['value'] / 60:.1f} min before" if one.name in rows else "not timed yet"
        values = ", ".join(f"{name}={value!r}" for name, value in one.parameters.items())
        print(f"  {one.name:28s} {cost:16s} {values} -> {shown(one.executed)}")
    print(f"  results -> {shown(results / scale)}/   figures -> {shown(FIGURES / scale)}/   trained models -> "
          f"{shown(RUNS)}/", flush=True)


def reproduce(
    scale: str, settings: Sequence[str] = (), *, only: str | None = None, out: Path | None = None, seed: int = 0,
    jobs: int = 1, ablation_seeds: int | None = None, extra: Mapping[str, object] | None = None,
    notebooks: Path = NOTEBOOKS, results: Path = RESULTS,
) -> int:
    """Run the notebooks, write the report on all results, and return 0, or 1 if one fails, which is named.

    scale, settings: as `presets.scale` takes them; a scale that is not built in is written to runs/scales/, where the
    notebooks read it. only: some notebooks, such as `01,02`. out: the folder of the executed notebooks, by default
    runs/notebooks/<scale>. jobs: how many run at a time. ablation_seeds: students of each row of an ablation, in place
    of the scale's number. extra: more parameters than scale and seed.

    Before anything runs, it raises ValueError for an unknown scale, notebook or parameter, a value of the wrong type,
    needs that are no earlier notebooks, a device that is not here, and jobs below 1; FileNotFoundError where the scale
    reads text of one's own and there is none; OSError where results, figures or models cannot be written.
    """
    from dbyte import presets
    from dbyte.scale_file import as_toml
    from dbyte_paper.core_hours import count
    from dbyte_paper.page import report, report_path
    from dbyte_paper.provenance import commit

    if jobs < 1:
        raise ValueError(f"--jobs must be a whole number of at least 1, found {jobs}")
    if twice := [name for name in OPTIONS if name in (extra or {})]:
        raise ValueError(f"-p {twice[0]} is an option of its own: say --{twice[0].replace('_', '-')}")
    where_known = {} if ablation_seeds is None else {"ablation_seeds": ablation_seeds}
    chosen = presets.changed(presets.scale(scale, settings), **where_known)
    scale = chosen.name
    file = None if scale in presets.SCALES else RUNS / "scales" / f"{scale}.toml"
    given = {"scale": str(file or scale), "seed": seed, **(extra or {})}
    check_scale(chosen)
    out = out or RUNS / "notebooks" / scale
    planned = plan(find_scripts(notebooks, only=only), given=given, where_known=where_known, out=out)
    for folder in (RUNS, out, results / scale, FIGURES / scale):
        check_writable(folder)
    if file:
        atomic_write(file, as_toml(chosen))
    jobs = min(jobs, len(planned))
    announce(planned, scale=scale, results=results, jobs=jobs, device=chosen.device)
    began = time.monotonic()
    code = commit()
    left = list(planned)
    failed = []
    with closing(run_in_order(planned, jobs=jobs)) as ended:
        for one in ended:
            left.remove(one)
            if status := one.process.returncode:  # its own process has printed what failed in it
                killed = " (killed, most often for want of memory)" if status < 0 else ""
                print(f"[{one.name}] FAILED after {one.seconds:.1f} s, status {status}{killed}\n"
                      f"The notebook so far: {shown(one.unfinished('failed'))}", flush=True)
                failed.append(one.name)
                continue
            print(f"[{one.name}] done in {one.seconds:.1f} s: {shown(one.executed)}", flush=True)
            if jobs == 1:  # on cores of its own, so its time says what it costs
                peak = read_notebook(one.executed).metadata["dbyte"]["peak_bytes"]
                remember(one.name, one.seconds, peak, scale=scale, seed=seed, results=results, device=chosen.device)
            home = scale == home_scale(one.script)
            if home and commit() == code and re.fullmatch("[0-9a-f]{40}", code):
                paired = with_outputs(one.notebook, executed=read_notebook(one.executed))
                write_notebook(one.script.with_suffix(".ipynb"), paired)
            elif home:
                print(f"[{one.name}] the .ipynb next to the script stays as it was: it shows the work of one commit, "
                      "and the code has others or has changes", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}" + f"; not started: {', '.join(one.name for one in left)}" * bool(left),
              flush=True)
        return 1
    count(scale, seed=seed, device=chosen.device, results=results)
    report(chosen, write=True, results=results)
    print(f"done in {(time.monotonic() - began) / 60:.1f} min: results in {shown(results / scale)}/, "
          f"figures in {shown(FIGURES / scale)}/, report in {shown(report_path(scale, results=results))} and .html",
          flush=True)
    return 0
