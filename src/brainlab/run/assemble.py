"""Builds the objects of a run from its configuration: data, task, callbacks, trainer, evaluator."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from brainlab.config.build import build
from brainlab.errors import ConfigError, ShapeMismatch
from brainlab.run.directory import RunDirectory, started_by_srun

__all__ = [
    "announce",
    "build_callbacks",
    "build_data",
    "build_evaluator",
    "build_task",
    "build_trainer",
    "fill_shapes",
    "prepare",
]

log = logging.getLogger(__name__)

_FORCED = {"enable_progress_bar": False, "enable_checkpointing": True}


def build_data(cfg: DictConfig) -> Any:
    """The data module; nothing is read yet."""
    if cfg.get("data") is None:
        raise ConfigError("data", "null", "expected a data module", hint="choose one: data=NAME")
    return build(cfg.data, path="data")


def prepare(data: Any, stage: str | None = "fit") -> None:
    """Prepare what is missing and set the splits up; says at once whether the data are simulated."""
    announce(data)
    data.prepare_data()
    data.setup(stage)


def announce(data: Any) -> None:
    """The line that leaves no doubt about where the data come from."""
    source = getattr(data, "source", None)
    if source == "synthetic":
        log.info("data source: SIMULATED (no files are configured; planted effects, not brain recordings)")
    elif source is not None:
        log.info("data source: files")


def fill_shapes(model: DictConfig, shapes: Mapping[str, int]) -> DictConfig:
    """Fill top-level keys of ``cfg.model`` that are null with the sizes that the data have.

    Raises:
        ShapeMismatch: a key is set to something else than the data have.
    """
    filled = _copied(model)
    with open_dict(filled):
        for name, size in shapes.items():
            if name not in filled:
                continue
            if filled[name] is None:
                filled[name] = size
            elif filled[name] != size:
                raise ShapeMismatch(
                    f"model.{name}",
                    filled[name],
                    f"expected {size}, which is what the data have",
                    hint=f"set model.{name}=null to take it from the data",
                )
    return filled


def build_task(cfg: DictConfig, data: Any) -> Any:
    """The task with its network, sized by the data."""
    return build(fill_shapes(cfg.model, data.shapes), path="model")


def build_evaluator(cfg: DictConfig) -> Any:
    """The evaluation protocol, or ``None``."""
    node = cfg.get("evaluation")
    return None if node is None or not node.get("_target_") else build(node, path="evaluation")


def build_callbacks(cfg: DictConfig, context: Mapping[str, Any]) -> dict[str, Any]:
    """Callbacks by name; null entries are dropped. ``context`` is given to those that store it in checkpoints."""
    nodes = cfg.get("callbacks") or {}
    quiet = cfg.trainer.get("enable_progress_bar") is False
    found = {}
    for name, node in nodes.items():
        if node is None or (quiet and name == "progress"):
            continue
        if "_target_" not in node:
            near = difflib.get_close_matches("_target_", list(node), n=1)
            raise ConfigError(
                f"callbacks.{name}",
                node,
                "expected a mapping with _target_, or null",
                hint=f"did you mean _target_ instead of {near[0]}?" if near else None,
            )
        callback = build(node, path=f"callbacks.{name}")
        if hasattr(callback, "context"):
            callback.context = dict(context)
        found[str(name)] = callback
    return found


def build_trainer(cfg: DictConfig, run: RunDirectory, callbacks: list[Any], logger: Any) -> Any:
    """Lightning's trainer: our run directory, our callbacks, our logger; keys that are null stay Lightning's own."""
    node = _copied(cfg.trainer)
    OmegaConf.set_struct(node, False)
    for key in [key for key, value in node.items() if value is None]:
        del node[key]
    extra = {**_FORCED, "default_root_dir": str(run.path), "callbacks": callbacks, "logger": logger}
    if node.get("max_epochs") is None and node.get("max_steps", -1) == -1 and node.get("max_time") is None:
        raise ConfigError(
            "trainer.max_epochs", "null", "expected a limit to training", hint="set trainer.max_epochs or max_steps"
        )
    strategy = str(node.get("strategy"))
    if any(word in strategy for word in ("spawn", "fork", "notebook")):
        raise ConfigError(
            "trainer.strategy",
            strategy,
            "expected one whose processes start from the command: an open run cannot be copied into others",
            hint="use trainer.strategy=ddp",
        )
    if started_by_srun():
        extra["plugins"] = [*_plugins(node), _slurm()]
        node.pop("plugins", None)
    return build(node, path="trainer", **extra)


def _plugins(node: DictConfig) -> list[Any]:
    plugins = node.get("plugins")
    if plugins is None:
        return []
    return [
        build(plugin, path="trainer.plugins") if OmegaConf.is_dict(plugin) else plugin
        for plugin in (plugins if OmegaConf.is_list(plugins) else [plugins])
    ]


def _slurm() -> Any:
    """What tells Lightning that SLURM started the processes; putting jobs back into the queue is the launcher's."""
    from lightning.pytorch.plugins.environments import SLURMEnvironment

    return SLURMEnvironment(auto_requeue=False)


def _copied(node: DictConfig) -> DictConfig:
    """A copy that may be changed and still hangs in its configuration: interpolations and the allow-list look up."""
    copy: DictConfig = OmegaConf.create(OmegaConf.to_container(node, resolve=False))  # type: ignore[assignment]
    copy._set_parent(node._get_parent())
    return copy
