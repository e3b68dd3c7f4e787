from __future__ import annotations

import numpy as np
import pytest

from brainlab.errors import InvalidValue
from brainlab.signal.amplitude import amplitude_statistics, scale_amplitude


def eeg(scale: float) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal((4, 3, 200)) * scale + scale).astype(np.float32)


@pytest.mark.parametrize(("unit", "factor"), [("V", 1e4), ("mV", 10.0), ("uV", 0.01), ("µV", 0.01), ("", 0.01)])
def test_microvolts_are_divided_by_a_hundred_from_any_unit(unit, factor):
    samples = eeg(1.0)
    found = scale_amplitude(samples, "uv/100", unit)
    np.testing.assert_allclose(found, samples * factor, rtol=1e-6)
    assert found.dtype == np.float32


def test_zscore_and_robust_centre_and_scale_every_row():
    found = scale_amplitude(eeg(3e-5), "zscore")
    np.testing.assert_allclose(found.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(found.std(-1), 1, rtol=1e-4)
    robust = scale_amplitude(eeg(3e-5), "robust")
    np.testing.assert_allclose(np.median(robust, -1), 0, atol=1e-5)
    np.testing.assert_allclose(robust.std(-1), 1, rtol=0.3)


@pytest.mark.parametrize("policy", ["zscore", "robust"])
def test_a_flat_row_becomes_zero(policy):
    assert not scale_amplitude(np.full((1, 50), 7.0, np.float32), policy).any()


def test_none_changes_nothing_and_unknown_names_are_refused():
    samples = eeg(1.0)
    assert scale_amplitude(samples, "none") is samples
    with pytest.raises(InvalidValue, match="uv/100"):
        scale_amplitude(samples, "loud")
    with pytest.raises(InvalidValue, match="unit"):
        scale_amplitude(samples, "uv/100", "T")


def test_whitened_data_scaled_as_microvolts_raise_a_concern_and_microvolts_do_not():
    whitened = amplitude_statistics(scale_amplitude(eeg(1.0), "uv/100", ""))
    assert "below" in whitened.concern()
    assert amplitude_statistics(scale_amplitude(eeg(20e-6), "uv/100", "V")).concern() is None
    loud = amplitude_statistics(scale_amplitude(eeg(20e-6), "uv/100", "V") * 50)
    assert "above" in loud.concern()
    assert loud.to_dict()["n_rows"] == 12
