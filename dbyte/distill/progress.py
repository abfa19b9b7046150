"""What a run prints and logs while it trains: JSON lines always; a bar if someone watches, else a line now and then, at
least every LINE_SECONDS.

Someone watches if the output is a terminal, or a notebook whose front end can ask for input: JupyterLab says so with
every cell that it sends. papermill, nbconvert and `python -m dbyte reproduce` run a notebook in the same kind of kernel
but cannot ask for input. They get lines, since a bar would leave every frame in the notebook that is kept.

TensorBoard gets the same numbers on request (extra `tensorboard`).
"""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO, TypeVar

from tqdm import tqdm

from dbyte.atomic import atomic_write, explain_full_disk
from dbyte.distill.runs import Run

LINES = 200  # about how many lines a run's metrics.jsonl has
LINE_SECONDS = 15.0  # between two printed lines where nobody watches, at most
T = TypeVar("T")


class Pace:
    """Tells when a line is due: so that LINE_SECONDS never pass without one, if parts take equally long.

    said: when the last line was printed, in seconds; -inf makes the first part due.
    """

    def __init__(self, said: float):
        self.said = said
        self.before = 0.0

    def is_due(self, seconds: float) -> bool:
        """Whether to print a line now, when a part has ended."""
        took = seconds - self.before
        self.before = seconds
        if seconds + took - self.said < LINE_SECONDS:
            return False
        self.said = seconds
        return True


def told(parts: Sequence[T], what: str, size: Callable[[T], float] | None = None) -> Iterator[T]:
    """Yield the parts of a job; if it is a long one, print at least every LINE_SECONDS how many are done.

    size: the bytes of a part that is done, None: not known.
    """
    pace = Pace(said=0.0)
    read = 0
    began = time.monotonic()
    for done, part in enumerate(parts):
        seconds = time.monotonic() - began
        if done and pace.is_due(seconds):
            speed = f"{read / seconds:,.0f} bytes/s, " if size else ""
            left = seconds / done * (len(parts) - done)
            print(f"  {what}: {done}/{len(parts)}, {speed}{left:.0f} s left", flush=True)
        yield part
        read += size(part) if size else 0


class ProgressLog:
    """The log of one run, from update `first` on; `seconds` are those of the run, before it was resumed too.

    The speed and the time left that are shown are those since then: what came before may have had another machine.
    """

    def __init__(self, run: Run, name: str, updates: int, first: int, *, tensorboard: bool = False):
        self.board = summary_writer()(run.folder / "tensorboard", purge_step=first) if tensorboard else None
        kept = run.metrics_path.read_text(errors="replace").splitlines() if run.metrics_path.exists() else []
        before = [line for line in kept if _is_before(line, first)]
        atomic_write(run.metrics_path, "".join(line + "\n" for line in before))
        self.resumed = json.loads(before[-1]) if before else {"update": -1, "bytes": 0, "seconds": 0.0}
        self.file = run.metrics_path.open("a", encoding="utf-8", buffering=1)  # line by line, should it be killed
        self.every = max(updates // LINES, 1)
        self.name = name
        self.pace = Pace(said=-math.inf)
        self.path = run.metrics_path
        watched = watched_stream()
        self.bar = tqdm(total=updates, initial=first, desc=name, unit="update", mininterval=1, file=watched,
                        disable=watched is None)

    def write(
        self, update: int, *, loss: float, norm: float, rates: list[float], seconds: float, train_bytes: int,
        more: dict | None = None,
    ) -> None:
        """Log one update, if it is one of about LINES, or the last; rates: of each group. more: further values."""
        self.bar.update()
        is_last = update + 1 == self.bar.total
        is_logged = update % self.every == 0 or is_last
        took = max(seconds - self.resumed["seconds"], 1e-9)
        speed = f"{(train_bytes - self.resumed['bytes']) / took:,.0f} bytes/s"
        state = f"loss {loss:.4g}, rates {', '.join(f'{rate:.1e}' for rate in rates)}, {speed}"
        if is_logged:
            self.bar.set_postfix_str(state, refresh=False)
        if self.bar.disable and (self.pace.is_due(seconds) or is_last):
            left = took / (update - self.resumed["update"]) * (self.bar.total - update - 1)
            print(f"  {self.name}: {update + 1}/{self.bar.total}, {state}, {left:.0f} s left", flush=True)
        if not is_logged:
            return
        line = json.dumps({"update": update, "bytes": train_bytes, "loss": loss, "norm": norm, "rates": rates,
                           "seconds": round(seconds, 3)} | (more or {})) + "\n"
        try:
            self.file.write(line)
        except OSError as error:
            explain_full_disk(self.path, error, needed=len(line))
            raise
        if self.board:
            numbers = {"loss": loss, "norm": norm} | {f"rate/{place}": rate for place, rate in enumerate(rates)}
            for name, number in numbers.items():
                self.board.add_scalar(name, number, update)

    def close(self) -> None:
        """Flush to disk."""
        for each in (self.file, self.bar, self.board):
            if each is not None:
                each.close()


def watched_stream() -> TextIO | None:
    """Where a bar may move: a notebook's output or a terminal's stderr; None if nobody watches."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    kernel = getattr(shell, "kernel", None)  # of a notebook; IPython on a terminal has none
    if kernel is None:
        return sys.stderr if sys.stderr.isatty() else None
    # Its standard output: JupyterLab paints stderr like an error.
    return sys.stdout if kernel.get_parent("shell").get("content", {}).get("allow_stdin") else None


def _is_before(line: str, update: int) -> bool:
    """True for a logged line of an earlier update; False also for an incomplete line."""
    try:
        return json.loads(line)["update"] < update
    except (ValueError, KeyError, TypeError):
        return False


def summary_writer() -> type:
    """TensorBoard's writer; ValueError with the remedy if it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise ValueError("TensorBoard is not installed: pip install 'dbyte[tensorboard]', or do without it (every "
                         "number is in metrics.jsonl)") from error
    return SummaryWriter
