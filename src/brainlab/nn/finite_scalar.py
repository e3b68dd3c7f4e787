"""Finite scalar quantisation (Mentzer et al., 2023, arXiv:2309.15505): every number is rounded to one of L values.

There is no codebook to learn, so no code can die. The residual form cuts the cell of a rounded number into L smaller
cells, level by level: with one level it is plain finite scalar quantisation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.nn.quantise import Quantised

__all__ = ["FiniteScalarQuantiser"]


class FiniteScalarQuantiser(nn.Module):
    """Rounds bounded numbers to a grid; a code is the index of a grid point, mixed radix with the first number lowest.

    The first level rounds ``tanh(z + shift) · half − offset`` to the nearest integer (half to even), with
    ``half = (L − 1)(1 + 1e-3)/2``, ``offset`` = ½ for even L and ``shift = atanh(offset / half)``; values are divided
    by ``L // 2``. Each further level cuts the cell of the level before into L equal cells and takes the centre of the
    one that holds the number. Gradients pass straight through the rounding.

    Args:
        grid: number of values L of each of the quantised numbers, as ``[8, 8, 8]``.
        dim: width of the vectors; where it differs from ``len(grid)``, linear maps lead there and back.
        n_levels: levels; all have ``prod(grid)`` codes.

    Raises:
        InvalidValue: if a grid has fewer than 2 values.
    """

    _basis: Tensor

    def __init__(self, grid: Sequence[int], dim: int | None = None, n_levels: int = 1) -> None:
        super().__init__()
        if not grid or min(grid) < 2:
            raise InvalidValue("fsq_levels", list(grid), "expected at least 2 values for every number")
        if n_levels < 1:
            raise InvalidValue("n_levels", n_levels, "expected at least 1")
        self.grid, self.n_levels, self.vocab_size = tuple(grid), n_levels, math.prod(grid)
        self.dim, self.width = len(grid) if dim is None else dim, len(grid)
        self.project_in = nn.Linear(self.dim, self.width) if self.width != self.dim else nn.Identity()
        self.project_out = nn.Linear(self.width, self.dim) if self.width != self.dim else nn.Identity()
        sizes = torch.tensor(self.grid)
        self.register_buffer("_sizes", sizes, persistent=False)
        self.register_buffer("_basis", torch.cumprod(torch.tensor((1, *grid[:-1])), dim=0), persistent=False)

    def forward(self, x: Float[Tensor, "*rows dim"]) -> Quantised:
        """Quantise; there is nothing to commit to."""
        if x.shape[-1] != self.dim:
            raise ShapeMismatch("x", tuple(x.shape), f"expected vectors of {self.dim} numbers")
        projected = self.project_in(x)
        with torch.autocast(x.device.type, enabled=False):
            bounded = self._bound(projected.float())
            steps = self._steps(bounded.detach())
            rounded = self._place(steps)
            values = (bounded + (rounded - bounded.detach())) / self._half_width
        return Quantised(
            self.project_out(values.to(projected.dtype)),
            (steps * self._basis).sum(dim=-1).movedim(0, -1),
            x.new_zeros(()),
        )

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "*rows dim"]) -> Int[Tensor, "*rows level"]:
        """The codes of vectors."""
        return (self._steps(self._bound(self.project_in(x).float())) * self._basis).sum(dim=-1).movedim(0, -1)

    def decode(self, codes: Int[Tensor, "*rows level"]) -> Float[Tensor, "*rows dim"]:
        """The quantised vectors of codes."""
        if codes.shape[-1] > self.n_levels:
            raise ShapeMismatch("codes", tuple(codes.shape), f"expected at most {self.n_levels} levels")
        steps = codes.movedim(-1, 0)[..., None] // self._basis % self._sizes
        return self.project_out(self._place(steps) / self._half_width)

    @property
    def _half_width(self) -> Tensor:
        return self._sizes // 2

    def _bound(self, z: Tensor) -> Tensor:
        half = (self._sizes - 1) * (1 + 1e-3) / 2
        offset = torch.where(self._sizes % 2 == 0, 0.5, 0.0)
        return torch.tanh(z + torch.atanh(offset / half)) * half - offset

    def _steps(self, bounded: Tensor) -> Tensor:
        """(level, *rows, width): which of its L values each number has, from 0."""
        low = -self._half_width
        top = low + self._sizes - 1
        integer = torch.minimum(torch.maximum(bounded.round(), low), top)
        found = [(integer - low).long()]
        rest, cell = bounded - integer, 1.0
        for _ in range(1, self.n_levels):
            size = cell / self._sizes
            step = torch.minimum((rest / size + self._sizes / 2).floor().clamp(min=0), self._sizes - 1)
            rest, cell = rest - (step + 0.5 - self._sizes / 2) * size, size
            found.append(step.long())
        return torch.stack(found)

    def _place(self, steps: Tensor) -> Tensor:
        """Where the chosen cells lie, in units of the first level's cells."""
        place, cell = (steps[0] - self._half_width).float(), 1.0
        for step in steps[1:]:
            cell = cell / self._sizes
            place = place + (step + 0.5 - self._sizes / 2) * cell
        return place
