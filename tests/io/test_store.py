from __future__ import annotations

import json
import pickle
import shutil
import tempfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainlab.errors import InvalidFile, InvalidValue, ShapeMismatch
from brainlab.io import store as module
from brainlab.io.recording import Channel, Recording
from brainlab.io.store import Store, StoreWriter


def numbers(n_channels: int, n_samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n_channels, n_samples)).astype(np.float32)


@pytest.fixture
def two_sessions(tmp_path):
    with StoreWriter(tmp_path / "store") as writer:
        writer.add_session("long", numbers(3, 5000), 200.0, ["A", "B", "C"])
        writer.add_session("short", numbers(3, 70, 1), 200.0, ["A", "B", "C"])
    return Store(tmp_path / "store")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_gather_equals_slices_for_any_length_start_and_block(data):
    n_samples = data.draw(st.lists(st.integers(1, 90), min_size=1, max_size=3))
    length = data.draw(st.integers(1, min(n_samples)))
    sessions = data.draw(st.lists(st.integers(0, len(n_samples) - 1), min_size=1, max_size=8))
    starts = [data.draw(st.integers(0, n_samples[s] - length)) for s in sessions]
    arrays = [numbers(2, n, k) for k, n in enumerate(n_samples)]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", data.draw(st.integers(1, 40)))
        patch.setattr(module, "_BLOCKS_AT_ONCE", data.draw(st.integers(1, 3)))
        with StoreWriter(folder) as writer:
            for k, array in enumerate(arrays):
                writer.add_session(str(k), array, 100.0, ["A", "B"])
        found = Store(folder).gather(np.array(sessions), np.array(starts), length)
    expected = np.stack([arrays[s][:, a : a + length] for s, a in zip(sessions, starts, strict=True)])
    np.testing.assert_array_equal(found, expected)
    assert found.flags.c_contiguous
    assert found.dtype == np.float32


def test_facts_of_a_session_come_back(tmp_path):
    channel = Channel("Cz", "eeg", (0.0, 0.1, 0.2), None, "V")
    event = {"sample": 3, "description": "square"}
    with StoreWriter(tmp_path) as writer:
        writer.add_session("s", numbers(1, 10), 250.0, [channel], [event], {"subject": "01"})
    (session,) = Store(tmp_path).sessions
    assert session.channels == (channel,)
    assert session.events == (event,)
    assert session.attrs == {"subject": "01"}
    assert session.sfreq_hz == 250.0
    assert session.n_samples == 10


def test_a_sensor_comes_back_and_lines_without_one_are_read(tmp_path):
    channel = Channel("A1", "mag", (0.0, 0.1, 0.2), (0.0, 0.0, 1.0), "T", "axial gradiometer")
    with StoreWriter(tmp_path / "store") as writer:
        writer.add_session("s", numbers(1, 10), 250.0, [channel])
    assert Store(tmp_path / "store").sessions[0].channels == (channel,)
    line = json.dumps([["A1", "mag", [0.0, 0.1, 0.2], [0.0, 0.0, 1.0], "T"]])
    (tmp_path / "details.jsonl").write_text(line)
    assert module._Details(tmp_path / "details.jsonl").channels((0, len(line))) == (replace(channel, sensor=""),)


def test_a_recording_is_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 16)
    monkeypatch.setattr(module, "_BLOCKS_AT_ONCE", 2)
    samples = numbers(2, 101)
    recording = Recording.from_array(samples, 128.0, ["A", "B"])
    with StoreWriter(tmp_path) as writer:
        writer.add_session("s", recording)
    store = Store(tmp_path)
    np.testing.assert_array_equal(store.read("s"), samples)
    assert store.sessions[0].sfreq_hz == 128.0


def test_a_batch_stays_as_it_is_while_others_are_read(two_sessions):
    samples = numbers(3, 5000)
    kept = [two_sessions.gather(np.zeros(10, int), np.full(10, k), 4000) for k in range(9)]
    for k, batch in enumerate(kept):
        np.testing.assert_array_equal(batch[3], samples[:, k : k + 4000])
    tensors = []
    import torch

    for k in range(9):
        tensors.append(torch.from_numpy(two_sessions.gather(np.zeros(10, int), np.full(10, k), 4000))[2:4])
    for k, tensor in enumerate(tensors):
        np.testing.assert_array_equal(tensor[1], samples[:, k : k + 4000])


def test_memory_of_a_batch_is_used_again_when_nobody_holds_it(two_sessions):
    places = set()
    for k in range(6):
        batch = two_sessions.gather(np.zeros(10, int), np.full(10, k), 4000)
        places.add(batch.ctypes.data)
        del batch
    assert len(places) == 1


def test_windows_outside_and_unknown_sessions_are_refused(two_sessions):
    for session, start, length in [(0, -1, 10), (0, 4991, 10), (1, 61, 10), (2, 0, 1), (-1, 0, 1), (0, 5, 0)]:
        with pytest.raises(InvalidValue):
            two_sessions.gather(np.array([session]), np.array([start]), length)
    with pytest.raises(InvalidValue, match="long, short"):
        two_sessions.read("other")


def test_sessions_of_different_montage_do_not_share_a_batch(tmp_path):
    with StoreWriter(tmp_path) as writer:
        writer.add_session("a", numbers(2, 10), 1.0, ["A", "B"])
        writer.add_session("b", numbers(3, 10), 1.0, ["A", "B", "C"])
    with pytest.raises(ShapeMismatch, match="channels"):
        Store(tmp_path).gather(np.array([0, 1]), np.array([0, 0]), 5)


def test_what_cannot_be_stored_is_refused(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.add_session("a", numbers(2, 10), 1.0, ["A", "B"])
    with pytest.raises(InvalidValue, match="once"):
        writer.add_session("a", numbers(2, 10), 1.0, ["A", "B"])
    with pytest.raises(ShapeMismatch, match="channels"):
        writer.add_session("b", numbers(2, 10), 1.0, ["A"])
    bad = numbers(2, 10)
    bad[1, 7] = np.inf
    with pytest.raises(InvalidValue, match="channel B, sample 7"):
        writer.add_session("c", bad, 1.0, ["A", "B"])
    with pytest.raises(InvalidValue, match="event sample"):
        writer.add_session("d", numbers(2, 10), 1.0, ["A", "B"], [{"sample": 10}])


def test_a_folder_is_no_store_before_the_writer_closed(tmp_path):
    StoreWriter(tmp_path).add_session("a", numbers(2, 10), 1.0, ["A", "B"])
    with pytest.raises(InvalidFile, match="index"):
        Store(tmp_path)


def test_truncated_and_foreign_stores_are_refused(two_sessions):
    folder = two_sessions.folder
    file = folder / two_sessions.sessions[0].file
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(InvalidFile, match=r"bytes, found.*delete the folder"):
        Store(folder)
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(index | {"version": 99}))
    with pytest.raises(InvalidFile, match=r"expected brainlab-store version 2, found .* 99\. Hint: delete the folder"):
        Store(folder)
    (folder / "index.json").write_text("{")
    with pytest.raises(InvalidFile, match="index"):
        Store(folder)


@pytest.mark.parametrize("file", ["../secret.f32", "/etc/passwd", "sub/00000.f32", "..", "", "a\0b", 5])
def test_an_index_that_names_files_elsewhere_is_refused(tmp_path, file):
    with StoreWriter(tmp_path / "store") as writer:
        writer.add_session("a", np.ones((2, 3), np.float32), 100.0, ["x", "y"])
    session = Store(tmp_path / "store").sessions[0]
    (tmp_path / "secret.f32").write_bytes((tmp_path / "store/00000.f32").read_bytes())
    index = tmp_path / "store/index.json"
    content = json.loads(index.read_text())
    content["sessions"][0]["file"] = file
    index.write_text(json.dumps(content))
    with pytest.raises(InvalidFile, match="files of the store's own folder"):
        Store(tmp_path / "store")
    with StoreWriter(tmp_path / "other") as writer, pytest.raises(InvalidFile, match="files of the store's own folder"):
        writer.adopt(replace(session, file=file))


def test_fingerprint_follows_the_samples(tmp_path):
    prints = set()
    for number, seed in enumerate((0, 0, 1)):
        with StoreWriter(tmp_path / str(number)) as writer:
            writer.add_session("a", numbers(2, 10, seed), 1.0, ["A", "B"])
        prints.add(Store(tmp_path / str(number)).fingerprint)
    assert len(prints) == 2


def test_a_pickled_store_opens_its_own_maps(two_sessions):
    two_sessions.read(0)
    copy = pickle.loads(pickle.dumps(two_sessions))
    assert copy._maps == {}
    np.testing.assert_array_equal(copy.read(1), two_sessions.read(1))


def test_a_session_of_another_store_is_linked_with_its_facts(tmp_path, two_sessions):
    with StoreWriter(tmp_path / "union") as writer:
        writer.adopt(two_sessions.sessions[1], "renamed", {"subject": "01"})
        writer.adopt(two_sessions.sessions[0])
        with pytest.raises(InvalidValue, match="once"):
            writer.adopt(two_sessions.sessions[0])
    union = Store(tmp_path / "union")
    assert [session.name for session in union.sessions] == ["renamed", "long"]
    assert union.sessions[0].attrs == {"subject": "01"}
    np.testing.assert_array_equal(union.read("renamed"), two_sessions.read("short"))
    assert (union.folder / union.sessions[0].file).stat().st_nlink == 2
    shutil.rmtree(two_sessions.folder)
    np.testing.assert_array_equal(union.read("long"), numbers(3, 5000))


def test_a_session_is_copied_where_links_are_impossible(tmp_path, two_sessions, monkeypatch):
    def refused(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(module.os, "link", refused)
    with StoreWriter(tmp_path / "union") as writer:
        writer.adopt(two_sessions.sessions[1])
    np.testing.assert_array_equal(Store(tmp_path / "union").read(0), two_sessions.read("short"))


def test_opening_reads_the_index_alone_and_facts_when_they_are_asked_for(tmp_path, monkeypatch):
    with StoreWriter(tmp_path) as writer:
        for name in "ab":
            writer.add_session(
                name, numbers(2, 10), 1.0, ["A", "B"], [{"sample": 3}], {"subject": name, "steps": ["x"]}
            )
    read: list[int] = []
    line = module._Details.line
    monkeypatch.setattr(module._Details, "line", lambda self, *place: (read.append(place[0]), line(self, *place))[1])
    store = Store(tmp_path)
    assert [session.attrs["subject"] for session in store.sessions] == ["a", "b"]
    store.read(0)
    assert read == []
    assert store.sessions[0].attrs["steps"] == ["x"]
    assert store.sessions[0].events == ({"sample": 3},)
    assert len(read) == 1
    assert store.sessions[0].channels is store.sessions[1].channels
    assert len(read) == 2
    with pytest.raises(KeyError):
        store.sessions[1].attrs["unknown"]
    copy = pickle.loads(pickle.dumps(store))
    assert dict(copy.sessions[1].attrs) == {"subject": "b", "steps": ["x"]}


def test_damaged_details_are_one_sentence(two_sessions):
    path = two_sessions.folder / "details.jsonl"
    content = path.read_bytes()
    path.write_bytes(b"x" * len(content))
    with pytest.raises(InvalidFile, match=r"details\.jsonl: expected the details of a prepared store"):
        _ = Store(two_sessions.folder).sessions[0].channels
    path.write_bytes(content[:-1])
    with pytest.raises(InvalidFile, match=r"details\.jsonl: expected \d+ bytes"):
        Store(two_sessions.folder)
