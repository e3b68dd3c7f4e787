"""``best.ckpt``: the weights with the best monitored score, and the configuration to rebuild their model."""

from __future__ import annotations

import difflib
import logging
import math
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint

from brainlab.errors import InvalidValue
from brainlab.run.callbacks.last import STATE_KEY
from brainlab.run.checkpoint import publish, writing

__all__ = ["BestCheckpoint"]

log = logging.getLogger(__name__)


class BestCheckpoint(Checkpoint):
    """Save ``checkpoints/best.ckpt`` whenever the monitored metric improves.

    Args:
        metric: name of a logged metric; one that starts with ``train/`` is read at the end of an epoch, any other
            after a validation.
        mode: which way is good.
    """

    def __init__(self, metric: str = "val/loss", mode: Literal["min", "max"] = "min") -> None:
        super().__init__()
        if mode not in ("min", "max"):
            raise InvalidValue("monitor.mode", mode, "expected min or max")
        self.metric = metric
        self.mode = mode
        self.context: dict[str, Any] = {}
        self.score: float | None = None
        self.epoch: int | None = None
        self.step: int | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"score": self.score, "epoch": self.epoch, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.score, self.epoch, self.step = state_dict["score"], state_dict["epoch"], state_dict["step"]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not self.metric.startswith("train/"):
            self._look(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.metric.startswith("train/"):
            self._look(trainer)

    def _look(self, trainer: pl.Trainer) -> None:
        logged = trainer.callback_metrics
        if self.metric not in logged:
            near = difflib.get_close_matches(self.metric, list(logged), n=1)
            raise InvalidValue(
                "monitor.metric",
                self.metric,
                f"expected one of the logged metrics {', '.join(sorted(logged))}",
                hint=f"did you mean {near[0]}?" if near else None,
            )
        score = float(logged[self.metric])
        if not math.isfinite(score):
            log.warning("%s is %s at epoch %d", self.metric, score, trainer.current_epoch)
            return
        if self.score is not None and not (score < self.score if self.mode == "min" else score > self.score):
            return
        self.score, self.epoch, self.step = score, trainer.current_epoch, trainer.global_step
        self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        folder = Path(trainer.default_root_dir) / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        content = trainer._checkpoint_connector.dump_checkpoint(weights_only=True)
        for part in ("loops", trainer.lightning_module.CHECKPOINT_HYPER_PARAMS_KEY):
            content.pop(part, None)
        content[STATE_KEY] = {**self.context, "score": self.score, "metric": self.metric, "best_epoch": self.epoch}
        temporary = folder / ".best.ckpt.tmp"
        with writing(temporary, folder / "best.ckpt"):
            trainer.strategy.save_checkpoint(content, temporary)
        if trainer.is_global_zero:
            publish(temporary, folder / "best.ckpt")
