"""Training curves: every logged metric against the optimiser step, training and validation in one panel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from brainlab.plot.figure import BLUE, GREEN, GREY, ORANGE, add_legend, label_axes, new_figure, save_figure

__all__ = ["curve_groups", "plot_training_curves"]

Points = Sequence[tuple[int, float]]

_MOST_PANELS = 6
_COLUMNS = 3
_COLOURS = {"train": BLUE, "val": ORANGE, "": GREEN}
_DENSE = 60


def curve_groups(names: Sequence[str]) -> dict[str, list[str]]:
    """Metric names by what they measure: ``train/loss_step`` and ``val/loss`` share a panel.

    >>> curve_groups(["train/loss_step", "val/loss", "epoch", "test/top1", "val/top1"])
    {'loss': ['train/loss_step', 'val/loss'], 'top1': ['val/top1']}
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        stage, _, rest = name.partition("/")
        if name == "epoch" or stage == "test":
            continue
        quantity = rest if rest and stage in _COLOURS else name
        groups.setdefault(quantity.removesuffix("_step").removesuffix("_epoch"), []).append(name)
    order = sorted(
        groups, key=lambda key: (key != "loss", not any(name.startswith("val/") for name in groups[key]), key)
    )
    return {key: sorted(groups[key]) for key in order}


def plot_training_curves(history: Mapping[str, Points], path: Path) -> Path | None:
    """Draw the logged metrics of a run.

    Args:
        history: (step, value) pairs by metric name; ``train/…`` and ``val/…`` of the same quantity share a panel.
            A metric with one value is a dot; values that are no finite numbers are left out.
        path: PNG to write.

    Returns:
        ``path``, or ``None`` where nothing was logged.
    """
    curves = {name: points for name, values in history.items() if (points := _finite(values))}
    groups = dict(list(curve_groups(list(curves)).items())[:_MOST_PANELS])
    if not groups:
        return None
    columns = min(_COLUMNS, len(groups))
    rows = math.ceil(len(groups) / columns)
    figure, axes = new_figure(rows, columns, width=4.4 * columns, height=3.3 * rows, squeeze=False)
    panels = list(axes.flat)
    for panel, (quantity, names) in zip(panels, groups.items(), strict=False):
        for name in names:
            points = curves[name]
            steps, values = zip(*points, strict=True)
            stage = name.partition("/")[0]
            single = name.endswith("_step")
            panel.plot(
                steps, values,
                color=_COLOURS.get(stage, _COLOURS[""]),
                alpha=0.35 if single else 1.0, linewidth=1.0 if single else 2.0,
                # A single point has no line to be seen by.
                marker="o" if len(points) == 1 or (not single and len(points) <= _DENSE) else None, markersize=3.5,
                label=_label(name),
            )  # fmt: skip
        label_axes(panel, quantity, "optimiser step", quantity)
        if all(len(curves[name]) == 1 for name in names):
            panel.margins(0.5)  # else the axis would span a millionth around the value
        panel.grid(axis="y", color=GREY, alpha=0.15)
        if len(names) > 1:
            add_legend(panel)
    for panel in panels[len(groups) :]:
        panel.set_axis_off()
    return save_figure(figure, path)


def _finite(points: Points) -> list[tuple[int, float]]:
    return [(step, value) for step, value in points if math.isfinite(value)]


def _label(name: str) -> str:
    """How a curve is called in the legend.

    >>> _label("train/loss_step"), _label("train/loss_epoch"), _label("val/loss")
    ('training, each step', 'training', 'validation')
    """
    stage = {"train": "training", "val": "validation"}.get(name.partition("/")[0])
    if stage is None:
        return name
    return f"{stage}, each step" if name.endswith("_step") else stage
