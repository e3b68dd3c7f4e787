"""Mu-law companding: fine steps near zero, coarse ones far from it (ITU-T G.711, the continuous form).

F(x) = sgn(x) · ln(1 + µ|x|) / ln(1 + µ) for x in [−1, 1]; code = ⌊(F + 1)/2 · µ + ½⌋ in 0 … µ.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Integer

from brainlab.errors import InvalidValue

__all__ = ["mu_law_centres", "mu_law_decode", "mu_law_encode", "smallest_unsigned"]


def smallest_unsigned(largest: int) -> np.dtype:
    """The smallest unsigned integer type that holds 0 … ``largest``.

    >>> smallest_unsigned(255), smallest_unsigned(256)
    (dtype('uint8'), dtype('uint16'))
    """
    if largest < 0:
        raise InvalidValue("largest", largest, "expected at least 0")
    return np.min_scalar_type(largest)


def mu_law_encode(x: Float[np.ndarray, "*shape"], mu: int = 255) -> Integer[np.ndarray, "*shape"]:
    """Codes of numbers in [−1, 1]; numbers outside saturate.

    Args:
        x: finite or infinite numbers.
        mu: largest code; 2^bits − 1.

    Returns:
        codes 0 … mu in the smallest unsigned integer type.

    Raises:
        InvalidValue: for a NaN, which no code stands for, or mu < 1.
    """
    x = np.asarray(x, dtype=np.float64)
    _check(mu)
    if np.isnan(x).any():
        raise InvalidValue("x", "NaN", "expected numbers", hint="replace missing samples before quantising")
    x = np.clip(x, -1.0, 1.0)
    companded = np.sign(x) * np.log1p(mu * np.abs(x)) / np.log1p(mu)
    return np.floor((companded + 1) / 2 * mu + 0.5).astype(smallest_unsigned(mu))


def mu_law_centres(mu: int = 255) -> Float[np.ndarray, " code"]:
    """What each code decodes to: y = 2k/µ − 1, x = sgn(y) · ((1 + µ)^|y| − 1)/µ."""
    _check(mu)
    y = 2 * np.arange(mu + 1) / mu - 1
    return np.sign(y) * np.expm1(np.abs(y) * np.log1p(mu)) / mu


def mu_law_decode(codes: Integer[np.ndarray, "*shape"], mu: int = 255) -> Float[np.ndarray, "*shape"]:
    """Numbers in [−1, 1] (float32) that the codes stand for.

    Raises:
        InvalidValue: for a code outside 0 … mu.
    """
    codes = np.asarray(codes)
    centres = mu_law_centres(mu).astype(np.float32)
    if codes.size and not (codes.min() >= 0 and codes.max() <= mu):
        raise InvalidValue("codes", f"{codes.min()}…{codes.max()}", f"expected 0…{mu}")
    return centres[codes]


def _check(mu: int) -> None:
    if mu < 1:
        raise InvalidValue("mu", mu, "expected at least 1")
