"""Rows as a table: on the screen, as CSV, which columns set them apart, and in what order people count."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["csv_text", "differing_columns", "natural", "show"]

_MOST_SHOWN = 60


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the same keys as CSV; what is unknown stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows([{key: "" if value is None else value for key, value in row.items()} for row in rows])
    return text.getvalue()


def show(rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Print a table, one line per row; columns without any value are left out."""
    columns = [key for key in rows[0] if any(row[key] is not None for row in rows)]
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


def natural(path: Path | str) -> list[tuple[int, int, str]]:
    """A key that sorts as people count.

    >>> sorted(["run/10", "run/2", "run/a"], key=natural)
    ['run/2', 'run/10', 'run/a']
    """
    return [(0, int(word), "") if word.isdigit() else (1, 0, word) for word in re.split(r"(\d+)|/", str(path)) if word]


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
