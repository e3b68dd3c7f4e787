"""Starts the jobs of a sweep on a cluster, or in parallel on this machine."""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher as StockSlurmLauncher


def _launch(launcher: Any, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
    """What Hydra asks of a launcher, for sweepers other than ours: every job's end, and no exception for any."""
    from pathlib import Path

    from brainlab.config.preflight import judged
    from brainlab.errors import BrainlabError
    from brainlab.run.sweep.jobs import SweepJob
    from brainlab.run.sweep.runners import runner_for

    folder = Path(str(launcher.config.hydra.sweep.dir)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    loader = launcher.hydra_context.config_loader
    jobs = [
        SweepJob(number, tuple(overrides), judged(loader, launcher.config, overrides))
        for number, overrides in enumerate(job_overrides, start=initial_job_idx)
    ]
    runner = runner_for(launcher, launcher.hydra_context, launcher.task_function, launcher.config)
    ids = runner.submit(jobs, folder)
    returns = {
        job.number: JobReturn(overrides=list(job.overrides), cfg=job.config, status=JobStatus.UNKNOWN) for job in jobs
    }
    if launcher.config.get("wait", True):
        for change in runner.watch(ids, folder):
            if change.ended:
                completed = change.state == "COMPLETED"
                returns[change.number].status = JobStatus.COMPLETED if completed else JobStatus.FAILED
                error = BrainlabError(f"{change.state}: {change.reason} (log: {change.log})")
                returns[change.number].return_value = change.score if completed else error
    return [returns[job.number] for job in jobs]


class SlurmLauncher(StockSlurmLauncher):
    """SLURM arrays whose failures are failures, whose lost jobs are found, and whose configurations are frozen."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit all jobs, then wait for them unless ``wait=false``."""
        return _launch(self, job_overrides, initial_job_idx)


class LocalLauncher(BaseSubmititLauncher):
    """Several processes on this machine."""

    _EXECUTOR = "local"

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs, as many at a time as ``parallelism`` says."""
        return _launch(self, job_overrides, initial_job_idx)
