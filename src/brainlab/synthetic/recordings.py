"""Simulated EEG recordings in FIF with a planted generative model, laid out like a small BIDS folder.

Each recording is ``mixing @ sources + noise``: sources at planted places on the scalp have smooth topographies, so that
neighbouring electrodes share most of their signal as real EEG does; most sources are 1/f noise, the occipital ones are
alpha bursts. An eye channel typed as EEG, a heart channel and a trigger channel are there because real files have them.
``planted.json`` keeps every parameter and ``<name>_planted.npz`` each recording's mixing matrix and events.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy.random import Generator

from brainlab.errors import InvalidValue
from brainlab.io.cache import code_digest

__all__ = ["CHANNELS", "SIZES", "SimulatedRecordings", "Size", "write_recordings"]

CHANNELS = (
    *("Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "T7", "C3", "Cz", "C4", "T8"),
    *("P7", "P3", "Pz", "P4", "P8", "O1", "O2"),
)
"""The 19 electrodes of the 10–20 system, front to back."""

_FIRST_SAMP = 1111
_EVENT_NAMES = ("standard", "target")
_MICROVOLT = 1e-6


@dataclass(frozen=True)
class Size:
    """How much is simulated; amplitudes in µV (standard deviations), times in s, frequencies in Hz."""

    n_subjects: int
    duration_s: float
    sfreq_hz: float = 250.0
    n_background: int = 16
    n_alpha: int = 2
    background_uv: float = 12.0
    alpha_uv: float = 9.0
    noise_uv: float = 2.0
    topography_m: float = 0.055
    event_every_s: float = 2.0


SIZES = {"tiny": Size(n_subjects=2, duration_s=40.0), "default": Size(n_subjects=3, duration_s=240.0)}


@dataclass(frozen=True)
class SimulatedRecordings:
    """The simulated EEG of :func:`write_recordings` as an object that a configuration can name.

    Args:
        seed: same seed, same files.
    """

    seed: int = 0

    def write(self, folder: Path | str, size: Literal["tiny", "default"] = "default") -> list[Path]:
        """Write the recordings; their paths in order.

        Raises:
            InvalidValue: if ``size`` is unknown.
        """
        return write_recordings(folder, size, self.seed)

    def recipe(self) -> dict[str, Any]:
        """What the files depend on, JSON-ready."""
        return {"simulator": "recordings", "seed": self.seed, "code": code_digest("synthetic/recordings.py")}


def write_recordings(root: str | Path, size: Literal["tiny", "default"] = "default", seed: int = 0) -> list[Path]:
    """Write ``sub-XX/ses-01/eeg/sub-XX_ses-01_task-rest_raw.fif`` for every simulated subject.

    Returns:
        the files' paths, in order.

    Raises:
        InvalidValue: if ``size`` is neither "tiny" nor "default".
    """
    import mne

    if size not in SIZES:
        raise InvalidValue("data.size", size, f"unknown; expected one of {', '.join(SIZES)}")
    plan, folder = SIZES[size], Path(root)
    folder.mkdir(parents=True, exist_ok=True)
    montage = mne.channels.make_standard_montage("biosemi64")
    place = montage.get_positions()["ch_pos"]
    electrodes = np.array([place[name] for name in CHANNELS])
    names = [*CHANNELS, "EOG1", "ECG", "STI 014"]
    kinds = ["eeg"] * (len(CHANNELS) + 1) + ["ecg", "stim"]
    paths = []
    for subject in range(plan.n_subjects):
        rng = np.random.default_rng([seed, subject])
        mixing = _topographies(electrodes, plan, rng)
        n = round(plan.duration_s * plan.sfreq_hz)
        sources = np.concatenate(
            [_pink(plan.n_background, n, plan.sfreq_hz, rng), _alpha(plan.n_alpha, n, plan.sfreq_hz, rng)]
        )
        eeg = mixing @ sources + plan.noise_uv * rng.standard_normal((len(CHANNELS), n))
        blink = _blinks(n, plan.sfreq_hz, rng)
        eeg += np.exp(-np.linalg.norm(electrodes - electrodes[:2].mean(0), axis=1) / 0.03)[:, None] * blink
        heart = 400.0 * (np.sin(2 * np.pi * 1.1 * np.arange(n) / plan.sfreq_hz) > 0.995)
        events = _events(plan, n, rng)
        trigger = np.zeros(n)
        for sample, code in events:
            trigger[sample : sample + 2] = code + 1
        info = mne.create_info(names, plan.sfreq_hz, kinds)
        data = np.vstack([np.vstack([eeg, 2 * blink, heart]) * _MICROVOLT, trigger[None]])
        raw = mne.io.RawArray(data, info, first_samp=_FIRST_SAMP, verbose="error")
        raw.set_montage(montage, on_missing="ignore", verbose="error")
        raw.set_meas_date(datetime(2020, 1, 1 + subject, tzinfo=UTC))
        onsets = (events[:, 0] + _FIRST_SAMP) / plan.sfreq_hz
        labels = [_EVENT_NAMES[code] for code in events[:, 1]]
        raw.set_annotations(mne.Annotations(onsets, 0.1, labels, orig_time=raw.info["meas_date"]), verbose="error")
        name = f"sub-{subject + 1:02d}_ses-01_task-rest"
        path = folder / f"sub-{subject + 1:02d}" / "ses-01" / "eeg" / f"{name}_raw.fif"
        path.parent.mkdir(parents=True, exist_ok=True)
        raw.save(path, fmt="single", overwrite=True, verbose="error")
        np.savez(folder / f"{name}_planted.npz", mixing=mixing, event_samples=events[:, 0], event_codes=events[:, 1])
        paths.append(path)
    facts = {"size": size, "seed": seed, "first_samp": _FIRST_SAMP, "event_names": _EVENT_NAMES, **asdict(plan)}
    (folder / "planted.json").write_text(json.dumps(facts, indent=2), encoding="utf-8")
    return paths


def _topographies(electrodes: Float[np.ndarray, "channel 3"], plan: Size, rng: Generator) -> np.ndarray:
    """(channel, source) in µV: Gaussian in the distance from a place on the scalp, alpha at the back of the head."""
    centre, radius = electrodes.mean(0), np.linalg.norm(electrodes - electrodes.mean(0), axis=1).mean()
    direction = rng.standard_normal((plan.n_background, 3))
    direction[:, 2] = np.abs(direction[:, 2])
    background = centre + radius * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    back = electrodes[-2:][np.arange(plan.n_alpha) % 2] + 0.01 * rng.standard_normal((plan.n_alpha, 3))

    def spread(places: np.ndarray) -> np.ndarray:
        squared = ((electrodes[:, None] - places[None]) ** 2).sum(-1)
        return np.exp(-squared / (2 * plan.topography_m**2))

    sign = rng.choice([-1.0, 1.0], plan.n_background)
    scale = plan.background_uv / np.sqrt(plan.n_background / 4)
    return np.hstack([scale * sign * spread(background), plan.alpha_uv * spread(back)])


def _pink(n_sources: int, n: int, sfreq_hz: float, rng: Generator) -> np.ndarray:
    """(source, time): 1/f power above 0.5 Hz, flat below, unit variance."""
    frequency = np.fft.rfftfreq(n, 1 / sfreq_hz)
    shape = 1 / np.sqrt(np.maximum(frequency, 0.5))
    shape[0] = 0.0
    spectrum = shape * (
        rng.standard_normal((n_sources, len(shape))) + 1j * rng.standard_normal((n_sources, len(shape)))
    )
    signal = np.fft.irfft(spectrum, n)
    return signal / signal.std(axis=1, keepdims=True)


def _alpha(n_sources: int, n: int, sfreq_hz: float, rng: Generator) -> np.ndarray:
    """(source, time): 8–12 Hz noise, whose envelope waxes and wanes by itself; unit variance."""
    frequency = np.fft.rfftfreq(n, 1 / sfreq_hz)
    peak = rng.uniform(9.5, 10.5, (n_sources, 1))
    shape = np.exp(-((frequency - peak) ** 2) / (2 * 0.6**2))
    spectrum = shape * (rng.standard_normal(shape.shape) + 1j * rng.standard_normal(shape.shape))
    signal = np.fft.irfft(spectrum, n)
    return signal / signal.std(axis=1, keepdims=True)


def _blinks(n: int, sfreq_hz: float, rng: Generator) -> np.ndarray:
    """(time) in µV: a 0.3-s bump of about 100 µV every 5 s or so."""
    bump = 100.0 * np.hanning(round(0.3 * sfreq_hz))
    trace = np.zeros(n)
    start = 0.0
    while True:
        start += rng.exponential(4.0) + 1.0
        first = round(start * sfreq_hz)
        if first + len(bump) > n:
            return trace
        trace[first : first + len(bump)] += bump


def _events(plan: Size, n: int, rng: Generator) -> np.ndarray:
    """(event, 2): sample from the first one in the file, and code; jittered so that no time is a round number."""
    every = plan.event_every_s * plan.sfreq_hz
    starts = (
        np.arange(every, n - every, every) + rng.uniform(-0.3, 0.3, len(np.arange(every, n - every, every))) * every
    )
    return np.stack([starts.astype(np.int64), rng.integers(0, len(_EVENT_NAMES), len(starts))], axis=1)
