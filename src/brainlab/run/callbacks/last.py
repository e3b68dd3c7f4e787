"""``last.ckpt``: everything that a killed run needs to go on as if nothing had happened.

Checkpoints are written at two kinds of moments, both with nothing half-done: when the next batch is about to start,
and when the next epoch is about to start. By then the earlier batch is stepped, validated where due, and logged.
Lightning's own counters have begun the new batch or epoch already at these moments; they are wound back in the copy
that is stored, which is the one form from which Lightning continues without repeating or losing a batch, a step of a
scheduler or a validation.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint

from brainlab.data.sampling import set_epoch
from brainlab.errors import InvalidValue
from brainlab.run.checkpoint import plain, publish, random_state, restore_random_state, writing

__all__ = ["STATE_KEY", "LastCheckpoint"]

log = logging.getLogger(__name__)

STATE_KEY = "brainlab"
_ZERO_PROGRESS = ("ready", "started", "processed", "completed")


class LastCheckpoint(Checkpoint):
    """Save ``checkpoints/last.ckpt`` regularly and continue from it exactly.

    What a run holds beyond Lightning's own checkpoint: random states, position in the epoch, sums of epoch means so
    far, logged values that other callbacks look at, tracker run, attempt, configuration.

    Args:
        every_n_minutes: save in the middle of an epoch when this much time has passed; null never does.
        every_n_steps: save in the middle of an epoch every so many optimiser steps; null never does.
        every_n_epochs: save at the end of every so many epochs; the end of training is always saved.

    The epoch in which a checkpoint falls is continued at the batch after the last one consumed. Within an epoch,
    nothing is saved while gradients are being accumulated, right after a validation, or with a train loader whose
    batch sampler has no ``skip_batches``.
    """

    def __init__(
        self, every_n_minutes: float | None = 5.0, every_n_steps: int | None = None, every_n_epochs: int = 1
    ) -> None:
        super().__init__()
        for name, value in (("every_n_minutes", every_n_minutes), ("every_n_steps", every_n_steps)):
            if value is not None and value <= 0:
                raise InvalidValue(f"callbacks.last.{name}", value, "expected a positive number or null")
        if every_n_epochs < 1:
            raise InvalidValue("callbacks.last.every_n_epochs", every_n_epochs, "expected at least 1")
        self.every_n_minutes = every_n_minutes
        self.every_n_steps = every_n_steps
        self.every_n_epochs = every_n_epochs
        self.context: dict[str, Any] = {}
        """Facts that travel in the checkpoint: config, fingerprint, attempt, tracker run."""
        self.executed = 0
        """Batches trained by this process."""
        self.interrupted = False
        self.asked: Callable[[], int] = _nobody_asks
        """Above zero it asks for a checkpoint as soon as one can be written; the greatest of all processes counts."""
        self.answer: Callable[[int], None] = _nobody_answers
        """Called with that number once the checkpoint is written."""
        self._asked_for = 0
        self._resume: dict[str, Any] | None = None
        self._pending_sums: dict[str, dict[str, Any]] = {}
        self._saving: dict[str, Any] | None = None
        self._due: list[dict[str, Any]] | None = None
        self._last_time = time.monotonic()
        self._last_step = 0

    # -- when ---------------------------------------------------------------------------------------------------

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.executed += 1
        self._continue_sums(trainer)
        due = self._is_due(trainer)
        accumulating = (batch_idx + 1) % trainer.accumulate_grad_batches != 0
        if due and not accumulating and _can_go_on_inside(trainer.train_dataloader):
            # Random states as they are before the next batch is fetched: a dataset in this process may draw from them.
            self._due = _random_states(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._due = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Lightning keeps "restarting" up to the end of the resumed epoch and then leaves out an epoch's scheduler.
        trainer.fit_loop._restarting = False
        if self._due is not None:
            states, self._due = self._due, None
            self._save(trainer, epoch=trainer.current_epoch, batch=batch_idx, random=states)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch = trainer.current_epoch
        set_epoch(trainer.train_dataloader, epoch)
        self._due = None
        _seed_workers(trainer.train_dataloader, pl_module, epoch)
        self._agree(trainer)  # somebody may have asked during a validation
        if epoch > 0 and (epoch % self.every_n_epochs == 0 or self._asked_for) and self._resume is None:
            self._save(trainer, epoch=epoch, batch=0, random=_random_states(trainer))
        self._resume = None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._agree(trainer)
        self._save(trainer, epoch=trainer.current_epoch, batch=0, random=_random_states(trainer), finished=True)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.interrupted = isinstance(exception, KeyboardInterrupt)

    def _is_due(self, trainer: pl.Trainer) -> bool:
        minutes = (time.monotonic() - self._last_time) / 60
        wishes = [
            self.every_n_steps is not None and trainer.global_step - self._last_step >= self.every_n_steps,
            self.every_n_minutes is not None and minutes >= self.every_n_minutes,
        ]
        return self._agree(trainer, due=any(wishes)) or self._asked_for > 0

    def _agree(self, trainer: pl.Trainer, due: bool = False) -> bool:
        """All processes learn what any of them was asked for; returns whether ``due`` holds for any."""
        soon, asked = _greatest(trainer, int(due), self.asked())
        self._asked_for = max(self._asked_for, asked)
        return bool(soon)

    # -- saving -------------------------------------------------------------------------------------------------

    def _save(
        self, trainer: pl.Trainer, *, epoch: int, batch: int, random: list[dict[str, Any]], finished: bool = False
    ) -> None:
        for logger in trainer.loggers:
            flush = getattr(logger, "flush", logger.save)
            flush()  # rows up to this position must outlive the process before the position does
        # Each process has seen its own part of the epoch so far, and only the first one writes.
        inside = _gathered(trainer, (_epoch_sums(trainer), _metric_states(trainer.lightning_module))) if batch else []
        self._saving = {
            "epoch": epoch,
            "batch": batch,
            "random": random,
            "finished": finished,
            "loss_of_epoch": [sums for sums, _ in inside],
            "metric_states": [states for _, states in inside],
        }
        folder = Path(trainer.default_root_dir) / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / ".last.ckpt.tmp"
        try:
            with writing(temporary, folder / "last.ckpt"):
                trainer.save_checkpoint(temporary, weights_only=False)
        finally:
            self._saving = None
        if trainer.is_global_zero:
            publish(temporary, folder / "last.ckpt", folder / "previous.ckpt")
        trainer.strategy.barrier("brainlab.last")
        self._last_time, self._last_step = time.monotonic(), trainer.global_step
        if self._asked_for:
            asked, self._asked_for = self._asked_for, 0
            self.answer(asked)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # Hyper-parameters may hold whole modules; the configuration stored beside them is what a run is rebuilt from.
        checkpoint.pop(pl_module.CHECKPOINT_HYPER_PARAMS_KEY, None)
        for key in ("callbacks", "lr_schedulers", "loops"):
            if key in checkpoint:
                checkpoint[key] = plain(checkpoint[key])
        if self._saving is None:
            checkpoint[STATE_KEY] = dict(self.context)
            return
        position = self._saving
        if not position["finished"]:
            _wind_back(checkpoint["loops"]["fit_loop"], mid_epoch=position["batch"] > 0)
        checkpoint[STATE_KEY] = {
            **self.context,
            **position,
            "logged": {
                key: float(value) for key, value in trainer.callback_metrics.items() if torch.as_tensor(value).ndim == 0
            },
        }

    # -- continuing ---------------------------------------------------------------------------------------------

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        state = checkpoint.get(STATE_KEY)
        if state is not None and "epoch" in state:
            self._resume = dict(state)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last_time, self._last_step = time.monotonic(), trainer.global_step
        if trainer.enable_validation and trainer.val_dataloaders is None:
            # As Lightning does where a validation is due in this epoch: all loaders are known before the first batch,
            # so that their generators do not depend on the epoch in which a run is continued.
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.setup_data()
            trainer.training = True
        for loader in (trainer.train_dataloader, *_as_list(trainer.val_dataloaders)):
            _own_generator(loader, pl_module)
        state = self._resume
        if state is None:
            return
        epoch, batch = state["epoch"], state["batch"]
        fetcher = trainer.fit_loop._data_fetcher
        assert fetcher is not None
        set_epoch(trainer.train_dataloader, epoch, consumed=batch)
        _seed_workers(trainer.train_dataloader, pl_module, epoch)
        # The iterator that Lightning made while setting up stands at the start of another epoch.
        rank = trainer.global_rank % len(state["random"])
        restored = state["random"][rank]
        if batch:
            iter(fetcher)
            self._pending_sums = dict(state["loss_of_epoch"][rank])
            _restore_metric_states(pl_module, state["metric_states"][rank])
            restore_random_state(restored)
            self._resume = None
        else:
            trainer.fit_loop._restarting = False
            trainer.fit_loop.epoch_loop.restarting = False
            restore_random_state(restored)
            iter(fetcher)
        trainer._logger_connector._callback_metrics.update(
            {key: torch.tensor(value) for key, value in state["logged"].items()}
        )
        log.info("resumed at epoch %d, batch %d (of %s)", epoch, batch, trainer.num_training_batches)

    def _continue_sums(self, trainer: pl.Trainer) -> None:
        """Add the sums of the epoch's earlier batches to the means that Lightning restarted from zero."""
        if not self._pending_sums:
            return
        results = trainer.fit_loop.epoch_loop._results
        for key in [key for key in self._pending_sums if key in results]:
            metric, stored = results[key], self._pending_sums.pop(key)
            value = stored["value"].to(metric.value.device)
            if metric.meta.is_max_reduction or metric.meta.is_min_reduction:
                metric.value = metric.meta.reduce_fx(value, metric.value)
            else:
                metric.value = value + metric.value
            if stored["weight"] is not None:
                metric.cumulated_batch_size = metric.cumulated_batch_size + stored["weight"].to(metric.value.device)
            metric._computed = None


def _nobody_asks() -> int:
    return 0


def _nobody_answers(asked: int) -> None:
    """Stands for a run that asks for nothing."""


def _greatest(trainer: pl.Trainer, *wishes: int) -> list[int]:
    """What the processes of a run agree on: each of ``wishes`` as great as the greatest of any process."""
    if trainer.world_size == 1:
        return list(wishes)
    everyone = torch.tensor(wishes, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(everyone, op=torch.distributed.ReduceOp.MAX)
    return everyone.tolist()


def _can_go_on_inside(loader: Any) -> bool:
    """Whether a loader can go on in the middle of an epoch; with any other, the epoch is repeated."""
    return callable(getattr(getattr(loader, "batch_sampler", None), "skip_batches", None))


def _wind_back(loops: dict[str, Any], *, mid_epoch: bool) -> None:
    """Undo the start of the batch or epoch that the counters have announced but that has not been trained."""
    epoch, batch = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
    for part in ("total", "current"):
        if mid_epoch:
            batch[part]["ready"] = batch[part]["completed"]
        else:
            epoch[part]["ready"] = epoch[part]["completed"]
    if not mid_epoch:
        batch["current"] = dict.fromkeys(_ZERO_PROGRESS, 0)
    batch["is_last_batch"] = False


def _epoch_sums(trainer: pl.Trainer) -> dict[str, dict[str, Any]]:
    """Running sums behind the epoch means that were logged so far in this epoch."""
    sums = {}
    for key, metric in trainer.fit_loop.epoch_loop._results.items():
        if metric.is_tensor and metric.meta.on_epoch and metric.update_called:
            weight = metric.cumulated_batch_size if metric.meta.is_mean_reduction else None
            sums[str(key)] = {
                "value": metric.value.detach().cpu().clone(),
                "weight": None if weight is None else weight.detach().cpu().clone(),
            }
    return sums


def _metric_states(module: torch.nn.Module) -> dict[str, dict[str, Any]]:
    """States of torchmetrics objects: they are no part of a module's ``state_dict``."""
    from torchmetrics import Metric

    return {
        name: {
            "state": plain({key: _copied(value) for key, value in part.metric_state.items()}),
            "count": part._update_count,
        }
        for name, part in module.named_modules()
        if isinstance(part, Metric) and part.update_called
    }


def _restore_metric_states(module: torch.nn.Module, states: dict[str, dict[str, Any]]) -> None:
    parts = dict(module.named_modules())
    for name, stored in states.items():
        part = parts[name]
        for key, value in stored["state"].items():
            setattr(part, key, _moved(value, part.device))
        part._update_count, part._computed = stored["count"], None


def _copied(value: Any) -> Any:
    return [item.detach().cpu().clone() for item in value] if isinstance(value, list) else value.detach().cpu().clone()


def _moved(value: Any, device: torch.device) -> Any:
    return [item.to(device) for item in value] if isinstance(value, list) else value.to(device)


def _random_states(trainer: pl.Trainer) -> list[dict[str, Any]]:
    """The random states of every rank, in order."""
    return _gathered(trainer, random_state())


def _gathered(trainer: pl.Trainer, own: Any) -> list[Any]:
    """What every process has, in order."""
    if trainer.world_size == 1:
        return [own]
    everyone: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(everyone, own)
    return everyone


def _as_list(loaders: Any) -> list[Any]:
    if loaders is None:
        return []
    return list(loaders) if isinstance(loaders, list | tuple) else [loaders]


def _own_generator(loader: Any, module: pl.LightningModule) -> None:
    """Let a loader seed its workers from a generator of its own, so that iterating leaves the global state alone."""
    if isinstance(loader, torch.utils.data.DataLoader) and loader.generator is None:
        loader.generator = torch.Generator()
        _seed_workers(loader, module, 0)


def _seed_workers(loader: Any, module: pl.LightningModule, epoch: int) -> None:
    generator = getattr(loader, "generator", None)
    if isinstance(generator, torch.Generator):
        sampler = getattr(loader, "batch_sampler", None)
        generator.manual_seed((int(getattr(sampler, "seed", 0)) << 20) + epoch)
