"""Cross-entropy of a linear head, a slice of the tokens at a time: the table of all logits never exists at once."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["linear_cross_entropy", "linear_scores"]


def linear_cross_entropy(
    features: Float[Tensor, "token dim"],
    weight: Float[Tensor, "vocab dim"],
    target: Int[Tensor, " token"],
    chunk: int = 2048,
) -> Float[Tensor, ""]:
    """Sum over tokens of −ln softmax(features · weightᵀ)[target], in nats.

    Memory beside the gradients is one chunk of logits, forwards and backwards: the gradient of a chunk is taken while
    its logits are there, so that no product is computed twice.

    Args:
        features: one row per token.
        weight: one row per code.
        target: the code that came.
        chunk: tokens whose logits exist at the same time.
    """
    return _LinearCrossEntropy.apply(features, weight, target, chunk)


@torch.no_grad()
def linear_scores(
    features: Float[Tensor, "token dim"],
    weight: Float[Tensor, "vocab dim"],
    target: Int[Tensor, " token"],
    chunk: int = 2048,
) -> tuple[Float[Tensor, " token"], Bool[Tensor, " token"]]:
    """Cross-entropy of every token in nats, and whether the likeliest code was right; arguments as above."""
    nats = torch.empty(target.shape, device=features.device)
    right = torch.empty(target.shape, device=features.device, dtype=torch.bool)
    for start in range(0, len(target), chunk):
        part = slice(start, start + chunk)
        logits = F.linear(features[part], weight).float()
        nats[part] = F.cross_entropy(logits, target[part], reduction="none")
        right[part] = logits.argmax(dim=-1) == target[part]
    return nats, right


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, target: Tensor, chunk: int) -> Tensor:
        total = torch.zeros((), device=features.device)
        wanted = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        if wanted:
            to_features = torch.empty_like(features)
            to_weight = torch.zeros(weight.shape, device=weight.device)
        for start in range(0, len(target), chunk):
            part = slice(start, start + chunk)
            logits = F.linear(features[part], weight).float()
            norm = logits.logsumexp(dim=-1, keepdim=True)
            chosen = target[part, None]
            total += (norm - logits.gather(1, chosen)).sum()
            if wanted:
                slope = logits.sub_(norm).exp_()
                slope.scatter_add_(1, chosen, torch.full_like(norm, -1.0))
                slope = slope.to(features.dtype)
                to_features[part] = slope @ weight
                to_weight += slope.T @ features[part]
        if wanted:
            ctx.save_for_backward(to_features, to_weight)
            ctx.dtype = weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        to_features, to_weight = ctx.saved_tensors
        return to_features * gradient.to(to_features.dtype), (to_weight * gradient).to(ctx.dtype), None, None
