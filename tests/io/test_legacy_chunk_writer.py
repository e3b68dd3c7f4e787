from __future__ import annotations

import numpy as np
import pytest

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.io.legacy_chunk_writer import write_chunks

NAMES = ["MEG0111", "MEG0112", "MEG0113"]
POS_2D = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])


def test_what_cannot_be_written_is_refused(tmp_path):
    data = np.ones((3, 8))
    with pytest.raises(InvalidValue, match="chunk_s"):
        write_chunks(tmp_path, data, 10.0, NAMES, [1, 1, 1], POS_2D, chunk_s=0.05)
    with pytest.raises(InvalidValue, match="bad_channels"):
        write_chunks(tmp_path, data, 10.0, NAMES, [1, 1, 1], POS_2D, bad_channels=["X"])
    with pytest.raises(ShapeMismatch, match="events"):
        write_chunks(tmp_path, data, 10.0, NAMES, [1, 1, 1], POS_2D, events=np.zeros(7))
    with pytest.raises(ShapeMismatch, match="data"):
        write_chunks(tmp_path, data[:2], 10.0, NAMES, [1, 1, 1], POS_2D)
    # The data that was given keeps its bad rows.
    write_chunks(tmp_path / "s", data, 10.0, NAMES, [1, 1, 1], POS_2D, bad_channels=["MEG0111"])
    assert data.all()
