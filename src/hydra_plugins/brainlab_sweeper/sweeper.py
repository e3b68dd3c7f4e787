"""The sweeper that checks every combination before it starts one."""

from dataclasses import dataclass, field

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore


@dataclass
class BrainlabSweeperConf:
    _target_: str = "hydra_plugins.brainlab_sweeper.sweeper.BrainlabSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None


ConfigStore.instance().store(group="hydra/sweeper", name="brainlab", node=BrainlabSweeperConf, provider="brainlab")


class BrainlabSweeper(BasicSweeper):
    """Every combination of the given values."""
