"""Turns what Hydra and OmegaConf raise while composing into one sentence with key, file and a way out."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import yaml
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from brainlab.config.compose import Composer
from brainlab.config.locate import Origins
from brainlab.config.overrides import closest, listing
from brainlab.config.search_path import shown
from brainlab.config.signatures import NotFound, find_definition
from brainlab.errors import ConfigError

__all__ = ["explain", "is_composition_error", "keys_of", "unknown_key"]

_COMMAND_LINE = "command line"


def explain(error: Exception, overrides: list[Override], composer: Composer, *, multirun: bool = False) -> ConfigError:
    """The sentence for ``error``, raised by composing with ``overrides``."""
    groups = composer.groups
    values = [o for o in overrides if o.key_or_group not in groups]
    choices = [o.input_line or "" for o in overrides if o.key_or_group in groups]
    if isinstance(error, yaml.MarkedYAMLError):
        return _yaml_error(error)
    if isinstance(error, MissingConfigException):
        return _missing_file(error, composer)
    text = str(error) or str(error.__cause__)
    missing = re.search(r"You must specify '([^']+)'", text)
    if missing:
        group = missing[1]
        return ConfigError(
            group,
            "???",
            f"expected one of {listing(composer.options(group))}",
            where=_COMMAND_LINE,
            hint=f"choose one: {group}=NAME",
        )
    if values:
        found = _bad_value(values, choices, composer, multirun)
        if found is not None:
            return found
    return _in_file(error, text, composer)


def unknown_key(
    key: str, value: object, cfg: DictConfig, origins: Origins, *, known: list[str] | None = None
) -> ConfigError:
    """The sentence for a key that nothing knows; suggestions come from its siblings, then from the whole tree."""
    parent, _, name = key.rpartition(".")
    siblings = known if known is not None else _children(cfg, parent)
    meant = closest(name, [each for each in siblings if each != name])
    if meant is not None:
        suggestion: str | None = f"{parent}.{meant}" if parent else meant
    else:
        suggestion = closest(key, [each for each in keys_of(cfg) if each != key], cutoff=0.8)
    hint = f"did you mean {suggestion}?" if suggestion else f"known keys: {listing(siblings)}" if siblings else None
    if meant is None and name in _parameters(cfg, parent):
        hint = f"its target takes it, but no file sets it: write +{key}={value}"
    where = origins.where(key)
    if not re.search(r":\d+$", where):
        where = origins.file(parent) if parent else "conf/config.yaml"
        where = _COMMAND_LINE if where == "configuration" else where
    return ConfigError(key, value, "unknown key", where=where, hint=hint)


def keys_of(cfg: Any, prefix: str = "") -> list[str]:
    """Every dotted key of ``cfg``."""
    found: list[str] = []
    if OmegaConf.is_dict(cfg) and not cfg._is_none() and not cfg._is_missing() and not cfg._is_interpolation():
        for key in cfg:
            here = f"{prefix}.{key}" if prefix else str(key)
            found.append(here)
            found += keys_of(cfg._get_node(key), here)
    return found


def _parameters(cfg: Any, parent: str) -> tuple[str, ...]:
    """The parameters of the object that the node at ``parent`` builds."""
    target = OmegaConf.select(cfg, f"{parent}._target_", throw_on_missing=False) if parent else None
    try:
        return find_definition(str(target)).parameters if target else ()
    except NotFound:
        return ()


def _children(cfg: Any, parent: str) -> list[str]:
    node = OmegaConf.select(cfg, parent, throw_on_missing=False) if parent else cfg
    return [str(key) for key in node] if OmegaConf.is_dict(node) else []


def _bad_value(values: list[Override], choices: list[str], composer: Composer, multirun: bool) -> ConfigError | None:
    """Find the override that the tree without any of them has no place for, or does not take."""
    try:
        cfg, origins = composer.tree(choices, multirun=multirun)
    except Exception:
        return None  # a file is at fault, not an override
    keys = keys_of(cfg)
    for override in values:
        key, written = override.key_or_group, (override.input_line or "").partition("=")[2]
        if override.is_delete() or override.is_add() or override.is_force_add():
            if override.is_delete() and key not in keys:
                return unknown_key(key, "~", cfg, origins)
            if override.is_add() and key in keys and not isinstance(override.value(), dict | list):
                return ConfigError(
                    key, written, "has a value already", where=_COMMAND_LINE, hint=f"drop the '+': {key}={written}"
                )
        elif key not in keys and not _selectable(cfg, key):
            top = closest(key, [group for group in composer.groups if not group.startswith("hydra")])
            if "." not in key and top is not None:
                known = [group for group in composer.groups if "/" not in group and group != "hydra"]
                return ConfigError(
                    key,
                    written,
                    "unknown key",
                    where=_COMMAND_LINE,
                    hint=f"did you mean {top}? Groups: {listing(known)}",
                )
            return unknown_key(key, written, cfg, origins)
        elif not override.is_sweep_override():
            try:
                OmegaConf.update(cfg, key, override.value(), merge=True)
            except OmegaConfBaseException as error:
                return ConfigError(key, written, _type_text(error), where=_COMMAND_LINE)
    return None


def _selectable(cfg: DictConfig, key: str) -> bool:
    try:
        node = cfg
        for part in key.split(".")[:-1]:
            node = node[part]
        return key.rpartition(".")[2] in node
    except Exception:
        return False


def _type_text(error: BaseException) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    found = re.search(r"could not be converted to (\w+)", text)
    if found:
        names = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false", "String": "text"}
        return f"expected {names.get(found[1], found[1])}"
    if "Incompatible value 'None'" in text or "is not Optional" in text:
        return "expected a value, null is not one here"
    return f"cannot be used: {text}"


def _yaml_error(error: yaml.MarkedYAMLError) -> ConfigError:
    mark = error.problem_mark
    where = f"{shown(mark.name)}:{mark.line + 1}" if mark else None
    return ConfigError("file", shown(mark.name) if mark else "", f"expected YAML: {error.problem}", where=where)


def _missing_file(error: MissingConfigException, composer: Composer) -> ConfigError:
    parent = re.match(r"In '([^']+)'", str(error))
    where = _file_of(parent[1], composer) if parent else _COMMAND_LINE
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    options = list(error.options or composer.options(group))
    if not options:
        return ConfigError(group or "config", name, "no such group or file", where=where)
    meant = closest(name, options)
    return ConfigError(
        group,
        name,
        f"expected one of {listing(sorted(options))}",
        where=where,
        hint=f"did you mean {meant}?" if meant else None,
    )


def _file_of(config_path: str, composer: Composer) -> str:
    for folder in composer.folders:
        if (folder / f"{config_path}.yaml").is_file():
            return shown(folder / f"{config_path}.yaml")
    return config_path


def _in_file(error: Exception, text: str, composer: Composer) -> ConfigError:
    """An error that a file caused: a key that the schema lacks, a value of the wrong type, a wrong defaults list."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    parent = re.search(r"In '([^']+)'", text)
    where = _file_of(parent[1], composer) if parent else "configuration"
    full_key = re.search(r"full_key: (\S+)", text) or re.search(r"full_key: (\S+)", str(cause))
    key = full_key[1] if full_key else "configuration"
    if parent and full_key:
        where = _line_in(parent[1], key, composer) or where
    not_in = re.search(r"Key '([^']+)' (?:not in|is not in)", text)
    if not_in:
        from brainlab.config.schema import BrainlabConf

        known = keys_of(OmegaConf.structured(BrainlabConf))
        meant = closest(key, known)
        return ConfigError(key, "…", "unknown key", where=where, hint=f"did you mean {meant}?" if meant else None)
    value = re.search(r"Value '([^']*)'", text)
    if value or isinstance(cause, ValidationError):
        body = "\n".join(line for line in text.splitlines() if "could not be converted" in line) or text
        return ConfigError(key, value[1] if value else "…", _type_text(Exception(body)), where=where)
    first = [line for line in text.splitlines() if line.strip()]
    return ConfigError(
        "configuration",
        parent[1] if parent else "",
        " ".join(first[:2]) or type(error).__name__,
        where=where if parent else None,
    )


def _line_in(config_path: str, key: str, composer: Composer) -> str | None:
    for folder in composer.folders:
        file = folder / f"{config_path}.yaml"
        if file.is_file():
            for package in ("", config_path.rpartition("/")[0].replace("/", ".")):
                found = Origins(partial(list, [(file, package)])).where(key)
                if re.search(r":\d+$", found):
                    return found
    return None


def is_composition_error(error: BaseException) -> bool:
    """Whether ``error`` comes from reading or composing files."""
    return isinstance(
        error, ConfigCompositionException | OverrideParseException | OmegaConfBaseException | yaml.YAMLError
    )
