"""What ``hydra/launcher=submitit_slurm`` asks of the cluster, and ``submitit_local`` of this machine."""

from dataclasses import dataclass, field

from hydra.core.config_store import ConfigStore
from hydra_plugins.hydra_submitit_launcher.config import LocalQueueConf, SlurmQueueConf


@dataclass
class BrainlabSlurmConf(SlurmQueueConf):
    """Stock settings with defaults that suit training: one GPU, eight cores, requeue instead of dying at a signal."""

    _target_: str = "hydra_plugins.brainlab_slurm.launcher.SlurmLauncher"
    cpus_per_task: int | None = 8
    gpus_per_node: int | None = 1
    max_num_timeout: int = 5
    array_parallelism: int = 16
    # srun does not inherit cpus-per-task since SLURM 22.05; a profile that replaces the list keeps this line.
    setup: list[str] | None = field(default_factory=lambda: ["export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"])
    teardown: list[str] | None = None
    srun_args: list[str] | None = None
    use_srun: bool = True
    python: str | None = None
    exclusive: bool | None = None
    nodelist: str | None = None
    dependency: str | None = None
    mail_type: str | None = None
    mail_user: str | None = None
    poll_interval_s: float = 15.0  # between questions to the cluster while a sweep waits; sites dislike frequent ones


@dataclass
class BrainlabLocalConf(LocalQueueConf):
    """Processes on this machine; ``parallelism`` null means one per GPU, without GPUs one per four cores."""

    _target_: str = "hydra_plugins.brainlab_slurm.launcher.LocalLauncher"
    parallelism: int | None = None


def store() -> None:
    """Replace the stock settings; called after Hydra's plugin scan, which would overwrite what is stored earlier."""
    store = ConfigStore.instance().store
    store(group="hydra/launcher", name="submitit_slurm", node=BrainlabSlurmConf, provider="brainlab")
    store(group="hydra/launcher", name="submitit_local", node=BrainlabLocalConf, provider="brainlab")
