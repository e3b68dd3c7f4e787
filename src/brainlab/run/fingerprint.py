"""What makes two runs the same: a hash over the configuration that matters and the content of the data.

Moving a folder, another cluster profile, more workers or another tracker change nothing; other data does. Keys that
a run may grow by (epochs, steps) are hashed apart: a larger value continues a run, a smaller one does not.
"""

from __future__ import annotations

import fnmatch
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from brainlab.config.resolved import resolved_yaml
from brainlab.errors import ConfigError
from brainlab.io.cache import canonical_json

__all__ = ["GROWTH_KEYS", "Fingerprint", "compare", "differing_keys", "flatten", "matters", "of_config", "plain_config"]

GROWTH_KEYS = ("trainer.max_epochs", "trainer.max_steps")

_IGNORED = (
    "hydra",
    "paths",
    "logger",
    "security",
    "sweep",
    "validate",
    "dry",
    "wait",
    "resume",
    "rerun",
    "tags",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.accelerator",
    "trainer.strategy",
    "trainer.enable_*",
    "callbacks.preemption",
    # Where files lie is no property of the run: their content is hashed instead.
    "weights",
    "data.num_workers",
    "evaluation.cache",
    "data.root",
    "data.*_root",
    "data.cache_dir",
)


@dataclass(frozen=True)
class Fingerprint:
    """The hash of a run and its parts."""

    config: str
    growth: Mapping[str, Any] = field(default_factory=dict)
    data_source: str | None = None
    data: str | None = None

    @property
    def value(self) -> str:
        """64 hexadecimal digits; growth keys are not part of it."""
        return _digest({"config": self.config, "data_source": self.data_source, "data": self.data})

    def text(self) -> str:
        """The content of ``fingerprint.txt``."""
        lines = [
            self.value,
            f"config {self.config}",
            f"growth {_digest(dict(self.growth))} {canonical_json(dict(self.growth))}",
        ]
        if self.data is not None:
            lines += [f"data_source {self.data_source}", f"data {self.data}"]
        return "\n".join(lines) + "\n"

    @staticmethod
    def stored(path: Path) -> dict[str, str]:
        """The named parts of a ``fingerprint.txt`` (key ``value`` for the whole), empty where there is none."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError:
            return {}
        parts = {"value": lines[0]} if lines else {}
        for line in lines[1:]:
            key, _, rest = line.partition(" ")
            parts[key] = rest.split(" ")[0]
        return parts


def plain_config(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration as plain containers, exactly as ``resolved.yaml`` holds it."""
    return OmegaConf.to_container(OmegaConf.create(resolved_yaml(cfg)))  # type: ignore[return-value]


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted key; an empty container is a leaf.

    >>> flatten({"a": {"b": 1, "c": []}, "d": [2]})
    {'a.b': 1, 'a.c': [], 'd.0': 2}
    """
    items: Any
    if isinstance(node, Mapping) and node:
        items = node.items()
    elif isinstance(node, list) and node:
        items = enumerate(node)
    else:
        return {prefix: node}
    leaves: dict[str, Any] = {}
    for key, value in items:
        leaves.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return leaves


def matters(key: str) -> bool:
    """Whether a dotted key is part of the fingerprint's configuration.

    >>> matters("model.lr"), matters("trainer.devices"), matters("paths.cache"), matters("trainer.max_epochs")
    (True, False, False, False)
    """
    if key in GROWTH_KEYS:
        return False
    return not any(key == rule or key.startswith(rule + ".") or fnmatch.fnmatch(key, rule) for rule in _IGNORED)


def of_config(plain: Mapping[str, Any]) -> Fingerprint:
    """The configuration's part of the fingerprint.

    Args:
        plain: a resolved configuration, see :func:`plain_config`.
    """
    leaves = flatten(dict(plain))
    relevant = {key: _spelled(value) for key, value in leaves.items() if matters(key)}
    growth = {key: leaves[key] for key in GROWTH_KEYS if key in leaves}
    return Fingerprint(config=_digest(relevant), growth=growth)


def differing_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys that matter and differ: key → (old value, new value)."""
    before, after = flatten(dict(old)), flatten(dict(new))
    return {
        key: (before.get(key), after.get(key))
        for key in sorted({*before, *after})
        if matters(key) and (key in before, before.get(key)) != (key in after, after.get(key))
    }


def compare(old: Mapping[str, Any], new: Mapping[str, Any], folder: Path) -> None:
    """Refuse to continue a run under a configuration that it was not started with.

    Raises:
        ConfigError: naming the differing keys, or the growth key that shrank.
    """
    differing = differing_keys(old, new)
    if differing:
        shown = ", ".join(f"{key}: {before!r} → {after!r}" for key, (before, after) in list(differing.items())[:8])
        more = f" and {len(differing) - 8} more" if len(differing) > 8 else ""
        command = _first_command(folder)
        raise ConfigError(
            "resume",
            folder,
            f"expected the configuration that this run was started with, but these keys differ: {shown}{more}",
            hint=f"repeat its command ({command}) or choose another hydra.run.dir"
            if command
            else "choose another hydra.run.dir",
        )
    before, after = flatten(dict(old)), flatten(dict(new))
    for key in GROWTH_KEYS:
        if _limit(after.get(key)) < _limit(before.get(key)):
            raise ConfigError(
                key,
                after.get(key),
                f"expected at least {before.get(key)}, with which this run was started",
                where=str(folder),
                hint="a run may grow but not shrink; choose another hydra.run.dir for a shorter one",
            )


def _limit(value: Any) -> float:
    return math.inf if value is None or value == -1 else float(value)


def _first_command(folder: Path) -> str:
    try:
        return (folder / "cmd.txt").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _spelled(value: Any) -> Any:
    """One JSON spelling per value: infinities and NaN have none of their own."""
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def _digest(content: Any) -> str:
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()
