"""Rows as a table: on the screen, as CSV, which columns set them apart, and in what order people count."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from brainlab.run.sweep import table
from brainlab.run.sweep.table import is_number, spread_of

__all__ = ["csv_text", "differing_columns", "natural", "over_seeds", "show"]

_MOST_SHOWN = 60
_MOST_COLUMNS = 16


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the same keys as CSV; what is unknown stays empty."""
    columns = list(rows[0])
    return table.csv_text(columns, [[row.get(column) for column in columns] for row in rows])


def show(rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Print a table, one line per row.

    Columns without any value are left out; of a table too wide to read, those too that only some rows have a value for,
    as it is with runs of different experiments.
    """
    columns = [key for key in rows[0] if any(row[key] is not None for row in rows)]
    if len(columns) > _MOST_COLUMNS:
        shared = [key for key in columns if all(row[key] is not None for row in rows)]
        title = f"{title} ({len(columns) - len(shared)} more columns in the file)"
        columns = shared
    cells = [columns, *([_cell(row[column]) for column in columns] for row in rows[:_MOST_SHOWN])]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    print(f"── {title}")
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if len(rows) > _MOST_SHOWN:
        print(f"… and {len(rows) - _MOST_SHOWN} more")
    sys.stdout.flush()


def differing_columns(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys in which flat configurations differ; what only repeats a top-level key (``data.seed``) is left out.

    >>> differing_columns([{"seed": 0, "data.seed": 0, "a": 1}, {"seed": 1, "data.seed": 1, "a": 1}])
    ['seed']
    """
    keys = sorted({key for config in configs for key in config})
    values = {key: [config.get(key) for config in configs] for key in keys}
    differing = [key for key in keys if len({repr(value) for value in values[key]}) > 1]
    return [key for key in differing if "." not in key or values.get(key.rpartition(".")[2]) != values[key]]


def over_seeds(rows: Sequence[Mapping[str, Any]], keys: Sequence[str], values: Sequence[str]) -> list[dict[str, Any]]:
    """Rows that differ in nothing but their seed as one row: how many, mean and sample standard deviation.

    Args:
        rows: the rows; those that did not complete are left out.
        keys: columns that tell groups apart.
        values: columns of numbers; what is no number is left out.

    Returns:
        one row per group, in the order of their first members; empty where no group has two. A second run with the
        seed of another one says nothing new and is not counted.

    >>> rows = [{"state": "COMPLETED", "lr": 1, "seed": s, "x": x} for s, x in ((0, 2.0), (1, 4.0), (1, 4.0))]
    >>> over_seeds(rows, ["lr"], ["x"])
    [{'lr': 1, 'n': 2, 'x': 3.0, 'x sd': 1.4142135623730951}]
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["state"] == "COMPLETED":
            group = groups.setdefault(repr([row.get(key) for key in keys]), [])
            if row.get("seed") is None or row["seed"] not in [each["seed"] for each in group]:
                group.append(row)
    if not any(len(group) > 1 for group in groups.values()):
        return []
    found = []
    for group in groups.values():
        entry = {**{key: group[0].get(key) for key in keys}, "n": len(group)}
        for value in values:
            spread = spread_of([float(row[value]) for row in group if is_number(row.get(value))])
            entry |= {value: spread and spread.mean, f"{value} sd": spread and spread.sd}
        found.append(entry)
    return found


def natural(path: Path | str) -> list[tuple[int, int, str]]:
    """A key that sorts as people count.

    >>> sorted(["run/10", "run/2", "run/a"], key=natural)
    ['run/2', 'run/10', 'run/a']
    """
    return [(0, int(word), "") if word.isdigit() else (1, 0, word) for word in re.split(r"(\d+)|/", str(path)) if word]


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
