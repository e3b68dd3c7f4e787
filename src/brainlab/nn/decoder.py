"""A compact causal transformer: RMSNorm, rotary positions, grouped-query attention, SwiGLU and a key–value cache.

Sources: Zhang & Sennrich (2019), RMSNorm; Ainslie et al. (2023), grouped-query attention; Shazeer (2020), SwiGLU.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from brainlab.errors import InvalidValue
from brainlab.nn.kv_cache import KVCache
from brainlab.nn.rope import rotate

__all__ = ["Decoder", "attend"]

Table = tuple[Tensor, Tensor]


def attend(
    query: Float[Tensor, "row query dim"],
    key: Float[Tensor, "row token dim"],
    value: Float[Tensor, "row token dim"],
    queries_per_key: int,
) -> Float[Tensor, "row query dim"]:
    """Causal attention of the last tokens to all tokens, without repeating keys for the heads that share them.

    Args:
        query: of the last ``query / queries_per_key`` tokens, ordered (head of the group, token).
        key: of all tokens; ``row`` is (sequence, key head).
        value: of all tokens.
        queries_per_key: heads that share a key.
    """
    n_new, n_all = query.shape[1] // queries_per_key, key.shape[1]
    scores = torch.bmm(query * (1 / math.sqrt(query.shape[-1])), key.transpose(1, 2))
    if n_new > 1:
        place = torch.arange(n_all, device=key.device)
        hidden = place > place[n_all - n_new :, None]
        scores = scores.unflatten(1, (queries_per_key, n_new)).masked_fill(hidden, -math.inf).flatten(1, 2)
    return torch.bmm(torch.softmax(scores, dim=-1), value)


class _Attention(nn.Module):
    """Grouped-query attention; queries, keys and values come from one matrix product."""

    def __init__(self, width: int, n_heads: int, n_kv_heads: int, head_dim: int, bias: bool) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = n_heads, n_kv_heads, head_dim
        self.qkv = nn.Linear(width, (n_heads + 2 * n_kv_heads) * head_dim, bias=bias)
        self.out = nn.Linear(n_heads * head_dim, width, bias=False)

    def forward(self, x: Tensor, table: Table, cache: KVCache | None, layer: int) -> Tensor:
        batch, n_new, _ = x.shape
        h, k, d = self.n_heads, self.n_kv_heads, self.head_dim
        qkv = self.qkv(x).view(batch, n_new, h + 2 * k, d)
        turned = rotate(qkv[:, :, : h + k], table)
        query, key, value = turned[:, :, :h], turned[:, :, h:], qkv[:, :, h + k :]
        if cache is None or cache.n_tokens == 0:
            if cache is not None:
                cache.append(layer, *(part.transpose(1, 2).reshape(batch * k, n_new, d) for part in (key, value)))
            key, value = (
                part.transpose(1, 2).unsqueeze(2).expand(-1, -1, h // k, -1, -1).flatten(1, 2) for part in (key, value)
            )
            out = F.scaled_dot_product_attention(query.transpose(1, 2), key, value, is_causal=True).transpose(1, 2)
        else:
            key, value = cache.append(
                layer, *(part.transpose(1, 2).reshape(batch * k, n_new, d) for part in (key, value))
            )
            rows = query.unflatten(2, (k, h // k)).permute(0, 2, 3, 1, 4).reshape(batch * k, -1, d)
            out = attend(rows, key.to(rows.dtype), value.to(rows.dtype), h // k)
            out = out.view(batch, k, h // k, n_new, d).permute(0, 3, 1, 2, 4)
        return self.out(out.reshape(batch, n_new, h * d))


class _Layer(nn.Module):
    """Attention and a gated feed-forward step, each behind a norm and with a residual."""

    def __init__(
        self, width: int, n_heads: int, n_kv_heads: int, head_dim: int, ffn_width: int, bias: bool, dropout: float
    ) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width, eps=1e-6)
        self.attention = _Attention(width, n_heads, n_kv_heads, head_dim, bias)
        self.ffn_norm = nn.RMSNorm(width, eps=1e-6)
        self.gate_up = nn.Linear(width, 2 * ffn_width, bias=False)
        self.down = nn.Linear(ffn_width, width, bias=False)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor, table: Table, cache: KVCache | None, layer: int) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), table, cache, layer))
        gate, up = self.gate_up(self.ffn_norm(x)).chunk(2, dim=-1)
        return x + self.dropout(self.down(F.silu(gate) * up))


class Decoder(nn.Module):
    """A stack of causal layers and a final norm.

    Args:
        width: features of a token.
        n_layers: layers.
        n_heads: query heads.
        n_kv_heads: key heads, a divisor of ``n_heads``.
        head_dim: features of a head, even; default ``width / n_heads``.
        ffn_width: hidden width of the feed-forward step; default 8/3 · width, rounded up to a multiple of 8.
        qkv_bias: whether queries, keys and values have a bias, as in the Qwen2 family.
        dropout: probability of dropping a feature of a residual branch in training.
        recompute: keep only what enters a layer in training, and compute the rest again on the way back: a third
            more work for a fraction of the memory.

    Raises:
        InvalidValue: if the sizes do not fit together.
    """

    def __init__(
        self,
        width: int,
        n_layers: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        ffn_width: int | None = None,
        qkv_bias: bool = True,
        dropout: float = 0.0,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        if n_heads < 1 or n_kv_heads < 1 or n_heads % n_kv_heads:
            raise InvalidValue("n_kv_heads", n_kv_heads, f"expected a divisor of n_heads={n_heads}")
        if head_dim is None and width % n_heads:
            raise InvalidValue("n_heads", n_heads, f"expected a divisor of width={width}", hint="or set head_dim")
        head_dim = width // n_heads if head_dim is None else head_dim
        if head_dim < 2 or head_dim % 2:
            raise InvalidValue("head_dim", head_dim, "expected an even number: positions turn pairs of features")
        if n_layers < 1:
            raise InvalidValue("n_layers", n_layers, "expected at least one layer")
        ffn_width = 8 * math.ceil(width / 3) if ffn_width is None else ffn_width
        self.width, self.n_heads, self.n_kv_heads, self.head_dim = width, n_heads, n_kv_heads, head_dim
        self.recompute = recompute
        self.layers = nn.ModuleList(
            _Layer(width, n_heads, n_kv_heads, head_dim, ffn_width, qkv_bias, dropout) for _ in range(n_layers)
        )
        self.norm = nn.RMSNorm(width, eps=1e-6)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                # Branches that add to the residual start smaller, so that its variance does not grow with depth.
                closing = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * n_layers) if closing else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(
        self, x: Float[Tensor, "batch token width"], table: Table, cache: KVCache | None = None
    ) -> Float[Tensor, "batch token width"]:
        """Features of every token given it and those before it.

        Args:
            x: embedded tokens; with a cache those that follow what it holds.
            table: rotations of these tokens, from :func:`brainlab.nn.rope.rotation_table`.
            cache: keys and values of the tokens before; the new ones are added.
        """
        for index, layer in enumerate(self.layers):
            if self.recompute and cache is None and torch.is_grad_enabled():
                x = checkpoint(layer, x, table, None, index, use_reentrant=False)
            else:
                x = layer(x, table, cache, index)
        if cache is not None:
            cache.advance(x.shape[1])
        return self.norm(x)

    def cache(self, batch: int, length: int, dtype: torch.dtype | None = None) -> KVCache:
        """An empty cache for ``batch`` sequences of up to ``length`` tokens, of the type that keys are computed in."""
        weight = self.norm.weight
        if dtype is None:
            kind = weight.device.type
            low = kind != "meta" and torch.is_autocast_enabled(kind)
            dtype = torch.get_autocast_dtype(kind) if low else weight.dtype
        return KVCache(len(self.layers), batch, self.n_kv_heads, length, self.head_dim, weight.device, dtype)
