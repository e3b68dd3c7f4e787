"""What ``hydra/launcher=submitit_slurm`` asks of the cluster."""

from dataclasses import dataclass, field

from hydra.core.config_store import ConfigStore
from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf


@dataclass
class BrainlabSlurmConf(SlurmQueueConf):
    """Stock settings with defaults that suit training: one GPU, eight cores, requeue instead of dying at a signal."""

    cpus_per_task: int | None = 8
    gpus_per_node: int | None = 1
    max_num_timeout: int = 5
    array_parallelism: int = 16
    # srun does not inherit cpus-per-task since SLURM 22.05.
    setup: list[str] | None = field(default_factory=lambda: ["export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"])


def store() -> None:
    """Replace the stock settings; called after Hydra's plugin scan, which would overwrite what is stored earlier."""
    ConfigStore.instance().store(
        group="hydra/launcher", name="submitit_slurm", node=BrainlabSlurmConf, provider="brainlab"
    )
