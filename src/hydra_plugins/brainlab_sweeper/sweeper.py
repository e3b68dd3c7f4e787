"""The sweeper that runs every combination; all were judged before Hydra started."""

from collections.abc import Sequence
from dataclasses import dataclass
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
        from brainlab.cli import as_typed
        from brainlab.config.compose import Composer
        from brainlab.config.preflight import combinations
        from brainlab.config.run_folder import claim
        from brainlab.run.sweep.record import SweepRecord

        assert self.config is not None
        assert self.hydra_context is not None
        as_typed()
        # Hydra publishes a job's configuration only while it runs; the sweep's own ${hydra:…} need it now.
        HydraConfig.instance().set_config(self.config)
        composer = Composer(self.config.hydra.job.config_name, loader=self.hydra_context.config_loader)
        searches = self.config.sweep.method != "grid"
        words = [] if searches else combinations(composer, self.config, arguments)
        folder = claim(self.config, "hydra.sweep.dir")
        with SweepRecord(folder, self.config) as record:
            found = self._search(record, arguments) if searches else self._grid(record, words)
            if self.config.wait:
                record.finish()
                record.show()
                if found:
                    print(found, flush=True)
                record.raise_if_failed()

    def _search(self, record: Any, arguments: list[str]) -> str:
        from brainlab.run.sweep.search import search

        assert self.config is not None
        return search(self.config, arguments, record, self._runner(), self._judged)

    def _grid(self, record: Any, words: Sequence[Sequence[str]]) -> str:
        from brainlab.run.sweep.follow import follow, submit

        assert self.config is not None
        jobs = record.take([(each, self._compose(each)) for each in words])
        OmegaConf.save(self.config, record.folder / "multirun.yaml")
        runner = self._runner()
        ids = dict(record.alive)  # a sweep whose submitter was stopped: its jobs are watched again, not repeated
        if jobs:
            ids.update(submit(record, runner, jobs))
            del jobs  # hundreds of configurations; the runner keeps what it still needs
        if not self.config.wait:
            record.left()
            return ""
        for _ in follow(record, runner, ids):
            pass
        return ""

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration of one job, which was judged before Hydra started."""
        from brainlab.config.preflight import handed_over

        assert self.config is not None
        assert self.hydra_context is not None
        cfg = handed_over(self.config, overrides)
        if cfg is None:
            cfg = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with read_write(cfg.hydra), open_dict(cfg.hydra):
            cfg.hydra.job.num, cfg.hydra.job.id = 0, "0"
            cfg.hydra.runtime.output_dir = "."
        HydraConfig.instance().set_config(cfg)
        return cfg

    def _judged(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration of one trial, which nobody could judge before it was proposed.

        Raises:
            ConfigError: it cannot run.
        """
        from brainlab.config.preflight import judged

        assert self.config is not None
        assert self.hydra_context is not None
        return judged(self.hydra_context.config_loader, self.config, overrides)

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        self.task_function = task_function
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def _runner(self) -> Any:
        from brainlab.run.sweep.runners import runner_for

        assert self.config is not None
        return runner_for(self.launcher, self.hydra_context, self.task_function, self.config)
