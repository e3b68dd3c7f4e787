"""The shared space: EEG and fMRI embeddings of the same pictures in one plane."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float

from brainlab.plot.figure import BLUE, GREY, ORANGE, add_legend, label_axes, new_figure, save_figure, source_text
from brainlab.types import DataSource

__all__ = ["joint_embedding"]


def joint_embedding(
    path: Path,
    eeg: Float[np.ndarray, "picture dim"],
    fmri: Float[np.ndarray, "picture dim"],
    source: DataSource,
) -> Path:
    """Both sides of every pair on the first two principal components of all rows, pairs joined by a line.

    Args:
        path: PNG to write.
        eeg: EEG embedding of each picture.
        fmri: fMRI embedding of the same pictures.
        source: where the data came from.
    """
    both = np.concatenate([eeg, fmri]).astype(np.float64)
    both -= both.mean(axis=0)
    u, s, _ = np.linalg.svd(both, full_matrices=False)
    plane = np.zeros((len(both), 2))
    plane[:, : min(2, len(s))] = (u * s)[:, :2]
    share = s**2 / max(float((s**2).sum()), np.finfo(float).tiny)
    share = np.append(share, [0.0, 0.0])
    a, b = plane[: len(eeg)], plane[len(eeg) :]
    figure, axes = new_figure(width=7.2, height=6.2)
    lines = np.full((3 * len(a), 2), np.nan)
    lines[0::3], lines[1::3] = a, b
    axes.plot(lines[:, 0], lines[:, 1], color=GREY, lw=0.5, alpha=0.5, zorder=1, label="same picture")
    axes.scatter(*a.T, s=26, color=BLUE, marker="o", edgecolors="white", lw=0.4, label="EEG (mean over trials)")
    axes.scatter(*b.T, s=30, color=ORANGE, marker="^", edgecolors="white", lw=0.4, label="fMRI")
    label_axes(
        axes,
        f"Shared space of {len(eeg)} held-out pictures, {source_text(source)}",
        f"principal component 1 ({share[0]:.0%} of variance)",
        f"principal component 2 ({share[1]:.0%} of variance)",
    )
    add_legend(axes)
    return save_figure(figure, path)
