"""Multi-head self-attention whose parameters carry the names of ``torch.nn.MultiheadAttention``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from brainlab.errors import InvalidValue

__all__ = ["SelfAttention"]


class SelfAttention(nn.Module):
    """Scaled dot-product self-attention over the token axis.

    Parameters are ``in_proj_weight`` (3·width, width), ``in_proj_bias``, ``out_proj.weight`` and ``out_proj.bias``,
    drawn as ``torch.nn.MultiheadAttention`` draws them, so that its checkpoints fit.

    Args:
        width: size of a token; must be a multiple of ``heads``.
        heads: number of heads.
        dropout: probability of dropping an attention weight in training.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise InvalidValue("heads", heads, f"expected a divisor of the attention width {width}")
        self.width, self.heads, self.dropout = width, heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch token width"]:
        """Attend over the tokens of each batch row."""
        batch, token, width = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        query, key, value = qkv.view(batch, token, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return self.out_proj(attended.transpose(1, 2).reshape(batch, token, width))
