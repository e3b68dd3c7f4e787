"""The text of ``resolved.yaml``: the one file that a run can be repeated from, byte for byte."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

__all__ = ["TRANSIENT_KEYS", "overrides_of", "resolved_yaml"]

# How a run was started, not what it computes: a rerun or a resumed run differs in these and in nothing else.
TRANSIENT_KEYS = ("hydra", "validate", "dry", "wait", "resume", "rerun")


def resolved_yaml(cfg: DictConfig) -> str:
    """Write ``cfg`` with every interpolation resolved, without Hydra's node and the switches of the command line.

    Args:
        cfg: a composed configuration, with or without its ``hydra`` node; it is not changed.

    Returns:
        YAML in the order of composition. Composing from this text gives the same text again.

    >>> resolved_yaml(OmegaConf.create({"seed": 3, "model": {"seed": "${seed}"}, "resume": "auto"}))
    'seed: 3\\nmodel:\\n  seed: 3\\n'
    """
    plain: dict[object, object] = {}
    for key in cfg:
        if key in TRANSIENT_KEYS:
            continue
        value = cfg[key]
        plain[key] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    return OmegaConf.to_yaml(OmegaConf.create(plain))


def overrides_of(cfg: Any, kind: str = "task") -> list[str]:
    """The overrides that ``cfg`` was composed from, as they were typed: their ``${…}`` belong to the run, not to them.

    Args:
        cfg: a configuration with its ``hydra`` node.
        kind: ``task`` or ``hydra``.
    """
    words = OmegaConf.select(cfg, f"hydra.overrides.{kind}")
    plain: Any = [] if words is None else OmegaConf.to_container(words, resolve=False)
    return [str(word) for word in plain]
