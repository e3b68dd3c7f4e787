"""Figures of masked-patch reconstruction: example traces, spectra, error per channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

__all__ = ["error_per_channel", "example_traces", "spectra"]

_REAL, _GUESS, _HIDDEN = "#222222", "#d1495b", "#f3e3d3"
_PALETTE = ("#d1495b", "#7a7a7a", "#30638e", "#edae49", "#3a7d44", "#8f5ba8")


def example_traces(
    path: Path,
    real_uv: Float[np.ndarray, "channel patch time"],
    guess_uv: Float[np.ndarray, "channel patch time"],
    mask: Bool[np.ndarray, "channel patch"],
    ch_names: Sequence[str],
    sfreq_hz: float,
) -> Path:
    """One held-out window: the recording in black, hidden patches shaded with the reconstruction in colour (µV)."""
    n_channels, n_patches, n_time = real_uv.shape
    figure, axes = _figure(n_channels, (10.0, 1.1 * n_channels + 0.8), sharex=True)
    time = np.arange(n_patches * n_time) / sfreq_hz
    for row, axis in enumerate(axes):
        axis.plot(time, real_uv[row].reshape(-1), color=_REAL, lw=0.8, label="recorded")
        for patch in np.flatnonzero(mask[row]):
            inside = slice(patch * n_time, (patch + 1) * n_time)
            axis.axvspan(patch * n_time / sfreq_hz, (patch + 1) * n_time / sfreq_hz, color=_HIDDEN, lw=0)
            axis.plot(time[inside], guess_uv[row, patch], color=_GUESS, lw=1.2)
        axis.set_ylabel(ch_names[row], rotation=0, ha="right", va="center")
        axis.set_xlim(0, time[-1])
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("time in the window (s); amplitudes in µV")
    axes[0].plot([], [], color=_GUESS, label="reconstructed (hidden from the network)")
    axes[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=8)
    return _save(figure, path)


def spectra(
    path: Path,
    frequency_hz: Float[np.ndarray, " frequency"],
    real: Float[np.ndarray, " frequency"],
    guesses: Mapping[str, Float[np.ndarray, " frequency"]],
) -> Path:
    """Power of the hidden patches as recorded and as each method fills them in (µV²/Hz, log scale)."""
    figure, (axis,) = _figure(1, (7.0, 4.2))
    shown = slice(1, None)  # the mean of a patch is no oscillation
    axis.semilogy(frequency_hz[shown], real[shown], color=_REAL, lw=2, label="recorded")
    for (name, power), colour in zip(guesses.items(), _PALETTE, strict=False):
        axis.semilogy(frequency_hz[shown], np.maximum(power[shown], 1e-12), color=colour, lw=1.4, label=name)
    # Below a filter's stop band there is nothing to compare; five decades show everything a reader can judge.
    axis.set_ylim(real[shown].max() * 1e-5, real[shown].max() * 5)
    axis.set_xlabel("frequency (Hz)")
    axis.set_ylabel("power (µV²/Hz)")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return _save(figure, path)


def error_per_channel(
    path: Path, ch_names: Sequence[str], errors_uv2: Mapping[str, Float[np.ndarray, " channel"]]
) -> Path:
    """Mean squared error of every channel's hidden patches, one mark per method (µV², log scale)."""
    figure, (axis,) = _figure(1, (max(6.0, 0.3 * len(ch_names) + 2), 4.2))
    place = np.arange(len(ch_names))
    for (name, error), colour in zip(errors_uv2.items(), _PALETTE, strict=False):
        axis.plot(place, error, "o-", color=colour, ms=4, lw=0.8, label=name)
    axis.set_yscale("log")
    axis.set_xticks(place, ch_names, rotation=90, fontsize=8)
    axis.set_ylabel("mean squared error (µV²)")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    return _save(figure, path)


def _figure(rows: int, size: tuple[float, float], **kwargs: Any) -> tuple[Any, np.ndarray]:
    # A canvas of its own: pyplot would keep every figure of a long run alive and may ask for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, np.atleast_1d(figure.subplots(rows, 1, **kwargs))


def _save(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path
