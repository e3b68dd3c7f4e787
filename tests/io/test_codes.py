"""Codes on disk: frame by frame, read by the sample a window begins at."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from brainlab.errors import InvalidFile, InvalidValue, ShapeMismatch
from brainlab.io.codes import CodeStore, CodeWriter


def written(folder: Path, vocab_size: int = 300) -> tuple[CodeStore, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    runs = [rng.integers(0, vocab_size, (n, 2, 3)) for n in (10, 0, 6, 8)]
    with CodeWriter(folder, hop=4, n_sites=2, n_levels=3, vocab_size=vocab_size) as writer:
        writer.add_session("a", [(5, runs[0]), (50, runs[1]), (60, runs[2])])
        writer.add_session("b", [(0, runs[3])])
    return CodeStore(folder), runs


@pytest.mark.parametrize(("vocab_size", "width"), [(300, 2), (1 << 16, 2), ((1 << 16) + 1, 4)])
def test_codes_come_back_as_they_were(tmp_path: Path, vocab_size: int, width: int) -> None:
    store, runs = written(tmp_path, vocab_size)
    np.testing.assert_array_equal(store.read(0, 5, 10), runs[0])
    np.testing.assert_array_equal(store.read(0, 60 + 8, 3), runs[2][2:5])
    assert store.read(1, 0, 8).dtype == np.int64
    assert (tmp_path / "00001.codes").stat().st_size == 8 * 6 * width
    batch = store.gather(np.array([1, 0, 0]), np.array([2, 3, 10]), 4)
    np.testing.assert_array_equal(batch, np.stack([runs[3][2:6], runs[0][3:7], runs[2][:4]]))
    assert [store.sample_of(0, frame) for frame in (0, 9, 10)] == [5, 41, 60]


def test_a_window_begins_on_a_frame_and_stays_in_its_segment(tmp_path: Path) -> None:
    store, _ = written(tmp_path)
    with pytest.raises(InvalidValue, match=r"start=6: expected the first sample of a frame"):
        store.read(0, 6, 1)
    with pytest.raises(InvalidValue, match="start=50"):
        store.read(0, 50, 1)
    with pytest.raises(InvalidValue, match="n_frames=11"):
        store.read(0, 5, 11)
    with pytest.raises(InvalidValue, match=r"frames=\(14, 4\)"):
        store.gather(np.array([0]), np.array([14]), 4)


def test_what_is_no_code_is_refused(tmp_path: Path) -> None:
    with CodeWriter(tmp_path, hop=4, n_sites=1, n_levels=1, vocab_size=8) as writer:
        with pytest.raises(InvalidValue, match="code=8: expected 0 to 7"):
            writer.add_session("a", [(0, np.full((2, 1, 1), 8))])
        with pytest.raises(ShapeMismatch, match="codes"):
            writer.add_session("a", [(0, np.zeros((2, 1, 2), int))])
        with pytest.raises(InvalidValue, match="segment=4: expected it after sample 8"):
            writer.add_session("a", [(0, np.zeros((2, 1, 1), int)), (4, np.zeros((2, 1, 1), int))])


def test_a_cut_file_another_version_and_no_store_are_one_sentence_each(tmp_path: Path) -> None:
    written(tmp_path)
    file = tmp_path / "00000.codes"
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(InvalidFile, match="expected 192 bytes, found 190"):
        CodeStore(tmp_path)
    content = json.loads((tmp_path / "codes.json").read_text())
    (tmp_path / "codes.json").write_text(json.dumps({**content, "version": 99}))
    with pytest.raises(InvalidFile, match="version 1"):
        CodeStore(tmp_path)
    with pytest.raises(InvalidFile, match="index of a store of codes"):
        CodeStore(tmp_path / "nowhere")


def test_codes_outside_the_vocabulary_are_refused_when_they_are_read(tmp_path: Path) -> None:
    store, _ = written(tmp_path)
    file = tmp_path / store.sessions[0].file
    file.write_bytes(b"\xff" * file.stat().st_size)
    start = store.sessions[0].segments[0][0]
    with pytest.raises(InvalidFile, match=rf"{file.name}: expected 0 to 299, found 65535.*delete the folder"):
        CodeStore(tmp_path).read(0, start, 1)


def test_the_fingerprint_is_that_of_the_codes(tmp_path: Path) -> None:
    first, _ = written(tmp_path / "a")
    again, _ = written(tmp_path / "b")
    other, _ = written(tmp_path / "c", 301)
    assert first.fingerprint == again.fingerprint != other.fingerprint
