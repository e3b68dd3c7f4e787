"""Opens the logger of a run: its history, its tracker, and what the tracker is told at the start."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from brainlab.config.build import build
from brainlab.run.context import Run
from brainlab.run.fingerprint import Fingerprint, flatten
from brainlab.run.history import History
from brainlab.run.loading import loading
from brainlab.run.tracking import RunInfo, RunLogger

__all__ = ["open_logger"]

_NO_PARAMS = ("hydra", "paths", "logger", "security", "sweep", "callbacks", "tags")


def open_logger(cfg: DictConfig, run: Run, data: Any, fingerprint: Fingerprint) -> RunLogger:
    """The logger of this attempt; it is closed when the run ends, however it ends."""
    node = cfg.get("logger")
    tracker = build(node, path="logger") if node is not None and node.get("_target_") else None
    logger = RunLogger(History(run.directory.history), tracker)
    params = {key: value for key, value in flatten(run.plain).items() if key.split(".")[0] not in _NO_PARAMS}
    command = run.path / "cmd.txt"  # processes that started beside the first may be faster than its writing
    tags = {
        "brainlab.fingerprint": fingerprint.value,
        "brainlab.data_source": str(fingerprint.data_source),
        "brainlab.overrides": " ".join(run.overrides)[:4000],
        "brainlab.command": command.read_text(encoding="utf-8").strip()[:4000] if command.exists() else "",
    }
    sha = (run.facts.get("code") or {}).get("git_sha")
    if sha:
        tags["mlflow.source.git.commit"] = sha
    for tag in cfg.get("tags") or []:
        tags[f"tag.{tag}"] = "true"
    directory = run.directory
    info = RunInfo(
        folder=run.path,
        experiment=str(cfg.get("experiment_name") or "brainlab"),
        attempt=run.attempt,
        params=params,
        tags=tags,
        files=(directory.resolved, directory.fingerprint, directory.path / ".hydra" / "overrides.yaml"),
        parent_run_id=run.parent_run_id(),
    )
    with loading():  # a tracker imports its library when it starts
        logger.start(info)
    run.on_finish.append(lambda state: logger.finish(state, (directory.results, directory.report, directory.best)))
    return logger
