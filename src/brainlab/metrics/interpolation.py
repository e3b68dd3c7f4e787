"""What a hidden patch looks like to someone who has not learned anything: trivial and linear reconstructions.

Every function takes the true windows (batch, channel, patch, time) and the mask (True = hidden) and returns windows of
the same shape in which the hidden patches hold a guess made from visible samples only; visible patches are undefined.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from brainlab.errors import ShapeMismatch

__all__ = ["channel_mean", "covariance_guess", "linear_in_time", "neighbours_in_space", "zero"]

Windows = Float[Tensor, "batch channel patch time"]
Mask = Bool[Tensor, "batch channel patch"]


def zero(eeg: Windows, mask: Mask) -> Windows:
    """Silence: the guess of a filter without an offset."""
    return torch.zeros_like(eeg)


def channel_mean(eeg: Windows, mask: Mask, mean: Float[Tensor, "batch channel"]) -> Windows:
    """Each channel's mean over the training part of its recording."""
    _expect_mean(eeg, mean)
    return mean[:, :, None, None].expand_as(eeg).clone()


def linear_in_time(eeg: Windows, mask: Mask, mean: Float[Tensor, "batch channel"]) -> Windows:
    """A straight line, within the channel, from the last visible sample before the hidden patch to the first after.

    At the edge of the window the nearest visible sample is held; a channel without any visible patch takes ``mean``.

    >>> eeg = torch.tensor([[[[0.0, 1.0], [9.0, 9.0], [4.0, 4.0]]]])
    >>> mask = torch.tensor([[[False, True, False]]])
    >>> linear_in_time(eeg, mask, torch.zeros(1, 1))[0, 0, 1]
    tensor([2., 3.])
    """
    _expect_mean(eeg, mean)
    n_time = eeg.shape[-1]
    flat = eeg.flatten(start_dim=2)
    n = flat.shape[-1]
    visible = (~mask).repeat_interleave(n_time, dim=-1)
    position = torch.arange(n, device=eeg.device).expand_as(visible)
    before = torch.where(visible, position, -1).cummax(dim=-1).values
    after = torch.where(visible, position, n).flip(-1).cummin(dim=-1).values.flip(-1)
    left = flat.gather(-1, before.clamp(min=0))
    right = flat.gather(-1, after.clamp(max=n - 1))
    left, right = torch.where(before < 0, right, left), torch.where(after >= n, left, right)
    share = (position - before) / (after - before).clamp(min=1)
    line = left + (right - left) * share.to(eeg.dtype)
    nothing = ~visible.any(dim=-1, keepdim=True)
    return torch.where(nothing, mean[:, :, None], line).reshape(eeg.shape)


def neighbours_in_space(
    eeg: Windows,
    mask: Mask,
    positions: Float[Tensor, "channel 3"],
    mean: Float[Tensor, "batch channel"],
    n_neighbours: int = 4,
) -> Windows:
    """Inverse-square-distance mean of the nearest visible electrodes at the same time; fits nothing.

    Args:
        positions: electrode positions in any one unit.
        n_neighbours: visible electrodes to average; a patch hidden in every channel takes ``mean``.
    """
    _expect_mean(eeg, mean)
    n_channels = eeg.shape[1]
    if positions.shape != (n_channels, 3):
        raise ShapeMismatch("positions", tuple(positions.shape), f"expected ({n_channels}, 3)")
    distance = torch.cdist(positions.to(eeg), positions.to(eeg))
    nearness = 1.0 / distance.square().clamp(min=1e-12)
    # weight[b, s, target, source]: only visible sources count
    weight = nearness[None, None] * (~mask).permute(0, 2, 1)[:, :, None, :]
    kth = weight.topk(min(n_neighbours, n_channels), dim=-1).values[..., -1:]
    weight = torch.where(weight >= kth, weight, 0.0)
    total = weight.sum(dim=-1, keepdim=True)
    centred = eeg - mean[:, :, None, None]
    guess = torch.einsum("bsij,bjst->bist", weight / total.clamp(min=1e-30), centred)
    return guess + mean[:, :, None, None]


def covariance_guess(
    eeg: Windows,
    mask: Mask,
    covariance: Float[Tensor, "channel channel"],
    mean: Float[Tensor, "batch channel"],
    shrinkage: float = 1e-3,
) -> Windows:
    """The best linear guess from the visible channels at the same sample, given the training part's covariance.

    For a Gaussian signal this is the conditional mean, so that only temporal or non-linear structure can beat it.

    Args:
        covariance: of the channels, over the training part.
        shrinkage: added to the diagonal, as a share of the mean variance.
    """
    _expect_mean(eeg, mean)
    n_channels = eeg.shape[1]
    if covariance.shape != (n_channels, n_channels):
        raise ShapeMismatch("covariance", tuple(covariance.shape), f"expected ({n_channels}, {n_channels})")
    full = covariance.to(torch.float64)
    full = full + torch.eye(n_channels, dtype=torch.float64) * shrinkage * full.diagonal().mean()
    centred = eeg - mean[:, :, None, None]
    guess = torch.zeros_like(eeg)
    for window in range(eeg.shape[0]):
        for patch in range(eeg.shape[2]):
            hidden = mask[window, :, patch]
            if not hidden.any() or hidden.all():
                continue
            seen = ~hidden
            weights = torch.linalg.solve(full[seen][:, seen], full[seen][:, hidden]).T.to(eeg.dtype)
            guess[window, hidden, patch] = weights @ centred[window, seen, patch]
    return guess + mean[:, :, None, None]


def _expect_mean(eeg: Tensor, mean: Tensor) -> None:
    if mean.shape != eeg.shape[:2]:
        raise ShapeMismatch("mean", tuple(mean.shape), f"expected one value per window and channel, {eeg.shape[:2]}")
