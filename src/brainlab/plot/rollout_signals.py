"""Figures of free-running rollouts as signals: spectra, covariance, coherence, traces and spectrograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from brainlab.plot.figure import GREY, SEQUENTIAL, label_axes, new_figure, save_figure, source_text
from brainlab.plot.rollout_lines import FEW, draw_spread, line_styles, line_word, quartiles, shared_legend, spread_text
from brainlab.types import DataSource

__all__ = ["coherence_panel", "covariance_matrices", "example_traces", "power_spectra", "spectrograms"]

_SPREAD = ("real", "model")  # of all lines, or nothing could be told apart
_MOST_VALUES = 4.0
_FAR = 30.0  # a line this many times above or below everything real does not set the limits


def power_spectra(
    path: Path,
    frequency_hz: Float[np.ndarray, " frequency"],
    spectra: Mapping[str, Float[np.ndarray, "context frequency"]],
    source: DataSource,
    band_hz: tuple[float, float] = (0.0, np.inf),
) -> Path:
    """Channel-mean power of real and generated continuations: medians, spread of real and model (data unit²/Hz).

    Args:
        path: PNG to write.
        frequency_hz: of the spectra.
        spectra: line → power.
        source: where the data came from.
        band_hz: frequencies whose power sets the limits; beyond them filters take it away.
    """
    figure, axis = new_figure(1, 1, width=7.4, height=5.0)
    styles = line_styles(list(spectra))
    floored = {name: np.maximum(power, 1e-30).T for name, power in spectra.items()}
    medians = {name: quartiles(values)[1] for name, values in floored.items()}
    drawn = {
        name: _with_spread(floored[name]) if name in _SPREAD else median[:, None] for name, median in medians.items()
    }
    limits = _power_limits({name: each[_inside(frequency_hz, band_hz)] for name, each in drawn.items()})
    spread = {}
    for name, median in medians.items():
        colour, dashes = styles[name]
        seen = limits is None or ((median > limits[0]) & (median < limits[1])).any()
        label = line_word(name) if seen else f"{line_word(name)} (off the scale)"
        axis.semilogy(frequency_hz, median, color=colour, ls=dashes, lw=2, label=label)
        if name in _SPREAD:
            spread[name] = draw_spread(axis, frequency_hz, floored[name], colour)
    axis.set_ylim(limits)
    n = max(len(power) for power in spectra.values())
    label_axes(
        axis,
        f"Power spectra, {source_text(source)}\n{spread_text(n, spread)}",
        "frequency (Hz)",
        "power density (data unit²/Hz)",
    )
    shared_legend(figure, [axis], columns=3)
    return save_figure(figure, path)


def covariance_matrices(
    path: Path, matrices: Mapping[str, Float[np.ndarray, "channel channel"]], source: DataSource
) -> Path:
    """Mean channel covariance, real and generated, on one colour scale."""
    n = len(matrices)
    figure, axes = new_figure(1, n, width=3.5 * n + 0.8, height=3.7, squeeze=False)
    real = next(iter(matrices.values()))
    limit = float(np.quantile(np.abs(real), 0.99)) or 1.0
    _draw_matrices(axes[0], {line_word(name): each for name, each in matrices.items()}, "covariance", -limit, limit)
    figure.suptitle(f"Covariance of the channels, {source_text(source)}", fontsize=13)
    return save_figure(figure, path)


def coherence_panel(
    path: Path,
    frequency_hz: Float[np.ndarray, " frequency"],
    spectra: Mapping[str, Float[np.ndarray, " frequency"]],
    matrices: Mapping[str, Float[np.ndarray, "channel channel"]],
    band: str,
    source: DataSource,
    band_hz: tuple[float, float] = (0.0, np.inf),
) -> Path:
    """Magnitude-squared coherence: mean over channel pairs by frequency, and every pair in one band.

    Args:
        path: PNG to write.
        frequency_hz: of the spectra.
        spectra: line → mean over pairs.
        matrices: line → coherence of every pair within ``band``.
        band: its name.
        source: where the data came from.
        band_hz: frequencies whose coherence sets the limits.
    """
    n = len(matrices)
    figure, axes = new_figure(1, 1 + n, width=5.2 + 3.3 * n, height=4.2, width_ratios=[1.5, *[1] * n], squeeze=False)
    styles = line_styles(list(spectra))
    for name, values in spectra.items():
        axes[0, 0].plot(frequency_hz, values, color=styles[name][0], ls=styles[name][1], lw=2, label=line_word(name))
    shown = np.concatenate([values[_inside(frequency_hz, band_hz)] for values in spectra.values()])
    if np.isfinite(shown).any():
        margin = 0.02 + 0.05 * np.ptp(shown[np.isfinite(shown)])
        axes[0, 0].set_ylim(max(0.0, np.nanmin(shown) - margin), min(1.0, np.nanmax(shown) + margin))
    label_axes(axes[0, 0], "mean over pairs of channels", "frequency (Hz)", "coherence")
    shared_legend(figure, axes[0, :1], columns=5)
    titled = {f"{line_word(name)}, {band}": each for name, each in matrices.items()}
    _draw_matrices(axes[0, 1:], titled, "coherence", 0.0, 1.0)
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
                axis.set_ylabel(line_word(name), fontsize=11)
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
        axis.set_title(line_word(name), fontsize=11)
    axes[-1, 0].set_xlabel("time after the context (s)")
    figure.colorbar(image, ax=axes[:, 0].tolist(), label="power (dB)")
    figure.suptitle(f"{title}, {source_text(source)}", fontsize=13)
    return save_figure(figure, path)


def _draw_matrices(
    axes: np.ndarray, titled: Mapping[str, Float[np.ndarray, "channel channel"]], quantity: str, low: float, high: float
) -> None:
    """One matrix of channel pairs on each axis, all on one colour scale; none where there is none."""
    colours = SEQUENTIAL if low >= 0 else "RdBu_r"
    image: Any = None
    for axis, (title, matrix) in zip(axes, titled.items(), strict=True):
        image = axis.imshow(matrix, cmap=colours, vmin=low, vmax=high, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.set_title(title, fontsize=11)
    if image is not None:
        image.figure.colorbar(image, ax=axes.tolist(), shrink=0.8, label=quantity)


def _with_spread(values: Float[np.ndarray, "frequency context"]) -> Float[np.ndarray, "frequency drawn"]:
    """What is drawn of a line: its contexts where they are few, else median and quartiles."""
    return values if values.shape[1] < FEW else np.stack(quartiles(values), axis=1)


def _power_limits(drawn: Mapping[str, Float[np.ndarray, "frequency _"]]) -> tuple[float, float] | None:
    """What the lines span, but for values far from everything real; None where nothing real varies."""
    real = drawn.get("real", np.zeros(1))
    if real.max() <= 1e-30:
        return None
    least, most = max(real.min() / _FAR, real.max() * 1e-8), real.max() * _FAR
    values = np.concatenate([each.reshape(-1) for each in drawn.values()])
    near = values[(values >= least) & (values <= most)]
    return float(near.min()) / 2, float(near.max()) * 2


def _inside(
    frequency_hz: Float[np.ndarray, " frequency"], band_hz: tuple[float, float]
) -> Bool[np.ndarray, " frequency"]:
    """Which frequencies lie in the band; all where none does."""
    inside = (frequency_hz >= band_hz[0]) & (frequency_hz < band_hz[1])
    return inside if inside.any() else np.ones(len(frequency_hz), bool)
