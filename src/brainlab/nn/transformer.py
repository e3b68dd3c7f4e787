"""A post-norm transformer layer with the parameter names of ``torch.nn.TransformerEncoderLayer``."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from brainlab.nn.attention import AxialSelfAttention
from brainlab.nn.dropout import Dropout

__all__ = ["PostNormLayer"]


class PostNormLayer(nn.Module):
    """x ← norm1(x + attention(x)), then x ← norm2(x + linear2(relu(linear1(x)))), with dropout in every step.

    Unlike PyTorch's layer it uses the cheap dropout of :mod:`brainlab.nn.dropout`.

    Args:
        width: size of a token.
        heads: attention heads.
        hidden: width of the feed-forward step.
        dropout: probability of every dropout.
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.self_attn = AxialSelfAttention(width, heads, dropout)
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch token width"]:
        """Let the tokens of each batch row look at each other."""
        attended = self.self_attn(x.unsqueeze(1), axis=2).squeeze(1)
        x = self.norm1(x + self.dropout(attended))
        hidden = self.dropout(F.relu(self.linear1(x)))
        return self.norm2(x + self.dropout(self.linear2(hidden)))
