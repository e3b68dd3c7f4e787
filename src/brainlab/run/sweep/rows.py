"""One job of a sweep: what the sweep knows of it, and what its run directory says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from brainlab.run.directory import read_json
from brainlab.run.sweep.jobs import ENDED

__all__ = ["Found", "JobRow", "find", "words_of"]


@dataclass
class JobRow:
    """One job, as ``sweep.json`` holds it."""

    num: int
    overrides: tuple[str, ...]
    fingerprint: str = ""
    growth: dict[str, Any] = field(default_factory=dict)
    state: str = "PENDING"
    job_id: str | None = None
    reason: str | None = None
    score: float | None = None
    log: str | None = None
    run_dir: str = ""

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "overrides": list(self.overrides)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> JobRow:
        """Read a job back; what a later version may have added is left out."""
        known = {each.name: content[each.name] for each in fields(cls) if each.name in content}
        return cls(**{**known, "overrides": tuple(content.get("overrides") or ())})


@dataclass(frozen=True)
class Found:
    """What a run directory says of its run."""

    state: str | None = None
    error: str | None = None
    score: float | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    better: Mapping[str, str] = field(default_factory=dict)
    headline: str | None = None
    seed: Any = None
    wall_s: float | None = None
    attempts: int = 0
    heartbeat: str | None = None
    host: str | None = None
    pid: int | None = None
    slurm_job_id: str | None = None
    mlflow_run_id: str | None = None
    data_source: str | None = None
    best_step: int | None = None
    pruned: str | None = None
    """Why a search ended the run early."""


def find(folder: Path) -> Found:
    """Read the small files of a run directory; what is missing stays empty."""
    status, results = _mapping(folder / "status.json"), _mapping(folder / "results.json")
    attempts = status.get("attempts") or []
    latest = attempts[-1] if attempts else {}
    best = results.get("best") or {}
    metrics = {name: each for name, each in (results.get("metrics") or {}).items() if isinstance(each, Mapping)}
    try:
        tracker = (folder / "mlflow_run_id").read_text(encoding="utf-8").strip() or None
    except OSError:
        tracker = None
    return Found(
        state=status.get("state"),
        error=status.get("error"),
        score=results.get("score", best.get("score")),
        metrics={name: each.get("value") for name, each in metrics.items()},
        better={name: str(each.get("better") or "higher") for name, each in metrics.items()},
        headline=results.get("headline"),
        seed=results.get("seed"),
        wall_s=results.get("wall_s", _wall_s(attempts, status.get("heartbeat"))),
        attempts=len(attempts),
        heartbeat=status.get("heartbeat"),
        host=latest.get("host"),
        pid=latest.get("pid"),
        slurm_job_id=latest.get("slurm_job_id"),
        mlflow_run_id=tracker,
        data_source=results.get("data_source"),
        best_step=best.get("step"),
        pruned=results.get("pruned"),
    )


def words_of(overrides: Sequence[str]) -> dict[str, str]:
    """Overrides by key.

    >>> words_of(["model.lr=0.1", "+trainer.x=1", "~data.y"])
    {'model.lr': '0.1', 'trainer.x': '1', 'data.y': ''}
    """
    return dict(word.lstrip("+~").partition("=")[::2] for word in overrides)


def _wall_s(attempts: Sequence[Mapping[str, Any]], heartbeat: Any) -> float | None:
    """Seconds that all attempts took; a killed one counts up to its last heartbeat."""
    spans = []
    for attempt in attempts:
        try:
            start, end = (
                datetime.fromisoformat(str(t)) for t in (attempt.get("start"), attempt.get("end") or heartbeat)
            )
            spans.append((end - start).total_seconds())
        except (TypeError, ValueError):
            continue
    return sum(spans) if spans else None


def _mapping(file: Path) -> Mapping[str, Any]:
    found = read_json(file)
    return found if isinstance(found, Mapping) else {}
