"""A training that the cluster interrupts, by whatever means, ends as the same training left alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

RUN = Path(__file__).parents[1] / "run"
TINY = ("--config-dir", str(RUN / "conf"), "experiment=tiny")
# Long enough to be met inside of an epoch; nothing is saved but what the signals ask for.
SLOWLY = ("model.sleep_s=0.5", "callbacks.last.every_n_steps=null", "logger=mlflow")
EPOCH, TOTAL = 15, 30


@pytest.fixture
def kill_resume(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(RUN))
    import kill_resume

    return kill_resume


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training in a process of its own, which nobody disturbs."""
    root = tmp_path_factory.mktemp("alone")
    words = [*TINY, *SLOWLY, f"hydra.run.dir={root / 'run'}", f"paths.root={root}"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    done = subprocess.run(
        [sys.executable, "-m", "brainlab", *words],
        cwd=root,
        env={**environment, "PYTHONPATH": str(RUN), "OMP_NUM_THREADS": "1", "BRAINLAB_CACHE": str(root / "cache")},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return root / "run"


@pytest.fixture
def train(start: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    def begin(*words: str, name: str = "sweep") -> Any:
        words = (*SLOWLY, f"paths.root={tmp_path / name}-root", *words)
        return start(*words, base=TINY, name=name, PYTHONPATH=str(RUN), BRAINLAB_CACHE=str(tmp_path / "cache"))

    return begin


def _steps(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_text().count('"train/loss_step"') if path.exists() else 0


def _status(run: Path) -> dict[str, Any]:
    path = run / "status.json"
    return json.loads(path.read_text()) if path.exists() else {"state": None, "attempts": []}


def _job(run: Path) -> str:
    return _status(run)["attempts"][-1]["slurm_job_id"]


def _metrics(run: Path) -> Any:
    results = json.loads((run / "results.json").read_text())
    return results["metrics"], results["best"], results["score"]


def _log(run: Path) -> str:
    """What submitit said beside the job."""
    return (run.parent / ".submitit" / _job(run) / f"{_job(run)}_0_log.err").read_text()


def _check(found: ModuleType, alone: Path, run: Path) -> dict[str, Any]:
    """Everything that must be equal is equal; what the attempts say."""
    same = found.compare(alone, run)
    assert all(value for key, value in same.items() if key.endswith(("_equal", "_step"))), same
    return same


def _tracked_once(found: ModuleType, sweep: Path, n: int) -> None:
    """MLflow holds the parent and one finished run per job."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{sweep}-root/mlflow.db")
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId")]
    assert len(children) == n
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len(runs) == n + 1


def test_preempted_by_a_job_with_more_right_it_goes_on_exactly(
    cluster: Any, train: Callable[..., Any], alone: Path, kill_resume: ModuleType
) -> None:
    sweep = train("seed=0,1", "data.num_workers=2")
    runs = [sweep.folder / "0", sweep.folder / "1"]
    cluster.until(lambda: all(_steps(run) >= 4 for run in runs), "both train", 120)
    cluster.preempt()
    assert [_status(run)["attempts"][0]["exit"] for run in runs] == ["preempted", "preempted"]
    ended = sweep.wait()
    assert ended.code == 0, ended.out + ended.err
    assert sweep.states() == {0: "COMPLETED", 1: "COMPLETED"}
    same = _check(kill_resume, alone, runs[0])
    for run in runs:
        attempts = _status(run)["attempts"]
        assert [attempt["exit"] for attempt in attempts] == ["preempted", 0]
        assert sum(attempt["batches"] for attempt in attempts) == TOTAL, "no batch is trained twice"
        assert attempts[0]["batches"] >= 4
    assert same["attempts"] == 2
    assert len({attempt["slurm_job_id"] for attempt in _status(runs[0])["attempts"]}) == 1
    _tracked_once(kill_resume, sweep.folder, 2)


def test_requeued_from_outside_it_goes_on_exactly(
    cluster: Any, train: Callable[..., Any], alone: Path, kill_resume: ModuleType
) -> None:
    sweep = train()
    run = sweep.folder / "0"
    cluster.until(lambda: _steps(run) >= 4, "it trains", 120)
    before = _steps(run)
    cluster.ask("scontrol", "requeue", _job(run))  # no warning: SIGTERM, and a kill after KillWait
    ended = sweep.wait()
    assert ended.code == 0, ended.out + ended.err
    same = _check(kill_resume, alone, run)
    attempts = _status(run)["attempts"]
    assert [attempt["exit"] for attempt in attempts] == ["killed", 0]
    (epoch, batch), = re.findall(r"epoch (\d+), batch (\d+)", " ".join(same["resumed_at"]))  # fmt: skip
    position = int(epoch) * EPOCH + int(batch)
    assert position >= before, "saved at SIGTERM, not before"
    assert attempts[1]["batches"] == TOTAL - position
    _tracked_once(kill_resume, sweep.folder, 1)


def test_at_the_time_limit_it_goes_on_exactly_until_the_limits_are_used_up(
    cluster: Any, train: Callable[..., Any], alone: Path, kill_resume: ModuleType
) -> None:
    # SLURM may warn a minute early: between 15 and 75 s after the start here, and both trainings take longer.
    limit = ("hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=45")
    never = ("model.sleep_s=4", "trainer.max_epochs=40", "hydra.launcher.max_num_timeout=0")
    used_up = train(*limit, *never, name="used-up")
    goes_on = train(*limit, "model.sleep_s=2.5", name="goes-on")
    run, failed = goes_on.folder / "0", used_up.folder / "0"
    ended = goes_on.wait(300)
    assert ended.code == 0, ended.out + ended.err
    same = kill_resume.compare(alone, run)
    assert not same.pop("results_equal"), "the fingerprint knows that this one was slower"
    assert all(value for key, value in same.items() if key.endswith(("_equal", "_step"))), same
    assert _metrics(run) == _metrics(alone)
    exits = [attempt["exit"] for attempt in _status(run)["attempts"]]
    assert len(exits) > 1
    assert exits == ["preempted"] * (len(exits) - 1) + [0]
    assert "this job is timed-out" in _log(run), "it was the limit that came, and nothing else"

    ended = used_up.wait()
    assert ended.code == 1
    assert used_up.states() == {0: "FAILED"}
    status = _status(failed)
    assert (status["state"], status["exit"]) == ("FAILED", 1)
    assert "timed-out too many times" in status["error"]
    assert "timed-out too many times" in ended.out + ended.err
    assert (failed / "checkpoints" / "last.ckpt").exists(), "what was trained can still be continued"
    assert cluster.states(_job(failed)) == {_job(failed): "FAILED 1:0"}
