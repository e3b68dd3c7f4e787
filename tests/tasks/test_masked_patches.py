"""Masked-patch pretraining: what is hidden, what is scored, and that the network never sees it."""

from __future__ import annotations

from pathlib import Path

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from brainlab.data.sampling import already_collated
from brainlab.errors import InvalidValue
from brainlab.models.cbramod import CBraMod
from brainlab.tasks.masked_patches import MaskedPatches, fixed_masks, keyed_uniform, masked_squared_error


class _Copy(nn.Module):
    """Returns what it is given times a factor, hidden patches as zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor([[1.0]]))
        self.masks: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        assert mask is not None
        self.masks.append(mask.clone())
        return torch.where(mask[..., None], 0.0, x) * self.factor


class _Batches(torch.utils.data.Dataset):
    def __init__(self, n: int) -> None:
        self.eeg = torch.randn(n, 3, 2, 10, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.eeg)

    def __getitems__(self, index: list[int]) -> dict[str, torch.Tensor]:
        return {"eeg": self.eeg[index], "index": torch.tensor(index)}


def _loader(n: int, batch_size: int) -> DataLoader:
    return DataLoader(_Batches(n), batch_size=batch_size, collate_fn=already_collated)


def _trainer(folder: Path, **settings: object) -> lightning.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return lightning.Trainer(default_root_dir=folder, enable_checkpointing=False, **{**quiet, **settings})  # type: ignore[arg-type]


def test_a_window_has_the_same_mask_in_every_batch_it_is_in() -> None:
    together = fixed_masks(torch.tensor([4, 9, 2]), 19, 4, 0.5, seed=1)
    alone = fixed_masks(torch.tensor([9]), 19, 4, 0.5, seed=1)
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(alone, fixed_masks(torch.tensor([9]), 19, 4, 0.5, seed=2))


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.8])
def test_patches_are_hidden_independently_with_the_given_chance(probability: float) -> None:
    masks = fixed_masks(torch.arange(400), 20, 5, probability, seed=0).float()
    assert masks.mean().item() == pytest.approx(probability, abs=0.01)
    centred = (masks - masks.mean()).flatten(1)
    correlation = torch.corrcoef(centred.T)
    off_diagonal = correlation[~torch.eye(100, dtype=torch.bool)]
    assert off_diagonal.abs().mean().item() < 0.06  # 1/√400 = 0.05 by chance


def test_every_window_hides_something() -> None:
    assert fixed_masks(torch.arange(200), 1, 1, 0.01, seed=0).all()


def test_the_loss_is_the_mean_over_hidden_patches_alone() -> None:
    target = torch.zeros(2, 2, 2, 4)
    predicted = torch.ones(2, 2, 2, 4)
    predicted[0, 0, 0] = 3.0
    mask = torch.zeros(2, 2, 2, dtype=torch.bool)
    mask[0, 0] = True
    error, hidden = masked_squared_error(predicted, target, mask)
    assert error.tolist() == [10.0, 0.0]
    assert hidden.tolist() == [2, 0]


def test_validation_judges_the_same_patches_in_every_epoch_and_the_mean_is_over_patches(tmp_path: Path) -> None:
    task = MaskedPatches(encoder=_Copy())
    trainer = _trainer(tmp_path)
    first = trainer.validate(task, _loader(7, 3), verbose=False)[0]
    masks = list(task.encoder.masks)
    task.encoder.masks.clear()
    again = trainer.validate(task, _loader(7, 2), verbose=False)[0]
    assert torch.equal(torch.cat(masks), torch.cat(task.encoder.masks))
    assert first["val/loss"] == pytest.approx(again["val/loss"], rel=1e-5)
    # Hidden patches come back as zeros, so the error is their mean power.
    eeg, mask = _Batches(7).eeg, torch.cat(masks)
    assert first["val/loss"] == pytest.approx(eeg[mask].square().mean().item(), rel=1e-5)
    assert first["val/zero_loss"] == pytest.approx(first["val/loss"], rel=1e-5)


def test_a_window_is_hidden_anew_in_every_epoch_and_alike_in_every_batch() -> None:
    together = keyed_uniform(torch.tensor([4, 9, 2]), 300, seed=1)
    assert torch.equal(together[1], keyed_uniform(torch.tensor([9]), 300, seed=1)[0])
    many = keyed_uniform(torch.arange(500), 300, seed=(1 << 20) + 7).double()
    assert many.min() >= 0
    assert many.max() < 1
    assert abs(float(many.mean()) - 0.5) < 0.003
    assert abs(float(many.var()) - 1 / 12) < 0.001
    neighbours = (many[1:], many[:-1]), (many[:, 1:], many[:, :-1]), (many[1:, :-1], many[:-1, 1:])
    next_epoch = keyed_uniform(torch.arange(500), 300, seed=(1 << 20) + 8).double()
    for one, other in (*neighbours, (many, next_epoch)):
        assert abs(float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])) < 0.01


def test_training_masks_follow_torch_s_seed(tmp_path: Path) -> None:
    drawn = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        task = MaskedPatches(encoder=_Copy())
        _trainer(tmp_path, max_epochs=1).fit(task, _loader(6, 2))
        drawn.append(torch.cat(task.encoder.masks))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_the_network_never_sees_a_hidden_sample() -> None:
    torch.manual_seed(0)
    task = MaskedPatches(encoder=CBraMod(n_layer=1)).eval()
    eeg = torch.randn(2, 5, 3, 200)
    mask = fixed_masks(torch.arange(2), 5, 3, 0.5, seed=0)
    with torch.no_grad():
        assert torch.equal(task(eeg, mask), task(torch.where(mask[..., None], 77.0, eeg), mask))


def test_the_rate_warms_up_and_falls_to_its_floor_over_the_real_length(tmp_path: Path) -> None:
    rates = []

    class Watch(lightning.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:  # type: ignore[no-untyped-def]
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    task = MaskedPatches(encoder=_Copy(), lr=1e-3, min_lr=1e-5, warmup_fraction=0.1)
    _trainer(tmp_path, max_epochs=4, callbacks=[Watch()]).fit(task, _loader(10, 2))
    assert len(rates) == 20
    assert rates[0] < rates[1] <= max(rates) == pytest.approx(1e-3, rel=1e-6)
    assert rates[-1] < 3e-5
    assert sorted(rates[2:], reverse=True) == rates[2:]


def test_biases_and_norms_have_no_weight_decay() -> None:
    task = MaskedPatches(encoder=CBraMod(n_layer=1), weight_decay=0.05)
    task.trainer = lightning.Trainer(max_steps=5, logger=False, accelerator="cpu", enable_checkpointing=False)
    task.trainer.fit_loop.epoch_loop.max_steps = 5
    groups = task.configure_optimizers()["optimizer"].param_groups
    decayed = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    named = dict(task.encoder.named_parameters())
    assert decayed[id(named["encoder.layers.0.linear1.weight"])] == 0.05
    assert decayed[id(named["encoder.layers.0.linear1.bias"])] == 0.0
    assert decayed[id(named["encoder.layers.0.norm1.weight"])] == 0.0
    assert len(decayed) == sum(parameter.requires_grad for parameter in named.values())


@pytest.mark.parametrize("settings", [{"mask_probability": 0.0}, {"mask_probability": 1.0}, {"lr": 0.0}, {"lr": 1e-6}])
def test_settings_without_meaning_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InvalidValue, match=r"model\."):
        MaskedPatches(encoder=_Copy(), **settings)
