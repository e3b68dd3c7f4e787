"""Types of the configuration: Hydra checks them while it composes, before anything runs."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

__all__ = ["ALLOWED_TARGETS", "BrainlabConf", "MonitorConf", "SecurityConf", "SweepConf", "TrainerConf", "register"]

ALLOWED_TARGETS = (
    "brainlab",
    "torch.nn",
    "torch.optim",
    "torch.utils.data",
    "torchmetrics",
    "lightning.pytorch.Trainer",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "lightning.pytorch.strategies",
    "lightning.pytorch.plugins",
    "lightning.pytorch.profilers",
    "diffusers.schedulers",
    "diffusers.models",
)
"""Packages and full names that ``_target_`` may start with. Narrow on purpose: no package that launches processes."""


@dataclass
class MonitorConf:
    """Which logged metric decides what "best" is, and whether it should be small or large."""

    metric: str = "val/loss"
    mode: str = "min"


@dataclass
class SecurityConf:
    """What a configuration may build."""

    allowed_targets: list[str] = field(default_factory=lambda: list(ALLOWED_TARGETS))


@dataclass
class SweepConf:
    """How combinations are chosen, how a sweep is judged, and when it gives up; see ``conf/sweep``."""

    metric: str | None = None
    mode: str = "min"
    max_failures: int | None = None
    method: str = "grid"
    n_trials: int = 20
    n_parallel: int | None = None
    seed: int = 0
    storage: str | None = None
    pruner: str | None = None


@dataclass
class TrainerConf:
    """Lightning's Trainer; ``null`` leaves a key to Lightning. Logger and callbacks have groups of their own."""

    _target_: str = "lightning.pytorch.Trainer"
    accelerator: str = "auto"
    devices: Any = "auto"
    num_nodes: int = 1
    strategy: Any = "auto"
    precision: Any = None
    max_epochs: int | None = None
    min_epochs: int | None = None
    max_steps: int = -1
    min_steps: int | None = None
    max_time: Any = None
    fast_dev_run: Any = False
    limit_train_batches: int | float | None = None
    limit_val_batches: int | float | None = None
    limit_test_batches: int | float | None = None
    limit_predict_batches: int | float | None = None
    overfit_batches: int | float = 0.0
    val_check_interval: int | float | None = None
    check_val_every_n_epoch: int | None = 1
    num_sanity_val_steps: int | None = None
    log_every_n_steps: int | None = None
    enable_checkpointing: bool | None = None
    enable_progress_bar: bool | None = None
    enable_model_summary: bool | None = None
    accumulate_grad_batches: int = 1
    gradient_clip_val: int | float | None = None
    gradient_clip_algorithm: str | None = None
    deterministic: Any = None
    benchmark: bool | None = None
    inference_mode: bool = True
    use_distributed_sampler: bool = True
    profiler: Any = None
    detect_anomaly: bool = False
    plugins: Any = None
    sync_batchnorm: bool = False
    reload_dataloaders_every_n_epochs: int = 0


@dataclass
class BrainlabConf:
    """The top level of every configuration. ``Any`` nodes are checked against what their ``_target_`` accepts."""

    experiment_name: str | None = None
    seed: int = 0
    tags: list[str] = field(default_factory=list)
    monitor: MonitorConf = field(default_factory=MonitorConf)
    paths: dict[str, str | None] = field(default_factory=dict)
    data: Any = None
    model: Any = None
    evaluation: Any = None
    trainer: TrainerConf = field(default_factory=TrainerConf)
    job: Any = None
    callbacks: Any = None
    logger: Any = None
    sweep: SweepConf = field(default_factory=SweepConf)
    security: SecurityConf = field(default_factory=SecurityConf)
    weights: dict[str, Any] = field(default_factory=lambda: {"encoder": None, "network": None})
    checkpoint: Any = None
    runs: Any = None
    validate: Any = False
    dry: bool = False
    wait: bool = True
    resume: str = "auto"
    rerun: str | None = None


def register() -> None:
    """Store the schema under ``brainlab`` and make our resolvers known; safe to call again."""
    ConfigStore.instance().store(name="brainlab", node=BrainlabConf, provider="brainlab")
    # Cached, so that one composition names one folder however often it is asked.
    OmegaConf.register_new_resolver("brainlab.run_id", lambda: secrets.token_hex(3), use_cache=True, replace=True)
    # Not ${hydra:runtime.cwd}: Hydra cannot resolve that yet when it names the folder of a sweep.
    OmegaConf.register_new_resolver("brainlab.cwd", os.getcwd, replace=True)
    OmegaConf.register_new_resolver("brainlab.user_cache", _user_cache, replace=True)
    if not OmegaConf.has_resolver("stage"):
        # Chains replace it; until a chain runs, a reference to a stage stands for itself.
        OmegaConf.register_new_resolver("stage", lambda reference: "${stage:" + reference + "}")


def _user_cache() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return str(Path(base) / "brainlab")
