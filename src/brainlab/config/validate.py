"""Checks a composed configuration: keys against what they build, targets against the allow-list, settings together.

Types are checked by the schema while Hydra composes; ``+key=value`` passes that, so keys are checked again here.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from brainlab.config.explain import unknown_key
from brainlab.config.kinds import expected_instead
from brainlab.config.locate import Origins
from brainlab.config.run_folder import FOLDER_NAME
from brainlab.config.schema import ALLOWED_TARGETS, BrainlabConf, MonitorConf, SecurityConf, SweepConf
from brainlab.config.signatures import Definition
from brainlab.config.targets import HYDRA_TARGETS, Refused, admitted, allowed_targets, check_target, targets_in
from brainlab.errors import ConfigError

__all__ = ["all_targets", "validate", "validate_hydra"]

_STEP = re.compile(r"data\.(?:sources\.[^.]+\.)?steps\.[^.]+\._target_")
_STEPS = "brainlab.prepare.steps"
_ALONE = ("brainlab.run.fit.Fit", "brainlab.run.prepare.Prepare")
_OWN_KEYS = {"_target_", "_partial_", "_args_", "_recursive_", "_convert_"}
_TYPED = {"monitor": MonitorConf, "sweep": SweepConf, "security": SecurityConf}
_BUILT = {"data": False, "model": False, "trainer": False, "job": False, "evaluation": True, "logger": True}


def validate(cfg: DictConfig, origins: Origins) -> None:
    """Check everything of ``cfg`` that is ours (layers 2 and 3).

    Raises:
        ConfigError: for the first key that cannot work.
    """
    _known_keys(cfg, origins)
    plain = _resolved(cfg, origins)
    allowed = allowed_targets(plain)
    for name, may_be_null in _BUILT.items():
        _is_built(name, plain.get(name), may_be_null, origins)
    for name, node in (plain.get("callbacks") or {}).items():
        if node is not None:
            _is_built(f"callbacks.{name}", node, True, origins)
    for key, target in targets_in(plain, ""):
        found = _allowed(key, target, allowed, origins)  # all of them before any other complaint
        _is_step(key, found, origins)
    _values(plain, origins)  # before the nodes that refer to them
    for key, node in _target_nodes(plain, ""):
        _fits(key, node, allowed, cfg, origins)
    _references(plain, origins)
    _together(cfg, plain, origins)


def validate_hydra(cfg: DictConfig, origins: Origins) -> None:
    """Check what Hydra and ``logging`` build themselves, before they do; and the keys of Hydra's own node.

    Raises:
        ConfigError: a target outside the allow-list, or an unknown key.
    """
    _hydra_keys(cfg.hydra, "hydra", cfg, origins)
    allowed = (*allowed_targets(cfg), *HYDRA_TARGETS)
    for name in ("callbacks", "launcher", "sweeper", "job_logging", "hydra_logging"):
        node = OmegaConf.select(cfg.hydra, name)
        if node is None:
            continue
        plain = _container(cfg.hydra, name, f"hydra.{name}", origins)
        for key, target in targets_in(plain, f"hydra.{name}", logging_keys=name.endswith("logging")):
            if isinstance(target, str) and target.startswith("ext://"):
                target = target.removeprefix("ext://")
                if target in ("sys.stdout", "sys.stderr"):
                    continue
            _allowed(key, target, allowed, origins)


def all_targets(cfg: DictConfig) -> Iterator[tuple[str, str]]:
    """Every ``_target_`` of our own nodes with its key, interpolations resolved."""
    for name in cfg:
        if name != "hydra" and OmegaConf.is_config(cfg[name]):
            yield from targets_in(OmegaConf.to_container(cfg[name], resolve=True), str(name))


def _known_keys(cfg: DictConfig, origins: Origins) -> None:
    known = {field.name for field in dataclasses.fields(BrainlabConf)}
    for key in cfg:
        if key != "hydra" and key not in known:
            raise unknown_key(str(key), _raw(cfg, key), cfg, origins, known=sorted(known))
    for name, schema in _TYPED.items():
        fields = [field.name for field in dataclasses.fields(schema)]
        for key in cfg.get(name) or {}:
            if key not in fields:
                raise unknown_key(f"{name}.{key}", _raw(cfg[name], key), cfg, origins, known=fields)


def _hydra_keys(node: DictConfig, path: str, cfg: DictConfig, origins: Origins) -> None:
    kind = OmegaConf.get_type(node)
    fields = [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else None
    for key in node:
        here = ".".join((path, str(key)))
        if fields is not None and key not in (*fields, "_target_", "env"):  # hydra/env has no field of its own
            raise unknown_key(here, _raw(node, key), cfg, origins, known=fields)
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not (child._is_none() or child._is_missing() or child._is_interpolation()):
            _hydra_keys(child, here, cfg, origins)


def _resolved(cfg: DictConfig, origins: Origins) -> dict[str, Any]:
    return {str(key): _container(cfg, key, str(key), origins) for key in cfg if key != "hydra"}


def _container(parent: Any, key: Any, path: str, origins: Origins) -> Any:
    """The plain value of ``parent[key]``; names the exact key that is missing or cannot be resolved."""
    if OmegaConf.is_missing(parent, key):
        raise ConfigError(path, "???", "missing value", where=origins.where(path), hint=f"set it: {path}=…")
    try:
        value = parent[key]
    except OmegaConfBaseException as error:
        raise ConfigError(
            path, _raw(parent, key), f"cannot be resolved: {_first_line(error)}", where=origins.where(path)
        ) from None
    if OmegaConf.is_dict(value):
        return {name: _container(value, name, f"{path}.{name}", origins) for name in value}
    if OmegaConf.is_list(value):
        return [_container(value, index, f"{path}[{index}]", origins) for index in range(len(value))]
    return value


def _raw(parent: Any, key: Any) -> Any:
    node = parent._get_node(key)
    value = node._value() if node is not None else None
    return "{…}" if isinstance(value, dict) else "[…]" if isinstance(value, list) else value


def _is_built(name: str, node: Any, may_be_null: bool, origins: Origins) -> None:
    if node is None and (may_be_null or name in ("data", "model")):
        return
    if not isinstance(node, Mapping) or "_target_" not in node:
        shown = "{…}" if isinstance(node, Mapping) else node
        group = name.partition(".")[0]
        raise ConfigError(
            name,
            shown,
            "expected a node with _target_" + (" or null" if may_be_null else ""),
            where=origins.where(name),
            hint=f"choose one: {group}=NAME",
        )


def _target_nodes(node: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from _target_nodes(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, Sequence) and not isinstance(node, str | bytes):
        for index, value in enumerate(node):
            yield from _target_nodes(value, f"{path}[{index}]")


def _is_step(key: str, found: Definition, origins: Origins) -> None:
    """What stands under data.steps touches recordings, so that other rooms and libraries have no place there."""
    if _STEP.fullmatch(key) and admitted(found.name, ALLOWED_TARGETS) and not admitted(found.name, (_STEPS,)):
        raise ConfigError(
            key, found.name, f"expected a step of {_STEPS}, or one of your own package", where=origins.where(key)
        )  # fmt: skip


def _allowed(key: str, target: Any, allowed: Sequence[str], origins: Origins) -> Definition:
    try:
        return check_target(target, allowed)
    except Refused as refused:
        raise ConfigError(key, target, refused.expected, where=origins.where(key), hint=refused.hint) from None


def _fits(path: str, node: Mapping[str, Any], allowed: Sequence[str], cfg: DictConfig, origins: Origins) -> None:
    found = _allowed(f"{path}._target_", node["_target_"], allowed, origins)
    given = [str(key) for key in node if key not in _OWN_KEYS]
    for key in node:
        if str(key).startswith("_") and str(key).endswith("_") and key not in _OWN_KEYS:
            raise unknown_key(f"{path}.{key}", node[key], cfg, origins, known=sorted(_OWN_KEYS))
    positional = node.get("_args_") or []
    if found.kind == "unknown":
        return
    for key in given:
        if key in found.annotations and (isinstance(node[key], str) or found.name.startswith("brainlab.")):
            # Others' annotations are often narrower than what they take; a text for a number is wrong everywhere.
            wanted = expected_instead(found.annotations[key], node[key])
            if wanted is not None:
                shown = "{…}" if isinstance(node[key], Mapping) else node[key]
                raise ConfigError(f"{path}.{key}", shown, wanted, where=origins.where(f"{path}.{key}"))
    if not found.open:
        for key in given:
            if key not in found.parameters:
                shown = "{…}" if isinstance(node[key], Mapping) else node[key]
                raise unknown_key(f"{path}.{key}", shown, cfg, origins, known=list(found.parameters))
        if len(positional) > len(found.parameters) and not found.variadic:
            raise ConfigError(
                f"{path}._args_",
                positional,
                f"expected at most {len(found.parameters)} values",
                where=origins.where(f"{path}._args_"),
            )
    if node.get("_partial_"):
        return
    absent = [name for name in found.required if name not in given and name not in found.parameters[: len(positional)]]
    if absent:
        raise ConfigError(
            f"{path}.{absent[0]}",
            "",
            f"missing: {node['_target_']} needs it",
            where=origins.where(f"{path}._target_"),
            hint=f"set {path}.{absent[0]}, or _partial_: true if code completes it",
        )


def _values(plain: Mapping[str, Any], origins: Origins) -> None:
    if plain["monitor"]["mode"] not in ("min", "max"):
        raise ConfigError(
            "monitor.mode", plain["monitor"]["mode"], "expected min or max", where=origins.where("monitor.mode")
        )
    if not 0 <= plain["seed"] < 2**32:  # what numpy's and torch's global generators take
        raise ConfigError("seed", plain["seed"], "expected 0 to 4294967295", where=origins.where("seed"))
    name = plain.get("experiment_name")
    if name is not None and not FOLDER_NAME.fullmatch(str(name)):
        raise ConfigError(
            "experiment_name",
            name,
            "expected letters, digits, '_', '.' or '-', the first a letter or digit: it names a folder",
            where=origins.where("experiment_name"),
        )
    if plain.get("validate") not in (True, False, "full"):
        raise ConfigError("validate", plain.get("validate"), "expected true, false or full", where="command line")


def _references(plain: Mapping[str, Any], origins: Origins) -> None:
    """``${stage:…}`` means something to the stages of a chain only; a job that trains or prepares would read it."""
    if str(plain["job"].get("_target_")) not in _ALONE:
        return
    for part in ("data", "model", "evaluation", "weights"):
        for key, value in _leaves(plain.get(part), part):
            if isinstance(value, str) and "${stage:" in value:
                hint = "experiment=meg_gpt trains one first, and a chain's stages may refer to each other"
                if key.startswith("data.tokenizer."):
                    hint = (
                        "tokenizer=mu_law needs no training, tokenizer=file data.tokenizer.checkpoint=FILE takes a"
                        " trained one, experiment=meg_gpt trains one first"
                    )
                raise ConfigError(
                    key, value, "expected a value, since there is no earlier stage here", where=origins.where(key),
                    hint=hint,
                )  # fmt: skip


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}")
    elif isinstance(node, Sequence) and not isinstance(node, str | bytes):
        for index, value in enumerate(node):
            yield from _leaves(value, f"{path}[{index}]")
    else:
        yield path, node


def _together(cfg: DictConfig, plain: Mapping[str, Any], origins: Origins) -> None:
    _folders(cfg, plain, origins)
    _run_folder(cfg, origins)
    _waiting(cfg, plain, origins)
    _devices(cfg, plain, origins)


def _folders(cfg: DictConfig, plain: Mapping[str, Any], origins: Origins) -> None:
    for key in ("root", "cache"):
        value = plain["paths"].get(key)
        if not value:
            raise ConfigError(f"paths.{key}", value, "expected a folder", where=origins.where(f"paths.{key}"))
        if not _writable(Path(value).expanduser()):
            raise ConfigError(
                f"paths.{key}", value, "expected a folder that can be written", where=origins.where(f"paths.{key}")
            )
    data = plain.get("data") or {}
    for key, value in data.items():
        if re.fullmatch(r"(.*_)?root", str(key)) and isinstance(value, str) and not Path(value).expanduser().exists():
            raise ConfigError(
                f"data.{key}",
                value,
                "expected an existing folder",
                where=origins.where(f"data.{key}"),
                hint=f"data.{key}=null uses simulated data",
            )
    written = dict(_leaves(OmegaConf.to_container(cfg.data, resolve=False), "data")) if data else {}
    for key, value in _leaves(data, "data"):
        if not key.endswith(".checkpoint") or not isinstance(value, str) or "${stage:" in str(written.get(key)):
            continue
        if not Path(value).expanduser().is_file():
            raise ConfigError(
                key,
                value,
                "expected an existing file",
                where=origins.where(key),
                hint="a run keeps its best one as checkpoints/best.ckpt; a relative path starts where you are",
            )
    files = plain.get("weights") or {}
    raw = dict(_leaves(OmegaConf.to_container(cfg.weights, resolve=False), "weights")) if files else {}
    for key, value in _leaves(files, "weights"):
        if value is None or "${stage:" in str(raw[key]):  # an earlier stage of a chain will have written it
            continue
        place = Path(str(value)).expanduser()
        if not (place / "checkpoints" / "best.ckpt" if place.is_dir() else place).is_file():
            what = "a run directory with checkpoints/best.ckpt" if place.is_dir() else "an existing file"
            raise ConfigError(key, value, f"expected {what}", where=origins.where(key))


def _run_folder(cfg: DictConfig, origins: Origins) -> None:
    mode = OmegaConf.select(cfg, "hydra.mode")
    if mode is None:
        return
    key = "hydra.sweep.dir" if "MULTIRUN" in str(mode) else "hydra.run.dir"
    folder = str(OmegaConf.select(cfg, key))
    if not _writable(Path(folder)):
        raise ConfigError(key, folder, "expected a folder that can be written", where=origins.where(key))


def _waiting(cfg: DictConfig, plain: Mapping[str, Any], origins: Origins) -> None:
    if plain.get("wait", True) or str(OmegaConf.select(cfg, "hydra.launcher._target_")).endswith("SlurmLauncher"):
        return
    raise ConfigError(
        "wait",
        "false",
        "needs hydra/launcher=submitit_slurm, since a local run ends with its command",
        where=origins.where("wait"),
        hint="start it in tmux or screen, or with & at its end",
    )


def _writable(folder: Path) -> bool:
    while not folder.exists():
        if folder == folder.parent:
            return False
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _devices(cfg: DictConfig, plain: Mapping[str, Any], origins: Origins) -> None:
    trainer, launcher = plain["trainer"], OmegaConf.select(cfg, "hydra.launcher")
    if launcher is None or OmegaConf.select(cfg, "hydra.mode") is None or "MULTIRUN" not in str(cfg.hydra.mode):
        return
    target = str(launcher.get("_target_", ""))
    if target.endswith("SlurmLauncher"):
        _processes(trainer, launcher, origins)
        _launching(launcher, origins)
        _patterns(cfg, plain, origins)
        return
    strategy = str(trainer.get("strategy"))
    if strategy.startswith("ddp"):
        raise ConfigError(
            "trainer.strategy",
            trainer["strategy"],
            "cannot be swept locally: each process would start the whole sweep again",
            where=origins.where("trainer.strategy"),
            hint="use hydra/launcher=submitit_slurm, or trainer.devices=1 trainer.strategy=auto",
        )
    if not target.endswith("LocalLauncher"):
        return
    _positive(launcher, ("parallelism", "cpus_per_task"), origins)
    if (launcher.get("tasks_per_node", 1), launcher.get("nodes", 1)) != (1, 1):
        raise ConfigError(
            "hydra.launcher.tasks_per_node",
            launcher.get("tasks_per_node"),
            "expected 1: on this machine a job is one process",
            where=origins.where("hydra.launcher.tasks_per_node"),
        )


def _processes(trainer: Mapping[str, Any], launcher: Any, origins: Origins) -> None:
    """SLURM starts the processes of a distributed run, so both sides must count the same."""
    devices, tasks, nodes = trainer.get("devices"), launcher.get("tasks_per_node", 1), launcher.get("nodes", 1)
    gpus, on_gpu = launcher.get("gpus_per_node") or 0, trainer.get("accelerator") in ("gpu", "cuda")
    counted = devices if isinstance(devices, int) and devices > 0 else None  # "auto", -1, a list: what the node has
    if counted is None and max(tasks, gpus) > 1:
        raise ConfigError(
            "trainer.devices",
            devices,
            "expected the number of devices on each node: SLURM starts one process per device",
            where=origins.where("trainer.devices"),
            hint=f"trainer.devices={max(tasks, gpus)} hydra.launcher.tasks_per_node={max(tasks, gpus)}",
        )
    if counted is not None and counted != tasks:
        raise ConfigError(
            "trainer.devices",
            devices,
            f"expected hydra.launcher.tasks_per_node={tasks}",
            where=origins.where("trainer.devices"),
            hint=f"SLURM starts one process per device: hydra.launcher.tasks_per_node={devices}",
        )
    elsewhere = launcher.get("gpus_per_task") or launcher.get("gres")
    if counted is not None and on_gpu and gpus < counted and not elsewhere:
        raise ConfigError(
            "trainer.devices",
            devices,
            f"expected at most hydra.launcher.gpus_per_node={gpus}",
            where=origins.where("trainer.devices"),
        )
    if trainer.get("num_nodes", 1) != nodes:
        raise ConfigError(
            "trainer.num_nodes",
            trainer.get("num_nodes"),
            f"expected hydra.launcher.nodes={nodes}",
            where=origins.where("trainer.num_nodes"),
        )


def _launching(launcher: Any, origins: Origins) -> None:
    """What a cluster would only refuse, or misunderstand, after the sweep's folder was written."""
    folder = str(OmegaConf.to_container(launcher).get("submitit_folder"))  # type: ignore[union-attr]
    if folder != "${hydra.sweep.dir}/.submitit/%j":
        raise ConfigError(
            "hydra.launcher.submitit_folder",
            folder,
            "cannot be changed: logs are looked for in .submitit inside the sweep's folder",
            where=origins.where("hydra.launcher.submitit_folder"),
            hint="hydra.sweep.dir=… moves both",
        )
    processes = launcher.get("tasks_per_node", 1) * launcher.get("nodes", 1)
    if not launcher.get("use_srun", True) and processes > 1:
        raise ConfigError(
            "hydra.launcher.use_srun",
            "false",
            f"expected true: srun is what starts the {processes} processes of a job",
            where=origins.where("hydra.launcher.use_srun"),
        )
    keys = ("timeout_min", "array_parallelism", "tasks_per_node", "nodes", "cpus_per_task", "poll_interval_s")
    _positive(launcher, keys, origins)
    retries, delay_s = launcher.get("max_num_timeout", 0), launcher.get("signal_delay_s", 0)
    if retries < 0:
        name = "hydra.launcher.max_num_timeout"
        raise ConfigError(name, retries, "expected 0 or more", where=origins.where(name))
    if not 0 < delay_s < 60 * launcher.get("timeout_min", 60):
        raise ConfigError(
            "hydra.launcher.signal_delay_s",
            delay_s,
            "expected more than 0 s and less than hydra.launcher.timeout_min",
            where=origins.where("hydra.launcher.signal_delay_s"),
            hint="it is the time that a job has to write a checkpoint before SLURM ends it",
        )


def _positive(launcher: Any, keys: Iterable[str], origins: Origins) -> None:
    for key in keys:
        value = launcher.get(key)
        if value is not None and value <= 0:
            name = f"hydra.launcher.{key}"
            raise ConfigError(name, value, "expected a positive number", where=origins.where(name))


def _patterns(cfg: DictConfig, plain: Mapping[str, Any], origins: Origins) -> None:
    """SLURM puts numbers in place of ``%`` and a letter, so the logs would lie elsewhere or nowhere."""
    folder = Path(str(OmegaConf.select(cfg, "hydra.sweep.dir"))).absolute()
    if "%" in str(folder):
        root = str(plain["paths"]["root"])
        key, value = ("paths.root", root) if "%" in root else ("hydra.sweep.dir", folder)
        wanted = "expected a folder without % in its name: SLURM reads it as a pattern"
        raise ConfigError(key, value, wanted, where=origins.where(key), hint="hydra.sweep.dir=… chooses another")


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
