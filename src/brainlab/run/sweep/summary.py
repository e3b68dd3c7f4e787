"""Jobs that differ only in their seed, taken together: ``sweep_summary.csv``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from brainlab.run.sweep.table import Entry, Spread, columns_of, csv_text, is_number, spread_of

__all__ = ["Group", "Spread", "groups_of", "spread_of", "summary_csv"]

SEED = "seed"


@dataclass
class Group:
    """The jobs with the same value of everything that is swept except the seed."""

    settings: Mapping[str, Any]
    entries: list[Entry] = field(default_factory=list)

    def spread(self, name: str, metric: str) -> Spread | None:
        """Number, mean and spread of one metric over the completed jobs; ``None`` where none has it."""
        values = [entry.metrics(metric).get(name) for entry in self.entries]
        return spread_of([float(value) for value in values if is_number(value)])


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
