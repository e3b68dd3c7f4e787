from __future__ import annotations

import json
import multiprocessing
import pickle

import lmdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainlab.errors import InvalidFile, InvalidValue, ShapeMismatch
from brainlab.io import records as module
from brainlab.io.records import Records, write_records

SCHEMA = {"eeg": ("f4", (3, 50)), "target": (np.float32, (16,)), "label": ("i8", ())}


def columns(n: int = 23) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "eeg": rng.standard_normal((n, 3, 50)).astype(np.float32),
        "target": rng.standard_normal((n, 16)).astype(np.float32),
        "label": np.arange(n),
    }


@pytest.fixture
def written(tmp_path):
    return write_records(tmp_path / "r", SCHEMA, columns(), {"sfreq_hz": 200.0}, {"train": 20, "val": [22, 20]})


def test_records_come_back_in_any_order_contiguous_and_typed(written):
    records, expected = Records(written), columns()
    indices = np.random.default_rng(1).permutation(23)[:9]
    batch = records.gather(indices)
    for name, column in expected.items():
        np.testing.assert_array_equal(batch[name], column[indices])
        assert batch[name].flags.c_contiguous
        assert batch[name].dtype == SCHEMA[name][0]
    assert records.gather([3], ["label"]).keys() == {"label"}
    assert len(records) == 23
    assert records.header == {"sfreq_hz": 200.0}
    assert records.splits["train"].tolist() == list(range(20))
    assert records.splits["val"].tolist() == [22, 20]


def test_a_batch_stays_as_it_is_while_others_are_read(written):
    records, expected = Records(written), columns()
    kept = [records.gather([k] * 400)["eeg"] for k in range(8)]
    for k, batch in enumerate(kept):
        np.testing.assert_array_equal(batch, np.stack([expected["eeg"][k]] * 400))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.data())
def test_blocks_of_any_size_hold_any_number_of_examples(n, block_examples, data):
    import tempfile

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK_BYTES", 4 * block_examples)
        write_records(folder, {"x": ("i4", ())}, {"x": np.arange(n)})
        indices = data.draw(st.lists(st.integers(0, n - 1), max_size=20))
        assert Records(folder).gather(indices)["x"].tolist() == indices


def test_rows_from_a_generator_equal_columns(tmp_path, written, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_BYTES", 4000)
    expected = columns()
    rows = ({name: column[k] for name, column in expected.items()} for k in range(23))
    records = Records(write_records(tmp_path / "rows", SCHEMA, rows))
    np.testing.assert_array_equal(records.gather(range(23))["eeg"], expected["eeg"])


def test_the_map_grows_with_the_data(tmp_path):
    big = np.random.default_rng(0).standard_normal((9, 1 << 20)).astype(np.float32)
    records = Records(write_records(tmp_path / "r", {"x": ("f4", (1 << 20,))}, {"x": big}))
    np.testing.assert_array_equal(records.gather([8, 0])["x"], big[[8, 0]])


def test_two_readers_of_one_file_and_pickled_readers_agree(written):
    first, second = Records(written), Records(written)
    third = pickle.loads(pickle.dumps(first))
    for reader in (first, second, third):
        assert reader.gather([5])["label"].tolist() == [5]


def label_of(records: Records, index: int, queue) -> None:
    queue.put(int(records.gather([index])["label"][0]))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_what_the_parent_opened(written, method):
    records = Records(written)
    records.gather([0])
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=label_of, args=(records, 7, queue))
    process.start()
    assert queue.get(timeout=60) == 7
    process.join(60)


def test_a_read_only_folder_without_lock_file_is_enough(written):
    assert not (written / "lock.mdb").exists()
    written.chmod(0o555)
    try:
        assert len(Records(written)) == 23
    finally:
        written.chmod(0o755)


@pytest.mark.parametrize("keep", [0, 10, 100, 5000, 0.3, 0.9, -1])
def test_a_truncated_file_is_refused_instead_of_killing_the_process(tmp_path, keep):
    path = write_records(tmp_path / "r", SCHEMA, columns(500))
    raw = (path / "data.mdb").read_bytes()
    size = int(keep * len(raw)) if isinstance(keep, float) else (len(raw) + keep if keep < 0 else keep)
    (path / "data.mdb").write_bytes(raw[:size])
    with pytest.raises(InvalidFile, match=r"data\.mdb"):
        Records(path)


def test_a_missing_or_foreign_environment_is_refused(tmp_path):
    with pytest.raises(InvalidFile, match="readable"):
        Records(tmp_path / "none")
    (tmp_path / "data.mdb").write_bytes(b"x" * 20000)
    with pytest.raises(InvalidFile, match="something else"):
        Records(tmp_path)
    with lmdb.open(str(tmp_path / "other")) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"meta_info", b"?")
    with pytest.raises(InvalidFile, match="no header of ours"):
        Records(tmp_path / "other")
    with lmdb.open(str(tmp_path / "other")) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"header", json.dumps({"format": "brainlab-records", "version": 99}).encode())
    with pytest.raises(InvalidFile, match="version"):
        Records(tmp_path / "other")


def test_wrong_shapes_fields_numbers_and_values_are_refused(tmp_path, written):
    good = columns()
    with pytest.raises(ShapeMismatch, match="eeg"):
        write_records(tmp_path / "1", SCHEMA, good | {"eeg": good["eeg"][:, :2]})
    with pytest.raises(ShapeMismatch, match="label"):
        write_records(tmp_path / "2", SCHEMA, good | {"label": good["label"][:3]})
    with pytest.raises(InvalidValue, match="fields"):
        write_records(tmp_path / "3", SCHEMA, {"eeg": good["eeg"]})
    good["target"][7, 3] = np.nan
    with pytest.raises(InvalidValue, match=r"target.*example 7"):
        write_records(tmp_path / "4", SCHEMA, good)
    with pytest.raises(InvalidValue, match="index"):
        Records(written).gather([23])
    with pytest.raises(InvalidValue, match="index"):
        Records(written).gather([-1])
    with pytest.raises(InvalidValue, match="field"):
        Records(written).gather([0], ["nothing"])
    with pytest.raises(InvalidValue, match="dtype"):
        write_records(tmp_path / "5", {"x": (object, ())}, {"x": np.zeros(1)})
    with pytest.raises(InvalidValue, match="splits"):
        write_records(tmp_path / "6", SCHEMA, columns(), splits={"train": [23]})
