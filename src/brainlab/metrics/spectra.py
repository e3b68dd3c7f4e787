"""Frequency grids, bands and the small formulas that compare two spectra.

One second of signal gives one spectrum: Welch's power and the cross spectra step by half a second, the short-time
transform by a quarter. Shorter signals use one segment of their own length.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from brainlab.errors import InvalidValue

__all__ = [
    "BANDS",
    "Grid",
    "band_shares",
    "jensen_shannon",
    "log_slope",
    "mean_of_defined",
    "pearson",
    "ratio_difference",
]

#: Lower edge (inclusive) and upper edge (exclusive) in Hz.
BANDS: dict[str, tuple[float, float]] = {
    "delta": (1.0, 4.0),
    "theta": (4.0, 8.0),
    "alpha": (8.0, 13.0),
    "beta": (13.0, 30.0),
    "gamma": (30.0, 45.0),
}


@dataclass(frozen=True)
class Grid:
    """Segments, frequencies and time scales for signals of ``n_time`` samples.

    ``fmin_hz`` and ``fmax_hz`` are both inclusive; ``fmax_hz`` null means 0.95 of the Nyquist frequency.

    Raises:
        InvalidValue: if the signal is shorter than 8 samples, or no frequency lies in the range.
    """

    sfreq_hz: float
    n_time: int
    fmin_hz: float = 0.5
    fmax_hz: float | None = None

    def __post_init__(self) -> None:
        if not self.sfreq_hz > 0:
            raise InvalidValue("sfreq_hz", self.sfreq_hz, "expected a positive sampling rate in Hz")
        if self.n_time < 8:
            raise InvalidValue("n_time", self.n_time, "expected at least 8 samples")
        if self.kept.stop <= self.kept.start:
            raise InvalidValue(
                "fmax_hz",
                self.fmax_hz,
                f"expected a frequency between fmin_hz={self.fmin_hz} and {self.sfreq_hz / 2:g} Hz",
            )

    @cached_property
    def n_segment(self) -> int:
        """Samples of a segment: one second, at least 8, at most the signal."""
        return min(max(8, round(self.sfreq_hz)), self.n_time)

    @cached_property
    def welch_step(self) -> int:
        """Samples between segments of Welch's spectrum and of the coherence (50 % overlap)."""
        return self.n_segment - self.n_segment // 2

    @cached_property
    def stft_step(self) -> int:
        """Samples between frames of the short-time transform (75 % overlap)."""
        return self.n_segment - int(0.75 * self.n_segment)

    @cached_property
    def window(self) -> Float[np.ndarray, " segment"]:
        """Periodic Hann window."""
        return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.n_segment) / self.n_segment)).astype(np.float32)

    @cached_property
    def kept(self) -> slice:
        """Bins of a segment's spectrum within [fmin_hz, fmax_hz]."""
        frequencies = np.fft.rfftfreq(self.n_segment, 1 / self.sfreq_hz)
        top = 0.95 * self.sfreq_hz / 2 if self.fmax_hz is None else self.fmax_hz
        (inside,) = np.nonzero((frequencies >= self.fmin_hz) & (frequencies <= top))
        return slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0)

    @cached_property
    def frequencies(self) -> Float[np.ndarray, " frequency"]:
        """Frequencies within the range, Hz."""
        return np.fft.rfftfreq(self.n_segment, 1 / self.sfreq_hz)[self.kept]

    @cached_property
    def bands(self) -> dict[str, Bool[np.ndarray, " frequency"]]:
        """Which of the kept frequencies belong to each band."""
        return {name: (self.frequencies >= low) & (self.frequencies < high) for name, (low, high) in BANDS.items()}

    @cached_property
    def density(self) -> Float[np.ndarray, " frequency"]:
        """What turns a segment's |spectrum|² into a one-sided power density (unit²/Hz)."""
        scale = np.full(self.n_segment // 2 + 1, 2.0 / (self.sfreq_hz * float(np.square(self.window).sum())))
        scale[0] /= 2
        if self.n_segment % 2 == 0:
            scale[-1] /= 2
        return scale[self.kept]

    @cached_property
    def scales(self) -> Int[np.ndarray, " scale"]:
        """Time scales in samples: up to 8, log-spaced from 0.1 s to 2 s or half of the signal."""
        low = max(int(0.1 * self.sfreq_hz), 1)
        high = min(int(2 * self.sfreq_hz), self.n_time // 2)
        if high <= low:
            return np.array([], dtype=np.int64)
        return np.unique(np.round(np.geomspace(low, high, 8)).astype(np.int64))

    def n_segments(self, n_time: int) -> int:
        """Welch segments that fit into the first ``n_time`` samples."""
        return max(0, (n_time - self.n_segment) // self.welch_step + 1)

    def n_frames(self, n_time: int) -> int:
        """Short-time frames that fit into the first ``n_time`` samples."""
        return max(0, (n_time - self.n_segment) // self.stft_step + 1)


def mean_of_defined(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Mean over the entries that are numbers; NaN where none is.

    A flat channel has no correlation and no spectral shape: it is left out of a mean over channels.

    >>> mean_of_defined(np.array([[1.0, np.nan], [np.nan, np.nan]]), axis=1)
    array([ 1., nan])
    """
    defined = ~np.isnan(values)
    count = defined.sum(axis=axis)
    total = np.where(defined, values, 0.0).sum(axis=axis, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def log_slope(y: Float[np.ndarray, "*batch point"], x: Float[np.ndarray, " point"]) -> Float[np.ndarray, "*batch"]:
    """Least-squares slope of ln y over ln x; NaN with fewer than two points or where a value is not positive."""
    if len(x) < 2:
        return np.full(y.shape[:-1], np.nan)
    centred = np.log(x) - np.log(x).mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.log(y) @ centred / np.square(centred).sum()
    return np.where(np.isfinite(slope), slope, np.nan)


def band_shares(psd: Float[np.ndarray, "*batch frequency"], grid: Grid) -> Float[np.ndarray, "*batch band"]:
    """Trapezoidal power of each band over that of the whole range; 0 for an empty band, NaN for a silent channel."""
    total = np.trapezoid(psd, grid.frequencies)
    parts = [np.trapezoid(psd[..., inside], grid.frequencies[inside]) for inside in grid.bands.values()]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack(parts, axis=-1) / total[..., None]


def jensen_shannon(
    a: Float[np.ndarray, "*batch bin"], b: Float[np.ndarray, "*batch bin"]
) -> Float[np.ndarray, "*batch"]:
    """Square root of the Jensen–Shannon divergence of two spectra that are first normalised to sum 1; 0 … 1.

    NaN where one of them is silent or has no bin.

    Source: Endres and Schindelin (2003), with the base that makes the largest distance 1.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        p, q = a / a.sum(axis=-1, keepdims=True), b / b.sum(axis=-1, keepdims=True)
        middle = 0.5 * (p + q)
        divergence = 0.5 * (_entropy_terms(p, middle) + _entropy_terms(q, middle)).sum(axis=-1)
        distance = np.sqrt(np.maximum(divergence, 0.0) / np.log(2.0))
    return distance if a.shape[-1] else np.full(a.shape[:-1], np.nan)


def pearson(a: Float[np.ndarray, "*batch bin"], b: Float[np.ndarray, "*batch bin"]) -> Float[np.ndarray, "*batch"]:
    """Correlation over the last axis; NaN where one side does not vary."""
    if a.shape[-1] < 2:
        return np.full(a.shape[:-1], np.nan)
    a, b = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (a * b).sum(axis=-1) / np.sqrt(np.square(a).sum(axis=-1) * np.square(b).sum(axis=-1))


def ratio_difference(a: Float[np.ndarray, "*batch"], b: Float[np.ndarray, "*batch"]) -> Float[np.ndarray, "*batch"]:
    """|a − b| over their mean, at most 1 (a mean below 1e-6 counts as 1e-6)."""
    return np.minimum(1.0, np.abs(a - b) / np.maximum(0.5 * (a + b), 1e-6))


def _entropy_terms(p: np.ndarray, middle: np.ndarray) -> np.ndarray:
    return np.where(p == 0, 0.0, p * np.log(np.where(p == 0, 1.0, p) / np.where(middle == 0, 1.0, middle)))
