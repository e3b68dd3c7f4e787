from __future__ import annotations

import os

import pytest
import torch

from brainlab.errors import InvalidFile
from brainlab.io.torch_file import load_torch


class Runs:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_and_containers_come_back_from_both_formats(tmp_path, zipped):
    content = {"a": torch.arange(5.0), "half": torch.ones(2, dtype=torch.float16), "names": ["x"], "n": 3}
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    found = load_torch(tmp_path / "x.pt")
    assert torch.equal(found["a"], content["a"])
    assert found["half"].dtype == torch.float16
    assert found["names"] == ["x"]


def test_a_file_that_runs_code_is_refused(tmp_path):
    torch.save({"a": Runs(f"touch {tmp_path / 'was_run'}")}, tmp_path / "x.pt")
    with pytest.raises(InvalidFile, match=r"x\.pt.*nothing of it was run.*system") as error:
        load_torch(tmp_path / "x.pt")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.95])
def test_truncated_files_are_refused_in_one_sentence(tmp_path, keep):
    torch.save({"a": torch.randn(5000)}, tmp_path / "x.pt")
    raw = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(raw[: int(keep * len(raw)) if isinstance(keep, float) else keep])
    with pytest.raises(InvalidFile, match=r"x\.pt") as error:
        load_torch(tmp_path / "x.pt")
    assert "\n" not in str(error.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InvalidFile, match="existing"):
        load_torch(tmp_path / "x.pt")
