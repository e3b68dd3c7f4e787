"""Everything the rollout metrics need to know of a signal, computed once per signal and shared by growing prefixes.

A :class:`brainlab.metrics.course.Course` walks through one signal and keeps running sums at the ends of the wanted
prefixes: powers of the samples, products between channels and with lagged copies, segment spectra and cross spectra. A
prefix then costs a look-up, not a pass. What has no running form (the spectrum of a whole prefix, sorted magnitudes,
the share of samples beyond three standard deviations) is computed for each prefix when it is asked for.
:class:`Features` is a batch of signals at one prefix.

The full signal is a prefix of itself: there is one way through both files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, Int
from threadpoolctl import ThreadpoolController

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.metrics.course import Course, Polar
from brainlab.metrics.spectra import Grid, band_shares, log_slope, mean_of_defined

__all__ = ["Features", "available_workers", "features", "in_threads", "prefix_features"]

_T = TypeVar("_T")


class Features:
    """A batch of signals at one prefix; every property is computed when first asked for, and then kept.

    ``courses`` is one object for all prefixes that share running sums.

    Per-channel values are (signal, channel) and NaN where a channel does not define them (a flat channel).
    """

    def __init__(self, courses: Sequence[Course], prefix: int, workers: int) -> None:
        self.courses, self._prefix, self.workers = courses, prefix, workers
        self.grid = courses[0].grid
        self.n_time = int(courses[0].ends[prefix])
        self._sorted: dict[tuple[str, int], np.ndarray] = {}
        self._magnitude: dict[tuple[str, int], np.ndarray] = {}
        self._fft: dict[int, Polar] = {}

    def __len__(self) -> int:
        return len(self.courses)

    @property
    def n_channels(self) -> int:
        """Channels of every signal."""
        return len(self.courses[0].signal)

    def signal(self, index: int) -> Float[np.ndarray, "channel time"]:
        """The samples of one signal."""
        return self.courses[index].signal[:, : self.n_time]

    def centred(self, index: int) -> Float[np.ndarray, "channel time"]:
        """The samples of one signal minus :attr:`level`, times :attr:`gain`."""
        return self.courses[index].centred[:, : self.n_time]

    @cached_property
    def gain(self) -> Float[np.ndarray, " signal"]:
        """Power of two that brings each signal near 1."""
        return np.array([course.gain for course in self.courses])

    @cached_property
    def level(self) -> Float[np.ndarray, "signal channel"]:
        """What :meth:`centred` subtracts: the mean of the longest prefix."""
        return np.stack([course.offset for course in self.courses])

    @property
    def remaining_mean(self) -> Float[np.ndarray, "signal channel"]:
        """Mean over this prefix of the samples minus :attr:`level`."""
        return self._powers[0]

    def _gather(self, pick: Callable[[Course], np.ndarray]) -> np.ndarray:
        return np.stack(in_threads(pick, self.courses, self.workers))

    @cached_property
    def _sums(self) -> list[tuple[np.ndarray, ...]]:
        return in_threads(lambda course: course.sums, self.courses, self.workers)

    def _sum(self, which: int) -> np.ndarray:
        return np.stack([sums[which][self._prefix] for sums in self._sums])

    @cached_property
    def _powers(self) -> Float[np.ndarray, "power signal channel"]:
        return np.stack([sums[0][:, self._prefix] for sums in self._sums], axis=1) / self.n_time

    @cached_property
    def deviation(self) -> Float[np.ndarray, "signal channel"]:
        """Population standard deviation; exactly 0 for a flat channel."""
        mean, square = self._powers[0], self._powers[1]
        variance = square - mean * mean
        # What is left of a constant after rounding is not a deviation.
        return np.sqrt(np.where(variance > 1e-24 * (square + np.square(self.level)), variance, 0.0))

    @cached_property
    def covariance(self) -> Float[np.ndarray, "signal channel channel"]:
        """Unbiased covariance of the channels."""
        mean = self._powers[0]
        centred = self._sum(1) - self.n_time * mean[:, :, None] * mean[:, None, :]
        return centred / (self.n_time - 1)

    @cached_property
    def spatial_connectivity(self) -> Float[np.ndarray, " signal"]:
        """Mean |correlation| over pairs of channels; NaN for a single channel."""
        scale = self.deviation * np.sqrt(self.n_time / (self.n_time - 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            correlation = np.abs(self.covariance / (scale[:, :, None] * scale[:, None, :]))
        flat = scale == 0
        correlation[flat[:, :, None] | flat[:, None, :]] = np.nan
        return mean_of_defined(correlation[:, ~np.eye(self.n_channels, dtype=bool)], axis=-1)

    @cached_property
    def amplitude_kurtosis(self) -> Float[np.ndarray, "signal channel"]:
        """Excess kurtosis, m4 / m2² − 3."""
        mean, second, third, fourth = self._powers
        central = fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.deviation > 0, central / self.deviation**4 - 3.0, np.nan)

    @cached_property
    def amplitude_tail_fraction(self) -> Float[np.ndarray, "signal channel"]:
        """Share of samples with |x| > 3σ; x is not centred."""
        limits = 3 * self.deviation

        def share(index: int) -> np.ndarray:
            x = self.signal(index)
            x = x if x.dtype.kind == "f" else x.astype(np.float64)  # |−128| is no int8
            limit = limits[index].astype(x.dtype)
            return np.count_nonzero(np.abs(x) > limit[:, None], axis=-1) / self.n_time

        return np.stack(in_threads(share, range(len(self)), self.workers))

    @cached_property
    def psd(self) -> Float[np.ndarray, "signal channel frequency"]:
        """Welch's power density within the range, unit²/Hz."""
        return self._gather(lambda course: course.psd[self._prefix])

    @cached_property
    def bandpower_ratios(self) -> Float[np.ndarray, "signal channel band"]:
        """Share of each band in the power of the range."""
        return band_shares(self.psd, self.grid)

    @cached_property
    def one_over_f_exponent(self) -> Float[np.ndarray, "signal channel"]:
        """−slope of log power over log frequency (frequencies above 0)."""
        positive = self.grid.frequencies > 0
        return -log_slope(self.psd[..., positive], self.grid.frequencies[positive])

    @cached_property
    def dfa_exponent(self) -> Float[np.ndarray, "signal channel"]:
        """Exponent of detrended fluctuation analysis (Peng et al., 1994): slope of ln F over ln scale."""
        slope = log_slope(np.sqrt(self._sum(4)), self.grid.scales)
        return np.where(self.deviation > 0, slope, np.nan)

    @cached_property
    def hurst_exponent(self) -> Float[np.ndarray, "signal channel"]:
        """Diffusion exponent: slope of ln std(x[t + τ] − x[t]) over ln τ. A Hurst exponent only of a random walk."""
        counts = self.n_time - self.grid.scales
        variance = self._sum(3) / counts - np.square(self._sum(2) / counts)
        slope = log_slope(np.sqrt(np.maximum(variance, 0.0)), self.grid.scales)
        return np.where(self.deviation > 0, slope, np.nan)

    def coherence(self, index: int) -> Float[np.ndarray, "frequency pair"]:
        """Coherence of one signal's pairs of channels within the range."""
        return self.courses[index].coherence[self._prefix]

    def stft(self, index: int, after: int = 0) -> Polar:
        """Short-time transform of one signal within the range; ``after`` skips its first frames."""
        width = len(self.grid.frequencies)
        part = slice(after * width, self.grid.n_frames(self.n_time) * width)
        whole = self.courses[index].stft
        return Polar(whole.magnitude[:, part], whole.angle[:, part])

    def fft(self, index: int) -> Polar:
        """Transform of one whole signal, all bins."""
        if index not in self._fft:
            self._fft[index] = self.courses[index].fft(self._prefix)
        return self._fft[index]

    def log_sorted(self, kind: str, index: int) -> Float[np.ndarray, "channel bin"]:
        """Ascending logarithms of the magnitudes of ``kind`` "stft" or "fft"; −inf for a zero."""
        key = (kind, index)
        if key not in self._sorted:
            magnitude = (self.stft(index) if kind == "stft" else self.fft(index)).magnitude
            with np.errstate(divide="ignore"):
                self._sorted[key] = np.log(np.sort(magnitude, axis=-1))
        return self._sorted[key]

    def mean_magnitude(self, kind: str, index: int) -> Float[np.ndarray, " channel"]:
        """Mean magnitude of ``kind`` "stft" or "fft" over its bins."""
        key = (kind, index)
        if key not in self._magnitude:
            magnitude = (self.stft(index) if kind == "stft" else self.fft(index)).magnitude
            self._magnitude[key] = magnitude.mean(axis=-1).astype(np.float64)
        return self._magnitude[key]

    def prepare(self, indices: Sequence[int]) -> None:
        """Compute what pairs need of these signals, in parallel."""

        def one(index: int) -> None:
            self.coherence(index)
            for kind in ("stft", "fft"):
                self.log_sorted(kind, index)
                self.mean_magnitude(kind, index)

        in_threads(one, indices, self.workers)


def features(
    signal: Any,
    sfreq_hz: float,
    fmin_hz: float = 0.5,
    fmax_hz: float | None = None,
    workers: int | None = None,
) -> Features:
    """Features of whole signals.

    Args:
        signal: (signal, channel, time), an array or tensor of real numbers or integer codes.
        sfreq_hz: sampling rate.
        fmin_hz: lowest frequency of the range, inclusive.
        fmax_hz: highest, inclusive; null: 0.95 of the Nyquist frequency.
        workers: threads; null: what OMP_NUM_THREADS or the machine allows.

    Raises:
        ShapeMismatch: if the signal has not three axes.
        InvalidValue: if it holds NaN or infinity, or is too short.
    """
    array = _as_signals(signal)
    return next(prefix_features(array, sfreq_hz, [array.shape[-1]], fmin_hz, fmax_hz, workers))


def prefix_features(
    signal: Any,
    sfreq_hz: float,
    prefixes: Sequence[int],
    fmin_hz: float = 0.5,
    fmax_hz: float | None = None,
    workers: int | None = None,
) -> Iterator[Features]:
    """Features of ``signal[..., :prefix]`` for each prefix in turn; equal to :func:`features` of each, but cheaper.

    Args:
        signal: as in :func:`features`.
        prefixes: lengths in samples, strictly ascending.

    Raises:
        InvalidValue: if the prefixes are not ascending or longer than the signal.
    """
    array = _as_signals(signal)
    ends = [int(end) for end in prefixes]
    if not ends or any(a >= b for a, b in pairwise(ends)) or ends[-1] > array.shape[-1]:
        raise InvalidValue("prefixes", ends, f"expected ascending lengths of at most {array.shape[-1]} samples")
    grids = [Grid(float(sfreq_hz), end, fmin_hz, fmax_hz) for end in ends]
    threads = available_workers() if workers is None else workers
    for group in _same_grid(grids):
        part = [ends[index] for index in group]
        courses = [Course(one, grids[group[0]], part) for one in array]
        for position in range(len(group)):
            yield Features(courses, position, threads)


def available_workers() -> int:
    """Threads to use: OMP_NUM_THREADS where it is set, else the processors this process may run on, at most 16."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    affinity = getattr(os, "sched_getaffinity", None)
    return min(16, len(affinity(0)) if affinity else os.cpu_count() or 1)


def in_threads(function: Callable[[Any], _T], items: Sequence[Any], workers: int) -> list[_T]:
    """``[function(item) for item in items]``, in threads: the array work below holds no lock.

    Linear algebra keeps to one thread meanwhile. Its products are small here: a second thread would mostly wait, and
    where processors are shared that costs more than the product.
    """
    with _linear_algebra().limit(limits=1, user_api="blas"):
        if workers <= 1 or len(items) <= 1:
            return [function(item) for item in items]
        with ThreadPoolExecutor(min(workers, len(items))) as pool:
            return list(pool.map(function, items))


@cache
def _linear_algebra() -> ThreadpoolController:
    return ThreadpoolController()


def _same_grid(grids: Sequence[Grid]) -> list[list[int]]:
    """Neighbouring prefixes that share segments and time scales."""
    groups: list[list[int]] = []
    keys: list[tuple[int, Int[np.ndarray, " scale"]]] = []
    for index, grid in enumerate(grids):
        if keys and keys[-1][0] == grid.n_segment and np.array_equal(keys[-1][1], grid.scales):
            groups[-1].append(index)
        else:
            groups.append([index])
            keys.append((grid.n_segment, grid.scales))
    return groups


def _as_signals(signal: Any) -> np.ndarray:
    array = signal.detach().cpu().numpy() if hasattr(signal, "detach") else np.asarray(signal)
    if array.ndim != 3 or 0 in array.shape:
        raise ShapeMismatch("signal", array.shape, "expected (signal, channel, time)")
    if array.dtype.kind not in "fiu":
        raise InvalidValue("signal", array.dtype, "expected real numbers or integer codes")
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    for index, one in enumerate(array):
        if not np.isfinite(one.sum(dtype=np.float64)) and not np.isfinite(one).all():
            raise InvalidValue(
                "signal", f"nan or inf in signal {index}", "expected finite samples", hint="did the rollout diverge?"
            )
    return array
