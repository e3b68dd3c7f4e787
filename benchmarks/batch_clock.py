"""A callback that writes down when training began and ended, in wall-clock and in processor seconds."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

__all__ = ["BatchClock", "processor_seconds"]


def processor_seconds() -> float:
    """What this process and its ended children have used so far."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


class BatchClock(Callback):
    """Writes ``{"first": [wall, cpu], "last": [wall, cpu]}``: before the first batch, and after the last.

    Args:
        file: where to.
    """

    def __init__(self, file: str) -> None:
        self.file = Path(file)
        self.marks: dict[str, tuple[float, float]] = {}

    def on_train_batch_start(self, *_: Any) -> None:
        if "first" not in self.marks:
            self.marks["first"] = (time.time(), processor_seconds())

    def on_train_batch_end(self, *_: Any) -> None:
        self.marks["last"] = (time.time(), processor_seconds())

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.file.write_text(json.dumps(self.marks))
