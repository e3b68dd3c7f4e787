"""Mu-law, finite scalar and residual vector quantisers against reference numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from brainlab.models import mu_law as tensors
from brainlab.nn.finite_scalar import FiniteScalarQuantiser
from brainlab.nn.quantise import ResidualVectorQuantiser
from brainlab.signal import mu_law as arrays


@pytest.fixture(scope="module")
def companded(golden_dir):
    return dict(np.load(golden_dir / "meg" / "01_mulaw.npz"))


@pytest.fixture(scope="module")
def quantised(golden_dir):
    return dict(np.load(golden_dir / "meg" / "09_fsq_rvq.npz"))


@pytest.mark.parametrize("mu", [15, 255, 1023])
def test_array_codes_and_values_equal_the_reference(companded, mu):
    codes = arrays.mu_law_encode(companded["x"], mu)
    assert codes.dtype == companded[f"np_codes_mu{mu}"].dtype
    np.testing.assert_array_equal(codes, companded[f"np_codes_mu{mu}"])
    np.testing.assert_allclose(arrays.mu_law_decode(codes, mu), companded[f"np_recon_mu{mu}"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(arrays.mu_law_centres(mu), companded[f"all_centres_mu{mu}"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("mu", [15, 255, 1023])
def test_tensor_codes_and_values_equal_the_reference(companded, mu):
    codes = tensors.mu_law_encode(torch.from_numpy(companded["x"]), mu)
    np.testing.assert_array_equal(codes.numpy(), companded[f"torch_codes_mu{mu}"])
    values = tensors.mu_law_decode(codes, mu).numpy()
    np.testing.assert_allclose(values, companded[f"torch_recon_mu{mu}"], rtol=0, atol=1e-6)


def test_numbers_out_of_range_saturate_in_both_variants(companded):
    expected = companded["overrange_torch_codes_mu255"]
    np.testing.assert_array_equal(arrays.mu_law_encode(companded["overrange_x"]), expected)
    found = tensors.mu_law_encode(torch.from_numpy(companded["overrange_x"]))
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("name", ["even", "mixed", "odd"])
def test_finite_scalar_codes_and_values_equal_the_reference(quantised, name):
    quantiser = FiniteScalarQuantiser(quantised[f"{name}_levels"].tolist())
    found = quantiser(torch.from_numpy(quantised[f"{name}_z"]))
    np.testing.assert_array_equal(found.codes[..., 0].numpy(), quantised[f"{name}_idx"])
    np.testing.assert_allclose(found.values.numpy(), quantised[f"{name}_q"], rtol=0, atol=1e-6)
    every = quantiser.decode(torch.arange(quantiser.vocab_size)[:, None])
    np.testing.assert_allclose(every.numpy(), quantised[f"{name}_codebook"], rtol=0, atol=1e-6)


@pytest.fixture
def residual(quantised):
    codebooks = torch.from_numpy(quantised["rvq_codebooks"])
    quantiser = ResidualVectorQuantiser(6, 10, 3)
    quantiser.codebooks.copy_(codebooks)
    quantiser.cluster_sum.copy_(codebooks)
    quantiser.cluster_size.fill_(5)
    quantiser.ready.fill_(True)
    return quantiser


def test_residual_codes_and_values_equal_the_reference(quantised, residual):
    x = torch.from_numpy(quantised["rvq_x"])
    found = residual.eval()(x)
    np.testing.assert_array_equal(found.codes.numpy(), quantised["rvq_idx"])
    np.testing.assert_array_equal(residual.encode(x).numpy(), quantised["rvq_idx"])
    np.testing.assert_allclose(found.values.numpy(), quantised["rvq_q"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(residual.decode(found.codes).numpy(), quantised["rvq_q"], rtol=0, atol=1e-5)
    assert float(found.commit) == pytest.approx(float(quantised["rvq_commit"]), abs=1e-5)


def test_one_training_step_moves_the_codebooks_like_the_reference(quantised, residual):
    found = residual.train()(torch.from_numpy(quantised["rvq_x"]))
    assert float(found.commit) == pytest.approx(float(quantised["rvq_train_commit"]), abs=1e-5)
    np.testing.assert_allclose(residual.codebooks.numpy(), quantised["rvq_after_ema_codebooks"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(residual.cluster_size.numpy(), quantised["rvq_after_cluster_size"], rtol=0, atol=1e-5)
