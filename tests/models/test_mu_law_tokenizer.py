"""Mu-law as a tokenizer: what it promises, and what comes back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.models.mu_law import MuLaw, mu_law_encode
from brainlab.signal import mu_law as arrays
from brainlab.types import Tokenizer


def test_codes_have_one_site_per_channel_and_one_frame_per_sample():
    tokenizer = MuLaw(3)
    assert isinstance(tokenizer, Tokenizer)
    codes = tokenizer.encode(torch.randn(2, 3, 50))
    assert codes.shape == (2, 50, 3, 1)
    assert codes.dtype == torch.int64
    assert tokenizer.decode(codes).shape == (2, 3, 50)
    assert (tokenizer.hop, tokenizer.n_sites, tokenizer.n_levels, tokenizer.vocab_size) == (1, 3, 1, 256)


@pytest.mark.parametrize("bits", [1, 4, 8, 10])
def test_decoded_codes_have_the_same_codes(bits):
    tokenizer = MuLaw(2, bits=bits, max_abs=4.0)
    codes = torch.arange(2**bits).view(1, -1, 1, 1).expand(1, -1, 2, 1)
    assert torch.equal(tokenizer.encode(tokenizer.decode(codes)), codes)


def test_samples_beyond_the_edge_saturate():
    decoded = MuLaw(1, max_abs=2.0)(torch.tensor([[[-9.0, -2.0, 0.0, 2.0, 9.0]]]))
    assert decoded[0, 0].tolist() == pytest.approx([-2.0, -2.0, 0.0, 2.0, 2.0], abs=2e-3)


def test_tensor_and_array_give_the_same_codes():
    x = np.random.default_rng(0).normal(size=20_000)
    np.testing.assert_array_equal(mu_law_encode(torch.from_numpy(x)).numpy(), arrays.mu_law_encode(x))


def test_the_fingerprint_follows_what_the_codes_depend_on():
    prints = {MuLaw(2).fingerprint, MuLaw(3).fingerprint, MuLaw(2, bits=9).fingerprint, MuLaw(2, max_abs=4).fingerprint}
    assert len(prints) == 4
    assert MuLaw(2).fingerprint == MuLaw(2).fingerprint


def test_missing_samples_and_wrong_shapes_are_refused():
    with pytest.raises(InvalidValue, match="signal=NaN"):
        MuLaw(1).encode(torch.tensor([[[0.0, float("nan")]]]))
    with pytest.raises(ShapeMismatch, match=r"\(batch, 2, time\)"):
        MuLaw(2).encode(torch.randn(1, 3, 4))
    with pytest.raises(ShapeMismatch, match=r"\(batch, time, 2, 1\)"):
        MuLaw(2).decode(torch.zeros(1, 4, 3, 1, dtype=torch.long))


@pytest.mark.parametrize(("settings", "name"), [({"bits": 17}, "bits"), ({"max_abs": 0.0}, "max_abs")])
def test_impossible_settings_are_refused(settings, name):
    with pytest.raises(InvalidValue, match=name):
        MuLaw(2, **settings)
