"""Jobs side by side in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from brainlab.run.sweep import local
from brainlab.run.sweep.jobs import JobChange
from brainlab.run.sweep.local import LocalProcesses, gpus


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def watch(runner: LocalProcesses, jobs: Any, folder: Path) -> dict[int, JobChange]:
    ids = runner.submit(jobs, folder)
    return {change.number: change for change in runner.watch(ids, folder) if change.ended}


def seen(folder: Path, number: int) -> dict[str, Any]:
    return json.loads((folder / str(number) / "seen.json").read_text())


def test_each_end_is_told_and_siblings_keep_their_results(function, make_job, tmp_path) -> None:
    folder = tmp_path / "sweep"
    words = ["score", "raise", "kill", "score"]
    ends = watch(LocalProcesses(function, 2), [make_job(n, word) for n, word in enumerate(words)], folder)
    assert [ends[n].state for n in range(4)] == ["COMPLETED", "FAILED", "LOST", "COMPLETED"]
    assert (ends[0].score, ends[3].score) == (10.0, 13.0)
    assert ends[1].reason == "ValueError: asked to fail"
    assert ends[2].reason == "killed by signal 9, without leaving an outcome"
    assert all(change.log is not None and change.log.exists() for change in ends.values())
    assert len({seen(folder, n)["pid"] for n in range(4)} | {os.getpid()}) == 5


def test_no_more_jobs_run_at_a_time_than_were_asked_for(function, make_job, tmp_path) -> None:
    folder = tmp_path / "sweep"
    ends = watch(LocalProcesses(function, 2), [make_job(n, "0.3") for n in range(4)], folder)
    assert {change.state for change in ends.values()} == {"COMPLETED"}
    spans = [(seen(folder, n)["start"], float((folder / str(n) / "end.json").read_text())) for n in range(4)]
    assert max(sum(start <= moment < end for start, end in spans) for moment, _ in spans) <= 2


def test_each_job_has_a_gpu_of_its_own_while_it_runs(function, make_job, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-abc")
    folder, runner = tmp_path / "sweep", LocalProcesses(function)
    assert runner.parallel == 2
    watch(runner, [make_job(n, "0.3") for n in range(3)], folder)
    used = [seen(folder, n) for n in range(3)]
    assert {each["CUDA_VISIBLE_DEVICES"] for each in used[:2]} == {"3", "GPU-abc"}
    assert used[2]["CUDA_VISIBLE_DEVICES"] in ("3", "GPU-abc")


@pytest.mark.parametrize(
    ("visible", "found"),
    [("", []), ("-1", []), ("0", ["0"]), ("2, 5", ["2", "5"]), ("MIG-1,MIG-2", ["MIG-1", "MIG-2"])],
)
def test_visible_gpus_are_those_that_jobs_get(visible, found, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus() == found


def test_all_gpus_are_counted_where_none_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\necho 'GPU 0: A100 (UUID: GPU-1)'\necho 'GPU 1: A100 (UUID: GPU-2)'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert gpus() == ["0", "1"]
    monkeypatch.setenv("PATH", "/nowhere")
    assert gpus() == []


def test_cores_are_shared_unless_the_user_says_otherwise(function, make_job, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(local.os, "cpu_count", lambda: 12)
    folder = tmp_path / "sweep"
    assert LocalProcesses(function).parallel == 3
    watch(LocalProcesses(function, 2), [make_job(0)], folder)
    watch(LocalProcesses(function, 2, cpus_per_task=5), [make_job(1)], folder)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    watch(LocalProcesses(function, 2), [make_job(2)], folder)
    assert [seen(folder, n)["OMP_NUM_THREADS"] for n in range(3)] == ["6", "5", "1"]


def test_cancelled_jobs_end_and_those_that_waited_never_start(function, make_job, tmp_path) -> None:
    folder, runner = tmp_path / "sweep", LocalProcesses(function, 1)
    ids = runner.submit([make_job(0, "60"), make_job(1)], folder)
    changes = []
    for change in runner.watch(ids, folder):
        changes.append(change)
        if change.state == "RUNNING":
            wait_for(folder / "0" / "seen.json")
            runner.cancel(ids)
    assert sorted((change.number, change.state) for change in changes) == [
        (0, "CANCELLED"), (0, "RUNNING"), (1, "CANCELLED"),
    ]  # fmt: skip
    assert not (folder / "1").exists()


def test_jobs_end_when_nobody_watches_them_any_more(function, make_job, tmp_path) -> None:
    folder, runner = tmp_path / "sweep", LocalProcesses(function, 2)
    watching = runner.watch(runner.submit([make_job(0, "60"), make_job(1, "60")], folder), folder)
    assert [next(watching).state, next(watching).state] == ["RUNNING", "RUNNING"]
    for number in (0, 1):
        wait_for(folder / str(number) / "seen.json")
    watching.close()
    assert not any(alive(seen(folder, number)["pid"]) for number in (0, 1))


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel to tell of a parent's end")
def test_jobs_end_with_a_sweep_that_is_killed(function, make_job, tmp_path) -> None:
    folder = tmp_path / "sweep"
    LocalProcesses(function, 1).submit([make_job(0, "60")], folder)
    code = (
        "import subprocess, sys, time; subprocess.Popen([sys.executable, '-m', 'brainlab.run.sweep.work', '--local',"
        " sys.argv[1], '0'], start_new_session=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(folder)])
    wait_for(folder / "0" / "seen.json")
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    end = time.monotonic() + 20
    while alive(seen(folder, 0)["pid"]):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_sweep_may_grow_while_it_is_watched(function, make_job, tmp_path) -> None:
    folder, runner = tmp_path / "sweep", LocalProcesses(function, 1)
    ids, ended = runner.submit([make_job(0)], folder), []
    for change in runner.watch(ids, folder):
        if change.ended:
            ended.append(change.number)
            if change.number == 0:
                ids.update(runner.submit([make_job(1)], folder))
    assert ended == [0, 1]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(path: Path, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} does not appear"
        time.sleep(0.05)
