"""The one logger that a trainer sees: it keeps the history, drops repeated rows, and outlives any tracker."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from brainlab.run.history import History, Row

__all__ = ["RunInfo", "RunLogger", "Tracker"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunInfo:
    """What a tracker is told about a run at its start."""

    folder: Path
    experiment: str
    attempt: int
    params: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    parent_run_id: str | None = None


class Tracker(Protocol):
    """A place that metrics are sent to. Any method may raise: the run goes on without it."""

    def start(self, info: RunInfo, history: list[Row]) -> None:
        """Open or reopen the tracker's run; ``history`` holds the rows of earlier attempts."""

    def log(self, rows: list[Row]) -> None: ...

    def flush(self) -> None: ...

    def finish(self, state: str, files: tuple[Path, ...]) -> None: ...


class RunLogger(Logger):
    """Lightning's view of the run's history and tracker.

    Args:
        history: the run's own rows.
        tracker: where else they go; ``None`` for nowhere.
    """

    def __init__(self, history: History, tracker: Tracker | None = None) -> None:
        super().__init__()
        self.history = history
        self.tracker = tracker
        self._warned: set[str] = set()

    @property
    def name(self) -> str:
        return "brainlab"

    @property
    def version(self) -> str:
        return self.history.path.parent.name

    @rank_zero_only
    def start(self, info: RunInfo) -> None:
        """Open the tracker's run."""
        if not self._safely("start", lambda tracker: tracker.start(info, list(self.history.rows))):
            self.tracker = None

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        new = self.history.add({key: float(value) for key, value in metrics.items()}, int(step or 0))
        if new:
            self._safely("log", lambda tracker: tracker.log(new))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The configuration is logged once, at the start."""

    @rank_zero_only
    def flush(self) -> None:
        """Bring everything that was logged so far to where it will stay."""
        self.history.flush()
        self._safely("flush", lambda tracker: tracker.flush())

    @rank_zero_only
    def finish(self, state: str, files: tuple[Path, ...] = ()) -> None:
        """Close history and tracker."""
        self.history.flush()
        self._safely("finish", lambda tracker: tracker.finish(state, files))
        self.history.close()

    def _safely(self, what: str, call: Callable[[Tracker], None]) -> bool:
        if self.tracker is None:
            return True
        try:
            call(self.tracker)
        except Exception as error:  # an outage of a tracker never ends a run
            if what not in self._warned:
                self._warned.add(what)
                reason = str(error).strip().splitlines()
                log.warning(
                    "Tracking failed (%s, %s: %s); the run goes on, its values are in %s",
                    what,
                    type(error).__name__,
                    reason[0] if reason else "",
                    self.history.path,
                )
            log.debug("Tracking failed", exc_info=True)
            return False
        return True
