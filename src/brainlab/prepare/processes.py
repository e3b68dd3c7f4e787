"""Work in parallel processes that start fresh, use one thread each, and end with the run that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

__all__ = ["in_processes"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(
    function: Callable[[Item], Result], items: Mapping[int, Item], n_workers: int
) -> Iterator[tuple[int, Result | None]]:
    """Results as they come, under the number of their item; None for an item whose process was killed.

    Args:
        function: of a module, so that a fresh process finds it; what it raises is raised here.
        items: picklable.
        n_workers: processes.
    """
    with _pool(n_workers) as pool:
        call = partial(_call, function)
        numbers: dict[Future[Result], int] = {pool.submit(call, item): number for number, item in items.items()}
        for future in as_completed(numbers):
            try:
                result: Result | None = future.result()
            except BrokenExecutor:
                result = None
            yield numbers[future], result


@contextmanager
def _pool(n_workers: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes (a fork of one that has threads may hang), which end at once when the work is given up."""
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(n_workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start() -> None:
    """One thread per process; Ctrl-C is the parent's business; an orphan ends itself."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # As an exception, so that half-written files are removed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(function: Callable[[Item], Result], item: Item) -> Result:
    """A process that was told to end does not go on to the next item, which the pool may have handed out already."""
    try:
        return function(item)
    except SystemExit:
        os._exit(143)
