"""How a generated recording is described (18 numbers) and compared with a real one (36 distances).

Every name, its direction and a one-line definition stand in :data:`SUMMARIES` and :data:`DISTANCES`, in the order in
which reports list them. The definitions are those of the next-brain-token literature (arXiv:2601.20138), so that
numbers compare; each spectrum is computed once per signal and prefix, a pair only costs the comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.metrics.course import Polar
from brainlab.metrics.features import Features, features, in_threads, prefix_features
from brainlab.metrics.spectra import BANDS, Grid, jensen_shannon, mean_of_defined, pearson, ratio_difference
from brainlab.metrics.tokens import token_summary

__all__ = [
    "BANDS",
    "DISTANCES",
    "SUMMARIES",
    "Definition",
    "Features",
    "distances",
    "features",
    "prefix_distances",
    "prefix_features",
    "summaries",
    "window_distances",
    "window_summaries",
]

# Added to magnitudes relative to their mean before the logarithm.
_FLOOR = 1e-12
_CHANNEL_VALUES = (
    "amplitude_kurtosis",
    "amplitude_tail_fraction",
    "dfa_exponent",
    "hurst_exponent",
    "one_over_f_exponent",
)


class Definition(NamedTuple):
    """How reports speak of a number: its label, which way is better and what it is.

    ``better`` is "" for a summary: it is neither good nor bad.
    """

    label: str
    better: Literal["lower", "higher", ""]
    text: str


SUMMARIES: dict[str, Definition] = {
    "spatial_connectivity": Definition("spatial connectivity", "", "mean |correlation| over pairs of channels"),
    "one_over_f_exponent": Definition("1/f exponent", "", "−slope of log power over log frequency, channel mean"),
    "dfa_exponent": Definition("DFA exponent", "", "detrended fluctuation exponent, 0.1–2 s, channel mean"),
    "hurst_exponent": Definition("diffusion exponent", "", "slope of ln std of lagged differences over ln lag"),
    "amplitude_kurtosis": Definition("excess kurtosis", "", "m4/m2² − 3, channel mean"),
    "amplitude_tail_fraction": Definition("tail fraction", "", "share of samples beyond 3 standard deviations"),
    **{
        f"bandpower_ratio_{band}": Definition(f"{band} share", "", f"power at {low:g}–{high:g} Hz over all power")
        for band, (low, high) in BANDS.items()
    },
    "cov_eig_entropy": Definition("covariance entropy", "", "entropy of the eigenvalue shares over ln channels"),
    "cov_eig_top_frac": Definition("first component", "", "share of the largest eigenvalue of the covariance"),
    "psd_entropy": Definition("spectral entropy", "", "entropy of the channel-mean power over ln frequencies"),
    "psd_centroid": Definition("spectral centroid", "", "mean frequency of the channel-mean power, Hz"),
    "token_entropy": Definition("token entropy", "", "bits per step over channels, mean over steps"),
    "token_unique_rate": Definition("unique tokens", "", "different ids over all ids"),
    "token_repetition_rate": Definition("repeated tokens", "", "1 − unique tokens"),
}

DISTANCES: dict[str, Definition] = {
    "correlation": Definition("correlation", "lower", "(1 − r)/2 in time, channel mean"),
    "covariance": Definition("covariance", "lower", "Frobenius norm of the difference over the larger norm"),
    "amplitude_kurtosis": Definition("excess kurtosis", "lower", "|difference|, channel mean"),
    "amplitude_tail_fraction": Definition("tail fraction", "lower", "|difference|, channel mean"),
    "dfa_exponent": Definition("DFA exponent", "lower", "|difference|, channel mean"),
    "hurst_exponent": Definition("diffusion exponent", "lower", "|difference|, channel mean"),
    "one_over_f_exponent": Definition("1/f exponent", "lower", "|difference|, channel mean"),
    "spatial_connectivity": Definition("spatial connectivity", "lower", "|difference| of mean |correlation|"),
    "psd_jsd": Definition("PSD", "lower", "Jensen–Shannon distance of normalised power, channel mean"),
    "psd_corr": Definition("PSD correlation", "higher", "Pearson correlation of the power, channel mean"),
    "band_jsd": Definition("band shares", "lower", "Jensen–Shannon distance of the band powers, channel mean"),
    **{
        f"psd_jsd_{band}": Definition(f"PSD {band}", "lower", "Jensen–Shannon distance within the band")
        for band in BANDS
    },
    **{
        f"psd_corr_{band}": Definition(f"PSD correlation {band}", "higher", "Pearson correlation within the band")
        for band in BANDS
    },
    **{
        f"bandpower_ratio_{band}": Definition(f"{band} share", "lower", "|difference| over the mean, at most 1")
        for band in BANDS
    },
    "stft_magnitude": Definition("STFT magnitude", "lower", "Wasserstein-1 of log magnitudes, 1 s frames"),
    "stft_angle": Definition("STFT phase", "lower", "|phase difference|/π weighted by magnitude, 1 s frames"),
    "fft_magnitude": Definition("FFT magnitude", "lower", "Wasserstein-1 of log magnitudes of the whole span"),
    "fft_angle": Definition("FFT phase", "lower", "|phase difference|/π weighted by magnitude, whole span"),
    "coherence": Definition("coherence", "lower", "mean |difference| over pairs of channels and frequencies"),
    **{
        f"coherence_{band}": Definition(f"coherence {band}", "lower", "mean |difference| of the band's mean coherence")
        for band in BANDS
    },
}


def summaries(
    signal: Features | Any, sfreq_hz: float | None = None, fmin_hz: float = 0.5, fmax_hz: float | None = None
) -> dict[str, Float[np.ndarray, " signal"]]:
    """The 18 numbers of :data:`SUMMARIES` for each signal.

    Args:
        signal: features, or (signal, channel, time) together with ``sfreq_hz``. The three token numbers are NaN
            unless the samples are integers.
        sfreq_hz: sampling rate, where ``signal`` is an array.
    """
    known = _known(signal, sfreq_hz, fmin_hz, fmax_hz)
    found: dict[str, np.ndarray] = {"spatial_connectivity": known.spatial_connectivity}
    for name in _CHANNEL_VALUES:
        found[name] = mean_of_defined(getattr(known, name), axis=-1)
    shares = mean_of_defined(known.bandpower_ratios, axis=1)
    found |= {f"bandpower_ratio_{band}": shares[:, column] for column, band in enumerate(BANDS)}
    eigenvalues = np.clip(np.linalg.eigvalsh(known.covariance), 0.0, None)
    found["cov_eig_entropy"] = _entropy_share(eigenvalues)
    found["cov_eig_top_frac"] = _shares(eigenvalues).max(axis=-1)
    power = known.psd.mean(axis=1)
    found["psd_entropy"] = _entropy_share(power)
    found["psd_centroid"] = _shares(power) @ known.grid.frequencies
    found |= token_summary([known.signal(index) for index in range(len(known))])
    return {name: found[name] for name in SUMMARIES}


def distances(
    a: Features | Any,
    b: Features | Any,
    pairs: Int[np.ndarray, "pair 2"] | Sequence[tuple[int, int]] | None = None,
    sfreq_hz: float | None = None,
    fmin_hz: float = 0.5,
    fmax_hz: float | None = None,
) -> dict[str, Float[np.ndarray, " pair"]]:
    """The 36 distances of :data:`DISTANCES` for each pair.

    Args:
        a: features, or (signal, channel, time) together with ``sfreq_hz``.
        b: as ``a``; may be the same object.
        pairs: rows (index in ``a``, index in ``b``); null: first with first, second with second, ….

    Returns:
        one value per pair; ``psd_corr…`` are similarities (higher = closer). NaN where no channel defines the value.

    Raises:
        ShapeMismatch: if channels or lengths differ.
        InvalidValue: if a pair names a signal that is not there.
    """
    left = _known(a, sfreq_hz, fmin_hz, fmax_hz)
    right = left if b is a else _known(b, sfreq_hz, fmin_hz, fmax_hz)
    return _distances(left, right, _checked_pairs(left, right, pairs), _Carry())


def prefix_distances(
    a: Any,
    b: Any,
    pairs: Int[np.ndarray, "pair 2"] | Sequence[tuple[int, int]],
    sfreq_hz: float,
    prefixes: Sequence[int],
    fmin_hz: float = 0.5,
    fmax_hz: float | None = None,
    max_bytes: int = 1 << 30,
    workers: int | None = None,
) -> dict[str, Float[np.ndarray, "prefix pair"]]:
    """The 36 distances of ``a[i, :, :prefix]`` and ``b[j, :, :prefix]`` for growing prefixes, sharing the work.

    Equal to :func:`distances` of every prefix. Pairs are taken in groups whose spectra fit into ``max_bytes``: a
    signal that stands in several groups is transformed again, so name the pairs of one context one after the other.

    Args:
        a: (signal, channel, time), an array, memory map or tensor.
        b: as ``a``; may be the same object.
        pairs: rows (index in ``a``, index in ``b``).
        prefixes: lengths in samples, strictly ascending.
        max_bytes: of spectra held at once; at least one pair is taken at a time.
        workers: threads; null: what OMP_NUM_THREADS or the machine allows.
    """
    wanted = _pair_rows(pairs)
    found: dict[str, np.ndarray] = {name: np.empty((len(prefixes), len(wanted))) for name in DISTANCES}
    per_signal = _bytes_per_signal(a, sfreq_hz, max(prefixes, default=0))
    for group in _groups(wanted, b is a, max(2, int(max_bytes // max(per_signal, 1)))):
        left, left_row = np.unique(wanted[group, 0], return_inverse=True)
        right, right_row = np.unique(wanted[group, 1], return_inverse=True)
        if b is a:
            left = right = np.unique(wanted[group])
            left_row, right_row = np.searchsorted(left, wanted[group]).T
        rows = np.stack([left_row, right_row], axis=1)
        every_left = prefix_features(a[left], sfreq_hz, prefixes, fmin_hz, fmax_hz, workers)
        every_right = None if b is a else prefix_features(b[right], sfreq_hz, prefixes, fmin_hz, fmax_hz, workers)
        carry = _Carry()
        for row, known_left in enumerate(every_left):
            known_right = known_left if every_right is None else next(every_right)
            values = _distances(known_left, known_right, _checked_pairs(known_left, known_right, rows), carry)
            for name, value in values.items():
                found[name][row, group] = value
    return found


def window_distances(
    a: Any,
    b: Any,
    pairs: Int[np.ndarray, "pair 2"] | Sequence[tuple[int, int]],
    sfreq_hz: float,
    window: int,
    stride: int,
    fmin_hz: float = 0.5,
    fmax_hz: float | None = None,
    workers: int | None = None,
) -> dict[str, Float[np.ndarray, "window pair"]]:
    """The 36 distances in sliding windows of ``window`` samples every ``stride`` samples."""
    wanted = _pair_rows(pairs)
    found: dict[str, list[np.ndarray]] = {name: [] for name in DISTANCES}
    for start in window_starts(a.shape[-1], window, stride):
        part = slice(start, start + window)
        left = features(a[..., part], sfreq_hz, fmin_hz, fmax_hz, workers)
        right = left if b is a else features(b[..., part], sfreq_hz, fmin_hz, fmax_hz, workers)
        for name, value in _distances(left, right, _checked_pairs(left, right, wanted), _Carry()).items():
            found[name].append(value)
    return {name: np.stack(values) for name, values in found.items()}


def window_summaries(
    signal: Any,
    sfreq_hz: float,
    window: int,
    stride: int,
    fmin_hz: float = 0.5,
    fmax_hz: float | None = None,
    workers: int | None = None,
) -> dict[str, Float[np.ndarray, "signal window"]]:
    """The 18 summaries in sliding windows of ``window`` samples every ``stride`` samples."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in SUMMARIES}
    for start in window_starts(signal.shape[-1], window, stride):
        known = features(signal[..., start : start + window], sfreq_hz, fmin_hz, fmax_hz, workers)
        for name, value in summaries(known).items():
            found[name].append(value)
    return {name: np.stack(values, axis=1) for name, values in found.items()}


def window_starts(n_time: int, window: int, stride: int) -> range:
    """First samples of the windows that lie within ``n_time`` samples.

    >>> list(window_starts(10, 4, 3))
    [0, 3, 6]

    Raises:
        InvalidValue: if no window fits or the stride is not positive.
    """
    if stride < 1:
        raise InvalidValue("stride", stride, "expected at least 1 sample")
    if not 1 <= window <= n_time:
        raise InvalidValue("window", window, f"expected between 1 and the signal's {n_time} samples")
    return range(0, n_time - window + 1, stride)


class _Carry:
    """What pairs keep from one prefix to the next: sums over the frames and samples that both have seen."""

    def __init__(self) -> None:
        self._courses: object = None
        self._forget()

    def _forget(self) -> None:
        self.angle: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.product: dict[int, np.ndarray] = {}
        self.frames = self.samples = 0

    def continues(self, known: Features) -> None:
        """Forget the sums where a prefix has segments or an offset of its own."""
        if known.courses is not self._courses:
            self._forget()
            self._courses = known.courses


def _distances(a: Features, b: Features, pairs: np.ndarray, carry: _Carry) -> dict[str, np.ndarray]:
    if not len(pairs):
        return {name: np.empty(0) for name in DISTANCES}
    if a is b:
        a.prepare(np.unique(pairs).tolist())
    else:
        a.prepare(np.unique(pairs[:, 0]).tolist())
        b.prepare(np.unique(pairs[:, 1]).tolist())
    carry.continues(a)
    i, j = pairs.T
    found: dict[str, np.ndarray] = {}
    for name in _CHANNEL_VALUES:
        found[name] = mean_of_defined(np.abs(getattr(a, name)[i] - getattr(b, name)[j]), axis=-1)
    found["spatial_connectivity"] = np.abs(a.spatial_connectivity[i] - b.spatial_connectivity[j])
    found["covariance"] = _covariance_distance(a.covariance[i], b.covariance[j])
    found |= _spectral_distances(a, b, i, j)

    def one(row: int) -> dict[str, float]:
        return _pair_distances(a, b, int(i[row]), int(j[row]), row, carry)

    rows = in_threads(one, range(len(pairs)), a.workers)
    carry.frames, carry.samples = a.grid.n_frames(a.n_time), a.n_time
    found |= {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return {name: found[name] for name in DISTANCES}


def _spectral_distances(a: Features, b: Features, i: np.ndarray, j: np.ndarray) -> dict[str, np.ndarray]:
    left, right = a.psd[i], b.psd[j]
    shares, other = a.bandpower_ratios[i], b.bandpower_ratios[j]
    found = {
        "psd_jsd": mean_of_defined(jensen_shannon(left, right), axis=-1),
        "psd_corr": mean_of_defined(pearson(left, right), axis=-1),
        "band_jsd": mean_of_defined(jensen_shannon(shares, other), axis=-1),
    }
    for column, (band, inside) in enumerate(a.grid.bands.items()):
        part, counterpart = left[..., inside], right[..., inside]
        found[f"psd_jsd_{band}"] = mean_of_defined(jensen_shannon(part, counterpart), axis=-1)
        found[f"psd_corr_{band}"] = mean_of_defined(pearson(part, counterpart), axis=-1)
        ratio = ratio_difference(shares[..., column], other[..., column])
        found[f"bandpower_ratio_{band}"] = mean_of_defined(ratio, axis=-1)
    return found


def _pair_distances(a: Features, b: Features, i: int, j: int, row: int, carry: _Carry) -> dict[str, float]:
    new = _angle_sums(a.stft(i, carry.frames), b.stft(j, carry.frames))
    difference, weight = carry.angle.get(row, (0.0, 0.0))
    carry.angle[row] = (difference + new[0], weight + new[1])
    fresh = slice(carry.samples, a.n_time)
    product = np.einsum("ct,ct->c", a.centred(i)[:, fresh], b.centred(j)[:, fresh], dtype=np.float64)
    carry.product[row] = carry.product.get(row, 0.0) + product
    found = {
        "correlation": _channel_mean(0.5 * (1.0 - _correlation(a, b, i, j, carry.product[row]))),
        "stft_magnitude": _channel_mean(_log_wasserstein(a, b, i, j, "stft")),
        "stft_angle": _channel_mean(_angle_mean(*carry.angle[row])),
        "fft_magnitude": _channel_mean(_log_wasserstein(a, b, i, j, "fft")),
        "fft_angle": _channel_mean(_angle_mean(*_angle_sums(a.fft(i), b.fft(j)))),
    }
    change = a.coherence(i) - b.coherence(j)
    found["coherence"] = _channel_mean(np.abs(change).reshape(-1))
    for band, inside in a.grid.bands.items():
        whole = change[inside].mean(axis=0) if inside.any() else np.full(change.shape[1], np.nan)
        found[f"coherence_{band}"] = _channel_mean(np.abs(whole))
    return found


def _channel_mean(values: np.ndarray) -> float:
    return float(mean_of_defined(values, axis=-1))


def _correlation(a: Features, b: Features, i: int, j: int, product: np.ndarray) -> np.ndarray:
    """Pearson correlation in time per channel, from Σ of the products of the centred signals."""
    scale = a.gain[i] * b.gain[j]
    covariance = product / (scale * a.n_time) - a.remaining_mean[i] * b.remaining_mean[j]
    with np.errstate(divide="ignore", invalid="ignore"):
        r = covariance / (a.deviation[i] * b.deviation[j])
    return np.where(np.isfinite(r), np.clip(r, -1.0, 1.0), np.nan)


def _log_wasserstein(a: Features, b: Features, i: int, j: int, kind: str) -> np.ndarray:
    """Wasserstein-1 distance of ln(|S|/s + ε) per channel; s is the mean of both mean magnitudes.

    The logarithm keeps the order, so the sorted logarithms of each signal serve all its pairs, and ln s drops out of
    the difference. Only magnitudes that are near ε·s feel the ε.
    """
    left, right = a.log_sorted(kind, i), b.log_sorted(kind, j)
    scale = 0.5 * (a.mean_magnitude(kind, i) + b.mean_magnitude(kind, j))
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.log(scale).astype(np.float32)[:, None]
        total = np.zeros(len(left))
        near = int(max(np.count_nonzero(side < level - 11.0, axis=-1).max() for side in (left, right)))
        floor = level + np.float32(np.log(_FLOOR))
        total += np.abs(np.logaddexp(left[:, :near], floor) - np.logaddexp(right[:, :near], floor)).sum(axis=-1)
        total += np.abs(left[:, near:] - right[:, near:]).sum(axis=-1)
    return np.where(scale > 0, total / left.shape[-1], np.nan)


def _angle_sums(a: Polar, b: Polar) -> tuple[np.ndarray, np.ndarray]:
    """Per channel Σ w·|wrapped angle difference| and Σ w, w the sum of both magnitudes."""
    turn = np.abs(a.angle - b.angle)
    turn -= np.float32(np.pi)
    np.abs(turn, out=turn)
    np.subtract(np.float32(np.pi), turn, out=turn)  # min(d, 2π − d) for d in [0, 2π]
    weight = a.magnitude + b.magnitude
    return np.einsum("cn,cn->c", turn, weight), weight.sum(axis=-1)


def _angle_mean(difference: np.ndarray, weight: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return difference / weight / np.pi


def _covariance_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    size = np.maximum(np.linalg.norm(a, axis=(-2, -1)), np.linalg.norm(b, axis=(-2, -1)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.linalg.norm(a - b, axis=(-2, -1)) / size


def _shares(values: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return values / values.sum(axis=-1, keepdims=True)


def _entropy_share(values: np.ndarray) -> np.ndarray:
    """Entropy of the shares over the largest possible; NaN where there is a single entry or nothing to share."""
    if values.shape[-1] < 2:
        return np.full(values.shape[:-1], np.nan)
    p = _shares(values)
    return -(p * np.log(p + 1e-12)).sum(axis=-1) / np.log(values.shape[-1])


def _known(signal: Any, sfreq_hz: float | None, fmin_hz: float, fmax_hz: float | None) -> Features:
    if isinstance(signal, Features):
        return signal
    if sfreq_hz is None:
        raise InvalidValue("sfreq_hz", sfreq_hz, "expected the sampling rate of the array in Hz")
    return features(signal, sfreq_hz, fmin_hz, fmax_hz)


def _pair_rows(pairs: Any) -> Int[np.ndarray, "pair 2"]:
    rows = np.asarray(pairs, dtype=np.int64).reshape(-1, 2) if len(pairs) == 0 else np.asarray(pairs)
    if rows.ndim != 2 or rows.shape[1] != 2:
        raise ShapeMismatch("pairs", rows.shape, "expected rows of two indices")
    return rows.astype(np.int64)


def _checked_pairs(a: Features, b: Features, pairs: Any) -> Int[np.ndarray, "pair 2"]:
    if a.n_channels != b.n_channels or a.n_time != b.n_time:
        raise ShapeMismatch(
            "b", (b.n_channels, b.n_time), f"expected the (channel, time) of a, {(a.n_channels, a.n_time)}"
        )
    if pairs is None:
        if len(a) != len(b):
            raise ShapeMismatch("pairs", None, f"expected pairs of {len(a)} with {len(b)} signals")
        return np.repeat(np.arange(len(a))[:, None], 2, axis=1)
    rows = _pair_rows(pairs)
    if len(rows) and (rows.min() < 0 or (rows.max(axis=0) >= (len(a), len(b))).any()):
        raise InvalidValue("pairs", rows.max(axis=0).tolist(), f"expected indices below {len(a)} and {len(b)}")
    return rows


def _bytes_per_signal(signal: Any, sfreq_hz: float, n_time: int) -> float:
    """About what a signal's spectra take: magnitudes, angles and sorted logarithms of two transforms, sums, copies."""
    grid = Grid(float(sfreq_hz), max(n_time, 8))
    n_channels = signal.shape[1]
    bins = grid.n_frames(n_time) * (grid.n_segment // 2 + 1) + n_time // 2
    return 4.0 * n_channels * (4 * bins + 8 * n_time) + 16.0 * grid.n_segment * n_channels**2


def _groups(pairs: np.ndarray, same: bool, n_signals: int) -> Iterator[np.ndarray]:
    """Runs of pairs that touch at most ``n_signals`` signals (or one pair)."""
    start, seen = 0, set[tuple[int, int]]()
    for row, (i, j) in enumerate(pairs.tolist()):
        wider = seen | {(0, i), (0 if same else 1, j)}
        if len(wider) > n_signals and row > start:
            yield np.arange(start, row)
            start, wider = row, {(0, i), (0 if same else 1, j)}
        seen = wider
    if len(pairs):
        yield np.arange(start, len(pairs))
