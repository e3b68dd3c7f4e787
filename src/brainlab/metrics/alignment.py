"""Losses that pull EEG embeddings towards fMRI embeddings: pure functions of unit rows.

A batch may hold several trials of one picture. ``same_picture`` says which rows belong together; those pairs are
positives, never negatives, and a picture counts once however many trials of it a batch holds, so that a loss does not
depend on how often the sampler happened to draw it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from brainlab.errors import InvalidValue, ShapeMismatch

__all__ = [
    "info_nce",
    "mean_target",
    "mse_distance",
    "picture_nll",
    "prototype_distance",
    "same_picture",
    "unit_rows",
]

# Added to logits that must not count. Finite, so that a row without any negative has a gradient of zero, not NaN.
_EXCLUDED = -1.0e9
_NORM_EPS = 1.0e-12


def unit_rows(x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
    """Scale the last axis to unit length: ``x / max(‖x‖, 1e-12)``; a zero row stays zero."""
    return F.normalize(x, dim=-1, eps=_NORM_EPS)


def same_picture(
    image_id: Int[Tensor, " batch"], target_id: Int[Tensor, " batch"] | None = None
) -> Bool[Tensor, "batch batch"]:
    """Which rows show the same picture, on the EEG side or (where ``target_id`` is given) on the fMRI side.

    >>> same_picture(torch.tensor([4, 7, 4])).int().tolist()
    [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    """
    same = image_id[:, None] == image_id[None, :]
    if target_id is not None:
        same = same | (target_id[:, None] == target_id[None, :])
    return same


def mse_distance(z: Float[Tensor, "batch dim"], target: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """Squared distance summed over dimensions, averaged over rows; ``2 − 2·mean cosine`` for unit rows.

    Raises:
        ShapeMismatch: if the two differ in shape.
    """
    _check_pair(z, target)
    return (z - target).square().sum(dim=-1).mean()


def info_nce(
    z: Float[Tensor, "batch dim"],
    target: Float[Tensor, "batch dim"],
    scale: Float[Tensor, ""] | float,
    same: Bool[Tensor, "batch batch"] | None = None,
    symmetric: bool = False,
) -> Float[Tensor, ""]:
    """Contrastive loss with several positives per picture.

    For anchor i and each positive p, ``−log(e^{s_ip} / (e^{s_ip} + Σ_n e^{s_in}/m_n))`` with ``s = scale·z·targetᵀ``,
    n over other pictures and ``m_n`` the number of rows that show n's picture; averaged over the positives of i, then
    over pictures. Without repeated pictures this is ``−mean_i log softmax_j(s_ij)_i``.

    Args:
        z: EEG embeddings, unit rows.
        target: fMRI embeddings, unit rows; row i belongs to row i of ``z``.
        scale: inverse temperature.
        same: rows of one picture (symmetric, true on the diagonal); default each row its own picture.
        symmetric: average with the fMRI → EEG direction.

    Raises:
        ShapeMismatch: if the arrays do not fit together.

    Source: van den Oord et al. (2018), eq. 4; Khosla et al. (2020), eq. 2 for the mean over positives.
    """
    _check_pair(z, target)
    if same is None:
        same = torch.eye(len(z), dtype=torch.bool, device=z.device)
    if same.shape != (len(z), len(z)):
        raise ShapeMismatch("same", tuple(same.shape), f"expected ({len(z)}, {len(z)}), one row and column per example")
    logits = scale * (z @ target.T)
    loss = _one_direction(logits, same)
    if symmetric:
        loss = 0.5 * (loss + _one_direction(logits.T, same))
    return loss


def prototype_distance(
    z: Float[Tensor, "batch dim"], target: Float[Tensor, "batch dim"], label: Int[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """Squared distance between the unit class means of both sides, averaged over the classes in the batch.

    Raises:
        ShapeMismatch: if the arrays do not fit together.
    """
    _check_pair(z, target)
    if label.shape != (len(z),):
        raise ShapeMismatch("label", tuple(label.shape), f"expected ({len(z)},), one label per example")
    classes, member = torch.unique(label, return_inverse=True)
    # The sum points where the mean points, and only the direction is kept.
    sums = [torch.zeros(len(classes), x.shape[1], dtype=x.dtype, device=x.device) for x in (z, target)]
    p, q = (unit_rows(zero.index_add(0, member, x)) for zero, x in zip(sums, (z, target), strict=True))
    return (p - q).square().sum(dim=-1).mean()


def mean_target(
    target: Float[Tensor, "batch subject dim"],
    mask: Bool[Tensor, "batch subject"],
    weights: Float[Tensor, " subject"] | None = None,
) -> Float[Tensor, "batch dim"]:
    """One target per example: the (weighted) mean of the unit vectors of the subjects who have one, renormalised.

    A row without any subject is zero.
    """
    weight = mask.to(target.dtype)
    if weights is not None:
        weight = weight * weights.to(target.dtype)
    return unit_rows((target * weight[..., None]).sum(dim=1))


def picture_nll(
    z: Float[Tensor, "trial dim"],
    gallery: Float[Tensor, "picture dim"],
    picture: Int[Tensor, " trial"],
    scale: float,
    block: int = 1024,
) -> float:
    """Mean ``−log softmax`` of the right picture over a gallery of unique pictures.

    The smooth companion of top-1: it does not depend on batches, and never holds more than ``block`` rows of scores.

    Args:
        z: EEG embeddings, unit rows.
        gallery: one unit row per picture.
        picture: index into ``gallery`` for each trial.
        scale: inverse temperature.
        block: trials per block.

    Raises:
        InvalidValue: if there is no trial.
    """
    if len(z) == 0:
        raise InvalidValue("z", tuple(z.shape), "expected at least one trial")
    total = 0.0
    for start in range(0, len(z), block):
        logits = scale * (z[start : start + block] @ gallery.T)
        total += float(F.cross_entropy(logits.float(), picture[start : start + block], reduction="sum"))
    return total / len(z)


def _one_direction(logits: Tensor, same: Tensor) -> Tensor:
    shown = same.sum(dim=1).to(logits.dtype)
    negatives = torch.logsumexp((logits - shown.log()).masked_fill(same, _EXCLUDED), dim=1)
    per_pair = F.softplus(negatives[:, None] - logits)
    per_anchor = per_pair.masked_fill(~same, 0.0).sum(dim=1) / shown
    return (per_anchor / shown).sum() / (1.0 / shown).sum()


def _check_pair(z: Tensor, target: Tensor) -> None:
    if z.shape != target.shape:
        raise ShapeMismatch(
            "embedding",
            tuple(z.shape),
            f"expected the target's shape {tuple(target.shape)}",
            hint="the head's embed_dim must equal the width of the target space",
        )
