"""Guesses of hidden patches that need no learning."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from brainlab.errors import ShapeMismatch
from brainlab.metrics.interpolation import channel_mean, covariance_guess, linear_in_time, neighbours_in_space, zero


@pytest.fixture
def windows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    eeg = torch.randn(3, 5, 4, 20, generator=generator)
    mask = torch.rand(3, 5, 4, generator=generator) < 0.5
    mask[0, 1] = True
    return eeg, mask, torch.randn(3, 5, generator=generator)


def test_a_line_in_time_equals_numpy_interp_over_the_visible_samples(windows) -> None:
    eeg, mask, mean = windows
    guess = linear_in_time(eeg, mask, mean).reshape(3, 5, -1)
    for window in range(3):
        for channel in range(5):
            hidden = mask[window, channel].repeat_interleave(20).numpy()
            if hidden.all():
                assert torch.equal(guess[window, channel], mean[window, channel].expand(80))
                continue
            places, samples = np.arange(80), eeg[window, channel].reshape(-1).numpy()
            expected = np.interp(places, places[~hidden], samples[~hidden])
            np.testing.assert_allclose(guess[window, channel].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("method", ["linear", "neighbours", "covariance", "mean", "zero"])
def test_no_guess_looks_at_a_hidden_sample(windows, method: str) -> None:
    eeg, mask, mean = windows
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((5, 5))
    guess = {
        "linear": lambda x: linear_in_time(x, mask, mean),
        "neighbours": lambda x: neighbours_in_space(x, mask, torch.from_numpy(rng_positions), mean),
        "covariance": lambda x: covariance_guess(x, mask, torch.from_numpy(mixing @ mixing.T), mean),
        "mean": lambda x: channel_mean(x, mask, mean),
        "zero": lambda x: zero(x, mask),
    }[method]
    rng_positions = rng.standard_normal((5, 3))
    changed = torch.where(mask[..., None], 99.0, eeg)
    assert torch.equal(guess(eeg)[mask], guess(changed)[mask])


def test_neighbours_take_the_nearest_visible_electrodes_only() -> None:
    positions = torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0], [9.0, 0, 0]])
    eeg = torch.tensor([7.0, 1.0, 2.0, 100.0]).view(1, 4, 1, 1).expand(1, 4, 1, 3)
    mask = torch.tensor([True, False, False, False]).view(1, 4, 1)
    guess = neighbours_in_space(eeg, mask, positions, torch.zeros(1, 4), n_neighbours=2)
    expected = (1.0 / 1 + 2.0 / 4) / (1 + 1 / 4)
    torch.testing.assert_close(guess[0, 0, 0], torch.full((3,), expected))


def test_the_covariance_guess_recovers_a_channel_that_is_a_mixture_of_others() -> None:
    generator = torch.Generator().manual_seed(1)
    sources = torch.randn(2, 5000, generator=generator, dtype=torch.float64)
    mixing = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, -0.8]], dtype=torch.float64)
    samples = mixing @ sources
    eeg = samples[:, :400].reshape(1, 3, 2, 200)
    mask = torch.tensor([[False, False], [False, True], [True, False]]).view(1, 3, 2)
    guess = covariance_guess(eeg, mask, torch.cov(samples), torch.zeros(1, 3, dtype=torch.float64), shrinkage=1e-9)
    torch.testing.assert_close(guess[mask], eeg[mask], atol=1e-3, rtol=0)


def test_a_patch_hidden_everywhere_takes_the_mean() -> None:
    eeg, mask = torch.ones(1, 2, 1, 4), torch.ones(1, 2, 1, dtype=torch.bool)
    mean = torch.tensor([[3.0, 5.0]])
    expected = mean[:, :, None, None].expand(1, 2, 1, 4)
    assert torch.equal(covariance_guess(eeg, mask, torch.eye(2), mean), expected)
    assert torch.equal(neighbours_in_space(eeg, mask, torch.eye(3)[:2], mean), expected)


def test_a_mean_of_another_shape_is_refused(windows) -> None:
    eeg, mask, mean = windows
    with pytest.raises(ShapeMismatch, match="mean"):
        linear_in_time(eeg, mask, mean[:1])
    with pytest.raises(ShapeMismatch, match="positions"):
        neighbours_in_space(eeg, mask, torch.zeros(4, 3), mean)
    with pytest.raises(ShapeMismatch, match="covariance"):
        covariance_guess(eeg, mask, torch.eye(4), mean)
