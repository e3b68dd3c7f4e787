"""Retrieval among pictures: how often the right picture comes out on top.

A hit is the same picture, whatever trial or repetition it came from, so a perfect prediction scores 1.0 however often
targets repeat. The gallery is ranked picture by picture (a picture stands where its best item stands). Ties are broken
at random in expectation: a predictor that cannot tell pictures apart scores chance, and no result depends on the order
of the gallery.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.metrics.alignment import unit_rows

__all__ = ["Ranks", "compat_metrics", "picture_groups", "retrieve", "unique_gallery"]

# Scores held at once: 64 MiB of float32, whatever the size of the gallery.
_BLOCK_SCORES = 1 << 24
# Equal rows can come out of a blocked matrix product a few last digits apart.
_TIE = 1.0e-6


@dataclass(frozen=True)
class Ranks:
    """Where the right picture stands for each query: ``better`` pictures score higher, ``tied`` others the same.

    ``top`` holds the pictures that came first, best first (as many as were asked for).
    """

    better: Int[Tensor, " query"]
    tied: Int[Tensor, " query"]
    top: Int[Tensor, "query kept"]
    n_pictures: int

    def hits(self, k: int = 1) -> Float[Tensor, " query"]:
        """Chance of each query to find its picture among the first ``k`` (0 or 1 where nothing is tied)."""
        free = (k - self.better).clamp(min=0).to(torch.float64)
        return torch.minimum(free / (self.tied + 1), torch.ones(())).float()

    def rank(self) -> Float[Tensor, " query"]:
        """Expected rank, 1 = first."""
        return 1.0 + self.better + 0.5 * self.tied

    def n_way(self, n: int, k: int = 1) -> Float[Tensor, " query"]:
        """Chance to find the picture among the first ``k`` of ``n``: the right one and ``n − 1`` random others.

        The average over all choices of the others, in closed form (hypergeometric), not a sample of them.

        Raises:
            InvalidValue: if the gallery holds fewer than ``n`` pictures.
        """
        from scipy.stats import hypergeom

        if not 2 <= n <= self.n_pictures:
            raise InvalidValue("ways", n, f"expected between 2 and the gallery's {self.n_pictures} pictures")
        table = hypergeom.cdf(k - 1, self.n_pictures - 1, np.arange(self.n_pictures), n - 1)
        # Random tie-breaking puts 0 … tied of the tied pictures in front with equal probability.
        cumulative = np.concatenate([[0.0], np.cumsum(table)])
        low, high = self.better.numpy(), (self.better + self.tied + 1).numpy()
        return torch.from_numpy((cumulative[high] - cumulative[low]) / (high - low)).float()


def retrieve(
    query: Float[Tensor, "query dim"],
    gallery: Float[Tensor, "item dim"],
    query_picture: Int[Tensor, " query"],
    gallery_picture: Int[Tensor, " item"],
    keep: int = 0,
) -> Ranks:
    """Rank the gallery's pictures for each query by the dot product (cosine, for unit rows).

    Works through blocks of queries and keeps only counts and the first ``keep`` pictures: the whole table of scores
    is never in memory.

    Args:
        query: one row per query.
        gallery: one row per item; several items may show one picture.
        query_picture: the right picture of each query.
        gallery_picture: the picture that each item shows.
        keep: how many of the first pictures to remember in ``top``.

    Raises:
        ShapeMismatch: if the arrays do not fit together.
        InvalidValue: if a query's picture is not in the gallery, or a row is not finite.
    """
    _check(query, gallery, query_picture, gallery_picture)
    pictures, column = torch.unique(gallery_picture, return_inverse=True)
    order = torch.argsort(column, stable=True)
    gallery, column = gallery[order], column[order]
    own = torch.searchsorted(pictures, query_picture)
    missing = (own >= len(pictures)) | (pictures[own.clamp(max=len(pictures) - 1)] != query_picture)
    if bool(missing.any()):
        raise InvalidValue(
            "query_picture", query_picture[missing][:5].tolist(), "expected pictures that the gallery holds"
        )
    several = len(pictures) < len(gallery)
    better, tied = torch.empty(len(query), dtype=torch.long), torch.empty(len(query), dtype=torch.long)
    top = torch.empty(len(query), min(keep, len(pictures)), dtype=torch.long)
    rows = max(1, _BLOCK_SCORES // max(len(gallery), 1))
    for start in range(0, len(query), rows):
        part = slice(start, start + rows)
        scores = query[part] @ gallery.T
        if several:
            best = scores.new_full((len(scores), len(pictures)), -torch.inf)
            scores = best.scatter_reduce(1, column.expand(len(scores), -1), scores, "amax")
        difference = scores - scores.gather(1, own[part, None])
        better[part] = (difference > _TIE).sum(dim=1).cpu()
        tied[part] = (difference.abs() <= _TIE).sum(dim=1).cpu() - 1
        top[part] = pictures[scores.topk(top.shape[1], dim=1).indices].cpu()
    return Ranks(better, tied, top, len(pictures))


def picture_groups(
    image_id: Int[Tensor, " trial"],
    target_id: Int[Tensor, "trial subject"] | None = None,
    target_mask: Bool[Tensor, "trial subject"] | None = None,
) -> Int[Tensor, " trial"]:
    """Number the pictures 0, 1, … in the order of their smallest ``image_id``.

    Trials belong to one picture if they share the EEG-side picture or an fMRI-side picture, directly or over others:
    two pictures that were matched with one fMRI picture have one right answer between them.

    >>> picture_groups(torch.tensor([9, 4, 9, 7]), torch.tensor([[1], [2], [1], [2]])).tolist()
    [1, 0, 1, 0]
    """
    images, row = torch.unique(image_id, return_inverse=True)
    if target_id is None:
        return row
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if target_mask is None:
        target_mask = torch.ones_like(target_id, dtype=torch.bool)
    trial, _ = torch.nonzero(target_mask, as_tuple=True)
    targets, column = torch.unique(target_id[target_mask], return_inverse=True)
    n = len(images) + len(targets)
    edges = (np.ones(len(trial)), (row[trial].numpy(), len(images) + column.numpy()))
    _, component = connected_components(coo_array(edges, shape=(n, n)), directed=False)
    image_component = torch.from_numpy(component[: len(images)].astype(np.int64))
    first = {int(c): i for i, c in reversed(list(enumerate(image_component.tolist())))}
    rank = {c: i for i, c in enumerate(sorted(first, key=first.__getitem__))}
    renumbered = torch.tensor([rank[c] for c in image_component.tolist()], dtype=torch.long)
    return renumbered[row]


def unique_gallery(
    rows: Float[Tensor, "trial dim"], picture: Int[Tensor, " trial"]
) -> tuple[Float[Tensor, "picture dim"], Int[Tensor, " picture"]]:
    """One unit row per picture (the renormalised mean of its rows) and the pictures, ascending."""
    pictures, column = torch.unique(picture, return_inverse=True)
    sums = torch.zeros(len(pictures), rows.shape[1], dtype=rows.dtype, device=rows.device).index_add(0, column, rows)
    return unit_rows(sums), pictures


def compat_metrics(z: Float[Tensor, "row dim"], target: Float[Tensor, "row dim"]) -> dict[str, float]:
    """The figures that earlier alignment code reports, for comparison with it only.

    Every row is an item of its own, so a picture shown four times can be "missed" by finding its other trial: top-1
    of a perfect prediction is then 0.25. Ties go to the first index; EEG → fMRI only.
    """
    if z.shape != target.shape:
        raise ShapeMismatch("z", tuple(z.shape), f"expected the targets' shape {tuple(target.shape)}")
    rows = max(1, _BLOCK_SCORES // max(len(target), 1))
    own = torch.arange(len(z))
    hit1 = hit10 = 0
    for start in range(0, len(z), rows):
        scores = z[start : start + rows] @ target.T
        mine = own[start : start + rows]
        hit1 += int((scores.argmax(dim=1) == mine).sum())
        hit10 += int((scores.topk(min(10, len(target)), dim=1).indices == mine[:, None]).any(dim=1).sum())
    return {
        "mse": float((z - target).square().sum(dim=1).mean()),
        "cos_sim": float((unit_rows(z) * unit_rows(target)).sum(dim=1).mean()),
        "top1": hit1 / len(z),
        "top10": hit10 / len(z),
    }


def _check(query: Tensor, gallery: Tensor, query_picture: Tensor, gallery_picture: Tensor) -> None:
    if query.ndim != 2 or gallery.ndim != 2 or query.shape[1] != gallery.shape[1]:
        raise ShapeMismatch(
            "query", tuple(query.shape), f"expected rows as wide as the gallery's {tuple(gallery.shape)}"
        )
    for name, rows, pictures in (("query", query, query_picture), ("gallery", gallery, gallery_picture)):
        if pictures.shape != (len(rows),):
            raise ShapeMismatch(f"{name}_picture", tuple(pictures.shape), f"expected ({len(rows)},)")
        if len(rows) == 0:
            raise InvalidValue(name, tuple(rows.shape), "expected at least one row")
        # A comparison with NaN is false, which would read as "nothing is better": rank one.
        if not bool(torch.isfinite(rows).all()):
            raise InvalidValue(name, "nan or inf", "expected finite embeddings", hint="did the training diverge?")
