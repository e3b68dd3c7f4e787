"""One sweep with every kind of end, on a cluster with accounting and on one without."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time


def test_every_job_has_its_honest_state_and_siblings_keep_their_results(any_accounting, start) -> None:
    cluster = any_accounting
    sweep = start("job.case=range(5)", "job.raises=[1]", "job.waits=[2,3]")
    cluster.until(lambda: {2, 3} <= set(sweep.started_jobs() if sweep.folder.exists() else ()), "the jobs run", 90)
    ids = cluster.until(sweep.job_ids, "the ids are written down")
    assert len({job_id.partition("_")[0] for job_id in ids.values()}) == 1
    assert set(cluster.ask("squeue", "-h", "-o", "%j").splitlines()) == {"brainlab"}
    cluster.ask("scancel", ids[2])
    for process in cluster.processes(ids[3]):
        os.kill(process, signal.SIGKILL)
    lost_at = time.monotonic()
    ended = sweep.wait()
    assert time.monotonic() - lost_at < 120
    assert ended.code == 1, ended.err
    assert sweep.states() == {0: "COMPLETED", 1: "FAILED", 2: "LOST", 3: "LOST", 4: "COMPLETED"}

    states = cluster.states(ids[0].partition("_")[0])
    assert [states[ids[number]] for number in (0, 1, 4)] == ["COMPLETED 0:0", "FAILED 1:0", "COMPLETED 0:0"]
    assert states[ids[2]].startswith("CANCELLED")
    assert "RuntimeError: case 1 was asked to raise" in (sweep.folder / "1" / "stderr.txt").read_text()
    reasons = {job["num"]: job["reason"] for job in json.loads((sweep.folder / "sweep.json").read_text())["jobs"]}
    assert "case 1 was asked to raise" in reasons[1]
    assert "CANCELLED" in reasons[2]
    assert "FAILED" in reasons[3]
    for number in (2, 3):
        status = json.loads((sweep.folder / str(number) / "status.json").read_text())
        assert status["state"] == "LOST"
        assert ids[number] in ended.out
    assert "2 completed, 1 failed, 2 lost" in ended.out
    assert sweep.started_jobs() == dict.fromkeys(range(5), 1)


def test_jobs_cancelled_before_they_started_are_lost_and_not_waited_for(cluster_without_accounting, start) -> None:
    cluster = cluster_without_accounting
    sweep = start("job.case=range(3)", "job.seconds=6", "hydra.launcher.array_parallelism=1")
    ids = cluster.until(lambda: len(sweep.job_ids()) == 3 and sweep.job_ids(), "the ids are written down", 60)
    cluster.ask("scancel", ids[1], ids[2])
    ended = sweep.wait(120)
    assert ended.code == 1, ended.err
    assert sweep.states() == {0: "COMPLETED", 1: "LOST", 2: "LOST"}
    assert set(sweep.started_jobs()) == {0}


def test_a_submitter_that_was_killed_leaves_jobs_that_can_be_collected(cluster, start, tmp_path) -> None:
    sweep = start("job.case=range(3)", "job.seconds=3", "job.waits=[1]")
    cluster.until(lambda: {0, 1, 2} <= set(sweep.started_jobs() if sweep.folder.exists() else ()), "the jobs run", 90)
    ids = cluster.until(sweep.job_ids, "the ids are written down")
    sweep.kill()
    cluster.ask("scancel", ids[1])
    outcomes = sweep.folder / ".jobs"
    cluster.until(lambda: all((outcomes / f"{number}.json").exists() for number in (0, 2)), "two jobs complete")
    cluster.until(
        lambda: not cluster.ask("squeue", "-h", "-j", ids[0].partition("_")[0], "-o", "%i"), "the queue is empty"
    )
    command = [sys.executable, "-m", "brainlab", "job=collect", f"runs={sweep.folder}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert sweep.states() == {0: "COMPLETED", 1: "LOST", 2: "COMPLETED"}
    assert "2 completed, 0 failed, 1 lost" in done.stdout
    assert sweep.started_jobs() == dict.fromkeys(range(3), 1)


def test_jobs_that_fail_before_they_can_speak_are_failed_and_not_lost(cluster_without_accounting, start) -> None:
    sweep = start("job.case=range(2)", "hydra.launcher.setup=['exit 3']")
    ended = sweep.wait(120)
    assert ended.code == 1, ended.err
    assert sweep.states() == {0: "FAILED", 1: "FAILED"}
    assert "exit code 3:0; see " in ended.out
