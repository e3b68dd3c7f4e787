from __future__ import annotations

import os
import pickle

import lmdb
import numpy as np
import pytest

from brainlab.errors import InvalidFile
from brainlab.io.legacy_records import LegacyRecords, convert_legacy
from brainlab.io.records import Records

META = {"eeg_take_mean": False, "split_ratios": {"train": 0.8}, "nsd_subjects": ["sub-01", "sub-02"], "split_seed": 42}
KEYS = ["train_00000_00000", "train_00000_00001", "val_00001_00000", "test_00002_00000"]


def pair(number: int) -> dict:
    rng = np.random.default_rng(number)
    return {
        "eeg": rng.standard_normal((1, 63, 20)).astype(np.float32),
        "nsd_data": [
            {"subject": s, "fmri": rng.standard_normal((1, 8)).astype(np.float32), "nsd_img_idx": 100 * k + number}
            for k, s in enumerate(["sub-01", "sub-02"])
        ],
        "label": number % 5,
        "things_img_idx": np.int64(number + 7),
    }


def write(path, entries: dict[str, object]):
    with lmdb.open(str(path), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for key, value in entries.items():
            transaction.put(key.encode(), pickle.dumps(value))
    return path


def test_pairs_are_enumerated_by_part_and_converted(tmp_path):
    write(tmp_path / "old", {"meta_info": META} | {key: pair(k) for k, key in enumerate(KEYS)})
    old = LegacyRecords(tmp_path / "old")
    assert {part: len(keys) for part, keys in old.keys.items()} == {"train": 2, "val": 1, "test": 1}
    assert old.meta == META
    new = Records(convert_legacy(tmp_path / "old", tmp_path / "new"))
    assert new.header["nsd_subjects"] == ["sub-01", "sub-02"]
    assert new.header["meta"] == META
    assert {part: numbers.tolist() for part, numbers in new.splits.items()} == {
        "train": [0, 1],
        "val": [2],
        "test": [3],
    }
    batch = new.gather([3, 0])
    for row, number in enumerate([3, 0]):
        expected = pair(number)
        np.testing.assert_array_equal(batch["eeg"][row], expected["eeg"])
        np.testing.assert_array_equal(batch["fmri"][row], np.stack([e["fmri"] for e in expected["nsd_data"]]))
        assert batch["nsd_img_idx"][row].tolist() == [e["nsd_img_idx"] for e in expected["nsd_data"]]
        assert batch["things_img_idx"][row] == expected["things_img_idx"]
        assert batch["label"][row] == expected["label"]


def test_the_older_flat_form_is_one_subject(tmp_path):
    flat = pair(0)
    entry = flat.pop("nsd_data")[0]
    write(tmp_path / "old", {"meta_info": {}, KEYS[0]: flat | {"fmri": entry["fmri"], "nsd_img_idx": 5}})
    example = next(iter(LegacyRecords(tmp_path / "old")))
    assert [e["subject"] for e in example["nsd_data"]] == ["legacy_single_subject"]
    assert example["nsd_data"][0]["nsd_img_idx"] == 5


def test_clip_and_pretraining_sets_are_converted(tmp_path):
    clip = {
        "eeg": np.zeros((1, 63, 20), np.float32),
        "clip_H_cls_embedding": np.ones(8, np.float32),
        "things_img_idx": 3,
    }
    write(tmp_path / "clip", {"meta_info": {"target_freq": 200}, KEYS[0]: clip})
    assert Records(convert_legacy(tmp_path / "clip", tmp_path / "c")).gather([0])["clip_H_cls_embedding"].shape == (
        1,
        8,
    )
    sample = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    write(tmp_path / "pre", {"__keys__": ["a", "b"], "a": sample, "b": sample + 1})
    np.testing.assert_array_equal(
        Records(convert_legacy(tmp_path / "pre", tmp_path / "p")).gather([1])["sample"][0], sample + 1
    )
    write(
        tmp_path / "fine",
        {
            "__keys__": {"train": ["a"], "val": ["b"]},
            "a": {"sample": sample, "label": 2},
            "b": {"sample": sample, "label": 4},
        },
    )
    fine = Records(convert_legacy(tmp_path / "fine", tmp_path / "f"))
    assert fine.gather([0, 1])["label"].tolist() == [2, 4]
    assert fine.splits["val"].tolist() == [1]


class Runs:
    def __reduce__(self):
        return os.system, ("true",)


def test_a_value_that_runs_code_is_refused_with_file_and_key(tmp_path):
    write(tmp_path / "old", {"meta_info": META, KEYS[0]: pair(0) | {"label": Runs()}})
    with pytest.raises(InvalidFile, match=rf"old, key {KEYS[0]}.*posix\.system"):
        list(LegacyRecords(tmp_path / "old"))


def test_other_content_is_refused(tmp_path):
    write(tmp_path / "none", {"x": 1})
    with pytest.raises(InvalidFile, match="meta_info or __keys__"):
        LegacyRecords(tmp_path / "none")
    write(tmp_path / "empty", {"meta_info": {}})
    with pytest.raises(InvalidFile, match="at least one"):
        LegacyRecords(tmp_path / "empty")
    changed = pair(1)
    changed["eeg"] = changed["eeg"][:, :62]
    write(tmp_path / "mixed", {"meta_info": {}, KEYS[0]: pair(0), KEYS[1]: changed})
    with pytest.raises(InvalidFile, match="same fields and shapes"):
        convert_legacy(tmp_path / "mixed", tmp_path / "m")
