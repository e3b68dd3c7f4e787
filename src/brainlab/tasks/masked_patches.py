"""Masked-patch pretraining: hide patches of a recording and reconstruct them from the others.

Each (channel, patch) is hidden with one probability, independently of the rest; the loss is the mean squared error
over the hidden patches alone. Source: Wang et al. (2025), CBraMod, section 3 (masked EEG reconstruction).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from lightning import LightningModule
from torch import Tensor, nn

from brainlab.errors import InvalidValue
from brainlab.tasks.optim import cosine_with_warmup, two_rate_groups

__all__ = ["MaskedPatches", "fixed_masks", "keyed_uniform", "masked_squared_error"]

_VALIDATION_SEED = 1


def fixed_masks(
    index: Int[Tensor, " batch"], n_channels: int, n_patches: int, probability: float, seed: int
) -> Bool[Tensor, "batch channel patch"]:
    """The masks of given windows: the same for the same (seed, index), whatever else is in the batch.

    A window in which nothing would be hidden hides its first patch, so that every window has a score.
    """
    masks = torch.empty(len(index), n_channels, n_patches, dtype=torch.bool)
    generator = torch.Generator()
    for row, number in enumerate(index.tolist()):
        # Consecutive seeds of torch's generator are uncorrelated only after mixing; a large odd stride keeps
        # (seed, index) pairs apart.
        generator.manual_seed((seed * 1_000_003 + number) * 2_654_435_761 % 2**63)
        masks[row] = torch.rand(n_channels, n_patches, generator=generator) < probability
        if not masks[row].any():
            masks[row, 0, 0] = True
    return masks


def keyed_uniform(index: Int[Tensor, " batch"], n: int, seed: int) -> Float[Tensor, "batch n"]:
    """Numbers in [0, 1) that depend on ``(seed, index)`` and their position alone, made where ``index`` lies.

    A window gets the same numbers on every device and whatever else is in its batch, so that processes that share a
    batch draw together what one process draws alone.

    Source: the finaliser of SplitMix64 (Steele, Lea & Flood, 2014) over a counter; products wrap around.
    """
    z = index.long()[:, None] * _signed(0x9E3779B97F4A7C15) + torch.arange(n, device=index.device)
    z = z * _signed(0xD1342543DE82EF95) + _signed(seed * 0xDA942042E4DD58B5 + 1)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        z = (z ^ (z >> shift & (1 << 64 - shift) - 1)) * _signed(factor)
    return (z >> 40 & (1 << 24) - 1).float() / (1 << 24)


def _signed(number: int) -> int:
    """The 64 lowest bits of ``number`` as torch's integers hold them."""
    number &= (1 << 64) - 1
    return number - (1 << 64) if number >> 63 else number


def masked_squared_error(
    predicted: Float[Tensor, "batch channel patch time"],
    target: Float[Tensor, "batch channel patch time"],
    mask: Bool[Tensor, "batch channel patch"],
) -> tuple[Float[Tensor, " batch"], Int[Tensor, " batch"]]:
    """Sum over hidden patches of their mean squared error, and how many patches were hidden, per window."""
    error = (predicted - target).square().mean(dim=-1) * mask
    return error.sum(dim=(1, 2)), mask.sum(dim=(1, 2))


class MaskedPatches(LightningModule):
    """Trains ``encoder(x, mask) -> reconstruction`` on hidden patches.

    Masks are a function of the window's index: those of training also of the epoch and of torch's seed, so that a
    resumed run and processes that share a batch see the same ones, those of validation of nothing else, so that every
    epoch is judged on the same patches.

    Args:
        encoder: maps (batch, channel, patch, time) and a mask (1 = hidden) to a reconstruction of that shape.
        mask_probability: chance of a (channel, patch) to be hidden, in (0, 1).
        lr: peak learning rate of AdamW.
        min_lr: learning rate at the end of the cosine.
        warmup_fraction: part of the training in which the rate rises linearly.
        weight_decay: on matrices and filters; biases and norms have none.
        betas: AdamW's two averaging constants.
    """

    def __init__(
        self,
        *,
        encoder: nn.Module,
        mask_probability: float = 0.5,
        lr: float = 5e-4,
        min_lr: float = 1e-5,
        warmup_fraction: float = 0.0,
        weight_decay: float = 0.05,
        betas: tuple[float, float] | list[float] = (0.9, 0.999),
    ) -> None:
        super().__init__()
        if not 0 < mask_probability < 1:
            raise InvalidValue("model.mask_probability", mask_probability, "expected a number between 0 and 1")
        if not 0 <= min_lr <= lr or lr <= 0:
            raise InvalidValue("model.lr", lr, f"expected a positive rate, not below model.min_lr={min_lr}")
        self.encoder = encoder
        self.mask_probability = mask_probability
        self.lr, self.min_lr, self.warmup_fraction = lr, min_lr, warmup_fraction
        self.weight_decay, self.betas = weight_decay, (betas[0], betas[1])
        self.save_hyperparameters(ignore=["encoder"])

    def forward(
        self, eeg: Float[Tensor, "batch channel patch time"], mask: Bool[Tensor, "batch channel patch"] | None = None
    ) -> Float[Tensor, "batch channel patch time"]:
        """The reconstruction of every patch, hidden (mask = 1) or not; units of the input."""
        return self.encoder(eeg, mask)

    def validation_masks(self, batch: dict[str, Tensor], seed: int = _VALIDATION_SEED) -> Bool[Tensor, "b c p"]:
        """The masks that judge a batch of held-out windows."""
        _, n_channels, n_patches, _ = batch["eeg"].shape
        masks = fixed_masks(batch["index"].cpu(), n_channels, n_patches, self.mask_probability, seed)
        return masks.to(batch["eeg"].device)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        eeg = batch["eeg"]
        mask = self.training_masks(batch)
        error, hidden = masked_squared_error(self(eeg, mask), eeg, mask)
        total = self._over_processes(torch.stack([error.detach().sum(), hidden.sum()]))
        # One window of one patch may hide nothing; its loss is then zero, not 0 / 0.
        n = total[1].clamp(min=1)
        self.log("train/loss", total[0] / n, on_step=True, on_epoch=False, prog_bar=True, batch_size=len(eeg))
        # Gradients are averaged over processes: each contributes its part of the mean over all hidden patches.
        return error.sum() / n * self._n_processes

    def training_masks(self, batch: dict[str, Tensor]) -> Bool[Tensor, "batch channel patch"]:
        """The masks of a batch in this epoch."""
        n_windows, n_channels, n_patches, _ = batch["eeg"].shape
        seed = ((torch.initial_seed() + 1) << 20) + self.current_epoch
        numbers = keyed_uniform(batch["index"], n_channels * n_patches, seed)
        return (numbers < self.mask_probability).view(n_windows, n_channels, n_patches)

    @property
    def _n_processes(self) -> int:
        return 1 if self._trainer is None else int(self.trainer.world_size)

    def _over_processes(self, values: Tensor) -> Tensor:
        """The sum of ``values`` over the processes that share the batch."""
        if self._n_processes > 1:
            torch.distributed.all_reduce(values)
        return values

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._judge(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._judge(batch, "test")

    def _judge(self, batch: dict[str, Tensor], part: str) -> None:
        eeg, mask = batch["eeg"], self.validation_masks(batch)
        error, hidden = masked_squared_error(self(eeg, mask), eeg, mask)
        n = int(hidden.sum())
        # Weighted by hidden patches, the epoch's mean is the mean over all hidden patches.
        self.log(f"{part}/loss", error.sum() / n, batch_size=n, prog_bar=True, sync_dist=True)
        power = (eeg.square().mean(dim=-1) * mask).sum()
        self.log(f"{part}/zero_loss", power / n, batch_size=n, sync_dist=True)

    def configure_optimizers(self) -> Any:
        groups = two_rate_groups(self.encoder, [], self.lr, 1.0, self.weight_decay)
        optimizer = torch.optim.AdamW(groups, betas=self.betas)
        total = int(self.trainer.estimated_stepping_batches)
        schedule = cosine_with_warmup(optimizer, total, self.warmup_fraction, self.min_lr)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
