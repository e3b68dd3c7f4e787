"""Planted content: latents, pictures and the score of the best possible decoder."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from brainlab.synthetic.latents import PictureRenderer, bayes_top1, concept_latents


def _descriptor(pictures):
    n, size = pictures.shape[:2]
    step = size // 16
    return pictures.reshape(n, 16, step, 16, step, 3).mean(axis=(2, 4)).reshape(n, -1)


def test_total_variance_is_one_and_shared_within_a_concept():
    concept = np.repeat(np.arange(500), 10)
    latents = concept_latents(concept, 16, 0.8, np.random.default_rng(0))
    assert latents.var() == pytest.approx(1.0, abs=0.03)
    within = latents - latents.reshape(500, 10, 16).mean(axis=1)[concept]
    assert within.std() / np.sqrt(0.9) == pytest.approx(0.8, abs=0.03)
    assert np.abs(latents).max() <= 2.75


def test_pictures_hold_the_latents_linearly_whatever_their_size_and_grain():
    rng = np.random.default_rng(1)
    latents = concept_latents(np.arange(300), 16, 0.8, rng)
    renderer = PictureRenderer.fitting(latents)
    small = _descriptor(renderer.render(latents, 64, rng))
    large = _descriptor(renderer.render(latents, 224, np.random.default_rng(2)))
    weights = np.linalg.lstsq(small - small.mean(0), latents - latents.mean(0), rcond=1e-3)[0]
    error = (large - small.mean(0)) @ weights + latents.mean(0) - latents
    assert 1 - error.var() / latents.var() > 0.99


def test_pictures_never_clip():
    rng = np.random.default_rng(3)
    latents = np.where(rng.random((200, 16)) < 0.5, -2.75, 2.75)
    pictures = PictureRenderer.fitting(latents, gain=50.0).render(latents, 64, rng)
    assert pictures.min() > 0
    assert pictures.max() < 255


def test_two_renderings_of_one_latent_differ_only_in_the_grain():
    latents = np.random.default_rng(0).standard_normal((4, 16))
    renderer = PictureRenderer(16, 5.0)
    one, two = (renderer.render(latents, 64, np.random.default_rng(seed)) for seed in (1, 2))
    assert (one != two).mean() > 0.5
    assert np.abs(_descriptor(one) - _descriptor(two)).max() < 1.0


def test_best_decoder_agrees_with_the_formula_for_orthogonal_signals():
    # M orthogonal signals of length r in unit noise: P(hit) = ∫ φ(z − r) Φ(z)^(M−1) dz.
    r, m = 3.0, 20
    expected = quad(lambda z: norm.pdf(z - r) * norm.cdf(z) ** (m - 1), -8, 15)[0]
    found = bayes_top1(r * np.eye(m), np.eye(m), 1, np.random.default_rng(0), draws=2000)
    assert found == pytest.approx(expected, abs=0.01)


def test_averaging_trials_adds_information():
    latents = np.random.default_rng(0).standard_normal((50, 8))
    information = 0.5 * np.eye(8)
    four = bayes_top1(latents, information, 4, np.random.default_rng(1))
    assert four == bayes_top1(latents, 4 * information, 1, np.random.default_rng(1))
    assert four > bayes_top1(latents, information, 1, np.random.default_rng(1))
