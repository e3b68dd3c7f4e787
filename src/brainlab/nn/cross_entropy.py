"""Cross-entropy of a linear head, a slice of the tokens at a time: the table of all logits never exists at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

__all__ = [
    "LinearPrediction",
    "LogitPrediction",
    "TokenScores",
    "expected_codes",
    "linear_cross_entropy",
    "linear_scores",
    "soft_cross_entropy",
    "token_scores",
]


class TokenScores(NamedTuple):
    """Of every token the cross-entropy in nats, the likeliest code, and whether the one that came is in the best 5."""

    nats: Float[Tensor, "*token"]
    likeliest: Int[Tensor, "*token"]
    top5: Bool[Tensor, "*token"]


@dataclass(frozen=True)
class LinearPrediction:
    """What linear heads say about codes, before any logit is computed.

    Args:
        targets: the codes that came.
        parts: of every head which targets are its own (an index), their features (token, dim) and its table.
        chunk: tokens whose logits exist at the same time.
        frames: brings numbers in the order of the targets into (batch, frame, site, level).
    """

    targets: Int[Tensor, "*token"]
    parts: list[tuple[Any, Float[Tensor, "token dim"], Float[Tensor, "vocab dim"]]]
    chunk: int
    frames: Callable[[Tensor], Tensor]

    def loss(self, label_smoothing: float = 0.0) -> Float[Tensor, ""]:
        """Mean cross-entropy in nats per token; see :func:`linear_cross_entropy`."""
        total = torch.zeros((), device=self.targets.device)
        for which, rows, weight in self.parts:
            chosen = self.targets[which].flatten()
            total = total + linear_cross_entropy(rows, weight, chosen, self.chunk, label_smoothing)
        return total / self.targets.numel()

    @torch.no_grad()
    def scores(self) -> TokenScores:
        """Scores in the order of the targets."""
        each = []
        for which, rows, weight in self.parts:
            chosen = self.targets[which]
            each.append([x.view(chosen.shape) for x in linear_scores(rows, weight, chosen.flatten(), self.chunk)])
        return TokenScores(*(self._joined(list(parts)) for parts in zip(*each, strict=True)))

    def expected(self) -> Float[Tensor, "*token"]:
        """Expected codes Σ v · p_v in the order of the targets, for codes that are numbers in order."""
        each = []
        for which, rows, weight in self.parts:
            each.append(expected_codes(rows, weight, self.chunk).view(self.targets[which].shape))
        return self._joined(each)

    def _joined(self, each: list[Tensor]) -> Tensor:
        whole = each[0].new_empty(self.targets.shape)
        for (which, *_), part in zip(self.parts, each, strict=True):
            whole[which] = part
        return whole


@dataclass(frozen=True)
class LogitPrediction:
    """As :class:`LinearPrediction`, of networks that give the logits of all codes at once."""

    logits: Float[Tensor, "*token vocab"]
    targets: Int[Tensor, "*token"]
    frames: Callable[[Tensor], Tensor]

    def loss(self, label_smoothing: float = 0.0) -> Float[Tensor, ""]:
        """Mean cross-entropy in nats per token."""
        logits = self.logits.flatten(0, -2).float()
        return F.cross_entropy(logits, self.targets.flatten(), label_smoothing=label_smoothing)

    @torch.no_grad()
    def scores(self) -> TokenScores:
        """Scores in the order of the targets."""
        return token_scores(self.logits, self.targets)

    def expected(self) -> Float[Tensor, "*token"]:
        """Expected codes Σ v · p_v in the order of the targets."""
        share = self.logits.float().softmax(dim=-1)
        return (share * torch.arange(share.shape[-1], device=share.device)).sum(dim=-1)


def soft_cross_entropy(
    logits: Float[Tensor, "*token vocab"], target: Float[Tensor, "*token vocab"]
) -> Float[Tensor, ""]:
    """Mean over tokens of −Σ target · ln softmax(logits), for targets that are probabilities of every code."""
    return -(target * logits.log_softmax(dim=-1)).sum(dim=-1).mean()


def linear_cross_entropy(
    features: Float[Tensor, "token dim"],
    weight: Float[Tensor, "vocab dim"],
    target: Int[Tensor, " token"],
    chunk: int = 2048,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Sum over tokens of −ln softmax(features · weightᵀ)[target], in nats.

    Memory beside the gradients is one chunk of logits, forwards and backwards: the gradient of a chunk is taken while
    its logits are there, so that no product is computed twice.

    Args:
        features: one row per token.
        weight: one row per code.
        target: the code that came.
        chunk: tokens whose logits exist at the same time.
        label_smoothing: share of the target that all codes divide equally, as in ``torch.nn.CrossEntropyLoss``.
    """
    return _LinearCrossEntropy.apply(features, weight, target, chunk, label_smoothing)


@torch.no_grad()
def linear_scores(
    features: Float[Tensor, "token dim"],
    weight: Float[Tensor, "vocab dim"],
    target: Int[Tensor, " token"],
    chunk: int = 2048,
) -> TokenScores:
    """Scores of every token; arguments as in :func:`linear_cross_entropy`."""
    starts = range(0, max(1, len(target)), chunk)
    parts = [slice(start, start + chunk) for start in starts]
    each = [token_scores(F.linear(features[part], weight), target[part]) for part in parts]
    return TokenScores(*(torch.cat(values) for values in zip(*each, strict=True)))


def token_scores(logits: Float[Tensor, "*token vocab"], target: Int[Tensor, "*token"]) -> TokenScores:
    """Scores of every token from its logits."""
    logits = logits.float()
    nats = F.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="none").view(target.shape)
    best = logits.topk(min(5, logits.shape[-1]), dim=-1, sorted=False).indices
    return TokenScores(nats, logits.argmax(dim=-1), (best == target[..., None]).any(dim=-1))


def expected_codes(
    features: Float[Tensor, "token dim"], weight: Float[Tensor, "vocab dim"], chunk: int = 2048
) -> Float[Tensor, " token"]:
    """Σ v · softmax(features · weightᵀ)_v; the logits of a chunk are computed again for its gradient."""
    code = torch.arange(len(weight), device=weight.device, dtype=torch.float32)

    def mean(rows: Tensor) -> Tensor:
        # A product of matrices would lose the digits of large codes under autocast.
        return (F.linear(rows, weight).float().softmax(dim=-1) * code).sum(dim=-1)

    starts = range(0, max(1, len(features)), chunk)
    parts = [features[start : start + chunk] for start in starts]
    return torch.cat([checkpoint(mean, rows, use_reentrant=False, preserve_rng_state=False) for rows in parts])


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, target: Tensor, chunk: int, smoothing: float) -> Tensor:
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
            wish = logits.gather(1, chosen)
            if smoothing:
                wish = (1 - smoothing) * wish + smoothing * logits.mean(dim=-1, keepdim=True)
            total += (norm - wish).sum()
            if wanted:
                slope = logits.sub_(norm).exp_()
                if smoothing:
                    slope -= smoothing / len(weight)
                slope.scatter_add_(1, chosen, torch.full_like(norm, smoothing - 1.0))
                slope = slope.to(features.dtype)
                to_features[part] = slope @ weight
                to_weight += slope.T @ features[part]
        if wanted:
            ctx.save_for_backward(to_features, to_weight)
            ctx.dtype = weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        to_features, to_weight = ctx.saved_tensors
        return to_features * gradient.to(to_features.dtype), (to_weight * gradient).to(ctx.dtype), None, None, None
