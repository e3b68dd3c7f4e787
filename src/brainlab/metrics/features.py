"""Everything the rollout metrics need to know of a signal, computed once per signal and shared by growing prefixes.

A :class:`Course` walks through one signal and keeps running sums at the ends of the wanted prefixes: powers of the
samples, products between channels and with lagged copies, segment spectra and cross spectra. A prefix then costs a
look-up, not a pass. What has no running form (the spectrum of a whole prefix, sorted magnitudes, the share of samples
beyond three standard deviations) is computed for each prefix when it is asked for. :class:`Features` is a batch of
signals at one prefix.

The full signal is a prefix of itself: there is one way through this file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
import scipy.fft
from jaxtyping import Float, Int
from threadpoolctl import ThreadpoolController

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.metrics.spectra import Grid, band_shares, log_slope, mean_of_defined

__all__ = ["Course", "Features", "Polar", "features", "in_threads", "prefix_features"]

_T = TypeVar("_T")


class Polar(NamedTuple):
    """Magnitudes and angles (rad) of a transform, (channel, bin) each; frames of a short-time transform in order."""

    magnitude: Float[np.ndarray, "channel bin"]
    angle: Float[np.ndarray, "channel bin"]


class Course:
    """One signal and its running sums at the ends of prefixes.

    Args:
        signal: (channel, time), any real or integer type.
        grid: of the shortest prefix; all prefixes share its segments and time scales.
        ends: lengths of the prefixes in samples, ascending.
    """

    def __init__(self, signal: np.ndarray, grid: Grid, ends: Sequence[int]) -> None:
        self.signal = signal[:, : ends[-1]]
        self.grid, self.ends = grid, np.asarray(ends, dtype=np.int64)
        self.offset = self.signal.mean(axis=-1, dtype=np.float64)
        z = self.signal - self.offset[:, None]
        spread = float(np.sqrt(np.einsum("ct,ct->c", z, z).max(initial=0.0) / z.shape[1]))
        # Powers of signals in tesla underflow in single precision. A power of two costs no digit.
        self.gain = 2.0 ** -round(np.log2(spread)) if spread > 0 else 1.0
        #: The signal minus its mean, times ``gain``, in single precision: for spectra.
        self.centred: Float[np.ndarray, "channel time"] = (z * self.gain).astype(np.float32)

    @cached_property
    def sums(self) -> tuple[np.ndarray, ...]:
        """Per prefix: Σz, Σz², Σz³, Σz⁴ (4, prefix, channel), Σzzᵀ, and of lagged differences Σd, Σd² and the DFA.

        z is the signal minus its mean over the longest prefix, which only keeps digits. Everything in double precision:
        differences of the sums lose half of them.
        """
        z = self.signal - self.offset[:, None]
        squared = z * z
        running = np.cumsum(z, axis=-1)
        running_squares = np.cumsum(squared, axis=-1)
        last = self.ends - 1
        blocks = [slice(start, end) for start, end in pairwise([0, *self.ends.tolist()])]
        higher = [[np.einsum("ct,ct->c", squared[:, k], side[:, k]) for k in blocks] for side in (z, squared)]
        powers = np.concatenate(
            [
                np.stack([running[:, last].T, running_squares[:, last].T]),
                np.cumsum(np.array(higher), axis=1),
            ]
        )
        products = np.cumsum(np.stack([z[:, k] @ z[:, k].T for k in blocks]), axis=0)
        return powers, products, *self._lagged(z, running, running_squares), self._detrended_energy(running)

    def _lagged(self, z: np.ndarray, running: np.ndarray, running_squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Σd and Σd² of d = z[t + τ] − z[t], each (prefix, channel, lag), from Σz[t + τ]z[t] and the running sums."""
        scales = self.grid.scales
        first = np.empty((len(self.ends), len(z), len(scales)))
        second = np.empty_like(first)
        for column, lag in enumerate(scales.tolist()):
            edges = [lag, *self.ends.tolist()]
            product = np.zeros(len(z))
            for row, (start, end) in enumerate(pairwise(edges)):
                product += np.einsum("ct,ct->c", z[:, start:end], z[:, start - lag : end - lag])
                late, early = end - 1, end - lag - 1
                first[row, :, column] = running[:, late] - running[:, lag - 1] - running[:, early]
                second[row, :, column] = (
                    running_squares[:, late] - running_squares[:, lag - 1] + running_squares[:, early] - 2 * product
                )
        return first, second

    def _detrended_energy(self, profile: np.ndarray) -> Float[np.ndarray, "prefix channel scale"]:
        """Mean square of the profile around a straight line in each segment of each scale, over a prefix's segments.

        The line takes with it the mean that a prefix would have subtracted, and its standard deviation only shifts
        ln F: segments are the same for every prefix.
        """
        scales = self.grid.scales
        energy = np.empty((len(self.ends), len(profile), len(scales)))
        squared = profile * profile
        for column, scale in enumerate(scales.tolist()):
            n = int(self.ends[-1]) // scale
            ramp = np.arange(scale) - 0.5 * (scale - 1)
            basis = (np.full(scale, scale**-0.5), ramp / np.linalg.norm(ramp))
            parts = (len(profile), n, scale)
            level, slope = (profile[:, : n * scale].reshape(parts) @ vector for vector in basis)
            whole = squared[:, : n * scale].reshape(parts) @ np.ones(scale)
            residual = np.maximum(whole - level * level - slope * slope, 0.0)
            counts = self.ends // scale
            energy[:, :, column] = (np.cumsum(residual, axis=-1)[:, counts - 1] / (counts * scale)).T
        return energy

    @cached_property
    def psd(self) -> Float[np.ndarray, "prefix channel frequency"]:
        """Welch's power density of each prefix (constant detrend, mean over segments), unit²/Hz."""
        if "transform" in self.__dict__:
            return self.transform[1]
        segments = self._segments(self.grid.welch_step)
        detrended = (segments - segments.mean(axis=-1, keepdims=True)) * self.grid.window
        return self._density(_power(scipy.fft.rfft(detrended, axis=-1)[..., self.grid.kept]))

    @property
    def stft(self) -> Polar:
        """Short-time transform of the longest prefix; a shorter one has the first frames."""
        return self.transform[0]

    @property
    def coherence(self) -> Float[np.ndarray, "prefix frequency pair"]:
        """Magnitude-squared coherence of every pair of channels (upper triangle, row by row) of each prefix."""
        return self.transform[2]

    @cached_property
    def transform(self) -> tuple[Polar, np.ndarray, np.ndarray]:
        """Short-time transform, power and coherence from one set of windowed spectra.

        Where the step of the power's segments is a multiple of the frames' step, the segments are frames. Detrending
        and the signal's own level are constants within a frame: they only touch bins that the window's transform
        reaches, two of them.
        """
        grid = self.grid
        frames = self._spectra(grid.stft_step)
        stride, rest = divmod(grid.welch_step, grid.stft_step)
        segments = frames[:, ::stride] if rest == 0 else self._spectra(grid.welch_step)
        spread = scipy.fft.rfft(grid.window.astype(np.float64))[grid.kept].astype(np.complex64)
        touched = np.flatnonzero(np.abs(spread) > 1e-6 * float(grid.window.sum()))
        power = _power(segments)
        means = self._segments(grid.welch_step).mean(axis=-1)
        power[..., touched] = _power(segments[..., touched] - means[..., None] * spread[touched])
        level = (self.offset * self.gain).astype(np.float32)[:, None, None] * spread[touched]
        frames[..., touched] += level
        if rest:
            segments[..., touched] += level
        magnitude = np.abs(frames) * np.float32(1 / self.gain)
        angle = np.arctan2(frames.imag, frames.real)
        n_channels = len(frames)
        polar = Polar(magnitude.reshape(n_channels, -1), angle.reshape(n_channels, -1))
        return polar, self._density(power), self._coherence(segments)

    def _segments(self, step: int) -> Float[np.ndarray, "channel segment time"]:
        """Views of the centred signal."""
        return np.lib.stride_tricks.sliding_window_view(self.centred, self.grid.n_segment, axis=-1)[:, ::step]

    def _spectra(self, step: int) -> np.ndarray:
        """Windowed spectra (channel, frame, frequency) of the centred signal."""
        return scipy.fft.rfft(self._segments(step) * self.grid.window, axis=-1)[..., self.grid.kept]

    def _density(self, power: np.ndarray) -> Float[np.ndarray, "prefix channel frequency"]:
        """Mean over the segments of each prefix, as a density."""
        counts = [self.grid.n_segments(end) for end in self.ends.tolist()]
        blocks = [power[:, start:stop].sum(axis=1, dtype=np.float64) for start, stop in pairwise([0, *counts])]
        mean = np.cumsum(np.stack(blocks), axis=0) / np.array(counts)[:, None, None]
        return mean * (self.grid.density / self.gain**2)

    def _coherence(self, segments: np.ndarray) -> Float[np.ndarray, "prefix frequency pair"]:
        by_frequency = np.ascontiguousarray(segments.transpose(2, 0, 1))
        n_channels = by_frequency.shape[1]
        upper = np.flatnonzero(np.triu(np.ones((n_channels, n_channels), dtype=bool), k=1))
        row, column = np.divmod(upper, n_channels)
        cross = np.zeros((len(by_frequency), n_channels, n_channels), dtype=np.complex64)
        counts = [self.grid.n_segments(end) for end in self.ends.tolist()]
        found = []
        for start, stop in pairwise([0, *counts]):
            block = by_frequency[:, :, start:stop]
            cross += block @ block.conj().transpose(0, 2, 1)
            auto = np.einsum("fcc->fc", cross).real
            with np.errstate(divide="ignore", invalid="ignore"):
                found.append(_power(cross.reshape(len(cross), -1)[:, upper]) / (auto[:, row] * auto[:, column]))
        return np.stack(found)

    def fft(self, prefix: int) -> Polar:
        """Transform of a whole prefix divided by its length, all bins."""
        end = int(self.ends[prefix])
        spectrum = scipy.fft.rfft(self.centred[:, :end], axis=-1)
        spectrum[:, 0] += (self.offset * self.gain * end).astype(np.float32)
        return Polar(np.abs(spectrum) * np.float32(1 / (self.gain * end)), np.arctan2(spectrum.imag, spectrum.real))


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
            limit = limits[index].astype(x.dtype if x.dtype.kind == "f" else np.float64)
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


def _power(spectra: np.ndarray) -> np.ndarray:
    return np.square(spectra.real) + np.square(spectra.imag)


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
