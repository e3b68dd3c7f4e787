"""Similarity matrix: every embedded picture against every picture of the gallery."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from brainlab.plot.figure import GREY, SEQUENTIAL, label_axes, new_figure, save_figure, source_text
from brainlab.types import DataSource

__all__ = ["similarity_matrix"]


def similarity_matrix(
    path: Path,
    similarity: Float[np.ndarray, "picture picture"],
    label: Int[np.ndarray, " picture"] | None,
    source: DataSource,
) -> Path:
    """Cosine of each picture's EEG embedding (rows) with each fMRI embedding (columns), as a PNG at ``path``.

    Args:
        path: file to write.
        similarity: the right pairs are on the diagonal.
        label: cluster of each picture; pictures are sorted by it and the borders drawn. None keeps the order.
        source: where the data came from.
    """
    figure, axes = new_figure(width=7.2, height=6.2)
    if label is not None:
        order = np.argsort(label, kind="stable")
        similarity = similarity[np.ix_(order, order)]
        for border in np.flatnonzero(np.diff(label[order])) + 0.5:
            axes.axhline(border, color="white", lw=0.8)
            axes.axvline(border, color="white", lw=0.8)
    # The extremes of thousands of values would leave the rest in one shade.
    low, high = np.percentile(similarity, [1, 99.5])
    image = axes.imshow(similarity, cmap=SEQUENTIAL, vmin=low, vmax=high, interpolation="nearest")
    figure.colorbar(image, ax=axes, label="cosine", shrink=0.85)
    n = len(similarity)
    diagonal = float(np.trace(similarity)) / n
    others = float(similarity.sum() - np.trace(similarity)) / (n * (n - 1)) if n > 1 else float("nan")
    sorted_by = "" if label is None else ", sorted by picture cluster"
    label_axes(
        axes,
        f"EEG against fMRI embeddings, {source_text(source)}",
        f"fMRI embedding ({n} held-out pictures{sorted_by})",
        "EEG embedding (mean over trials)",
    )
    figure.supxlabel(f"mean cosine: right pairs {diagonal:.3f}, others {others:.3f}", fontsize=11, color=GREY)
    return save_figure(figure, path)
