"""Residual codes: the predictor is undone exactly, and quantisation errors do not add up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainlab.errors import InvalidValue
from brainlab.signal.quantise import DeadZone, decode_residuals, encode_residuals, from_residuals, residuals

ZONES = st.builds(DeadZone, st.integers(3, 400), st.sampled_from([0.0, 0.01, 0.2]))


def test_residuals_follow_their_definition():
    z = np.array([1.0, 2.0, 3.0, -1.0])
    np.testing.assert_allclose(residuals(z, scale=2.0), [0.5, 1.0, (3 - 1.9) / 2, (-1 - 2.85) / 2])


@given(st.integers(1, 50), st.floats(0.01, 100), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_the_predictor_is_undone_exactly(n_time, scale, seed):
    z = np.random.default_rng(seed).normal(size=(2, 3, n_time))
    np.testing.assert_allclose(from_residuals(residuals(z, scale), scale), z, rtol=1e-9, atol=1e-9)


@given(ZONES)
@settings(max_examples=40, deadline=None)
def test_every_code_is_that_of_its_centre(zone):
    codes = np.arange(zone.n_bins)
    assert len(zone.centres) == zone.n_bins
    assert (np.diff(zone.centres) > 0).all()
    np.testing.assert_array_equal(zone.encode(zone.decode(codes)), codes)


@given(ZONES)
@settings(max_examples=40, deadline=None)
def test_no_number_in_range_is_further_than_half_a_bin_from_its_centre(zone):
    e = np.linspace(-1, 1, 2001)
    assert np.abs(zone.decode(zone.encode(e)) - e).max() <= zone.width / 2 + 1e-12


def test_dead_zone_codes_follow_their_definition():
    zone = DeadZone(256)
    assert zone.encode(np.array([0.0, 0.01, -0.01])).tolist() == [128, 128, 128]
    assert zone.encode(np.array([0.0101, -0.0101, 1.0, -1.0, 7.0, -7.0])).tolist() == [129, 127, 255, 0, 255, 0]


@pytest.mark.parametrize("seed", range(3))
def test_a_random_walk_comes_back_within_a_bin(seed):
    steps = np.random.default_rng(seed).choice([-1.0, 1.0], size=(2, 600))
    walk, zone, scale = np.cumsum(steps, axis=-1), DeadZone(256), 4.0
    decoded = decode_residuals(encode_residuals(walk, zone, scale), zone, scale)
    assert np.abs(decoded - walk).max() <= zone.width / 2 * scale + 1e-9


def test_what_was_clipped_is_caught_up():
    z, zone = np.zeros((1, 40)), DeadZone(256)
    z[:, 5:] = 3.0  # a jump of three times the range
    decoded = decode_residuals(encode_residuals(z, zone), zone)
    assert abs(decoded[0, 5] - 3.0) > 1
    assert np.abs(decoded[0, 12:] - 3.0).max() <= zone.width / 2 + 1e-9


@pytest.mark.parametrize(("settings_", "name"), [({"n_bins": 2}, "n_bins"), ({"dead": 1.0}, "dead")])
def test_impossible_codes_are_refused(settings_, name):
    with pytest.raises(InvalidValue, match=name):
        DeadZone(**settings_)
    with pytest.raises(InvalidValue, match="scale=0"):
        residuals(np.zeros(3), scale=0)
    with pytest.raises(InvalidValue, match="NaN"):
        DeadZone().encode(np.array([np.nan]))
    with pytest.raises(InvalidValue, match="expected 0…255"):
        DeadZone().decode(np.array([256]))
