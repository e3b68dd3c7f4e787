"""How sure a score is: bootstrap over groups, shuffled-pair control, central intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from brainlab.errors import InvalidValue, ShapeMismatch

__all__ = ["Control", "bootstrap_mean", "bootstrap_median", "bootstrap_medians", "central_interval", "shuffled_pairs"]

# Resampled weights held at once.
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Control:
    """Scores of a predictor whose answers were shuffled; ``low`` and ``high`` bound their central part."""

    values: Float[np.ndarray, " permutation"]
    low: float
    high: float

    @property
    def mean(self) -> float:
        """Mean over permutations."""
        return float(self.values.mean())

    def contains(self, value: float) -> bool:
        """Whether ``value`` (usually chance) lies in the central interval; its ends belong to it."""
        # The scores are means of counts: an end that equals chance may differ from it in the last digit.
        return self.low - 1e-9 <= value <= self.high + 1e-9


def central_interval(values: Float[np.ndarray, " n"], level: float = 0.95) -> tuple[float, float]:
    """The percentiles between which the central ``level`` of the values lies.

    >>> central_interval(np.arange(101.0), 0.5)
    (25.0, 75.0)
    """
    if not 0.0 < level < 1.0:
        raise InvalidValue("level", level, "expected a share between 0 and 1")
    low, high = np.percentile(np.asarray(values, dtype=np.float64), [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def bootstrap_mean(
    values: Float[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    n_resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of the mean when whole groups are drawn with replacement.

    Trials of one picture are not independent; drawing pictures keeps the interval as wide as it has to be.

    Args:
        values: one value per trial.
        groups: the picture of each trial.
        n_resamples: number of resamplings.
        seed: of the resampling.
        level: share of the resampled means inside the interval.

    Source: Davison and Hinkley (1997), section 3.8 (resampling of clusters).
    """
    values, member, n_groups = _grouped(values, groups)
    sums = np.bincount(member, weights=values, minlength=n_groups)
    counts = np.bincount(member, minlength=n_groups).astype(np.float64)
    means = np.concatenate([(drawn @ sums) / (drawn @ counts) for drawn in _draws(n_groups, n_resamples, seed)])
    return central_interval(means, level)


def bootstrap_median(
    values: Float[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    n_resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of the median when whole groups are drawn with replacement; see :func:`bootstrap_mean`."""
    low, high = bootstrap_medians(np.asarray(values)[None], groups, n_resamples, seed, level)
    return float(low[0]), float(high[0])


def bootstrap_medians(
    table: Float[np.ndarray, "row n"],
    groups: Int[np.ndarray, " n"],
    n_resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """The intervals of :func:`bootstrap_median` of many rows about the same trials, which share the resamplings."""
    table = np.asarray(table, dtype=np.float64)
    medians = np.empty((len(table), n_resamples))
    _, member, n_groups = _grouped(table[0], groups)
    done = 0
    for drawn in _draws(n_groups, n_resamples, seed):
        step = max(1, _BLOCK // len(member))
        for start in range(0, len(drawn), step):
            weights = np.ascontiguousarray(drawn[start : start + step].astype(np.int32).T[member])
            total = weights.sum(axis=0)
            part = slice(done, done + weights.shape[1])
            for row, values in enumerate(table):
                order = np.argsort(values, kind="stable")
                twice = 2 * np.cumsum(weights[order], axis=0, dtype=np.int32)
                ordered = values[order]
                medians[row, part] = ordered[(twice < total).sum(axis=0)] + ordered[(twice <= total).sum(axis=0)]
            done = part.stop
    ends = [central_interval(0.5 * row, level) for row in medians]
    return np.array([low for low, _ in ends]), np.array([high for _, high in ends])


def shuffled_pairs(
    score: Float[np.ndarray, "picture item"], n_permutations: int = 200, seed: int = 0, level: float = 0.95
) -> Control:
    """Scores after the pictures' right answers were permuted at random.

    Args:
        score: ``score[p, g]`` is what picture p adds to the score if item g is declared its right answer; the true
            score is the trace. Square: one item per picture.
        n_permutations: number of permutations; fixed points are allowed, so their mean is chance exactly in
            expectation.
        seed: of the permutations.
        level: share of the scores inside the interval.

    Raises:
        ShapeMismatch: if ``score`` is not square.
    """
    if score.ndim != 2 or score.shape[0] != score.shape[1]:
        raise ShapeMismatch("score", score.shape, "expected one row and one column per picture")
    if n_permutations < 1:
        raise InvalidValue("n_permutations", n_permutations, "expected at least 1")
    generator = np.random.default_rng(seed)
    rows = np.arange(len(score))
    values = np.array([score[rows, generator.permutation(len(score))].sum() for _ in range(n_permutations)])
    return Control(values, *central_interval(values, level))


def _grouped(values: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    values = np.asarray(values, dtype=np.float64)
    if values.shape != np.shape(groups) or values.ndim != 1:
        raise ShapeMismatch("groups", np.shape(groups), f"expected one group per value, {values.shape}")
    if len(values) == 0:
        raise InvalidValue("values", values.shape, "expected at least one value")
    unique, member = np.unique(groups, return_inverse=True)
    return values, member, len(unique)


def _draws(n_groups: int, n_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each group is drawn in each resampling, in blocks of rows."""
    if n_resamples < 1:
        raise InvalidValue("n_bootstrap", n_resamples, "expected at least 1 resampling")
    generator = np.random.default_rng(seed)
    probability = np.full(n_groups, 1.0 / n_groups)
    rows = max(1, _BLOCK // n_groups)
    for start in range(0, n_resamples, rows):
        yield generator.multinomial(n_groups, probability, size=min(rows, n_resamples - start)).astype(np.float64)
