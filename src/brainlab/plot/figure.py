"""The look that all figures share: readable type, a palette that colour-blind readers can tell apart, one way out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from brainlab.types import DataSource

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "PINK",
    "SEQUENTIAL",
    "add_legend",
    "label_axes",
    "new_figure",
    "save_figure",
    "source_text",
]

# Okabe and Ito (2008): distinguishable with every common colour deficiency, and in grey.
BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#666666"
SEQUENTIAL = "cividis"

_STYLE: Any = {
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.labelsize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def new_figure(
    n_rows: int = 1, n_columns: int = 1, width: float = 6.4, height: float = 4.8, **subplots: Any
) -> tuple[Figure, Any]:
    """A figure of its own (no global state) and its axes, as ``Figure.subplots`` gives them; sizes in inches."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(n_rows, n_columns, **subplots)
    return figure, axes


def save_figure(figure: Figure, path: Path, dpi: int = 130) -> Path:
    """Write a PNG, or a PDF where ``path`` ends so, and return its path; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi, format="pdf" if path.suffix == ".pdf" else "png")
    return path


def source_text(source: DataSource) -> str:
    """Where the data of a figure came from, for its title.

    >>> source_text("synthetic")
    'simulated data'
    """
    return {"synthetic": "simulated data", "files": "recorded data"}[source]


def label_axes(axes: Axes, title: str, x: str, y: str) -> None:
    """Title and axis labels in one call."""
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def add_legend(axes: Axes, below: bool = False) -> None:
    """A legend without a frame, where there is room or below the axes."""
    if below:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False, fontsize=11)
    else:
        axes.legend(loc="best", frameon=False, fontsize=11)
