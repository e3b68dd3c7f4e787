"""Draws trials from a search space: a plain seeded sampler, and the same space in optuna's terms."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator
from typing import Any

from brainlab.config.search_space import Choice, Dimension, Interval, Space

__all__ = ["distributions", "draws", "seed_for"]

_TRIES = 1000


def seed_for(seed: int, number: int) -> int:
    """A seed for one trial: a search that goes on after a kill draws what it would have drawn without it.

    >>> seed_for(0, 1) == seed_for(0, 1), seed_for(0, 1) == seed_for(1, 0)
    (True, False)
    """
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:4], "big")


def draws(space: Space, seed: int) -> Iterator[dict[str, Any]]:
    """Random points, no two with the same words; they end where the space does.

    The first ``n`` are the same however many are taken.
    """
    seen: set[tuple[str, ...]] = set()
    generator = random.Random(seed_for(seed, 0))
    while space.size is None or len(seen) < space.size:
        for _ in range(_TRIES):
            point = {dimension.key: _draw(dimension, generator) for dimension in space.dimensions}
            if space.words(point) not in seen:
                break
        else:
            if space.size is None:
                return  # an interval so narrow that its values are all written alike
            point = next(point for point in space.points() if space.words(point) not in seen)
        seen.add(space.words(point))
        yield point


def distributions(space: Space) -> dict[str, Any]:
    """The space as optuna knows it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, Any] = {}
    for dimension in space.dimensions:
        if isinstance(dimension, Choice):
            found[dimension.key] = CategoricalDistribution(dimension.values)
        elif dimension.whole:
            found[dimension.key] = IntDistribution(
                int(dimension.low), int(dimension.high), log=dimension.log, step=int(dimension.step or 1)
            )
        else:
            found[dimension.key] = FloatDistribution(
                dimension.low, dimension.high, log=dimension.log, step=dimension.step
            )
    return found


def _draw(dimension: Dimension, generator: random.Random) -> Any:
    if isinstance(dimension, Choice):
        return generator.choice(dimension.values)
    if dimension.log:
        return _draw_log(dimension, generator)
    if dimension.step is not None:
        assert dimension.size is not None
        return dimension.low + generator.randrange(dimension.size) * dimension.step
    return generator.uniform(dimension.low, dimension.high)


def _draw_log(dimension: Interval, generator: random.Random) -> float:
    # A whole number gets its share of the scale from half a unit below it to half a unit above.
    margin = 0.5 if dimension.whole else 0.0
    low, high = math.log(dimension.low - margin), math.log(dimension.high + margin)
    value = math.exp(generator.uniform(low, high))
    if dimension.whole:
        value = round(value)
    return min(max(value, dimension.low), dimension.high)
