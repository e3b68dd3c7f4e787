"""What runs where a job of a sweep runs: thaw it, run it as Hydra would, and leave behind how it ended.

``python -m brainlab.run.sweep.work FOLDER`` is what SLURM's ``srun`` starts, FOLDER being where submitit keeps this
job; ``python -m brainlab.run.sweep.work --local SWEEP NUMBER`` is a job on this machine.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, open_dict, read_write

from brainlab.errors import BrainlabError, ConfigError, InvalidFile
from brainlab.io.atomic import write_atomically
from brainlab.run.directory import RunDirectory, is_rank_zero, jsonable, read_json, write_json
from brainlab.run.status import now
from brainlab.run.sweep.frozen import Frozen, check_own, check_private, outcome_path, thaw
from brainlab.run.sweep.jobs import JobChange, as_score

__all__ = ["Work", "change_of", "main", "run_config"]

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Work:
    """One job of a sweep, as small as a thing that submitit pickles should be.

    Args:
        folder: the sweep's folder.
        number: the job's number.
    """

    def __init__(self, folder: Path | str, number: int) -> None:
        self.folder, self.number = str(folder), number

    def __call__(self) -> None:
        """Run the job.

        Raises:
            Exception: whatever the job raised, after it was written down: the process ends with an error, so that the
                cluster calls the job failed as well.
        """
        run_frozen(Path(self.folder), self.number, _cluster_id())

    def checkpoint(self) -> Any:
        """What submitit runs after a requeue: the same job, which finds its own checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def run_frozen(folder: Path, number: int, job_id: str | None) -> None:
    """Thaw a job, run it, and write its outcome.

    Raises:
        Exception: whatever the job raised.
    """
    frozen: Frozen | None = None
    try:
        frozen = thaw(folder, number)
        job = run_config(frozen.config, _ready(frozen), _context(frozen.config), folder, number, job_id)
    except Exception as error:  # before its run began: a package that this machine lacks, a folder that it cannot see
        log.error("job %d cannot start", number, exc_info=True)
        job = JobReturn(cfg=None if frozen is None else frozen.config, status=JobStatus.FAILED)
        job.return_value = error
    change = change_of(number, job, folder)
    if is_rank_zero() or _speaks_for_all(change, folder):
        outcome = {
            "number": number,
            "state": change.state,
            "score": change.score,
            "reason": change.reason,
            "job_id": job_id,
            "submission": None if frozen is None else frozen.submission,  # then the id tells whose outcome it is
            "end": now(),
        }
        write_atomically(outcome_path(folder, number), json.dumps(jsonable(outcome), ensure_ascii=False))
    if job.status != JobStatus.COMPLETED:
        raise job._return_value


def run_config(
    config: DictConfig, function: Any, context: HydraContext, folder: Path, number: int, job_id: str | None
) -> JobReturn:
    """Run one composed configuration as Hydra runs a job of a sweep, without composing it again.

    Returns:
        Hydra's account of the job; a job that raised is no exception here.
    """
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.job.num, config.hydra.job.id = number, job_id or str(number)
        config.hydra.mode = RunMode.MULTIRUN  # else the entry point keeps an error for the end of a single run
        config.hydra.sweep.dir = str(folder)  # as it was claimed, whatever its name is made of
        if not is_rank_zero():  # the first process keeps the records of all
            config.hydra.output_subdir = None
            config.hydra.job_logging = {"root": None}  # configures nothing; warnings go to the log of this process
    return run_job(
        hydra_context=context,
        task_function=function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def change_of(number: int, job: JobReturn, folder: Path) -> JobChange:
    """What became of a job, and a traceback in its folder where it raised before it had one."""
    if job.status == JobStatus.COMPLETED:
        return JobChange(number, "COMPLETED", score=as_score(job._return_value))
    error = job._return_value
    directory = RunDirectory(Path(folder) / str(number))
    if is_rank_zero():
        _keep(directory, error)
    rank = os.environ.get("SLURM_PROCID", "0")
    who = "" if is_rank_zero() else f"process {rank}: "
    return JobChange(number, "FAILED", reason=who + _sentence(error), log=directory.stderr)


def _speaks_for_all(change: JobChange, folder: Path) -> bool:
    """Whether a further process of a job must say how it ended: it failed, and srun now ends the first as well."""
    status = read_json(RunDirectory(Path(folder) / str(change.number)).status)
    leaving = isinstance(status, dict) and status.get("state") == "PREEMPTED"  # then others fail for want of the first
    return change.state == "FAILED" and not leaving and not outcome_path(folder, change.number).exists()


def _ready(frozen: Frozen) -> Any:
    """Bring Hydra's and our own registries into the state that they had when the sweep was submitted."""
    from brainlab.config import search_path

    sys.argv[:] = frozen.command  # records of the run hold what the user typed
    try:
        os.chdir(frozen.cwd)
    except OSError as error:
        wanted = f"expected the folder that the sweep was started in ({error.strerror})"
        raise InvalidFile("cwd", frozen.cwd, wanted) from None
    search_path.use(frozen.folders)
    function = frozen.function()  # importing its module registers our types and resolvers
    setup_globals()
    HydraConfig.instance().set_config(frozen.config)
    _name_program(frozen.config)
    return function


def _name_program(config: DictConfig) -> None:
    from hydra.core.utils import JobRuntime

    JobRuntime.instance().set("name", str(config.hydra.job.name))


def _context(config: DictConfig) -> HydraContext:
    from hydra._internal.callbacks import Callbacks

    return HydraContext(config_loader=None, callbacks=Callbacks(config))  # type: ignore[arg-type]


def _keep(directory: RunDirectory, error: BaseException) -> None:
    """Make sure that a failed job has a state and a traceback, also where it failed before its run began."""
    directory.path.mkdir(parents=True, exist_ok=True)
    status = read_json(directory.status)
    if not isinstance(status, dict) or status.get("state") in ("PENDING", "RUNNING", "PREEMPTED"):
        status = status if isinstance(status, dict) else {"attempts": []}
        write_json(directory.status, {**status, "state": "FAILED", "exit": 1, "error": _sentence(error)})
    if not directory.stderr.exists() or not directory.stderr.stat().st_size:
        directory.stderr.write_text("".join(traceback.format_exception(error)), encoding="utf-8")


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    own = isinstance(error, BrainlabError | ConfigError) or text.startswith("Invalid ")
    return (text if own else f"{type(error).__name__}: {text}")[:500]


def _cluster_id() -> str | None:
    job, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{job}_{task}" if job and task else os.environ.get("SLURM_JOB_ID")


def main(arguments: Sequence[str]) -> int:
    """Entry of a job's process."""
    if arguments[:1] == ["--local"]:
        _, folder, number = arguments
        _end_with_parent()
        try:
            run_frozen(Path(folder), int(number), f"local-{os.getpid()}")
        except KeyboardInterrupt:
            return 130
        except Exception:
            log.debug("job failed", exc_info=True)
            return 1
        return 0
    _submitit(Path(arguments[0]))
    return 0


def _end_with_parent() -> None:
    """Let this job be interrupted when the sweep that started it is gone, as Ctrl-C there interrupts it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # inherited as ignored from a shell's background job
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != parent:  # gone before the call above
            raise SystemExit(130)


def _submitit(pattern: Path) -> None:
    """Hand this process over to submitit, once it is certain who wrote what it will unpickle."""
    os.environ["SUBMITIT_FOLDER"] = str(pattern)
    from submitit.core.job_environment import JobEnvironment
    from submitit.core.submission import process_job

    paths = JobEnvironment().paths
    check_private(paths.folder.parent)
    for path in (paths.folder, paths.submitted_pickle):
        if path.exists():  # else it is still on its way, into a folder that is ours
            check_own(path)
    # A killed attempt may have left half a result, over which submitit would stumble.
    paths.result_pickle.with_suffix(".pkl.save_tmp").unlink(missing_ok=True)
    process_job(pattern)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
