"""Figures of free-running rollouts in numbers: distances, statistics of windows, prices of codes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from brainlab.plot.figure import BLUE, GREEN, GREY, add_legend, label_axes, new_figure, save_figure, source_text
from brainlab.plot.rollout_lines import (
    FEW,
    Spread,
    draw_spread,
    line_places,
    line_styles,
    line_tick,
    line_word,
    quartiles,
    shared_legend,
    spread_text,
)
from brainlab.types import DataSource

__all__ = [
    "distance_violins",
    "divergence_curves",
    "effect_sizes",
    "token_panels",
    "window_metrics",
]

_MOST_COLUMNS = 3
_IN_HZ = ("psd_centroid",)
_SPREAD = ("correct", "target_swap", "real", "model")  # of all lines, or nothing could be told apart


def divergence_curves(
    path: Path,
    prefixes_s: Sequence[float],
    lines: Mapping[str, Mapping[str, Float[np.ndarray, "prefix context"]]],
    metrics: Mapping[str, str],
    source: DataSource,
    *,
    in_windows: bool = False,
) -> Path:
    """Distance to the real continuation against time: medians over contexts, spread of the model and target swap.

    Args:
        path: PNG to write; that over lengths is written as PDF beside it, for print.
        prefixes_s: lengths, or places in the continuation, in seconds.
        lines: line → metric → values; NaN where a line has no value.
        metrics: panels, in order: name and title.
        source: where the data came from.
        in_windows: whether the seconds are middles of sliding windows, not lengths.
    """
    figure, panels = _grid(len(metrics), 4.3, 3.3)
    along = "middle of the window" if in_windows else "length compared"
    styles = line_styles(list(lines))
    spread: dict[str, Spread | None] = {}
    for panel, (metric, title) in zip(panels, metrics.items(), strict=False):
        shown = {name: each[metric] for name, each in lines.items() if np.isfinite(each.get(metric, np.nan)).any()}
        label_axes(panel, title, "", _direction(metric))
        places = line_places(panel, prefixes_s, list(shown), along)
        for name, values in shown.items():
            colour, dashes = styles[name]
            panel.plot(
                places[name], quartiles(values)[1], color=colour, ls=dashes, marker="o", ms=4, label=line_word(name)
            )
            if name in _SPREAD:
                spread[name] = draw_spread(panel, places[name], values, colour) or spread.get(name)
    shared_legend(figure, panels)
    n = max((each.shape[1] for values in lines.values() for each in values.values()), default=0)
    title = f"Distance of rollouts to real continuations{' in sliding windows' if in_windows else ''}"
    figure.suptitle(f"{title}, {source_text(source)}\n{spread_text(n, spread)}", fontsize=13)
    if not in_windows:
        save_figure(figure, path.with_suffix(".pdf"))
    return save_figure(figure, path)


def distance_violins(
    path: Path,
    lines: Mapping[str, Mapping[str, Float[np.ndarray, " context"]]],
    metrics: Mapping[str, str],
    length_s: float,
    source: DataSource,
) -> Path:
    """Distances of single contexts at one length: every context as a dot, a bar at the median, for each line.

    Few contexts have no violin: its shape would be made up.
    """
    figure, panels = _grid(len(metrics), 4.3, 3.6)
    styles = line_styles(list(lines))
    generator = np.random.default_rng(0)
    for panel, (metric, title) in zip(panels, metrics.items(), strict=False):
        shown = [
            (name, kept)
            for name, values in lines.items()
            if metric in values and len(kept := values[metric][np.isfinite(values[metric])])
        ]
        for place, (name, values) in enumerate(shown):
            colour = styles[name][0]
            if len(values) >= FEW and np.ptp(values) > 0:
                body = panel.violinplot(values, positions=[place], widths=0.8, showextrema=False)["bodies"][0]
                body.set(facecolor=colour, alpha=0.25)
            jitter = generator.uniform(-0.12, 0.12, len(values))
            panel.plot(place + jitter, values, "o", color=colour, ms=3.5, alpha=0.8)
            panel.plot([place - 0.3, place + 0.3], [np.median(values)] * 2, color=colour, lw=2.5)
        panel.set_xticks(range(len(shown)), [line_tick(name) for name, _ in shown], rotation=35, ha="right", fontsize=9)
        label_axes(panel, title, "", _direction(metric))
    figure.suptitle(f"Distances over the first {length_s:g} s, one dot per context, {source_text(source)}", fontsize=13)
    return save_figure(figure, path)


def effect_sizes(
    path: Path,
    p: Mapping[str, Mapping[str, float | None]],
    better_than: Mapping[str, Mapping[str, float]],
    labels: Mapping[str, str],
    length_s: float,
    source: DataSource,
) -> Path:
    """Share of contexts in which the own continuation is nearer than a control, for every distance.

    Args:
        path: PNG to write.
        p: control → metric → corrected p, None where there is no test; a dot is filled where it is below 0.05.
        better_than: control → metric → share of contexts.
        labels: how each metric is called.
        length_s: length compared.
        source: where the data came from.
    """
    controls = [name for name in p if p[name]]
    metrics = list(p[controls[0]]) if controls else []
    figure, axis = new_figure(1, 1, width=7.6, height=1.6 + 0.27 * max(len(metrics), 1))
    styles = line_styles(controls)
    for row, metric in enumerate(metrics):
        for number, control in enumerate(controls):
            corrected = p[control].get(metric)
            share = better_than[control].get(metric, math.nan)
            sure = corrected is not None and corrected < 0.05
            colour = styles[control][0]
            y = row + 0.29 * (number - (len(controls) - 1) / 2)
            axis.plot(share, y, "o", ms=5.5, color=colour, mfc=colour if sure else "white")
    for control in controls:  # for the legend: filled, whatever the first dot is
        axis.plot([], [], "o", ms=5.5, color=styles[control][0], label=line_word(control))
    axis.axvline(0.5, color=GREY, lw=1, ls="--")
    axis.set_yticks(range(len(metrics)), [labels[name] for name in metrics], fontsize=9)
    axis.set(xlim=(-0.03, 1.03), ylim=(len(metrics) - 0.4, -0.6))
    any_sure = any(each is not None and each < 0.05 for control in controls for each in p[control].values())
    label_axes(
        axis,
        f"All distances over the first {length_s:g} s, {source_text(source)}",
        "share of contexts in which the model is nearer to its own continuation\n"
        + ("(filled: corrected p < 0.05)" if any_sure else "(none is filled: no corrected p < 0.05)"),
        "",
    )
    shared_legend(figure, [axis])
    return save_figure(figure, path)


def window_metrics(
    path: Path,
    times_s: Sequence[float],
    quantiles: Mapping[str, Mapping[str, Float[np.ndarray, "quantile window"]]],
    features: Sequence[str],
    labels: Mapping[str, str],
    outside: Mapping[str, Mapping[str, float]],
    n_contexts: int,
    source: DataSource,
) -> Path:
    """Statistics of sliding windows: medians, with the 5–95 % range of real and model as bands.

    Args:
        path: PNG to write.
        times_s: middle of each window after the context.
        quantiles: line → feature → the 5, 25, 50, 75 and 95 % quantiles over examples.
        features: panels, in order.
        labels: how each feature is called.
        outside: line → feature → share of values outside the range of the other real contexts, also of the real
            ones; the last panel shows all features, or says that there are none.
        n_contexts: how many there are; few have no range.
        source: where the data came from.
    """
    figure, panels = _grid(len(features) + 1, 4.3, 3.2)
    styles = line_styles(list(quantiles))
    for panel, feature in zip(panels, features, strict=False):
        shown = {
            name: each[feature] for name, each in quantiles.items() if np.isfinite(each.get(feature, np.nan)).any()
        }
        label_axes(panel, labels[feature], "", "Hz" if feature in _IN_HZ else "")
        places = line_places(panel, times_s, list(shown), "middle of the window")
        marker = "o" if len(times_s) == 1 else None
        for name, found in shown.items():
            colour, dashes = styles[name]
            panel.plot(places[name], found[2], color=colour, ls=dashes, marker=marker, label=line_word(name))
            if name in _SPREAD and n_contexts >= FEW:
                if len(times_s) == 1:
                    panel.vlines(places[name], found[0], found[4], color=colour, lw=2, alpha=0.5)
                else:
                    panel.fill_between(times_s, found[0], found[4], color=colour, alpha=0.12, lw=0)
    bars = panels[len(features)]
    names = list(next(iter(outside.values()), {}))
    height = 0.8 / max(len(outside), 1)
    for number, (line, rates) in enumerate(outside.items()):
        bars.barh(
            np.arange(len(names)) + height * (number - (len(outside) - 1) / 2),
            [rates[name] for name in names],
            height=height,
            color=styles.get(line, (BLUE, "-"))[0],
            label=line_word(line),
        )
    label_axes(bars, "outside the 5–95 % of\nthe other real contexts", "share of values", "")
    if names:
        bars.set_yticks(range(len(names)), [labels[name] for name in names], fontsize=7)
        bars.invert_yaxis()
    else:
        bars.set_axis_off()
        bars.text(0.5, 0.5, f"not defined for {_contexts(n_contexts)}", ha="center", transform=bars.transAxes)
    shared_legend(figure, panels)
    kind = "bars" if len(times_s) == 1 else "bands"
    ranges = f"{kind}: 5–95 % of real and model" if n_contexts >= FEW else "too few for ranges"
    figure.suptitle(
        f"Statistics of sliding windows, {source_text(source)}\nmedians of {_contexts(n_contexts)}; {ranges}",
        fontsize=13,
    )
    return save_figure(figure, path)


def token_panels(
    path: Path,
    time_s: Float[np.ndarray, " frame"],
    bits_per_second: Float[np.ndarray, " frame"],
    bits_per_level: Float[np.ndarray, " level"],
    references: Mapping[str, float],
    usage: Mapping[str, Float[np.ndarray, " code"]],
    source: DataSource,
) -> Path:
    """Bits per second along the context, bits per token of each level, and how often codes are used.

    Args:
        path: PNG to write.
        time_s: time from the start of the context.
        bits_per_second: what the model pays for the real codes there.
        bits_per_level: mean bits per token of each level of the quantiser.
        references: bits per token of the model and of guesses, by name.
        usage: share of every code, most frequent first, by line.
        source: where the data came from.
    """
    figure, axes = new_figure(1, 3, width=13.5, height=3.9)
    axes[0].plot(time_s, bits_per_second, color=BLUE, lw=1.5)
    axes[0].set_ylim(0, 1.05 * float(np.max(bits_per_second)) or 1.0)
    label_axes(
        axes[0], "real codes, given what came before", "time from the start of the context (s)", "bits per second"
    )
    names = [*references, *(f"level {level}" for level in range(1, 1 + len(bits_per_level)) if len(bits_per_level) > 1)]
    values = [*references.values(), *(bits_per_level if len(bits_per_level) > 1 else [])]
    colours = [BLUE if name == "model" else GREY for name in references] + [GREEN] * (len(names) - len(references))
    axes[1].bar(range(len(names)), values, color=colours)
    axes[1].set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=9)
    label_axes(axes[1], "bits per token", "", "bits")
    styles = line_styles(list(usage))
    for name, share in usage.items():
        axes[2].loglog(
            1 + np.arange(len(share)), np.maximum(share, 1e-9), color=styles[name][0], ls=styles[name][1],
            label=line_word(name),
        )  # fmt: skip
    least, most = min(s[s > 0].min() for s in usage.values()), max(s.max() for s in usage.values())
    axes[2].set_ylim(max(1e-7, float(least) / 2), min(1.2, 2 * float(most)))
    label_axes(axes[2], "use of the codes", "rank of the code", "share of all codes")
    add_legend(axes[2])
    figure.suptitle(f"Codes, {source_text(source)}", fontsize=13)
    return save_figure(figure, path)


def _grid(n: int, width: float, height: float) -> tuple[Any, list[Any]]:
    columns = min(_MOST_COLUMNS, max(n, 1))
    rows = math.ceil(max(n, 1) / columns)
    figure, axes = new_figure(rows, columns, width=width * columns, height=height * rows + 0.7, squeeze=False)
    panels = list(axes.flat)
    for panel in panels[n:]:
        panel.set_axis_off()
    return figure, panels[: max(n, 1)]


def _contexts(n: int) -> str:
    return f"{n} context{'s' if n != 1 else ''}"


def _direction(metric: str) -> str:
    return "similarity (higher: nearer)" if metric.startswith("psd_corr") else "distance"
