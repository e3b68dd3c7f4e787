"""What runs where a job runs: as Hydra would run it, and how it ended is always left behind."""

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

from brainlab.run.sweep.frozen import freeze, frozen_path, outcome_path


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return tmp_path / "sweep"


def start(sweep: Path, number: int, **environment: str) -> subprocess.Popen[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
    return subprocess.Popen(
        [sys.executable, "-m", "brainlab.run.sweep.work", "--local", str(sweep), str(number)],
        env={**clean, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(sweep: Path, number: int, **environment: str) -> tuple[int, str]:
    process = start(sweep, number, **environment)
    out, _ = process.communicate(timeout=60)
    return process.returncode, out


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_job_leaves_its_score_and_runs_as_hydra_would_run_it(sweep, function, make_job) -> None:
    token = freeze([make_job(4)], sweep, function)
    code, out = run(sweep, 4)
    assert code == 0, out
    outcome = read(outcome_path(sweep, 4))
    assert (outcome["number"], outcome["state"], outcome["score"], outcome["reason"]) == (4, "COMPLETED", 14.0, None)
    assert (outcome["submission"], outcome["job_id"][:6]) == (token, "local-")
    seen = read(sweep / "4" / "seen.json")
    assert (seen["num"], seen["id"], seen["argv"]) == (4, outcome["job_id"], sys.argv)
    assert (sweep / "4" / ".hydra" / "config.yaml").exists()


def test_a_job_that_raises_fails_with_a_sentence_and_a_traceback(sweep, function, make_job) -> None:
    freeze([make_job(0, "raise")], sweep, function)
    code, out = run(sweep, 0)
    assert code == 1, out
    outcome, status = read(outcome_path(sweep, 0)), read(sweep / "0" / "status.json")
    assert (outcome["state"], outcome["reason"]) == ("FAILED", "ValueError: asked to fail")
    assert (status["state"], status["exit"], status["error"]) == ("FAILED", 1, "ValueError: asked to fail")
    text = (sweep / "0" / "stderr.txt").read_text()
    assert "Traceback" in text
    assert "sweep_parts.py" in text


def test_a_job_whose_code_cannot_be_imported_fails_and_is_not_lost(sweep, function, make_job) -> None:
    freeze([make_job(0)], sweep, function)
    code, out = run(sweep, 0, PYTHONPATH="")
    assert code == 1, out
    assert "sweep_parts" in read(outcome_path(sweep, 0))["reason"]
    assert "sweep_parts" in (sweep / "0" / "stderr.txt").read_text()


def test_a_job_whose_folder_is_gone_says_so(sweep, function, make_job, tmp_path, monkeypatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    freeze([make_job(0)], sweep, function)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone").rmdir()
    assert run(sweep, 0)[0] == 1
    reason = read(outcome_path(sweep, 0))["reason"]
    assert reason.startswith("Invalid cwd=")
    assert "the folder that the sweep was started in (No such file or directory)" in reason


def test_a_job_that_cannot_be_thawed_fails_and_says_why(sweep, function, make_job) -> None:
    freeze([make_job(0)], sweep, function)
    frozen_path(sweep, 0).write_bytes(b"broken")
    assert run(sweep, 0)[0] == 1
    outcome = read(outcome_path(sweep, 0))
    assert (outcome["state"], outcome["submission"], outcome["job_id"][:6]) == ("FAILED", None, "local-")
    assert "0.pkl: expected a frozen job" in outcome["reason"]


def test_only_the_first_process_of_a_job_writes(sweep, function, make_job) -> None:
    freeze([make_job(0)], sweep, function)
    code, out = run(sweep, 0, SLURM_PROCID="1")
    assert code == 0, out
    assert not outcome_path(sweep, 0).exists()
    assert {path.name for path in (sweep / "0").iterdir()} == {"seen.json", "end.json"}  # the function's own

    freeze([make_job(1, "raise")], sweep, function)
    assert run(sweep, 1, SLURM_PROCID="1")[0] == 1
    assert {path.name for path in (sweep / "1").iterdir()} == {"seen.json"}


def test_a_further_process_that_fails_speaks_for_the_job_unless_the_first_has_spoken(sweep, function, make_job) -> None:
    freeze([make_job(0, "raise")], sweep, function)
    assert run(sweep, 0, SLURM_PROCID="1")[0] == 1
    outcome = read(outcome_path(sweep, 0))
    assert (outcome["state"], outcome["reason"]) == ("FAILED", "process 1: ValueError: asked to fail")

    outcome_path(sweep, 0).write_text('{"state": "COMPLETED"}')
    assert run(sweep, 0, SLURM_PROCID="1")[0] == 1
    assert read(outcome_path(sweep, 0))["state"] == "COMPLETED"

    outcome_path(sweep, 0).unlink()
    (sweep / "0" / "status.json").write_text('{"state": "PREEMPTED"}')
    assert run(sweep, 0, SLURM_PROCID="1")[0] == 1
    assert not outcome_path(sweep, 0).exists()


def test_an_interrupted_job_leaves_no_outcome(sweep, function, make_job) -> None:
    freeze([make_job(0, "60")], sweep, function)
    process = start(sweep, 0)
    wait_for(sweep / "0" / "seen.json")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not outcome_path(sweep, 0).exists()


def test_a_frozen_job_runs_again_after_a_requeue(sweep, function, make_job) -> None:
    freeze([make_job(0, "raise")], sweep, function)
    before = frozen_path(sweep, 0).read_bytes()
    assert run(sweep, 0)[0] == run(sweep, 0)[0] == 1
    assert frozen_path(sweep, 0).read_bytes() == before


def test_a_worker_refuses_what_submitit_would_unpickle_from_an_open_folder(tmp_path: Path) -> None:
    logs = tmp_path / ".submitit"
    (logs / "77").mkdir(parents=True)
    logs.chmod(0o777)
    marker = tmp_path / "marker"
    (logs / "77" / "77_submitted.pkl").write_bytes(f"cos\nsystem\n(S'touch {marker}'\ntR.".encode())
    command = [sys.executable, "-m", "brainlab.run.sweep.work", str(logs / "%j")]
    environment = {**os.environ, "SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "77", "SLURM_PROCID": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "mode 0700, not 0777" in done.stderr
    assert not marker.exists()


def wait_for(path: Path, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} does not appear"
        time.sleep(0.05)
