"""Interrupts during training: obeyed between two updates, so that a checkpoint is written first.

The first Ctrl-C (SIGINT) or SIGTERM is noted, and takes its usual effect once the checkpoint is written. A second one
of the same kind takes effect at once. A signal that the process ignores, as in the background, stays so.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SAID = b"\ninterrupted: a checkpoint is written after this update (interrupt again to end at once)\n"


@contextmanager
def noted_interrupts() -> Iterator[list[int]]:
    """Give a list of the signals noted so far; at the end the first of them is raised, and KeyboardInterrupt after it.

    Only the main thread receives signals; in another thread the list stays empty.
    """
    noted: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    handlers = {number: handler for number in numbers
                if (handler := signal.getsignal(number)) not in (signal.SIG_IGN, None)}  # None: not set from Python

    def note(number: int, frame: object) -> None:
        noted.append(number)
        signal.signal(number, handlers[number])
        os.write(2, SAID)  # a signal may come in the middle of a print, which cannot be entered twice

    for number in handlers:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if noted:
        signal.raise_signal(noted[0])
        raise KeyboardInterrupt
