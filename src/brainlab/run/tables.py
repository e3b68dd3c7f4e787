"""Rows as a table: on the screen, as CSV, and in the order in which people count."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["csv_text", "natural", "show"]

_MOST_SHOWN = 60


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the same keys as CSV; what is unknown stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows([{key: "" if value is None else value for key, value in row.items()} for row in rows])
    return text.getvalue()


def show(rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Print a table; columns without any value are left out."""
    from rich.console import Console
    from rich.table import Table

    columns = [key for key in rows[0] if any(row[key] is not None for row in rows)]
    table = Table(title=title)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows[:_MOST_SHOWN]:
        table.add_row(*(_cell(row[column]) for column in columns))
    console = Console()
    console.print(table)
    if len(rows) > _MOST_SHOWN:
        console.print(f"… and {len(rows) - _MOST_SHOWN} more")


def natural(path: Path | str) -> list[tuple[int, int, str]]:
    """A key that sorts as people count.

    >>> sorted(["run/10", "run/2", "run/a"], key=natural)
    ['run/2', 'run/10', 'run/a']
    """
    return [(0, int(word), "") if word.isdigit() else (1, 0, word) for word in re.split(r"(\d+)|/", str(path)) if word]


def _cell(value: Any) -> str:
    from rich.markup import escape

    return "" if value is None else escape(f"{value:.4g}" if isinstance(value, float) else str(value))
