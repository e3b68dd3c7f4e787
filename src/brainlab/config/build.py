"""The only way from configuration to objects."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from brainlab.config.targets import Refused, allowed_targets, check_object, check_target
from brainlab.errors import BrainlabError, ConfigError, InvalidValue

__all__ = ["build", "import_target"]

_OWN_KEYS = {"_target_", "_partial_", "_args_", "_recursive_", "_convert_"}
_UNKNOWN = "node"


def build(node: Any, *, path: str | None = None, **extra: Any) -> Any:
    """Build the object that ``node`` describes.

    Nested nodes are built first; lists and mappings arrive as plain ``list`` and ``dict``.

    Args:
        node: a mapping with ``_target_`` (``_partial_: true`` gives a partial), a list of such, or ``None``.
        path: the node's key in the configuration, for messages; taken from the node where it knows it.
        extra: keywords that the configuration cannot hold (they win).

    Raises:
        ConfigError: the target is not allowed or cannot be imported.
        InvalidValue: the target refused its arguments.
    """
    allowed = allowed_targets(None)
    if OmegaConf.is_config(node):
        path = path or node._get_full_key(None)
        allowed = allowed_targets(node._get_root())
        node = OmegaConf.to_container(node, resolve=True)
    return _build(node, path or _UNKNOWN, extra, allowed)


def import_target(target: Any, key: str, allowed: Sequence[str]) -> Any:
    """Import what ``target`` names after judging it, and judge it again by what it turned out to be.

    Raises:
        ConfigError: it is not allowed, or importing it failed.
    """
    from hydra.utils import instantiate

    try:
        check_target(target, allowed)
        # A partial is located and checked against Hydra's own blocklist, but not called.
        found = instantiate({"_target_": target, "_partial_": True}).func
        check_object(target, found, allowed)
    except Refused as refused:
        raise ConfigError(key, target, refused.expected, hint=refused.hint) from None
    except Exception as error:
        cause = error.__cause__ or error
        reason = next((line for line in reversed(str(cause).splitlines()) if "Error" in line), str(cause))
        raise ConfigError(key, target, f"cannot be imported: {reason}") from error
    return found


def _build(node: Any, path: str, extra: Mapping[str, Any], allowed: Sequence[str]) -> Any:
    if isinstance(node, Mapping):
        recurse = node.get("_recursive_", True)
        parts = {
            key: _build(value, f"{path}.{key}", {}, allowed) if recurse and key not in _OWN_KEYS else value
            for key, value in node.items()
        }
        if "_target_" not in node:
            return {**parts, **extra}
        return _call(parts, path, extra, allowed)
    if isinstance(node, Sequence) and not isinstance(node, str | bytes):
        return [_build(value, f"{path}[{index}]", {}, allowed) for index, value in enumerate(node)]
    return node


def _call(parts: dict[str, Any], path: str, extra: Mapping[str, Any], allowed: Sequence[str]) -> Any:
    target = parts["_target_"]
    function = import_target(target, f"{path}._target_", allowed)
    keywords = {key: value for key, value in parts.items() if key not in _OWN_KEYS}
    keywords.update(extra)
    positional = [_build(value, f"{path}._args_", {}, allowed) for value in parts.get("_args_") or ()]
    if parts.get("_partial_"):
        return functools.partial(function, *positional, **keywords)
    try:
        return function(*positional, **keywords)
    except InvalidValue as error:
        if path == _UNKNOWN or error.name not in keywords:
            raise
        # A constructor knows its argument, the user the key.
        where = None if error.where == getattr(function, "__name__", None) else error.where
        raise type(error)(f"{path}.{error.name}", error.value, error.expected, where=where, hint=error.hint) from error
    except BrainlabError:
        raise
    except Exception as error:
        reason = f"cannot be built: {type(error).__name__}: {error}"
        raise InvalidValue(path, target, reason) from error
