"""The planted activity is what it says: spectra, linear model, rhythms, and how much sessions differ."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import welch

from brainlab.errors import ShapeMismatch
from brainlab.synthetic.meg_sources import OSCILLATORS, Sources, cortex, session_sources

FS = 300.0


@pytest.fixture(scope="module")
def sources() -> Sources:
    return session_sources((0, 1, 1), FS)


def test_a_fitted_vector_autoregression_recovers_the_linear_part() -> None:
    small = session_sources((0, 1, 1), FS, n_sources=6)
    x = small.draw_linear(120_000, np.random.default_rng(0))
    planted = small.var_coefficients()
    order = len(planted)
    past = np.vstack([x[:, order - lag : -lag] for lag in range(1, order + 1)])
    fitted = np.linalg.lstsq(past.T, x[:, order:].T, rcond=None)[0].T
    residual = x[:, order:] - fitted @ past
    # Standard errors of least squares: the innovation covariance times the inverse of the past's.
    error = np.sqrt(np.outer(residual.var(1), np.diag(np.linalg.inv(past @ past.T))))
    deviation = (fitted - np.hstack(list(planted))) / error
    assert np.abs(deviation).max() < 4.5
    assert np.mean(np.abs(deviation) < 1.96) > 0.85
    np.testing.assert_allclose(np.cov(residual), small.innovation_covariance(), rtol=0.05, atol=1e-4)


def test_the_linear_part_is_stable() -> None:
    coefficients = session_sources((0, 1, 1), FS, n_sources=20).var_coefficients()
    order, n, _ = coefficients.shape
    companion = np.eye(order * n, k=-n)
    companion[:n] = np.hstack(list(coefficients))
    assert np.abs(np.linalg.eigvals(companion)).max() < 0.999


def test_the_spectrum_of_the_linear_part_is_the_planted_one_and_falls_like_one_over_f(sources: Sources) -> None:
    x = sources.draw_linear(90_000, np.random.default_rng(1))
    frequency, power = welch(x, FS, nperseg=1200)
    inside = (frequency >= 1) & (frequency <= 60)
    planted = sources.linear_spectrum(frequency[inside])
    ratio = power[:, inside] / planted
    # 149 half-overlapping Hann segments of white noise: a standard deviation of about 10 %; neighbours are correlated.
    assert 0.9 < np.median(ratio) < 1.1
    assert np.mean(np.abs(np.log(ratio)) < 0.3) > 0.98
    slope = np.polyfit(np.log(frequency[inside]), np.log(planted.mean(0)), 1)[0]
    assert -2.6 < slope < -0.8


def test_the_covariance_at_rest_is_the_planted_one(sources: Sources) -> None:
    x = sources.draw(60_000, np.random.default_rng(2))
    planted = sources.covariance()
    assert np.linalg.norm(np.cov(x) - planted) < 0.12 * np.linalg.norm(planted)


def test_every_rhythm_peaks_at_its_planted_frequency(sources: Sources) -> None:
    waves = sources.draw_oscillators(90_000, np.random.default_rng(3))
    frequency, power = welch(waves, FS, nperseg=3000)
    peak = frequency[power.argmax(1)]
    np.testing.assert_allclose(peak, sources.frequency_hz, atol=0.35)
    np.testing.assert_allclose(waves.var(axis=1), 1 + sources.harmonic**2, rtol=0.15)


def test_the_second_harmonic_is_locked_to_the_first_which_no_linear_model_does(sources: Sources) -> None:
    mu = [rhythm.name for rhythm in OSCILLATORS].index("mu_left")
    wave = sources.draw_oscillators(90_000, np.random.default_rng(4))[mu]
    same_spectrum = np.fft.rfft(wave)
    same_spectrum *= np.exp(2j * np.pi * np.random.default_rng(5).random(len(same_spectrum)))
    linear = np.fft.irfft(same_spectrum, len(wave))

    def locking(x: np.ndarray) -> float:
        """|E[F(f)² F*(2f)]| / E|F(f)|² |F(2f)| over two-second segments."""
        spectrum = np.fft.rfft(x[: len(x) // 600 * 600].reshape(-1, 600) * np.hanning(600))
        bin_ = round(float(sources.frequency_hz[mu]) * 2)
        first, second = spectrum[:, bin_], spectrum[:, 2 * bin_]
        return float(abs(np.mean(first**2 * second.conj())) / np.mean(np.abs(first) ** 2 * np.abs(second)))

    assert locking(wave) > 0.6
    assert locking(linear) < 0.3


def test_a_linear_model_of_the_rhythms_stays_behind_the_planted_bound(sources: Sources) -> None:
    waves = sources.draw_oscillators(40_000, np.random.default_rng(7))
    bound = sources.rhythm_error()
    for wave, best in zip(waves, bound, strict=True):
        past = np.array([wave[40 - lag : -lag] for lag in range(1, 41)])
        weights = np.linalg.solve(past @ past.T + 1e-4 * np.eye(40), past @ wave[40:])
        error = float(np.mean((wave[40:] - weights @ past) ** 2))
        assert 1.15 * best < error < 2.5 * best


def test_a_task_changes_the_amplitudes_as_planted(sources: Sources) -> None:
    n = 60_000
    task = np.zeros(n)
    task[n // 2 :] = 1.0
    waves = sources.draw_oscillators(n, np.random.default_rng(6), task)
    frequency, rest = welch(waves[:, : n // 2], FS, nperseg=1500)
    _, busy = welch(waves[:, n // 2 :], FS, nperseg=1500)
    for k, planted in enumerate(sources.task_gain):
        band = np.abs(frequency - sources.frequency_hz[k]) < 1.5
        assert np.sqrt(busy[k, band].sum() / rest[k, band].sum()) == pytest.approx(planted, rel=0.2)
    with pytest.raises(ShapeMismatch, match="task"):
        sources.draw_oscillators(100, np.random.default_rng(0), np.zeros(99))


def test_the_same_key_gives_the_same_session_and_every_number_another_one() -> None:
    first, again, other = (session_sources(key, FS) for key in ((0, 1, 1), (0, 1, 1), (0, 1, 2)))
    np.testing.assert_array_equal(first.patches, again.patches)
    assert np.abs(first.frequency_hz - other.frequency_hz).max() > 0.3
    assert np.abs(np.log(first.gains / other.gains)).max() > 0.2
    np.testing.assert_array_equal(first.mixing, other.mixing)


def test_the_sides_of_a_rhythm_correlate_as_planted_and_keep_their_power() -> None:
    names = [rhythm.name for rhythm in OSCILLATORS]
    left, right = names.index("alpha_left"), names.index("alpha_right")
    place = cortex()
    at = [int((place @ np.array(OSCILLATORS[side].place)).argmax()) for side in (left, right)]
    planted, found = [], []
    for number in range(1, 9):
        sources = session_sources((0, 1, number), FS)
        shares = sources.patches[at][:, [left, right]]
        power = np.square(shares).sum(axis=1)
        # The patches overlap at the midline, and their middles lie between places.
        np.testing.assert_allclose(power, sources.strength[[left, right]] ** 2, rtol=0.35)
        found.append(shares[0] @ shares[1] / np.sqrt(power.prod()))
        planted.append(sources.coupling)
    assert min(planted) < -0.5
    assert max(planted) > 0.5
    np.testing.assert_allclose(found, planted, atol=0.25)
    assert np.corrcoef(found, planted)[0, 1] > 0.99


def test_places_on_the_cortex_are_evenly_spread() -> None:
    place = cortex(68)
    np.testing.assert_allclose(np.linalg.norm(place, axis=1), 1.0)
    distance = np.linalg.norm(place[:, None] - place[None], axis=2) + 9 * np.eye(68)
    assert distance.min(1).max() < 2 * distance.min(1).min()
