"""Mu-law as a tokenizer: one code per sample and channel, nothing to train.

The tensor functions give the codes of :mod:`brainlab.signal.mu_law`.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.signal.mu_law import mu_law_centres

__all__ = ["MuLaw", "mu_law_decode", "mu_law_encode"]


def mu_law_encode(x: Float[Tensor, "*shape"], mu: int = 255) -> Int[Tensor, "*shape"]:
    """Codes 0 … mu of numbers in [−1, 1]; numbers outside saturate, a NaN becomes the code of zero."""
    # In double precision, like the array variant: single precision moves codes that lie on an edge.
    x = x.double().nan_to_num(nan=0.0).clamp(-1.0, 1.0)
    companded = torch.sign(x) * torch.log1p(mu * x.abs()) / math.log1p(mu)
    return torch.floor((companded + 1) / 2 * mu + 0.5).long()


def mu_law_decode(codes: Int[Tensor, "*shape"], mu: int = 255) -> Float[Tensor, "*shape"]:
    """Numbers in [−1, 1] that codes stand for."""
    centres = torch.from_numpy(mu_law_centres(mu)).to(codes.device, torch.float32)
    return centres[codes]


class MuLaw(nn.Module):
    """A tokenizer whose sites are the channels; a frame is a sample.

    Args:
        n_channels: channels of the signal.
        bits: the code has ``2 ** bits`` values.
        max_abs: amplitude (units of the prepared data) that is the edge of the code; larger ones saturate.

    Raises:
        InvalidValue: for sizes out of range.
    """

    hop = 1
    n_levels = 1
    receptive_field = 0

    def __init__(self, n_channels: int, *, bits: int = 8, max_abs: float = 5.0) -> None:
        super().__init__()
        if not 1 <= bits <= 16:
            raise InvalidValue("bits", bits, "expected 1 to 16")
        if not 0 < max_abs < math.inf:
            raise InvalidValue("max_abs", max_abs, "expected a positive amplitude")
        if n_channels < 1:
            raise InvalidValue("n_channels", n_channels, "expected at least 1")
        self.n_channels, self.n_sites, self.bits, self.max_abs = n_channels, n_channels, bits, max_abs
        self.vocab_size = 2**bits
        self.register_buffer(
            "centres", torch.from_numpy(mu_law_centres(self.vocab_size - 1) * max_abs).float(), persistent=False
        )

    @property
    def fingerprint(self) -> str:
        """What the codes depend on."""
        return f"mu_law-1-{self.n_channels}-{self.bits}-{self.max_abs!r}"

    def encode(self, signal: Float[Tensor, "batch channel time"]) -> Int[Tensor, "batch time channel 1"]:
        """Codes of every sample.

        Raises:
            ShapeMismatch: for another number of channels.
            InvalidValue: for a NaN, which no code stands for.
        """
        if signal.ndim != 3 or signal.shape[1] != self.n_channels:
            raise ShapeMismatch("signal", tuple(signal.shape), f"expected (batch, {self.n_channels}, time)")
        if bool(torch.isnan(signal).any()):
            raise InvalidValue("signal", "NaN", "expected numbers", hint="missing samples have to be left out before")
        codes = mu_law_encode(signal.double() / self.max_abs, self.vocab_size - 1)
        return codes.transpose(1, 2).unsqueeze(-1).contiguous()

    def decode(self, codes: Int[Tensor, "batch time channel 1"]) -> Float[Tensor, "batch channel time"]:
        """The signal of codes.

        Raises:
            ShapeMismatch: for another number of channels.
        """
        if codes.ndim != 4 or codes.shape[2:] != (self.n_channels, 1):
            raise ShapeMismatch("codes", tuple(codes.shape), f"expected (batch, time, {self.n_channels}, 1)")
        return self.centres[codes.squeeze(-1)].transpose(1, 2)

    def forward(self, signal: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch channel time"]:
        """The signal after coding."""
        return self.decode(self.encode(signal))
