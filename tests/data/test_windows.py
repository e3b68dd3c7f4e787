from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from brainlab.data.splits import PARTS, time_split
from brainlab.data.windows import RandomWindows, Windows, regular_windows, stretches_of
from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.io.store import Store, StoreWriter

LENGTHS = (1500, 400, 90)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    rng = np.random.default_rng(0)
    with StoreWriter(folder) as writer:
        for number, n in enumerate(LENGTHS):
            writer.add_session(str(number), rng.standard_normal((2, n)).astype(np.float32), 100.0, ["A", "B"])
    return Store(folder)


def splits():
    return [time_split(n, 100.0, (0.6, 0.2, 0.2), 0.05) for n in LENGTHS]


def test_a_batch_is_contiguous_and_equals_the_store(store):
    sessions, starts = np.array([0, 1, 2, 0]), np.array([7, 3, 0, 1400])
    windows = Windows(store, sessions, starts, 50, np.array([3, 1, 4, 1]))
    batch = windows.__getitems__([3, 0, 2])
    assert batch["signal"].is_contiguous()
    assert batch["signal"].dtype == torch.float32
    assert batch["signal"].shape == (3, 2, 50)
    assert batch["label"].tolist() == [1, 3, 4]
    assert batch["session"].tolist() == [0, 0, 2]
    assert batch["start"].tolist() == [1400, 7, 0]
    assert batch["index"].tolist() == [3, 0, 2]
    for row, k in enumerate([3, 0, 2]):
        np.testing.assert_array_equal(batch["signal"][row], store.read(int(sessions[k]), int(starts[k]), 50))
    assert torch.equal(windows[2]["signal"], batch["signal"][2])


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("length", [10, 18, 60])
def test_no_window_crosses_a_part_or_a_session(store, part, length):
    allowed = stretches_of(splits(), part)
    random = RandomWindows(store, allowed, length, n_windows=300, seed=1)
    regular = regular_windows(store, allowed, length, step=3)
    for windows in (random, regular):
        batch = windows.__getitems__(range(len(windows)))
        for session, start in zip(batch["session"].tolist(), batch["start"].tolist(), strict=True):
            assert any(s == session and a <= start and start + length <= b for s, a, b in allowed.tolist())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10), st.integers(0, 5), st.lists(st.integers(0, 99), min_size=1, max_size=20))
def test_a_random_window_depends_on_seed_epoch_and_index_alone(store, seed, epoch, indices):
    def drawn(wanted):
        windows = RandomWindows(store, stretches_of(splits(), "train"), 30, n_windows=100, seed=seed)
        windows.set_epoch(epoch)
        return windows.__getitems__(wanted)["start"].tolist()

    assert drawn(indices) == [drawn([index])[0] for index in indices]


def test_random_windows_cover_every_start_evenly_and_change_with_the_epoch(store):
    windows = RandomWindows(store, np.array([[0, 100, 130], [1, 5, 25]]), 11, n_windows=30_000, seed=0)
    _, starts, _ = windows.locate(np.arange(30_000))
    sessions = windows.locate(np.arange(30_000))[0]
    counts = [np.sum((sessions == 0) & (starts == s)) for s in range(100, 120)]
    counts += [np.sum((sessions == 1) & (starts == s)) for s in range(5, 15)]
    assert sum(counts) == 30_000
    # 30 places with 1000 expected draws each: five standard deviations are about 160.
    assert np.abs(np.array(counts) - 1000).max() < 160
    windows.set_epoch(1)
    assert (windows.locate(np.arange(30_000))[1] != starts).mean() > 0.9


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_draw_what_the_main_process_would(store, persistent):
    windows = RandomWindows(store, stretches_of(splits(), "train"), 30, n_windows=12, seed=0)
    order = [[0, 5, 3], [7, 1, 11]]
    loader = DataLoader(
        windows, batch_sampler=order, num_workers=1, persistent_workers=persistent, collate_fn=lambda batch: batch
    )
    for epoch in range(2):
        windows.set_epoch(epoch)
        for batch, indices in zip(loader, order, strict=True):
            expected = windows.__getitems__(indices)
            for key in expected:
                assert torch.equal(batch[key], expected[key])


def test_labels_follow_the_session(store):
    labels = np.array([10, 20, 30])
    random = RandomWindows(store, np.array([[1, 0, 400], [2, 0, 90]]), 20, 50, session_labels=labels)
    batch = random.__getitems__(range(50))
    assert torch.equal(batch["label"], torch.from_numpy(labels)[batch["session"]])
    regular = regular_windows(store, np.array([[2, 0, 90]]), 20, session_labels=labels)
    assert regular.labels.tolist() == [30] * 4


def test_what_does_not_fit_is_refused(store, tmp_path):
    with pytest.raises(InvalidValue, match="window"):
        Windows(store, np.array([2]), np.array([60]), 40)
    with pytest.raises(InvalidValue, match="length"):
        RandomWindows(store, np.array([[2, 0, 90]]), 91)
    with pytest.raises(InvalidValue, match="stretch"):
        regular_windows(store, np.array([[2, 0, 91]]), 10)
    with pytest.raises(InvalidValue, match="session"):
        regular_windows(store, np.array([[3, 0, 10]]), 10)
    with pytest.raises(ShapeMismatch):
        Windows(store, np.array([0, 1]), np.array([0]), 10)
    with StoreWriter(tmp_path) as writer:
        writer.add_session("a", np.zeros((1, 9), np.float32), 1.0, ["A"])
        writer.add_session("b", np.zeros((2, 9), np.float32), 1.0, ["A", "B"])
    with pytest.raises(ShapeMismatch, match="channels"):
        regular_windows(Store(tmp_path), np.array([[0, 0, 9], [1, 0, 9]]), 3)
