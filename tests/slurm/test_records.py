"""What a sweep on a cluster leaves behind, and how it is taken up again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

TINY = Path(__file__).parents[1] / "run"


def runs_of(root: Path) -> list:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    return list(client.search_runs([client.get_experiment_by_name("tiny").experiment_id]))


def starts_of(folder: Path) -> list[int]:
    return [len(json.loads((folder / str(n) / "status.json").read_text())["attempts"]) for n in (0, 1)]


def test_the_same_sweep_again_trains_nothing_and_stays_one_parent_with_its_children(cluster, start, tmp_path):
    tiny = {"base": ("--config-dir", str(TINY / "conf"), "experiment=tiny"), "PYTHONPATH": str(TINY)}
    words = ("model.lr=1e-2,3e-2", "evaluation=none")
    first = start(*words, **tiny)
    ended = first.wait()
    assert ended.code == 0, ended.err + ended.out
    rows = first.rows()
    assert [(row["state"], row["model.lr"]) for row in rows.values()] == [("COMPLETED", "0.01"), ("COMPLETED", "0.03")]
    assert all(float(row["val/loss"]) > 0 for row in rows.values())
    parent = json.loads((first.folder / "sweep.json").read_text())["mlflow_run_id"]

    def children() -> set[str]:
        found = runs_of(tmp_path)
        assert len(found) == 3
        assert {run.info.status for run in found} == {"FINISHED"}
        return {run.info.run_id for run in found if run.data.tags.get("mlflow.parentRunId") == parent}

    linked = children()
    assert linked == {row["mlflow_run_id"] for row in rows.values()}
    assert not (tmp_path / "mlruns" / "0").exists()  # no store in files

    again = start(*words, **tiny).wait()
    assert again.code == 0, again.err
    assert starts_of(first.folder) == [1, 1]
    assert "2 of 2 jobs are completed" in again.out

    other = start(*words, "model.width=9", **tiny).wait()
    assert other.code == 2
    assert "model.width: 8 → 9" in other.err
    assert starts_of(first.folder) == [1, 1]

    longer = start(*words, "trainer.max_epochs=3", **tiny).wait()
    assert longer.code == 0, longer.err + longer.out
    assert starts_of(first.folder) == [2, 2]
    assert children() == linked


def test_a_sweep_nobody_waits_for_is_collected_later(cluster, start):
    sweep = start("job.case=0,1,2", "job.raises=[1]", "wait=false")
    left = sweep.wait()
    assert left.code == 0, left.err
    ids = sweep.job_ids()
    assert len(ids) == 3
    assert ids[0].partition("_")[0] in left.out
    cluster.until(lambda: len(list((sweep.folder / ".jobs").glob("*.json"))) == 3, "the jobs end")

    command = [sys.executable, "-m", "brainlab", "job=collect", f"runs={sweep.folder}", "logger=none"]
    done = subprocess.run(command, cwd=sweep.folder.parent, capture_output=True, text=True, timeout=120)

    assert done.returncode == 1, done.stderr
    assert "2 completed, 1 failed, 0 lost" in done.stdout
    assert sweep.states() == {0: "COMPLETED", 1: "FAILED", 2: "COMPLETED"}
    assert "case 1 was asked to raise" in (sweep.folder / "sweep.html").read_text()


def test_an_interrupted_submitter_leaves_its_jobs_and_the_same_command_watches_them_again(cluster, start):
    words = ("job.case=0,1", "job.seconds=12")
    sweep = start(*words)
    cluster.until(lambda: sweep.folder.exists() and len(sweep.started_jobs()) == 2, "both jobs run")
    sweep.kill(signal.SIGINT)
    ended = sweep.wait()
    assert ended.code == 130
    assert f"brainlab job=collect runs={sweep.folder}" in ended.out
    assert sweep.job_ids()[0].partition("_")[0] in ended.out

    again = start(*words).wait()

    assert again.code == 0, again.err + again.out
    assert sweep.states() == {0: "COMPLETED", 1: "COMPLETED"}
    assert sweep.started_jobs() == {0: 1, 1: 1}


def test_after_too_many_failures_what_waits_is_cancelled(cluster, start):
    sweep = start(
        "job.case=range(6)", "job.raises=[0]", "job.seconds=2", "sweep.max_failures=1",
        "hydra.launcher.array_parallelism=2",
    )  # fmt: skip
    ended = sweep.wait()

    assert ended.code == 1
    states = sweep.states()
    assert states[0] == "FAILED"
    assert states[5] == "CANCELLED"
    assert states[1] == "COMPLETED"
    assert "LOST" not in states.values()
    assert set(sweep.started_jobs()) == {number for number, state in states.items() if state != "CANCELLED"}
