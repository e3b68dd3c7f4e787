"""Dropout that draws its mask about five times faster on a CPU.

PyTorch's CPU kernel spends one full random draw per element, which makes dropout a sixth of the training time of a
small transformer. Here one 64-bit draw of the same global generator serves four elements, 16 bits each. A seed
therefore repeats a run exactly, but not the numbers of ``torch.nn.functional.dropout``. The probability is rounded to
a multiple of 2⁻¹⁶, and survivors are scaled by that rounded probability, so the expectation is exact.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from brainlab.errors import InvalidValue

__all__ = ["Dropout", "dropout", "scaled_keep_mask"]

_LEVELS = 1 << 16


def scaled_keep_mask(shape: tuple[int, ...], p: float) -> Float[Tensor, "*shape"]:
    """Independent entries on the CPU: 0 with probability ``p``, otherwise 1 / (1 − p).

    Args:
        shape: shape of the mask.
        p: drop probability, rounded to a multiple of 2⁻¹⁶; must stay below 1.
    """
    n_dropped = round(p * _LEVELS)
    n = math.prod(shape)
    half = 2 * -(-n // 4)
    draws = torch.empty(2 * half, dtype=torch.int32)
    draws[:half].view(torch.int64).random_(-(2**63), None)
    # The sign and upper 15 bits of an int32 decide whether it lies below the threshold, so the second half of the
    # mask can be decided by the lower 16 bits of the same draws.
    torch.bitwise_left_shift(draws[:half], 16, out=draws[half:])
    kept = draws.ge_((n_dropped - _LEVELS // 2) * _LEVELS)
    scale = torch.tensor(_LEVELS / (_LEVELS - n_dropped), dtype=torch.float32)
    # 0 and the bits of ``scale`` are written as integers and read as floats: a conversion would be another pass.
    return kept.mul_(int(scale.view(torch.int32))).view(torch.float32)[:n].view(shape)


def dropout(x: Float[Tensor, "*shape"], p: float, training: bool = True) -> Float[Tensor, "*shape"]:
    """``x`` with entries dropped with probability ``p`` in training, unchanged otherwise."""
    if not training or p == 0.0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling() or round(p * _LEVELS) == _LEVELS:
        return F.dropout(x, p)
    return x * scaled_keep_mask(tuple(x.shape), p).to(x.dtype)


class Dropout(nn.Module):
    """:func:`dropout` as a layer.

    Args:
        p: drop probability.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise InvalidValue("dropout", p, "expected a probability in [0, 1]")
        self.p = p

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Drop entries in training mode."""
        return dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"
