"""Intervals as wide as the groups demand, controls whose mean is chance."""

from __future__ import annotations

import numpy as np
import pytest

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.metrics.statistics import bootstrap_mean, bootstrap_median, central_interval, shuffled_pairs


def test_bootstrap_covers_the_true_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        picture = np.repeat(np.arange(60), 5)
        # Trials of one picture agree almost completely: 300 values, but only 60 independent ones.
        values = (np.repeat(generator.random(60), 5) < 0.3).astype(float)
        low, high = bootstrap_mean(values, picture, 300, seed=trial)
        covered += low <= 0.3 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_bootstrap_over_pictures_is_wider_than_over_trials():
    generator = np.random.default_rng(1)
    picture = np.repeat(np.arange(40), 8)
    values = np.repeat(generator.random(40) < 0.4, 8).astype(float)
    over_pictures = bootstrap_mean(values, picture)
    over_trials = bootstrap_mean(values, np.arange(len(values)))
    assert np.diff(over_pictures) > 2 * np.diff(over_trials)


def test_bootstrap_equals_the_loop_over_resampled_pictures():
    generator = np.random.default_rng(3)
    picture = generator.integers(0, 12, 50)
    values = generator.normal(size=50)
    n = len(np.unique(picture))
    counts = np.random.default_rng(7).multinomial(n, np.full(n, 1 / n), size=100)
    means, medians = [], []
    for row in counts:
        drawn = np.concatenate([np.tile(values[picture == p], c) for p, c in zip(np.unique(picture), row, strict=True)])
        means.append(drawn.mean())
        medians.append(np.median(drawn))
    assert bootstrap_mean(values, picture, 100, seed=7) == pytest.approx(central_interval(np.array(means)))
    assert bootstrap_median(values, picture, 100, seed=7) == pytest.approx(central_interval(np.array(medians)))


def test_seed_decides_the_interval():
    values, picture = np.random.default_rng(0).random(50), np.arange(50)
    assert bootstrap_mean(values, picture, 200, seed=1) == bootstrap_mean(values, picture, 200, seed=1)
    assert bootstrap_mean(values, picture, 200, seed=1) != bootstrap_mean(values, picture, 200, seed=2)


def test_shuffled_pairs_of_a_perfect_predictor_score_chance():
    n = 120
    control = shuffled_pairs(np.eye(n) / n, 200, seed=0)
    assert control.mean == pytest.approx(1 / n, abs=2.5 / n / np.sqrt(200))
    assert control.contains(1 / n)
    assert not control.contains(0.2)
    assert len(control.values) == 200


def test_shuffled_pairs_of_one_answer_for_all_is_chance_every_time():
    score = np.zeros((10, 10))
    score[:, 3] = 0.1
    control = shuffled_pairs(score, 50)
    assert np.allclose(control.values, 0.1)
    assert control.contains(0.1)


def test_what_cannot_be_resampled_is_refused():
    with pytest.raises(InvalidValue, match="at least one"):
        bootstrap_mean(np.empty(0), np.empty(0, dtype=int))
    with pytest.raises(ShapeMismatch):
        bootstrap_mean(np.ones(3), np.ones(4, dtype=int))
    with pytest.raises(ShapeMismatch):
        shuffled_pairs(np.ones((3, 4)))
