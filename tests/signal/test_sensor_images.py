from __future__ import annotations

import mne
import numpy as np
import pytest

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.signal.sensor_images import GaussianImage, pixel_map, scatter_image


@pytest.mark.parametrize(("layout", "n_sensors"), [("CTF-275", 275), ("Vectorview-all", 306)])
def test_every_sensor_of_the_usual_layouts_has_its_own_pixel(layout, n_sensors):
    pixels = pixel_map(mne.channels.read_layout(layout).pos[:, :2], 32)
    assert len(np.unique(pixels, axis=0)) == len(pixels) == n_sensors
    assert pixels.min(axis=0).tolist() == [0, 0]
    assert pixels.max(axis=0).tolist() == [31, 31]


def test_the_sparse_image_holds_each_sensor_once():
    pixels = pixel_map(np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 2.0]]), 8)
    signal = np.arange(1.0, 13).reshape(3, 4)
    image = scatter_image(signal, pixels, 8)
    assert image.shape == (8, 8, 4)
    np.testing.assert_array_equal(image[pixels[:, 0], pixels[:, 1]], signal)
    assert np.count_nonzero(image) == signal.size
    # The second coordinate goes down the rows, the first along the columns.
    assert pixels.tolist() == [[0, 0], [0, 7], [7, 4]]


def test_the_smooth_image_is_the_mean_under_a_gaussian_that_ends():
    pixels = np.array([[5, 5], [5, 9], [25, 25]])
    smooth = GaussianImage(pixels, 32)
    assert smooth.sigma == 0.75 * 4
    signal = np.random.default_rng(0).standard_normal((3, 6))
    image = smooth.image(signal)
    assert image.shape == (6, 32, 32)
    weight = np.exp(-(np.array([2.0, 6.0]) ** 2) / (2 * 9.0))
    np.testing.assert_allclose(image[:, 5, 3], weight @ signal[:2] / weight.sum())
    np.testing.assert_allclose(image[:, 30, 30], signal[2])  # within reach of the third sensor only
    assert not image[:, 0, 31].any()


def test_the_inverse_keeps_constants_and_smooths_the_rest():
    pixels = pixel_map(mne.channels.read_layout("CTF-275").pos[:, :2], 32)
    smooth = GaussianImage(pixels, 32)
    constant = np.full((275, 2), 3.5)
    np.testing.assert_allclose(smooth.signal(smooth.image(constant)), constant)
    row, column = pixels.T / 31
    wave = np.stack([np.sin(3 * row) + column, np.cos(2 * column)], axis=1)
    back = smooth.signal(smooth.image(wave))
    assert min(np.corrcoef(wave[:, k], back[:, k])[0, 1] for k in range(2)) > 0.99


def test_shapes_and_places_that_make_no_image_are_refused():
    with pytest.raises(InvalidValue, match="share one"):
        scatter_image(np.ones((2, 3)), np.array([[0, 0], [0, 0]]), 4)
    with pytest.raises(ShapeMismatch, match="signal"):
        scatter_image(np.ones((3, 3)), np.array([[0, 0], [0, 1]]), 4)
    with pytest.raises(InvalidValue, match="finite"):
        pixel_map(np.array([[0.0, np.nan]]))
    with pytest.raises(InvalidValue, match="size"):
        pixel_map(np.zeros((2, 2)), 1)
    with pytest.raises(ShapeMismatch, match="positions"):
        pixel_map(np.zeros((2, 3)))
    smooth = GaussianImage(np.array([[1, 1], [2, 3]]), 4)
    with pytest.raises(ShapeMismatch, match="image"):
        smooth.signal(np.ones((5, 3, 3)))
    with pytest.raises(ShapeMismatch, match="signal"):
        smooth.image(np.ones((5, 3)))
