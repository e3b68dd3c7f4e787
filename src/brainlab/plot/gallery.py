"""Retrieved pictures: what the subject saw and what the EEG retrieved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from brainlab.errors import InvalidValue
from brainlab.plot.figure import BLUE, GREY, new_figure, save_figure, source_text
from brainlab.types import DataSource

__all__ = ["RetrievedRow", "retrieved_pictures"]

_MOST_TITLE = 18


@dataclass(frozen=True)
class RetrievedRow:
    """One query: the picture shown during the EEG, the retrieved pictures best first, and which of them is right."""

    shown: UInt8[np.ndarray, "height width 3"]
    retrieved: Sequence[UInt8[np.ndarray, "height width 3"]]
    hit: Sequence[bool]
    rank: float
    title: str = ""


def retrieved_pictures(path: Path, rows: Sequence[RetrievedRow], n_pictures: int, source: DataSource) -> Path:
    """A sheet with one row per query; the right answer has a thick frame and the word "hit".

    Args:
        path: PNG to write.
        rows: the queries.
        n_pictures: size of the gallery.
        source: where the data came from.

    Raises:
        InvalidValue: if there is no row.
    """
    if not rows:
        raise InvalidValue("rows", 0, "expected at least one query")
    columns = 1 + max(len(row.retrieved) for row in rows)
    figure, axes = new_figure(len(rows), columns, width=1.55 * columns, height=1.75 * len(rows) + 0.6, squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        for axis in line:
            axis.axis("off")
        _show(line[0], row.shown, GREY, 1.0)
        name = row.title if len(row.title) <= _MOST_TITLE else row.title[: _MOST_TITLE - 1] + "…"
        line[0].set_title(f"{name}\nright one: rank {row.rank:g}".strip(), fontsize=9)
        for place, (axis, picture, hit) in enumerate(zip(line[1:], row.retrieved, row.hit, strict=False)):
            _show(axis, picture, BLUE if hit else GREY, 4.0 if hit else 0.5)
            axis.set_title(
                f"{place + 1}: hit" if hit else f"{place + 1}", fontsize=9, weight="bold" if hit else "normal"
            )
    figure.suptitle(
        f"Left: shown during the EEG. Right: retrieved of {n_pictures} fMRI pictures, {source_text(source)}",
        fontsize=12,
    )
    return save_figure(figure, path)


def _show(axis, picture: np.ndarray, colour: str, width: float) -> None:
    axis.axis("on")
    axis.imshow(picture)
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set(visible=True, color=colour, linewidth=width)
