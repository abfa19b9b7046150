"""Notebooks one after the other, or several at a time: each starts once those that it builds on are done.

Several run in a process each, because papermill moves its whole process into another folder while a notebook runs. What
they say comes here line by line; only this process prints, and only this one writes what belongs to all.
"""

import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from dbyte.notebook.execution import Planned, Progress, execute, failure, own_kernel
from dbyte.notebook.pairing import find_scripts

GRACE = 20.0  # seconds in which a process that is told to stop stops its kernel, which may take a few


@dataclass(frozen=True)
class Ended:
    """A notebook that ran: how long, and what went wrong, if anything did."""

    planned: Planned
    seconds: float
    failure: str | None


@dataclass(frozen=True)
class Started:
    """A notebook in a process of its own, and where what it says arrives."""

    planned: Planned
    process: BaseProcess
    heard: Connection
    began: float


def needs(script: Path) -> frozenset[str]:
    """Return the numbers of the notebooks that this one builds on, from the script's header.

    There `needs` stands under `dbyte`: a list of numbers, or `all` for every earlier notebook. They only say what waits
    for what: alone, a notebook trains what it finds untrained. Raises ValueError for anything but earlier notebooks.
    """
    import jupytext

    header = jupytext.read(script, fmt="py:percent").metadata.get("dbyte") or {}
    declared = header.get("needs", [])
    earlier = {path.stem[:2] for path in find_scripts(script.parent) if path.stem[:2] < script.stem[:2]}
    if declared == "all":
        return frozenset(earlier)
    if not isinstance(declared, list) or not all(isinstance(number, str) and number in earlier for number in declared):
        raise ValueError(f"{script.stem}: `needs` must be `all` or a list of earlier notebooks in quotes, some of "
                         f"{sorted(earlier)}, found {declared!r}")
    return frozenset(declared)


def threads_each(jobs: int) -> int:
    """Return the threads of each of so many kernels: the user's $OMP_NUM_THREADS, or an equal share of the cores."""
    if re.fullmatch(r"[1-9]\d*", chosen := os.environ.get("OMP_NUM_THREADS", "")):
        return int(chosen)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores // jobs, 1)


def startable(waiting: Sequence[Planned], unfinished: Collection[str]) -> Planned | None:
    """Return the first that needs none of the `unfinished` numbers; what is not planned is not waited for."""
    return next((one for one in waiting if one.needs.isdisjoint(unfinished)), None)


def in_turn(planned: Sequence[Planned]) -> Iterator[Ended]:
    """Run the notebooks one after the other up to the first that fails."""
    progress = Progress(terminal=sys.stdout.isatty())
    with own_kernel():
        for one in planned:
            progress.say(start_line(one))
            progress.start(one.name, cells=len(one.notebook.cells))
            error = execute(one, progress=progress)
            progress.finish()
            yield Ended(one, time.monotonic() - progress.began, None if error is None else failure(error))
            if error is not None:
                return


def together(planned: Sequence[Planned], *, jobs: int) -> Iterator[Ended]:
    """Run up to `jobs` notebooks at a time; after the first that fails none starts, and those that run are waited for.

    Closed early, as by Ctrl-C, it stops all of them and their kernels.
    """
    waiting, unfinished, running, failed = list(planned), [one.number for one in planned], {}, False
    try:
        while True:
            while not failed and len(running) < jobs and (one := startable(waiting, unfinished)):
                waiting.remove(one)
                started = start(one, threads=threads_each(jobs))
                running[started.heard] = started
            if not running:
                return
            for heard in wait(list(running)):
                if (ended := listen(running[heard])) is None:
                    continue
                stop([running.pop(heard)], at_once=False)
                failed |= ended.failure is not None
                if ended.failure is None:
                    unfinished.remove(ended.planned.number)
                yield ended
    finally:
        stop(running.values(), at_once=True)


def start_line(one: Planned) -> str:
    return f"[{one.name}] start, {len(one.notebook.cells)} cells"


def start(one: Planned, *, threads: int) -> Started:
    """Start a notebook in a process of its own."""
    context = multiprocessing.get_context("spawn")
    heard, said = context.Pipe(duplex=False)
    process = context.Process(target=run_apart, args=(one, threads, said), name=one.name, daemon=True)
    print(start_line(one), flush=True)
    process.start()
    said.close()  # the process has its own, and the end of that one is then the end of all
    return Started(one, process, heard, time.monotonic())


def listen(started: Started) -> Ended | None:
    """Take one message: print a line behind the notebook's number, or return how it ended."""
    try:
        kind, text = started.heard.recv()
    except EOFError:
        started.process.join(GRACE)
        kind, text = "ended", (f"its process ended with status {started.process.exitcode}\n"
                               "(one that was killed most often ran out of memory)")
    if kind == "ended":
        return Ended(started.planned, time.monotonic() - started.began, text)
    for line in text.split("\n"):
        print(f"[{started.planned.number}] {line}", flush=True)
    return None


def stop(running: Iterable[Started], *, at_once: bool) -> None:
    """See processes end, told to where `at_once`, killed where they do not."""
    running = list(running)
    for started in running if at_once else ():
        started.process.terminate()
    for started in running:
        started.process.join(GRACE)
        if started.process.exitcode is None:
            started.process.kill()
            started.process.join()
        started.heard.close()


def run_apart(one: Planned, threads: int, said: Connection) -> None:
    """Run a notebook in this process, which was started for it, and send its lines and its end."""
    # A terminal's Ctrl-C reaches this process too, but one that stops its kernel must not be interrupted in that:
    # it is told once, by the first process.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=follow_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = str(threads)  # the kernel inherits it
    progress = Progress(terminal=False, line=lambda text: said.send(("line", text)))
    try:
        with own_kernel():
            progress.start(one.name, cells=len(one.notebook.cells))
            error = execute(one, progress=progress)
        progress.finish()
        said.send(("ended", None if error is None else failure(error)))
    except KeyboardInterrupt:
        sys.exit(1)  # whoever stopped it knows
    except Exception as error:
        said.send(("ended", f"{type(error).__name__}: {error}"))


def follow_parent() -> None:
    """Stop this process, and with it the kernel, when the first one is gone without a word."""
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)
