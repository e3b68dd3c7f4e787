"""``metrics.jsonl``: every logged value of a run, one row per metric and step, whatever the tracker does."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from brainlab.io.atomic import naming
from brainlab.run.directory import is_rank_zero

__all__ = ["History", "Row"]


@dataclass(frozen=True)
class Row:
    """One logged value; ``time_ms`` is the wall clock when it was logged first."""

    name: str
    step: int
    value: float
    time_ms: int


class History:
    """The rows of one run, appended to a file as they come.

    Args:
        path: the file; rows of earlier attempts are read, a line that a killed process left half-written is cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = []
        self._known: set[tuple[str, int]] = set()
        self._read()
        self._file = open(path, "a", encoding="utf-8") if is_rank_zero() else None  # noqa: SIM115 - lives as long as we

    def _read(self) -> None:
        if not self.path.exists():
            return
        good = 0
        for line in self.path.read_bytes().splitlines(keepends=True):
            try:
                content = json.loads(line)
                row = Row(content["name"], int(content["step"]), float(content["value"]), int(content["time_ms"]))
            except (ValueError, KeyError, TypeError):
                break
            if not line.endswith(b"\n"):
                break
            good += len(line)
            if (row.name, row.step) not in self._known:
                self._known.add((row.name, row.step))
                self.rows.append(row)
        if good < self.path.stat().st_size and is_rank_zero():
            os.truncate(self.path, good)

    def add(self, metrics: Mapping[str, float], step: int) -> list[Row]:
        """Store values of one step; returns those that were not stored before."""
        now = time.time_ns() // 1_000_000
        new = [Row(name, step, float(value), now) for name, value in metrics.items() if (name, step) not in self._known]
        self._known.update((row.name, row.step) for row in new)
        self.rows.extend(new)
        if new and self._file is not None:
            with naming(self.path):
                self._file.write("".join(json.dumps(row.__dict__) + "\n" for row in new))
                self._file.flush()
        return new

    def flush(self) -> None:
        """Bring every row to the disk."""
        if self._file is not None:
            with naming(self.path):
                self._file.flush()
                os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            with naming(self.path), file:
                file.flush()
                os.fsync(file.fileno())

    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """(step, value) pairs by metric, in order of steps."""
        found: dict[str, list[tuple[int, float]]] = {}
        for row in self.rows:
            found.setdefault(row.name, []).append((row.step, row.value))
        return {name: sorted(points) for name, points in found.items()}
