"""Training a tokenizer: the loss by its definition, absent channels, and a resumed training."""

from __future__ import annotations

import functools
import math
import os
import subprocess
import sys
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from brainlab.data.sampling import already_collated
from brainlab.errors import InvalidValue
from brainlab.models.braintokmix import BrainTokMix
from brainlab.nn.signal_losses import covariance_loss, spectral_loss
from brainlab.tasks.tokenization import Tokenization, code_counts, perplexity, reconstruction_terms

NETWORK = functools.partial(BrainTokMix, n_filters=8, n_dim=16, codebook_size=24, n_neuro=2, n_levels=2)


class _Windows(torch.utils.data.Dataset):
    """Smooth mixtures of three oscillations; the last channel of every other window is absent."""

    def __init__(self, n: int, n_time: int = 64) -> None:
        rng = np.random.default_rng(0)
        time = np.arange(n_time) / 100
        mixing, rate = rng.normal(size=(6, 3)), np.array([[3.0], [6.0], [11.0]])
        sources = np.sin(2 * np.pi * rate * time + rng.uniform(0, 2 * np.pi, (n, 3, 1)))
        self.signal = torch.tensor(np.einsum("cs,nst->nct", mixing, sources), dtype=torch.float32)
        self.present = torch.ones(n, 6, dtype=torch.bool)
        self.present[::2, -1] = False
        self.signal[~self.present] = 0

    def __len__(self) -> int:
        return len(self.signal)

    def __getitems__(self, index: list[int]) -> dict[str, torch.Tensor]:
        return {"signal": self.signal[index], "present": self.present[index], "index": torch.tensor(index)}


def _loader(n: int = 24) -> DataLoader:
    return DataLoader(_Windows(n), batch_size=8, collate_fn=already_collated)


def _trainer(folder: Path, **settings: object) -> lightning.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return lightning.Trainer(default_root_dir=folder, enable_checkpointing=False, **{**quiet, **settings})  # type: ignore[arg-type]


def _task(**settings: object) -> Tokenization:
    torch.manual_seed(0)
    return Tokenization(network=NETWORK, n_channels=6, **{"lr": 3e-3, "warmup_steps": 2, **settings})  # type: ignore[arg-type]


def test_terms_follow_their_definitions():
    rng = np.random.default_rng(0)
    real, guess = rng.normal(size=(2, 3, 50))
    found = reconstruction_terms(torch.tensor(real), torch.tensor(guess))
    taper = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(50) / 50)
    a, b = (np.fft.rfft(x * taper, norm="ortho") for x in (real, guess))
    np.testing.assert_allclose(found["mae"], np.abs(real - guess).mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(found["amp"], np.abs(np.abs(a) - np.abs(b)).mean(axis=1), rtol=1e-4)
    np.testing.assert_allclose(found["phase"], np.abs(np.angle(a) - np.angle(b)).mean(axis=1), rtol=1e-4)
    for row in range(3):
        covariance = np.cov(real[row], guess[row])
        expected = covariance[0, 1] / (math.sqrt(covariance[0, 0] * covariance[1, 1]) + 1e-6)
        assert float(found["pcc"][row]) == pytest.approx(expected, rel=1e-5)


def test_a_flat_channel_has_finite_terms_and_gradients():
    guess = torch.randn(2, 40, requires_grad=True)
    terms = reconstruction_terms(torch.zeros(2, 40), guess)
    sum(value.sum() for value in terms.values()).backward()
    assert bool(torch.isfinite(guess.grad).all())
    flat = torch.zeros(2, 40, requires_grad=True)
    sum(value.sum() for value in reconstruction_terms(torch.randn(2, 40), flat).values()).backward()
    assert bool(torch.isfinite(flat.grad).all())


def test_the_loss_is_the_weighted_sum_of_the_mean_terms():
    task = _task()
    terms = {"mae": torch.tensor(0.3), "pcc": torch.tensor(0.5), "amp": torch.tensor(0.2), "phase": torch.tensor(1.0)}
    expected = 0.3 + math.exp(-0.5) + 0.07 + 0.2 + 0.5
    assert float(task.loss(terms, torch.tensor(0.07))) == pytest.approx(expected)


class _Data(lightning.LightningDataModule):
    sfreq_hz = 100.0

    def train_dataloader(self) -> DataLoader:
        return DataLoader(_Windows(24, n_time=192), batch_size=8, collate_fn=already_collated)

    val_dataloader = train_dataloader


def test_spectrum_and_covariance_join_the_loss_and_the_log_where_they_have_a_weight(tmp_path):
    plain, task = _task(), _task(spectral_weight=0.3, covariance_weight=2.0)
    trainer = _trainer(tmp_path, max_epochs=1, num_sanity_val_steps=0)
    trainer.fit(task, datamodule=_Data())
    found = trainer.callback_metrics
    assert {"train/spectral", "train/covariance", "val/spectral", "val/covariance"} <= set(found)
    batch = _Windows(8, n_time=192).__getitems__(list(range(8)))
    with torch.no_grad():
        terms, commit, _, _ = task.eval()._terms(batch)
        guess, real, present = task(batch["signal"]), batch["signal"], batch["present"]
    assert float(terms["spectral"]) == pytest.approx(float(spectral_loss(guess[present], real[present], 100.0)))
    assert float(terms["covariance"]) == pytest.approx(float(covariance_loss(guess, real, present).mean()))
    added = 0.3 * terms["spectral"] + 2 * terms["covariance"]
    assert float(task.loss(terms, commit)) == pytest.approx(float(plain.loss(terms, commit) + added))
    assert set(plain.eval()._terms(batch)[0]) == {"mae", "pcc", "amp", "phase"}


def test_a_spectral_loss_needs_a_sampling_rate(tmp_path):
    with pytest.raises(InvalidValue, match=r"model\.sfreq_hz=null"):
        _trainer(tmp_path, max_epochs=1).fit(_task(spectral_weight=1.0), _loader())
    _trainer(tmp_path, max_steps=1).fit(_task(spectral_weight=1.0, sfreq_hz=50.0), _Data().train_dataloader())


def test_perplexity_counts_codes_in_use():
    codes = torch.tensor([[0, 5], [1, 5], [2, 5], [3, 5]])
    counts = code_counts(codes, 8)
    assert counts.tolist() == [[1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 4, 0, 0]]
    assert perplexity(counts).tolist() == pytest.approx([4.0, 1.0], abs=1e-4)


def test_absent_channels_do_not_count(tmp_path):
    batch = _Windows(8).__getitems__(list(range(8)))
    task = _task().eval()
    before = task._terms(batch)[0]
    changed = {**batch, "present": torch.ones_like(batch["present"])}
    assert not math.isclose(before["mae"].item(), task._terms(changed)[0]["mae"].item())
    rows = batch["signal"][batch["present"]]
    expected = reconstruction_terms(rows, task(batch["signal"])[batch["present"]])["mae"].mean()
    assert float(before["mae"]) == pytest.approx(float(expected), rel=1e-5)


def test_training_brings_signals_back(tmp_path):
    task = _task(lr=1e-2, scheduler="CosineAnnealingLR", phase_weight=0.1)
    trainer = _trainer(tmp_path, max_epochs=15, gradient_clip_val=1.0, check_val_every_n_epoch=15)
    trainer.fit(task, _loader(48), _loader())
    found = trainer.callback_metrics
    assert float(found["val/pcc"]) > 0.6
    assert float(found["val/perplexity"]) > 4
    assert 0 < float(found["val/codes_used"]) <= 1
    assert {"train/loss", "train/commit", "train/perplexity", "val/loss", "val/mae"} <= set(found)


def test_a_resumed_training_ends_with_the_same_weights_and_codebooks(tmp_path):
    whole = _task(scheduler="ExponentialLR", scheduler_options={"gamma": 0.99})
    _trainer(tmp_path, max_epochs=4).fit(whole, _loader())
    first = _task(scheduler="ExponentialLR", scheduler_options={"gamma": 0.99})
    trainer = _trainer(tmp_path, max_epochs=2)
    trainer.fit(first, _loader())
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    second = _task(scheduler="ExponentialLR", scheduler_options={"gamma": 0.99})
    _trainer(tmp_path, max_epochs=4).fit(second, _loader(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert second.network.fingerprint == whole.network.fingerprint


SHARED = """
import functools, sys, torch
from types import SimpleNamespace
from brainlab.models.braintokmix import BrainTokMix
from brainlab.nn.signal_losses import covariance_loss, spectral_loss
from brainlab.tasks.tokenization import Tokenization
rank, n, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if n > 1:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=n)
torch.manual_seed(0)
network = functools.partial(BrainTokMix, n_filters=4, n_dim=8, codebook_size=8, n_neuro=2, n_levels=1)
task = Tokenization(network=network, n_channels=3)
task._trainer = SimpleNamespace(world_size=n)
task.log = task.log_dict = lambda *_, **__: None
signal = torch.randn(5, 3, 40, generator=torch.Generator().manual_seed(1))
present = torch.ones(5, 3, dtype=torch.bool)
present[1, 2] = False
part = slice(0, 5) if n == 1 else (slice(0, 3), slice(3, 5))[rank]
loss = task.training_step({"signal": signal[part], "present": present[part]}, 0)
loss.backward()
gradient = torch.cat([parameter.grad.flatten() for parameter in task.parameters()])
torch.save((loss.detach() / n, gradient), f"{folder}/{n}-{rank}.pt")
if n > 1:
    torch.distributed.destroy_process_group()  # a process that ends inside its group may abort
"""


def test_processes_that_share_a_batch_find_the_gradient_of_one(tmp_path, monkeypatch):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SHARED]
    running = [subprocess.Popen([*command, str(rank), "2", str(tmp_path)], env=environment) for rank in (0, 1)]
    monkeypatch.setattr(sys, "argv", ["", "0", "1", str(tmp_path)])
    exec(compile(SHARED, "shared", "exec"), {})
    assert [process.wait(timeout=240) for process in running] == [0, 0]
    (loss, gradient), (first, left), (second, right) = (
        torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1")
    )
    torch.testing.assert_close(first, loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(second, loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close((left + right) / 2, gradient, rtol=1e-3, atol=1e-5)


class _Logged(lightning.Callback):
    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        self.rows.append({name: float(value) for name, value in trainer.logged_metrics.items()})


def test_every_step_says_at_which_rate_and_how_far_it_went(tmp_path):
    logged = _Logged()
    trainer = _trainer(tmp_path, max_epochs=2, callbacks=[logged], gradient_clip_val=1e-3, log_every_n_steps=1)
    trainer.fit(_task(weight_decay=0.02, lr=3e-3, warmup_steps=2), _loader(), _loader())
    assert [row["train/lr"] for row in logged.rows[:3]] == pytest.approx([1.5e-3, 3e-3, 3e-3])
    for row in logged.rows:
        assert row["train/weight_decay"] == pytest.approx(0.02)
        assert row["train/grad_norm"] > 1e-3
        assert row["train/clipped"] == 1
    assert ["train/step_s" in row for row in logged.rows[:3]] == [False, True, True]
    assert all(row.get("train/step_s", 1) > 0 for row in logged.rows)


def test_only_matrices_and_filters_decay(tmp_path):
    task = _task()
    task.trainer = _trainer(tmp_path, max_steps=4)
    groups = {group["name"]: group for group in task.configure_optimizers()["optimizer"].param_groups}
    assert all(parameter.ndim >= 2 for parameter in groups["decay"]["params"])
    assert all(parameter.ndim == 1 for parameter in groups["no_decay"]["params"])
    assert groups["no_decay"]["weight_decay"] == 0


def test_impossible_settings_are_refused():
    with pytest.raises(InvalidValue, match=r"model.n_channels=null"):
        Tokenization(network=NETWORK)
    with pytest.raises(InvalidValue, match=r"model.phase_weight=-1"):
        _task(phase_weight=-1.0)
    with pytest.raises(InvalidValue, match=r"model.covariance_weight=-1"):
        _task(covariance_weight=-1.0)
