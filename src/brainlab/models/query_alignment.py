"""Query/key alignment: the embedding is what a query reads from the EEG tokens by multi-head attention.

With the paired fMRI as the query and more than one EEG token, the target leaks into the EEG embedding. The fMRI may
therefore be the query in training only; outside training a learned query takes its place, so that an EEG embedding
never depends on the fMRI it is compared with.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.models.pooling_heads import AttentionHead

__all__ = ["QueryAlignment", "QueryAlignmentHead"]


class QueryAlignment(nn.Module):
    """Multi-head attention of one query over EEG tokens (keys = values).

    Args:
        embed_dim: size of query, tokens and embedding.
        n_heads: attention heads.
        query: ``learned`` uses the learned query always; ``target`` uses the paired fMRI in training.
        target_share: with ``query="target"``, the share of training samples read by their fMRI; the others train
            the learned query that evaluation uses.
    """

    def __init__(
        self,
        embed_dim: int,
        n_heads: int = 8,
        query: Literal["learned", "target"] = "learned",
        target_share: float = 0.5,
    ) -> None:
        super().__init__()
        if query not in ("learned", "target"):
            raise InvalidValue("query", query, "expected learned or target")
        if n_heads < 1 or embed_dim % n_heads:
            raise InvalidValue("n_heads", n_heads, f"expected a divisor of embed_dim={embed_dim}")
        if not 0 <= target_share < 1:
            raise InvalidValue("target_share", target_share, "expected a number in [0, 1)")
        self.embed_dim, self.query, self.target_share = embed_dim, query, target_share
        self.learned_query = nn.Parameter(0.02 * torch.randn(1, 1, embed_dim))
        self.attention = nn.MultiheadAttention(embed_dim, n_heads, batch_first=True)

    def forward(
        self,
        tokens: Float[Tensor, "batch token embed"],
        target: Float[Tensor, "batch embed"] | None = None,
    ) -> Float[Tensor, "batch embed"]:
        """Read the tokens.

        Args:
            tokens: EEG tokens.
            target: paired fMRI; looked at in training with ``query="target"`` only.

        Raises:
            ShapeMismatch: if tokens or target have not ``embed_dim`` columns.
        """
        if tokens.ndim != 3 or tokens.shape[-1] != self.embed_dim:
            raise ShapeMismatch("tokens", tuple(tokens.shape), f"expected (batch, token, {self.embed_dim})")
        query = self.learned_query.expand(len(tokens), -1, -1)
        if self.training and self.query == "target" and target is not None:
            if target.shape != (len(tokens), self.embed_dim):
                raise ShapeMismatch("target", tuple(target.shape), f"expected ({len(tokens)}, {self.embed_dim})")
            from_target = torch.rand(len(tokens), 1, 1, device=tokens.device) < self.target_share
            query = torch.where(from_target, target.unsqueeze(1), query)
        return self.attention(query, tokens, tokens, need_weights=False)[0].squeeze(1)


class QueryAlignmentHead(nn.Module):
    """Pooling head: learned queries gather EEG tokens, which :class:`QueryAlignment` reads.

    Args:
        n_channels: EEG channels.
        n_patches: patches per window.
        embed_dim: size of the embedding.
        width: size of a contextual token.
        n_tokens: EEG tokens offered to the query.
        n_heads: attention heads.
        query: see :class:`QueryAlignment`.
        target_share: see :class:`QueryAlignment`.
        patches: what happens to several patches, see :mod:`brainlab.models.pooling_heads`.
    """

    def __init__(
        self,
        n_channels: int,
        n_patches: int,
        embed_dim: int,
        width: int = 200,
        n_tokens: int = 4,
        n_heads: int = 8,
        query: Literal["learned", "target"] = "learned",
        target_share: float = 0.5,
        patches: Literal["average", "concatenate"] = "average",
    ) -> None:
        super().__init__()
        self.pool = AttentionHead(n_channels, n_patches, n_tokens * embed_dim, width, n_tokens, 1, patches)
        self.align = QueryAlignment(embed_dim, n_heads, query, target_share)

    def forward(
        self,
        features: Float[Tensor, "batch channel patch width"],
        target: Float[Tensor, "batch embed"] | None = None,
    ) -> Float[Tensor, "batch embed"]:
        """Embed each window; ``target`` as in :class:`QueryAlignment`."""
        tokens = self.pool(features).unflatten(1, (-1, self.align.embed_dim))
        return self.align(tokens, target)
