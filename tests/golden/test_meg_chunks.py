"""The chunk writer against the reference's own chunks."""

from __future__ import annotations

import json

import numpy as np
import pytest

from brainlab.io.legacy_chunk_reader import read_chunk_tree
from brainlab.io.legacy_chunk_writer import write_chunks
from brainlab.io.safe_pickle import load_npy


@pytest.fixture
def reference(golden_dir):
    return json.loads((golden_dir / "meg/14_chunking.json").read_text())["result"]


def test_files_lengths_keys_and_rows_are_the_references(reference, tmp_path):
    data = np.random.default_rng(0).standard_normal((2, 15050))
    events = np.zeros(15050, dtype=int)
    events[7000:7100] = 208
    written = write_chunks(
        tmp_path / "sub-01_rest", data, 100.0, ["A", "B"], ["mag", "mag"], np.zeros((2, 2)), bad_channels=["B"],
        events=events,
    )  # fmt: skip
    assert [path.name for path in written] == reference["files"]
    chunks = [load_npy(path) for path in written]
    assert [list(chunk["data"].shape) for chunk in chunks] == reference["lengths"]
    assert {str(chunk["data"].dtype) for chunk in chunks} == {reference["dtype"]}
    assert sorted(chunks[0]) == reference["keys"]
    joined = np.concatenate([chunk["data"] for chunk in chunks], axis=1)
    np.testing.assert_array_equal(joined[0], data[0])
    assert reference["bad_row_zeroed"]
    assert not joined[1].any()
    assert reference["last_row_is_event"]
    np.testing.assert_array_equal(joined[2], events)

    (session,) = read_chunk_tree(tmp_path)
    assert session.segments == [[0, 6000], [6000, 12000], [12000, 15050]]
    np.testing.assert_array_equal(session.read(0, 15050), joined[:2])
    assert session.conditions() == [[7000, 7100, 208]]
