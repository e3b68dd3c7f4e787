"""Leaving a cluster's node without losing a batch."""

from __future__ import annotations

import logging

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from brainlab.errors import InvalidValue
from brainlab.run.callbacks.last import LastCheckpoint
from brainlab.run.ending import current

__all__ = ["PreemptionCheckpoint"]

log = logging.getLogger(__name__)


class PreemptionCheckpoint(Callback):
    """Save ``last.ckpt`` when the scheduler warns this job, then hand the job back to its launcher.

    SIGUSR2 (preemption, time limit): all processes agree after the next batch, the checkpoint is written, the run is
    marked PREEMPTED, and the handler that the launcher had installed is called, which puts the job back into the
    queue. SIGTERM (requeued or cancelled from outside): the checkpoint is written as well, in case the process is
    killed next; training goes on where the launcher shields it from that signal and ends otherwise.

    Needs :class:`~brainlab.run.callbacks.last.LastCheckpoint` among the callbacks. Lightning's own handling of signals
    is off meanwhile: it would end the training at a SIGTERM that the launcher means to survive.

    Args:
        grace_s: seconds after the warning in which a checkpoint must be reached; then the run leaves with the one it
            has. Null: what the launcher warns ahead, less half a minute.
    """

    def __init__(self, grace_s: float | None = None) -> None:
        if grace_s is not None and grace_s <= 0:
            raise InvalidValue("callbacks.preemption.grace_s", grace_s, "expected a positive number of seconds or null")
        self.grace_s = grace_s
        self._last: LastCheckpoint | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        ending = current()
        self._last = next((found for found in trainer.callbacks if isinstance(found, LastCheckpoint)), None)
        if stage != "fit" or ending is None:
            return
        trainer._signal_connector.register_signal_handlers = _leave_signals_alone
        if self._last is None:
            log.warning("callbacks.last is null: a preempted run loses what it trained since its start")
            return
        if self.grace_s is not None:
            ending.grace_s = self.grace_s
        self._last.asked = lambda: ending.wish
        self._last.answer = ending.act

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        ending = current()
        if ending is not None and self._last is not None:
            ending.defer()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        ending = current()
        if ending is not None:
            ending.drop()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        ending = current()
        if ending is not None:
            ending.act_at_once()


def _leave_signals_alone() -> None:
    """Stands for Lightning's registration of handlers."""
