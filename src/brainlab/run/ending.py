"""How a run is told to end from outside."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Terminated", "terminable"]


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM); libraries clean up as for Ctrl-C."""


@contextmanager
def terminable() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that a run that is asked to end can still write down that it did.

    A handler that somebody else installed (a cluster launcher, a surrounding program) stays in charge.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated("terminated")

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
