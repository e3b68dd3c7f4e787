"""Figures of tokenizers: signals before and after coding, their spectra, and which codes are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from brainlab.plot.figure import BLUE, GREEN, GREY, ORANGE, PINK, add_legend, label_axes, new_figure, save_figure

__all__ = ["code_use", "coded_spectra", "coded_traces"]

_RECORDED, _COLOURS = "#222222", (ORANGE, BLUE, GREEN, PINK, GREY)


def coded_traces(
    path: Path,
    real: Float[np.ndarray, "channel time"],
    coded: Float[np.ndarray, "channel time"],
    ch_names: Sequence[str],
    sfreq_hz: float,
    title: str,
) -> Path:
    """Channels of one window as recorded and as they come back, one below the other (units of the prepared data)."""
    figure, axes = new_figure(len(real), 1, 10.0, 1.05 * len(real) + 1.2, sharex=True, squeeze=False)
    time = np.arange(real.shape[-1]) / sfreq_hz
    for axis, name, before, after in zip(axes[:, 0], ch_names, real, coded, strict=True):
        axis.plot(time, before, color=_RECORDED, lw=1.0, label="recorded")
        axis.plot(time, after, color=ORANGE, lw=1.2, label="from codes")
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
        axis.set_xlim(0, time[-1])
    axes[0, 0].set_title(title, loc="left")
    axes[0, 0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=10)
    axes[-1, 0].set_xlabel("time in the window (s); amplitudes in units of the prepared data")
    return save_figure(figure, path)


def coded_spectra(
    path: Path,
    frequency_hz: Float[np.ndarray, " frequency"],
    power: Mapping[str, Float[np.ndarray, " frequency"]],
    coherence: Mapping[str, Float[np.ndarray, " frequency"]],
    title: str,
) -> Path:
    """Left: power density, channel mean (the first entry is the recording). Right: coherence with the recording."""
    figure, (left, right) = new_figure(1, 2, 11.0, 4.4)
    for (name, values), colour in zip(power.items(), (_RECORDED, *_COLOURS), strict=False):
        left.semilogy(frequency_hz, np.maximum(values, 1e-12), color=colour, lw=1.8, label=name)
    highest = max(float(values.max()) for values in power.values())
    # Below a filter's stop band there is nothing to compare; five decades show everything a reader can judge.
    left.set_ylim(highest * 1e-5, highest * 3)
    label_axes(left, title, "frequency (Hz)", "power (units²/Hz)")
    add_legend(left)
    for (name, values), colour in zip(coherence.items(), _COLOURS, strict=False):
        right.plot(frequency_hz, values, color=colour, lw=1.8, label=name)
    right.set_ylim(0, 1.02)
    label_axes(right, "what survives, by frequency", "frequency (Hz)", "coherence with the recording")
    add_legend(right)
    return save_figure(figure, path)


def code_use(path: Path, shares: Float[np.ndarray, "level code"], title: str) -> Path:
    """Share of every code, most frequent first, one line per level; equal use is the dashed line."""
    figure, axis = new_figure(width=7.0, height=4.4)
    n_codes = shares.shape[1]
    for level, share in enumerate(shares):
        ranked = np.sort(share)[::-1]
        used = np.flatnonzero(ranked > 0)
        axis.loglog(used + 1, ranked[used], color=_COLOURS[level % len(_COLOURS)], lw=1.8, label=f"level {level + 1}")
    axis.axhline(1 / n_codes, color=GREY, ls="--", lw=1.2, label="all codes alike")
    axis.set_xlim(1, n_codes)
    label_axes(axis, title, "code, most frequent first", "share of the vectors")
    add_legend(axis)
    return save_figure(figure, path)
