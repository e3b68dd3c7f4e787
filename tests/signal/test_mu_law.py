"""Mu-law codes: they stay in range, keep order, and survive decoding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from brainlab.errors import InvalidValue
from brainlab.signal.mu_law import mu_law_centres, mu_law_decode, mu_law_encode, smallest_unsigned

MU = st.sampled_from([1, 3, 15, 255, 1023, 65535])


@given(MU)
@settings(deadline=None)
def test_every_code_decodes_to_a_number_that_has_it(mu):
    codes = np.arange(mu + 1)
    np.testing.assert_array_equal(mu_law_encode(mu_law_decode(codes, mu), mu), codes)


@given(hnp.arrays(np.float64, 40, elements=st.floats(-1e6, 1e6)), MU)
@settings(max_examples=50, deadline=None)
def test_larger_numbers_have_no_smaller_code_and_none_wraps(x, mu):
    codes = mu_law_encode(np.sort(x), mu).astype(int)
    assert (np.diff(codes) >= 0).all()
    assert codes.min() >= 0
    assert codes.max() <= mu


@given(hnp.arrays(np.float64, 40, elements=st.floats(-1, 1)), st.sampled_from([15, 255, 1023]))
@settings(max_examples=50, deadline=None)
def test_a_number_in_range_lies_between_its_neighbours_centres(x, mu):
    codes, centres = mu_law_encode(x, mu).astype(int), mu_law_centres(mu)
    assert (x >= centres[np.maximum(codes - 1, 0)] - 1e-12).all()
    assert (x <= centres[np.minimum(codes + 1, mu)] + 1e-12).all()


def test_infinity_saturates_and_a_missing_sample_is_refused():
    assert mu_law_encode(np.array([-np.inf, np.inf])).tolist() == [0, 255]
    with pytest.raises(InvalidValue, match="x=NaN"):
        mu_law_encode(np.array([0.0, np.nan]))


def test_codes_that_do_not_exist_are_refused():
    with pytest.raises(InvalidValue, match=r"expected 0…15"):
        mu_law_decode(np.array([16]), 15)
    with pytest.raises(InvalidValue, match="mu=0"):
        mu_law_encode(np.zeros(1), 0)


@pytest.mark.parametrize(("largest", "kind"), [(255, "uint8"), (256, "uint16"), (65535, "uint16"), (65536, "uint32")])
def test_codes_take_the_smallest_integers_that_hold_them(largest, kind):
    assert smallest_unsigned(largest) == kind
