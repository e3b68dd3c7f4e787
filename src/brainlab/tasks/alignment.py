"""Training an EEG encoder to predict the fMRI embedding of the same picture.

``z = head(encoder(eeg)) / ‖·‖`` meets ``t``, the unit fMRI embedding, under a sum of a squared distance, a contrastive
loss and a distance between class prototypes.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, Literal, TypedDict

import lightning.pytorch as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.metrics.alignment import (
    info_nce,
    mean_target,
    mse_distance,
    picture_nll,
    prototype_distance,
    same_picture,
    unit_rows,
)
from brainlab.metrics.retrieval import picture_groups, retrieve, unique_gallery
from brainlab.tasks.optim import build_optimizer, cosine_with_warmup, two_rate_groups
from brainlab.tasks.processes import gather_batch

__all__ = ["Alignment", "AlignmentBatch"]

_MAX_LOG_SCALE = math.log(100.0)


class AlignmentBatch(TypedDict):
    """One batch of paired examples.

    ``eeg`` is scaled EEG in patches; ``target`` holds one unit row per fMRI subject, valid where ``target_mask``;
    ``image_id`` is the picture on the EEG side, ``target_id`` the one on each subject's fMRI side; ``label`` is the
    picture cluster; ``index`` the example's place in its split; ``subject`` the EEG subject.
    """

    eeg: Float[Tensor, "batch channel patch time"]
    target: Float[Tensor, "batch subject dim"]
    target_mask: Bool[Tensor, "batch subject"]
    image_id: Int[Tensor, " batch"]
    target_id: Int[Tensor, "batch subject"]
    label: Int[Tensor, " batch"]
    index: Int[Tensor, " batch"]
    subject: Int[Tensor, " batch"]


class Alignment(pl.LightningModule):
    """EEG → fMRI alignment.

    Logged: ``train/{loss,mse,infonce,prototype}`` per step; per epoch over the whole validation split ``val/loss``,
    ``val/mse``, ``val/infonce``, ``val/prototype`` (means over batches), ``val/nll`` and ``val/top1`` (single trials
    against the gallery of unique validation pictures; a hit is the same picture) and ``val/cosine``.

    In a distributed run every process computes the losses of the whole batch: examples of all processes are contrasted.

    Args:
        encoder: (batch, channel, patch, time) → (batch, channel, patch, width). A reconstruction layer ``proj_out`` is
            replaced by the identity: it has no part here, and dead weights do not belong in a checkpoint.
        head: called with ``n_channels``, ``n_patches`` and ``embed_dim``; pools the encoder's tokens. A head whose
            ``forward`` takes ``target`` is shown the mean fMRI embedding in training, never outside it.
        n_channels: EEG channels; ``null`` in YAML follows the data.
        n_patches: patches per window; ``null`` in YAML follows the data.
        target_dim: width of the fMRI space; ``null`` in YAML follows the data.
        mse_scale: weight of the squared distance.
        infonce_scale: weight of the contrastive loss.
        prototype_scale: weight of the distance between class prototypes.
        temperature: of the contrastive loss; the start value where it is learned.
        learnable_temperature: learn the inverse temperature (at most 100).
        symmetric: contrast in both directions instead of EEG → fMRI only.
        subject_weights: one weight per fMRI subject, scaled to sum to one; default equal.
        average: over fMRI subjects take the mean of the losses (``loss``) or the loss of the mean target
            (``embedding``).
        lr: peak learning rate of the encoder.
        head_lr_scale: everything else learns at ``head_lr_scale · lr``.
        weight_decay: on matrices and filters; see :func:`brainlab.tasks.optim.decays`.
        optimizer: class name in ``torch.optim``.
        optimizer_options: further keywords of that class.
        warmup_fraction: part of the training that warms up linearly.
        eta_min: learning rate at the end of the cosine.
        freeze_encoder: keep the encoder as it is (no gradient, no dropout) and train the rest.

    Raises:
        InvalidValue: for a scale, weight or choice that cannot be.
        ShapeMismatch: if the head was configured for other sizes than the data's.
    """

    def __init__(
        self,
        encoder: nn.Module,
        head: Callable[..., nn.Module],
        n_channels: int,
        n_patches: int,
        target_dim: int,
        mse_scale: float = 1.0,
        infonce_scale: float = 1.0,
        prototype_scale: float = 1.0,
        temperature: float = 0.07,
        learnable_temperature: bool = False,
        symmetric: bool = False,
        subject_weights: list[float] | None = None,
        average: Literal["loss", "embedding"] = "loss",
        lr: float = 1.0e-4,
        head_lr_scale: float = 5.0,
        weight_decay: float = 0.05,
        optimizer: str = "AdamW",
        optimizer_options: dict[str, Any] | None = None,
        warmup_fraction: float = 0.05,
        eta_min: float = 1.0e-6,
        freeze_encoder: bool = False,
    ) -> None:
        super().__init__()
        sizes = {"n_channels": n_channels, "n_patches": n_patches, "target_dim": target_dim}
        for name, size in sizes.items():
            if size is None or size < 1:
                raise InvalidValue(f"model.{name}", size, "expected a positive size; null follows the data in a run")
        scales = {"mse_scale": mse_scale, "infonce_scale": infonce_scale, "prototype_scale": prototype_scale}
        for name, scale in scales.items():
            if scale < 0:
                raise InvalidValue(f"model.{name}", scale, "expected a weight of at least 0")
        if not any(scales.values()):
            raise InvalidValue("model.mse_scale", 0, "expected at least one loss with a weight above 0")
        if temperature <= 0:
            raise InvalidValue("model.temperature", temperature, "expected a positive number", hint="0.07 is usual")
        if average not in ("loss", "embedding"):
            raise InvalidValue("model.average", average, "expected loss or embedding")
        if subject_weights is not None and (min(subject_weights, default=0) < 0 or sum(subject_weights) <= 0):
            raise InvalidValue("model.subject_weights", subject_weights, "expected weights ≥ 0 that are not all 0")

        # For the checkpoint; the tracker gets the whole configuration from the run.
        self.save_hyperparameters(ignore=["encoder", "head"], logger=False)
        if hasattr(encoder, "proj_out"):
            encoder.proj_out = nn.Identity()
        self.encoder = encoder
        self.head = _built_head(head, n_channels=n_channels, n_patches=n_patches, embed_dim=target_dim)
        self._head_reads_target = "target" in inspect.signature(self.head.forward).parameters
        self.n_channels, self.n_patches, self.target_dim = n_channels, n_patches, target_dim
        self.mse_scale, self.infonce_scale, self.prototype_scale = mse_scale, infonce_scale, prototype_scale
        self.symmetric, self.average = symmetric, average
        self.lr, self.head_lr_scale, self.weight_decay = lr, head_lr_scale, weight_decay
        self.optimizer, self.optimizer_options = optimizer, optimizer_options
        self.warmup_fraction, self.eta_min = warmup_fraction, eta_min
        self.freeze_encoder = freeze_encoder
        self.subject_weights = subject_weights
        self.inverse_temperature = 1.0 / temperature
        self.log_scale: nn.Parameter | None = None
        if learnable_temperature:
            self.log_scale = nn.Parameter(torch.tensor(math.log(1.0 / temperature)))
        if freeze_encoder:
            self.encoder.requires_grad_(False)
        self._val_rows: list[dict[str, Tensor]] = []

    # ---- embedding -------------------------------------------------------------------------------------------------

    def forward(
        self, eeg: Float[Tensor, "batch channel patch time"], target: Float[Tensor, "batch dim"] | None = None
    ) -> Float[Tensor, "batch dim"]:
        """Unit embedding of each window.

        Raises:
            ShapeMismatch: if the EEG has another layout than the head was built for.
        """
        if eeg.ndim != 4 or tuple(eeg.shape[1:3]) != (self.n_channels, self.n_patches):
            raise ShapeMismatch(
                "eeg", tuple(eeg.shape), f"expected (batch, {self.n_channels} channels, {self.n_patches} patches, time)"
            )
        tokens = self.encoder(eeg)
        if self._head_reads_target:
            embedding = self.head(tokens, target=target if self.training else None)
        else:
            embedding = self.head(tokens)
        # Float32 from here on: in bf16 a cosine has two digits, which is less than one rank in a gallery of a hundred.
        return unit_rows(embedding.float())

    @property
    def scale(self) -> Tensor | float:
        """Inverse temperature of the contrastive loss."""
        if self.log_scale is None:
            return self.inverse_temperature
        return self.log_scale.clamp(max=_MAX_LOG_SCALE).exp()

    # ---- losses ----------------------------------------------------------------------------------------------------

    def losses(self, batch: AlignmentBatch, z: Float[Tensor, "batch dim"]) -> dict[str, Float[Tensor, ""]]:
        """``mse``, ``infonce``, ``prototype`` and their weighted sum ``loss`` for embeddings of a batch.

        Raises:
            ShapeMismatch: if the target has another width than the embedding, or other subjects than the weights.
            InvalidValue: if no example of the batch has a target.
        """
        target, mask = batch["target"], batch["target_mask"]
        if target.shape[-1] != z.shape[-1]:
            raise ShapeMismatch(
                "target_dim", z.shape[-1], f"expected {target.shape[-1]}, the width of the targets in the data"
            )
        weights = self._weights(target)
        with torch.autocast(device_type=z.device.type, enabled=False):
            if self.average == "embedding":
                present = mask.any(dim=1)
                # Pictures that any subject shares are the same: a mean target has no single fMRI-side picture.
                parts = [(1.0, present, mean_target(target, mask, weights), None)]
            else:
                parts = [
                    (float(weights[s]), mask[:, s], target[:, s], batch["target_id"][:, s])
                    for s in range(target.shape[1])
                ]
            total: dict[str, Tensor] = {}
            norm = 0.0
            for weight, rows, targets, target_id in parts:
                if weight == 0.0 or not bool(rows.any()):
                    continue
                same = same_picture(batch["image_id"], target_id)[rows][:, rows]
                terms = self._terms(z[rows], targets[rows].float(), same, batch["label"][rows])
                for name, value in terms.items():
                    total[name] = total.get(name, 0.0) + weight * value
                norm += weight
        if not total:
            raise InvalidValue("batch.target_mask", "all false", "expected a target for at least one example")
        means = {name: value / norm for name, value in total.items()}
        loss = (
            self.mse_scale * means["mse"]
            + self.infonce_scale * means["infonce"]
            + self.prototype_scale * means["prototype"]
        )
        return {"loss": loss, **means}

    def _whole_losses(self, batch: AlignmentBatch, z: Tensor) -> dict[str, Tensor]:
        """The losses of a batch that the processes of a distributed run share among them."""
        if self._trainer is None or self.trainer.world_size == 1:
            return self.losses(batch, z)
        names = ("z", "target", "target_mask", "image_id", "target_id", "label")
        whole = gather_batch({**batch, "z": z}, names, self.trainer.global_rank, self.trainer.world_size)
        return self.losses(whole, whole["z"])  # type: ignore[arg-type]

    def _terms(self, z: Tensor, target: Tensor, same: Tensor, label: Tensor) -> dict[str, Tensor]:
        return {
            "mse": mse_distance(z, target),
            "infonce": info_nce(z, target, self.scale, same, self.symmetric),
            "prototype": prototype_distance(z, target, label),
        }

    def _weights(self, target: Tensor) -> Tensor:
        n_subjects = target.shape[1]
        if self.subject_weights is None:
            return torch.full((n_subjects,), 1.0 / n_subjects, device=target.device)
        if len(self.subject_weights) != n_subjects:
            raise ShapeMismatch(
                "model.subject_weights", self.subject_weights, f"expected {n_subjects} weights, one per fMRI subject"
            )
        weights = torch.tensor(self.subject_weights, dtype=torch.float32, device=target.device)
        return weights / weights.sum()

    # ---- Lightning -------------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Alignment:
        """Training mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.freeze_encoder:
            self.encoder.eval()
        return self

    def training_step(self, batch: AlignmentBatch, batch_idx: int) -> Tensor:
        target = mean_target(batch["target"], batch["target_mask"]) if self._head_reads_target else None
        losses = self._whole_losses(batch, self(batch["eeg"], target))
        # Per step only: an epoch's running mean would not survive an interruption inside the epoch.
        self.log_dict(
            {f"train/{name}": value for name, value in losses.items()}, on_step=True, on_epoch=False, prog_bar=False
        )
        if self.log_scale is not None:
            self.log("train/temperature", 1.0 / torch.as_tensor(self.scale).detach(), on_step=True, on_epoch=False)
        return losses["loss"]

    def on_validation_epoch_start(self) -> None:
        self._val_rows = []

    def validation_step(self, batch: AlignmentBatch, batch_idx: int) -> None:
        z = self(batch["eeg"])
        losses = self._whole_losses(batch, z)
        self.log_dict(
            {f"val/{name}": value for name, value in losses.items()},
            on_step=False,
            on_epoch=True,
            batch_size=len(z),
            sync_dist=True,
        )
        rows = {
            "z": z,
            "target": mean_target(batch["target"].float(), batch["target_mask"]),
            "target_mask": batch["target_mask"],
            "image_id": batch["image_id"],
            "target_id": batch["target_id"],
            "index": batch["index"],
        }
        self._val_rows.append({name: value.detach().cpu() for name, value in rows.items()})

    def on_validation_epoch_end(self) -> None:
        rows = self._gathered(self._val_rows)
        self._val_rows = []
        if rows is None:
            return
        z, target = rows["z"], rows["target"]
        picture = picture_groups(rows["image_id"], rows["target_id"], rows["target_mask"])
        gallery, gallery_picture = unique_gallery(target, picture)
        ranks = retrieve(z, gallery, picture, gallery_picture)
        metrics = {
            "val/nll": picture_nll(z, gallery, torch.searchsorted(gallery_picture, picture), float(self.scale)),
            "val/top1": float(ranks.hits(1).mean()),
            "val/cosine": float((z * target).sum(dim=1).mean()),
        }
        # Every process holds the same gathered rows.
        self.log_dict(metrics, rank_zero_only=False, sync_dist=False)

    def configure_optimizers(self) -> dict[str, Any]:
        rest: list[nn.Module | nn.Parameter] = [self.head]
        if self.log_scale is not None:
            rest.append(self.log_scale)
        groups = two_rate_groups(self.encoder, rest, self.lr, self.head_lr_scale, self.weight_decay)
        optimizer = build_optimizer(groups, self.optimizer, self.optimizer_options)
        steps = self.trainer.estimated_stepping_batches
        schedule = cosine_with_warmup(optimizer, steps, self.warmup_fraction, self.eta_min)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _gathered(self, rows: list[dict[str, Tensor]]) -> dict[str, Tensor] | None:
        """All rows of the split, from every process, each example once."""
        if self._trainer is not None and self.trainer.world_size > 1:
            everyone: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(everyone, rows)
            rows = [part for process in everyone for part in process]
        if not rows:
            return None
        joined = {name: torch.cat([part[name] for part in rows]) for name in rows[0]}
        # A distributed sampler repeats examples to even out the processes.
        index, inverse = torch.unique(joined["index"], return_inverse=True)
        first = torch.full((len(index),), len(inverse), dtype=torch.long)
        first = first.scatter_reduce(0, inverse, torch.arange(len(inverse)), "amin")
        return {name: values[first] for name, values in joined.items()}


def _built_head(head: Callable[..., nn.Module], **sizes: int) -> nn.Module:
    fixed = head.keywords if isinstance(head, functools.partial) else {}
    for name, size in sizes.items():
        if fixed.get(name) not in (None, size):
            raise ShapeMismatch(
                f"model.head.{name}", fixed[name], f"expected {size} as the data have it", hint="leave the key out"
            )
    return head(**sizes)
