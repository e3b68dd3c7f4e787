"""The only way from configuration to objects."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from brainlab.errors import BrainlabError, ConfigError, InvalidValue

__all__ = ["build"]

_OWN_KEYS = {"_target_", "_partial_", "_args_", "_recursive_", "_convert_"}


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
    if OmegaConf.is_config(node):
        path = path or node._get_full_key(None) or "node"
        node = OmegaConf.to_container(node, resolve=True)
    return _build(node, path or "node", extra)


def _build(node: Any, path: str, extra: Mapping[str, Any]) -> Any:
    if isinstance(node, Mapping):
        recurse = node.get("_recursive_", True)
        parts = {
            key: _build(value, f"{path}.{key}", {}) if recurse and key not in _OWN_KEYS else value
            for key, value in node.items()
        }
        if "_target_" not in node:
            return {**parts, **extra}
        return _call(parts, path, extra)
    if isinstance(node, Sequence) and not isinstance(node, str | bytes):
        return [_build(value, f"{path}[{index}]", {}) for index, value in enumerate(node)]
    return node


def _call(parts: dict[str, Any], path: str, extra: Mapping[str, Any]) -> Any:
    target = parts["_target_"]
    function = _located(target, f"{path}._target_")
    keywords = {key: value for key, value in parts.items() if key not in _OWN_KEYS}
    keywords.update(extra)
    positional = parts.get("_args_") or []
    if parts.get("_partial_"):
        return functools.partial(function, *positional, **keywords)
    try:
        return function(*positional, **keywords)
    except BrainlabError:
        raise
    except Exception as error:
        raise InvalidValue(path, target, f"the target refused its arguments: {type(error).__name__}: {error}") from error


def _located(target: Any, path: str) -> Any:
    from hydra.utils import instantiate

    try:
        return instantiate({"_target_": target, "_partial_": True}).func
    except Exception as error:
        raise ConfigError(path, target, f"the target cannot be imported: {error}") from error
