"""The order of samples is a function of seed and epoch, and can be continued anywhere."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from brainlab.data.sampling import ResumableSampler, already_collated, set_epoch
from brainlab.errors import InvalidValue


class _Indices(Dataset):
    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 11

    def __getitems__(self, indices: list[int]) -> torch.Tensor:
        return torch.tensor([[self.epoch, index] for index in indices])


@given(
    n=st.integers(1, 60),
    batch=st.integers(1, 9),
    epoch=st.integers(0, 5),
    seed=st.integers(0, 3),
    drop=st.booleans(),
    shuffle=st.booleans(),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_an_epoch_is_covered_once_and_continues_where_it_stopped(n, batch, epoch, seed, drop, shuffle, data) -> None:
    if drop and n < batch:
        return
    sampler = ResumableSampler(n, batch, seed, shuffle=shuffle, drop_last=drop)
    sampler.set_epoch(epoch)
    whole = list(sampler)
    assert len(whole) == len(sampler)
    drawn = [index for indices in whole for index in indices]
    assert len(set(drawn)) == len(drawn) == (n // batch * batch if drop else n)
    consumed = data.draw(st.integers(0, len(sampler)))
    again = ResumableSampler(n, batch, seed, shuffle=shuffle, drop_last=drop)
    again.set_epoch(epoch)
    again.skip_batches(consumed)
    assert list(again) == whole[consumed:]
    assert len(again) == len(whole)


@given(n=st.integers(1, 40), batch=st.integers(1, 9), processes=st.integers(1, 4), consumed=st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_processes_share_every_batch_evenly(n, batch, processes, consumed) -> None:
    alone = ResumableSampler(n, batch, seed=2)
    shares = [ResumableSampler(n, batch, seed=2, process=(rank, processes)) for rank in range(processes)]
    for sampler in (alone, *shares):
        sampler.skip_batches(min(consumed, len(sampler)))
    drawn = [list(share) for share in shares]
    assert {len(batches) for batches in drawn} == {len(list(alone))}
    for whole, *parts in zip(alone, *drawn, strict=True):
        assert all(parts)
        joined = [index for part in parts for index in part]
        if len(whole) >= processes:
            assert joined == whole
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
        else:
            assert set(joined) == set(whole)
            assert len(joined) == processes


def test_epochs_differ_and_do_not_depend_on_the_past() -> None:
    sampler = ResumableSampler(50, 8, seed=1)
    orders = []
    for epoch in (0, 1, 2):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] != orders[1] != orders[2]
    late = ResumableSampler(50, 8, seed=1)
    late.set_epoch(2)
    assert list(late) == orders[2]


def test_the_next_epoch_starts_at_its_first_batch() -> None:
    sampler = ResumableSampler(10, 2, seed=0)
    sampler.skip_batches(3)
    assert len(list(sampler)) == 2
    sampler.set_epoch(1)
    assert len(list(sampler)) == 5


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_with_workers_continues_at_the_same_batch(workers: int) -> None:
    sampler = ResumableSampler(11, 3, seed=4)
    loader = DataLoader(_Indices(), batch_sampler=sampler, num_workers=workers, collate_fn=already_collated)
    set_epoch(loader, 2)
    whole = list(loader)
    set_epoch(loader, 2, consumed=2)
    rest = list(loader)
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], rest, strict=True))
    assert whole[0][0, 0] == 2


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((0, 4), "n=0"), ((4, 0), "batch_size=0"), ((3, 4, 0, True, True), "batch_size=4")],
)
def test_impossible_sizes_are_named(arguments: tuple, name: str) -> None:
    with pytest.raises(InvalidValue, match=name):
        ResumableSampler(*arguments)


def test_skipping_more_than_an_epoch_is_refused() -> None:
    with pytest.raises(InvalidValue, match="consumed=6"):
        ResumableSampler(10, 2).skip_batches(6)
