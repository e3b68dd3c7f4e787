"""How a run is told to end from outside, and how it leaves.

Two signals matter. SIGUSR2 is a scheduler's warning: this job will lose its place soon, whoever installed the handler
before us (the launcher) puts it back into the queue. SIGTERM ends the process soon, or, where the launcher shields
its jobs from it, says that the cluster is about to.

While nothing is worth saving (data are prepared, a model is judged) a signal acts at once. While a network is trained
the signal only leaves a wish, which training looks at after every batch: see
:class:`brainlab.run.callbacks.preemption.PreemptionCheckpoint`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from brainlab.run.directory import is_rank_zero, started_by_srun

__all__ = ["GRACE_S", "Ending", "Preempted", "Terminated", "current", "told_to_end"]

log = logging.getLogger(__name__)

GRACE_S = 90.0
"""Seconds that training has to reach a place where it can be saved, unless the launcher says how long it has."""

_TERMINATE_GRACE_S = 10.0  # as long as containers wait between SIGTERM and SIGKILL
_UNWIND_S = 15.0
_WAIT_FOR_THE_KILL_S = 60.0
_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)  # in order of rank: the later one is the stronger wish
_CODE = 130

_active: Ending | None = None


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM); libraries clean up as for Ctrl-C."""


class Preempted(SystemExit):
    """The job loses its place and will go on later. Leaves the run by the way that every error takes, so that locks
    and temporary folders are given back; no library catches it."""


class Ending:
    """The signals of this process while runs are in it.

    Args:
        grace_s: how long a wish may wait before the run leaves without being saved.
    """

    def __init__(self, grace_s: float = GRACE_S) -> None:
        self.grace_s = grace_s
        self.depth = 0
        self._kept: dict[int, Any] = {}
        self._wish = 0
        self._deferring = False
        self._overdue = False
        self._leaving = False
        self._lock = threading.Lock()
        self._handed_over = threading.Event()
        self._left = threading.Event()
        self._closers: list[Callable[[str, str | None], None]] = []
        self._pipe: tuple[int, int] | None = None
        self._listener: threading.Thread | None = None
        self._old_wakeup = -1

    # -- what training asks -------------------------------------------------------------------------------------

    @property
    def wish(self) -> int:
        """0: go on; 1: save soon, the process may be killed (SIGTERM); 2: save and leave (SIGUSR2)."""
        return self._wish

    def defer(self) -> None:
        """From now on signals leave a wish instead of acting at once."""
        self._deferring = True

    def act_at_once(self) -> None:
        """From now on signals act at once; so does a wish that nobody has looked at."""
        self._deferring = False
        if self._wish:
            self.act(self._wish)

    def drop(self) -> None:
        """Training ends by an error of its own: a wish has nothing to wait for."""
        self._deferring, self._wish = False, 0

    def act(self, wish: int) -> None:
        """Do what the signal asked for, now that everything is saved.

        Args:
            wish: what all processes agreed on; this one may have got no signal itself.

        Raises:
            Preempted: the job leaves.
            Terminated: the process was asked to end and nobody shields it.
        """
        self._wish = 0
        number = _SIGNALS[wish - 1]
        if number == signal.SIGUSR2:
            self._leaving = True
            raise Preempted(_CODE)
        kept = self._kept.get(number)
        if callable(kept):
            kept(number, None)  # whoever it was shields the process: training goes on
        else:
            self._leaving = True
            raise Terminated("terminated")

    # -- signals ------------------------------------------------------------------------------------------------

    def install(self) -> None:
        """Take the signals over; ignored ones stay ignored."""
        for number in _SIGNALS:
            kept = signal.getsignal(number)
            if kept not in (signal.SIG_IGN, None):
                self._kept[number] = kept
                signal.signal(number, self._receive)
        # A thread hears of the warning also while the main thread is inside a long call into a library.
        read, write = os.pipe()
        os.set_blocking(write, False)
        self._pipe = (read, write)
        self._old_wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._listener = threading.Thread(target=self._listen, args=(read,), name="brainlab-signals", daemon=True)
        self._listener.start()

    def restore(self) -> None:
        """Give the signals back to those who had them."""
        self._left.set()
        for number, kept in self._kept.items():
            signal.signal(number, kept)
        if self._pipe is not None:
            signal.set_wakeup_fd(self._old_wakeup)
            os.write(self._pipe[1], b"\0")
            assert self._listener is not None
            self._listener.join(timeout=5)
            for descriptor in self._pipe:
                os.close(descriptor)
            self._pipe = None

    def forget_in_child(self) -> None:
        """A forked child, such as a worker of a loader, leaves when its parent does and not by itself."""
        for number in self._kept:
            signal.signal(number, signal.SIG_IGN if number == signal.SIGUSR2 else signal.SIG_DFL)
        signal.set_wakeup_fd(-1)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        # Nothing is said here: the signal may have interrupted a write to the same stream.
        wish = _SIGNALS.index(signal.Signals(number)) + 1
        if self._overdue:
            self._overdue = False
            self.act(wish)
        elif self._leaving:
            return  # it must not disturb what is written down on the way out
        elif self._deferring:
            self._wish = max(wish, self._wish)
        else:
            self.act(wish)

    def _listen(self, read: int) -> None:
        counting: set[int] = set()
        while not self._left.is_set():
            try:
                arrived = os.read(read, 64)
            except OSError:
                return
            for number in set(arrived) & self._kept.keys() - counting:
                grace = self._grace(number)
                if grace is not None:
                    counting.add(number)
                    threading.Thread(target=self._count_down, args=(number, grace), daemon=True).start()

    def _grace(self, number: int) -> float | None:
        if number == signal.SIGUSR2:
            return self.grace_s
        return None if callable(self._kept[number]) else min(_TERMINATE_GRACE_S, self.grace_s)

    def _count_down(self, number: int, grace_s: float) -> None:
        """Make a run leave that does not reach a place to save."""
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline:
            if self._left.wait(0.2) or self._handed_over.is_set():
                return
        if self._deferring:
            log.warning("no place to save was reached in %.0f s; leaving with the last checkpoint", grace_s)
            self._overdue = True
            signal.pthread_kill(threading.main_thread().ident or 0, number)
            if self._left.wait(_UNWIND_S):
                return
        if number == signal.SIGUSR2:  # the main thread hangs: the job must get back into the queue without it
            log.warning("this process does not answer; handing it over as it is")
            self.hand_over(hanging=True)

    # -- leaving ------------------------------------------------------------------------------------------------

    @contextmanager
    def closing(self, close: Callable[[str, str | None], None]) -> Iterator[None]:
        """While inside, ``close(state, error)`` is how a run that hangs is written down."""
        self._closers.append(close)
        try:
            yield
        finally:
            self._closers.remove(close)

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """While inside, signals wait: what is written down here must be whole."""
        before, self._leaving = self._leaving, True
        try:
            yield
        finally:
            self._leaving = before

    def hand_over(self, *, hanging: bool = False) -> None:
        """Call the handler that was there before us; everything must be written down by now.

        A launcher's handler puts the job back into the queue and exits; in processes other than the first it only
        returns, and they wait here for the end of the job. Without a handler the process simply leaves.

        Raises:
            Exception: what the kept handler raised: the job will not go on.
        """
        if self.depth > 1 and not hanging:
            return  # the outermost run leaves last
        with self._lock:
            if self._handed_over.is_set():
                return
            self._handed_over.set()
        kept = self._kept.get(signal.SIGUSR2)
        if hanging:
            self._leave_by_force(kept)
        if not callable(kept):
            return
        kept(signal.SIGUSR2, None)
        if not is_rank_zero() and started_by_srun():
            # Leaving first would look like a failure of the job to the one who starts its processes.
            time.sleep(_WAIT_FOR_THE_KILL_S)

    def _leave_by_force(self, kept: Any) -> None:
        code = _CODE
        for close in reversed(self._closers):
            close("PREEMPTED", None)
        try:
            if callable(kept):
                kept(signal.SIGUSR2, None)
            if not is_rank_zero() and started_by_srun():
                time.sleep(_WAIT_FOR_THE_KILL_S)
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 1
        except Exception as error:
            code = 1
            for close in reversed(self._closers):
                close("FAILED", f"{type(error).__name__}: {error}")
        os._exit(code & 0xFF)


def current() -> Ending | None:
    """The signals of the run that this process is in."""
    return _active


@contextmanager
def told_to_end(grace_s: float = GRACE_S) -> Iterator[Ending]:
    """Listen to SIGTERM and SIGUSR2 while a run lasts; a run inside a run shares the outer one's signals.

    Outside the main thread nothing can be listened to, and nothing happens.
    """
    global _active
    if _active is not None or threading.current_thread() is not threading.main_thread():
        ending = _active or Ending(grace_s)
        ending.depth += 1
        try:
            yield ending
        finally:
            ending.depth -= 1
        return
    _active = ending = Ending(grace_s)
    ending.depth = 1
    ending.install()
    try:
        yield ending
    finally:
        ending.restore()
        _active = None


def _in_child() -> None:
    global _active
    if _active is not None:
        with contextlib.suppress(ValueError):  # forked from another thread than the main one
            _active.forget_in_child()
        _active = None


os.register_at_fork(after_in_child=_in_child)
