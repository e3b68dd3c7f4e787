"""Jobs that differ only in their seed, taken together: ``sweep_summary.csv``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from brainlab.run.sweep.table import Entry, columns_of, csv_text

__all__ = ["Group", "Spread", "groups_of", "summary_csv"]

SEED = "seed"


@dataclass(frozen=True)
class Spread:
    """Several values as three numbers."""

    n: int
    mean: float
    sd: float | None
    """Sample standard deviation (n - 1); ``None`` for one value."""


@dataclass
class Group:
    """The jobs with the same value of everything that is swept except the seed."""

    settings: Mapping[str, Any]
    entries: list[Entry] = field(default_factory=list)

    def spread(self, name: str, metric: str) -> Spread | None:
        """Number, mean and spread of one metric over the completed jobs; ``None`` where none has it."""
        values = [entry.metrics(metric).get(name) for entry in self.entries]
        return spread_of([float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)])


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


def groups_of(entries: Sequence[Entry], swept: Sequence[str]) -> list[Group]:
    """The groups in the order of their first jobs."""
    keys = [key for key in swept if key != SEED]
    groups: dict[tuple[str, ...], Group] = {}
    for entry in entries:
        settings = {key: entry.settings.get(key) for key in keys}
        groups.setdefault(tuple(map(str, settings.values())), Group(settings)).entries.append(entry)
    return list(groups.values())


def summary_csv(entries: Sequence[Entry], swept: Sequence[str], metric: str) -> str:
    """The text of ``sweep_summary.csv``: one row per group and metric."""
    keys = [key for key in swept if key != SEED]
    rows: list[list[Any]] = []
    for group in groups_of(entries, swept):
        for name in columns_of(entries, metric):
            spread = group.spread(name, metric)
            if spread is not None:
                rows.append([*group.settings.values(), name, spread.n, spread.mean, spread.sd])
    return csv_text([*keys, "metric", "n", "mean", "sd"], rows)
