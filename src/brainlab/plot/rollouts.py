"""Figures of free-running rollouts: how they drift from real continuations, and what they look like."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from brainlab.plot.figure import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    SEQUENTIAL,
    add_legend,
    label_axes,
    new_figure,
    save_figure,
    source_text,
)
from brainlab.types import DataSource

__all__ = [
    "coherence_panel",
    "covariance_matrices",
    "distance_violins",
    "divergence_curves",
    "effect_sizes",
    "example_traces",
    "power_spectra",
    "spectrograms",
    "token_panels",
    "window_metrics",
]

_REAL = "#111111"
_FIXED = {
    "correct": (BLUE, "-"),
    "target_swap": (ORANGE, "-"),
    "prompt_swap": (PINK, "-"),
    "real_real": (GREY, "--"),
    "own_context": (GREY, ":"),
    "tokenizer": (_REAL, ":"),
    "real": (_REAL, "-"),
    "model": (BLUE, "-"),
}
_OTHERS = ((GREEN, "-"), ("#56B4E9", "-"), ("#8c510a", "-"), ("#7b3294", "-"))
_WORDS = {
    "correct": "model, own continuation",
    "target_swap": "target swap",
    "prompt_swap": "prompt swap",
    "real_real": "real – real of another context",
    "own_context": "real context – its continuation",
    "tokenizer": "tokenizer's reconstruction",
    "real": "real",
    "training": "training",
    "model": "model",
}
_SHORT = {"correct": "model", "real_real": "real–real", "own_context": "own context"}
_MOST_COLUMNS = 3
_IN_HZ = ("psd_centroid",)
_MOST_VALUES = 4.0


def line_styles(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and dashes of each line: the same for the same name in every figure.

    >>> line_styles(["correct", "var"])["correct"] == ("#0072B2", "-")
    True
    """
    free = iter(_OTHERS * (1 + len(names) // len(_OTHERS)))
    return {name: _FIXED[name] if name in _FIXED else next(free) for name in names}


def _word(name: str) -> str:
    return _WORDS.get(name, f"baseline {name}")


def _short(name: str) -> str:
    return _SHORT.get(name, name.replace("_", " "))


def divergence_curves(
    path: Path,
    prefixes_s: Sequence[float],
    lines: Mapping[str, Mapping[str, Float[np.ndarray, "prefix context"]]],
    metrics: Mapping[str, str],
    source: DataSource,
    along: str = "length compared (s)",
) -> Path:
    """Distance to the real continuation against time: medians over contexts, quartiles as bands.

    Args:
        path: PNG to write.
        prefixes_s: lengths, or places in the continuation, in seconds.
        lines: line → metric → values; NaN where a line has no value.
        metrics: panels, in order: name and title.
        source: where the data came from.
        along: what the seconds are.
    """
    figure, panels = _grid(len(metrics), 4.3, 3.3)
    styles = line_styles(list(lines))
    for panel, (metric, title) in zip(panels, metrics.items(), strict=False):
        for name, values in lines.items():
            found = values.get(metric)
            if found is None or not np.isfinite(found).any():
                continue
            low, middle, high = _quartiles(found)
            colour, dashes = styles[name]
            panel.plot(prefixes_s, middle, color=colour, ls=dashes, marker="o", ms=4, label=_word(name))
            if name in ("correct", "target_swap"):
                panel.fill_between(prefixes_s, low, high, color=colour, alpha=0.15, lw=0)
        label_axes(panel, title, along, _direction(metric))
    _shared_legend(figure, panels)
    figure.suptitle(f"Distance of rollouts to real continuations, {source_text(source)}", fontsize=13)
    return save_figure(figure, path)


def distance_violins(
    path: Path,
    lines: Mapping[str, Mapping[str, Float[np.ndarray, " context"]]],
    metrics: Mapping[str, str],
    length_s: float,
    source: DataSource,
) -> Path:
    """Distances of single contexts at one length: a violin and every context as a dot, for each line."""
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
            if len(values) > 1 and np.ptp(values) > 0:
                body = panel.violinplot(values, positions=[place], widths=0.8, showextrema=False)["bodies"][0]
                body.set(facecolor=colour, alpha=0.25)
            jitter = generator.uniform(-0.12, 0.12, len(values))
            panel.plot(place + jitter, values, "o", color=colour, ms=3.5, alpha=0.8)
            panel.plot([place - 0.3, place + 0.3], [np.median(values)] * 2, color=colour, lw=2.5)
        panel.set_xticks(range(len(shown)), [_short(name) for name, _ in shown], rotation=35, ha="right", fontsize=9)
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
    figure, axis = new_figure(1, 1, width=7.6, height=1.6 + 0.24 * max(len(metrics), 1))
    styles = line_styles(controls)
    for row, metric in enumerate(metrics):
        for number, control in enumerate(controls):
            corrected = p[control].get(metric)
            share = better_than[control].get(metric, math.nan)
            sure = corrected is not None and corrected < 0.05
            colour = styles[control][0]
            y = row + 0.18 * (number - (len(controls) - 1) / 2)
            axis.plot(share, y, "o", ms=6, color=colour, mfc=colour if sure else "white")
    for control in controls:  # for the legend: filled, whatever the first dot is
        axis.plot([], [], "o", ms=6, color=styles[control][0], label=_word(control))
    axis.axvline(0.5, color=GREY, lw=1, ls="--")
    axis.set_yticks(range(len(metrics)), [labels[name] for name in metrics], fontsize=9)
    axis.set(xlim=(-0.03, 1.03), ylim=(len(metrics) - 0.4, -0.6))
    label_axes(
        axis,
        f"All distances over the first {length_s:g} s, {source_text(source)}",
        "share of contexts in which the model is nearer to its own continuation\n(filled: corrected p < 0.05)",
        "",
    )
    _shared_legend(figure, [axis])
    return save_figure(figure, path)


def power_spectra(
    path: Path,
    frequency_hz: Float[np.ndarray, " frequency"],
    spectra: Mapping[str, Float[np.ndarray, "example frequency"]],
    source: DataSource,
) -> Path:
    """Channel-mean power of real and generated continuations: medians, quartiles as bands (data unit²/Hz)."""
    figure, axis = new_figure(1, 1, width=7.4, height=4.6)
    styles = line_styles(list(spectra))
    for name, power in spectra.items():
        low, middle, high = _quartiles(np.maximum(power, 1e-30).T)
        colour, dashes = styles[name]
        axis.semilogy(frequency_hz, middle, color=colour, ls=dashes, lw=2, label=_word(name))
        if name in ("real", "model"):
            axis.fill_between(frequency_hz, low, high, color=colour, alpha=0.15, lw=0)
    real = spectra.get("real")
    if real is not None and np.median(real, axis=0).max() > 0:
        middle = np.median(real, axis=0)
        axis.set_ylim(max(middle.min() / 30, middle.max() * 1e-8), middle.max() * 30)
    label_axes(axis, f"Power spectra, {source_text(source)}", "frequency (Hz)", "power density (data unit²/Hz)")
    add_legend(axis)
    return save_figure(figure, path)


def covariance_matrices(
    path: Path, matrices: Mapping[str, Float[np.ndarray, "channel channel"]], source: DataSource
) -> Path:
    """Mean channel covariance, real and generated, on one colour scale."""
    n = len(matrices)
    figure, axes = new_figure(1, n, width=3.5 * n + 0.8, height=3.7, squeeze=False)
    real = next(iter(matrices.values()))
    limit = float(np.quantile(np.abs(real), 0.99)) or 1.0
    image: Any = None
    for axis, (name, matrix) in zip(axes[0], matrices.items(), strict=True):
        image = axis.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.set_title(_word(name), fontsize=11)
    figure.colorbar(image, ax=axes[0].tolist(), shrink=0.8, label="covariance")
    figure.suptitle(f"Covariance of the channels, {source_text(source)}", fontsize=13)
    return save_figure(figure, path)


def coherence_panel(
    path: Path,
    frequency_hz: Float[np.ndarray, " frequency"],
    spectra: Mapping[str, Float[np.ndarray, " frequency"]],
    matrices: Mapping[str, Float[np.ndarray, "channel channel"]],
    band: str,
    source: DataSource,
) -> Path:
    """Magnitude-squared coherence: mean over channel pairs by frequency, and every pair in one band."""
    n = len(matrices)
    figure, axes = new_figure(1, 1 + n, width=5.2 + 3.3 * n, height=3.9, width_ratios=[1.5, *[1] * n], squeeze=False)
    styles = line_styles(list(spectra))
    for name, values in spectra.items():
        axes[0, 0].plot(frequency_hz, values, color=styles[name][0], ls=styles[name][1], lw=2, label=_word(name))
    axes[0, 0].set_ylim(0, None)
    label_axes(axes[0, 0], "mean over pairs of channels", "frequency (Hz)", "coherence")
    add_legend(axes[0, 0])
    image: Any = None
    for axis, (name, matrix) in zip(axes[0, 1:], matrices.items(), strict=True):
        image = axis.imshow(matrix, cmap=SEQUENTIAL, vmin=0, vmax=1, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"{_word(name)}, {band}", fontsize=11)
    if image is not None:
        figure.colorbar(image, ax=axes[0, 1:].tolist(), shrink=0.8, label="coherence")
    figure.suptitle(f"Coherence of the channels, {source_text(source)}", fontsize=13)
    return save_figure(figure, path)


def example_traces(
    path: Path,
    context: Float[np.ndarray, "example channel before"],
    real: Float[np.ndarray, "example channel after"],
    generated: Mapping[str, Float[np.ndarray, "example channel after"]],
    sfreq_hz: float,
    titles: Sequence[str],
    channels: Sequence[str],
    source: DataSource,
) -> Path:
    """Contexts and what follows them: the recording on top, below it one row for each method, on the same scale.

    Args:
        path: PNG to write.
        context: end of each context, few channels.
        real: its real continuation.
        generated: method → continuation.
        sfreq_hz: sampling rate.
        titles: of the examples.
        channels: names of the channels.
        source: where the data came from.
    """
    rows = {"real": real, **generated}
    n = len(context)
    figure, axes = new_figure(len(rows), n, width=5.4 * n, height=2.0 * len(rows) + 0.6, squeeze=False, sharex=True)
    styles = line_styles(list(rows))
    before = np.arange(-context.shape[-1], 0) / sfreq_hz
    after = np.arange(real.shape[-1]) / sfreq_hz
    step = 2.5 * max(float(np.quantile(np.abs(real), 0.98)), 1e-12)
    for row, (name, values) in enumerate(rows.items()):
        for column in range(n):
            axis = axes[row, column]
            for channel in range(real.shape[1]):
                shift = -step * channel
                axis.plot(before, context[column, channel] + shift, color=GREY, lw=0.7)
                shown = np.clip(values[column, channel], -_MOST_VALUES * step, _MOST_VALUES * step)
                axis.plot(after, shown + shift, color=styles[name][0], lw=0.8)
            axis.axvline(0, color=GREY, lw=0.8, ls="--")
            axis.set(ylim=(-step * (real.shape[1] - 0.2), 0.9 * step))
            axis.set_yticks(-step * np.arange(real.shape[1]), channels if column == 0 else [], fontsize=8)
            if row == 0:
                axis.set_title(titles[column], fontsize=11)
            if column == 0:
                axis.set_ylabel(_word(name), fontsize=11)
            if row == len(rows) - 1:
                axis.set_xlabel("time after the context (s)")
    spacing = f"channels are {step:.2g} data units apart"
    figure.suptitle(f"Continuations of the same contexts, {source_text(source)} ({spacing})", fontsize=13)
    return save_figure(figure, path)


def spectrograms(
    path: Path,
    signals: Mapping[str, Float[np.ndarray, " time"]],
    sfreq_hz: float,
    context_s: float,
    title: str,
    source: DataSource,
) -> Path:
    """Short-time power of one channel, context and continuation, for the recording and each method (dB)."""
    from scipy.signal import spectrogram

    figure, axes = new_figure(len(signals), 1, width=8.4, height=2.0 * len(signals) + 0.8, squeeze=False, sharex=True)
    limits: tuple[float, float] | None = None
    image: Any = None
    for axis, (name, signal) in zip(axes[:, 0], signals.items(), strict=True):
        n = max(8, min(round(sfreq_hz), len(signal)))
        frequency, time, power = spectrogram(signal, sfreq_hz, nperseg=n, noverlap=int(0.75 * n))
        level = 10 * np.log10(np.maximum(power, 1e-30))
        if limits is None:
            limits = (float(np.quantile(level, 0.05)), float(np.quantile(level, 0.99)))
        image = axis.pcolormesh(
            time - context_s, frequency, level, cmap=SEQUENTIAL, vmin=limits[0], vmax=limits[1], rasterized=True
        )
        axis.axvline(0, color="white", lw=1.2, ls="--")
        axis.set_ylabel("Hz")
        axis.set_title(_word(name), fontsize=11)
    axes[-1, 0].set_xlabel("time after the context (s)")
    figure.colorbar(image, ax=axes[:, 0].tolist(), label="power (dB)")
    figure.suptitle(f"{title}, {source_text(source)}", fontsize=13)
    return save_figure(figure, path)


def window_metrics(
    path: Path,
    times_s: Sequence[float],
    quantiles: Mapping[str, Mapping[str, Float[np.ndarray, "quantile window"]]],
    features: Sequence[str],
    labels: Mapping[str, str],
    outside: Mapping[str, Mapping[str, float]],
    source: DataSource,
) -> Path:
    """Statistics of sliding windows: medians, with the real 5–95 % range as a band.

    Args:
        path: PNG to write.
        times_s: middle of each window after the context.
        quantiles: line → feature → the 5, 25, 50, 75 and 95 % quantiles over examples.
        features: panels, in order.
        labels: how each feature is called.
        outside: line → feature → share of values outside the range of the other real contexts, also of the real
            ones; the last panel shows all features.
        source: where the data came from.
    """
    figure, panels = _grid(len(features) + 1, 4.3, 3.2)
    styles = line_styles(list(quantiles))
    for panel, feature in zip(panels, features, strict=False):
        for name, values in quantiles.items():
            found = values.get(feature)
            if found is None or not np.isfinite(found).any():
                continue
            colour, dashes = styles[name]
            marker = "o" if len(times_s) == 1 else None
            panel.plot(times_s, found[2], color=colour, ls=dashes, marker=marker, label=_word(name))
            if name in ("real", "model"):
                if len(times_s) == 1:
                    panel.vlines(times_s, found[0], found[4], color=colour, alpha=0.5)
                panel.fill_between(times_s, found[0], found[4], color=colour, alpha=0.12, lw=0)
        label_axes(panel, labels[feature], "middle of the window (s)", "Hz" if feature in _IN_HZ else "")
    bars = panels[len(features)]
    names = list(next(iter(outside.values()))) if outside else []
    height = 0.8 / max(len(outside), 1)
    for number, (line, rates) in enumerate(outside.items()):
        bars.barh(
            np.arange(len(names)) + height * (number - (len(outside) - 1) / 2),
            [rates[name] for name in names],
            height=height,
            color=styles.get(line, (BLUE, "-"))[0],
            label=_word(line),
        )
    bars.set_yticks(range(len(names)), [labels[name] for name in names], fontsize=7)
    bars.invert_yaxis()
    label_axes(bars, "outside the 5–95 % of\nthe other real contexts", "share of values", "")
    _shared_legend(figure, panels)
    figure.suptitle(f"Statistics of sliding windows, {source_text(source)}", fontsize=13)
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
    axes[0].set_ylim(0, None)
    label_axes(
        axes[0], "real codes, given what came before", "time from the start of the context (s)", "bits per second"
    )
    names = [*references, *(f"level {level}" for level in range(len(bits_per_level)) if len(bits_per_level) > 1)]
    values = [*references.values(), *(bits_per_level if len(bits_per_level) > 1 else [])]
    colours = [BLUE if name == "model" else GREY for name in references] + [GREEN] * (len(names) - len(references))
    axes[1].bar(range(len(names)), values, color=colours)
    axes[1].set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=9)
    label_axes(axes[1], "bits per token", "", "bits")
    styles = line_styles(list(usage))
    for name, share in usage.items():
        axes[2].loglog(
            1 + np.arange(len(share)), np.maximum(share, 1e-9), color=styles[name][0], ls=styles[name][1],
            label=_word(name),
        )  # fmt: skip
    axes[2].set_ylim(max(1e-7, min(float(s[s > 0].min()) for s in usage.values()) / 2), 1.2)
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


def _quartiles(values: Float[np.ndarray, "point example"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    kept = np.where(np.isfinite(values), values, np.nan)
    out = np.full((3, len(kept)), np.nan)
    some = np.isfinite(kept).any(axis=1)
    out[:, some] = np.nanquantile(kept[some], [0.25, 0.5, 0.75], axis=1)
    return out[0], out[1], out[2]


def _direction(metric: str) -> str:
    return "similarity (higher: nearer)" if metric.startswith("psd_corr") else "distance"


def _shared_legend(figure: Any, panels: Sequence[Any]) -> None:
    found: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=11)
