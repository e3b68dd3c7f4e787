"""Where the right picture stands: histogram of ranks and share found among the first k."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float

from brainlab.plot.figure import BLUE, GREY, ORANGE, PINK, add_legend, label_axes, new_figure, save_figure, source_text
from brainlab.types import DataSource

__all__ = ["rank_histogram"]

_MOST_BARS = 20


def rank_histogram(
    path: Path,
    ranks: dict[str, Float[np.ndarray, " query"]],
    n_pictures: int,
    source: DataSource,
    ceilings: dict[str, float] | None = None,
) -> Path:
    """Ranks of the right picture against chance, and the share of queries that find it among the first k.

    Args:
        path: PNG to write.
        ranks: ranks (1 = first) for each kind of query, e.g. ``{"single trial": …, "mean over trials": …}``; at most
            two kinds.
        n_pictures: size of the gallery.
        source: where the data came from.
        ceilings: best possible top-1 for the kinds that have one.
    """
    figure, (left, right) = new_figure(1, 2, width=11.5, height=5.6)
    width = int(np.ceil(n_pictures / _MOST_BARS))
    edges = np.arange(0.5, n_pictures + width + 0.5, width)
    # The last bar may be narrower; its chance is smaller too.
    inside = np.minimum(edges[1:], n_pictures + 0.5) - edges[:-1]
    kinds = list(zip(ranks.items(), ((BLUE, "-"), (ORANGE, "--")), strict=False))
    for place, ((name, values), (colour, line)) in enumerate(kinds):
        counts, _ = np.histogram(values, bins=edges)
        bar = width * 0.8 / len(kinds)
        left.bar(edges[:-1] + width * 0.1 + bar * (place + 0.5), counts / len(values), bar, color=colour, label=name)
        k = np.arange(1, n_pictures + 1)
        found = np.searchsorted(np.sort(values), k + 0.25) / len(values)
        right.step(k, found, where="post", color=colour, ls=line, lw=2, label=f"{name} (first: {found[0]:.2f})")
        if ceilings and name in ceilings:
            right.axhline(
                ceilings[name], color=PINK, ls=line, lw=1.5, label=f"best possible first, {name}: {ceilings[name]:.2f}"
            )
    left.step(
        np.append(edges[:-1], n_pictures + 0.5),
        np.append(inside, inside[-1]) / n_pictures,
        where="post",
        color=GREY,
        ls=":",
        lw=2,
        label="chance",
    )
    chance = np.arange(1, n_pictures + 1) / n_pictures
    right.plot(chance * n_pictures, chance, color=GREY, ls=":", lw=2, label=f"chance (first: {chance[0]:.3f})")
    right.set_xscale("log")
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if tick <= n_pictures]
    right.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
    right.minorticks_off()
    right.set_ylim(0, 1.02)
    step = "one rank" if width == 1 else f"{width} ranks"
    label_axes(left, "Rank of the right picture", f"rank among {n_pictures} pictures", f"share of queries per {step}")
    label_axes(right, "Found among the first k", "k", "share of queries")
    add_legend(left, below=True)
    add_legend(right, below=True)
    figure.suptitle(f"EEG → fMRI retrieval of held-out pictures, {source_text(source)}")
    return save_figure(figure, path)
