"""A run whose disk fills up: one sentence, a status that says so, and the same command goes on once there is room."""

from __future__ import annotations

import errno
import json
import os

import pytest
from launch import tiny_config

from brainlab.errors import InvalidFile
from brainlab.io.atomic import overwrite
from brainlab.run.checkpoint import writing
from brainlab.run.directory import RunDirectory, without_room, write_json
from brainlab.run.execute import execute


def test_a_full_disk_is_one_sentence_and_the_same_command_goes_on_when_there_is_room(tmp_path, small_disk):
    run = small_disk("2m") / "run"
    cfg = tiny_config(tmp_path, "model.width=200000")  # its checkpoints take more
    with pytest.raises(InvalidFile, match=r"run directory=.*room on the disk to write checkpoints/last\.ckpt .*Hint"):
        execute(cfg, folder=run, overrides=[])
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["exit"]) == ("FAILED", 1)
    assert "No space left on device" in status["error"]
    assert "No space left on device" in (run / "stderr.txt").read_text()
    assert list((run / "checkpoints").iterdir()) == []
    small_disk("200m")
    assert execute(cfg, folder=run, overrides=[]) is not None
    assert json.loads((run / "status.json").read_text())["state"] == "COMPLETED"


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_state_is_written_over_the_last_one_where_no_copy_fits(tmp_path, monkeypatch):
    file = tmp_path / "status.json"
    write_json(file, {"state": "RUNNING", "note": "x" * 50})
    monkeypatch.setattr("brainlab.io.atomic.os.replace", full)
    with pytest.raises(OSError, match=r"No space left on device: .*status\.json"):
        write_json(file, {"state": "FAILED"})
    for content in ({"state": "FAILED"}, {"state": "FAILED", "error": "y" * 500}):
        write_json(file, content, in_place=True)
        assert json.loads(file.read_text()) == content
    assert list(tmp_path.iterdir()) == [file]


def test_writing_over_a_file_needs_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        overwrite(tmp_path / "status.json", "{}")


def test_half_a_checkpoint_gives_its_room_back_and_its_error_names_the_file(tmp_path):
    temporary = tmp_path / ".last.ckpt.tmp"
    temporary.write_bytes(b"half")
    with pytest.raises(OSError, match=r"last\.ckpt'$") as caught, writing(temporary, tmp_path / "last.ckpt"):
        full()
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/elsewhere/file"),
        OSError(errno.EACCES, "Permission denied"),
        ValueError("No space left on device"),
        InvalidFile("cache", "/elsewhere", "expected room to write, but the disk is full"),
    ],
    ids=["another disk", "another reason", "no error of writing", "said already"],
)
def test_an_error_that_the_run_directory_did_not_cause_stays_what_it_is(tmp_path, error):
    assert without_room(error, RunDirectory(tmp_path)) is error
