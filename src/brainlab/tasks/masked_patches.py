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

__all__ = ["MaskedPatches", "fixed_masks", "masked_squared_error"]

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

    Training masks come from torch's global generator, whose state a checkpoint carries; validation masks are a
    function of the window's index, so that every epoch is judged on the same patches.

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
        mask = torch.rand(eeg.shape[:3], device=eeg.device) < self.mask_probability
        error, hidden = masked_squared_error(self(eeg, mask), eeg, mask)
        # One window of one patch may hide nothing; its loss is then zero, not 0 / 0.
        loss = error.sum() / hidden.sum().clamp(min=1)
        self.log("train/loss", loss, on_step=True, on_epoch=False, prog_bar=True, batch_size=len(eeg))
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._judge(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._judge(batch, "test")

    def _judge(self, batch: dict[str, Tensor], part: str) -> None:
        eeg, mask = batch["eeg"], self.validation_masks(batch)
        error, hidden = masked_squared_error(self(eeg, mask), eeg, mask)
        n = int(hidden.sum())
        # Weighted by hidden patches, the epoch's mean is the mean over all hidden patches.
        self.log(f"{part}/loss", error.sum() / n, batch_size=n, prog_bar=True)
        power = (eeg.square().mean(dim=-1) * mask).sum()
        self.log(f"{part}/zero_loss", power / n, batch_size=n)

    def configure_optimizers(self) -> Any:
        groups = two_rate_groups(self.encoder, [], self.lr, 1.0, self.weight_decay)
        optimizer = torch.optim.AdamW(groups, betas=self.betas)
        total = int(self.trainer.estimated_stepping_batches)
        schedule = cosine_with_warmup(optimizer, total, self.warmup_fraction, self.min_lr)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
