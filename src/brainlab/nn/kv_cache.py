"""Keys and values of the tokens that a decoder has read, kept in one block of memory."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from brainlab.errors import ShapeMismatch

__all__ = ["KVCache"]


class KVCache:
    """Room for ``length`` tokens in every layer, allocated once: appending copies the new tokens and nothing else.

    Args:
        n_layers: layers of the decoder.
        batch: sequences.
        n_kv_heads: key heads of a layer.
        length: tokens that fit.
        head_dim: features of a head.
        device: where the decoder computes.
        dtype: of keys and values.
    """

    def __init__(
        self,
        n_layers: int,
        batch: int,
        n_kv_heads: int,
        length: int,
        head_dim: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        # Sequences and heads share the first axis: a batched product then reads a slice in place.
        shape = (n_layers, 2, batch * n_kv_heads, length, head_dim)
        self.memory = torch.empty(shape, device=device, dtype=dtype)
        self.layers = [tuple(layer.unbind(0)) for layer in self.memory.unbind(0)]
        self.length = length
        self.n_tokens = 0

    @property
    def n_bytes(self) -> int:
        """Memory that the cache takes."""
        return self.memory.numel() * self.memory.element_size()

    def append(
        self, layer: int, key: Float[Tensor, "row token dim"], value: Float[Tensor, "row token dim"]
    ) -> tuple[Float[Tensor, "row all dim"], Float[Tensor, "row all dim"]]:
        """Add tokens to one layer and return all of its keys and values; :meth:`advance` ends the step.

        Raises:
            ShapeMismatch: if the tokens do not fit.
        """
        stop = self.n_tokens + key.shape[1]
        if stop > self.length:
            raise ShapeMismatch("token", stop, f"expected at most {self.length} tokens in the cache")
        keys, values = self.layers[layer]
        keys[:, self.n_tokens : stop] = key
        values[:, self.n_tokens : stop] = value
        return keys[:, :stop], values[:, :stop]

    def advance(self, n_tokens: int) -> None:
        """Count tokens that every layer has got."""
        self.n_tokens += n_tokens
