from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from brainlab.errors import InvalidValue
from brainlab.signal import resample as module
from brainlab.signal.resample import fft_resample


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([np.float32, np.float64]), st.integers(1, 2000))
def test_equals_scipy_for_any_lengths_in_either_precision(n_in, n_out, dtype, block_bytes):
    samples = np.random.default_rng(0).standard_normal((3, 2, n_in)).astype(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK_BYTES", block_bytes)
        found = fft_resample(samples, n_out)
    expected = scipy.signal.resample(samples, n_out, axis=-1)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, atol=5e-6 if dtype == np.float32 else 1e-13)


def test_a_sine_keeps_its_amplitude():
    time = np.arange(250) / 250
    found = fft_resample(np.sin(2 * np.pi * 7 * time), 200)
    np.testing.assert_allclose(found, np.sin(2 * np.pi * 7 * np.arange(200) / 200), atol=1e-12)


def test_nothing_to_do_returns_the_input_and_nothing_to_resample_is_refused():
    samples = np.zeros((2, 5), np.float32)
    assert fft_resample(samples, 5) is samples
    for array, n in ((samples, 0), (np.zeros((2, 0)), 5)):
        with pytest.raises(InvalidValue):
            fft_resample(array, n)
