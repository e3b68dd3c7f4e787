"""Growing prefixes and sliding windows: shared work gives the numbers of each part from the start."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainlab.errors import InvalidValue
from brainlab.metrics.features import features, prefix_features
from brainlab.metrics.rollouts import (
    DISTANCES,
    SUMMARIES,
    distances,
    prefix_distances,
    summaries,
    window_distances,
    window_summaries,
)
from brainlab.metrics.sliding import compare_windows

PAIRS = np.array([(0, 0), (0, 2), (1, 1), (2, 0), (1, 2)])


def drifting(n=3, channels=3, samples=1300, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, channels, samples)) + 0.2 * np.cumsum(rng.standard_normal((n, channels, samples)), -1)
    return (x + 5.0).astype(np.float32)


@pytest.mark.parametrize("sfreq", [100.0, 125.0])
@pytest.mark.parametrize("max_bytes", [1, 1 << 30])
def test_distances_of_prefixes_equal_those_of_each_from_the_start(sfreq, max_bytes):
    a, b = drifting(seed=1), drifting(seed=2)
    prefixes = [60, 130, 390, 400, 777, 1300]
    shared = prefix_distances(a, b, PAIRS, sfreq, prefixes, 1.0, 45.0, max_bytes=max_bytes)
    for row, prefix in enumerate(prefixes):
        alone = distances(a[..., :prefix], b[..., :prefix], PAIRS, sfreq, 1.0, 45.0)
        for name in DISTANCES:
            np.testing.assert_allclose(shared[name][row], alone[name], rtol=1e-4, atol=1e-5, err_msg=f"{name} {prefix}")


def test_pairs_within_one_set_equal_pairs_of_two():
    a = drifting(seed=1)
    within = prefix_distances(a, a, PAIRS, 100.0, [500, 1000])
    between = prefix_distances(a, a.copy(), PAIRS, 100.0, [500, 1000], max_bytes=1)
    for name in DISTANCES:
        np.testing.assert_allclose(within[name], between[name], rtol=1e-5, atol=1e-6, err_msg=name)


@settings(max_examples=15, deadline=None)
@given(
    prefixes=st.lists(st.integers(20, 500), min_size=1, max_size=5, unique=True).map(sorted),
    seed=st.integers(0, 100),
)
def test_summaries_of_prefixes_equal_those_of_each_from_the_start(prefixes, seed):
    x = drifting(n=1, samples=500, seed=seed)
    for prefix, known in zip(prefixes, prefix_features(x, 50.0, prefixes), strict=True):
        assert known.n_time == prefix
        alone = summaries(features(x[..., :prefix], 50.0))
        for name, values in summaries(known).items():
            np.testing.assert_allclose(values, alone[name], rtol=1e-5, atol=1e-7, err_msg=f"{name} {prefix}")


@pytest.mark.parametrize("prefixes", [[], [100, 100], [200, 100], [100, 2000]])
def test_prefixes_must_grow_within_the_signal(prefixes):
    with pytest.raises(InvalidValue, match="prefixes"):
        next(prefix_features(drifting(), 100.0, prefixes))


@pytest.mark.parametrize(("window", "stride"), [(300, 50), (300, 37), (60, 100)])
def test_windows_hold_what_each_part_alone_holds(window, stride):
    x = drifting()
    found = window_summaries(x, 100.0, window, stride)
    starts = range(0, 1300 - window + 1, stride)
    for column, start in enumerate(starts):
        alone = summaries(x[..., start : start + window], 100.0)
        for name in SUMMARIES:
            assert found[name].shape == (3, len(starts))
            np.testing.assert_allclose(found[name][:, column], alone[name], rtol=1e-5, atol=1e-7, err_msg=name)


def test_distances_in_windows_follow_the_signals():
    a, b = drifting(seed=1), drifting(seed=2)
    b[..., 600:] = a[..., 600:]
    found = window_distances(a, b, [(0, 0), (1, 1)], 100.0, 200, 200)
    assert found["covariance"].shape == (6, 2)
    assert (found["covariance"][:3] > 0.01).all()
    np.testing.assert_allclose(found["covariance"][3:], 0.0, atol=1e-9)


def test_window_must_fit():
    with pytest.raises(InvalidValue, match="window"):
        window_summaries(drifting(), 100.0, 1301, 10)
    with pytest.raises(InvalidValue, match="stride"):
        window_summaries(drifting(), 100.0, 100, 0)


def test_real_windows_lie_in_their_own_envelope_and_scaled_ones_do_not():
    rng = np.random.default_rng(0)
    real = {"a": rng.standard_normal((200, 4)), "b": rng.standard_normal((200, 4)) + 3}
    same = compare_windows(real, real)
    np.testing.assert_allclose(same.outside_rate(), 0.1, atol=0.01)
    np.testing.assert_allclose(same.diversity_ratio(), 1.0)
    half = compare_windows({name: values * 0.5 for name, values in real.items()}, real)
    np.testing.assert_allclose(half.diversity_ratio(), 0.5)
    far = compare_windows({name: values + 100 for name, values in real.items()}, real)
    np.testing.assert_allclose(far.outside_rate(), 1.0)
    np.testing.assert_allclose(far.real["a"][2], np.median(real["a"], axis=0))


def test_a_band_without_a_frequency_is_no_perfect_score_in_windows():
    values = np.abs(np.random.default_rng(0).standard_normal((20, 3)))
    real = {"bandpower_ratio_alpha": values, "bandpower_ratio_gamma": np.zeros((20, 3)), "token_entropy": 0 * values}
    assert list(compare_windows(real, real).outside) == ["bandpower_ratio_alpha", "token_entropy"]
    far = compare_windows({**real, "bandpower_ratio_gamma": values}, real)
    np.testing.assert_allclose(far.outside["bandpower_ratio_gamma"], 1.0)


def test_features_without_numbers_are_left_out_of_windows():
    values = np.random.default_rng(0).standard_normal((20, 3))
    found = compare_windows(
        {"a": values, "token_entropy": values * np.nan}, {"a": values, "token_entropy": values * np.nan}
    )
    assert list(found.to_dict()["generated"]) == ["a"]


@pytest.mark.parametrize("n", [6, 16])
def test_a_perfect_generator_of_few_contexts_lies_outside_as_often_as_real_recordings(n):
    rng = np.random.default_rng(n)
    made, true, naive = [], [], []
    for _ in range(300):
        real, generated = ({"a": rng.standard_normal((n, 3)), "b": rng.random((n, 3))} for _ in range(2))
        found = compare_windows(generated, real)
        of_generated, of_real = found.outside_others()
        assert of_generated.shape == (n,)
        made.append(of_generated.mean())
        true.append(of_real.mean())
        naive.append(found.outside_rate().mean())
    assert np.mean(made) == pytest.approx(np.mean(true), abs=0.02)
    assert np.mean(naive) > 0.17  # a tenth is what the range's own recordings score
    two = compare_windows({"a": np.ones((2, 1))}, {"a": np.ones((2, 1))})
    assert np.isnan(two.outside_others()[0]).all()


def test_every_rollout_of_a_context_is_judged_by_the_other_contexts():
    real = {"a": np.array([[0.0], [1.0], [2.0], [3.0]])}
    generated = {"a": np.array([[0.0], [2.0], [9.0], [9.0], [2.0], [9.0], [-9.0], [1.0]])}
    of_generated, of_real = compare_windows(generated, real).outside_others()
    np.testing.assert_allclose(of_generated, [0.5, 1.0, 0.5, 0.5])
    np.testing.assert_allclose(of_real, [1.0, 0.0, 0.0, 1.0])
