"""Finite scalar quantisation: every code has its vector, and further levels refine it."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.nn.finite_scalar import FiniteScalarQuantiser

GRIDS = st.lists(st.integers(2, 9), min_size=1, max_size=4)


@given(GRIDS, st.integers(1, 3), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_codes_decode_to_the_values_of_the_forward_pass(grid, n_levels, seed):
    quantiser = FiniteScalarQuantiser(grid, n_levels=n_levels)
    z = 3 * torch.randn(40, len(grid), generator=torch.Generator().manual_seed(seed))
    found = quantiser(z)
    assert found.codes.shape == (40, n_levels)
    assert int(found.codes.min()) >= 0
    assert int(found.codes.max()) < quantiser.vocab_size
    assert torch.equal(quantiser.encode(z), found.codes)
    torch.testing.assert_close(quantiser.decode(found.codes), found.values, atol=1e-5, rtol=0)


@given(GRIDS)
@settings(max_examples=30, deadline=None)
def test_every_code_has_a_vector_of_its_own(grid):
    quantiser = FiniteScalarQuantiser(grid)
    vectors = quantiser.decode(torch.arange(quantiser.vocab_size)[:, None])
    assert len(torch.unique(vectors, dim=0)) == quantiser.vocab_size


@pytest.mark.parametrize("grid", [[8, 8], [5, 5], [4, 7]])
def test_each_level_divides_the_error_by_its_grid(grid):
    z = 0.7 * torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    quantiser = FiniteScalarQuantiser(grid, n_levels=3)
    codes = quantiser.encode(z)
    exact = FiniteScalarQuantiser(grid, n_levels=6)(z).values
    errors = [(quantiser.decode(codes[:, :n]) - exact).abs().amax(dim=0) for n in (1, 2, 3)]
    for coarse, fine in itertools.pairwise(errors):
        ratio = coarse / fine
        assert bool((ratio > 0.8 * torch.tensor(grid)).all())


def test_gradients_pass_straight_through():
    z = torch.randn(10, 3, requires_grad=True)
    for n_levels in (1, 2):
        quantiser = FiniteScalarQuantiser([5, 5, 5], n_levels=n_levels)
        (gradient,) = torch.autograd.grad(quantiser(z).values.sum(), z)
        expected = 2.002 / 2 * (1 - torch.tanh(z) ** 2)
        torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=0)


def test_projections_lead_to_the_grid_and_back():
    quantiser = FiniteScalarQuantiser([4, 4], dim=10, n_levels=2)
    found = quantiser(torch.randn(2, 7, 10))
    assert found.values.shape == (2, 7, 10)
    torch.testing.assert_close(quantiser.decode(found.codes), found.values, atol=1e-5, rtol=0)
    assert float(found.commit) == 0


def test_impossible_grids_and_widths_are_refused():
    with pytest.raises(InvalidValue, match="fsq_levels"):
        FiniteScalarQuantiser([1, 4])
    with pytest.raises(InvalidValue, match="n_levels"):
        FiniteScalarQuantiser([4], n_levels=0)
    with pytest.raises(ShapeMismatch, match="2 numbers"):
        FiniteScalarQuantiser([4, 4])(torch.randn(3, 5))
    with pytest.raises(ShapeMismatch, match="1 levels"):
        FiniteScalarQuantiser([4, 4]).decode(torch.zeros(3, 2, dtype=torch.long))
