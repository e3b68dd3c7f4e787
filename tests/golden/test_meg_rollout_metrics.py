"""Rollout metrics agree with the reference numbers: per-example values, 18 summaries, 36 distances, token variety."""

from __future__ import annotations

import numpy as np
import pytest

from brainlab.metrics.features import features
from brainlab.metrics.rollouts import DISTANCES, SUMMARIES, distances, summaries
from brainlab.metrics.spectra import BANDS
from brainlab.metrics.tokens import token_summary

PAIRS = np.array([(0, 3), (1, 4), (2, 5), (3, 4)])
close = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(scope="module")
def golden(golden_dir):
    with np.load(golden_dir / "meg" / "06_rollout_metrics.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def known(golden):
    return features(np.concatenate([golden["gen"], golden["tgt"]]), 100.0, 1.0, 45.0)


def test_there_are_18_summaries_and_36_distances(golden):
    assert sorted(SUMMARIES) == sorted(key.removeprefix("summary_") for key in golden if key.startswith("summary_"))
    assert sorted(DISTANCES) == sorted(key.removeprefix("distance_") for key in golden if key.startswith("distance_"))
    assert (len(SUMMARIES), len(DISTANCES)) == (18, 36)


@pytest.mark.parametrize(
    "name",
    [
        "amplitude_kurtosis",
        "amplitude_tail_fraction",
        "psd",
        "bandpower_ratios",
        "dfa_exponent",
        "hurst_exponent",
        "one_over_f_exponent",
        "spatial_connectivity",
        "covariance",
    ],
)
def test_values_per_example_match(golden, known, name):
    np.testing.assert_allclose(getattr(known, name), golden[f"metric_{name}"], **close)


def test_grids_match(golden, known):
    np.testing.assert_allclose(known.grid.frequencies, golden["metric_psd_freqs"], **close)
    assert known.grid.scales.tolist() == golden["dfa_scales"].tolist() == golden["hurst_lags"].tolist()
    assert list(BANDS) == ["delta", "theta", "alpha", "beta", "gamma"]


@pytest.mark.parametrize("name", list(SUMMARIES))
def test_summary_matches(golden, known, name):
    np.testing.assert_allclose(summaries(known)[name], golden[f"summary_{name}"], **close)


@pytest.mark.parametrize("name", list(DISTANCES))
def test_distance_matches(golden, known, name):
    np.testing.assert_allclose(distances(known, known, PAIRS)[name], golden[f"distance_{name}"], **close)


def test_token_variety_matches(golden):
    for name, value in token_summary(golden["tokens"]).items():
        np.testing.assert_allclose(value, golden[f"tok_{name}"], **close)
