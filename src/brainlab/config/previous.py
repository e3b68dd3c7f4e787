"""What an earlier run says about a new one.

``rerun=<run dir>`` and ``resume=<run dir>``: its configuration instead of a new composition. ``job=evaluate
checkpoint=<run dir>``: its experiment, so that the keys of its protocol can be set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from brainlab.config.command_line import CommandLine
from brainlab.config.overrides import closest
from brainlab.errors import ConfigError

__all__ = ["PREVIOUS", "Previous", "find_previous", "take_experiment"]

PREVIOUS = "brainlab_previous"
_HOW = ("validate", "dry", "wait")
# Hydra's own node holds launchers and folders, and what Lightning gives to the other processes of a distributed run.
_PLACES = ("paths", "logger", "hydra", *_HOW)
_GROWTH = ("trainer.max_epochs", "trainer.max_steps")
_NEUTRAL = (
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.accelerator",
    "trainer.strategy",
    "trainer.enable_checkpointing",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "data.num_workers",
)
_ANEW = {
    "rerun": "start a new run for anything else",
    "resume": "a new run goes on from its weights with other settings: weights.network={}, or another part's name",
}


@dataclass(frozen=True)
class Previous:
    """An earlier run and how it is used again."""

    key: str
    folder: Path


def find_previous(line: CommandLine, overrides: Sequence[Override]) -> Previous | None:
    """Look for ``rerun=`` or ``resume=<folder>``; where there is one, make it the root configuration of ``line``.

    Raises:
        ConfigError: no such run, or an override beside it that would make it another run.
    """
    chosen = {o.key_or_group: o for o in overrides if o.key_or_group in ("rerun", "resume") and not o.is_delete()}
    rerun, resume = (str(chosen[key].value()) if key in chosen else None for key in ("rerun", "resume"))
    if rerun not in (None, "None"):
        previous = Previous("rerun", _run_folder("rerun", str(rerun)))
        if resume not in (None, "auto", "never"):
            raise ConfigError("resume", resume, "expected either rerun or resume, not both", where="command line")
    elif resume not in (None, "auto", "never"):
        previous = Previous("resume", _run_folder("resume", str(resume)))
        if line.multirun:
            raise ConfigError(
                "resume",
                resume,
                "expected a single run: a folder cannot be resumed with -m",
                where="command line",
                hint="repeat the sweep with the same hydra.sweep.dir=… instead",
            )
    else:
        return None
    keep = [o for o in overrides if o.key_or_group not in ("rerun", "resume")]
    keep = [o for o in keep if not _repeats(o, previous)] if previous.key == "resume" else keep
    for override in keep:
        _may_accompany(override, previous)
    groups = [o.key_or_group for o in keep if o.key_or_group in ("paths", "logger")]
    _store(previous, {o.key_or_group: o for o in keep if o.key_or_group in groups})
    line.overrides = [o.input_line or "" for o in keep if o.key_or_group not in groups]
    if previous.key == "resume":
        line.overrides.append(f"hydra.run.dir='{previous.folder}'")
    line.flags += ["--config-name", PREVIOUS]
    return previous


def take_experiment(line: CommandLine, overrides: Sequence[Override], experiments: Callable[[], Sequence[str]]) -> None:
    """Compose ``job=evaluate checkpoint=<one run>`` from that run's experiment where the words name none.

    Values come from the checkpoint in any case; the experiment decides which keys there are to set.

    Args:
        line: gets the word ``experiment=NAME`` in front.
        overrides: its words.
        experiments: gives the names that there are; a run of any other changes nothing.
    """
    words = {o.key_or_group: o.value() for o in overrides if not o.is_delete() and not o.is_sweep_override()}
    place = words.get("checkpoint") or words.get("job.checkpoint")
    if "experiment" in words or str(words.get("job")) != "evaluate" or not isinstance(place, str):
        return
    path = Path(place).expanduser()
    folder = path.parent.parent if path.suffix == ".ckpt" else path
    for file, key in ((".hydra/hydra.yaml", "hydra.runtime.choices.experiment"), ("resolved.yaml", "experiment_name")):
        try:
            name = OmegaConf.select(OmegaConf.load(folder / file), key)
        # No run of ours, or a damaged one: the words stand as they are, and what follows says what is wrong.
        except (OSError, ValueError, OmegaConfBaseException, YAMLError):
            continue
        if name in experiments():
            line.overrides.insert(0, f"experiment={name}")
            return


def _run_folder(key: str, text: str) -> Path:
    folder = Path(text).expanduser().resolve()
    words = "auto, never or a run directory" if key == "resume" else "a run directory"
    if not folder.is_dir():
        meant = closest(text, ["auto", "never"]) if key == "resume" and "/" not in text else None
        raise ConfigError(
            key, text, f"expected {words}", where="command line", hint=f"did you mean {meant}?" if meant else None
        )
    if not (folder / "resolved.yaml").is_file():
        raise ConfigError(key, text, f"expected {words}: it has no resolved.yaml", where="command line")
    return folder


def _repeats(override: Override, previous: Previous) -> bool:
    """Whether ``override`` only says again what the run was started with."""
    # .hydra/ is rewritten by every attempt; the first one holds what the run was started with.
    first = previous.folder / "attempts" / "1.yaml"
    started = OmegaConf.load(first) if first.is_file() else OmegaConf.create({})
    if override.input_line in (OmegaConf.select(started, "overrides") or []):
        return True
    missing = object()
    stored = OmegaConf.select(OmegaConf.load(previous.folder / "resolved.yaml"), override.key_or_group, default=missing)
    return stored is not missing and not OmegaConf.is_config(stored) and stored == override.value()


def _may_accompany(override: Override, previous: Previous) -> None:
    allowed = _PLACES if previous.key == "rerun" else (*_PLACES, *_GROWTH, *_NEUTRAL)
    key = override.key_or_group
    if override.is_sweep_override() or not any(
        key == each or key.startswith((f"{each}.", f"{each}/")) for each in allowed
    ):
        listed = "paths, logger and hydra/launcher"
        listed = listed if previous.key == "rerun" else f"{listed}, {' and '.join(_GROWTH)}"
        raise ConfigError(
            key,
            override.get_value_element_as_str(),
            f"cannot accompany {previous.key}=…",
            where="command line",
            hint=f"only {listed} may; {_ANEW[previous.key].format(previous.folder)}",
        )


def _store(previous: Previous, groups: dict[str, Override]) -> None:
    """Make the earlier run's values a root configuration; a group chosen anew replaces its node."""
    body: Any = OmegaConf.to_container(OmegaConf.load(previous.folder / "resolved.yaml"), resolve=False)
    order = list(body)
    for group in groups:
        body.pop(group, None)
    defaults: list[Any] = [{group: str(override.value())} for group, override in groups.items()]
    defaults = ["brainlab", *defaults]
    defaults += [{"hydra": "default"}, "_self_", {"override hydra/sweeper": "brainlab"}]
    how = {"validate": False, "dry": False, "wait": True, "resume": "auto", "rerun": None}
    how[previous.key] = str(previous.folder)
    node = {"defaults": defaults, **{key: body[key] for key in order if key in body}, **how}
    ConfigStore.instance().store(name=PREVIOUS, node=node, provider="brainlab")
