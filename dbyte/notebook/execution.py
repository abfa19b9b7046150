"""One notebook in a kernel of its own, which is this interpreter: what it says while it runs, and how it ends."""

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nbformat import NotebookNode

from dbyte.notebook.pairing import KERNELSPEC
from dbyte.paths import ROOT

ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Planned:
    """A notebook that is ready to run: where its script is, what was read from it, where the executed one goes.

    needs: numbers of the notebooks that it builds on. parameters: what takes the place of its defaults.
    """

    script: Path
    notebook: NotebookNode
    executed: Path
    needs: frozenset[str] = frozenset()
    parameters: Mapping[str, object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.script.stem

    @property
    def number(self) -> str:
        return self.name[:2]


def print_line(text: str) -> None:
    """Print at once, also into a file."""
    print(text, flush=True)


class Progress:
    """What a run says: a bar of cells and the latest lines on a terminal, one plain line an event in a log."""

    def __init__(self, *, terminal: bool, line: Callable[[str], None] = print_line) -> None:
        """line: what becomes of a line where there is no bar."""
        self.terminal, self.line = terminal, line
        self.bar = None
        self.began = time.monotonic()
        self.rest = ""  # of a line that the kernel has not ended yet

    def say(self, text: str) -> None:
        """Print whole lines, above the bar if there is one."""
        if self.bar is None:
            self.line(text)
        else:
            self.bar.write(text)

    def start(self, name: str, *, cells: int) -> None:
        self.began = time.monotonic()
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

    def finish(self) -> None:
        if self.rest:
            self.write("\n")
        if self.bar is not None:
            self.bar.close()
            self.bar = None


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


def failure(error: Exception) -> str:
    """Return what went wrong in a notebook as its reader would see it: the cell and the end of the traceback."""
    from papermill.exceptions import PapermillExecutionError

    if not isinstance(error, PapermillExecutionError):  # the kernel died or never started
        return f"{type(error).__name__}: {error}\n(a kernel that died most often ran out of memory)"
    trace = ANSI.sub("", "\n".join(error.traceback)).rstrip().split("\n")
    cell = "\n".join(f"    {line}" for line in error.source.strip().split("\n"))
    return f"cell {error.cell_index}:\n{cell}\n" + "\n".join(f"  {line}" for line in trace[-12:])


def execute(planned: Planned, *, progress: Progress) -> Exception | None:
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
            planned.notebook, partial, parameters=dict(planned.parameters), kernel_name=KERNELSPEC["name"], cwd=ROOT,
            progress_bar=False, stdout_file=progress, on_cell_start=progress.cell, coalesce_streams=True)
    except (PapermillException, DeadKernelError, RuntimeError) as error:
        if partial.exists():
            os.replace(partial, failed)
        return error
    os.replace(partial, planned.executed)
    return None
