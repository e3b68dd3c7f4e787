"""Planted content: one latent vector per picture, the picture that shows it, and the best possible decoder of it.

A latent vector is what a picture "is about". EEG, fMRI and the picture itself are noisy or exact functions of it, so
that every score of a trained model can be read against the score of the decoder that knows those functions.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, UInt8

__all__ = ["PictureRenderer", "bayes_top1", "concept_latents"]

_LARGEST_LATENT = 2.75
_MID_GREY = 128.0
_ROOM = 100.0  # furthest that a content field may stray from mid-grey; the grain takes the rest of the 8 bits
_GRAIN = 9.0
_GRAIN_CYCLES = 16


def concept_latents(
    concept: Int[np.ndarray, " image"],
    dim: int,
    within_concept_sd: float,
    rng: np.random.Generator,
) -> Float[np.ndarray, "image dim"]:
    """Draw a latent vector per picture around the mean of its concept.

    Args:
        concept: number of the concept that each picture shows, 0-based.
        dim: length of a latent vector.
        within_concept_sd: spread of the pictures of one concept, between 0 and 1; concept means take the rest of a
            total variance of 1.
        rng: source of randomness.

    Returns:
        one row per picture; every value lies in ±2.75, so that pictures never clip.
    """
    means = rng.standard_normal((int(concept.max()) + 1, dim)) * np.sqrt(1.0 - within_concept_sd**2)
    own = rng.standard_normal((concept.size, dim)) * within_concept_sd
    return np.clip(means[concept] + own, -_LARGEST_LATENT, _LARGEST_LATENT)


class PictureRenderer:
    """Draws a picture whose smooth colour field is linear in the latent vector.

    Picture = mid-grey + Σ_k latent_k · basis_k, with bases that are single Fourier components (one or two cycles per
    picture) in a luminance or a colour-opponent direction: orthogonal and of equal power. On top lies a grain that
    differs from picture to picture: its 16 cycles per picture vanish when a picture is averaged down to 16 × 16.

    Args:
        dim: length of a latent vector, at most 32.
        gain: grey levels per unit of latent.
    """

    def __init__(self, dim: int, gain: float) -> None:
        self.dim, self.gain = dim, gain

    @classmethod
    def fitting(cls, latents: Float[np.ndarray, "image dim"], gain: float = 9.0) -> PictureRenderer:
        """The renderer whose gain is as wished, or lower where these latents would leave the 8 bits."""
        renderer = cls(latents.shape[1], 1.0)
        field = renderer._basis(32)
        largest = max(
            float(np.abs(block @ field).max()) for block in np.array_split(latents, max(len(latents) // 256, 1))
        )
        return cls(latents.shape[1], min(gain, 0.97 * _ROOM / largest))

    def render(
        self, latents: Float[np.ndarray, "image dim"], size: int, rng: np.random.Generator
    ) -> UInt8[np.ndarray, "image size size 3"]:
        """Draw one square picture of ``size`` pixels per row of ``latents``; the grain comes from ``rng``."""
        field = (latents.astype(np.float32) * np.float32(self.gain)) @ self._basis(size).astype(np.float32)
        pictures = field.reshape(len(latents), size, size, 3)
        # Below 64 px the grain would alias into the content.
        if size >= 4 * _GRAIN_CYCLES:
            pictures += self._grain(len(latents), size, rng)[..., None]
        return np.rint(pictures + np.float32(_MID_GREY)).astype(np.uint8)

    def _basis(self, size: int) -> Float[np.ndarray, "dim pixel"]:
        centre = (np.arange(size) + 0.5) / size
        y, x = np.meshgrid(centre, centre, indexing="ij")
        waves = []
        for fx, fy in ((1, 0), (0, 1), (1, 1), (1, -1), (2, 0), (0, 2), (2, 1), (1, 2)):
            angle = 2 * np.pi * (fx * x + fy * y)
            waves += [np.cos(angle), np.sin(angle)]
        colours = np.array([[1.0, 1.0, 1.0], [1.25, 0.0, -1.25]]) * np.sqrt(2.0 / 3.0)
        order = [(w, c) for first in range(0, len(waves), 8) for c in range(2) for w in range(first, first + 8)]
        if self.dim > len(order):
            raise ValueError(f"at most {len(order)} latent dimensions can be drawn, got {self.dim}")
        return np.stack([(waves[w][..., None] * colours[c]).ravel() for w, c in order[: self.dim]])

    @staticmethod
    def _grain(n: int, size: int, rng: np.random.Generator) -> Float[np.ndarray, "image size size"]:
        centre = ((np.arange(size) + 0.5) / size).astype(np.float32)
        fast = np.full(n, _GRAIN_CYCLES, np.float32)
        slow = rng.integers(-_GRAIN_CYCLES, _GRAIN_CYCLES + 1, n).astype(np.float32)
        upright = rng.random(n) < 0.5
        fx, fy = np.where(upright, fast, slow), np.where(upright, slow, fast)
        phase = rng.uniform(0, 2 * np.pi, n).astype(np.float32)
        along_x = 2 * np.pi * fx[:, None] * centre + phase[:, None]
        along_y = 2 * np.pi * fy[:, None] * centre
        # cos(a + b) from one-dimensional cosines and sines: the trigonometry costs a row and a column per picture.
        grain = np.cos(along_y)[:, :, None] * np.cos(along_x)[:, None, :]
        grain -= np.sin(along_y)[:, :, None] * np.sin(along_x)[:, None, :]
        return (_GRAIN * grain).astype(np.float32)


def bayes_top1(
    latents: Float[np.ndarray, "image dim"],
    information: Float[np.ndarray, "dim dim"],
    n_trials: int,
    rng: np.random.Generator,
    draws: int = 200,
) -> float:
    """Top-1 score of the best possible decoder on a gallery whose pictures are equally likely.

    With x = Σ_k c_k P_k + Gaussian noise of covariance Σ, the statistic y = I⁻¹ P Σ⁻¹ x is sufficient for c and
    distributed as N(c, I⁻¹) with I = P Σ⁻¹ Pᵀ. The best decoder names the picture whose latent is nearest to y in the
    metric of I; its hits are counted over simulated y.

    Args:
        latents: latent vectors of exactly the pictures in the gallery.
        information: Fisher information I of one trial.
        n_trials: trials averaged before decoding (information adds up).
        rng: source of randomness.
        draws: simulated statistics per picture.
    """
    values, vectors = np.linalg.eigh(information * n_trials)
    root = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
    points = latents @ root
    norms = 0.5 * np.sum(points**2, axis=1)
    hits = 0
    for _ in range(draws):
        observed = points + rng.standard_normal(points.shape)
        hits += int(np.sum(np.argmax(observed @ points.T - norms, axis=1) == np.arange(len(points))))
    return hits / (draws * len(points))
