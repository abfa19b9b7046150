"""Items that a background thread makes before they are asked for."""

import threading
import weakref
from collections.abc import Iterator
from queue import Empty, Full, Queue
from typing import Generic, TypeVar

Item = TypeVar("Item")
WAIT_SECONDS = 0.1  # how often a waiting thread looks whether it is still needed
END_SECONDS = 5.0


class Prefetch(Generic[Item]):
    """An iterator whose items a background thread makes, up to `depth` of them before they are asked for.

    What the thread raises is raised where the next item is asked for. The thread ends when this is closed or garbage;
    `items` must therefore not refer to what holds this.
    """

    def __init__(self, items: Iterator[Item], *, depth: int):
        self._made: Queue[tuple[Item | None, BaseException | None]] = Queue(depth)
        self._error: BaseException | None = None
        unneeded = threading.Event()
        self.thread = threading.Thread(target=_make, args=(items, self._made, unneeded), daemon=True)
        self.thread.start()
        # Also at the end of the interpreter, which must not find the thread inside native code.
        self.close = weakref.finalize(self, _end, self.thread, unneeded)

    def __iter__(self) -> "Prefetch[Item]":
        return self

    def __next__(self) -> Item:
        while self._error is None:
            try:
                item, self._error = self._made.get(timeout=WAIT_SECONDS)
            except Empty:
                if not self.close.alive:
                    raise ValueError("this was closed: it reads no further items") from None
                continue
            if self._error is None:
                return item
        raise self._error


def _make(items: Iterator[Item], made: Queue, unneeded: threading.Event) -> None:
    try:
        for item in items:
            if not _put(made, (item, None), unneeded):
                return
        _put(made, (None, StopIteration()), unneeded)
    except BaseException as error:  # whatever it is, whoever waits for the item must know
        _put(made, (None, error), unneeded)


def _put(made: Queue, entry: tuple, unneeded: threading.Event) -> bool:
    """Wait for room; False if nobody needs the entry any more."""
    while not unneeded.is_set():
        try:
            made.put(entry, timeout=WAIT_SECONDS)
            return True
        except Full:
            continue
    return False


def _end(thread: threading.Thread, unneeded: threading.Event) -> None:
    unneeded.set()
    if thread is not threading.current_thread():  # garbage may be collected in any thread
        thread.join(END_SECONDS)
