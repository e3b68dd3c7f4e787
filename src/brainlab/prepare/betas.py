"""fMRI betas: voxel-wise normalisation, averages over repetitions."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from brainlab.errors import InvalidValue

__all__ = ["BetaNormalisation", "average_by_picture", "normalise_betas"]

log = logging.getLogger(__name__)

BetaNormalisation = Literal["train", "session", "none"]


def normalise_betas(
    betas: Float[np.ndarray, "trial voxel"],
    session: Int[np.ndarray, " trial"],
    *,
    mode: BetaNormalisation = "train",
    train: Bool[np.ndarray, " trial"] | None = None,
) -> Float[np.ndarray, "trial voxel"]:
    """z-score each voxel.

    Args:
        betas: single trials, percent signal change.
        session: scanning session of each trial.
        mode: ``train`` uses mean and standard deviation of the training trials; ``session`` those of each session
            over all its trials (what published notebooks do: it looks at held-out trials); ``none`` leaves them.
        train: trials that may be looked at; needed by ``train``.

    Returns:
        a new float32 array; a voxel that does not vary becomes 0.

    Raises:
        InvalidValue: for an unknown mode, or fewer than 2 training trials.
    """
    if mode == "none":
        return np.array(betas, dtype=np.float32)
    if mode == "session":
        result = np.empty(betas.shape, dtype=np.float32)
        for name in np.unique(session):
            rows = session == name
            result[rows] = _z(betas[rows], betas[rows])
        return result
    if mode == "train":
        if train is None or int(np.sum(train)) < 2:
            raise InvalidValue(
                "beta_normalisation", mode, "expected at least 2 training trials to take mean and std from"
            )
        return _z(betas, betas[train])
    raise InvalidValue("beta_normalisation", mode, "expected one of train, session, none")


def _z(betas: np.ndarray, reference: np.ndarray) -> np.ndarray:
    mean = reference.mean(axis=0, dtype=np.float64)
    spread = reference.std(axis=0, dtype=np.float64)
    still = spread <= 1e-9 * np.maximum(np.abs(mean), 1e-30)
    if still.any():
        log.warning("%d of %d voxels do not vary and are set to 0", int(still.sum()), len(still))
    factor = np.where(still, 0.0, 1.0 / np.where(still, 1.0, spread))
    return ((betas - mean.astype(np.float32)) * factor.astype(np.float32)).astype(np.float32)


def average_by_picture(
    values: Float[np.ndarray, "trial dim"], picture: Int[np.ndarray, " trial"]
) -> tuple[Int[np.ndarray, " picture"], Float[np.ndarray, "picture dim"], Int[np.ndarray, " picture"]]:
    """Mean over the repetitions of each picture.

    Returns:
        sorted picture ids, their means, and how many trials went into each.
    """
    ids, member, count = np.unique(picture, return_inverse=True, return_counts=True)
    order = np.argsort(member, kind="stable")
    starts = np.concatenate([[0], np.cumsum(count)[:-1]])
    sums = np.add.reduceat(np.asarray(values, dtype=np.float32)[order], starts, axis=0) if len(ids) else values[:0]
    return ids.astype(np.int64), (sums / count[:, None]).astype(np.float32), count.astype(np.int64)
