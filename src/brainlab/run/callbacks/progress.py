"""How far training is: a live bar on a terminal, one plain line every half minute anywhere else."""

from __future__ import annotations

import logging
import math
import sys
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

__all__ = ["Progress", "duration"]

log = logging.getLogger(__name__)


def duration(seconds: float) -> str:
    """A length of time for people.

    >>> duration(42), duration(754), duration(7321)
    ('42s', '12m34s', '2h02m')
    """
    if not math.isfinite(seconds):
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


class Progress(Callback):
    """Show step, epoch, loss, speed and remaining time.

    Args:
        every_s: seconds between plain lines where stdout is no terminal.
    """

    def __init__(self, every_s: float = 30.0) -> None:
        self.every_s = every_s
        self._bar: Any = None
        self._task: Any = None
        self._shown = 0.0
        self._started = 0.0
        self._done_here = 0
        self._loss = math.nan

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = self._shown = time.monotonic()
        self._done_here = 0
        if not trainer.is_global_zero:
            return
        total = self._total(trainer)
        parameters = sum(part.numel() for part in pl_module.parameters() if part.requires_grad)
        log.info(
            "training %s: %.2f M parameters, %s batches per epoch, at most %s steps",
            type(pl_module).__name__,
            parameters / 1e6,
            trainer.num_training_batches,
            total or "?",
        )
        if sys.stdout.isatty():
            self._open_bar(total)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._done_here += 1
        if not trainer.is_global_zero:
            return
        now = time.monotonic()
        if self._bar is None and now - self._shown < self.every_s:
            return
        if self._bar is not None and now - self._shown < 0.2:
            return
        self._shown = now
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if loss is not None:
            self._loss = float(loss)
        self._show(trainer, batch_idx + 1)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        scores = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("val/")}
        if scores:
            shown = "  ".join(f"{key} {value:.4g}" for key, value in sorted(scores.items())[:5])
            log.info("epoch %d  step %d  %s", trainer.current_epoch, trainer.global_step, shown)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close_bar()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._close_bar()

    def _show(self, trainer: pl.Trainer, batch: int) -> None:
        rate = self._done_here / max(time.monotonic() - self._started, 1e-9)
        total = self._total(trainer)
        steps_per_batch = 1 / trainer.accumulate_grad_batches
        left = (total - trainer.global_step) / (rate * steps_per_batch) if total and rate else math.inf
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=trainer.global_step,
                epoch=trainer.current_epoch,
                loss=f"{self._loss:.4g}",
                rate=f"{rate:.1f}",
            )
            return
        log.info(
            "epoch %d  batch %d/%s  step %d  loss %.4g  %.2f it/s  eta %s",
            trainer.current_epoch,
            batch,
            trainer.num_training_batches,
            trainer.global_step,
            self._loss,
            rate,
            duration(left),
        )

    @staticmethod
    def _total(trainer: pl.Trainer) -> int | None:
        steps = trainer.estimated_stepping_batches
        return int(steps) if math.isfinite(steps) and steps > 0 else None

    def _open_bar(self, total: int | None) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[rate]} it/s"),
            TimeRemainingColumn(),
        )
        self._task = self._bar.add_task("training", total=total, epoch=0, loss="–", rate="–")
        self._bar.start()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
