"""36 distances and 18 summaries of 8 recordings, ours and a plain SciPy form of the same definitions.

::

    python benchmarks/rollout_metrics.py [--signals 8 --channels 68 --samples 5000 --pairs 4] [--repeats 7]

The plain form calls scipy.signal once per example for each spectrum, vectorised over channels, and works out each
distance once per pair. A second peer differs from it in the coherence alone: instead of scipy.signal.csd over all
pairs of channels it takes scipy.signal.stft and one matrix product per frequency, which is the best that a careful
user would write. All give the same numbers (checked first). The exit status is 1 where they differ, or where ours is
less than 3 times as fast as the plain form.

A last line times divergence curves: ten growing prefixes with shared work against each prefix from the start.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

import numpy as np
import scipy.signal
from side_by_side import environment, in_turns, report

from brainlab.metrics.rollouts import DISTANCES, SUMMARIES, distances, features, prefix_distances, summaries

BANDS = {"delta": (1, 4), "theta": (4, 8), "alpha": (8, 13), "beta": (13, 30), "gamma": (30, 45)}
TARGET = 3.0


def recordings(n: int, channels: int, samples: int, seed: int) -> np.ndarray:
    """1/f-like noise with an oscillation, channels mixed: about what MEG parcels look like."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / 100.0
    sources = rng.standard_normal((n, channels, samples))
    sources += 0.1 * np.cumsum(rng.standard_normal((n, channels, samples)), axis=-1)
    sources += np.sin(2 * np.pi * 10.0 * time + rng.uniform(0, 6, (n, channels, 1)))
    mixing = np.eye(channels) + 0.1 * rng.standard_normal((n, channels, channels))
    return (mixing @ sources).astype(np.float32)


def csd_of_all_pairs(x: np.ndarray, sfreq: float) -> np.ndarray:
    """Cross spectra (channel, channel, frequency) by one call over all pairs."""
    segment = max(8, round(sfreq))
    return scipy.signal.csd(x[:, None], x[None], sfreq, nperseg=segment, detrend=False)[1]


def csd_by_matrix_products(x: np.ndarray, sfreq: float) -> np.ndarray:
    """The same from one short-time transform; the scale drops out of the coherence."""
    segment = max(8, round(sfreq))
    _, _, spectra = scipy.signal.stft(
        x, sfreq, nperseg=segment, noverlap=segment // 2, detrend=False, boundary=None, padded=False
    )
    by_frequency = np.ascontiguousarray(spectra.transpose(1, 0, 2))
    return (by_frequency.conj() @ by_frequency.transpose(0, 2, 1)).transpose(1, 2, 0)


class Plain:
    """The definitions, one example after the other."""

    def __init__(self, cross_spectra: Callable[[np.ndarray, float], np.ndarray]) -> None:
        self.cross_spectra = cross_spectra

    def example(self, x: np.ndarray, sfreq: float, fmin: float, fmax: float) -> dict[str, np.ndarray]:
        segment = max(8, round(sfreq))
        frequencies, psd = scipy.signal.welch(x, sfreq, nperseg=segment)
        inside = (frequencies >= fmin) & (frequencies <= fmax)
        f, psd = frequencies[inside], psd[:, inside]
        masks = [(f >= low) & (f < high) for low, high in BANDS.values()]
        total = np.trapezoid(psd, f)
        _, _, stft = scipy.signal.stft(
            x, sfreq, nperseg=segment, noverlap=int(0.75 * segment), boundary=None, padded=False
        )
        cross = self.cross_spectra(x, sfreq)[..., inside]
        auto = np.einsum("iif->if", cross).real
        centred = x - x.mean(axis=-1, keepdims=True, dtype=np.float64)
        deviation = centred.std(axis=-1)
        scales = np.unique(
            np.round(np.geomspace(int(0.1 * sfreq), min(int(2 * sfreq), x.shape[1] // 2), 8)).astype(int)
        )
        profile = np.cumsum(centred / deviation[:, None], axis=-1)
        fluctuation, spread = [], []
        for scale in scales:
            n = x.shape[1] // scale
            parts = scipy.signal.detrend(profile[:, : n * scale].reshape(len(x), n, scale), axis=-1)
            fluctuation.append(np.sqrt(np.square(parts).mean(axis=(-2, -1))))
            spread.append((centred[:, scale:] - centred[:, :-scale]).std(axis=-1))
        covariance = np.cov(x.astype(np.float64))
        correlation = np.corrcoef(x.astype(np.float64))
        off = ~np.eye(len(x), dtype=bool)
        return {
            "centred": centred,
            "f": f,
            "masks": np.array(masks),
            "psd": psd,
            "bandpower_ratios": np.stack([np.trapezoid(psd[:, m], f[m]) for m in masks], axis=-1) / total[:, None],
            "stft": stft[:, inside].reshape(len(x), -1),
            "fft": np.fft.rfft(x, axis=-1) / x.shape[-1],
            "coherence": np.square(np.abs(cross)) / (auto[:, None] * auto[None]),
            "amplitude_kurtosis": (centred**4).mean(axis=-1) / deviation**4 - 3,
            "amplitude_tail_fraction": (np.abs(x) > 3 * deviation[:, None]).mean(axis=-1),
            "dfa_exponent": np.polyfit(np.log(scales), np.log(fluctuation), 1)[0],
            "hurst_exponent": np.polyfit(np.log(scales), np.log(spread), 1)[0],
            "one_over_f_exponent": -np.polyfit(np.log10(f), np.log10(psd).T, 1)[0],
            "covariance": covariance,
            "spatial_connectivity": np.abs(correlation[off]).mean(),
        }

    def summaries(self, known: dict[str, np.ndarray]) -> dict[str, float]:
        eigenvalues = np.clip(np.linalg.eigvalsh(known["covariance"]), 0, None)
        shares = eigenvalues / eigenvalues.sum()
        power = known["psd"].mean(axis=0)
        power = power / power.sum()
        found = {name: float(np.mean(known[name])) for name in list(SUMMARIES)[:6]}
        for column, band in enumerate(BANDS):
            found[f"bandpower_ratio_{band}"] = float(known["bandpower_ratios"][:, column].mean())
        found["cov_eig_entropy"] = float(-(shares * np.log(shares + 1e-12)).sum() / np.log(len(shares)))
        found["cov_eig_top_frac"] = float(shares.max())
        found["psd_entropy"] = float(-(power * np.log(power + 1e-12)).sum() / np.log(len(power)))
        found["psd_centroid"] = float((power * known["f"]).sum())
        return found | dict.fromkeys(list(SUMMARIES)[-3:], np.nan)

    def pair(self, a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict[str, float]:
        found = {}
        r = (a["centred"] * b["centred"]).sum(-1)
        r = r / np.sqrt(np.square(a["centred"]).sum(-1) * np.square(b["centred"]).sum(-1))
        found["correlation"] = np.mean((1 - r) / 2)
        norms = [np.linalg.norm(side["covariance"]) for side in (a, b)]
        found["covariance"] = np.linalg.norm(a["covariance"] - b["covariance"]) / max(norms)
        for name in list(SUMMARIES)[:6]:
            found[name] = np.mean(np.abs(a[name] - b[name]))
        found["psd_jsd"] = jensen_shannon(a["psd"], b["psd"]).mean()
        found["psd_corr"] = pearson(a["psd"], b["psd"]).mean()
        found["band_jsd"] = jensen_shannon(a["bandpower_ratios"], b["bandpower_ratios"]).mean()
        off = ~np.eye(len(a["psd"]), dtype=bool)
        found["coherence"] = np.abs(a["coherence"] - b["coherence"])[off].mean()
        for column, (band, mask) in enumerate(zip(BANDS, a["masks"], strict=True)):
            found[f"psd_jsd_{band}"] = jensen_shannon(a["psd"][:, mask], b["psd"][:, mask]).mean()
            found[f"psd_corr_{band}"] = pearson(a["psd"][:, mask], b["psd"][:, mask]).mean()
            u, v = a["bandpower_ratios"][:, column], b["bandpower_ratios"][:, column]
            found[f"bandpower_ratio_{band}"] = np.minimum(1, np.abs(u - v) / np.maximum((u + v) / 2, 1e-6)).mean()
            change = a["coherence"][..., mask].mean(-1) - b["coherence"][..., mask].mean(-1)
            found[f"coherence_{band}"] = np.abs(change)[off].mean()
        for name in ("stft", "fft"):
            left, right = np.abs(a[name]), np.abs(b[name])
            scale = (left.mean(-1, keepdims=True) + right.mean(-1, keepdims=True)) / 2
            logs = [np.sort(np.log(side / scale + 1e-12), axis=-1) for side in (left, right)]
            found[f"{name}_magnitude"] = np.abs(logs[0] - logs[1]).mean()
            turn = np.abs(np.angle(a[name] * b[name].conj())) / np.pi
            found[f"{name}_angle"] = ((left + right) * turn).sum(-1).__truediv__((left + right).sum(-1)).mean()
        return {name: float(found[name]) for name in DISTANCES}

    def __call__(
        self, x: np.ndarray, pairs: np.ndarray, sfreq: float, fmin: float, fmax: float
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        known = [self.example(one, sfreq, fmin, fmax) for one in x]
        described = [self.summaries(one) for one in known]
        compared = [self.pair(known[i], known[j]) for i, j in pairs.tolist()]
        return (
            {name: np.array([one[name] for one in described]) for name in SUMMARIES},
            {name: np.array([one[name] for one in compared]) for name in DISTANCES},
        )


def jensen_shannon(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    p, q = a / a.sum(-1, keepdims=True), b / b.sum(-1, keepdims=True)
    middle = (p + q) / 2
    divergence = (p * np.log(p / middle) + q * np.log(q / middle)).sum(-1) / 2
    return np.sqrt(np.maximum(divergence, 0) / np.log(2))


def pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    return (a * b).sum(-1) / np.sqrt(np.square(a).sum(-1) * np.square(b).sum(-1))


def furthest(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """Largest difference beyond a relative 1e-4, over all values."""
    beyond = [np.abs(ours[name] - theirs[name]) - 1e-4 * np.abs(theirs[name]) for name in ours]
    return float(np.nanmax(np.concatenate([np.ravel(one) for one in beyond])))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--signals", type=int, default=8)
    parser.add_argument("--channels", type=int, default=68)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    print(environment("brainlab", "numpy", "scipy"), f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}")
    x = recordings(options.signals, options.channels, options.samples, seed=0)
    half = options.signals // 2
    pairs = np.array([(k % half, half + k % half) for k in range(options.pairs)])
    setting = (100.0, 0.5, 47.5)

    def ours(workers: int | None) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        known = features(x, *setting, workers=workers)
        compared = distances(known, known, pairs)
        return summaries(known), compared

    plain, careful = Plain(csd_of_all_pairs), Plain(csd_by_matrix_products)
    mine, reference, other = ours(None), plain(x, pairs, *setting), careful(x, pairs, *setting)
    gaps = [furthest(mine[k], peer[k]) for k in (0, 1) for peer in (reference, other)]
    equal = max(gaps) <= 2e-5
    print(f"{len(SUMMARIES)} summaries and {len(DISTANCES)} distances equal (rtol 1e-4, atol 2e-5): {equal}")

    shape = " × ".join(str(size) for size in x.shape)
    print(f"\nall of them on {shape} with {len(pairs)} pairs")
    times = in_turns(
        {
            "ours": lambda: ours(None),
            "ours, one thread": lambda: ours(1),
            "scipy.signal once per example": lambda: plain(x, pairs, *setting),
            "the same, coherence by matrix products": lambda: careful(x, pairs, *setting),
        },
        options.repeats,
    )
    reached = report(times, "ours", {"scipy.signal once per example": TARGET})
    alone = {name: values for name, values in times.items() if name != "ours"}
    reached &= report(alone, "ours, one thread", {"scipy.signal once per example": TARGET})

    prefixes = [options.samples * k // 10 for k in range(1, 11)]

    def from_the_start() -> None:
        for prefix in prefixes:
            known = features(x[..., :prefix], *setting)
            distances(known, known, pairs)

    print("\nten growing prefixes")
    times = in_turns(
        {
            "shared": lambda: prefix_distances(x, x, pairs, setting[0], prefixes, *setting[1:]),
            "each prefix from the start (ours)": from_the_start,
        },
        max(5, options.repeats // 2),
    )
    report(times, "shared", {})
    return 0 if equal and reached else 1


if __name__ == "__main__":
    raise SystemExit(main())
