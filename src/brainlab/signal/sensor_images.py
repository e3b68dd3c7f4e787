"""Sensor signals as images: one pixel per sensor, or smooth fields around the sensors, and back.

A pixel map puts every sensor of a flat layout on a square grid. The sparse image holds each sensor in its own pixel;
the smooth one is, in every pixel, the mean of the sensors around it under a Gaussian that ends at four standard
deviations. Its inverse is the mean of the pixels around each sensor under the same weights: a smoothed signal, not
the original one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from brainlab.errors import InvalidValue, ShapeMismatch

__all__ = ["GaussianImage", "pixel_map", "scatter_image"]

_SPREAD = 0.75
_REACH = 4.0


def pixel_map(positions: Float[np.ndarray, "channel 2"], size: int = 32) -> Int[np.ndarray, "channel 2"]:
    """Row and column of every sensor: each axis is stretched to the image, rows follow the second coordinate.

    Args:
        positions: flat layout, in any unit.
        size: pixels along each side.

    Raises:
        InvalidValue: if the size is too small or a position is not finite.

    >>> pixel_map(np.array([[0.0, 0.0], [2.0, 1.0], [1.0, 4.0]]), size=5).tolist()
    [[0, 0], [1, 4], [4, 2]]
    """
    if size < 2:
        raise InvalidValue("size", size, "expected at least 2 pixels")
    places = np.asarray(positions, dtype=np.float64)
    if places.ndim != 2 or places.shape[1] != 2 or not len(places):
        raise ShapeMismatch("positions", places.shape, "expected (channel, 2)")
    if not np.isfinite(places).all():
        raise InvalidValue("positions", "nan", "expected a finite place for every sensor")
    low, extent = places.min(axis=0), np.ptp(places, axis=0)
    # All sensors on one line: they lie on the first row or column.
    share = (places - low) / np.where(extent > 0, extent, 1.0)
    return np.rint(share * (size - 1)).astype(np.int64)[:, ::-1]


def scatter_image(
    signal: Float[np.ndarray, "channel time"], pixels: Int[np.ndarray, "channel 2"], size: int = 32
) -> Float[np.ndarray, "row column time"]:
    """Every sensor in its pixel, zeros elsewhere.

    Raises:
        InvalidValue: if two sensors share a pixel.
        ShapeMismatch: if signal and pixels differ in their number of channels.
    """
    if len(signal) != len(pixels):
        raise ShapeMismatch("signal", signal.shape, f"expected {len(pixels)} channels, one per pixel")
    flat = pixels[:, 0] * size + pixels[:, 1]
    if len(np.unique(flat)) < len(flat):
        shared = len(flat) - len(np.unique(flat))
        raise InvalidValue(
            "size", size, f"expected a pixel for each sensor, {shared} share one", hint="use more pixels"
        )
    image = np.zeros((size * size, signal.shape[1]), dtype=signal.dtype)
    image[flat] = signal
    return image.reshape(size, size, -1)


@dataclass(frozen=True)
class GaussianImage:
    """Smooth images of sensor signals, and their inverse.

    Args:
        pixels: row and column of every sensor, from :func:`pixel_map`.
        size: pixels along each side.

    The standard deviation is 0.75 × the median distance between neighbouring sensors, at least 0.75 pixels. Pixels
    that no sensor reaches are zero.
    """

    pixels: Int[np.ndarray, "channel 2"]
    size: int = 32

    @property
    def sigma(self) -> float:
        """Standard deviation of the Gaussian, in pixels."""
        if len(self.pixels) < 2:
            return _SPREAD
        apart = np.linalg.norm(self.pixels[:, None] - self.pixels[None], axis=-1)
        np.fill_diagonal(apart, np.inf)
        return _SPREAD * max(1.0, float(np.median(apart.min(axis=1))))

    @property
    def weights(self) -> Float[np.ndarray, "pixel channel"]:
        """How much each sensor counts in each pixel, not normalised."""
        grid = np.stack(np.meshgrid(np.arange(self.size), np.arange(self.size), indexing="ij"), axis=-1).reshape(-1, 2)
        squared = ((grid[:, None] - self.pixels[None]) ** 2).sum(axis=-1)
        sigma = self.sigma
        return np.where(np.sqrt(squared) <= _REACH * sigma, np.exp(-squared / (2 * sigma**2)), 0.0)

    def image(self, signal: Float[np.ndarray, "channel time"]) -> Float[np.ndarray, "time row column"]:
        """One image per sample: in each pixel the weighted mean of the sensors around it."""
        if len(signal) != len(self.pixels):
            raise ShapeMismatch("signal", signal.shape, f"expected {len(self.pixels)} channels")
        weights = self.weights
        total = weights.sum(axis=1, keepdims=True)
        mean = (weights / np.where(total > 0, total, 1.0)) @ signal
        return np.ascontiguousarray(mean.T).reshape(-1, self.size, self.size)

    def signal(self, image: Float[np.ndarray, "time row column"]) -> Float[np.ndarray, "channel time"]:
        """The weighted mean of the pixels around each sensor."""
        if image.shape[1:] != (self.size, self.size):
            raise ShapeMismatch("image", image.shape, f"expected (time, {self.size}, {self.size})")
        weights = self.weights.T
        return (weights / weights.sum(axis=1, keepdims=True)) @ image.reshape(len(image), -1).T
