"""Batches that are shared among the processes of a distributed run, put together again for losses over whole batches.

A contrastive loss needs every example of a batch. When each process holds a part, all of them compute the loss of the
whole batch from gathered rows; the mean over processes that distributed training takes of the gradients is then the
gradient that one process would have found.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

__all__ = ["gather_batch", "gather_rows"]


def gather_rows(rows: Shaped[Tensor, "own ..."], counts: list[int], rank: int) -> Shaped[Tensor, "all ..."]:
    """The rows of every process, in order of processes; gradients flow back to the process that a row came from.

    Args:
        rows: this process's part; parts may differ in length.
        counts: length of each process's part.
        rank: number of this process.
    """
    start = sum(counts[:rank])
    if rows.is_floating_point():
        return _Gather.apply(rows, start, sum(counts))
    return _placed(rows.long(), start, sum(counts)).to(rows.dtype)


def gather_batch(batch: dict[str, Any], names: tuple[str, ...], rank: int, n_processes: int) -> dict[str, Tensor]:
    """Tensors ``names`` of the whole batch, of which every process holds a part; see :func:`gather_rows`."""
    lengths = torch.zeros(n_processes, dtype=torch.long, device=batch[names[0]].device)
    lengths[rank] = len(batch[names[0]])
    dist.all_reduce(lengths)
    counts = [int(length) for length in lengths]
    return {name: gather_rows(batch[name], counts, rank) for name in names}


def _placed(rows: Tensor, start: int, total: int) -> Tensor:
    # A sum over zeros and one part: works for parts of any length on every backend, and keeps each value's bits.
    whole = rows.new_zeros((total, *rows.shape[1:]))
    whole[start : start + len(rows)] = rows
    dist.all_reduce(whole)
    return whole


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, start: int, total: int) -> Tensor:
        ctx.part = slice(start, start + len(rows))
        return _placed(rows, start, total)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        # Each process has a loss of its own, and all of them depend on these rows.
        whole = gradients[0].contiguous().clone()
        dist.all_reduce(whole)
        return whole[ctx.part], None, None
