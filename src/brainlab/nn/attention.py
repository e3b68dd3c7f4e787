"""Multi-head self-attention whose parameters carry the names of ``torch.nn.MultiheadAttention``."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from brainlab.errors import InvalidValue
from brainlab.nn.dropout import dropout

__all__ = ["AxialSelfAttention", "scaled_dot_product_attention"]

_FEW_TOKENS = 64


def scaled_dot_product_attention(
    query: Float[Tensor, "batch head token dim"],
    key: Float[Tensor, "batch head token dim"],
    value: Float[Tensor, "batch head token dim"],
    p: float = 0.0,
) -> Float[Tensor, "batch head token dim"]:
    """dropout(softmax(query · keyᵀ / √dim)) · value.

    On a CPU PyTorch's own function has no fused kernel once weights are dropped, and its fallback scans the scores
    for fully masked rows, which cannot occur here; for a few dozen tokens its fused kernel is slower than two matrix
    products. The formula is written out for both.

    Args:
        query: what asks.
        key: what is compared with the query.
        value: what is returned.
        p: probability of dropping an attention weight.
    """
    written_out = query.device.type == "cpu" and (p > 0.0 or query.shape[-2] <= _FEW_TOKENS)
    if not written_out or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(query, key, value, dropout_p=p)
    weights = torch.softmax((query / math.sqrt(query.shape[-1])) @ key.transpose(-2, -1), dim=-1)
    return dropout(weights, p) @ value


class AxialSelfAttention(nn.Module):
    """Scaled dot-product self-attention along one axis of a grid of tokens.

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

    def forward(self, x: Float[Tensor, "batch row column width"], axis: int) -> Float[Tensor, "batch row column width"]:
        """Attend along ``axis``: 1 over the rows of each column, 2 over the columns of each row."""
        tokens = x.reshape(-1, self.width)
        attended = self._lone(tokens) if x.shape[axis] == 1 else self._along(tokens, x.shape, axis)
        return self.out_proj(attended).view(x.shape)

    def _lone(self, tokens: Tensor) -> Tensor:
        # The softmax over one token is 1: the result is the value, and dropping the weight drops a whole head.
        value = F.linear(tokens, self.in_proj_weight[2 * self.width :], self.in_proj_bias[2 * self.width :])
        if self.training and self.dropout:
            ones = value.new_ones(len(tokens), self.heads, 1)
            value = (value.view(len(tokens), self.heads, -1) * dropout(ones, self.dropout)).flatten(1)
        return value

    def _along(self, tokens: Tensor, grid: torch.Size, axis: int) -> Tensor:
        batch, row, column, width = grid
        qkv = F.linear(tokens, self.in_proj_weight, self.in_proj_bias)
        qkv = qkv.view(batch, row, column, 3, self.heads, width // self.heads)
        # → (q | k | v, batch, the other axis, head, axis, dim)
        order = (3, 0, 2, 4, 1, 5) if axis == 1 else (3, 0, 1, 4, 2, 5)
        query, key, value = qkv.permute(order).flatten(1, 2).unbind(0)
        attended = scaled_dot_product_attention(query, key, value, self.dropout if self.training else 0.0)
        attended = attended.unflatten(0, (batch, -1))
        back = (0, 3, 1, 2, 4) if axis == 1 else (0, 1, 3, 2, 4)
        return attended.permute(back).reshape(len(tokens), width)
