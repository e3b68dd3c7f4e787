"""Linear baselines of forecasting: vector autoregression, autoregression per channel or per context, seasonal naive.

What a network is read against: everything that linear prediction with Gaussian innovations can know. They are fitted
in closed form from lagged products (:mod:`brainlab.models.lagged_products`) and need no optimiser.

Source: Lütkepohl (2005), New introduction to multiple time series analysis, chapters 2–3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.models.lagged_products import LaggedProducts, Moments, SeasonProducts

__all__ = ["Autoregression", "ContextAutoregression", "SeasonalNaive", "VectorAutoregression"]

_SMALLEST_SHARE = 1e-6  # of the mean innovation variance: keeps the covariance of rank-deficient data invertible
_MOST_DENSE = 1500  # rows of a companion matrix whose eigenvalues are all found
_AHEAD = 256  # innovations drawn at once


class VectorAutoregression(nn.Module):
    """x[t] = c + Σₖ Aₖ x[t − k] + e[t] with e ~ N(0, Σ), Σ full: every channel is predicted from the past of all.

    A fitted model whose largest root is outside ``max_radius`` would explode when it runs freely. Its roots are then
    all drawn towards zero by one factor γ (Aₖ ← γᵏ Aₖ), and Σ becomes the error covariance of the drawn-in model;
    ``spectral_radius`` (as fitted) and ``shrinkage`` (γ) say so.

    Args:
        n_channels: channels of the signal.
        order: lags (samples).
        ridge: penalty on the coefficients, relative to the mean power of the regressors.
        max_radius: largest modulus of a root that the model may have, below 1.

    Source: Kabal (2003), Ill-conditioning and bandwidth expansion in linear prediction of speech (the factor γ).
    """

    coefficients: Tensor
    intercept: Tensor
    noise: Tensor
    spectral_radius: Tensor
    shrinkage: Tensor
    n_fitted: Tensor

    def __init__(self, n_channels: int, order: int = 10, ridge: float = 1e-4, max_radius: float = 0.999) -> None:
        super().__init__()
        if n_channels < 1:
            raise InvalidValue("n_channels", n_channels, "expected at least 1")
        if order < 1:
            raise InvalidValue("order", order, "expected at least 1 lag")
        if not ridge >= 0:
            raise InvalidValue("ridge", ridge, "expected 0 or a positive number")
        if not 0 < max_radius < 1:
            raise InvalidValue("max_radius", max_radius, "expected a number between 0 and 1")
        self.n_channels, self.order, self.ridge, self.max_radius = n_channels, order, ridge, max_radius
        self.register_buffer("coefficients", torch.zeros(order, n_channels, n_channels))
        self.register_buffer("intercept", torch.zeros(n_channels))
        self.register_buffer("noise", torch.eye(n_channels))  # lower Cholesky factor of Σ
        self.register_buffer("spectral_radius", torch.tensor(0.0))
        self.register_buffer("shrinkage", torch.tensor(1.0))
        self.register_buffer("n_fitted", torch.tensor(0))

    @property
    def context_steps(self) -> int:
        """Samples of the past that a prediction needs."""
        return self.order

    # -- fit ----------------------------------------------------------------------------------------------------

    def statistics(self) -> LaggedProducts:
        """Empty sums to add training stretches to."""
        return LaggedProducts(self.n_channels, self.context_steps)

    def fit(self, signals: Iterable[Any]) -> VectorAutoregression:
        """Fit to (channel, time) arrays or tensors, each a stretch without gaps; returns itself."""
        sums = self.statistics()
        for signal in signals:
            sums.add(torch.as_tensor(np.asarray(signal))[None])
        return self.solve(sums)

    def solve(self, statistics: Any) -> VectorAutoregression:
        """Fit to accumulated sums; returns itself.

        Raises:
            InvalidValue: where no training stretch was longer than the order.
        """
        moments = statistics.moments()
        weight, constant = self._regress(moments)
        radius = self._radius(weight)
        factor = 1.0
        if radius > self.max_radius:
            factor = self.max_radius / radius
            weight = weight * factor ** torch.arange(1, self.order + 1, dtype=weight.dtype)[:, None, None]
            flat = weight.permute(1, 0, 2).reshape(self.n_channels, -1)
            constant = (moments.sum_now - flat @ moments.sum_past) / moments.n
        self._store(weight, constant, moments)
        self.spectral_radius.fill_(radius)
        self.shrinkage.fill_(factor)
        return self

    def _regress(self, moments: Moments) -> tuple[Tensor, Tensor]:
        """Ridge regression of now on (past, 1): coefficients (order, channel, channel) and constants (channel)."""
        penalty = self.ridge * moments.past_past.diagonal().mean()
        right = torch.cat([moments.now_past, moments.sum_now[:, None]], dim=1)
        solved = _ridge(moments.past_past, moments.sum_past, moments.n, penalty, right.T).T
        weight = solved[:, :-1].view(self.n_channels, self.order, self.n_channels).permute(1, 0, 2)
        return weight, solved[:, -1]

    def _store(self, weight: Tensor, constant: Tensor, moments: Moments) -> None:
        flat = weight.permute(1, 0, 2).reshape(self.n_channels, -1)
        cross = flat @ moments.now_past.T + torch.outer(constant, moments.sum_now)
        error = moments.now_now - cross - cross.T
        shifted = torch.outer(flat @ moments.sum_past, constant)
        error = error + flat @ moments.past_past @ flat.T + shifted + shifted.T
        error = error + moments.n * torch.outer(constant, constant)
        self.coefficients.copy_(weight)
        self.intercept.copy_(constant)
        self.noise.copy_(_cholesky(error, moments.pairs))
        self.n_fitted.fill_(moments.n)

    def _radius(self, weight: Tensor) -> float:
        """Largest modulus of the eigenvalues of the companion matrix."""
        size = self.order * self.n_channels
        flat = weight.permute(1, 0, 2).reshape(self.n_channels, size).numpy()
        if size <= _MOST_DENSE:
            companion = np.eye(size, k=-self.n_channels)
            companion[: self.n_channels] = flat
            return float(np.abs(np.linalg.eigvals(companion)).max())
        from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs

        def step(state: np.ndarray) -> np.ndarray:
            state = state.reshape(-1)
            return np.concatenate([flat @ state, state[: -self.n_channels]])

        operator = LinearOperator((size, size), matvec=step, dtype=np.float64)
        start = np.random.default_rng(0).standard_normal(size)
        try:
            found = eigs(operator, k=6, which="LM", v0=start, ncv=60, return_eigenvectors=False)
        except ArpackNoConvergence as error:
            found = error.eigenvalues
            if not len(found):
                raise InvalidValue("order", self.order, "expected a model whose largest root can be found") from error
        return float(np.abs(found).max())

    # -- use ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def forecast(
        self,
        context: Float[Tensor, "batch channel time"],
        steps: int,
        sampler: Any = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch channel steps"]:
        """Run freely from the end of each context, all contexts of a batch at once.

        Args:
            context: what is known; at least ``context_steps`` samples.
            steps: samples to add.
            sampler: its ``temperature`` scales the standard deviation of the innovations; 0, or the kind "argmax", is
                the conditional mean. None: temperature 1.
            generator: source of the innovations; None uses torch's own.
        """
        self._check(context, steps)
        return self._continued(context, steps, sampler, generator)

    def _continued(self, context: Tensor, steps: int, sampler: Any, generator: torch.Generator | None) -> Tensor:
        temperature = _temperature(sampler)
        weight, constant, noise = self._exact()
        # One row per example: the recent samples, oldest first, so that a step is one matrix product.
        flat = weight.flip(0).permute(0, 2, 1).reshape(-1, self.n_channels)
        n = len(context)
        known = context[..., context.shape[-1] - self.order :].to(weight.device, weight.dtype).transpose(1, 2)
        path = torch.empty(n, self.order + steps, self.n_channels, dtype=weight.dtype, device=weight.device)
        path[:, : self.order] = known
        for first in range(0, steps, _AHEAD):
            count = min(_AHEAD, steps - first)
            pushed = constant.expand(count, n, -1)
            if temperature > 0:
                pushed = pushed + temperature * (_normal((count, n, self.n_channels), generator, weight) @ noise.T)
            for step in range(count):
                now = first + step
                past = path[:, now : now + self.order].reshape(n, -1)
                path[:, now + self.order] = torch.addmm(pushed[step], past, flat)
        return path[:, self.order :].transpose(1, 2).to(context.dtype)

    def nll(
        self, signal: Float[Tensor, "batch channel time"], present: Bool[Tensor, "batch channel"] | None = None
    ) -> Float[Tensor, " batch"]:
        """Exact negative log-likelihood in nats per recorded channel and sample, given the first ``context_steps``.

        It is a density: with values of unit u it is relative to one u, and may be negative. The bits that quantised
        values cost under the same model are this / ln 2 − log₂(width of a bin) while bins are narrow.

        Args:
            signal: stretches to judge, longer than ``context_steps``.
            present: channels that were recorded; default all.
        """
        self._check(signal, 1)
        if signal.shape[-1] <= self.context_steps:
            raise ShapeMismatch("signal", tuple(signal.shape), f"expected more than {self.context_steps} samples")
        weight, _, noise = self._exact()
        x = signal.to(weight.device, weight.dtype)
        error = self._errors(x)
        covariance = noise @ noise.T
        there = torch.ones(len(x), self.n_channels, dtype=torch.bool) if present is None else present.cpu()
        nats = torch.empty(len(x), dtype=weight.dtype, device=weight.device)
        for pattern in torch.unique(there, dim=0):
            rows = (there == pattern).all(dim=1).nonzero()[:, 0].to(x.device)
            kept = pattern.nonzero()[:, 0].to(x.device)
            if not len(kept):
                raise InvalidValue("present", "no channel", "expected at least one recorded channel per example")
            factor = torch.linalg.cholesky(covariance[kept][:, kept])
            some = error[rows][:, kept]
            white = torch.linalg.solve_triangular(factor, some.transpose(0, 1).reshape(len(kept), -1), upper=False)
            quadratic = white.square().view(len(kept), len(rows), -1).mean(dim=2).mean(dim=0)
            nats[rows] = 0.5 * (quadratic + math.log(2 * math.pi)) + factor.diagonal().log().mean()
        return nats.float()

    def _errors(self, x: Tensor) -> Tensor:
        """(batch, channel, time − order): one-step prediction errors."""
        weight, constant, _ = self._exact()
        predicted = nn.functional.conv1d(x, weight.flip(0).permute(1, 2, 0), constant)
        return x[..., self.order :] - predicted[..., :-1]

    def _exact(self) -> tuple[Tensor, Tensor, Tensor]:
        kind = torch.float32 if self.coefficients.device.type == "mps" else torch.float64  # no float64 on Apple GPUs
        return self.coefficients.to(kind), self.intercept.to(kind), self.noise.to(kind)

    def _check(self, signal: Tensor, steps: int) -> None:
        if self.n_fitted == 0:
            raise InvalidValue("n_fitted", 0, "expected a fitted model", hint="call fit, or load a checkpoint")
        if signal.ndim != 3 or signal.shape[1] != self.n_channels:
            raise ShapeMismatch("context", tuple(signal.shape), f"expected (batch, {self.n_channels}, time)")
        if signal.shape[-1] < self.context_steps:
            raise ShapeMismatch("context", tuple(signal.shape), f"expected at least {self.context_steps} samples")
        if steps < 1:
            raise InvalidValue("steps", steps, "expected at least 1")

    def describe(self) -> dict[str, Any]:
        """What the fit found, JSON-ready."""
        return {
            "model": type(self).__name__,
            "order": self.order,
            "n_channels": self.n_channels,
            "samples_fitted": int(self.n_fitted),
            "spectral_radius_fitted": float(self.spectral_radius),
            "shrinkage": float(self.shrinkage),
        }


class Autoregression(VectorAutoregression):
    """One AR(p) per channel: a channel is predicted from its own past; innovations keep their full covariance.

    Args:
        n_channels, order, ridge, max_radius: as for :class:`VectorAutoregression`.
    """

    def _regress(self, moments: Moments) -> tuple[Tensor, Tensor]:
        c, p = self.n_channels, self.order
        past = moments.past_past.view(p, c, p, c)
        weight = torch.zeros(p, c, c, dtype=torch.float64)
        constant = torch.zeros(c, dtype=torch.float64)
        sums = moments.sum_past.view(p, c)
        floor = _SMALLEST_SHARE * moments.past_past.diagonal().mean()
        for channel in range(c):
            own = past[:, channel, :, channel]
            # A channel that was never recorded has no power of its own to scale the penalty by.
            penalty = torch.maximum(self.ridge * own.diagonal().mean(), floor)
            right = torch.cat([moments.now_past.view(c, p, c)[channel, :, channel], moments.sum_now[channel, None]])
            solved = _ridge(own, sums[:, channel], moments.n, penalty, right[:, None])[:, 0]
            weight[:, channel, channel], constant[channel] = solved[:p], solved[p]
        return weight, constant

    def _radius(self, weight: Tensor) -> float:
        largest = 0.0
        for channel in range(self.n_channels):
            companion = np.eye(self.order, k=-1)
            companion[0] = weight[:, channel, channel].numpy()
            largest = max(largest, float(np.abs(np.linalg.eigvals(companion)).max()))
        return largest


class SeasonalNaive(VectorAutoregression):
    """Repeats the last period of the context for ever.

    Its likelihood is that of x[t] = x[t − period] + e[t]; forecasts hold no innovations whatever the temperature,
    because a random walk on top of the season would grow without bound.

    Args:
        n_channels: channels of the signal.
        period: samples that repeat.
    """

    def __init__(self, n_channels: int, period: int = 100) -> None:
        super().__init__(n_channels, order=1)
        if period < 1:
            raise InvalidValue("period", period, "expected at least 1 sample")
        self.period = period

    @property
    def context_steps(self) -> int:
        return self.period

    def statistics(self) -> SeasonProducts:  # type: ignore[override]
        """Empty sums to add training stretches to."""
        return SeasonProducts(self.n_channels, self.period)

    def solve(self, statistics: Any) -> VectorAutoregression:
        """Take the covariance of x[t] − x[t − period] from the sums; there is nothing else to fit."""
        if statistics.n == 0:
            raise InvalidValue("period", self.period, "expected stretches of training signal longer than the period")
        self.noise.copy_(_cholesky(statistics.sums["products"], statistics.sums["pairs"]))
        self.spectral_radius.fill_(1.0)
        self.n_fitted.fill_(statistics.n)
        return self

    def _continued(self, context: Tensor, steps: int, sampler: Any, generator: torch.Generator | None) -> Tensor:
        season = context[..., context.shape[-1] - self.period :]
        return season.repeat(1, 1, math.ceil(steps / self.period))[..., :steps]

    def _errors(self, x: Tensor) -> Tensor:
        return x[..., self.period :] - x[..., : -self.period]

    def describe(self) -> dict[str, Any]:
        """What the fit found, JSON-ready."""
        return {**super().describe(), "order": None, "period": self.period}


class ContextAutoregression(nn.Module):
    """One AR(p) per channel, fitted anew to every context and continued from there.

    It has learned nothing from other recordings and knows the spectrum and the covariance of this one: what a network
    has to add to its context. There is nothing to fit in advance.

    Args:
        n_channels: channels of the signal.
        order, ridge, max_radius: as for :class:`VectorAutoregression`.
    """

    def __init__(self, n_channels: int, order: int = 10, ridge: float = 1e-4, max_radius: float = 0.999) -> None:
        super().__init__()
        self.each = Autoregression(n_channels, order, ridge, max_radius)

    def fit(self, signals: Iterable[Any]) -> ContextAutoregression:
        """Nothing is taken from training signals; returns itself."""
        return self

    @torch.no_grad()
    def forecast(
        self,
        context: Float[Tensor, "batch channel time"],
        steps: int,
        sampler: Any = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch channel steps"]:
        """Fit, then run freely; see :meth:`VectorAutoregression.forecast`.

        Raises:
            InvalidValue: where a context is not longer than the order.
        """
        drawn = []
        for row in context.cpu():
            model = self.each.fit([row])
            drawn.append(model.forecast(row[None], steps, sampler, generator))
        return torch.cat(drawn).to(context.device)

    def describe(self) -> dict[str, Any]:
        """What it is, JSON-ready."""
        return {"model": type(self).__name__, "order": self.each.order, "n_channels": self.each.n_channels}


def _ridge(past_past: Tensor, sum_past: Tensor, n: int, penalty: Tensor, right: Tensor) -> Tensor:
    """Coefficients of (past, 1), of which those of the past are penalised."""
    gram = torch.zeros(len(sum_past) + 1, len(sum_past) + 1, dtype=torch.float64)
    gram[:-1, :-1] = past_past
    gram[:-1, -1] = gram[-1, :-1] = sum_past
    gram[-1, -1] = n
    gram.diagonal()[:-1] += penalty
    return _solve(gram, right)


def _solve(gram: Tensor, right: Tensor) -> Tensor:
    """gram⁻¹ right; the least solution where the training data leave some of it open and nothing is penalised."""
    factor, failed = torch.linalg.cholesky_ex(gram)
    if int(failed) == 0 and float(factor.diagonal().min()) > 1e-7 * float(factor.diagonal().max()):
        return torch.cholesky_solve(right, factor)
    return torch.linalg.lstsq(gram, right, driver="gelsd").solution


def _cholesky(products: Tensor, pairs: Tensor) -> Tensor:
    """Lower factor of the covariance: products over the samples in which both channels were recorded.

    Its smallest eigenvalues are lifted to a small share of their mean; channels never recorded together have none.
    """
    covariance = torch.where(pairs > 0, products / pairs.clamp(min=1.0), 0.0)
    values, vectors = torch.linalg.eigh(0.5 * (covariance + covariance.T))
    least = (_SMALLEST_SHARE * values.clamp(min=0.0).mean()).clamp(min=torch.finfo(torch.float32).tiny)
    lifted = (vectors * values.clamp(min=least)) @ vectors.T
    return torch.linalg.cholesky(0.5 * (lifted + lifted.T))


def _temperature(sampler: Any) -> float:
    if sampler is None:
        return 1.0
    return 0.0 if getattr(sampler, "kind", None) == "argmax" else float(sampler.temperature)


def _normal(shape: tuple[int, ...], generator: torch.Generator | None, like: Tensor) -> Tensor:
    place = like.device if generator is None else generator.device
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=place).to(like.device)
