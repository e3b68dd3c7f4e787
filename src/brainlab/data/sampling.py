"""Sample order that a killed run can continue: a pure function of seed and epoch, positioned by batches consumed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Int64
from torch.utils.data import Sampler

from brainlab.errors import InvalidValue

__all__ = ["ChannelSetSampler", "ResumableSampler", "already_collated"]

Batch = TypeVar("Batch")


class ResumableSampler(Sampler[list[int]]):
    """A batch sampler whose order depends on ``(seed, epoch)`` alone.

    The order of an epoch does not depend on earlier epochs, on the number of workers, or on any global random state,
    so a run that was killed goes on with ``set_epoch(epoch)`` and ``skip_batches(consumed)``.

    In a distributed run each process draws its part of every batch: ``batch_size`` is that of the whole batch, and the
    processes together take the same steps as one process would. (Lightning needs ``use_distributed_sampler=false``.) A
    batch with fewer samples than processes is repeated until each has one.

    Args:
        n: number of samples.
        batch_size: samples per batch; the last batch of an epoch is smaller unless ``drop_last``.
        seed: seed of the order.
        shuffle: false gives 0 … n−1 in every epoch.
        drop_last: leave out an incomplete last batch.
        process: number of this process and number of all; by default what torch says when an epoch begins.

    >>> sampler = ResumableSampler(5, 2, seed=0)
    >>> sampler.set_epoch(3)
    >>> whole = list(sampler)
    >>> sampler.skip_batches(1)
    >>> list(sampler) == whole[1:]
    True
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        process: tuple[int, int] | None = None,
    ) -> None:
        if n < 1:
            raise InvalidValue("n", n, "expected at least one sample")
        if batch_size < 1:
            raise InvalidValue("batch_size", batch_size, "expected at least one sample per batch")
        if drop_last and n < batch_size:
            raise InvalidValue(
                "batch_size", batch_size, f"expected at most the {n} samples there are", hint="or set drop_last=false"
            )
        self.n = int(n)
        self.batch_size = int(batch_size)
        self.seed = int(seed)
        self.shuffle = bool(shuffle)
        self.drop_last = bool(drop_last)
        self.process = process
        self.epoch = 0
        self._skip = 0

    @property
    def sampler(self) -> ResumableSampler:
        """Lightning looks for ``batch_sampler.sampler`` when it announces an epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows; another epoch starts at its first batch."""
        if int(epoch) != self.epoch:
            self._skip = 0
        self.epoch = int(epoch)

    def skip_batches(self, consumed: int) -> None:
        """Leave out the first ``consumed`` batches of this epoch.

        It holds until another epoch is set, and not for one iteration only: a loader with workers asks for the
        iterator twice before it draws from it.

        Raises:
            InvalidValue: if the epoch has fewer batches.
        """
        if not 0 <= consumed <= len(self):
            raise InvalidValue("consumed", consumed, f"expected 0 to {len(self)} batches")
        self._skip = int(consumed)

    def order(self, epoch: int | None = None) -> Int64[np.ndarray, sample]:
        """The sample indices of one epoch in the order in which they are drawn."""
        if not self.shuffle:
            return np.arange(self.n, dtype=np.int64)
        epoch = self.epoch if epoch is None else epoch
        return np.random.default_rng([self.seed, epoch]).permutation(self.n).astype(np.int64, copy=False)

    def __len__(self) -> int:
        """Batches per epoch, skipped ones included."""
        return self.n // self.batch_size if self.drop_last else -(-self.n // self.batch_size)

    def batches(self) -> Iterator[list[int]]:
        """All batches of this epoch, whole."""
        order = self.order()
        starts = range(0, len(self) * self.batch_size, self.batch_size)
        return (order[start : start + self.batch_size].tolist() for start in starts)

    def __iter__(self) -> Iterator[list[int]]:
        # Epoch and position are read here and not at the first batch: workers fetch ahead as soon as they exist.
        batches, (rank, n) = islice(self.batches(), self._skip, None), self.process or _process()
        return (_part(batch, rank, n) for batch in batches)


class ChannelSetSampler(ResumableSampler):
    """Batches that never mix channel sets; it also tells the windows the epoch, so that both always agree.

    Args:
        windows: what is sampled: ``parts`` one after the other, the last number of each in ``ends``.
        batch_size: windows per batch; the last batch of a set may be smaller.
        seed: seed of the order.
        shuffle: false gives the windows of the first set, then those of the second …
    """

    def __init__(self, windows: Any, batch_size: int, seed: int = 0, shuffle: bool = True) -> None:
        super().__init__(len(windows), batch_size, seed, shuffle)
        self.windows = windows

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self.windows.set_epoch(epoch)

    def __len__(self) -> int:
        return sum(-(-len(part) // self.batch_size) for part in self.windows.parts)

    def batches(self) -> Iterator[list[int]]:
        """All batches of this epoch, whole."""
        rng = np.random.default_rng([self.seed, self.epoch])
        batches: list[list[int]] = []
        for part, end in zip(self.windows.parts, self.windows.ends.tolist(), strict=True):
            members = np.arange(end - len(part), end)
            order = (rng.permutation(members) if self.shuffle else members).tolist()
            batches += [order[at : at + self.batch_size] for at in range(0, len(order), self.batch_size)]
        places = rng.permutation(len(batches)).tolist() if self.shuffle else list(range(len(batches)))
        return (batches[place] for place in places)


def _process() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _part(batch: list[int], rank: int, n: int) -> list[int]:
    """The consecutive part of ``batch`` that belongs to one of ``n`` processes.

    >>> [_part([5, 6, 7, 8, 9], rank, 2) for rank in range(2)], [_part([5], rank, 2) for rank in range(2)]
    ([[5, 6], [7, 8, 9]], [[5], [5]])
    """
    full = batch if len(batch) >= n else (batch * n)[:n]
    return full[len(full) * rank // n : len(full) * (rank + 1) // n]


def already_collated(batch: Batch) -> Batch:
    """Collation for datasets whose ``__getitems__`` returns the finished batch."""
    return batch


def set_epoch(loader: Any, epoch: int, consumed: int = 0) -> None:
    """Tell a loader's batch sampler and dataset the epoch, and how many of its batches were consumed already.

    Objects without ``set_epoch`` or ``skip_batches`` are left alone.
    """
    dataset = getattr(loader, "dataset", None)
    sampler = getattr(loader, "batch_sampler", None)
    for part in (dataset, sampler):
        if callable(getattr(part, "set_epoch", None)):
            part.set_epoch(epoch)  # type: ignore[union-attr]
    if consumed and callable(getattr(sampler, "skip_batches", None)):
        sampler.skip_batches(consumed)  # type: ignore[union-attr]
