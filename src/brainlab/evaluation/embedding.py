"""Embed a split with a trained alignment task: every trial, and the average trial of every picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from brainlab.errors import InvalidValue
from brainlab.metrics.alignment import mean_target
from brainlab.metrics.retrieval import picture_groups

__all__ = ["EmbeddedSplit", "embed_split", "judged"]


@dataclass(frozen=True)
class EmbeddedSplit:
    """Unit rows on the CPU. ``picture`` numbers the unique pictures of the split 0, 1, …

    ``z``, ``target`` (mean over fMRI subjects), ``picture``, ``image_id``, ``target_id`` (of the first fMRI subject
    that has one), ``label`` and ``subject`` (EEG) have one row per trial; ``averaged_z`` and ``averaged_picture`` one
    row per EEG subject and picture, embedded from the mean of its trials.
    """

    z: Float[Tensor, "trial dim"]
    target: Float[Tensor, "trial dim"]
    picture: Int[Tensor, " trial"]
    image_id: Int[Tensor, " trial"]
    target_id: Int[Tensor, " trial"]
    label: Int[Tensor, " trial"]
    subject: Int[Tensor, " trial"]
    averaged_z: Float[Tensor, "average dim"]
    averaged_picture: Int[Tensor, " average"]

    @property
    def n_pictures(self) -> int:
        """Number of unique pictures."""
        return int(self.picture.max()) + 1

    def first_trial(self) -> Int[Tensor, " picture"]:
        """The first trial of each picture."""
        rows = torch.full((self.n_pictures,), len(self.picture), dtype=torch.long)
        return rows.scatter_reduce(0, self.picture, torch.arange(len(self.picture)), "amin")


@contextmanager
def judged(module: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside, everything as before outside."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes.items():
            part.training = training


def embed_split(task: Any, batches: Iterable[Mapping[str, Tensor]], batch_size: int = 128) -> EmbeddedSplit:
    """Embed all batches of a split.

    Args:
        task: module that maps EEG (batch, channel, patch, time) to unit rows; used on the device where it lies.
        batches: alignment batches, see :class:`brainlab.tasks.alignment.AlignmentBatch`.
        batch_size: windows embedded at once where averaged EEG is embedded.

    Raises:
        InvalidValue: if the split is empty.
    """
    device = next(task.parameters()).device
    kept: dict[str, list[Tensor]] = {}
    sums: dict[tuple[int, int], Tensor] = {}
    counts: dict[tuple[int, int], int] = {}
    with judged(task):
        for batch in batches:
            eeg = batch["eeg"]
            mask = batch["target_mask"]
            rows = {
                "z": task(eeg.to(device)),
                "target": mean_target(batch["target"].float(), mask),
                "target_mask": mask,
                "target_id": batch["target_id"],
                "image_id": batch["image_id"],
                "label": batch["label"],
                "subject": batch["subject"],
            }
            for name, value in rows.items():
                kept.setdefault(name, []).append(value.cpu())
            for key, trial in zip(
                zip(batch["image_id"].tolist(), batch["subject"].tolist(), strict=True), eeg, strict=True
            ):
                if key in sums:
                    sums[key] += trial
                    counts[key] += 1
                else:
                    sums[key], counts[key] = trial.double(), 1
        if not kept:
            raise InvalidValue("test split", 0, "expected at least one example", hint="look at the split fractions")
        keys = sorted(sums)
        averaged = []
        for start in range(0, len(keys), batch_size):
            part = torch.stack([sums[key] / counts[key] for key in keys[start : start + batch_size]])
            averaged.append(task(part.float().to(device)).cpu())
    joined = {name: torch.cat(parts) for name, parts in kept.items()}
    mask, target_id = joined.pop("target_mask"), joined.pop("target_id")
    picture = picture_groups(joined["image_id"], target_id, mask)
    of_image = dict(zip(joined["image_id"].tolist(), picture.tolist(), strict=True))
    first = mask.int().argmax(dim=1, keepdim=True)
    return EmbeddedSplit(
        **joined,
        picture=picture,
        target_id=target_id.gather(1, first).squeeze(1),
        averaged_z=torch.cat(averaged),
        averaged_picture=torch.tensor([of_image[image] for image, _ in keys]),
    )
