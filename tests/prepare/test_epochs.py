from __future__ import annotations

import logging

import numpy as np
import pytest
from scipy import signal

from brainlab.errors import InvalidValue
from brainlab.prepare.epochs import resample_epochs, scale_epochs, warn_if_unusual


def eeg(unit_uv: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (15 * unit_uv * rng.standard_normal((5, 3, 6, 250))).astype(np.float32)


def test_epochs_are_resampled_as_scipy_does() -> None:
    found = resample_epochs(eeg(), 250, 200)
    assert found.shape == (5, 3, 6, 200)
    assert found.dtype == np.float32
    assert np.allclose(found, signal.resample(eeg().astype(np.float64), 200, axis=-1), atol=1e-3)
    assert np.array_equal(resample_epochs(eeg(), 250, 250), eeg())


def test_a_rate_without_whole_samples_is_refused() -> None:
    with pytest.raises(InvalidValue, match=r"data\.sfreq_hz=128\.3"):
        resample_epochs(eeg(), 250, 128.3)


@pytest.mark.parametrize(("unit", "factor"), [("uV", 1.0), ("V", 1e-6)])
def test_volts_and_microvolts_end_on_one_scale(unit: str, factor: float) -> None:
    assert np.allclose(scale_epochs(eeg(factor), "uv/100", unit), eeg() / 100, rtol=1e-5)


def test_whitened_data_on_the_microvolt_scale_are_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    whitened = eeg() / 15
    with caplog.at_level(logging.WARNING):
        warn_if_unusual(scale_epochs(eeg(), "uv/100", "uV"), "sub-01", "uV")
        assert not caplog.records
        warn_if_unusual(scale_epochs(whitened, "uv/100", "noise_sd"), "sub-01", "noise_sd")
    assert "sub-01" in caplog.text
    assert "amplitude=zscore" in caplog.text


def test_unknown_units_are_refused() -> None:
    with pytest.raises(InvalidValue, match="amplitude unit=furlong"):
        scale_epochs(eeg(), "uv/100", "furlong")
