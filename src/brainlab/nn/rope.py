"""Rotary position codes over one or several position axes.

Pairs of features of a query or key are rotated by an angle proportional to the token's position; a product of two
then depends on the difference of their positions alone. With several axes (time, site, level) the pairs are dealt out
in sections, one per axis. Sources: Su et al. (2021), RoFormer, eq. 34; Wang et al. (2024), Qwen2-VL, section 2.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from brainlab.errors import InvalidValue

__all__ = ["even_sections", "rotate", "rotation_table"]


def even_sections(head_dim: int, n_axes: int = 3) -> tuple[int, ...]:
    """``head_dim / 2`` frequencies dealt out evenly; the first axis takes what is left over.

    >>> even_sections(120), even_sections(32)
    ((20, 20, 20), (6, 5, 5))
    """
    half = head_dim // 2
    rest = half // n_axes
    return (half - (n_axes - 1) * rest, *[rest] * (n_axes - 1))


def rotation_table(
    positions: Int[Tensor, "position axis"], head_dim: int, theta: float = 1e6, sections: Sequence[int] | None = None
) -> tuple[Float[Tensor, "position dim"], Float[Tensor, "position dim"]]:
    """Cosines and signed sines that :func:`rotate` needs, float32.

    Frequency j of ``head_dim / 2`` is ``theta^(−2j / head_dim)``, and it turns with the axis whose section j lies in.

    Args:
        positions: place of every token on every axis, from 0.
        head_dim: features of a head, even.
        theta: base of the frequencies; larger for longer contexts.
        sections: frequencies per axis; default :func:`even_sections`.

    Raises:
        InvalidValue: if the sections do not add up.
    """
    n_axes = positions.shape[1]
    sections = even_sections(head_dim, n_axes) if sections is None else tuple(sections)
    if head_dim % 2 or len(sections) != n_axes or min(sections) < 0 or sum(sections) != head_dim // 2:
        raise InvalidValue(
            "rope_sections", list(sections), f"expected {n_axes} numbers that add up to half of head_dim={head_dim}"
        )
    device = positions.device
    # In double precision: at position 30,000 a float32 angle has lost three of its seven digits.
    frequency = theta ** (-torch.arange(0, head_dim, 2, device=device, dtype=torch.float64) / head_dim)
    columns = [positions[:, axis : axis + 1].expand(-1, size) for axis, size in enumerate(sections)]
    angle = torch.cat(columns, dim=1) * frequency
    cos, sin = angle.cos().float(), angle.sin().float()
    return torch.cat([cos, cos], dim=1), torch.cat([-sin, sin], dim=1)


def rotate(
    x: Float[Tensor, "batch position head dim"],
    table: tuple[Float[Tensor, "position dim"], Float[Tensor, "position dim"]],
) -> Float[Tensor, "batch position head dim"]:
    """``x`` with feature pairs (j, j + dim/2) turned by their token's angles; keeps the type of ``x``."""
    cos, sin = (part.to(x.dtype).unsqueeze(1) for part in table)
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)
