"""The run directory: names of its files, and JSON that appears whole or not at all."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brainlab.errors import BrainlabError, InvalidFile
from brainlab.io.atomic import is_disk_full, overwrite, write_atomically

__all__ = ["RunDirectory", "is_rank_zero", "jsonable", "read_json", "started_by_srun", "without_room", "write_json"]

_ROOMY = 64 << 20


def is_rank_zero() -> bool:
    """Whether this process may write run files: the only one, or the first of a distributed run."""
    for variable in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        if variable in os.environ:
            return os.environ[variable] == "0"
    return True


def started_by_srun() -> bool:
    """Whether SLURM's ``srun`` started this process, alone or beside others; a shell inside of a job did not."""
    return "SLURM_STEP_ID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")


def jsonable(value: Any) -> Any:
    """``value`` in JSON's own types; numbers that JSON cannot hold become ``None``."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # numpy and torch, scalars and arrays
        return jsonable(value.tolist())
    return str(value)


def write_json(path: Path, content: Any, *, in_place: bool = False) -> None:
    """Write JSON through a temporary file and a rename; ranks other than 0 write nothing.

    ``in_place`` writes over the file where the disk has no room for a second one.
    """
    if not is_rank_zero():
        return
    text = json.dumps(jsonable(content), indent=1, ensure_ascii=False) + "\n"
    try:
        write_atomically(path, text)
    except OSError as error:
        if not (in_place and path.exists() and is_disk_full(error, path.parent)):
            raise
        overwrite(path, text)


def without_room(error: BaseException, directory: RunDirectory) -> BaseException:
    """The sentence to raise instead of ``error`` where the run directory's disk is full, or else ``error`` itself."""
    if isinstance(error, BrainlabError) or not isinstance(error, OSError | RuntimeError):
        return error
    file = getattr(error, "filename", None)
    if not is_disk_full(error, directory.path):
        return error
    if file is None and shutil.disk_usage(directory.path).free > _ROOMY:
        return error  # another disk
    if file is not None and not Path(os.fsdecode(file)).absolute().is_relative_to(directory.path):
        return error
    what = "its files" if file is None else os.path.relpath(os.fsdecode(file), directory.path)
    return InvalidFile(
        "run directory",
        directory.path,
        f"expected room on the disk to write {what} ({os.strerror(errno.ENOSPC)})",
        hint="make room and give the same command again: the run goes on; another hydra.run.dir starts a new one",
    )


def read_json(path: Path) -> Any:
    """The content of a JSON file, or ``None`` where it is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


class RunDirectory:
    """Where one run keeps everything that is needed to read, resume or repeat it.

    Args:
        path: the folder; it is created by whoever claims the run.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @property
    def previous(self) -> Path:
        return self.checkpoints / "previous.ckpt"

    @property
    def best(self) -> Path:
        return self.checkpoints / "best.ckpt"

    @property
    def resolved(self) -> Path:
        return self.path / "resolved.yaml"

    @property
    def fingerprint(self) -> Path:
        return self.path / "fingerprint.txt"

    @property
    def status(self) -> Path:
        return self.path / "status.json"

    @property
    def results(self) -> Path:
        return self.path / "results.json"

    @property
    def environment(self) -> Path:
        return self.path / "env.json"

    @property
    def log(self) -> Path:
        return self.path / "brainlab.log"

    @property
    def stderr(self) -> Path:
        return self.path / "stderr.txt"

    @property
    def history(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def mlflow_run_id(self) -> Path:
        return self.path / "mlflow_run_id"

    def used(self) -> bool:
        """Whether an earlier attempt left something here; what Hydra writes before a run does not count."""
        return self.resolved.exists() or self.status.exists() or self.checkpoints.exists()

    def write(self, name: str, text: str) -> None:
        """Write a text file whole; ranks other than 0 write nothing."""
        if is_rank_zero():
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, text)
