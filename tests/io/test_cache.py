from __future__ import annotations

import errno
import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from brainlab.errors import InvalidFile, InvalidValue
from brainlab.io.cache import Cache, fingerprint_files
from brainlab.io.store import Store, StoreWriter


def write_one(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "result.txt").write_text("done")


def contents(root: Path) -> set[str]:
    return {path.name for path in root.rglob("*") if not path.name.endswith(".lock")} if root.exists() else set()


def test_a_result_is_built_once_and_found_again(tmp_path):
    calls = []

    def build(folder: Path) -> None:
        calls.append(folder)
        write_one(folder)

    cache = Cache(tmp_path)
    first = cache.get("step", {"a": 1}, {"x": "f"}, build)
    assert cache.get("step", {"a": 1}, {"x": "f"}, build) == first
    assert len(calls) == 1
    assert first == tmp_path / "step" / cache.key("step", {"a": 1}, {"x": "f"})
    assert (first / "sub" / "result.txt").read_text() == "done"
    manifest = json.loads((first / "manifest.json").read_text())
    assert manifest["recipe"] == {"a": 1}
    assert manifest["files"] == {"sub/result.txt": 4}


def test_every_change_of_kind_recipe_or_input_gives_another_key(tmp_path):
    cache = Cache(tmp_path)
    keys = {
        cache.key("step", {"a": 1}, {"x": "f"}),
        cache.key("other", {"a": 1}, {"x": "f"}),
        cache.key("step", {"a": 2}, {"x": "f"}),
        cache.key("step", {"a": 1.5}, {"x": "f"}),
        cache.key("step", {"a": True}, {"x": "f"}),
        cache.key("step", {"a": 1}, {"x": "g"}),
        cache.key("step", {"a": 1, "b": None}, {"x": "f"}),
    }
    assert len(keys) == 7
    assert cache.key("step", {"a": 1, "b": 2}) == cache.key("step", {"b": 2, "a": 1})


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, Path("x"), np.float32(1)])
def test_a_recipe_that_json_cannot_hold_exactly_is_refused(tmp_path, value):
    with pytest.raises(InvalidValue, match="recipe"):
        Cache(tmp_path).key("step", {"a": value})


def test_a_failed_build_leaves_nothing_and_its_error_passes(tmp_path):
    def build(folder: Path) -> None:
        write_one(folder)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        Cache(tmp_path).get("step", {}, {}, build)
    assert contents(tmp_path) == {"step"}


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("25600 requested and 1024 written"),
        OSError("Not enough free space to write 25600000 bytes after offset 128"),
        RuntimeError("mdb_put: No space left on device"),
    ],
    ids=["operating system", "numpy short write", "numpy before writing", "lmdb"],
)
def test_a_full_disk_is_one_sentence_with_the_way_out_and_leaves_nothing(tmp_path, error):
    def build(folder: Path) -> None:
        write_one(folder)
        raise error

    with pytest.raises(InvalidFile) as caught:
        Cache(tmp_path).get("step", {}, {}, build)
    text = str(caught.value)
    assert str(tmp_path) in text
    assert "disk is full" in text
    assert "BRAINLAB_CACHE" in text
    assert "paths.cache" in text
    assert "\n" not in text
    assert contents(tmp_path) == {"step"}


def test_a_root_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidFile, match="BRAINLAB_CACHE"):
        Cache(tmp_path / "file" / "cache").get("step", {}, {}, write_one)


def build_slowly(root: str, log: str) -> None:
    def build(folder: Path) -> None:
        with open(log, "a") as stream:
            stream.write("built\n")
        time.sleep(0.3)
        write_one(folder)

    Cache(root).get("step", {"a": 1}, {}, build)


def test_processes_that_start_together_build_once(tmp_path):
    context = multiprocessing.get_context("fork")
    arguments = (str(tmp_path / "cache"), str(tmp_path / "log"))
    processes = [context.Process(target=build_slowly, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / "log").read_text() == "built\n"


def die_while_building(root: str, recipe: dict) -> None:
    def build(folder: Path) -> None:
        write_one(folder)
        os.kill(os.getpid(), signal.SIGKILL)

    Cache(root).get("step", recipe, {}, build)


@pytest.mark.parametrize("recipe", [{"a": 1}, {"a": 2}], ids=["same key", "other key"])
def test_what_a_killed_build_left_is_cleaned_by_the_next(tmp_path, recipe):
    process = multiprocessing.get_context("fork").Process(target=die_while_building, args=(str(tmp_path), {"a": 1}))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert any(".tmp-" in name for name in contents(tmp_path))
    path = Cache(tmp_path).get("step", recipe, {}, write_one)
    assert contents(tmp_path) == {"step", path.name, "manifest.json", "sub", "result.txt"}


def test_a_damaged_result_is_named_with_the_way_out(tmp_path):
    path = Cache(tmp_path).get("step", {}, {}, write_one)
    (path / "sub" / "result.txt").write_text("do")
    with pytest.raises(InvalidFile, match=r"result\.txt.*4 bytes, found 2.*delete the folder"):
        Cache(tmp_path).get("step", {}, {}, write_one)


def overwrite(path: Path, raw: bytes) -> None:
    with open(path, "r+b") as stream:
        stream.write(raw)
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 10**9))  # whatever the grain of this file system's clock


def test_overwritten_data_of_the_same_length_are_named_with_the_way_out(tmp_path):
    path = Cache(tmp_path).get("step", {}, {}, write_one)
    overwrite(path / "sub" / "result.txt", b"dome")
    for _ in range(2):
        with pytest.raises(InvalidFile, match=r"result\.txt: expected the content that was written.*delete the folder"):
            Cache(tmp_path).get("step", {}, {}, write_one)


def test_a_copied_result_is_hashed_once_and_used(tmp_path, monkeypatch):
    path = Cache(tmp_path).get("step", {}, {}, write_one)
    overwrite(path / "sub" / "result.txt", b"done")
    assert Cache(tmp_path).get("step", {}, {}, write_one) == path
    monkeypatch.setattr("hashlib.file_digest", None)
    assert Cache(tmp_path).get("step", {}, {}, write_one) == path


@pytest.mark.parametrize("contents", [None, {"sub/result.txt": 3}, []], ids=["earlier version", "damaged", "no map"])
def test_a_result_without_hashes_is_used_or_refused_in_one_sentence(tmp_path, contents):
    path = Cache(tmp_path).get("step", {}, {}, write_one)
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["contents"]
    if contents is not None:
        manifest["contents"] = contents
    (path / "manifest.json").write_text(json.dumps(manifest))
    if contents is None:
        assert Cache(tmp_path).get("step", {}, {}, write_one) == path
    else:
        with pytest.raises(InvalidFile, match=r"readable manifest.*delete the folder"):
            Cache(tmp_path).get("step", {}, {}, write_one)


def test_samples_shared_by_two_stores_are_guarded_in_both_and_not_hashed_again(tmp_path, monkeypatch):
    def one(folder: Path) -> None:
        with StoreWriter(folder) as writer:
            writer.add_session("a", np.zeros((2, 9), np.float32), 10.0, ["Cz", "Pz"])

    def union(folder: Path) -> None:
        with StoreWriter(folder) as writer:
            writer.adopt(Store(source).sessions[0])

    cache, hashed = Cache(tmp_path), []
    digest = hashlib.file_digest
    monkeypatch.setattr("hashlib.file_digest", lambda stream, kind: hashed.append(stream.name) or digest(stream, kind))
    source = cache.get("one", {}, {}, one)
    united = cache.get("united", {}, {}, union)
    assert {Path(name).name for name in hashed} == {"index.json"}
    assert (source / "00000.f32").stat().st_ino == (united / "00000.f32").stat().st_ino
    overwrite(source / "00000.f32", np.float32(np.nan).tobytes())
    for kind, build, here, other in (("one", one, source, united), ("united", union, united, source)):
        with pytest.raises(InvalidFile, match=rf"{here}/00000\.f32: .*delete the folder {here} and {other} and run"):
            cache.get(kind, {}, {}, build)
    for folder in (source, united):
        shutil.rmtree(folder)
    assert cache.get("one", {}, {}, one) == source
    assert cache.get("united", {}, {}, union) == united


def test_a_result_in_a_read_only_root_is_read(tmp_path):
    path = Cache(tmp_path).get("step", {}, {}, write_one)
    for folder in (path.parent, tmp_path):
        folder.chmod(0o555)
    try:
        assert Cache(tmp_path).get("step", {}, {}, write_one) == path
    finally:
        for folder in (path.parent, tmp_path):
            folder.chmod(0o755)


def test_fingerprint_follows_content_and_name_but_neither_place_nor_order(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text("1")
        (tmp_path / name / "b").write_text("2")
    one = [tmp_path / "one" / "a", tmp_path / "one" / "b"]
    two = [tmp_path / "two" / "b", tmp_path / "two" / "a"]
    same = fingerprint_files(one, tmp_path / "one")
    assert same == fingerprint_files(two, tmp_path / "two")
    (tmp_path / "two" / "b").write_text("3")
    assert same != fingerprint_files(two, tmp_path / "two")
    with pytest.raises(InvalidFile, match="missing"):
        fingerprint_files([tmp_path / "missing"], tmp_path)


def test_fingerprint_is_remembered_for_files_at_rest_and_forgotten_when_they_change(tmp_path, monkeypatch):
    file = tmp_path / "a"
    file.write_text("1")
    cache = Cache(tmp_path / "cache")
    first = cache.fingerprint_files([file], tmp_path)
    assert not (cache.root / "fingerprints").exists()  # changed a moment ago: not yet trusted
    monkeypatch.setattr("brainlab.io.cache.time.time", lambda: file.stat().st_ctime + 10)
    assert cache.fingerprint_files([file], tmp_path) == first
    assert len(list((cache.root / "fingerprints").iterdir())) == 1
    monkeypatch.setattr("hashlib.file_digest", None)
    assert cache.fingerprint_files([file], tmp_path) == first
    monkeypatch.undo()
    file.write_text("2")
    assert cache.fingerprint_files([file], tmp_path) != first


def test_waiting_for_another_run_is_said(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("brainlab.io.cache._LOCK_HINT_S", 0.05)
    context = multiprocessing.get_context("fork")
    process = context.Process(target=build_slowly, args=(str(tmp_path / "cache"), str(tmp_path / "log")))
    process.start()
    while not (tmp_path / "log").exists():
        time.sleep(0.01)
    with caplog.at_level(logging.INFO):
        Cache(tmp_path / "cache").get("step", {"a": 1}, {}, write_one)
    process.join(60)
    assert "Waiting for another run" in caplog.text
