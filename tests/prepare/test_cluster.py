from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from brainlab.errors import InvalidFile, InvalidValue, ShapeMismatch
from brainlab.prepare.cluster import fit_clusters, load_clusters


def blobs(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 5, 200)
    centres = 6 * rng.standard_normal((5, 12))
    left, right = (centres[truth] + rng.standard_normal((200, 12)) for _ in range(2))
    return left, right, truth


@pytest.mark.parametrize("spherical", [False, True])
def test_clusters_find_planted_groups_and_repeat(spherical: bool) -> None:
    left, right, truth = blobs()
    clusters = fit_clusters(left, right, spherical=spherical)
    labels = clusters.label(left)
    for name in range(5):
        assert len(set(labels[truth == name])) == 1
    assert len(set(labels)) == 5
    assert np.array_equal(clusters.label(right), labels)
    again = fit_clusters(left, right, spherical=spherical)
    assert np.array_equal(again.centroids, clusters.centroids)


@pytest.mark.parametrize("spherical", [False, True])
def test_stored_centroids_give_the_stored_labels(tmp_path: Path, spherical: bool) -> None:
    left, right, _ = blobs()
    clusters = fit_clusters(left, right, spherical=spherical, seed=3)
    clusters.save(tmp_path / "clusters.npz")
    loaded = load_clusters(tmp_path / "clusters.npz")
    assert np.array_equal(loaded.label(left), clusters.label(left))
    assert (loaded.seed, loaded.spherical) == (3, spherical)


def test_spherical_labels_ignore_length() -> None:
    left, right, _ = blobs()
    clusters = fit_clusters(left, right, spherical=True)
    assert np.array_equal(clusters.label(left), clusters.label(7 * left))
    assert np.allclose(np.linalg.norm(clusters.centroids, axis=1), 1, atol=1e-6)


def test_bad_input_is_refused(tmp_path: Path) -> None:
    left, right, _ = blobs()
    with pytest.raises(InvalidValue, match="n_clusters=5"):
        fit_clusters(left[:2], right[:2])
    with pytest.raises(ShapeMismatch, match="12"):
        fit_clusters(left, right).label(left[:, :4])
    (tmp_path / "broken.npz").write_bytes(b"not a zip")
    with pytest.raises(InvalidFile, match=r"broken\.npz"):
        load_clusters(tmp_path / "broken.npz")
