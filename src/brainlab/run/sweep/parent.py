"""The tracker's run that the jobs of a sweep are children of; a sweep without MLflow has none."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from brainlab.run.logs import quiet_libraries

__all__ = ["close_parent", "logger_of", "open_parent"]

log = logging.getLogger(__name__)

MLFLOW = "brainlab.run.trackers.mlflow.MlflowTracker"


def logger_of(cfg: DictConfig) -> dict[str, Any] | None:
    """The settings of the job's logger, where it is MLflow."""
    node = cfg.get("logger")
    if node is None or node.get("_target_") != MLFLOW:
        return None
    return OmegaConf.to_container(node, resolve=True)  # type: ignore[return-value]


def open_parent(
    logger: Mapping[str, Any], folder: Path, *, experiment: str, run_id: str | None, tags: Mapping[str, str]
) -> str | None:
    """Open the sweep's run, which also makes the database before many jobs need it at once.

    Args:
        logger: the settings of the jobs' logger.
        folder: the sweep's folder.
        experiment: name of the MLflow experiment, unless the logger names one.
        run_id: the run that this folder had before.
        tags: facts about the sweep.

    Returns:
        the run's id; ``None`` where the tracker cannot be reached: the sweep goes on without it.
    """
    quiet_libraries()
    with _no_outage("open the sweep's run"):
        tracker = _tracker(logger)
        client = tracker.connect()
        from mlflow.exceptions import MlflowException  # after connecting, which decides how talkative mlflow is

        if run_id is not None:
            with contextlib.suppress(MlflowException):
                client.get_run(run_id)
                client.update_run(run_id, status="RUNNING")
                return run_id
            log.warning("MLflow run %s of this sweep is not there; a new one is made", run_id)
        about = {"brainlab.sweep_dir": str(folder), "brainlab.kind": "sweep", **tags}
        created = client.create_run(tracker.experiment_id(experiment), run_name=folder.name, tags=about)
        return created.info.run_id
    return None


def close_parent(
    logger: Mapping[str, Any],
    run_id: str,
    *,
    status: str,
    metrics: Mapping[str, float],
    files: Sequence[Path],
    gone: Sequence[str] = (),
) -> None:
    """Hand the sweep's files to its run and close it.

    Args:
        logger: the settings of the jobs' logger.
        run_id: the sweep's run.
        status: FINISHED, FAILED or KILLED.
        metrics: what the sweep comes to.
        files: what a reader of the run wants to open.
        gone: runs of jobs that ended without a word; those still open are closed as killed.
    """
    quiet_libraries()
    with _no_outage("close the sweep's run"):
        client = _tracker(logger).connect()
        for name, value in metrics.items():
            client.log_metric(run_id, name, value)
        for file in files:
            if file.exists():
                client.log_artifact(run_id, str(file))
        client.set_terminated(run_id, status=status)
        for child in gone:
            if client.get_run(child).info.status == "RUNNING":
                client.set_terminated(child, status="KILLED")


def _tracker(logger: Mapping[str, Any]) -> Any:
    from brainlab.run.trackers.mlflow import MlflowTracker

    return MlflowTracker(**{key: value for key, value in logger.items() if not key.startswith("_")})


@contextlib.contextmanager
def _no_outage(what: str) -> Any:
    """A tracker that cannot be reached ends no sweep."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().splitlines()
        log.warning(
            "Tracking failed (%s, %s: %s); the sweep goes on without it",
            what,
            type(error).__name__,
            reason[0] if reason else "",
        )
        log.debug("Tracking failed", exc_info=True)
