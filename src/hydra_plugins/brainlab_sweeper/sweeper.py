"""The sweeper that runs every combination; all were judged before Hydra started."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict, read_write


@dataclass
class BrainlabSweeperConf:
    """``params`` are overrides that every sweep gets, e.g. ``seed: range(0,5)``."""

    _target_: str = "hydra_plugins.brainlab_sweeper.sweeper.BrainlabSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None


ConfigStore.instance().store(group="hydra/sweeper", name="brainlab", node=BrainlabSweeperConf, provider="brainlab")


class BrainlabSweeper(BasicSweeper):
    """Every combination of the given values, or a search among them; a failed job stops none of the others."""

    def sweep(self, arguments: list[str]) -> Any:
        """Claim the sweep's folder, run what is left to run, and tell how each job ended.

        Raises:
            ConfigError: the folder cannot be created, or holds a sweep with other settings; nothing was started.
            JobsFailed: at least one job did not complete.
        """
        from brainlab.config.compose import Composer
        from brainlab.config.preflight import combinations
        from brainlab.config.run_folder import claim
        from brainlab.run.sweep.record import SweepRecord

        assert self.config is not None
        assert self.hydra_context is not None
        # Hydra publishes a job's configuration only while it runs; the sweep's own ${hydra:…} need it now.
        HydraConfig.instance().set_config(self.config)
        composer = Composer(self.config.hydra.job.config_name, loader=self.hydra_context.config_loader)
        searches = self.config.sweep.method != "grid"
        words = [] if searches else combinations(composer, self.config, arguments)
        folder = claim(self.config, "hydra.sweep.dir")
        with SweepRecord(folder, self.config) as record:
            if searches:
                from brainlab.run.sweep.search import search

                search(self.config, arguments, record, self._runner(), self._compose)
            else:
                self._grid(record, words)
            if self.config.wait:
                record.finish()
                record.show()
                record.raise_if_failed()
        return None

    def _grid(self, record: Any, words: Sequence[Sequence[str]]) -> None:
        from brainlab.run.sweep.follow import follow

        assert self.config is not None
        jobs = record.take([(each, self._compose(each)) for each in words])
        OmegaConf.save(self.config, record.folder / "multirun.yaml")
        runner = self._runner()
        ids = dict(record.alive)  # a sweep whose submitter was stopped: its jobs are watched again, not repeated
        if jobs:
            started = runner.submit(jobs, record.folder)
            record.submitted(started)
            ids.update(started)
        if not self.config.wait:
            record.left()
            return
        for _ in follow(record, runner, ids):
            pass

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration of one job, judged like every other.

        Raises:
            ConfigError: it cannot run.
        """
        assert self.config is not None
        assert self.hydra_context is not None
        cfg = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with read_write(cfg.hydra), open_dict(cfg.hydra):
            cfg.hydra.job.num, cfg.hydra.job.id = 0, "0"
            cfg.hydra.runtime.output_dir = "."
        HydraConfig.instance().set_config(cfg)
        return cfg

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        self.task_function = task_function
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def _runner(self) -> Any:
        logging.getLogger("hydra._internal.core_plugins.basic_launcher").setLevel(logging.WARNING)
        try:
            from brainlab.run.sweep.runners import runner_for
        except ImportError:
            return _ByLauncher(self.launcher)
        return runner_for(self.launcher, self.hydra_context, self.task_function, self.config)


class _ByLauncher:
    """Stands in for the runners until they are there: whatever launcher was chosen, all jobs in one call each."""

    parallel = 1

    def __init__(self, launcher: Any) -> None:
        self.launcher = launcher
        self.jobs: dict[int, Any] = {}
        self.cancelled: set[int] = set()

    def submit(self, jobs: Sequence[Any], folder: Path) -> dict[int, str]:
        self.jobs = {job.number: job for job in jobs}
        return {job.number: f"local-{job.number}" for job in jobs}

    def watch(self, ids: Mapping[int, str], folder: Path) -> Iterator[Any]:
        from brainlab.run.directory import read_json
        from brainlab.run.sweep.jobs import JobChange, as_score

        together = type(self.launcher).__name__ != "BasicLauncher"
        numbers = sorted(self.jobs)
        returns: dict[int, Any] = {}
        if together:
            listed = [list(self.jobs[number].overrides) for number in numbers]
            returns = dict(zip(numbers, self.launcher.launch(listed, initial_job_idx=numbers[0]), strict=True))
        for number in numbers:
            if number in self.cancelled:
                yield JobChange(number, "CANCELLED", reason="not started")
                continue
            if not together:
                yield JobChange(number, "RUNNING")
                (returns[number],) = self.launcher.launch([list(self.jobs[number].overrides)], initial_job_idx=number)
            job = returns[number]
            completed = getattr(job.status, "name", "") == "COMPLETED"
            status = read_json(folder / str(number) / "status.json") or {}
            yield JobChange(
                number,
                "COMPLETED" if completed else "FAILED",
                as_score(job._return_value),
                None if completed else status.get("error") or str(job._return_value),
                log=None if completed else folder / str(number) / "stderr.txt",
            )

    def cancel(self, ids: Mapping[int, str]) -> None:
        self.cancelled |= set(ids)
