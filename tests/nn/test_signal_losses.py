"""Losses of signals against a few lines of NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.nn.signal_losses import covariance_loss, log_power_gap, spectral_loss


@pytest.fixture
def pair() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 3, 4, 500))  # (guess | real, batch, channel, time)


def band_log_power(x: np.ndarray, sfreq: float) -> np.ndarray:
    """(band, row), by frames of 256 samples at 0, 64, … of the reflected signal."""
    padded = np.pad(x, ((0, 0), (128, 128)), mode="reflect")
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256)
    frames = [padded[:, s : s + 256] * taper for s in range(0, padded.shape[1] - 255, 64)]
    log = np.log(np.mean([np.abs(np.fft.rfft(frame)) ** 2 for frame in frames], axis=0) + 1e-8)
    f = np.arange(129) * sfreq / 256
    return np.stack([log[:, (f >= a) & (f < b)].mean(axis=1) for a, b in ((1, 4), (4, 8), (8, 13), (13, 30), (30, 50))])


def test_spectral_loss_is_the_error_of_samples_and_of_log_power_in_bands(pair):
    guess, real = pair.reshape(2, 12, 500)
    expected = ((guess - real) ** 2).mean() + ((band_log_power(guess, 128.0) - band_log_power(real, 128.0)) ** 2).mean()
    found = spectral_loss(torch.tensor(guess), torch.tensor(real), 128.0)
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_bands_beyond_the_rate_are_left_out(pair):
    guess, real = (torch.tensor(x) for x in pair.reshape(2, 12, 500))
    assert torch.isfinite(spectral_loss(guess, real, 20.0))
    with pytest.raises(InvalidValue, match=r"sfreq_hz=0\.5"):
        spectral_loss(guess, real, 0.5)
    with pytest.raises(InvalidValue, match="positive sampling rate"):
        spectral_loss(guess, real, 0.0)
    with pytest.raises(ShapeMismatch, match="more than 128 samples"):
        spectral_loss(guess[:, :128], real[:, :128], 100.0)


def test_covariance_loss_compares_unbiased_covariances(pair):
    expected = [np.abs(np.cov(guess) - np.cov(real)).mean() for guess, real in zip(*pair, strict=True)]
    found = covariance_loss(*torch.tensor(pair))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_half_precision_of_a_training_does_not_reach_the_covariance(pair):
    guess, real = torch.tensor(pair).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = covariance_loss(guess, real)
    assert torch.equal(rough, covariance_loss(guess, real))


def test_absent_channels_have_no_covariance(pair):
    present = torch.ones(3, 4, dtype=torch.bool)
    present[1, 2] = False
    kept = pair[:, 1, [0, 1, 3]]
    found = covariance_loss(*torch.tensor(pair), present)
    assert float(found[1]) == pytest.approx(np.abs(np.cov(kept[0]) - np.cov(kept[1])).mean(), rel=1e-4)
    assert float(found[0]) == pytest.approx(float(covariance_loss(*torch.tensor(pair))[0]))


@pytest.mark.parametrize("n_time", [200, 256, 500])
def test_log_power_gap_reads_the_first_256_samples(pair, n_time):
    pair = pair[..., :n_time]
    f = np.fft.rfftfreq(256, 1 / 100)
    inside = (f >= 8) & (f <= 12)
    log = [np.log((np.abs(np.fft.rfft(x, n=256)) ** 2).mean(axis=(0, 1)) + 1e-8) for x in pair]
    expected = np.abs(log[0] - log[1])[inside].mean()
    assert float(log_power_gap(*torch.tensor(pair), 100.0)) == pytest.approx(expected, rel=1e-4)


def test_both_ends_of_the_rhythm_count():
    silent, real = torch.zeros(2, 1, 2, 256).unbind(0)
    for frequency, counts in ((8.0, True), (12.0, True), (7.5, False), (12.5, False)):
        time = torch.arange(256) / 128
        gap = log_power_gap(silent, real + torch.sin(2 * torch.pi * frequency * time), 128.0)
        assert (gap > 1) == counts, frequency
    with pytest.raises(InvalidValue, match="8 to 12 Hz"):
        log_power_gap(silent, real, 15.0)


@pytest.mark.parametrize(
    "loss",
    [
        lambda a, b: spectral_loss(a[0], b[0], 100.0),
        lambda a, b: covariance_loss(a, b).sum(),
        lambda a, b: log_power_gap(a, b, 100.0),
    ],
)
def test_flat_signals_have_finite_gradients(loss):
    guess = torch.zeros(1, 3, 300, requires_grad=True)
    loss(guess, torch.zeros(1, 3, 300)).backward()
    assert bool(torch.isfinite(guess.grad).all())
