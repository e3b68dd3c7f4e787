"""``brainlab -m … hydra/launcher=submitit_slurm`` on a real SLURM: what is submitted, and what cannot be."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_the_headline_sweep_is_one_array_of_two_with_a_parent_and_two_children(any_accounting, start, tmp_path) -> None:
    sweep = start("trainer=debug", "model.lr=1e-4,3e-4", base=(), BRAINLAB_CACHE=str(tmp_path / "cache"))
    ended = sweep.wait()
    assert ended.code == 0, ended.out + ended.err
    ids = sweep.job_ids()
    array = ids[0].partition("_")[0]
    assert ids == {0: f"{array}_0", 1: f"{array}_1"}
    assert f"submitted 2 jobs ({array})" in ended.out
    assert any_accounting.states(array) == dict.fromkeys(ids.values(), "COMPLETED 0:0")
    assert "JobName=brainlab" in any_accounting.ask("scontrol", "-o", "show", "job", array)
    rows = sweep.rows()
    assert [(row["state"], row["model.lr"], row["slurm_job_id"]) for _, row in sorted(rows.items())] == [
        ("COMPLETED", "0.0001", ids[0]), ("COMPLETED", "0.0003", ids[1]),
    ]  # fmt: skip
    assert all(float(row["val/nll"]) > 0 for row in rows.values())

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = {
        run.info.run_id: run for each in client.search_experiments() for run in client.search_runs([each.experiment_id])
    }
    parent = json.loads((sweep.folder / "sweep.json").read_text())["mlflow_run_id"]
    children = {key for key, run in runs.items() if run.data.tags.get("mlflow.parentRunId") == parent}
    assert children == {row["mlflow_run_id"] for row in rows.values()}
    assert set(runs) == {parent, *children}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


def test_a_value_that_cannot_be_is_refused_before_anything_is_submitted(cluster, start) -> None:
    sweep = start("trainer.max_epochs=1,abc", base=())
    ended = sweep.wait()
    assert ended.code == 2
    assert ended.err.startswith("Invalid trainer.max_epochs=abc: expected a whole number")
    assert not sweep.folder.exists()
    assert cluster.ask("squeue", "-h") == ""


def test_what_lies_in_files_after_the_submission_changes_nothing(cluster, start, tmp_path) -> None:
    shutil.copytree(HERE / "conf", tmp_path / "mine")
    experiment = tmp_path / "mine" / "experiment" / "light.yaml"
    experiment.write_text(experiment.read_text() + "seed: 1\n")
    base = ("--config-dir", str(tmp_path / "mine"), "experiment=light")
    sweep = start("job.case=range(3)", "hydra.launcher.array_parallelism=1", base=base)
    cluster.until(lambda: len(sweep.job_ids()) == 3, "the jobs are submitted")
    experiment.write_text(experiment.read_text().replace("seed: 1", "seed: 2"))
    assert sweep.wait().code == 0
    assert {row["seed"] for row in sweep.rows().values()} == {"1"}


def test_a_submission_that_is_refused_is_one_sentence_and_leaves_nothing_in_the_queue(cluster, start) -> None:
    sweep = start("job.case=1,2", "hydra.launcher.partition=nowhere")
    ended = sweep.wait()
    assert ended.code == 1
    assert sweep.states() == {0: "FAILED", 1: "FAILED"}
    assert sweep.job_ids() == {}
    assert "invalid partition" in (sweep.folder / "sweep.json").read_text()
    told = [line for line in ended.err.splitlines() if "sbatch" in line]
    assert told == [
        "sbatch refused the jobs: invalid partition specified: nowhere; "
        "Batch job submission failed: Invalid partition name specified"
    ]
    assert "Traceback" not in ended.err
    assert cluster.ask("squeue", "-h") == ""


def test_a_single_job_is_no_array_and_its_folder_may_have_any_name(cluster, start, tmp_path) -> None:
    folder = tmp_path / 'it\'s a "sweep"'
    quoted = str(folder).replace("'", "\\'")
    ended = start("job.case=5", f"hydra.sweep.dir='{quoted}'").wait()
    assert ended.code == 0, ended.err
    job_id = json.loads((folder / "sweep.json").read_text())["jobs"][0]["job_id"]
    assert job_id.isdigit()  # no array
    assert json.loads((folder / ".jobs" / "0.json").read_text())["score"] == 5.0
    assert (folder / ".submitit" / job_id / f"{job_id}_0_log.out").exists()
    assert cluster.states(job_id) == {job_id: "COMPLETED 0:0"}


def test_ctrl_c_leaves_the_jobs_which_are_watched_again_and_not_repeated(cluster, start) -> None:
    words = ("job.case=range(3)", "job.seconds=6", "hydra.launcher.poll_interval_s=2")
    sweep = start(*words)
    cluster.until(lambda: set(sweep.started_jobs() if sweep.folder.exists() else ()) == {0, 1, 2}, "the jobs run", 90)
    sweep.kill(signal.SIGINT)
    ended = sweep.wait()
    assert ended.code == 130
    assert "3 jobs still on the cluster (end them with: scancel " in ended.out
    assert f"collect later with: brainlab job=collect runs={sweep.folder}" in ended.out
    ended = start(*words).wait()
    assert ended.code == 0, ended.err
    assert sweep.states() == dict.fromkeys(range(3), "COMPLETED")
    assert sweep.started_jobs() == dict.fromkeys(range(3), 1)


def test_a_dry_run_and_a_launcher_without_m_submit_nothing(cluster, tmp_path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        light = ("--config-dir", str(HERE / "conf"), "experiment=light", "hydra/launcher=ci")
        command = [sys.executable, "-m", "brainlab", *light, *words]
        environment = {**os.environ, "PYTHONPATH": str(HERE)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)

    done = run("-m", "dry=true", "job.case=1,2")
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --array=0-1%2" in done.stdout
    assert "  1: experiment=light dry=True job.case=2" in done.stdout
    done = run("job.case=1")
    assert done.returncode == 2
    assert "brainlab -m " in done.stderr
    assert list(tmp_path.iterdir()) == []
    assert cluster.ask("squeue", "-h") == ""


def test_more_jobs_than_an_array_may_have_all_run(small_arrays, start, tmp_path) -> None:
    sweep = start("job.case=range(7)", "wait=false")
    ended = sweep.wait()
    assert ended.code == 0, ended.err
    arrays = {job_id.partition("_")[0] for job_id in sweep.job_ids().values()}
    assert len(arrays) == 3
    assert "submitted 7 jobs" in ended.out
    small_arrays.until(lambda: small_arrays.ask("squeue", "-h") == "", "the queue is empty", 120)
    command = [sys.executable, "-m", "brainlab", "job=collect", f"runs={sweep.folder}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert sweep.states() == dict.fromkeys(range(7), "COMPLETED")
    assert sweep.started_jobs() == dict.fromkeys(range(7), 1)
