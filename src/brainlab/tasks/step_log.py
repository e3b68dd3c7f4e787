"""What every optimiser step says of itself."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning import LightningModule

__all__ = ["StepLog"]


class StepLog(LightningModule):
    """A task that logs of every optimiser step ``train/lr``, ``train/weight_decay`` (of the group that decays),
    ``train/grad_norm`` (before clipping), ``train/clipped`` (1 where it was) and ``train/step_s``: seconds since the
    step before, waiting for data included.
    """

    _step_at: float | None = None

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        first = optimizer.param_groups[0]
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters() if p.grad is not None])
        decay = max(group["weight_decay"] for group in optimizer.param_groups)
        values = {"lr": first["lr"], "weight_decay": decay, "grad_norm": norm}
        limit = self.trainer.gradient_clip_val
        if limit:
            values["clipped"] = (norm > limit).float()
        now = time.perf_counter()
        if self._step_at is not None:
            values["step_s"] = now - self._step_at
        self._step_at = now
        self.log_dict({f"train/{name}": value for name, value in values.items()}, on_step=True, on_epoch=False)

    def on_train_epoch_start(self) -> None:
        self._step_at = None  # what lies between epochs, and a validation, is no part of a step

    def on_validation_start(self) -> None:
        self._step_at = None
