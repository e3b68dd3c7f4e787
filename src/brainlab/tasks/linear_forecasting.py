"""Linear forecasting: one pass over the training windows, then the closed form; nothing is learned by steps.

The windows only add to sums of lagged products, so the epoch may be cut into batches of any size; a validation in the
middle of it judges the fit to the windows so far. What is logged is the exact Gaussian log-likelihood per recorded
channel and sample, which a token model's bits can be read against.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

from lightning import LightningModule
from torch import Tensor, nn

from brainlab.errors import InvalidValue

__all__ = ["LinearForecasting"]

log = logging.getLogger(__name__)

_SUMS = "lagged_products"


class LinearForecasting(LightningModule):
    """Fits a linear forecaster to the windows of one epoch.

    Args:
        network: called with ``n_channels``; e.g. :class:`brainlab.models.var_baseline.VectorAutoregression`.
        n_channels: channels of the data; null takes them from the data.
    """

    def __init__(self, *, network: Callable[..., nn.Module], n_channels: int | None = None) -> None:
        super().__init__()
        if n_channels is None:
            raise InvalidValue("model.n_channels", n_channels, "expected the number of channels of the data")
        self.network: Any = network(n_channels=n_channels)
        self.automatic_optimization = False
        self._sums = self.network.statistics()
        self._n_solved = 0

    def forecaster(self, data: Any) -> Any:
        """The fitted model, which forecasts signals as they are in the store."""
        return self.network

    def forward(self, signal: Tensor, present: Tensor | None = None) -> Tensor:
        """(batch): nats per recorded channel and sample of (batch, channel, time)."""
        return self.network.nll(signal, present)

    def setup(self, stage: str) -> None:
        if self._trainer is not None and self.trainer.world_size > 1:
            raise InvalidValue(
                "trainer.devices",
                self.trainer.world_size,
                "expected one process: a linear fit is one pass over the data",
                hint="use trainer=cpu or trainer=gpu",
            )

    def on_train_epoch_start(self) -> None:
        if self.current_epoch > 0:
            raise InvalidValue(
                "trainer.max_epochs", self.trainer.max_epochs, "expected 1: the closed form needs one epoch"
            )

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        signal = _signal(batch)
        n = self._sums.add(signal, batch.get("present"))
        if n == 0 and signal.shape[-1] <= self._sums.order:
            raise InvalidValue(
                "data.window_s",
                f"{signal.shape[-1]} samples",
                f"expected windows longer than the {self._sums.order} samples that a prediction looks back",
            )

    def on_validation_epoch_start(self) -> None:
        self._solve()

    def on_train_epoch_end(self) -> None:
        self._solve()
        # Nothing is added after the last batch, and the sums are far larger than the model that a checkpoint is for;
        # an epoch that was interrupted goes on from them.
        if self.trainer.is_last_batch:
            self._forget()

    def on_train_end(self) -> None:
        self._solve()
        self._forget()

    def _forget(self) -> None:
        self._sums, self._n_solved = self.network.statistics(), 0

    def _solve(self) -> None:
        """Fit to all windows since the training began, unless there is none that the last fit did not know."""
        if self._sums.n == self._n_solved:
            return
        self.network.solve(self._sums)
        self._n_solved = self._sums.n
        found = self.network.describe()
        log.info("fitted %s", ", ".join(f"{key}={value}" for key, value in found.items()))
        if found["shrinkage"] < 1:
            log.warning(
                "the fitted model was unstable (largest root %.4f); its roots were drawn in by %.4f",
                found["spectral_radius_fitted"],
                found["shrinkage"],
            )

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._judge(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._judge(batch, "test")

    def _judge(self, batch: dict[str, Tensor], part: str) -> None:
        signal = _signal(batch)
        if self.trainer.sanity_checking:
            return  # nothing is fitted yet
        nats = self(signal, batch.get("present")).mean()
        settings: dict[str, Any] = {"batch_size": len(signal), "on_epoch": True, "on_step": False, "sync_dist": True}
        self.log(f"{part}/loss", nats, prog_bar=True, **settings)
        self.log(f"{part}/bits_per_sample", nats / math.log(2), **settings)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._sums.n:
            checkpoint[_SUMS] = self._sums.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if _SUMS in checkpoint:
            self._sums.load(checkpoint[_SUMS])

    def configure_optimizers(self) -> list[Any]:
        """Nothing is optimised."""
        return []


def _signal(batch: dict[str, Tensor]) -> Tensor:
    if "signal" not in batch:
        raise InvalidValue(
            "data.tokenizer", "set", "expected windows of signal, not of codes", hint="use tokenizer=none"
        )
    return batch["signal"]
