"""The sweeper that runs every combination; all were judged before Hydra started."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from omegaconf import OmegaConf


@dataclass
class BrainlabSweeperConf:
    """``params`` are overrides that every sweep gets, e.g. ``seed: range(0,5)``."""

    _target_: str = "hydra_plugins.brainlab_sweeper.sweeper.BrainlabSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None


ConfigStore.instance().store(group="hydra/sweeper", name="brainlab", node=BrainlabSweeperConf, provider="brainlab")


class BrainlabSweeper(BasicSweeper):
    """Every combination of the given values; a failed one stops none of the others."""

    def sweep(self, arguments: list[str]) -> Any:
        """Claim the sweep's folder, run, and tell how each job ended.

        Raises:
            ConfigError: the folder cannot be created; nothing was written.
            JobsFailed: at least one job did not complete.
        """
        from brainlab.config.compose import Composer
        from brainlab.config.preflight import combinations
        from brainlab.config.run_folder import claim

        assert self.config is not None
        assert self.hydra_context is not None
        # Hydra publishes a job's configuration only while it runs; the sweep's own ${hydra:…} need it now.
        HydraConfig.instance().set_config(self.config)
        composer = Composer(self.config.hydra.job.config_name, loader=self.hydra_context.config_loader)
        jobs = combinations(composer, self.config, arguments)
        folder = claim(self.config, "hydra.sweep.dir")
        OmegaConf.save(self.config, folder / "multirun.yaml")
        return self._run(jobs, folder)

    def _run(self, jobs: list[list[str]], folder: Path) -> list[Sequence[JobReturn]]:
        from brainlab.run.sweep_table import SweepTable

        assert self.config is not None
        assert self.launcher is not None
        logging.getLogger("hydra._internal.core_plugins.basic_launcher").setLevel(logging.WARNING)
        table = SweepTable(folder, jobs, metric=self.config.sweep.metric)
        limit = self.config.sweep.max_failures
        returns: list[Sequence[JobReturn]] = []
        try:
            for first, batch in self._batches(jobs):
                if len(batch) < len(jobs):
                    print(f"[{first + 1}/{len(jobs)}] {table.described(first)}", flush=True)
                returns.append(self.launcher.launch(batch, initial_job_idx=first))
                for number, job in enumerate(returns[-1], start=first):
                    table.ended(number, job)
                table.write()
                if limit is not None and table.n_failed >= limit:
                    break
        finally:
            if returns:
                table.write()
                table.show()
        table.raise_if_failed()
        return returns

    def _batches(self, jobs: list[list[str]]) -> list[tuple[int, list[list[str]]]]:
        """Local jobs one at a time, so that the table grows as they end; a cluster gets all of them at once."""
        if type(self.launcher).__name__ == "BasicLauncher":
            return [(number, [job]) for number, job in enumerate(jobs)]
        size = self.max_batch_size or len(jobs)
        return [(first, jobs[first : first + size]) for first in range(0, len(jobs), size)]
