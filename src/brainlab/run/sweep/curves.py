"""The learning curves of a sweep's jobs, thin enough that hundreds fit on one page."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["chosen", "read_curves"]

Points = list[tuple[int, float]]

_MOST_POINTS = 120
_MOST_PANELS = 4


def read_curves(file: Path) -> dict[str, Points]:
    """(step, value) pairs by metric from a ``metrics.jsonl``, without values of single steps and of held-out tests.

    A long curve keeps evenly spread points, its first and its last among them.
    """
    found: dict[str, dict[int, float]] = {}
    try:
        with file.open("rb") as lines:
            for line in lines:
                if b'_step"' in line or b'"test/' in line or b'"epoch"' in line:
                    continue  # most of a long file
                try:
                    row = json.loads(line)
                    value = float(row["value"])
                    if math.isfinite(value):
                        found.setdefault(str(row["name"]), {})[int(row["step"])] = value
                except (ValueError, KeyError, TypeError):
                    continue  # a line that is being written
    except OSError:
        return {}
    return {name: _thin(sorted(points.items())) for name, points in found.items()}


def chosen(names: Iterable[str], metric: str) -> list[str]:
    """Which metrics are worth a panel: the sweep's own first, then what is validated, then the training loss.

    >>> chosen(["lr", "train/loss_epoch", "val/top1", "val/loss"], "val/loss")
    ['val/loss', 'val/top1', 'train/loss_epoch', 'lr']
    """

    def rank(name: str) -> tuple[bool, bool, bool, str]:
        return (name != metric, not name.startswith("val/"), "loss" not in name, name)

    return sorted(dict.fromkeys(names), key=rank)[:_MOST_PANELS]


def _thin(points: Sequence[tuple[int, float]]) -> Points:
    if len(points) <= _MOST_POINTS:
        return list(points)
    last = len(points) - 1
    kept = sorted({round(index * last / (_MOST_POINTS - 1)) for index in range(_MOST_POINTS)})
    return [points[index] for index in kept]
