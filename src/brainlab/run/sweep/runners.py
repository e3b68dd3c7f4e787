"""Where the jobs of a sweep run, by the launcher that was chosen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from hydra.core.utils import JobStatus, configure_log, setup_globals
from omegaconf import DictConfig, OmegaConf

from brainlab.run.sweep.frozen import freeze
from brainlab.run.sweep.jobs import JobChange, Runner, SweepJob
from brainlab.run.sweep.local import LocalProcesses, left_running
from brainlab.run.sweep.slurm import SlurmArrays, cancel
from brainlab.run.sweep.watch import INTERVAL_S, Watcher
from brainlab.run.sweep.work import change_of, run_config

__all__ = ["Foreign", "InProcess", "Slurm", "runner_for", "script_for"]

_LOOK_EVERY_S = 1.0


def runner_for(launcher: Any, hydra_context: Any, task_function: Callable[..., Any], config: DictConfig) -> Runner:
    """The runner behind Hydra's choice of a launcher.

    Args:
        launcher: Hydra's launcher object.
        hydra_context: what Hydra gave the sweeper.
        task_function: what runs one job.
        config: the sweep's configuration with its ``hydra`` node.
    """
    kind = type(launcher).__name__
    module = type(launcher).__module__
    if kind == "BasicLauncher":
        return InProcess(hydra_context, task_function, config)
    if module.startswith("hydra_plugins.brainlab_slurm"):
        if kind == "SlurmLauncher":
            return Slurm(launcher.params, task_function)
        return LocalProcesses(task_function, launcher.params.get("parallelism"), launcher.params.get("cpus_per_task"))
    return Foreign(launcher)


def script_for(config: DictConfig, n_jobs: int) -> str | None:
    """What ``sbatch`` would be given for ``n_jobs`` jobs; ``None`` where SLURM is not the launcher."""
    node = OmegaConf.select(config, "hydra.launcher")
    if not str(node.get("_target_")).endswith(".SlurmLauncher"):
        return None
    params = OmegaConf.to_container(node, resolve=True)
    assert isinstance(params, dict)
    params.pop("_target_")
    return SlurmArrays(params, Path(str(config.hydra.sweep.dir)).absolute()).script(n_jobs)  # type: ignore[arg-type]


class InProcess:
    """One after another in this process."""

    parallel = 1

    def __init__(self, hydra_context: Any, task_function: Callable[..., Any], config: DictConfig) -> None:
        self._context, self._function, self._config = hydra_context, task_function, config
        self._jobs: dict[int, SweepJob] = {}
        self._own: set[int] = set()
        self._cancelled: set[int] = set()

    def submit(self, jobs: Sequence[SweepJob], folder: Path) -> dict[int, str]:
        self._jobs.update({job.number: job for job in jobs})
        self._own.update(job.number for job in jobs)
        return {job.number: f"here-{job.number}" for job in jobs}

    def watch(self, ids: Mapping[int, str], folder: Path) -> Iterator[JobChange]:
        while self._jobs:
            number = next(iter(self._jobs))
            job = self._jobs.pop(number)
            if number in self._cancelled:
                yield JobChange(number, "CANCELLED", reason="cancelled by the sweep before it started")
                continue
            yield JobChange(number, "RUNNING")
            yield self._run(job, folder)
        yield from left_running(ids, self._own, folder)

    def cancel(self, ids: Mapping[int, str]) -> None:
        self._cancelled |= set(ids)

    def script(self, jobs: Sequence[SweepJob], folder: Path) -> str | None:
        return None

    def _run(self, job: SweepJob, folder: Path) -> JobChange:
        setup_globals()
        try:
            done = run_config(job.config, self._function, self._context, folder, job.number, None)
        finally:
            # A job's logging writes into its own folder; between jobs the sweep's is in force again.
            configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        return change_of(job.number, done, folder)


class Slurm:
    """On a cluster."""

    def __init__(self, params: Mapping[str, Any], task_function: Callable[..., Any]) -> None:
        self._params, self._function = dict(params), task_function
        self._watcher: Watcher | None = None
        self._submissions: dict[int, str] = {}
        self.parallel = int(self._params.get("array_parallelism") or 1)

    def submit(self, jobs: Sequence[SweepJob], folder: Path) -> dict[int, str]:
        arrays = SlurmArrays(self._params, folder)
        token = freeze(jobs, folder, self._function)
        numbers = [job.number for job in jobs]
        ids = arrays.submit(numbers)
        self._submissions.update(dict.fromkeys(numbers, token))
        return ids

    def watch(self, ids: Mapping[int, str], folder: Path) -> Iterator[JobChange]:
        interval_s = float(self._params.get("poll_interval_s") or INTERVAL_S)
        self._watcher = watcher = Watcher(ids, folder, interval_s, submissions=self._submissions)
        while True:
            yield from watcher.look()
            if not watcher.unfinished:
                return
            time.sleep(_LOOK_EVERY_S)

    def cancel(self, ids: Mapping[int, str]) -> None:
        if self._watcher is not None:
            self._watcher.cancelling(ids)
        cancel(list(ids.values()))

    def script(self, jobs: Sequence[SweepJob], folder: Path) -> str | None:
        return SlurmArrays(self._params, folder).script(len(jobs))


class Foreign:
    """Whatever another Hydra launcher does: it composes the jobs itself and is told nothing before all have ended."""

    parallel = 1

    def __init__(self, launcher: Any) -> None:
        self._launcher = launcher
        self._jobs: dict[int, SweepJob] = {}
        self._cancelled: set[int] = set()

    def submit(self, jobs: Sequence[SweepJob], folder: Path) -> dict[int, str]:
        self._jobs.update({job.number: job for job in jobs})
        return {job.number: f"{type(self._launcher).__name__}-{job.number}" for job in jobs}

    def watch(self, ids: Mapping[int, str], folder: Path) -> Iterator[JobChange]:
        while self._jobs:
            block = _first_block(sorted(self._jobs))
            jobs = [self._jobs.pop(number) for number in block]
            if self._cancelled & set(block):
                yield from (JobChange(number, "CANCELLED", reason="cancelled by the sweep") for number in block)
                continue
            yield from (JobChange(number, "RUNNING") for number in block)
            try:
                done = self._launcher.launch([list(job.overrides) for job in jobs], initial_job_idx=block[0])
            except Exception as error:
                reason = f"{type(self._launcher).__name__} failed: {type(error).__name__}: {error}"
                yield from (JobChange(number, "FAILED", reason=reason) for number in block)
                continue
            for number, job in zip(block, done, strict=True):
                if job.status == JobStatus.UNKNOWN:
                    yield JobChange(
                        number, "LOST", reason=f"{type(self._launcher).__name__} does not know what became of it"
                    )
                else:
                    yield change_of(number, job, folder)

    def cancel(self, ids: Mapping[int, str]) -> None:
        self._cancelled |= set(ids)

    def script(self, jobs: Sequence[SweepJob], folder: Path) -> str | None:
        return None


def _first_block(numbers: Sequence[int]) -> list[int]:
    """The leading numbers without a gap: a launcher counts on from the first.

    >>> _first_block([3, 4, 6])
    [3, 4]
    """
    block = [numbers[0]]
    for one, other in pairwise(numbers):
        if other != one + 1:
            break
        block.append(other)
    return block
