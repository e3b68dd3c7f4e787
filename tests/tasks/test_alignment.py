"""The alignment task: which parts learn, from which losses, and what it refuses."""

from __future__ import annotations

import functools
import math

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.metrics.alignment import unit_rows
from brainlab.models.cbramod import CBraMod
from brainlab.models.pooling_heads import AttentionHead, FlattenHead, MultiTokenHead
from brainlab.models.query_alignment import QueryAlignmentHead
from brainlab.tasks.alignment import Alignment

CHANNELS, DIM = 5, 16


class Encoder(nn.Module):
    """A stand-in of 200 → 200 per patch with a reconstruction layer that alignment has no use for."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(200, 200)
        self.drop = nn.Dropout(0.5)
        self.proj_out = nn.Linear(200, 200)

    def forward(self, x):
        return self.proj_out(self.drop(torch.tanh(self.mix(x))))


def batch_of(n: int = 8, n_pictures: int = 8, subjects: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    picture = torch.arange(n) % n_pictures
    target = unit_rows(torch.randn(n_pictures, subjects, DIM, generator=generator))[picture]
    return {
        "eeg": torch.randn(n, CHANNELS, 1, 200, generator=generator),
        "target": target,
        "target_mask": torch.ones(n, subjects, dtype=torch.bool),
        "image_id": picture + 40,
        "target_id": (picture[:, None] + 100).repeat(1, subjects),
        "label": picture % 3,
        "index": torch.arange(n),
        "subject": torch.zeros(n, dtype=torch.long),
    }


def task_of(encoder: nn.Module | None = None, head=FlattenHead, **keywords) -> Alignment:
    torch.manual_seed(0)
    return Alignment(encoder or Encoder(), functools.partial(head), CHANNELS, 1, DIM, **keywords)


class Batches(pl.LightningDataModule):
    def __init__(self, n: int = 24, size: int = 8, **keywords) -> None:
        super().__init__()
        whole = batch_of(n, **keywords)
        self.parts = [{k: v[i : i + size] for k, v in whole.items()} for i in range(0, n, size)]

    def train_dataloader(self):
        return DataLoader(self.parts, batch_size=None)

    val_dataloader = train_dataloader


def trainer_of(**keywords) -> pl.Trainer:
    settings = {"max_epochs": 2, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(**{**settings, **quiet, **keywords})


@pytest.mark.parametrize("head", [FlattenHead, AttentionHead, MultiTokenHead, QueryAlignmentHead])
def test_every_parameter_of_cbramod_and_head_gets_a_gradient(head):
    task = task_of(CBraMod(n_layer=1, dim_feedforward=32), head, learnable_temperature=True)
    batch = batch_of()
    task.losses(batch, task(batch["eeg"]))["loss"].backward()
    without = [name for name, p in task.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_checkpoint_holds_the_parts_and_nothing_else():
    encoder = CBraMod(n_layer=1, dim_feedforward=32)
    n_used = sum(p.numel() for name, p in encoder.named_parameters() if not name.startswith("proj_out"))
    task = task_of(encoder)
    n_head = sum(p.numel() for p in task.head.parameters())
    assert sum(tensor.numel() for tensor in task.state_dict().values()) == n_used + n_head


@pytest.mark.parametrize("scales", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)])
def test_each_loss_alone_reaches_the_encoder(scales):
    task = task_of(mse_scale=scales[0], infonce_scale=scales[1], prototype_scale=scales[2])
    batch = batch_of()
    losses = task.losses(batch, task(batch["eeg"]))
    losses["loss"].backward()
    assert float(task.encoder.mix.weight.grad.norm()) > 0
    names = ("mse", "infonce", "prototype")
    assert losses["loss"].item() == pytest.approx(sum(s * losses[n].item() for s, n in zip(scales, names, strict=True)))


def test_embeddings_are_unit_rows_and_perfect_ones_have_no_distance():
    task, batch = task_of(), batch_of(subjects=1)
    torch.testing.assert_close(task(batch["eeg"]).norm(dim=1), torch.ones(8))
    losses = task.losses(batch, batch["target"][:, 0])
    assert losses["mse"].item() == pytest.approx(0, abs=1e-6)
    assert losses["prototype"].item() == pytest.approx(0, abs=1e-6)


def test_repeated_pictures_do_not_change_the_loss_of_a_perfect_prediction():
    task = task_of()
    once, often = batch_of(4, 4, subjects=1), batch_of(16, 4, subjects=1)
    a, b = task.losses(once, once["target"][:, 0]), task.losses(often, often["target"][:, 0])
    assert a["loss"].item() == pytest.approx(b["loss"].item(), rel=1e-5)


def test_subject_losses_are_weighted_means_and_absent_targets_do_not_count():
    batch = batch_of()
    z = task_of()(batch["eeg"])
    only = [task_of().losses({**batch, "target": batch["target"][:, s : s + 1]}, z)["loss"].item() for s in (0, 1)]
    both = task_of(subject_weights=[1.0, 3.0]).losses(batch, z)["loss"].item()
    assert both == pytest.approx(0.25 * only[0] + 0.75 * only[1], rel=1e-5)
    batch["target_mask"][:, 1] = False
    batch["target"][:, 1] = 9.0
    assert task_of().losses(batch, z)["loss"].item() == pytest.approx(only[0], rel=1e-5)


def test_embedding_average_uses_one_mean_target():
    batch = batch_of()
    z = task_of()(batch["eeg"])
    mean = unit_rows(batch["target"].mean(dim=1))
    assert task_of(average="embedding").losses(batch, z)["mse"].item() == pytest.approx(
        (z - mean).square().sum(dim=1).mean().item(), rel=1e-5
    )


def test_batch_of_one_trains_and_validates():
    trainer = trainer_of()
    trainer.fit(task_of(), datamodule=Batches(n=3, size=2))
    assert math.isfinite(trainer.callback_metrics["val/loss"])
    task, batch = task_of(), batch_of(1, 1)
    task.losses(batch, task(batch["eeg"]))["loss"].backward()
    assert torch.isfinite(task.encoder.mix.weight.grad).all()


def test_training_lowers_the_loss_and_finds_the_pictures():
    task, data = task_of(lr=1e-3), Batches(n=32, n_pictures=4)
    # The EEG of a picture carries its number in one channel.
    for part in data.parts:
        part["eeg"] = 0.1 * part["eeg"]
        part["eeg"][torch.arange(8), part["image_id"] - 40] += 1.0
    trainer = trainer_of(max_epochs=20)
    trainer.fit(task, datamodule=data)
    assert float(trainer.callback_metrics["val/top1"]) == 1.0
    assert float(trainer.callback_metrics["val/nll"]) < 0.3
    assert float(trainer.callback_metrics["val/cosine"]) > 0.8


def test_validation_metrics_do_not_depend_on_the_batch_size():
    found = []
    for size in (3, 8, 24):
        trainer = trainer_of()
        trainer.validate(task_of(), datamodule=Batches(n=24, size=size, n_pictures=6), verbose=False)
        found.append({name: float(trainer.callback_metrics[name]) for name in ("val/nll", "val/top1", "val/cosine")})
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0] == pytest.approx(found[2], rel=1e-5)


def test_validation_counts_an_example_once_that_two_processes_saw():
    task = task_of()
    whole = batch_of(6)
    z = task(whole["eeg"]).detach()
    rows = {"z": z, **{name: whole[name] for name in ("target", "index")}}
    padded = {name: torch.cat([value, value[:2]]) for name, value in rows.items()}
    gathered = task._gathered([padded])
    assert torch.equal(gathered["index"], whole["index"])
    assert torch.equal(gathered["z"], z)


def test_frozen_encoder_stays_and_unfrozen_encoder_moves():
    moved = {}
    for freeze in (True, False):
        task = task_of(freeze_encoder=freeze)
        before = task.encoder.mix.weight.clone()
        trainer_of().fit(task, datamodule=Batches())
        moved[freeze] = (task.encoder.mix.weight - before).abs().max().item()
        assert task.train().encoder.drop.training is not freeze
    assert moved[True] == 0.0
    assert moved[False] > 0


def test_optimizer_has_two_rates_and_ends_at_eta_min():
    task = task_of(lr=2e-4, head_lr_scale=5.0, eta_min=1e-6, warmup_fraction=0.2, learnable_temperature=True)
    trainer = trainer_of()
    trainer.fit(task, datamodule=Batches())
    groups = {group["name"]: group for group in trainer.optimizers[0].param_groups}
    assert groups["encoder"]["initial_lr"] == 2e-4
    assert groups["head"]["initial_lr"] == groups["head_no_decay"]["initial_lr"] == 1e-3
    assert all(group["lr"] == pytest.approx(1e-6) for group in groups.values())
    assert any(parameter is task.log_scale for parameter in groups["head_no_decay"]["params"])


def test_learned_temperature_starts_at_the_given_one_and_never_exceeds_its_bound():
    task = task_of(learnable_temperature=True, temperature=0.07)
    assert task.scale.item() == pytest.approx(1 / 0.07, rel=1e-5)
    with torch.no_grad():
        task.log_scale.fill_(9.0)
    assert task.scale.item() == pytest.approx(100.0, rel=1e-5)


def test_embedding_outside_training_never_depends_on_the_fmri():
    task = task_of(head=functools.partial(QueryAlignmentHead, query="target", n_heads=4))
    batch = batch_of()
    target = batch["target"].mean(dim=1)
    torch.manual_seed(1)
    a = task.train()(batch["eeg"], target)
    torch.manual_seed(1)
    assert not torch.allclose(a, task(batch["eeg"], target.flip(0)))
    task.eval()
    assert torch.equal(task(batch["eeg"], target), task(batch["eeg"], target.flip(0)))
    assert torch.equal(task(batch["eeg"], target), task(batch["eeg"]))


def test_checkpoint_of_another_head_is_refused_with_its_keys(tmp_path):
    trainer = trainer_of(default_root_dir=tmp_path)
    trainer.fit(task_of(), datamodule=Batches())
    trainer.save_checkpoint(tmp_path / "flatten.ckpt")
    with pytest.raises(RuntimeError, match=r"head\.queries"):
        trainer_of().fit(task_of(head=AttentionHead), datamodule=Batches(), ckpt_path=str(tmp_path / "flatten.ckpt"))
    stored = torch.load(tmp_path / "flatten.ckpt", weights_only=True)["hyper_parameters"]
    assert (stored["lr"], stored["temperature"], stored["target_dim"]) == (1e-4, 0.07, DIM)


def test_bf16_trains_with_finite_losses():
    trainer = trainer_of(precision="bf16-mixed", max_epochs=1)
    trainer.fit(task_of(), datamodule=Batches())
    assert math.isfinite(trainer.callback_metrics["train/loss"])


@pytest.mark.parametrize(
    ("keywords", "name"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"infonce_scale": -1.0}, "infonce_scale"),
        ({"mse_scale": 0.0, "infonce_scale": 0.0, "prototype_scale": 0.0}, "mse_scale"),
        ({"average": "mean"}, "average"),
        ({"subject_weights": [0.0, 0.0]}, "subject_weights"),
    ],
)
def test_settings_that_cannot_be_are_named(keywords, name):
    with pytest.raises(InvalidValue, match=name):
        task_of(**keywords)


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(ShapeMismatch, match=r"head\.embed_dim=512"):
        task_of(head=functools.partial(FlattenHead, embed_dim=512))
    task, batch = task_of(), batch_of()
    with pytest.raises(ShapeMismatch, match="target_dim=16"):
        task.losses({**batch, "target": torch.randn(8, 2, 32)}, task(batch["eeg"]))
    with pytest.raises(ShapeMismatch, match="5 channels"):
        task(torch.randn(2, 4, 1, 200))
    with pytest.raises(ShapeMismatch, match="subject_weights"):
        task_of(subject_weights=[1.0]).losses(batch, task(batch["eeg"]))
    with pytest.raises(InvalidValue, match="n_channels"):
        Alignment(Encoder(), FlattenHead, None, 1, DIM)
