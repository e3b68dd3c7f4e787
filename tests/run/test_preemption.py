"""A run that is told to leave saves what it has, says so, and goes on elsewhere as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kill_resume import compare, tracked

_HERE = Path(__file__).parent
_SLOWLY = ("model.sleep_s=0.05", "callbacks.last.every_n_steps=null", "logger=mlflow")


def _start(root: Path, *words: str, script: str = "launcher_stand_in.py", **more: str) -> subprocess.Popen[bytes]:
    root.mkdir(exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **more}
    with (root / "out.txt").open("a") as stream:
        return subprocess.Popen(
            [sys.executable, str(_HERE / script), str(root), *words], env=environment, stdout=stream,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def _until(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, "ended too early"
        assert time.monotonic() < deadline, "did not get there"
        time.sleep(0.005)


def _traced(trace: Path) -> list[list[Any]]:
    return [json.loads(line) for line in trace.read_text().splitlines()] if trace.exists() else []


def _finish(root: Path, *words: str) -> None:
    process = _start(root, *words)
    assert process.wait(timeout=300) == 0, (root / "out.txt").read_text()[-3000:]


def _kept(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "kept.jsonl").read_text().splitlines()]


def _status(root: Path) -> dict[str, Any]:
    return json.loads((root / "run" / "status.json").read_text())


def _same(one: Path, other: Path) -> dict[str, Any]:
    found = compare(one / "run", other / "run")
    assert all(value for key, value in found.items() if key.endswith(("_equal", "_step"))), found
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, left alone."""
    root = tmp_path_factory.mktemp("alone")
    _finish(root, *_SLOWLY, f"model.trace={root / 'trace'}")
    return root


@pytest.fixture
def trace(alone: Path) -> Path:
    """Where the batches of a run are noted that must equal the one left alone, of whose settings it is one."""
    (alone / "trace").unlink(missing_ok=True)
    return alone / "trace"


@pytest.mark.parametrize("workers", [0, 2])
def test_preempted_twice_it_loses_no_batch_and_ends_the_same(
    tmp_path: Path, alone: Path, trace: Path, workers: int
) -> None:
    root = tmp_path / "moved"
    words = (*_SLOWLY, f"model.trace={trace}", f"data.num_workers={workers}")
    for batches in (6, 22):
        process = _start(root, *words)
        _until(process, lambda n=batches: len(_traced(trace)) >= n)
        os.killpg(process.pid, signal.SIGUSR2)  # to workers as well, as a scheduler may do
        assert process.wait(timeout=60) == 3, (root / "out.txt").read_text()[-3000:]
    _finish(root, *words)

    kept = _kept(root)
    assert [found["state"] for found in kept] == ["PREEMPTED", "PREEMPTED"]
    assert [found["exit"] for found in kept] == ["preempted", "preempted"]
    found = _same(alone, root)
    assert found["attempts"] == 3
    # Every batch was trained once: the checkpoint is that of the very moment.
    assert [(epoch, batch) for epoch, batch, _ in _traced(trace)] == [(e, b) for e in range(3) for b in range(15)]
    assert found["resumed_at"] == ["resumed at epoch {}, batch {}".format(*at["position"]) for at in kept]
    assert all(tracked(root / "run").values())
    log = (root / "run" / "brainlab.log").read_text()
    assert log.count("preempted; this run goes on here") == 2
    assert _status(root)["state"] == "COMPLETED"


@pytest.mark.parametrize(
    "more",
    [
        ("trainer.accumulate_grad_batches=2",),
        ("trainer.val_check_interval=5",),
        ("model.plateau=true",),
    ],
    ids=["accumulating", "validating-often", "plateau"],
)
@pytest.mark.parametrize("batches", [3, 15])
def test_the_place_where_the_signal_falls_does_not_matter(tmp_path: Path, more: tuple[str, ...], batches: int) -> None:
    trace = tmp_path / "trace"
    words = ("callbacks.last.every_n_steps=null", "model.sleep_s=0.02", "trainer.max_epochs=2", *more)
    words = (*words, f"model.trace={trace}")
    _finish(tmp_path / "alone", *words)
    trace.unlink()
    process = _start(tmp_path / "moved", *words)
    _until(process, lambda: len(_traced(trace)) >= batches)
    process.send_signal(signal.SIGUSR2)
    assert process.wait(timeout=60) == 3
    _finish(tmp_path / "moved", *words)
    _same(tmp_path / "alone", tmp_path / "moved")
    assert len(_traced(trace)) == 30


def test_told_while_validating_it_leaves_after_the_validation(tmp_path: Path, alone: Path, trace: Path) -> None:
    root = tmp_path / "moved"
    words = (*_SLOWLY, f"model.trace={trace}")
    process = _start(root, *words)
    _until(process, lambda: "val/loss" in (root / "run" / "metrics.jsonl").read_text()
           if (root / "run" / "metrics.jsonl").exists() else False)  # fmt: skip
    process.send_signal(signal.SIGUSR2)
    assert process.wait(timeout=60) == 3
    _finish(root, *words)
    _same(alone, root)


def test_shielded_from_sigterm_it_saves_and_goes_on(tmp_path: Path, alone: Path, trace: Path) -> None:
    root = tmp_path / "moved"
    words = (*_SLOWLY, f"model.trace={trace}")
    process = _start(root, *words)
    _until(process, lambda: len(_traced(trace)) >= 5)
    process.send_signal(signal.SIGTERM)
    _until(process, lambda: (root / "run" / "checkpoints" / "last.ckpt").exists() and len(_traced(trace)) >= 9)
    assert (root / "shielded.txt").read_text() == "SIGTERM\n"
    os.killpg(process.pid, signal.SIGKILL)  # what follows where the job was put back from outside
    process.wait()
    before = len(_traced(trace))
    _finish(root, *words)
    found = _same(alone, root)
    epoch, batch = map(int, found["resumed_at"][0].removeprefix("resumed at epoch ").split(", batch "))
    assert (epoch, batch) in {(0, 5), (0, 6), (0, 7)}
    assert len(_traced(trace)) == before + 45 - batch
    assert [attempt["exit"] for attempt in _status(root)["attempts"]] == ["killed", 0]


def test_terminated_without_a_launcher_it_saves_before_it_ends(tmp_path: Path, alone: Path, trace: Path) -> None:
    root = tmp_path / "moved"
    words = (*_SLOWLY, f"model.trace={trace}")
    process = _start(root, *words, script="launch.py")
    _until(process, lambda: len(_traced(trace)) >= 5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) != 0
    assert _status(root)["state"] == "CANCELLED"
    _finish(root, *words)
    _same(alone, root)
    assert len(_traced(trace)) == 45


def test_without_a_launcher_the_warning_saves_and_ends_the_run(tmp_path: Path, alone: Path, trace: Path) -> None:
    root = tmp_path / "moved"
    words = (*_SLOWLY, f"model.trace={trace}")
    process = _start(root, *words, script="launch.py")
    _until(process, lambda: len(_traced(trace)) >= 5)
    process.send_signal(signal.SIGUSR2)
    assert process.wait(timeout=60) == 130
    assert _status(root)["state"] == "PREEMPTED"
    _finish(root, *words)
    _same(alone, root)
    assert len(_traced(trace)) == 45


def test_put_back_too_often_it_has_failed_and_says_so(tmp_path: Path) -> None:
    trace, root = tmp_path / "trace", tmp_path / "run"
    process = _start(root, *_SLOWLY, f"model.trace={trace}", STAND_IN="refuse")
    _until(process, lambda: len(_traced(trace)) >= 3)
    process.send_signal(signal.SIGUSR2)
    assert process.wait(timeout=60) == 1
    assert _kept(root)[0]["state"] == "PREEMPTED"
    status = _status(root)
    assert (status["state"], status["exit"]) == ("FAILED", 1)
    assert status["error"] == "UsedUp: timed-out too many times"
    assert "timed-out too many times" in (root / "run" / "stderr.txt").read_text()
    assert "UsedUp" in (root / "out.txt").read_text()


@pytest.mark.parametrize(
    ("words", "ready"),
    [
        (("data.prepare_s=60",), "loading torch and lightning"),
        (("evaluation.sleep_s=60",), "evaluating"),
    ],
    ids=["preparing", "evaluating"],
)
def test_where_nothing_is_trained_it_leaves_at_once(tmp_path: Path, words: tuple[str, ...], ready: str) -> None:
    root, trace = tmp_path / "moved", tmp_path / "trace"
    shared = (f"model.trace={trace}", "trainer.max_epochs=1")
    process = _start(root, *shared, *words)
    log = root / "run" / "brainlab.log"
    _until(process, lambda: log.exists() and ready in log.read_text())
    time.sleep(4 if ready != "evaluating" else 0.5)
    started = time.monotonic()
    process.send_signal(signal.SIGUSR2)
    assert process.wait(timeout=60) == 3
    assert time.monotonic() - started < 10
    assert _kept(root)[0]["state"] == "PREEMPTED"


def test_a_batch_that_takes_too_long_is_not_waited_for(tmp_path: Path) -> None:
    trace, root = tmp_path / "trace", tmp_path / "moved"
    process = _start(root, f"model.trace={trace}", "model.sleep_s=60", "callbacks.preemption.grace_s=1")
    _until(process, lambda: len(_traced(trace)) >= 1)
    started = time.monotonic()
    process.send_signal(signal.SIGUSR2)
    assert process.wait(timeout=60) == 3
    assert 0.9 < time.monotonic() - started < 15
    assert _kept(root)[0]["state"] == "PREEMPTED"
    assert "no place to save was reached" in (root / "run" / "brainlab.log").read_text()


def test_a_process_that_hangs_in_a_library_is_handed_over_all_the_same(tmp_path: Path) -> None:
    trace, root = tmp_path / "trace", tmp_path / "moved"
    words = (f"model.trace={trace}", "model.hang=true", "callbacks.preemption.grace_s=1")
    process = _start(root, *words)
    _until(process, lambda: len(_traced(trace)) >= 1)
    started = time.monotonic()
    process.send_signal(signal.SIGUSR2)
    assert process.wait(timeout=60) == 3
    assert time.monotonic() - started < 30
    assert _kept(root)[0]["state"] == "PREEMPTED"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["warned", "killed"])
def test_two_processes_leave_together_and_go_on_exactly(tmp_path: Path, how: str) -> None:
    trace, root = tmp_path / "trace", tmp_path / "moved"
    words = ("model.sleep_s=0.05", "trainer.strategy=ddp", "trainer.devices=2", "trainer.max_epochs=2")
    words = (*words, "trainer.use_distributed_sampler=false", f"model.trace={trace}", "logger=mlflow")
    _finish(tmp_path / "alone", *words)
    batches = sorted(_traced(trace))
    trace.unlink()
    process = _start(root, *words)
    _until(process, lambda: len(_traced(trace)) >= 14)
    if how == "warned":
        process.send_signal(signal.SIGUSR2)  # the first process only: the other hears of it from this one
        assert process.wait(timeout=100) == 3, (root / "out.txt").read_text()[-3000:]
        assert _kept(root)[0]["state"] == "PREEMPTED"
    else:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    _finish(root, *words)
    found = _same(tmp_path / "alone", root)
    assert found["attempts"] == 2
    assert all(tracked(root / "run").values())
    assert len(batches) == 60
    if how == "warned":
        assert sorted(_traced(trace)) == batches
    log = (root / "run" / "brainlab.log").read_text()
    assert log.count("run directory:") == 2, "one process speaks for both"
