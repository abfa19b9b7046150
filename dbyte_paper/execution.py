"""One notebook under papermill, in a process of its own.

    python -m dbyte_paper.execution FILE.ipynb '{"scale": "smoke", "seed": 0}'

The notebook is executed in place, from the project's root. It ends with this process, and this process ends when its
standard input closes: so neither outlives the one that started them. Its metadata then hold `dbyte: peak_bytes`, the
most memory that its kernel, or a process that the kernel started, held at once.
"""

import json
import os
import resource
import signal
import sys
import threading
from pathlib import Path

import papermill
import psutil
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillException

from dbyte.paths import ROOT
from dbyte_paper.pairing import KERNELSPEC, write_notebook

WITHOUT_COLLECTION = "__import__('gc').disable()"  # of garbage, until dbyte_paper is imported: see there


def start_cell(cell: NotebookNode, cell_index: int) -> None:
    """Print the heading that opens a section; papermill calls it as each cell starts, text cells too."""
    first = cell.source.lstrip().split("\n", 1)[0]
    if cell.cell_type == "markdown" and first.startswith("#"):
        print(f"cell {cell_index}: {first.lstrip('# ')}", flush=True)


def end_with_parent() -> None:
    """Wait until standard input closes, then stop the kernel with all that it started, and this process.

    A kernel looks once a second whether its parent is there: left to itself it would go on for as long.
    """
    os.read(sys.stdin.fileno(), 1)
    started = psutil.Process().children(recursive=True)
    for process in started:
        process.kill()
    psutil.wait_procs(started)
    os._exit(128 + signal.SIGTERM)


def main(path: Path, parameters: dict[str, object]) -> int:
    """Execute the notebook and print what its cells print; return 0, or 1 after printing what failed."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        executed = papermill.execute_notebook(
            path, path, parameters=parameters, kernel_name=KERNELSPEC["name"], cwd=ROOT, progress_bar=False,
            stdout_file=sys.stdout, on_cell_start=start_cell, coalesce_streams=True,
            extra_arguments=["--IPKernelApp.log_level=ERROR", f"--IPKernelApp.exec_lines={WITHOUT_COLLECTION}"])
    except PapermillException as error:
        print(error)
        return 1
    except (DeadKernelError, RuntimeError) as error:
        print(f"{type(error).__name__}: {error}\n(a kernel that dies has most often run out of memory)")
        return 1
    # The kernel has ended, or it would not be counted. Linux counts from what the process held that started it.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    executed.metadata["dbyte"] = {"peak_bytes": peak}
    write_notebook(path, executed)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), json.loads(sys.argv[2])))
