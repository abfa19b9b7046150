"""One notebook under papermill, in a process of its own: what it says while it runs, and how it ends.

    python -m dbyte.notebook.execution FILE.ipynb '{"scale": "smoke", "seed": 0}'

The notebook is executed in its own folder. It ends with this process, and this process ends when its standard input
closes: so neither outlives the one that started them.
"""

import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

from nbformat import NotebookNode

from dbyte.notebook.pairing import KERNELSPEC
from dbyte.paths import ROOT

ANSI = re.compile(r"\x1b\[[0-9;]*m")


class Lines:
    """Prints whole lines, each after the notebook's number, so that several notebooks can share a terminal."""

    def __init__(self, number: str) -> None:
        self.number = number
        self.began = time.monotonic()
        self.unfinished = ""

    def say(self, text: str) -> None:
        for line in text.split("\n"):
            print(f"[{self.number}] {line}", flush=True)

    def start_cell(self, cell: NotebookNode, cell_index: int) -> None:
        """Called as each cell starts, text cells too: a heading opens a section."""
        first = cell.source.lstrip().split("\n", 1)[0]
        if cell.cell_type == "markdown" and first.startswith("#"):
            self.say(f"{time.monotonic() - self.began:6.1f} s  cell {cell_index}: {first.lstrip('# ')}")

    def write(self, text: str) -> None:
        """Take what the kernel prints, as it prints it."""
        *lines, self.unfinished = (self.unfinished + text).split("\n")
        for line in lines:
            self.say(f"          | {line}")

    def flush(self) -> None:
        """papermill calls it after each `write`, which has printed all whole lines."""


def failure(error: Exception) -> str:
    """Return what went wrong as the notebook's reader would see it: the cell and the end of the traceback."""
    from papermill.exceptions import PapermillExecutionError

    if not isinstance(error, PapermillExecutionError):
        return f"{type(error).__name__}: {error}\n(a kernel that dies has most often run out of memory)"
    trace = ANSI.sub("", "\n".join(error.traceback)).rstrip().split("\n")
    cell = "\n".join(f"    {line}" for line in error.source.strip().split("\n"))
    return f"cell {error.cell_index}:\n{cell}\n" + "\n".join(f"  {line}" for line in trace[-12:])


def end_with_parent() -> None:
    """Wait until standard input closes, then stop this process; papermill stops its kernel on the signal."""
    os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)


def main(path: Path, parameters: dict[str, object]) -> int:
    """Execute the notebook at `path` in place, from the project's root; return 0, or 1 after printing what failed."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillException

    threading.Thread(target=end_with_parent, daemon=True).start()
    lines = Lines(path.name[:2])
    try:
        papermill.execute_notebook(
            path, path, parameters=parameters, kernel_name=KERNELSPEC["name"], cwd=ROOT, progress_bar=False,
            stdout_file=lines, on_cell_start=lines.start_cell, coalesce_streams=True,
            extra_arguments=["--IPKernelApp.log_level=ERROR"])
    except (PapermillException, DeadKernelError, RuntimeError) as error:
        lines.say(failure(error))
        return 1
    if lines.unfinished:
        lines.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), json.loads(sys.argv[2])))
