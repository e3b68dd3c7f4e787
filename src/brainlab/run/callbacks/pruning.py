"""Ends a trial of a search early when it is behind its siblings."""

from __future__ import annotations

import difflib
import logging
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from omegaconf import DictConfig

from brainlab.errors import InvalidValue
from brainlab.run.directory import read_json
from brainlab.run.sweep.pruning import Scores, is_behind

__all__ = ["Pruning", "pruning_for"]

log = logging.getLogger(__name__)


def pruning_for(cfg: DictConfig, run_dir: Path) -> Pruning | None:
    """The callback for a trial of a search that prunes, or ``None`` for any other run.

    It comes from the sweep's own settings, not from ``callbacks``: whether siblings exist is no part of what a run is,
    so the same trial repeated alone has the same fingerprint.
    """
    sweep = cfg.get("sweep") or {}
    pruner, metric = sweep.get("pruner"), sweep.get("metric")
    if not pruner or sweep.get("method") != "optuna" or not run_dir.name.isdecimal():
        return None
    search = read_json(run_dir.parent / "search.json")
    if not isinstance(search, dict):
        return None  # one run, repeated outside of its search
    return Pruning(run_dir, metric=str(metric), mode=str(sweep.get("mode")), pruner=str(pruner))


class Pruning(pl.Callback):
    """After each validation, compare ``metric`` with what earlier trials had at the same point; stop when behind.

    Args:
        run_dir: the trial's own folder, beside those of its siblings.
        metric: name of a logged metric; one that starts with ``train/`` is read at the end of an epoch, any other
            after a validation.
        mode: which way is good, min or max.
        pruner: median or hyperband.
    """

    def __init__(self, run_dir: Path, metric: str, mode: str, pruner: str) -> None:
        self.run_dir = Path(run_dir)
        found = Scores.read(self.run_dir)
        self.scores = found or Scores(int(self.run_dir.name), metric, mode, pruner)
        self.scores.pruner = pruner
        self._n_known = 0  # validations that the checkpoint we go on from has seen

    @property
    def reason(self) -> str | None:
        """One sentence where the trial was ended early."""
        return self.scores.reason if self.scores.pruned else None

    def state_dict(self) -> dict[str, Any]:
        return {"n_scores": len(self.scores.values)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._n_known = int(state_dict["n_scores"])

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Validations after the checkpoint are run again, so their scores will come again.
        del self.scores.values[self._n_known :]
        self.scores.state, self.scores.reason = "RUNNING", None
        self.scores.write(self.run_dir)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not self.scores.metric.startswith("train/"):
            self._look(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.scores.metric.startswith("train/"):
            self._look(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.scores.state == "RUNNING":
            self.scores.state = "COMPLETE"
            self.scores.write(self.run_dir)

    def _look(self, trainer: pl.Trainer) -> None:
        logged, scores = trainer.callback_metrics, self.scores
        if scores.metric not in logged:
            near = difflib.get_close_matches(scores.metric, list(logged), n=1)
            raise InvalidValue(
                "sweep.metric",
                scores.metric,
                f"expected one of the logged metrics {', '.join(sorted(logged))} to prune by",
                hint=f"did you mean {near[0]}?" if near else "sweep.pruner=null judges trials at their end only",
            )
        scores.values.append(float(logged[scores.metric]))
        behind = trainer.is_global_zero and is_behind(scores, self.run_dir.parent)
        if trainer.world_size > 1:
            behind = bool(trainer.strategy.broadcast(behind))  # every process leaves at the same batch
        if behind:
            value = scores.values[-1]
            shown = f"{value:.4g}" if math.isfinite(value) else "no number"
            scores.state = "PRUNED"
            scores.reason = f"pruned after validation {len(scores.values)}: {scores.metric} was {shown}"
            log.info("%s; the trial ends here, unevaluated", scores.reason)
            trainer.should_stop = True
        scores.write(self.run_dir)
