"""Planted brain activity for simulated MEG: a linear part whose model is known, and oscillators that are not linear.

The activity of S places on the cortex is x = g ⊙ (W s) + P y. The s_i are independent autoregressive processes with
real poles spread over the frequencies, so that their sum falls off like 1/f; W mixes neighbours, so that W s is a
vector autoregression with coefficients W diag(a_k) W⁻¹. The y_k are oscillators r cos φ + h r² cos 2φ: their amplitude
r waxes and wanes by itself and with the task, their frequency depends on their amplitude, and their second harmonic is
locked to the first. P spreads each over a patch of cortex, g are gains of whole regions.

Sessions differ in the poles, the regional gains, the frequencies, the strengths and the mixing of left and right.
Nearly all of it follows from five traits of a session (how fast its rhythms are, which of them are strong, whether
their two sides go with or against each other, how much of the activity is in front and on the right), so that what is
learned from some sessions holds for the next one. A session can be drawn again from its key (:func:`session_sources`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.random import Generator
from scipy.signal import lfilter

from brainlab.errors import ShapeMismatch

__all__ = ["OSCILLATORS", "Oscillator", "Sources", "cortex", "session_sources"]

N_SOURCES = 68
_ORDER = 3


@dataclass(frozen=True)
class Oscillator:
    """One rhythm as all sessions share it.

    Attributes:
        band_hz: sessions draw their frequency from here.
        place: unit vector (right, front, up) of the middle of its patch.
        width_rad: size of the patch.
        strength: standard deviation over that of the linear part at the middle of the patch.
        task_gain: its amplitude while a condition holds, relative to rest.
        harmonic: amplitude of the second harmonic.
        balance: how its strength goes with a trait of the session that favours some rhythms over others.
    """

    name: str
    band_hz: tuple[float, float]
    place: tuple[float, float, float]
    width_rad: float = 0.45
    strength: float = 1.0
    task_gain: float = 1.0
    harmonic: float = 0.25
    balance: float = 0.0


OSCILLATORS = (
    Oscillator("alpha_left", (8.0, 12.0), (-0.45, -0.80, 0.40), strength=1.6, task_gain=0.5, balance=0.9),
    Oscillator("alpha_right", (8.0, 12.0), (0.45, -0.80, 0.40), strength=1.6, task_gain=0.5, balance=0.9),
    Oscillator("mu_left", (9.0, 13.0), (-0.70, 0.05, 0.70), strength=1.2, task_gain=0.6, harmonic=0.4, balance=0.4),
    Oscillator("mu_right", (9.0, 13.0), (0.70, 0.05, 0.70), strength=1.2, task_gain=0.8, harmonic=0.4, balance=0.4),
    Oscillator("theta", (4.5, 7.0), (0.0, 0.75, 0.65), strength=1.3, task_gain=1.4, balance=-0.9),
    Oscillator(
        "beta", (17.0, 24.0), (0.0, -0.20, 0.98), width_rad=0.7, strength=0.9, task_gain=0.7, harmonic=0.1, balance=-0.6
    ),
)
"""Left and right of one rhythm share their frequency up to 0.3 Hz."""

_PAIRS = [
    [left, right]
    for left, a in enumerate(OSCILLATORS)
    for right, b in enumerate(OSCILLATORS)
    if a.name.endswith("_left") and b.name == a.name.replace("_left", "_right")
]

_REGIONS = ((-0.7, -0.6, 0.3), (0.7, -0.6, 0.3), (-0.7, 0.5, 0.4), (0.7, 0.5, 0.4), (0.0, 0.0, 1.0))
_REGION_WIDTH_RAD = 0.6
_MIXING_RAD = 0.35
_OWN = 0.08  # what a session has for itself, beside its traits
_SIDE, _FRONT = 0.9, 0.9
_COUPLING_RAD = 0.7  # sides correlate by at most ± sin(2 · 0.7)
_LINE_WIDTH_HZ = 1.0
_PULL_HZ = 0.5  # how much faster an oscillator of twice its mean power runs
_WAX_S, _WAX_DEPTH = 1.5, 0.22


@dataclass(frozen=True)
class Sources:
    """The activity of one session, ready to be drawn.

    Attributes:
        sfreq_hz: rate of the samples.
        poles: real poles of the independent processes, (source, order).
        mixing: W, (source, source).
        gains: g, (source,).
        patches: P with the strengths of the oscillators, (source, oscillator).
        strength: of each rhythm at the middle of its patch.
        coupling: correlation of the left and the right side of one rhythm.
        frequency_hz: mean frequency of every oscillator.
        harmonic: relative amplitude of its second harmonic.
        task_gain: its amplitude while a condition holds.
    """

    sfreq_hz: float
    poles: Float[np.ndarray, "source order"]
    mixing: Float[np.ndarray, "source source"]
    gains: Float[np.ndarray, " source"]
    patches: Float[np.ndarray, "source oscillator"]
    strength: Float[np.ndarray, " oscillator"]
    coupling: float
    frequency_hz: Float[np.ndarray, " oscillator"]
    harmonic: Float[np.ndarray, " oscillator"]
    task_gain: Float[np.ndarray, " oscillator"]

    def draw(
        self, n_samples: int, rng: Generator, task: Float[np.ndarray, " time"] | None = None
    ) -> Float[np.ndarray, "source time"]:
        """Activity of every place; the linear part has unit variance before its gains.

        Args:
            n_samples: length.
            rng: source of randomness; independent draws of one session are the floor of every comparison.
            task: how much of a condition holds at each sample, 0 to 1; None is rest.
        """
        return self.draw_linear(n_samples, rng) + self.patches @ self.draw_oscillators(n_samples, rng, task)

    def draw_linear(self, n_samples: int, rng: Generator) -> Float[np.ndarray, "source time"]:
        """The linear part alone, g ⊙ (W s), in its stationary state."""
        settle = int(np.ceil(8 / (1 - self.poles.max())))
        noise = rng.standard_normal((len(self.poles), settle + n_samples))
        noise *= self._innovation_sd()[:, None]
        for row, poles in zip(noise, self.poles, strict=True):
            row[:] = lfilter([1.0], np.poly(poles), row)
        return (self.gains[:, None] * self.mixing) @ noise[:, settle:]

    def draw_oscillators(
        self, n_samples: int, rng: Generator, task: Float[np.ndarray, " time"] | None = None
    ) -> Float[np.ndarray, "oscillator time"]:
        """The oscillators alone, about unit variance at rest.

        Raises:
            ShapeMismatch: if ``task`` has another length.
        """
        if task is not None and len(task) != n_samples:
            raise ShapeMismatch("task", len(task), f"expected {n_samples} samples")
        n, step_s = len(self.frequency_hz), 1 / self.sfreq_hz
        keep = np.exp(-step_s / _WAX_S)
        settle = int(4 * _WAX_S * self.sfreq_hz)
        slow = lfilter([np.sqrt(1 - keep**2)], [1, -keep], rng.standard_normal((n, settle + n_samples)))[:, settle:]
        power = np.exp(2 * _WAX_DEPTH * slow - 2 * _WAX_DEPTH**2)  # mean 1
        jitter = rng.standard_normal((n, n_samples)) * np.sqrt(2 * np.pi * _LINE_WIDTH_HZ * step_s)
        speed = self.frequency_hz[:, None] + _PULL_HZ * (power - 1)
        phase = np.cumsum(2 * np.pi * step_s * speed + jitter, axis=1) + rng.uniform(0, 2 * np.pi, (n, 1))
        if task is not None:
            power *= (1 + (self.task_gain[:, None] - 1) * task) ** 2
        wave = np.sqrt(power) * np.cos(phase) + self.harmonic[:, None] * power * np.cos(2 * phase)
        return np.sqrt(2) * wave

    def var_coefficients(self) -> Float[np.ndarray, "order source source"]:
        """A_1 … A_p of the linear part: x[t] = Σ A_k x[t−k] + innovation."""
        mixed = self.gains[:, None] * self.mixing
        back = np.linalg.inv(mixed)
        scalar = -np.array([np.poly(poles)[1:] for poles in self.poles])
        return np.stack([(mixed * scalar[:, lag]) @ back for lag in range(scalar.shape[1])])

    def covariance(self) -> Float[np.ndarray, "source source"]:
        """Covariance of the whole activity at rest."""
        mixed = self.gains[:, None] * self.mixing
        # E[r²] = 1 and E[r⁴] = exp(4 depth²) for the log-normal power r².
        power = 1 + self.harmonic**2 * np.exp(4 * _WAX_DEPTH**2)
        return mixed @ mixed.T + (self.patches * power) @ self.patches.T

    def innovation_covariance(self) -> Float[np.ndarray, "source source"]:
        """Covariance of what the past of the linear part says nothing about."""
        mixed = self.gains[:, None] * self.mixing * self._innovation_sd()
        return mixed @ mixed.T

    def linear_spectrum(self, frequency_hz: Float[np.ndarray, " frequency"]) -> Float[np.ndarray, "source frequency"]:
        """One-sided power spectral density of the linear part, per Hz."""
        turn = np.exp(-2j * np.pi * np.asarray(frequency_hz) / self.sfreq_hz)
        response = 1 / np.prod(1 - self.poles[:, :, None] * turn, axis=1)
        scalar = 2 / self.sfreq_hz * (self._innovation_sd()[:, None] * np.abs(response)) ** 2
        return (self.gains[:, None] * self.mixing) ** 2 @ scalar

    def rhythm_error(self) -> Float[np.ndarray, " oscillator"]:
        """Smallest mean squared error with which the next sample of each oscillator can be foretold, at rest.

        It is what the random steps of the phase leave to one who knows amplitude and phase; the best linear predictor
        does worse, because to it the second harmonic is another rhythm with a noise of its own.
        """
        step = 2 * np.pi * _LINE_WIDTH_HZ / self.sfreq_hz
        second = self.harmonic**2 * np.exp(4 * _WAX_DEPTH**2)
        return (1 - np.exp(-step)) + second * (1 - np.exp(-4 * step))

    def describe(self) -> dict[str, Any]:
        """The planted parameters that sessions differ in, JSON-ready."""
        return {
            "frequency_hz": self.frequency_hz.round(4).tolist(),
            "strength": self.strength.round(4).tolist(),
            "coupling": round(self.coupling, 4),
            "knee_hz": round(float(np.median(-np.log(self.poles[:, 0])) * self.sfreq_hz / 2 / np.pi), 4),
            "gains": self.gains.round(4).tolist(),
        }

    def _innovation_sd(self) -> Float[np.ndarray, " source"]:
        """So that every independent process has unit variance."""
        length = int(np.ceil(8 / (1 - self.poles.max())))
        impulse = np.zeros(length)
        impulse[0] = 1.0
        return np.array([1 / np.linalg.norm(lfilter([1.0], np.poly(poles), impulse)) for poles in self.poles])


def cortex(n_sources: int = N_SOURCES) -> Float[np.ndarray, "source 3"]:
    """Places on a unit sphere (right, front, up), evenly spread over all but its lowest quarter."""
    number = np.arange(n_sources) + 0.5
    up = 1 - number / n_sources * 1.4
    turn = np.pi * (1 + np.sqrt(5)) * number
    level = np.sqrt(1 - up**2)
    return np.stack([level * np.cos(turn), level * np.sin(turn), up], axis=1)


def session_sources(key: Sequence[int], sfreq_hz: float, n_sources: int = N_SOURCES) -> Sources:
    """The planted activity of one session.

    Args:
        key: names the session (seed, data set, number); the same key gives the same parameters.
        sfreq_hz: rate of the samples.
        n_sources: places on the cortex.
    """
    rng = np.random.default_rng([*key, 1])
    anatomy = np.random.default_rng([key[0], 2])  # of all sessions alike
    place = cortex(n_sources)
    knee_hz = np.exp(anatomy.uniform(np.log(0.6), np.log(6.0), n_sources))
    shape_hz = anatomy.uniform(15.0, 40.0, n_sources)
    # Few traits, bounded: what a model learns from some sessions then holds for the next one.
    speed, balance, front, side, coupling = rng.uniform(-1, 1, 5)
    own = rng.standard_normal(len(_REGIONS) + len(OSCILLATORS) + 2)
    knee, shape = np.exp(_OWN * own[-2:] + np.array([-0.4, -0.3]) * balance)
    corner_hz = np.stack([knee_hz * knee, np.clip(shape_hz * shape, 8, 70), np.full(n_sources, 90.0)], axis=1)
    mixing = np.exp(-(_angle(place, place) ** 2) / (2 * _MIXING_RAD**2))
    mixing /= np.linalg.norm(mixing, axis=1, keepdims=True)
    regions = np.exp(-(_angle(place, _unit(_REGIONS)) ** 2) / (2 * _REGION_WIDTH_RAD**2))
    slopes = np.array([[x, y] for x, y, _ in _REGIONS]) @ np.array([_SIDE * side, _FRONT * front])
    gains = np.exp(regions @ (slopes + _OWN * own[: len(_REGIONS)]))
    frequency, strength, patches = [], [], []
    for number, rhythm in enumerate(OSCILLATORS):
        low, high = rhythm.band_hz
        frequency.append((low + high) / 2 + (high - low) / 2 * speed + rng.uniform(-0.15, 0.15))
        strength.append(rhythm.strength * np.exp(rhythm.balance * balance + _OWN * own[len(_REGIONS) + number]))
        patch = np.exp(-(_angle(place, _unit([rhythm.place]))[:, 0] ** 2) / (2 * rhythm.width_rad**2))
        patches.append(strength[-1] * patch)
    spread, turn = np.stack(patches, axis=1), _COUPLING_RAD * coupling
    for pair in _PAIRS:
        # Each side takes from the oscillators of both and keeps its power.
        spread[:, pair] = spread[:, pair] @ np.array([[np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return Sources(
        sfreq_hz=sfreq_hz,
        poles=np.exp(-2 * np.pi * corner_hz[:, :_ORDER] / sfreq_hz),
        mixing=mixing,
        gains=gains,
        patches=spread,
        strength=np.array(strength),
        coupling=float(np.sin(2 * turn)),
        frequency_hz=np.array(frequency),
        harmonic=np.array([rhythm.harmonic for rhythm in OSCILLATORS]),
        task_gain=np.array([rhythm.task_gain for rhythm in OSCILLATORS]),
    )


def _unit(points: Any) -> np.ndarray:
    array = np.asarray(points, dtype=float)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def _angle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.arccos(np.clip(a @ b.T, -1, 1))
