"""MLflow: one run per run directory, in sqlite under the root unless ``MLFLOW_TRACKING_URI`` says otherwise."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

from brainlab.run.history import Row
from brainlab.run.tracking import RunInfo

__all__ = ["MlflowTracker"]

log = logging.getLogger(__name__)

_BATCH = 900  # MLflow takes at most 1000 metrics per call
_PARAMS = 100
_LONGEST_PARAM = 5000
_PAUSE_AFTER_FAILURE_S = 60.0


class MlflowTracker:
    """Send metrics, parameters and files to MLflow.

    Args:
        root: folder of ``mlflow.db`` and of the artifacts of new experiments.
        experiment: name of the MLflow experiment.
        tracking_uri: where the server or database is; null: ``$MLFLOW_TRACKING_URI``, else sqlite under ``root``.
        upload_checkpoints: also store ``best.ckpt`` as an artifact.
        every_s: seconds between batches of metrics.
    """

    def __init__(
        self,
        root: str,
        experiment: str | None = None,
        tracking_uri: str | None = None,
        upload_checkpoints: bool = False,
        every_s: float = 10.0,
    ) -> None:
        self.root = Path(root).absolute()
        self.experiment = experiment
        self.tracking_uri = tracking_uri
        self.upload_checkpoints = upload_checkpoints
        self.every_s = every_s
        self.run_id: str | None = None
        self._client: Any = None
        self._waiting: list[Row] = []
        self._next_send = 0.0

    def uri(self) -> str:
        """The tracking URI in use."""
        return self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.root / 'mlflow.db'}"

    def connect(self) -> Any:
        """A client of the server or database, which is made where it does not exist."""
        for name, value in (
            ("MLFLOW_DISABLE_TELEMETRY", "true"),
            ("MLFLOW_LOGGING_LEVEL", "WARNING"),
            ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2"),  # a dead server must not hold the training up for minutes
            ("MLFLOW_HTTP_REQUEST_TIMEOUT", "20"),
        ):
            os.environ.setdefault(name, value)
        from mlflow.tracking import MlflowClient

        self.root.mkdir(parents=True, exist_ok=True)
        uri = self.uri()
        if uri.startswith("sqlite") and _on_network(self.root):
            log.warning("%s lies on a network file system: sqlite is not safe there; set MLFLOW_TRACKING_URI", uri)
        self._client = MlflowClient(tracking_uri=uri)
        return self._client

    def start(self, info: RunInfo, history: list[Row]) -> None:
        """Open the run that this directory had in an earlier attempt, or a new one."""
        self.connect()
        note = info.folder / "mlflow_run_id"
        self.run_id = self._reopen(note, info)
        stored: set[tuple[str, int]] = set()
        known_params: set[str] = set()
        if self.run_id is None:
            self.run_id = self._create(info)
            note.write_text(self.run_id + "\n")
        else:
            run = self._client.get_run(self.run_id)
            known_params = set(run.data.params)
            for key in run.data.metrics:
                stored |= {(key, point.step) for point in self._client.get_metric_history(self.run_id, key)}
            self._client.update_run(self.run_id, status="RUNNING")
            self._client.set_tag(self.run_id, "brainlab.attempt", str(info.attempt))
        self._log_params({key: value for key, value in info.params.items() if key not in known_params})
        for file in info.files:
            if file.exists():
                self._client.log_artifact(self.run_id, str(file))
        self._waiting = [row for row in history if (row.name, row.step) not in stored]
        self._next_send = time.monotonic() + self.every_s

    def log(self, rows: list[Row]) -> None:
        self._waiting += rows
        if time.monotonic() >= self._next_send:
            self._send()

    def flush(self) -> None:
        self._send()

    def finish(self, state: str, files: tuple[Path, ...]) -> None:
        """Send what waits and close the run as FINISHED, FAILED or KILLED."""
        assert self.run_id is not None
        self._send()
        for file in files:
            if file.exists() and (self.upload_checkpoints or file.suffix != ".ckpt"):
                self._client.log_artifact(self.run_id, str(file))
        status = {"COMPLETED": "FINISHED", "FAILED": "FAILED"}.get(state, "KILLED")
        self._client.set_terminated(self.run_id, status=status)

    def set_tags(self, tags: dict[str, str]) -> None:
        """Add tags to the run."""
        for key, value in tags.items():
            self._client.set_tag(self.run_id, key, value)

    def _send(self) -> None:
        from mlflow.entities import Metric

        while self._waiting:
            part = self._waiting[:_BATCH]
            metrics = [Metric(row.name, row.value, row.time_ms, row.step) for row in part]
            try:
                self._client.log_batch(self.run_id, metrics=metrics)
            except Exception:
                # The rows stay in line; trying again at every step would slow the run down to the server's time-outs.
                self._next_send = time.monotonic() + _PAUSE_AFTER_FAILURE_S
                raise
            del self._waiting[: len(part)]
        self._next_send = time.monotonic() + self.every_s

    def _reopen(self, note: Path, info: RunInfo) -> str | None:
        from mlflow.exceptions import MlflowException

        if note.exists() and (run_id := note.read_text().strip()):
            try:
                self._client.get_run(run_id)
            except MlflowException as error:
                log.warning("MLflow run %s of an earlier attempt is not there (%s); a new one is made", run_id, error)
            else:
                return run_id
        if info.attempt > 1:  # killed between creating the run and writing its id down
            experiment = self._client.get_experiment_by_name(self.experiment or info.experiment)
            if experiment is not None:
                quoted = str(info.folder).replace("'", "\\'")
                found = self._client.search_runs(
                    [experiment.experiment_id], filter_string=f"tags.`brainlab.run_dir` = '{quoted}'", max_results=1
                )
                if found:
                    note.write_text(found[0].info.run_id + "\n")
                    return found[0].info.run_id
        return None

    def _create(self, info: RunInfo) -> str:
        tags = {"brainlab.run_dir": str(info.folder), "brainlab.attempt": str(info.attempt), **info.tags}
        if info.parent_run_id:
            tags["mlflow.parentRunId"] = info.parent_run_id
        experiment = self.experiment_id(info.experiment)
        return self._client.create_run(experiment, run_name=info.folder.name, tags=tags).info.run_id

    def experiment_id(self, name: str) -> str:
        """The experiment that runs go into, which is made where it does not exist.

        Args:
            name: what it is called unless the tracker was given a name.
        """
        from mlflow.exceptions import MlflowException

        name = self.experiment or name
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            return experiment.experiment_id
        # A server keeps artifacts where it was told to; beside a database they would land in the current folder.
        local = self.uri().startswith(("sqlite", "mysql", "postgresql", "mssql"))
        where = (self.root / "mlruns" / name).as_uri() if local else None
        try:
            return self._client.create_experiment(name, artifact_location=where)
        except MlflowException:  # another run was faster
            return self._client.get_experiment_by_name(name).experiment_id

    def _log_params(self, params: dict[str, Any]) -> None:
        from mlflow.entities import Param

        entries = [Param(key, str(value)[:_LONGEST_PARAM]) for key, value in params.items()]
        for start in range(0, len(entries), _PARAMS):
            self._client.log_batch(self.run_id, params=entries[start : start + _PARAMS])


def _on_network(folder: Path) -> bool:
    """Whether a folder lies on NFS or a similar file system (Linux)."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return False
    inside = [mount for mount in mounts if str(folder).startswith(mount[1].rstrip("/") + "/")]
    if not inside:
        return False
    kind = max(inside, key=lambda mount: len(mount[1]))[2]
    return kind.startswith(("nfs", "cifs", "smb", "lustre", "beegfs", "gpfs", "ceph", "afs"))
