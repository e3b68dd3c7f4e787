"""The task of linear forecasting: one epoch gives the closed form, also across checkpoints."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from brainlab.data.sampling import already_collated
from brainlab.errors import InvalidValue
from brainlab.models.var_baseline import VectorAutoregression
from brainlab.tasks.linear_forecasting import LinearForecasting


class _Windows(torch.utils.data.Dataset):
    def __init__(self, n: int, n_time: int = 50, key: str = "signal") -> None:
        noise = torch.randn(n, 3, n_time, generator=torch.Generator().manual_seed(n))
        self.signal, self.key = noise + 0.8 * torch.roll(noise, 1, dims=-1), key

    def __len__(self) -> int:
        return len(self.signal)

    def __getitems__(self, index: list[int]) -> dict[str, torch.Tensor]:
        present = torch.ones(len(index), 3, dtype=torch.bool)
        return {self.key: self.signal[index], "present": present, "index": torch.tensor(index)}


class _Kept(lightning.Callback):
    """What a checkpoint at the end of the training would hold."""

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.content = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)


def _loader(windows: _Windows, batch_size: int = 4) -> DataLoader:
    return DataLoader(windows, batch_size=batch_size, collate_fn=already_collated)


def _trainer(folder: Path, **settings: Any) -> lightning.Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(
        default_root_dir=folder, accelerator="cpu", max_epochs=1, **{**quiet, "enable_checkpointing": False, **settings}
    )


def _task(order: int = 4) -> LinearForecasting:
    return LinearForecasting(network=functools.partial(VectorAutoregression, order=order), n_channels=3)


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_one_epoch_is_the_closed_form_whatever_the_batches(tmp_path: Path, batch_size: int) -> None:
    windows, held_out, task = _Windows(10), _Windows(6), _task()
    trainer = _trainer(tmp_path)
    trainer.fit(task, _loader(windows, batch_size), _loader(held_out, 4))
    direct = VectorAutoregression(3, order=4).fit(windows.signal.numpy())
    torch.testing.assert_close(task.network.coefficients, direct.coefficients, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(task.network.noise, direct.noise, atol=1e-6, rtol=1e-5)
    logged = trainer.callback_metrics
    assert float(logged["val/loss"]) == pytest.approx(float(direct.nll(held_out.signal).mean()), abs=1e-5)
    assert float(logged["val/bits_per_sample"]) == pytest.approx(float(logged["val/loss"]) / 0.6931472, rel=1e-5)
    assert task.forecaster(None) is task.network


def test_fit_without_validation_is_solved_too(tmp_path: Path) -> None:
    windows, task = _Windows(10), _task()
    _trainer(tmp_path).fit(task, _loader(windows))
    assert int(task.network.n_fitted) == 10 * (50 - 4)


def test_sums_travel_in_a_checkpoint_until_they_are_solved() -> None:
    windows, before, after = _Windows(8), _task(), _task()
    before.training_step({"signal": windows.signal[:5]}, 0)
    checkpoint: dict[str, Any] = {}
    before.on_save_checkpoint(checkpoint)
    after.on_load_checkpoint(checkpoint)
    after.training_step({"signal": windows.signal[5:]}, 1)
    after._solve()
    direct = VectorAutoregression(3, order=4).fit(windows.signal.numpy())
    torch.testing.assert_close(after.network.coefficients, direct.coefficients, atol=1e-6, rtol=1e-5)
    after.on_train_end()
    done: dict[str, Any] = {}
    after.on_save_checkpoint(done)
    assert done == {}


@pytest.mark.parametrize("settings", [{"val_check_interval": 0.5}, {"val_check_interval": 3}])
def test_validation_in_the_middle_of_the_epoch_drops_no_data(tmp_path: Path, settings: dict[str, Any]) -> None:
    windows, task = _Windows(10), _task()
    trainer = _trainer(tmp_path, num_sanity_val_steps=0, **settings)
    trainer.fit(task, _loader(windows, 2), _loader(_Windows(6)))
    direct = VectorAutoregression(3, order=4).fit(windows.signal.numpy())
    assert int(task.network.n_fitted) == int(direct.n_fitted)
    torch.testing.assert_close(task.network.coefficients, direct.coefficients, atol=1e-6, rtol=1e-5)


def test_a_checkpoint_after_the_epoch_has_the_whole_fit_and_no_sums(tmp_path: Path) -> None:
    windows, task = _Windows(10), _task()
    trainer = _trainer(tmp_path, num_sanity_val_steps=0, val_check_interval=3, callbacks=[_Kept()])
    trainer.fit(task, _loader(windows, 2), _loader(_Windows(6)))
    kept = trainer.callbacks[0].content
    assert int(kept["state_dict"]["network.n_fitted"]) == 10 * (50 - 4)
    assert "lagged_products" not in kept


def test_what_does_not_fit_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="expected windows of signal, not of codes"):
        _trainer(tmp_path).fit(_task(), _loader(_Windows(4, key="codes")))
    with pytest.raises(InvalidValue, match=r"data\.window_s=50 samples: expected windows longer than the 60"):
        _trainer(tmp_path).fit(_task(order=60), _loader(_Windows(4)))
    with pytest.raises(InvalidValue, match=r"trainer\.max_epochs=2: expected 1"):
        lightning.Trainer(
            max_epochs=2, logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
            default_root_dir=tmp_path, enable_checkpointing=False,
        ).fit(_task(), _loader(_Windows(4)))  # fmt: skip
    with pytest.raises(InvalidValue, match=r"model\.n_channels=null"):
        LinearForecasting(network=VectorAutoregression)
