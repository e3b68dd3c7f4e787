"""Token numbers: price, baseline and variety of codes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.metrics.tokens import Unigram, score_tokens, token_summary


def test_uniform_model_pays_the_size_of_the_vocabulary():
    nats = np.full((3, 24), np.log(16.0))
    found = score_tokens(nats, 4, frames_per_s=25.0, unigram_nats=nats)
    assert found.bits_per_token == pytest.approx(4.0)
    assert found.perplexity == pytest.approx(16.0)
    assert found.bits_per_s == pytest.approx(4.0 * 4 * 25)
    assert found.unigram_perplexity == pytest.approx(16.0)
    assert found.n_tokens == 72
    np.testing.assert_allclose(found.bits_per_token_by_step, np.full(6, 4.0))
    json.dumps(found.to_dict(), allow_nan=False)


def test_surplus_is_cut_off_at_the_start():
    nats = np.zeros((1, 11))
    nats[0, :3] = 100.0
    nats[0, 7:] = np.log(2.0)
    found = score_tokens(nats, 4)
    np.testing.assert_allclose(found.bits_per_token_by_step, [0.0, 1.0])
    assert found.bits_per_s is None
    assert found.unigram_bits_per_token is None


def test_unigram_knows_the_frequencies_of_each_level():
    training = np.array([[[0, 1], [0, 1], [0, 1], [1, 1]]])  # (sequence, frame, level)
    baseline = Unigram(vocab_size=2, n_levels=2).update(training[:, :2]).update(training[:, 2:])
    nats = baseline.nats(np.array([[0, 0], [1, 1]]))
    np.testing.assert_allclose(nats, -np.log([[4 / 6, 1 / 6], [2 / 6, 5 / 6]]))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=50))
def test_unigram_probabilities_sum_to_one(codes):
    baseline = Unigram(7).update(np.array(codes)[:, None])
    assert np.exp(-baseline.nats(np.arange(7)[:, None])).sum() == pytest.approx(1.0)


def test_codes_outside_the_vocabulary_and_wrong_shapes_are_one_sentence():
    baseline = Unigram(4, 2)
    with pytest.raises(InvalidValue, match="codes"):
        baseline.update(np.array([[0, 4]]))
    with pytest.raises(ShapeMismatch, match="2 levels"):
        baseline.nats(np.zeros((3, 1), dtype=int))
    with pytest.raises(InvalidValue, match="vocab_size"):
        Unigram(0)
    with pytest.raises(InvalidValue, match="tokens_per_step"):
        score_tokens(np.zeros((1, 3)), 4)
    with pytest.raises(ShapeMismatch, match="unigram_nats"):
        score_tokens(np.zeros((1, 4)), 4, unigram_nats=np.zeros((1, 5)))
    with pytest.raises(ShapeMismatch, match="nats"):
        score_tokens(np.zeros(4), 4)


@given(st.integers(1, 5), st.integers(1, 30), st.integers(1, 4), st.integers(0, 1000))
def test_variety_agrees_with_counting(channels, steps, n_codes, seed):
    codes = np.random.default_rng(seed).integers(0, n_codes, (2, channels, steps)) - 1
    found = token_summary(codes)
    for index, one in enumerate(codes):
        entropies = []
        for step in one.T:
            _, counts = np.unique(step, return_counts=True)
            share = counts / channels
            entropies.append(-(share * np.log2(share)).sum())
        assert found["token_entropy"][index] == pytest.approx(np.mean(entropies), abs=1e-12)
        assert found["token_unique_rate"][index] == len(np.unique(one)) / one.size
        assert found["token_repetition_rate"][index] == 1 - len(np.unique(one)) / one.size


def test_signals_have_no_token_numbers():
    assert all(np.isnan(values).all() for values in token_summary(np.zeros((2, 3, 4), dtype=np.float32)).values())
