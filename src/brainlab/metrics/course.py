"""One signal and running sums at the ends of growing prefixes, so that a prefix costs a look-up and not a pass."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import scipy.fft
from jaxtyping import Bool, Float

from brainlab.metrics.spectra import Grid

__all__ = ["Course", "Polar"]


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
        frames[self._silent(grid.stft_step)] = 0
        if rest:
            segments[..., touched] += level
            segments[self._silent(grid.welch_step)] = 0
        magnitude = np.abs(frames) * np.float32(1 / self.gain)
        angle = np.arctan2(frames.imag, frames.real)
        n_channels = len(frames)
        polar = Polar(magnitude.reshape(n_channels, -1), angle.reshape(n_channels, -1))
        return polar, self._density(power), self._coherence(segments)

    def _silent(self, step: int) -> Bool[np.ndarray, "channel segment"]:
        """Segments of zeros. Taking the signal's mean off and adding it again leaves them only nearly 0."""
        n = self.grid.n_segment
        count = np.cumsum(self.signal != 0, axis=-1, dtype=np.int64)
        return (count[:, n - 1 :] == count[:, : count.shape[1] - n + 1])[:, ::step]  # the window's first weight is 0

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
        spectrum[~self.signal[:, :end].any(axis=-1)] = 0
        return Polar(np.abs(spectrum) * np.float32(1 / (self.gain * end)), np.arctan2(spectrum.imag, spectrum.real))


def _power(spectra: np.ndarray) -> np.ndarray:
    return np.square(spectra.real) + np.square(spectra.imag)
