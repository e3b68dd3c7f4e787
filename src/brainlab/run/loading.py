"""Loading the large libraries of a run without paying for a garbage collector that finds nothing there."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["keep_loaded", "loading"]

_kept = False


@contextmanager
def loading() -> Iterator[None]:
    """Pause the collector: importing makes millions of objects that stay, and looking through them again and again
    takes a fifth of the time (``benchmarks/run_overhead.py``)."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def keep_loaded() -> None:
    """Spare every later collection the walk through what is loaded by now.

    Only the first call in a process counts: later there are models of earlier jobs among the living, and what is kept
    would never be freed.
    """
    global _kept
    if not _kept:
        _kept = True
        gc.freeze()
