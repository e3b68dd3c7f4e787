"""The MLflow run of a sweep, and that its absence stops nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from omegaconf import DictConfig, OmegaConf

from brainlab.run.sweep.jobs import JobChange
from brainlab.run.sweep.parent import MLFLOW
from brainlab.run.sweep.record import SweepRecord, collect_sweep
from brainlab.run.trackers.mlflow import MlflowTracker
from brainlab.run.tracking import RunInfo

CONFIG = """
hydra: {{job: {{num: 0, id: '0'}}, sweep: {{subdir: '${{hydra.job.num}}'}}, launcher: {{_target_: x.BasicLauncher}}}}
experiment_name: mine
model: {{lr: 0.1}}
logger: {logger}
sweep: {{metric: val/loss, mode: min, max_failures: null, method: grid}}
"""


@pytest.fixture(autouse=True)
def _own_tracking(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def compose(root: Path, lr: int = 1, uri: str = "null") -> DictConfig:
    logger = f"{{_target_: {MLFLOW}, root: '{root}', experiment: null, tracking_uri: {uri}}}"
    cfg = OmegaConf.create(CONFIG.format(logger=logger))
    cfg.model.lr = lr
    return cfg


def sweep(root: Path, *, uri: str = "null", state: str = "COMPLETED") -> SweepRecord:
    folder = root / "sweep"
    folder.mkdir(exist_ok=True)
    with SweepRecord(folder, compose(root)) as record:
        jobs = record.take([([f"model.lr={lr}"], compose(root, lr, uri)) for lr in (1, 2)])
        record.submitted({job.number: str(job.number) for job in jobs})
        for job in jobs:
            record.changed(JobChange(job.number, state, score=float(job.number)))
        record.finish()
    return record


def runs(root: Path) -> list:
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mine")
    return list(client.search_runs([experiment.experiment_id]))


def test_a_sweep_is_one_run_with_its_tables_closed_at_the_end(tmp_path):
    record = sweep(tmp_path)

    (run,) = runs(tmp_path)
    assert run.info.run_id == record.facts["mlflow_run_id"]
    assert run.info.status == "FINISHED"
    assert (run.data.metrics["best_score"], run.data.metrics["n_completed"]) == (0.0, 2.0)
    artifacts = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").list_artifacts(run.info.run_id)
    assert {"sweep.csv", "sweep.html", "sweep_summary.csv"} <= {file.path for file in artifacts}


def test_the_run_exists_before_any_job_starts_and_jobs_are_its_children(tmp_path):
    folder = tmp_path / "sweep"
    folder.mkdir()
    with SweepRecord(folder, compose(tmp_path)) as record:
        record.take([(["model.lr=1"], compose(tmp_path))])
        (parent,) = runs(tmp_path)
        assert parent.info.status == "RUNNING"

        tracker = MlflowTracker(root=str(tmp_path))
        (folder / "0").mkdir()
        tracker.start(RunInfo(folder / "0", "mine", 1, parent_run_id=record.facts["mlflow_run_id"]), [])

    children = [run for run in runs(tmp_path) if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == 1


def test_a_repeated_sweep_keeps_its_run(tmp_path):
    sweep(tmp_path, state="FAILED")
    assert runs(tmp_path)[0].info.status == "FAILED"
    sweep(tmp_path)

    (run,) = runs(tmp_path)
    assert run.info.status == "FINISHED"


def test_collecting_closes_the_run(tmp_path):
    folder = tmp_path / "sweep"
    folder.mkdir()
    with SweepRecord(folder, compose(tmp_path)) as record:
        record.take([(["model.lr=1"], compose(tmp_path))])
        record.submitted({0: "a"})
        record.left()
    assert runs(tmp_path)[0].info.status == "RUNNING"
    (folder / ".jobs").mkdir()
    (folder / ".jobs" / "0.json").write_text('{"number": 0, "state": "COMPLETED", "score": 1.0}')

    collect_sweep(folder)

    assert runs(tmp_path)[0].info.status == "FINISHED"


def test_an_outage_of_the_tracker_stops_no_sweep(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    record = sweep(tmp_path, uri="http://127.0.0.1:1")

    assert record.facts["mlflow_run_id"] is None
    assert [row.state for row in record.rows.values()] == ["COMPLETED", "COMPLETED"]
    assert "the sweep goes on without it" in caplog.text


def test_other_loggers_have_no_run(tmp_path):
    cfg = compose(tmp_path)
    cfg.logger = {"_target_": "brainlab.run.trackers.csv.CsvTracker"}
    with SweepRecord(tmp_path, cfg) as record:
        record.take([(["model.lr=1"], cfg)])

    assert record.facts.get("mlflow_run_id") is None
    assert not (tmp_path / "mlflow.db").exists()
