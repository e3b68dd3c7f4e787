"""Vector quantisers: residual codebooks that learn by moving averages.

A level replaces what the levels before it left over by its nearest code; the quantised vector is the sum of the
chosen codes. Codebooks are no parameters: in training they follow the vectors that chose them (van den Oord et al.,
2017, appendix A.1), codes that hardly anything chooses are put somewhere else, and in evaluation nothing changes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from brainlab.errors import InvalidValue, ShapeMismatch

__all__ = ["Quantised", "ResidualVectorQuantiser", "VectorQuantiser", "nearest_codes", "rotate_onto"]

# Distances held at once: small enough for a processor's cache, and on a graphics card for a small share of its memory.
_BLOCK_CPU, _BLOCK_GPU = 1 << 20, 1 << 26


class Quantised(NamedTuple):
    """What a quantiser makes of vectors."""

    values: Float[Tensor, "*rows dim"]
    """The quantised vectors, through which gradients reach the input."""
    codes: Int[Tensor, "*rows level"]
    commit: Float[Tensor, ""]
    """What pulls the input towards its codes; 0 where there is nothing to pull."""


def nearest_codes(
    x: Float[Tensor, "n dim"], codebook: Float[Tensor, "code dim"], block: int | None = None
) -> Int[Tensor, " n"]:
    """The code at the smallest Euclidean distance from each vector.

    |x − c|² orders codes like |c|²/2 − x·c, one matrix product; it is made for a block of vectors at a time, so that
    no (n, code) matrix exists, and no one-hot matrix at all.

    Args:
        x: vectors.
        codebook: codes.
        block: distances held at once; None chooses by device.
    """
    if block is None:
        block = _BLOCK_CPU if x.device.type == "cpu" else _BLOCK_GPU
    rows = max(1, min(len(x), block // len(codebook)))
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        x, codebook = x.detach().float(), codebook.detach().float()
        half = codebook.square().sum(dim=1).mul_(0.5)
        nearest = torch.empty(len(x), dtype=torch.long, device=x.device)
        scores = torch.empty(rows, len(codebook), device=x.device)
        transposed = codebook.t()
        for start in range(0, len(x), rows):
            part = x[start : start + rows]
            found = torch.addmm(half, part, transposed, alpha=-1, out=scores[: len(part)])
            torch.argmin(found, dim=1, out=nearest[start : start + rows])
    return nearest


def rotate_onto(x: Float[Tensor, "*rows dim"], target: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
    """``target``, with the gradient of x turned and stretched onto it.

    The map that turns x into the direction of its target and scales it to the target's length is taken as constant,
    so that the gradient keeps its angle to the vector; the straight-through estimate keeps its direction in space.

    Source: Fifty et al. (2024), arXiv:2410.06424, section 4.2.
    """
    with torch.no_grad():
        length, goal = x.norm(dim=-1, keepdim=True), target.norm(dim=-1, keepdim=True)
        from_, onto = x / length.clamp(min=1e-12), target / goal.clamp(min=1e-12)
        middle = F.normalize(from_ + onto, dim=-1)
        stretch = goal / length.clamp(min=1e-12)
        # A vector without length has no direction to turn from.
        defined = length > 1e-6
    turned = x - 2 * middle * (middle * x).sum(-1, keepdim=True) + 2 * onto * (from_ * x).sum(-1, keepdim=True)
    moved = torch.where(defined, turned * torch.where(defined, stretch, 1.0), x)
    return moved + (target - moved).detach()


class ResidualVectorQuantiser(nn.Module):
    """Levels of codebooks, each for what the levels before it left over.

    Buffers: ``codebooks`` (level, code, dim), ``cluster_size`` (level, code) and ``cluster_sum`` (level, code, dim),
    the moving averages N and m of how many vectors chose a code and of their sum; ``ready`` says whether the codebooks
    have seen data, ``draws`` how often chance was asked. Processes that share a batch keep equal buffers.

    Args:
        dim: width of the vectors.
        n_codes: codes per level.
        n_levels: codebooks.
        codebook_dim: width of the codes; where it differs from ``dim``, linear maps lead there and back.
        decay: of the moving averages.
        epsilon: added to every N, so that no code divides by zero.
        dead_below: a code with a smaller N after an update is put onto a vector of the batch; 0: never.
        kmeans_iterations: of k-means on the first training batch; 0: codebooks start as normal noise.
        rotation: gradients as in :func:`rotate_onto`; else straight through.
        commit: weight of the mean squared distance between what a level is given and its code, mean over levels.
        seed: of the choice of vectors.

    Raises:
        InvalidValue: for a size or constant out of range.
    """

    codebooks: Tensor
    cluster_size: Tensor
    cluster_sum: Tensor
    ready: Tensor
    draws: Tensor

    def __init__(
        self,
        dim: int,
        n_codes: int,
        n_levels: int = 1,
        *,
        codebook_dim: int | None = None,
        decay: float = 0.99,
        epsilon: float = 1e-6,
        dead_below: float = 2.0,
        kmeans_iterations: int = 10,
        rotation: bool = True,
        commit: float = 0.25,
        seed: int = 0,
    ) -> None:
        super().__init__()
        width = dim if codebook_dim is None else codebook_dim
        for name, value in (("dim", dim), ("codebook_size", n_codes), ("n_levels", n_levels), ("codebook_dim", width)):
            if value < 1:
                raise InvalidValue(name, value, "expected at least 1")
        if not 0 <= decay < 1:
            raise InvalidValue("decay", decay, "expected a number in [0, 1)")
        if dead_below < 0 or kmeans_iterations < 0:
            raise InvalidValue("dead_below", dead_below, "expected numbers of at least 0 here and in kmeans_iterations")
        self.dim, self.width, self.vocab_size, self.n_levels = dim, width, n_codes, n_levels
        self.decay, self.epsilon, self.dead_below = decay, epsilon, dead_below
        self.kmeans_iterations, self.rotation, self.commit, self.seed = kmeans_iterations, rotation, commit, seed
        self.project_in = nn.Linear(dim, width) if width != dim else nn.Identity()
        self.project_out = nn.Linear(width, dim) if width != dim else nn.Identity()
        self.register_buffer("codebooks", torch.randn(n_levels, n_codes, width) / width**0.5)
        self.register_buffer("cluster_size", torch.full((n_levels, n_codes), max(dead_below, 1.0)))
        self.register_buffer("cluster_sum", self.codebooks * max(dead_below, 1.0))
        self.register_buffer("ready", torch.tensor(kmeans_iterations == 0))
        self.register_buffer("draws", torch.tensor(0))

    def forward(self, x: Float[Tensor, "*rows dim"]) -> Quantised:
        """Quantise; in training the codebooks learn from these vectors afterwards, as far as they are finite.

        Raises:
            ShapeMismatch: for vectors of another width.
            InvalidValue: where codes are to be put onto vectors of a batch that has no finite one.
        """
        if x.shape[-1] != self.dim:
            raise ShapeMismatch("x", tuple(x.shape), f"expected vectors of {self.dim} numbers")
        projected = self.project_in(x)
        with torch.autocast(x.device.type, enabled=False):
            given = projected.float().reshape(-1, self.width)
            total = torch.zeros_like(given)
            commit = given.new_zeros(())
            # The loss of such a step is lost, and a scaler of gradients leaves it out; the averages would keep it.
            finite = given.detach().isfinite().all(dim=1) if self.training else None
            learned = slice(None) if finite is None or bool(finite.all()) else finite
            chosen, left = [], []
            for level in range(self.n_levels):
                residual = given - total
                if self.training and not bool(self.ready):
                    self._start(level, residual.detach()[learned])
                codes = nearest_codes(residual, self.codebooks[level])
                quantised = F.embedding(codes, self.codebooks[level])
                commit = commit + F.mse_loss(residual, quantised)
                chosen.append(codes)
                left.append(residual.detach())
                total = total + quantised
            if self.training:
                self.ready.fill_(True)
                for level, (codes, residual) in enumerate(zip(chosen, left, strict=True)):
                    self._learn(level, codes[learned], residual[learned])
            values = rotate_onto(given, total) if self.rotation else given + (total - given).detach()
            values = values.to(projected.dtype).view(projected.shape)
        codes = torch.stack(chosen, dim=-1).view(*x.shape[:-1], self.n_levels)
        return Quantised(self.project_out(values), codes, self.commit * commit / self.n_levels)

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "*rows dim"]) -> Int[Tensor, "*rows level"]:
        """The codes of vectors, as in evaluation."""
        residual = self.project_in(x).float().reshape(-1, self.width)
        chosen = []
        for level in range(self.n_levels):
            chosen.append(nearest_codes(residual, self.codebooks[level]))
            if level + 1 < self.n_levels:
                residual = residual - F.embedding(chosen[-1], self.codebooks[level])
        return torch.stack(chosen, dim=-1).view(*x.shape[:-1], self.n_levels)

    def decode(self, codes: Int[Tensor, "*rows level"]) -> Float[Tensor, "*rows dim"]:
        """The quantised vectors of codes; fewer levels than the quantiser has give a coarser vector."""
        n_levels = codes.shape[-1]
        if n_levels > self.n_levels:
            raise ShapeMismatch("codes", tuple(codes.shape), f"expected at most {self.n_levels} levels")
        # One table for all levels: codes of level q start at row q · n_codes.
        table = self.codebooks.view(-1, self.width)
        rows = codes.reshape(-1, n_levels) + torch.arange(n_levels, device=codes.device) * self.vocab_size
        total = F.embedding_bag(rows, table, mode="sum")
        return self.project_out(total.view(*codes.shape[:-1], self.width))

    @torch.no_grad()
    def _start(self, level: int, vectors: Tensor) -> None:
        """k-means on the first batch (Lloyd, 1982), so that codes lie where the data are."""
        centres = self._draw(vectors, self.vocab_size)
        size = centres.new_zeros(self.vocab_size)
        for _ in range(self.kmeans_iterations):
            size, sums = self._clusters(nearest_codes(vectors, centres), vectors)
            centres = torch.where(size[:, None] > 0, sums / size.clamp(min=1)[:, None], centres)
        size = self._clusters(nearest_codes(vectors, centres), vectors)[0]
        self.codebooks[level], self.cluster_size[level] = centres, size
        self.cluster_sum[level] = centres * size[:, None]

    @torch.no_grad()
    def _learn(self, level: int, codes: Tensor, vectors: Tensor) -> None:
        size, sums = self._clusters(codes, vectors)
        n, m, codebook = self.cluster_size[level], self.cluster_sum[level], self.codebooks[level]
        n.lerp_(size, 1 - self.decay)
        m.lerp_(sums, 1 - self.decay)
        total = n.sum()
        smoothed = (n + self.epsilon) / (total + self.vocab_size * self.epsilon) * total
        codebook.copy_(m / smoothed[:, None])
        # After the update, not before it: the averages would otherwise pull a moved code straight back.
        dead = (n < self.dead_below).nonzero().flatten()
        if len(dead):
            fresh = self._draw(vectors, len(dead))
            codebook[dead] = fresh
            n[dead] = self.dead_below
            m[dead] = fresh * self.dead_below

    def _clusters(self, codes: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """How many vectors of all processes chose each code, and their sums."""
        table = vectors.new_zeros(self.vocab_size, self.width + 1)
        table[:, -1] = torch.bincount(codes, minlength=self.vocab_size)
        table[:, :-1].index_add_(0, codes, vectors)
        if _shared():
            dist.all_reduce(table)
        return table[:, -1], table[:, :-1]

    def _draw(self, vectors: Tensor, count: int) -> Tensor:
        """Vectors of the batch at random, the same ones in every process, without repetition where there are enough."""
        start, total = 0, len(vectors)
        if _shared():
            lengths = torch.zeros(dist.get_world_size(), dtype=torch.long, device=vectors.device)
            lengths[dist.get_rank()] = len(vectors)
            dist.all_reduce(lengths)
            start, total = int(lengths[: dist.get_rank()].sum()), int(lengths.sum())
        if total == 0:
            raise InvalidValue(
                "latents", "not finite", "expected a batch with finite vectors", hint="lower model.lr or clip gradients"
            )
        # What has been drawn so far is part of the state: a resumed training draws what comes next.
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + int(self.draws)) * 2_654_435_761 % 2**63)
        self.draws += 1
        if count <= total:
            index = torch.randperm(total, generator=generator)[:count]
        else:
            index = torch.randint(total, (count,), generator=generator)
        index = index.to(vectors.device) - start
        own = (index >= 0) & (index < len(vectors))
        drawn = vectors.new_zeros(count, vectors.shape[1])
        drawn[own] = vectors[index[own]]
        if _shared():
            dist.all_reduce(drawn)
        return drawn


class VectorQuantiser(ResidualVectorQuantiser):
    """A single codebook; codes keep a last axis of one level. Arguments as of :class:`ResidualVectorQuantiser`."""

    def __init__(
        self,
        dim: int,
        n_codes: int,
        *,
        codebook_dim: int | None = None,
        decay: float = 0.99,
        epsilon: float = 1e-6,
        dead_below: float = 2.0,
        kmeans_iterations: int = 10,
        rotation: bool = True,
        commit: float = 0.25,
        seed: int = 0,
    ) -> None:
        super().__init__(
            dim,
            n_codes,
            1,
            codebook_dim=codebook_dim,
            decay=decay,
            epsilon=epsilon,
            dead_below=dead_below,
            kmeans_iterations=kmeans_iterations,
            rotation=rotation,
            commit=commit,
            seed=seed,
        )


def _shared() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
