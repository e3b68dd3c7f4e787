"""Sums of products of a signal with its own past: all that a linear forecaster has to know of its training data.

They are sums over samples, so recordings of any length are added one after another and nothing is kept of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from brainlab.errors import InvalidValue, ShapeMismatch

__all__ = ["LaggedProducts", "Moments", "SeasonProducts"]

_BLOCK = 1 << 22


@dataclass(frozen=True)
class Moments:
    """Second moments of the samples to be predicted and of the samples before them, summed, float64.

    ``past`` is flat over (lag, channel), the most recent lag first.
    """

    now_now: Float[Tensor, "channel channel"]
    now_past: Float[Tensor, "channel past"]
    past_past: Float[Tensor, "past past"]
    sum_now: Float[Tensor, " channel"]
    sum_past: Float[Tensor, " past"]
    n: int
    pairs: Float[Tensor, "channel channel"]
    """In how many samples both channels were recorded."""


@dataclass
class LaggedProducts:
    """Accumulates the products of x[t] with x[t − 1] … x[t − order] over stretches of signal.

    A stretch of T samples counts with its T − order samples that have a whole past inside it; nothing reaches over
    the border of a stretch. Only the products of x[t] with each lag are summed over time: those of one lag with
    another are the same sums up to the ends of the stretch, which are added exactly (the "covariance method" of
    linear prediction at the price of the autocorrelation method).

    Args:
        n_channels: channels of the signal.
        order: lags.

    Source: Makhoul (1975), Linear prediction: a tutorial review, section II.C.
    """

    n_channels: int
    order: int
    n: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.order < 1:
            raise InvalidValue("order", self.order, "expected at least 1")
        if self.n_channels < 1:
            raise InvalidValue("n_channels", self.n_channels, "expected at least 1")
        if self.sums:
            return
        c, p = self.n_channels, self.order
        shapes: dict[str, tuple[int, ...]] = {
            "lagged": (p + 1, c, c),  # Σ x[t] x[t − lag]ᵀ
            "ends": (p * c, p * c),
            "sum": (p + 1, c),  # Σ x[t − lag]
            "pairs": (c, c),
        }
        self.sums = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}

    def add(
        self, signal: Float[Tensor, "batch channel time"], present: Bool[Tensor, "batch channel"] | None = None
    ) -> int:
        """Count stretches of one length; those not longer than the order add nothing.

        Args:
            signal: stretches without gaps.
            present: channels that were recorded; the others hold zeros. Default: all.

        Returns:
            the number of samples that counted.

        Raises:
            ShapeMismatch: another number of channels.
            InvalidValue: a sample that is no finite number.
        """
        x = _checked(signal, self.n_channels)
        n_stretches, n_channels, n_time = x.shape
        p, n_used = self.order, (n_time - self.order) * n_stretches
        if n_time <= p or not n_stretches:
            return 0
        for lag in range(p + 1):
            self.sums["sum"][lag] += x[..., p - lag : n_time - lag].sum(dim=(0, 2))
            self.sums["lagged"][lag] += _product(x[..., p:], x[..., p - lag : n_time - lag])
        # Rows (stretch, lag · channel): the pasts of the first and of the one behind the last predicted sample.
        first = x[..., :p].flip(-1).transpose(1, 2).reshape(n_stretches, -1)
        last = x[..., n_time - p :].flip(-1).transpose(1, 2).reshape(n_stretches, -1)
        self.sums["ends"] += first.T @ first - last.T @ last
        self.sums["pairs"] += (n_time - p) * _together(present, n_stretches, n_channels)
        self.n += n_used
        return n_used

    def moments(self) -> Moments:
        """The moments that a regression of x[t] on its past needs.

        Raises:
            InvalidValue: where no stretch was longer than the order.
        """
        if self.n == 0:
            raise InvalidValue("order", self.order, "expected stretches of training signal longer than the order")
        c, p = self.n_channels, self.order
        lagged, ends = self.sums["lagged"], self.sums["ends"].view(p, c, p, c)
        # Block (i, j) is Σ x[t − i] x[t − j]ᵀ; one step down a diagonal moves the window of t by one sample.
        blocks = torch.empty(p + 1, p + 1, c, c, dtype=torch.float64)
        blocks[0] = lagged
        blocks[:, 0] = lagged.transpose(1, 2)
        for i in range(p):
            for j in range(p):
                blocks[i + 1, j + 1] = blocks[i, j] + ends[i, :, j, :]
        past = blocks[1:, 1:].permute(0, 2, 1, 3).reshape(p * c, p * c)
        return Moments(
            now_now=lagged[0].clone(),
            now_past=blocks[0, 1:].permute(1, 0, 2).reshape(c, p * c),
            past_past=0.5 * (past + past.T),
            sum_now=self.sums["sum"][0].clone(),
            sum_past=self.sums["sum"][1:].reshape(-1),
            n=self.n,
            pairs=self.sums["pairs"].clone(),
        )

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint has to hold to go on."""
        return {**self.sums, "n": torch.tensor(self.n)}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from :meth:`state`."""
        self.n = int(state["n"])
        self.sums = {name: state[name] for name in self.sums}


@dataclass
class SeasonProducts:
    """Accumulates the products of x[t] − x[t − period]; the same interface as :class:`LaggedProducts`.

    Args:
        n_channels: channels of the signal.
        order: the period in samples.
    """

    n_channels: int
    order: int
    n: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in () if self.sums else ("products", "pairs"):
            self.sums[name] = torch.zeros(self.n_channels, self.n_channels, dtype=torch.float64)

    def add(
        self, signal: Float[Tensor, "batch channel time"], present: Bool[Tensor, "batch channel"] | None = None
    ) -> int:
        """Count stretches of one length; returns the number of samples that counted."""
        x = _checked(signal, self.n_channels)
        n_stretches, n_channels, n_time = x.shape
        if n_time <= self.order or not n_stretches:
            return 0
        change = x[..., self.order :] - x[..., : -self.order]
        self.sums["products"] += _product(change, change)
        self.sums["pairs"] += (n_time - self.order) * _together(present, n_stretches, n_channels)
        self.n += (n_time - self.order) * n_stretches
        return (n_time - self.order) * n_stretches

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint has to hold to go on."""
        return {**self.sums, "n": torch.tensor(self.n)}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from :meth:`state`."""
        self.n = int(state["n"])
        self.sums = {name: state[name] for name in self.sums}


def _checked(signal: Tensor, n_channels: int) -> Tensor:
    if signal.shape[1] != n_channels:
        raise ShapeMismatch("signal", tuple(signal.shape), f"expected {n_channels} channels")
    x = signal.detach().cpu().double()
    if not torch.isfinite(x).all():
        raise InvalidValue("signal", "NaN or infinite", "expected finite samples to fit a linear model to")
    return x


def _together(present: Tensor | None, n_stretches: int, n_channels: int) -> Tensor:
    """(channel, channel): in how many stretches both channels were recorded."""
    there = torch.ones(n_stretches, n_channels) if present is None else present.detach().cpu()
    return there.double().T @ there.double()


def _product(a: Tensor, b: Tensor) -> Tensor:
    """(channel, channel): Σ over stretches and time of a bᵀ, in blocks that fit into memory."""
    total = torch.zeros(a.shape[1], b.shape[1], dtype=torch.float64)
    size = max(1, _BLOCK // (a.shape[1] * a.shape[2]))
    for row in range(0, len(a), size):
        total += torch.einsum("bct,bdt->cd", a[row : row + size], b[row : row + size])
    return total
