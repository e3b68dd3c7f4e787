"""The jobs of a sweep as rows: ``sweep.csv``, and the table on the screen."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from brainlab.run.sweep.queue import is_slurm_id
from brainlab.run.sweep.rows import Found, JobRow

__all__ = [
    "Best",
    "Entry",
    "Spread",
    "best_of",
    "columns_of",
    "counted",
    "csv_text",
    "is_number",
    "screen_text",
    "spread_of",
    "sweep_csv",
]

_LAST = ("seed", "wall_s", "run_dir", "slurm_job_id", "mlflow_run_id")
_WORDS = {
    "RUNNING": "running",
    "PENDING": "pending",
    "PREEMPTED": "preempted",
    "COMPLETED": "completed",
    "FAILED": "failed",
    "LOST": "lost",
    "CANCELLED": "cancelled",
}


@dataclass(frozen=True)
class Entry:
    """One row of every table: the job, its values of what is swept, and what its run directory says."""

    row: JobRow
    settings: Mapping[str, Any]
    seed: Any = None
    found: Found = field(default_factory=Found)

    @property
    def slurm_job_id(self) -> str | None:
        """The cluster's name of the job, where it ran on one."""
        return self.found.slurm_job_id or (self.row.job_id if is_slurm_id(self.row.job_id) else None)

    @property
    def pruned(self) -> bool:
        """Whether a search ended the job early; it completed, with less training than its siblings."""
        return self.row.state == "COMPLETED" and self.found.pruned is not None

    def metrics(self, metric: str) -> dict[str, Any]:
        """What the job scored, the sweep's own metric first; only a completed job scores."""
        if self.row.state != "COMPLETED":
            return {}
        own = {} if self.row.score is None else {metric: self.row.score}
        return {**own, **{name: value for name, value in self.found.metrics.items() if value is not None}}


@dataclass(frozen=True)
class Spread:
    """Several values as three numbers."""

    n: int
    mean: float
    sd: float | None
    """Sample standard deviation (n - 1); ``None`` for one value."""


@dataclass(frozen=True)
class Best:
    """The best combination of a sweep."""

    entry: Entry
    """Its job; of several seeds the best one."""
    spread: Spread
    """Its score over seeds, by which it was chosen."""


def spread_of(values: Sequence[float]) -> Spread | None:
    """Number, mean and sample standard deviation.

    >>> spread_of([1.0, 2.0, 3.0])
    Spread(n=3, mean=2.0, sd=1.0)
    >>> spread_of([4.0])
    Spread(n=1, mean=4.0, sd=None)
    """
    n = len(values)
    if n == 0:
        return None
    mean = math.fsum(values) / n
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1)) if n > 1 else None
    return Spread(n, mean, sd)


def columns_of(entries: Sequence[Entry], metric: str) -> list[str]:
    """The names of all metrics in the order of their first appearance, the sweep's own first."""
    names = dict.fromkeys(name for entry in entries for name in entry.metrics(metric))
    return [*([metric] if metric in names else []), *(name for name in names if name != metric)]


def sweep_csv(entries: Sequence[Entry], swept: Sequence[str], metric: str) -> str:
    """The text of ``sweep.csv``: number, state, swept values, metrics, and where to find the rest."""
    names = columns_of(entries, metric)
    pruned = ["pruned"] if any(entry.pruned for entry in entries) else []
    columns = list(dict.fromkeys(["num", "state", *(key for key in swept if key != "seed"), *names, *pruned, *_LAST]))
    rows = []
    for entry in entries:
        row = {
            **entry.settings,
            **entry.metrics(metric),
            "num": entry.row.num,
            "state": entry.row.state,
            "pruned": "true" if entry.pruned else "",
            "seed": entry.seed,
            "wall_s": entry.found.wall_s,
            "run_dir": entry.row.run_dir,
            "slurm_job_id": entry.slurm_job_id,
            "mlflow_run_id": entry.found.mlflow_run_id,
        }
        rows.append([row.get(column) for column in columns])
    return csv_text(columns, rows)


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A CSV; what is unknown stays empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([["" if value is None else value for value in row] for row in rows])
    return text.getvalue()


def screen_text(entries: Sequence[Entry], swept: Sequence[str], metric: str, mode: str) -> str:
    """The table on the screen; the best job is marked, and what kept the others from completing stands below."""
    scored = any(metric in entry.metrics(metric) for entry in entries)
    best = best_of(entries, metric, mode)
    header = ["num", "state", *swept, *([metric] if scored else []), "SLURM id", "log"]
    cells = [header]
    for entry in entries:
        score = entry.metrics(metric).get(metric)
        marked = "" if score is None else f"{score:.4g}{' *' if best and entry is best.entry else ''}"
        cells.append(
            [
                str(entry.row.num),
                f"{entry.row.state} (pruned)" if entry.pruned else entry.row.state,
                *(_short(entry.settings.get(key)) for key in swept),
                *([marked] if scored else []),
                str(entry.slurm_job_id or ""),
                entry.row.log or entry.row.run_dir,
            ]
        )
    shown = [
        index for index in range(len(header)) if header[index] != "SLURM id" or any(row[index] for row in cells[1:])
    ]
    widths = {index: max(len(row[index]) for row in cells) for index in shown}
    lines = ["  ".join(row[index].ljust(widths[index]) for index in shown).rstrip() for row in cells]
    if best is not None and len(entries) > 1:
        lines.append(f"* best: {_described(best)}")
    lines += [
        f"job {entry.row.num} {_WORDS.get(entry.row.state, entry.row.state)}: {entry.row.reason}"
        for entry in entries
        if entry.row.reason and entry.row.state != "COMPLETED"
    ]
    return "\n".join(lines)


def counted(states: Iterable[str], *, ended_only: bool = False) -> str:
    """How many jobs are in which state.

    >>> counted(["COMPLETED", "RUNNING", "PENDING", "PENDING"])
    '1 running, 2 pending, 1 completed'
    >>> counted(["COMPLETED", "PENDING", "FAILED"], ended_only=True)
    '1 completed, 1 failed, 0 lost, 1 not started'
    """
    count = Counter(states)
    if not ended_only:
        return ", ".join(f"{count[state]} {word}" for state, word in _WORDS.items() if count[state])
    always = [f"{count[state]} {_WORDS[state]}" for state in ("COMPLETED", "FAILED", "LOST")]
    rest = [("CANCELLED", "cancelled"), ("RUNNING", "running"), ("PREEMPTED", "preempted"), ("PENDING", "not started")]
    return ", ".join([*always, *(f"{count[state]} {word}" for state, word in rest if count[state])])


def best_of(entries: Sequence[Entry], metric: str, mode: str) -> Best | None:
    """The combination with the best mean over its seeds: the best single seed would be the luckiest one.

    A trial that a search ended early was not tried to its end and does not count.
    """
    choose = max if mode == "max" else min
    groups: dict[Any, list[Entry]] = {}
    for entry in entries:
        if is_number(entry.metrics(metric).get(metric)) and not entry.pruned:
            settings = [(key, str(value)) for key, value in entry.settings.items() if key != "seed"]
            place: Any = tuple(settings) if "seed" in entry.settings else entry.row.num
            groups.setdefault(place, []).append(entry)
    found = []
    for members in groups.values():
        spread = spread_of([float(entry.metrics(metric)[metric]) for entry in members])
        assert spread is not None
        found.append(Best(choose(members, key=lambda entry: entry.metrics(metric)[metric]), spread))
    return choose(found, key=lambda each: each.spread.mean) if found else None


def is_number(value: Any) -> TypeGuard[float]:
    """Whether there is something to average: neither NaN nor infinite, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _described(best: Best) -> str:
    job, spread = best.entry.row.num, best.spread
    if spread.sd is None:
        return f"job {job}"
    words = [f"{key}={value}" for key, value in best.entry.settings.items() if key != "seed" and value is not None]
    about = f"mean {spread.mean:.4g} ± {spread.sd:.2g} over {spread.n} seeds; job {job} is its best seed"
    return f"{' '.join(words)} ({about})" if words else about


def _short(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
