"""Any logger of Lightning (TensorBoard, Weights & Biases …) as a tracker."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from brainlab.run.history import Row
from brainlab.run.tracking import RunInfo

__all__ = ["LightningTracker"]


class LightningTracker:
    """Forward rows to a Lightning logger that writes into the run directory.

    Args:
        logger: a partial of the logger's class; it gets ``save_dir`` where it has that keyword.
    """

    def __init__(self, logger: Callable[..., Any]) -> None:
        self._make = logger
        self._logger: Any = None

    def start(self, info: RunInfo, history: list[Row]) -> None:
        # Rows of earlier attempts were written by them: such loggers append.
        has_folder = "save_dir" in inspect.signature(self._make).parameters
        self._logger = self._make(**({"save_dir": str(info.folder)} if has_folder else {}))
        if info.attempt == 1:
            self._logger.log_hyperparams({key: str(value) for key, value in info.params.items()})

    def log(self, rows: list[Row]) -> None:
        steps: dict[int, dict[str, float]] = {}
        for row in rows:
            steps.setdefault(row.step, {})[row.name] = row.value
        for step, metrics in steps.items():
            self._logger.log_metrics(metrics, step)

    def flush(self) -> None:
        self._logger.save()

    def finish(self, state: str, files: tuple[Path, ...]) -> None:
        self._logger.save()
        self._logger.finalize("success" if state == "COMPLETED" else "failed")
