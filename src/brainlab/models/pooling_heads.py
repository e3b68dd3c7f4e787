"""Heads that turn contextual EEG tokens (batch, channel, patch, width) into one embedding (batch, embed_dim).

Every head is built with ``n_channels``, ``n_patches``, ``embed_dim`` and ``width``. Heads that read a list of tokens
say what becomes of several patches per window: ``patches="average"`` averages a channel's tokens over its patches,
``patches="concatenate"`` makes every (channel, patch) a token of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.nn.transformer import PostNormLayer

__all__ = ["AttentionHead", "FlattenHead", "MultiTokenHead"]

_TOKEN_STD = 0.02


def _mlp(in_features: int, embed_dim: int, n_layers: int) -> nn.Sequential:
    """[Linear → GELU] × (n_layers − 1) → Linear, hidden width = ``embed_dim``."""
    if n_layers < 1:
        raise InvalidValue("mlp_layers", n_layers, "expected at least 1")
    layers: list[nn.Module] = []
    for _ in range(n_layers - 1):
        layers += [nn.Linear(in_features, embed_dim), nn.GELU()]
        in_features = embed_dim
    return nn.Sequential(*layers, nn.Linear(in_features, embed_dim))


@dataclass(frozen=True)
class _Layout:
    """How channels and patches become one axis of tokens."""

    n_channels: int
    n_patches: int
    width: int
    patches: str = "concatenate"

    def __post_init__(self) -> None:
        if self.patches not in ("average", "concatenate"):
            raise InvalidValue("patches", self.patches, "expected average or concatenate")
        for name in ("n_channels", "n_patches", "width"):
            if getattr(self, name) < 1:
                raise InvalidValue(name, getattr(self, name), "expected a positive number")

    @property
    def n_tokens(self) -> int:
        return self.n_channels * (self.n_patches if self.patches == "concatenate" else 1)

    def tokens(self, features: Tensor) -> Tensor:
        """(batch, channel, patch, width) → (batch, token, width)."""
        expected = (self.n_channels, self.n_patches, self.width)
        if tuple(features.shape[1:]) != expected:
            raise ShapeMismatch("features", tuple(features.shape), f"expected (batch, {', '.join(map(str, expected))})")
        return features.mean(dim=2) if self.patches == "average" else features.flatten(1, 2)


class FlattenHead(nn.Module):
    """All tokens flattened into one vector, then an MLP (68.4 M parameters at 63 channels and 4096 dimensions).

    Args:
        n_channels: EEG channels.
        n_patches: patches per window.
        embed_dim: size of the embedding, also of the hidden layers.
        width: size of a token.
        mlp_layers: linear layers of the MLP.
    """

    def __init__(self, n_channels: int, n_patches: int, embed_dim: int, width: int = 200, mlp_layers: int = 2) -> None:
        super().__init__()
        self.layout = _Layout(n_channels, n_patches, width)
        self.mlp = _mlp(n_channels * n_patches * width, embed_dim, mlp_layers)

    def forward(self, features: Float[Tensor, "batch channel patch width"]) -> Float[Tensor, "batch embed"]:
        """Embed each window."""
        return self.mlp(self.layout.tokens(features).flatten(1))


class AttentionHead(nn.Module):
    """Learned queries, each a softmax-weighted mean of the tokens, concatenated and sent through an MLP.

    The softmax is taken of the plain dot products: there is no 1/√width.

    Args:
        n_channels: EEG channels.
        n_patches: patches per window.
        embed_dim: size of the embedding, also of the hidden layers.
        width: size of a token.
        n_queries: number of learned queries.
        mlp_layers: linear layers of the MLP.
        patches: what happens to several patches, see the module.
    """

    def __init__(
        self,
        n_channels: int,
        n_patches: int,
        embed_dim: int,
        width: int = 200,
        n_queries: int = 8,
        mlp_layers: int = 2,
        patches: Literal["average", "concatenate"] = "average",
    ) -> None:
        super().__init__()
        if n_queries < 1:
            raise InvalidValue("n_queries", n_queries, "expected at least 1")
        self.layout = _Layout(n_channels, n_patches, width, patches)
        self.queries = nn.Parameter(_TOKEN_STD * torch.randn(n_queries, width))
        self.mlp = _mlp(n_queries * width, embed_dim, mlp_layers)

    def pool(self, features: Float[Tensor, "batch channel patch width"]) -> Float[Tensor, "batch query_width"]:
        """The queries' weighted means, query by query."""
        tokens = self.layout.tokens(features)
        weights = torch.softmax(self.queries @ tokens.transpose(1, 2), dim=-1)
        return (weights @ tokens).flatten(1)

    def forward(self, features: Float[Tensor, "batch channel patch width"]) -> Float[Tensor, "batch embed"]:
        """Embed each window."""
        return self.mlp(self.pool(features))


class MultiTokenHead(nn.Module):
    """Learned tokens read the EEG tokens through a small post-norm transformer; an MLP maps them to the embedding.

    Args:
        n_channels: EEG channels.
        n_patches: patches per window.
        embed_dim: size of the embedding.
        width: size of a token.
        n_tokens: number of learned tokens.
        n_layers: transformer layers.
        n_heads: heads of a layer.
        dropout: probability of every dropout of the transformer.
        hidden_dim: hidden width of the MLP.
        patches: what happens to several patches, see the module.
    """

    def __init__(
        self,
        n_channels: int,
        n_patches: int,
        embed_dim: int,
        width: int = 200,
        n_tokens: int = 4,
        n_layers: int = 4,
        n_heads: int = 4,
        dropout: float = 0.1,
        hidden_dim: int = 2048,
        patches: Literal["average", "concatenate"] = "average",
    ) -> None:
        super().__init__()
        if n_heads < 1 or width % n_heads:
            raise InvalidValue("n_heads", n_heads, f"expected a divisor of width={width}")
        if n_tokens < 1:
            raise InvalidValue("n_tokens", n_tokens, "expected at least 1")
        self.layout = _Layout(n_channels, n_patches, width, patches)
        self.tokens = nn.Parameter(_TOKEN_STD * torch.randn(1, n_tokens, width))
        self.pos_embed = nn.Parameter(_TOKEN_STD * torch.randn(1, n_tokens + self.layout.n_tokens, width))
        layers = nn.Sequential(*(PostNormLayer(width, n_heads, 4 * width, dropout) for _ in range(n_layers)))
        self.transformer = nn.ModuleDict({"layers": layers})
        self.mlp = nn.Sequential(
            nn.LayerNorm(n_tokens * width),
            nn.Linear(n_tokens * width, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, embed_dim),
        )

    def forward(self, features: Float[Tensor, "batch channel patch width"]) -> Float[Tensor, "batch embed"]:
        """Embed each window."""
        eeg = self.layout.tokens(features)
        x = torch.cat([self.tokens.expand(len(eeg), -1, -1).to(eeg.dtype), eeg], dim=1) + self.pos_embed
        x = self.transformer["layers"](x)
        return self.mlp(x[:, : self.tokens.shape[1]].flatten(1))
