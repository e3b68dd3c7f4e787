"""Whether a combination is a job that the sweep's folder knows, a new one, or one that does not belong there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from brainlab.config.resolved import TRANSIENT_KEYS
from brainlab.errors import ConfigError
from brainlab.run.directory import jsonable
from brainlab.run.fingerprint import GROWTH_KEYS, flatten, matters, of_config

__all__ = ["Identity", "common", "identify", "refuse_other_parameters", "refuse_shrinking"]

_MOST_SHOWN = 8


@dataclass(frozen=True)
class Identity:
    """What tells one job of a sweep from another."""

    fingerprint: str
    """Hash of the configuration that matters; what a job may grow by is not part of it."""
    leaves: Mapping[str, Any]
    """Resolved values by dotted key, in JSON's types."""
    derived: frozenset[str] = field(default_factory=frozenset)
    """Keys whose value is made from others (``${seed}``): they explain no difference, the others do."""

    @property
    def growth(self) -> dict[str, Any]:
        """What a job may grow by."""
        return {key: self.leaves[key] for key in GROWTH_KEYS if key in self.leaves}

    @property
    def places(self) -> dict[str, Any]:
        """Where the data lie: a job whose data moved has to look at them again."""
        return {key: value for key, value in self.leaves.items() if _is_place(key)}


def identify(cfg: DictConfig) -> Identity:
    """The identity of a composed job."""
    hydra = HydraConfig.instance()
    published = hydra.cfg
    if "hydra" in cfg:  # values may mention ${hydra:…}, which is read from what is published
        hydra.cfg = cfg  # type: ignore[assignment]
    try:
        return _identify(cfg)
    finally:
        hydra.cfg = published


def _identify(cfg: DictConfig) -> Identity:
    resolved: dict[str, Any] = {}
    written: dict[str, Any] = {}
    for key in cfg:
        name = str(key)
        if name in TRANSIENT_KEYS:
            continue
        node = cfg._get_node(key)
        if OmegaConf.is_config(node):
            resolved[name] = OmegaConf.to_container(node, resolve=True)
            written[name] = OmegaConf.to_container(node)
        else:
            resolved[name] = cfg[key]
            written[name] = "${}" if OmegaConf.is_interpolation(cfg, name) else cfg[key]
    leaves = {key: _spelled(value) for key, value in flatten(resolved).items()}
    raw = flatten(written)
    derived = {key for key in leaves if key not in raw or (isinstance(raw[key], str) and "${" in raw[key])}
    return Identity(of_config(resolved).config, leaves, frozenset(derived))


def common(jobs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The leaves that all jobs have, with one value.

    >>> common([{"lr": 1, "seed": 0}, {"lr": 2, "seed": 0}])
    {'seed': 0}
    """
    every = iter(jobs)
    shared = dict(next(every, {}))
    for leaves in every:
        for key in [key for key, value in shared.items() if key not in leaves or leaves[key] != value]:
            del shared[key]
    return shared


def refuse_other_parameters(
    known: Sequence[Identity], new: Sequence[Identity], swept: Iterable[str], folder: Path
) -> None:
    """Refuse to add jobs to a sweep that was run with other settings than theirs.

    What is swept may take any value. Everything else must be what it was: otherwise the rows of one table would
    differ in more than its columns say.

    Args:
        known: the folder's jobs.
        new: the jobs to be added.
        swept: the keys and groups that were given several values, then or now.

    Raises:
        ConfigError: naming the keys that differ.
    """
    if not known or not new:
        return
    before, after = common(job.leaves for job in known), common(job.leaves for job in new)
    # A key that varies on one side is swept there; one that is made from others follows them.
    open_keys = {key for job in known for key in job.leaves if key not in before}
    open_keys |= {key for job in new for key in job.leaves if key not in after}
    open_keys |= frozenset.union(*(job.derived for job in (*known, *new)))
    differing = {
        key: (before.get(key), after.get(key))
        for key in sorted({*before, *after} - open_keys)
        if matters(key)
        and not _belongs_to(key, swept)
        and (key in before, before.get(key)) != (key in after, after.get(key))
    }
    if differing:
        shown = ", ".join(f"{key}: {old!r} → {now!r}" for key, (old, now) in list(differing.items())[:_MOST_SHOWN])
        more = f" and {len(differing) - _MOST_SHOWN} more" if len(differing) > _MOST_SHOWN else ""
        raise ConfigError(
            "hydra.sweep.dir",
            folder,
            f"expected the settings that this sweep was started with, but these keys differ: {shown}{more}",
            hint="choose another hydra.sweep.dir, or sweep the key by giving all its values",
        )


def refuse_shrinking(known: Mapping[str, Any], new: Mapping[str, Any], folder: Path) -> None:
    """Refuse a job that would be shorter than it was.

    Args:
        known: what the job in ``folder`` may grow by, as it was.
        new: the same as it is asked for now.

    Raises:
        ConfigError: naming the key that shrank.
    """
    for key in GROWTH_KEYS:
        if _limit(new.get(key)) < _limit(known.get(key)):
            raise ConfigError(
                key,
                new.get(key),
                f"expected at least {known.get(key)}, with which this job was started",
                where=str(folder),
                hint="a job may grow but not shrink; choose another hydra.sweep.dir for shorter ones",
            )


def _belongs_to(key: str, swept: Iterable[str]) -> bool:
    """Whether a swept word decides this leaf: the key itself, a node above it, or a group that fills the node."""
    for word in swept:
        name = word.lstrip("+~").partition("@")
        node = (name[2] or name[0]).replace("/", ".")
        if node in ("experiment", "compat", "local", "trainer_overlay") or key == node or key.startswith(node + "."):
            return True
    return False


def _is_place(key: str) -> bool:
    return key == "data.root" or (key.startswith("data.") and key.endswith("_root"))


def _limit(value: Any) -> float:
    return math.inf if value is None or value == -1 else float(value)


def _spelled(value: Any) -> Any:
    """JSON has no infinities and no NaN; a value read back must equal the one that was written."""
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else jsonable(value)
