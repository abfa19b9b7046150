"""Run the notebooks at one scale: all parameters checked first, one kernel each, results where the plan says.

The percent script is what runs. The executed notebook goes to runs/notebooks/<scale>/; at the committed scale the
.ipynb beside the script is written anew too, so that what readers see is what ran. What papermill only warns about (an
unknown parameter, a missing tag) is an error here, before anything runs.
"""

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nbformat import NotebookNode

from dbyte.pairing import KERNELSPEC, find_scripts, parameters, read_notebook, read_script, with_outputs, write_notebook
from dbyte.paths import COMMITTED_SCALE, FIGURES, NOTEBOOKS, RESULTS, ROOT, RUNS

TIMES = "notebook_times"  # the name of the results that remember what a notebook costs
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Planned:
    """A notebook that is ready to run: where its script is, what was read from it, where the executed one goes."""

    script: Path
    notebook: NotebookNode
    executed: Path

    @property
    def name(self) -> str:
        return self.script.stem


class Progress:
    """What a run says: a bar of cells and the latest lines on a terminal, one plain line an event in a log."""

    def __init__(self, *, terminal: bool) -> None:
        self.terminal = terminal
        self.bar = None
        self.began = time.monotonic()
        self.rest = ""  # of a line that the kernel has not ended yet

    def say(self, text: str) -> None:
        """Print whole lines, above the bar if there is one."""
        if self.bar is None:
            print(text, flush=True)
        else:
            self.bar.write(text)

    def start(self, name: str, *, cells: int) -> None:
        self.began = time.monotonic()
        self.say(f"[{name}] start, {cells} cells")
        if self.terminal:
            from tqdm import tqdm

            self.bar = tqdm(total=cells, unit="cell", desc=name, leave=False, dynamic_ncols=True)

    def cell(self, cell: NotebookNode, cell_index: int) -> None:
        """Called as each cell starts, text cells too: a heading opens a section."""
        if self.bar is not None:
            self.bar.n = cell_index
            self.bar.refresh()
        first = cell.source.lstrip().split("\n", 1)[0]
        if cell.cell_type == "markdown" and first.startswith("#"):
            self.say(f"  {time.monotonic() - self.began:6.1f} s  {first.lstrip('# ')}")

    def write(self, text: str) -> None:
        """Take what the kernel prints: training says how it goes while it goes."""
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            self.say(f"            | {line}")

    def flush(self) -> None:
        """Here because papermill calls it after each `write`."""

    def finish(self, text: str) -> None:
        if self.rest:
            self.write("\n")
        if self.bar is not None:
            self.bar.close()
            self.bar = None
        self.say(text)


@contextmanager
def own_kernel() -> Iterator[None]:
    """Make kernel `python3` this very interpreter, whatever kernel specifications the user or the machine have."""
    specification = {
        **KERNELSPEC,
        "argv": [sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}",
                 "--IPKernelApp.log_level=ERROR"],
        "env": {"PYDEVD_DISABLE_FILE_VALIDATION": "1"},
    }
    before = os.environ.get("JUPYTER_PATH")
    with tempfile.TemporaryDirectory(prefix="dbyte-kernel-") as folder:
        kernel = Path(folder) / "kernels" / KERNELSPEC["name"] / "kernel.json"
        kernel.parent.mkdir(parents=True)
        kernel.write_text(json.dumps(specification), encoding="utf-8")
        # $JUPYTER_PATH is the one place that always goes before the user's own kernels.
        os.environ["JUPYTER_PATH"] = folder if not before else folder + os.pathsep + before
        try:
            yield
        finally:
            if before is None:
                del os.environ["JUPYTER_PATH"]
            else:
                os.environ["JUPYTER_PATH"] = before


def plan(scripts: tuple[Path, ...], *, given: Mapping[str, object], out: Path) -> tuple[Planned, ...]:
    """Read every notebook and check that it takes the `given` parameters; raises ValueError naming the first misfit."""
    planned = []
    for script in scripts:
        notebook = read_script(script)
        known = parameters(notebook, name=script.stem)
        for name, value in given.items():
            if name not in known:
                raise ValueError(f"{script.stem} has no parameter {name!r}: it takes {', '.join(known) or 'none'}")
            kind = type(known[name])
            if known[name] is not None and type(value) is not kind:
                raise ValueError(f"{script.stem}: parameter {name!r} must be {kind.__name__}, found {value!r}")
        planned.append(Planned(script=script, notebook=notebook, executed=out / f"{script.stem}.ipynb"))
    return tuple(planned)


def failure(error: Exception) -> str:
    """Return what went wrong in a notebook as its reader would see it: the cell and the end of the traceback."""
    from papermill.exceptions import PapermillExecutionError

    if not isinstance(error, PapermillExecutionError):  # the kernel died or never started
        return f"{type(error).__name__}: {error}\n(a kernel that died most often ran out of memory)"
    trace = ANSI.sub("", "\n".join(error.traceback)).rstrip().split("\n")
    cell = "\n".join(f"    {line}" for line in error.source.strip().split("\n"))
    return f"cell {error.cell_index}:\n{cell}\n" + "\n".join(f"  {line}" for line in trace[-12:])


def execute(planned: Planned, *, given: Mapping[str, object], progress: Progress) -> Exception | None:
    """Run one notebook in a kernel of its own and return the error it ended with, None where there was none.

    Whole runs land at `planned.executed`, failed ones beside it as NN_name.failed.ipynb.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillException

    planned.executed.parent.mkdir(parents=True, exist_ok=True)
    partial, failed = (planned.executed.with_suffix(f".{word}.ipynb") for word in ("partial", "failed"))
    failed.unlink(missing_ok=True)
    try:
        papermill.execute_notebook(
            planned.notebook, partial, parameters=dict(given), kernel_name=KERNELSPEC["name"], cwd=ROOT,
            progress_bar=False, stdout_file=progress, on_cell_start=progress.cell, coalesce_streams=True)
    except (PapermillException, DeadKernelError, RuntimeError) as error:
        if partial.exists():
            os.replace(partial, failed)
        return error
    os.replace(partial, planned.executed)
    return None


def remembered(scale: str, *, results: Path) -> dict[str, dict[str, object]]:
    """Return notebook -> its row of times at this scale, empty where none were kept."""
    from dbyte.report.results import read_results

    try:
        frame = read_results(TIMES, scale=scale, folder=results)
    except (FileNotFoundError, ValueError):  # they cost nothing to lose
        return {}
    return {row["notebook"]: row for row in frame.to_dict("records")}


def remember(seconds: Mapping[str, float], *, scale: str, seed: int, results: Path) -> None:
    """Keep what the notebooks took: the longest of all runs, since a rerun that loads finished training says little.

    Faster code shows when the file is removed before a run from empty `runs/`.
    """
    from dbyte.report.provenance import commit
    from dbyte.report.results import write_results

    rows = remembered(scale, results=results)
    for name, took in seconds.items():
        if name not in rows or took > rows[name]["value"]:
            rows[name] = {"notebook": name, "value": round(took, 1), "stderr": float("nan"), "n": 1, "commit": commit()}
    write_results(TIMES, list(rows.values()), scale=scale, keys=["notebook"], seeds=[seed], config_hash="none",
                  wall_seconds=sum(seconds.values()), folder=results)


def shown(path: Path) -> str:
    """Return the path as a reader at the root would type it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def counted(planned: tuple[Planned, ...]) -> str:
    return "1 notebook" if len(planned) == 1 else f"{len(planned)} notebooks"


def announce(planned: tuple[Planned, ...], *, scale: str, given: Mapping[str, object], results: Path) -> None:
    """Print what will run, how long each took here before, and where everything goes."""
    rows = remembered(scale, results=results)
    print(f"dbyte reproduce: scale {scale}, {counted(planned)}, parameters "
          + ", ".join(f"{name}={value!r}" for name, value in given.items()))
    for one in planned:
        cost = f"{rows[one.name]['value'] / 60:.1f} min before" if one.name in rows else "not timed yet"
        print(f"  {one.name:28s} {cost:16s} -> {shown(one.executed)}")
    print(f"  results -> {shown(results / scale)}/   figures -> {shown(FIGURES / scale)}/   training is cached in "
          f"{shown(RUNS)}/", flush=True)


def reproduce(scale: str, *, only: str | None = None, out: Path | None = None, seed: int = 0,
              extra: Mapping[str, object] | None = None, notebooks: Path = NOTEBOOKS, results: Path = RESULTS) -> int:
    """Run the notebooks in order, write the report on all results, and return 0, or 1 after the first that fails.

    scale: a preset's name. only: some notebooks, such as `01,02`. out: the folder of the executed notebooks, by default
    runs/notebooks/<scale>. extra: more parameters than scale and seed. Raises ValueError before anything runs for an
    unknown scale, notebook or parameter, or one of the wrong type.
    """
    from dbyte import presets
    from dbyte.report.page import report, report_path

    presets.scale(scale)
    given = {"scale": scale, "seed": seed, **(extra or {})}
    planned = plan(find_scripts(notebooks, only=only), given=given, out=out or RUNS / "notebooks" / scale)
    announce(planned, scale=scale, given=given, results=results)
    progress, seconds = Progress(terminal=sys.stdout.isatty()), {}
    with own_kernel():
        for one in planned:
            progress.start(one.name, cells=len(one.notebook.cells))
            error = execute(one, given=given, progress=progress)
            took = time.monotonic() - progress.began
            if error is not None:
                progress.finish(f"[{one.name}] FAILED after {took:.1f} s\n{failure(error)}\n"
                                f"The notebook so far: {shown(one.executed.with_suffix('.failed.ipynb'))}")
                return 1
            progress.finish(f"[{one.name}] done in {took:.1f} s: {shown(one.executed)}")
            seconds[one.name] = took
            remember({one.name: took}, scale=scale, seed=seed, results=results)
            if scale == COMMITTED_SCALE:
                executed = read_notebook(one.executed)
                write_notebook(one.script.with_suffix(".ipynb"), with_outputs(one.notebook, executed=executed))
    report(scale, write=True, results=results)
    print(f"{counted(planned)} done in {sum(seconds.values()) / 60:.1f} min; "
          f"results in {shown(results / scale)}/, figures in {shown(FIGURES / scale)}/, "
          f"report in {shown(report_path(scale, results=results))} and .html", flush=True)
    return 0
