"""``metrics.csv``: one line per step, one column per metric."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from brainlab.io.atomic import write_atomically
from brainlab.run.history import Row
from brainlab.run.tracking import RunInfo

__all__ = ["CsvTracker"]


class CsvTracker:
    """Keep a wide table of all metrics in the run directory.

    Args:
        name: file name.
    """

    def __init__(self, name: str = "metrics.csv") -> None:
        self.name = name
        self._path: Path | None = None
        self._steps: dict[int, dict[str, float]] = {}

    def start(self, info: RunInfo, history: list[Row]) -> None:
        self._path = info.folder / self.name
        self._steps = {}
        self.log(history)

    def log(self, rows: list[Row]) -> None:
        for row in rows:
            self._steps.setdefault(row.step, {})[row.name] = row.value

    def flush(self) -> None:
        assert self._path is not None
        names = sorted({name for values in self._steps.values() for name in values})
        text = io.StringIO()
        writer = csv.DictWriter(text, ["step", *names], lineterminator="\n")
        writer.writeheader()
        for step in sorted(self._steps):
            writer.writerow({"step": step, **self._steps[step]})
        write_atomically(self._path, text.getvalue())

    def finish(self, state: str, files: tuple[Path, ...]) -> None:
        self.flush()
