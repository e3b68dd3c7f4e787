"""Picture clusters: k-means on training pairs, labels of everything else from the stored centroids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from brainlab.errors import InvalidFile, InvalidValue, ShapeMismatch

__all__ = ["Clusters", "fit_clusters", "load_clusters"]


@dataclass(frozen=True)
class Clusters:
    """Centroids; ``spherical`` ones are unit vectors compared by cosine."""

    centroids: Float[np.ndarray, "cluster dim"]
    spherical: bool
    seed: int

    def label(self, embeddings: Float[np.ndarray, "n dim"]) -> Int[np.ndarray, " n"]:
        """Nearest centroid of each row (lowest index on a tie).

        Raises:
            ShapeMismatch: if the width is not that of the centroids.
        """
        rows = np.asarray(embeddings, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != self.centroids.shape[1]:
            raise ShapeMismatch(
                "embeddings", rows.shape, f"expected rows as wide as the centroids ({self.centroids.shape[1]})"
            )
        centroids = self.centroids.astype(np.float64)
        if self.spherical:
            return np.argmax(_unit(rows) @ centroids.T, axis=1)
        distance = (centroids**2).sum(axis=1) - 2.0 * rows @ centroids.T
        return np.argmin(distance, axis=1)

    def save(self, path: Path) -> None:
        """Write ``path`` (npz without objects)."""
        np.savez(path, centroids=self.centroids, spherical=self.spherical, seed=self.seed)


def load_clusters(path: Path) -> Clusters:
    """Read what :meth:`Clusters.save` wrote.

    Raises:
        InvalidFile: if it is not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return Clusters(stored["centroids"], bool(stored["spherical"]), int(stored["seed"]))
    except (OSError, ValueError, KeyError) as error:
        raise InvalidFile("clusters", path, f"expected an npz with centroids, spherical and seed ({error})") from error


def fit_clusters(
    left: Float[np.ndarray, "pair dim"],
    right: Float[np.ndarray, "pair dim"],
    *,
    n_clusters: int = 5,
    seed: int = 42,
    spherical: bool = False,
) -> Clusters:
    """k-means on both pictures of each pair.

    Args:
        left: embeddings of the EEG-side pictures; pass training pairs only, unless a compat setting wants all.
        right: embeddings of the fMRI-side pictures (several subjects: their mean).
        n_clusters: number of centroids.
        seed: of the initial centroids.
        spherical: cluster directions: rows and centroids are unit vectors.

    Raises:
        InvalidValue: with fewer rows than clusters.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    rows = np.concatenate([np.asarray(left, np.float64), np.asarray(right, np.float64)])
    if len(rows) < n_clusters:
        raise InvalidValue(
            "data.n_clusters", n_clusters, f"expected at most the {len(rows)} pictures of the training pairs"
        )
    if spherical:
        return _spherical(_unit(rows), n_clusters, seed)
    # One thread: sums in another order could move a picture on the border, so that labels would depend on the machine.
    with threadpool_limits(1):
        fitted = KMeans(n_clusters=n_clusters, random_state=seed, n_init=10).fit(rows)
    return Clusters(fitted.cluster_centers_.astype(np.float32), False, seed)


def _spherical(unit: np.ndarray, n_clusters: int, seed: int, n_init: int = 10, n_iter: int = 100) -> Clusters:
    """Lloyd iterations with cosine similarity (Dhillon & Modha 2001), best of ``n_init`` starts."""
    from sklearn.cluster import kmeans_plusplus

    best, best_score = np.empty(0), -np.inf
    for start in range(n_init):
        centroids, _ = kmeans_plusplus(unit, n_clusters, random_state=seed + start)
        labels = np.full(len(unit), -1)
        score = -np.inf
        for _ in range(n_iter):
            similarity = unit @ centroids.T
            new = similarity.argmax(axis=1)
            score = float(similarity.max(axis=1).sum())
            if np.array_equal(new, labels):
                break
            labels = new
            sums = np.zeros_like(centroids)
            np.add.at(sums, labels, unit)
            empty = np.linalg.norm(sums, axis=1) == 0
            # An empty cluster restarts at the picture that fits worst.
            sums[empty] = unit[similarity.max(axis=1).argsort()[: empty.sum()]]
            centroids = _unit(sums)
        if score > best_score:
            best, best_score = centroids, score
    return Clusters(best.astype(np.float32), True, seed)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
