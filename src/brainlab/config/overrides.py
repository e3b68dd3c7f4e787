"""Judges ``key=value`` words before Hydra composes, in sentences that say what to type instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode

from brainlab.config.command_line import CommandLine
from brainlab.config.compose import Composer
from brainlab.errors import ConfigError

__all__ = ["check_overrides", "closest", "listing", "read_overrides"]

_COMMAND_LINE = "command line"
_EXTRAS = {("hydra/sweeper", "optuna"): "optuna"}
_MOST_LISTED = 40


def read_overrides(line: CommandLine, composer: Composer) -> list[Override]:
    """Parse every override.

    Raises:
        ConfigError: for the first that Hydra's grammar has no reading for.
    """
    return [_parsed(text, composer) for text in line.overrides]


def check_overrides(line: CommandLine, composer: Composer) -> list[Override]:
    """Parse and judge every override.

    Raises:
        ConfigError: for the first that cannot mean what was typed.
    """
    parsed = read_overrides(line, composer)
    groups = composer.groups
    for override in parsed:
        key, text = override.key_or_group, override.input_line or ""
        if override.is_delete():
            continue
        if text.endswith("=") and override.value() == "":
            raise ConfigError(
                text.rstrip("=").lstrip("+"),
                "",
                "expected a value after '='",
                where=_COMMAND_LINE,
                hint=f"write {key}='' or {key}=null if an empty value is meant",
            )
        if key in groups:
            _check_choice(override, composer)
        elif "/" in key:
            raise ConfigError(
                key,
                _written(text),
                "unknown group",
                where=_COMMAND_LINE,
                hint=_hint(key, groups) or f"groups: {', '.join(_ours(groups))}",
            )
        if override.is_sweep_override() and not line.multirun and line.action == "run":
            raise ConfigError(
                key,
                _written(text),
                "several values need -m",
                where=_COMMAND_LINE,
                hint=f"{line.pasteable(multirun=True)} (a list is written {key}=[a,b])",
            )
    return parsed


def closest(name: str, known: Sequence[str], *, cutoff: float = 0.6) -> str | None:
    """The known name that looks most like ``name``."""
    found = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return found[0] if found else None


def listing(names: Sequence[str]) -> str:
    """``names`` for a message, cut where nobody reads on."""
    shown = list(names[:_MOST_LISTED])
    return ", ".join(shown) + (f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else "")


def _parsed(text: str, composer: Composer) -> Override:
    key, equals, value = text.partition("=")
    try:
        return composer.parse([text])[0]
    except HydraException as error:
        if not equals and not text.startswith("~"):
            raise ConfigError(text, "", "expected key=value", where=_COMMAND_LINE, hint=f"write {text}=…") from None
        if value.rstrip().endswith(","):
            raise ConfigError(
                key,
                value,
                f"empty value after the last comma in '{text}'",
                where=_COMMAND_LINE,
                hint=f"drop the comma: {text.rstrip().rstrip(',')}",
            ) from None
        if value.lstrip().startswith(",") or ",," in value:
            raise ConfigError(key, value, f"empty value between commas in '{text}'", where=_COMMAND_LINE) from None
        reason = str(error).splitlines()[0]
        hint = _stage_hint(key, value) or f"quote it: '{key}=\"{value}\"'"
        raise ConfigError(key, value, f"cannot be read: {reason}", where=_COMMAND_LINE, hint=hint) from None
    except ValueError as error:
        raise ConfigError(key, value, f"cannot be read: {error}", where=_COMMAND_LINE) from None


def _stage_hint(key: str, value: str) -> str | None:
    """How to write the stages of a chain, whose words hold the one character that Hydra's lists do not take bare."""
    if not key.lstrip("+").startswith("job.stages"):
        return None
    first = re.match(r"\s*\{\s*([\w.-]+)\s*:", value)
    stage = key.lstrip("+") if key.count(".") > 1 else f"job.stages.{first[1] if first else 'NAME'}"
    return f"one stage per argument, each word quoted: \"+{stage}=['experiment=NAME','seed=1']\""


def _check_choice(override: Override, composer: Composer) -> None:
    group, text = override.key_or_group, override.input_line or ""
    options = composer.options(group)
    if not options:
        return
    if override.is_add() and group in _chosen_by_default(composer):
        raise ConfigError(
            f"+{group}",
            _written(text),
            f"{group} has a value already",
            where=_COMMAND_LINE,
            hint=f"drop the '+': {text.lstrip('+')}",
        )
    for value in _values(override):
        if value is None:
            none = f"use {group}=none" if "none" in options else f"write ~{group} to leave it out"
            raise ConfigError(group, "null", f"expected one of {listing(options)}", where=_COMMAND_LINE, hint=none)
        names = value if isinstance(value, list) else [value]
        for name in names:
            _check_option(group, str(name), options)


def _check_option(group: str, name: str, options: Sequence[str]) -> None:
    if name in options or (name.endswith(".yaml") and name[:-5] in options) or "${" in name:
        return
    if (group, name) in _EXTRAS:
        extra = _EXTRAS[group, name]
        raise ConfigError(
            group, name, "its package is not installed", where=_COMMAND_LINE, hint=f"pip install 'brainlab[{extra}]'"
        )
    meant = closest(name.removesuffix(".yml"), options)
    raise ConfigError(
        group,
        name,
        f"expected one of {listing(options)}",
        where=_COMMAND_LINE,
        hint=f"did you mean {meant}?" if meant else None,
    )


def _chosen_by_default(composer: Composer) -> set[str]:
    # Groups of our own root and of Hydra's; their defaults list gives each one value already.
    try:
        defaults = composer.loader.compute_defaults_list(composer.config_name, ["experiment=none"], RunMode.MULTIRUN)
    except HydraException:
        return set()  # the files are at fault; composing will say how
    return set(defaults.overrides.known_choices)


def _values(override: Override) -> Iterator[object]:
    if not override.is_sweep_override():
        yield override.value()
    elif override.is_discrete_sweep():
        for value in override.sweep_iterator():
            yield Override._convert_value(value)


def _written(text: str) -> str:
    return text.partition("=")[2]


def _ours(groups: Sequence[str]) -> list[str]:
    return [group for group in groups if not group.startswith("hydra")]


def _hint(name: str, known: Sequence[str]) -> str | None:
    meant = closest(name, known)
    return f"did you mean {meant}?" if meant else None
