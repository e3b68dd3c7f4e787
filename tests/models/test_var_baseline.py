"""Linear forecasters: planted models come back, likelihoods are exact, and nothing explodes when it runs freely."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.signal import welch

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.models.lagged_products import LaggedProducts
from brainlab.models.var_baseline import Autoregression, ContextAutoregression, SeasonalNaive, VectorAutoregression
from brainlab.synthetic.meg_sources import session_sources

MEAN = SimpleNamespace(temperature=0.0, kind="top_p")


def planted(n_channels: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Coefficients (2, channel, channel) with complex roots of modulus 0.95, constants, and a full noise factor."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.standard_normal((n_channels, n_channels)))[0]
    frequency = np.linspace(0.3, 1.2, n_channels)
    first = turn @ np.diag(2 * 0.95 * np.cos(frequency)) @ turn.T
    second = turn @ np.diag(np.full(n_channels, -(0.95**2))) @ turn.T
    noise = np.linalg.cholesky(np.eye(n_channels) + 0.5 * np.ones((n_channels, n_channels)))
    constant = np.linspace(-0.1, 0.1, n_channels)
    return torch.from_numpy(np.stack([first, second])), torch.from_numpy(constant), torch.from_numpy(noise)


def simulate(n_time: int, n_stretches: int = 1, seed: int = 1) -> torch.Tensor:
    """(stretch, channel, time) float64 of the planted model, past its transient."""
    weight, constant, noise = planted()
    rng = torch.Generator().manual_seed(seed)
    x = torch.zeros(n_stretches, 3, n_time + 300, dtype=torch.float64)
    for t in range(2, x.shape[-1]):
        pushed = torch.randn(n_stretches, 3, generator=rng, dtype=torch.float64) @ noise.T
        x[..., t] = x[..., t - 1] @ weight[0].T + x[..., t - 2] @ weight[1].T + constant + pushed
    return x[..., 300:]


@pytest.fixture(scope="module")
def training() -> torch.Tensor:
    return simulate(6000, n_stretches=4)


@pytest.fixture(scope="module")
def fitted(training: torch.Tensor) -> VectorAutoregression:
    return VectorAutoregression(3, order=2, ridge=0.0).fit(training.numpy())


def _known(n_channels: int = 3) -> VectorAutoregression:
    """The planted model itself."""
    weight, constant, noise = planted(n_channels)
    model = VectorAutoregression(n_channels, order=2)
    model.coefficients.copy_(weight)
    model.intercept.copy_(constant)
    model.noise.copy_(noise)
    model.n_fitted.fill_(1)
    return model


def test_moments_are_those_of_the_stacked_design() -> None:
    x = torch.randn(3, 4, 25, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sums = LaggedProducts(4, 5)
    assert sums.add(x[:2]) + sums.add(x[2:, :, :17]) + sums.add(x[2:, :, :5]) == 2 * 20 + 12
    now, past = [], []
    for stretch in (x[0], x[1], x[2, :, :17]):
        for t in range(5, stretch.shape[-1]):
            now.append(stretch[:, t])
            past.append(torch.cat([stretch[:, t - lag] for lag in range(1, 6)]))
    y, z = torch.stack(now), torch.stack(past)
    found = sums.moments()
    torch.testing.assert_close(found.now_now, y.T @ y)
    torch.testing.assert_close(found.now_past, y.T @ z)
    torch.testing.assert_close(found.past_past, z.T @ z)
    torch.testing.assert_close(found.sum_past, z.sum(dim=0))
    assert found.n == 52


def test_moments_do_not_depend_on_how_they_were_accumulated_or_stored() -> None:
    x = torch.randn(4, 2, 30, generator=torch.Generator().manual_seed(0))
    at_once, one_by_one = LaggedProducts(2, 3), LaggedProducts(2, 3)
    at_once.add(x)
    one_by_one.add(x[:1])
    again = LaggedProducts(2, 3)
    again.load(one_by_one.state())
    for row in range(1, 4):
        again.add(x[row : row + 1])
    torch.testing.assert_close(again.moments().past_past, at_once.moments().past_past)
    assert again.n == at_once.n


def test_planted_var_is_recovered(fitted: VectorAutoregression) -> None:
    weight, constant, noise = planted()
    torch.testing.assert_close(fitted.coefficients.double(), weight, atol=0.02, rtol=0)
    torch.testing.assert_close(fitted.intercept.double(), constant, atol=0.03, rtol=0)
    torch.testing.assert_close((fitted.noise @ fitted.noise.T).double(), noise @ noise.T, atol=0.05, rtol=0)
    assert fitted.describe()["shrinkage"] == 1.0
    assert fitted.describe()["spectral_radius_fitted"] == pytest.approx(0.95, abs=0.01)


def test_higher_order_finds_that_the_further_lags_hold_nothing(training: torch.Tensor) -> None:
    model = VectorAutoregression(3, order=6, ridge=0.0).fit(training.numpy())
    assert model.coefficients[2:].abs().max() < 0.03


def test_likelihood_is_that_of_the_gaussian_step_by_step() -> None:
    model, x = _known(), simulate(40, n_stretches=2, seed=5)
    weight, constant, noise = planted()
    gaussian = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=torch.float64), scale_tril=noise)
    total = torch.zeros(2, dtype=torch.float64)
    for t in range(2, 40):
        mean = x[..., t - 1] @ weight[0].T + x[..., t - 2] @ weight[1].T + constant
        total -= gaussian.log_prob(x[..., t] - mean)
    torch.testing.assert_close(model.nll(x).double(), total / (38 * 3), atol=1e-5, rtol=1e-5)


def test_likelihood_of_some_channels_is_their_marginal() -> None:
    model, x = _known(), simulate(40, seed=5)
    present = torch.tensor([[True, False, True]])
    covariance = (planted()[2] @ planted()[2].T)[[0, 2]][:, [0, 2]]
    gaussian = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=torch.float64), covariance)
    error = model._errors(x)[:, [0, 2]]
    expected = -gaussian.log_prob(error.transpose(1, 2)).mean() / 2
    assert float(model.nll(x, present)[0]) == pytest.approx(float(expected), rel=1e-5)


def test_no_model_is_more_likely_than_the_planted_one(fitted: VectorAutoregression, training: torch.Tensor) -> None:
    """The entropy rate bounds what any forecaster can reach; a fit reaches it, fewer facts do not."""
    fresh = simulate(4000, n_stretches=2, seed=9)
    entropy = float(planted()[2].diagonal().log().mean()) + 0.5 * math.log(2 * math.pi * math.e)
    assert float(_known().nll(fresh).mean()) == pytest.approx(entropy, abs=0.02)
    assert float(fitted.nll(fresh).mean()) == pytest.approx(entropy, abs=0.02)
    alone = Autoregression(3, order=2).fit(training.numpy())
    season = SeasonalNaive(3, period=20).fit(training.numpy())
    assert entropy + 0.05 < float(alone.nll(fresh).mean()) < float(season.nll(fresh).mean())


def test_mean_forecast_follows_the_recursion() -> None:
    weight, constant, _ = planted()
    context = simulate(20, n_stretches=2, seed=3)
    known = [context[..., -2], context[..., -1]]
    for _step in range(300):
        known.append(known[-1] @ weight[0].T + known[-2] @ weight[1].T + constant)
    expected = torch.stack(known[2:], dim=-1)
    torch.testing.assert_close(_known().forecast(context, 300, MEAN), expected, atol=1e-5, rtol=1e-4)


def test_free_running_forecast_has_the_spectrum_and_covariance_of_the_process(fitted: VectorAutoregression) -> None:
    context = simulate(10, n_stretches=64, seed=3)
    drawn = fitted.forecast(context, 1000, None, torch.Generator().manual_seed(0))[..., 200:]
    real = simulate(1000, n_stretches=64, seed=4)
    ours, theirs = (torch.stack([torch.cov(row) for row in each]).mean(dim=0) for each in (drawn, real))
    torch.testing.assert_close(ours, theirs, rtol=0.1, atol=0.1 * float(theirs.diagonal().max()))
    power = [torch.fft.rfft(each[..., :800]).abs().square().mean(dim=0)[:, 1:] for each in (drawn, real)]
    assert float((power[0].log() - power[1].log()).abs().mean()) < 0.25


def test_temperature_scales_the_innovations() -> None:
    model, context = _known(), simulate(10, n_stretches=32, seed=3)
    mean = model.forecast(context, 50, MEAN)
    assert torch.equal(mean, model.forecast(context, 50, SimpleNamespace(temperature=1.0, kind="argmax")))
    spread = [
        (model.forecast(context, 50, SimpleNamespace(temperature=t), torch.Generator().manual_seed(1)) - mean).std()
        for t in (0.5, 1.0)
    ]
    assert float(spread[1] / spread[0]) == pytest.approx(2.0, rel=1e-4)


def test_forecast_is_repeated_by_its_seed_and_does_not_depend_on_the_batch_when_it_is_the_mean() -> None:
    model, context = _known(), simulate(10, n_stretches=4, seed=3).float()
    first, again = (model.forecast(context, 700, None, torch.Generator().manual_seed(2)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.dtype == torch.float32
    torch.testing.assert_close(model.forecast(context, 30, MEAN)[:1], model.forecast(context[:1], 30, MEAN))


@pytest.mark.parametrize("kind", [VectorAutoregression, Autoregression])
def test_unstable_fit_is_drawn_in_and_says_so(kind: type[VectorAutoregression]) -> None:
    """A growing oscillation has roots outside the unit circle."""
    time = torch.arange(400.0)
    growing = torch.stack([torch.exp(0.01 * time) * torch.sin(0.3 * time + shift) for shift in (0.0, 1.0)])
    growing = growing + 0.01 * torch.randn(2, 400, generator=torch.Generator().manual_seed(0))
    model = kind(2, order=4, ridge=0.0, max_radius=0.99).fit([growing.numpy()])
    found = model.describe()
    assert found["spectral_radius_fitted"] > 1.0
    assert found["shrinkage"] == pytest.approx(0.99 / found["spectral_radius_fitted"])
    assert model._radius(model.coefficients.double()) == pytest.approx(0.99, rel=1e-4)
    far = model.forecast(growing[None], 5000, MEAN)
    assert float(far[..., -100:].abs().max()) < float(growing.abs().max())


def test_companion_root_of_a_large_model_is_found_without_its_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    model = VectorAutoregression(12, order=10)
    rng = np.random.default_rng(0)
    model.coefficients.copy_(torch.from_numpy(0.05 * rng.standard_normal((10, 12, 12))))
    dense = model._radius(model.coefficients.double())
    monkeypatch.setattr("brainlab.models.var_baseline._MOST_DENSE", 1)
    assert model._radius(model.coefficients.double()) == pytest.approx(dense, rel=1e-6)


def test_autoregression_uses_no_other_channel_but_keeps_their_common_noise(training: torch.Tensor) -> None:
    model = Autoregression(3, order=3).fit(training.numpy())
    off = ~torch.eye(3, dtype=torch.bool)
    assert model.coefficients[:, off].abs().max() == 0
    assert (model.noise @ model.noise.T)[off].abs().min() > 0.05


def test_seasonal_naive_repeats_the_last_period() -> None:
    model = SeasonalNaive(1, period=3).fit([np.arange(20.0)[None] % 3 + 0.01 * np.arange(20.0)[None]])
    forecast = model.forecast(torch.tensor([[[9.0, 1.0, 2.0, 3.0]]]), 7, None)
    assert forecast.tolist() == [[[1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0]]]


def test_a_model_of_the_context_knows_only_the_context() -> None:
    """Two recordings of different frequency in one batch: each is continued at its own."""
    time = torch.arange(400.0)
    rng = torch.Generator().manual_seed(0)
    context = torch.stack([torch.sin(w * time)[None] for w in (0.3, 1.1)]) + 0.05 * torch.randn(
        2, 1, 400, generator=rng
    )
    drawn = ContextAutoregression(1, order=6).forecast(context, 512, None, torch.Generator().manual_seed(1))
    peak = torch.fft.rfft(drawn[:, 0]).abs().argmax(dim=-1) * 2 * math.pi / 512
    torch.testing.assert_close(peak, torch.tensor([0.3, 1.1]), atol=0.03, rtol=0)
    alone = Autoregression(1, order=6).fit(context[1].numpy()[None])
    torch.testing.assert_close(
        ContextAutoregression(1, order=6).forecast(context, 50, MEAN)[1:], alone.forecast(context[1:], 50, MEAN)
    )


def test_sensors_that_never_stand_in_one_recording_are_fitted_apart() -> None:
    """Two systems in one canonical layout: absent rows are zeros and must not thin out the others."""
    x = simulate(4000, n_stretches=2)
    sums = VectorAutoregression(6, order=2).statistics()
    for rows in (slice(0, 3), slice(3, 6)):
        padded, present = torch.zeros(2, 6, 4000, dtype=torch.float64), torch.zeros(2, 6, dtype=torch.bool)
        padded[:, rows], present[:, rows] = x, True
        sums.add(padded, present)
    both = VectorAutoregression(6, order=2, ridge=1e-9).solve(sums)
    alone = VectorAutoregression(3, order=2, ridge=1e-9).fit(x.numpy())
    torch.testing.assert_close(both.coefficients[:, :3, :3], alone.coefficients, atol=2e-3, rtol=0)
    torch.testing.assert_close(both.noise[3:, 3:], alone.noise, atol=2e-2, rtol=0)
    assert both.coefficients[:, :3, 3:].abs().max() < 2e-3


def test_a_channel_without_signal_does_not_break_the_fit(training: torch.Tensor) -> None:
    silent = torch.cat([training, torch.zeros_like(training[:, :1])], dim=1)
    for model in (VectorAutoregression(4, order=3), Autoregression(4, order=3)):
        model.fit(silent.numpy())
        drawn = model.forecast(silent[:, :, :10], 100, None, torch.Generator().manual_seed(0))
        assert torch.isfinite(drawn).all()
        assert float(drawn[:, 3].std()) < 0.02


def test_weights_survive_a_round_trip(fitted: VectorAutoregression) -> None:
    other = VectorAutoregression(3, order=2)
    other.load_state_dict(fitted.state_dict(), strict=True)
    assert torch.equal(other.forecast(torch.ones(1, 3, 5), 9, MEAN), fitted.forecast(torch.ones(1, 3, 5), 9, MEAN))


@pytest.mark.parametrize("n", [0, 2])
def test_fit_needs_more_samples_than_lags(n: int) -> None:
    with pytest.raises(InvalidValue, match="longer than the order"):
        VectorAutoregression(3, order=2).fit([np.zeros((3, n))])


def test_what_cannot_be_used_is_one_sentence(fitted: VectorAutoregression) -> None:
    with pytest.raises(InvalidValue, match="expected a fitted model"):
        VectorAutoregression(3).forecast(torch.zeros(1, 3, 20), 5, None)
    with pytest.raises(ShapeMismatch, match="expected at least 2 samples"):
        fitted.forecast(torch.zeros(1, 3, 1), 5, None)
    with pytest.raises(ShapeMismatch, match=r"expected \(batch, 3, time\)"):
        fitted.forecast(torch.zeros(1, 2, 5), 5, None)
    with pytest.raises(InvalidValue, match="expected finite samples"):
        VectorAutoregression(3).fit([np.full((3, 40), np.nan)])
    with pytest.raises(InvalidValue, match="Invalid max_radius=1"):
        VectorAutoregression(3, max_radius=1.0)


def test_linear_part_of_the_simulated_brain_is_recovered() -> None:
    """The simulator writes down which autoregression it drew from; the fit and its rollouts have to agree with it."""
    sources = session_sources((0, 1), 100.0, n_sources=6)
    planted_weight = sources.var_coefficients()
    signal = sources.draw_linear(200_000, np.random.default_rng(0))
    model = VectorAutoregression(6, order=len(planted_weight), ridge=0.0).fit([signal])
    np.testing.assert_allclose(model.coefficients.numpy(), planted_weight, atol=0.06)
    innovation = sources.innovation_covariance()
    fitted = (model.noise @ model.noise.T).numpy()
    np.testing.assert_allclose(fitted, innovation, atol=0.03 * np.abs(innovation).max())
    start = torch.from_numpy(signal[None, :, :10]).float().repeat(32, 1, 1)
    drawn = model.forecast(start, 2600, None, torch.Generator().manual_seed(0))[..., 200:]
    frequency, power = welch(drawn.numpy(), 100.0, nperseg=200)
    shown = slice(2, 90)
    ratio = power.mean(axis=0)[:, shown] / sources.linear_spectrum(frequency[shown])
    assert np.abs(np.log(ratio)).max() < 0.25
