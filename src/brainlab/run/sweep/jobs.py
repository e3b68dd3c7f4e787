"""The nouns of a sweep: a job that is to run, and what is known of one that was started."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig

__all__ = ["ENDED", "JobChange", "Runner", "SweepJob"]

ENDED = frozenset({"COMPLETED", "FAILED", "LOST", "CANCELLED"})
"""States after which a job changes no more; PENDING, RUNNING and PREEMPTED jobs go on."""


@dataclass(frozen=True)
class SweepJob:
    """One run of a sweep, composed and validated; it lies in ``<sweep folder>/<number>``."""

    number: int
    overrides: tuple[str, ...]
    config: DictConfig
    """With its ``hydra`` node, exactly as the job will run."""


@dataclass(frozen=True)
class JobChange:
    """What became known of one job."""

    number: int
    state: str
    """PENDING, RUNNING, PREEMPTED (will go on), COMPLETED, FAILED, LOST or CANCELLED."""
    score: float | None = None
    """What the job returned."""
    reason: str | None = None
    """One sentence where the job did not complete: its error, or what the cluster says of it."""
    job_id: str | None = None
    """The cluster's name for it, e.g. ``1234_5``."""
    log: Path | None = None
    """Where its output went."""

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class Runner(Protocol):
    """Where jobs run: in this process, in others on this machine, or on a cluster."""

    parallel: int
    """How many jobs run at the same time."""

    def submit(self, jobs: Sequence[SweepJob], folder: Path) -> dict[int, str]:
        """Freeze the configurations in the sweep's folder and start the jobs; returns their ids by number."""

    def watch(self, ids: Mapping[int, str], folder: Path) -> Iterator[JobChange]:
        """Tell every change of state until all of ``ids`` have ended.

        ``ids`` is read anew at every look, so jobs that were submitted later may be added to it.
        """

    def cancel(self, ids: Mapping[int, str]) -> None:
        """End jobs that have not ended; ``watch`` tells them as CANCELLED."""

    def script(self, jobs: Sequence[SweepJob], folder: Path) -> str | None:
        """What would be handed to the cluster, for ``dry=true``; ``None`` where there is nothing to show."""


def as_score(value: Any) -> float | None:
    """The returned value of a job as a number, where it is one."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
