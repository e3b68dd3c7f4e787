"""Codes of prediction residuals: a first-order predictor and a linear quantiser with a dead zone around zero.

The predictor alone is undone exactly. Quantised, its errors would add up over time (twentyfold at a coefficient of
0.95); :func:`encode_residuals` therefore predicts from what the decoder will know, so that every decoded sample is
within half a bin of the original wherever the residual stays in range, and returns to it wherever it did not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer

from brainlab.errors import InvalidValue
from brainlab.signal.mu_law import smallest_unsigned

__all__ = ["COEFFICIENT", "DeadZone", "decode_residuals", "encode_residuals", "from_residuals", "residuals"]

COEFFICIENT = 0.95
_LARGEST = 0.99


def residuals(z: Float[np.ndarray, "*rows time"], scale: float = 1.0) -> Float[np.ndarray, "*rows time"]:
    """e₀ = z₀, e₁ = z₁, e[t] = z[t] − 0.95 z[t − 1], all divided by ``scale``; nothing is clipped.

    Raises:
        InvalidValue: unless the scale is positive.
    """
    z = np.asarray(z, dtype=np.float64)
    _positive("scale", scale)
    e = z.copy()
    e[..., 2:] -= COEFFICIENT * z[..., 1:-1]
    return e / scale


def from_residuals(e: Float[np.ndarray, "*rows time"], scale: float = 1.0) -> Float[np.ndarray, "*rows time"]:
    """The signal whose :func:`residuals` these are."""
    from scipy.signal import lfilter

    _positive("scale", scale)
    z = np.asarray(e, dtype=np.float64) * scale
    if z.shape[-1] > 1:
        z[..., 1:] = lfilter([1.0], [1.0, -COEFFICIENT], z[..., 1:], axis=-1)
    return z


@dataclass(frozen=True)
class DeadZone:
    """Linear codes of numbers in [−edge, edge], with one code for everything near zero.

    With c = n // 2 and u = (|e| − dead) / (edge − dead): |e| ≤ dead has code c, larger ones
    c + 1 + round(u (n − 2 − c)), smaller ones c − 1 − round(u (c − 1)); numbers beyond the edge have the edge's code.
    A code decodes to the centre of the numbers that have it.

    Args:
        n_bins: codes, at least 3.
        dead: half the width of the dead zone.
        edge: largest number.

    Raises:
        InvalidValue: for bins or widths out of range.
    """

    n_bins: int = 256
    dead: float = 0.01
    edge: float = 1.0

    def __post_init__(self) -> None:
        if self.n_bins < 3:
            raise InvalidValue("n_bins", self.n_bins, "expected at least 3")
        if not 0 <= self.dead < self.edge:
            raise InvalidValue("dead", self.dead, f"expected a width from 0 to below edge={self.edge}")

    def encode(self, e: Float[np.ndarray, "*shape"]) -> Integer[np.ndarray, "*shape"]:
        """Codes in the smallest unsigned integer type.

        Raises:
            InvalidValue: for a NaN, which no code stands for.
        """
        e = np.asarray(e, dtype=np.float64)
        if np.isnan(e).any():
            raise InvalidValue("e", "NaN", "expected numbers", hint="replace missing samples before quantising")
        u = np.clip((np.abs(e) - self.dead) / (self.edge - self.dead), 0.0, 1.0)
        zero, above, below = self._sides
        code = np.where(e > 0, zero + 1 + np.round(u * above), zero - 1 - np.round(u * below))
        return np.where(np.abs(e) <= self.dead, zero, code).astype(smallest_unsigned(self.n_bins - 1))

    def decode(self, codes: Integer[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Centres of codes.

        Raises:
            InvalidValue: for a code outside 0 … n_bins − 1.
        """
        codes = np.asarray(codes)
        if codes.size and not (codes.min() >= 0 and codes.max() < self.n_bins):
            raise InvalidValue("codes", f"{codes.min()}…{codes.max()}", f"expected 0…{self.n_bins - 1}")
        return self.centres[codes]

    @property
    def centres(self) -> Float[np.ndarray, " code"]:
        """What each code decodes to."""
        above, below = self._sides[1:]
        low = [-self._place(step, below) for step in range(below, -1, -1)]
        return np.array([*low, 0.0, *(self._place(step, above) for step in range(above + 1))])

    @property
    def width(self) -> float:
        """The widest bin: no number in range is further than half of it from its centre."""
        above, below = self._sides[1:]
        return max(2 * self.dead, *((self.edge - self.dead) / max(side, 1) for side in (above, below)))

    @property
    def _sides(self) -> tuple[int, int, int]:
        zero = self.n_bins // 2
        return zero, self.n_bins - 2 - zero, zero - 1

    def _place(self, step: int, steps: int) -> float:
        # Rounding gives the first and the last step half a bin only; their centre is no multiple of the width.
        low, high = (max(step - 0.5, 0.0), min(step + 0.5, steps)) if steps else (0.0, 1.0)
        return self.dead + (low + high) / 2 / max(steps, 1) * (self.edge - self.dead)


def encode_residuals(
    z: Float[np.ndarray, "*rows time"], quantiser: DeadZone, scale: float = 1.0
) -> Integer[np.ndarray, "*rows time"]:
    """Codes of residuals that are predicted from the decoded past.

    Residuals beyond ±0.99 · scale are clipped; the next residual then holds what is missing.

    Args:
        z: rows of samples.
        quantiser: of the residuals.
        scale: residuals are divided by it.

    Source: Jayant and Noll (1984), differential pulse code modulation.
    """
    z = np.asarray(z, dtype=np.float64)
    _positive("scale", scale)
    codes = np.empty(z.shape, smallest_unsigned(quantiser.n_bins - 1))
    centres = quantiser.centres * scale
    known = np.zeros(z.shape[:-1])
    for time in range(z.shape[-1]):
        expected = COEFFICIENT * known if time > 1 else 0.0
        e = np.clip((z[..., time] - expected) / scale, -_LARGEST, _LARGEST)
        codes[..., time] = quantiser.encode(e)
        known = expected + centres[codes[..., time]]
    return codes


def decode_residuals(
    codes: Integer[np.ndarray, "*rows time"], quantiser: DeadZone, scale: float = 1.0
) -> Float[np.ndarray, "*rows time"]:
    """The signal of :func:`encode_residuals`."""
    return from_residuals(quantiser.decode(codes), scale)


def _positive(name: str, value: float) -> None:
    if not 0 < value < np.inf:
        raise InvalidValue(name, value, "expected a positive number")
