"""A hash of what an object is made of: two objects with the same one do the same.

Weights, settings and the objects that hold them are taken in by value, so that a model loaded twice is the same model
and any change of it makes another one. Whoever keeps a result under such a hash never reads a stale one.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["content_hash"]

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)
_HASHED_ELSEWHERE = ("brainlab", "torch")  # by code_digest, and by the version


class _NoContent(Exception):
    """Something that only its identity tells apart: a function made on the spot, an open file, a cycle."""


def content_hash(value: Any) -> str | None:
    """64 hexadecimal digits; None where something in ``value`` cannot be told apart by its content.

    Classes count by name; those that come neither with brainlab nor with torch, by their source file as well.

    >>> content_hash({"a": [1.0]}) == content_hash({"a": [1.0]}) != content_hash({"a": [1]})
    True
    >>> content_hash(lambda x: x) is None
    True
    """
    digest = hashlib.sha256()
    try:
        _take(digest, value, ())
    except _NoContent:
        return None
    return digest.hexdigest()


def _take(digest: Any, value: Any, above: tuple[int, ...]) -> None:
    if id(value) in above:
        raise _NoContent
    inside = (*above, id(value))
    if isinstance(value, _PLAIN):
        _say(digest, type(value).__name__, repr(value))
    elif isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
        _take_array(digest, value)
    elif isinstance(value, Mapping):
        _say(digest, "map", len(value))
        for key in sorted(value, key=repr):
            _take(digest, key, inside)
            _take(digest, value[key], inside)
    elif isinstance(value, (list, tuple)):
        _say(digest, "list", len(value))
        for each in value:
            _take(digest, each, inside)
    elif isinstance(value, (set, frozenset)):
        _take(digest, sorted(value, key=repr), inside)
    elif isinstance(value, partial):
        _take(digest, [partial, value.func, value.args, value.keywords], inside)
    elif isinstance(value, type) or inspect.isfunction(value) or inspect.isbuiltin(value):
        _take_named(digest, value)
    elif hasattr(value, "__dict__") and not inspect.ismodule(value) and not inspect.ismethod(value):
        _take_named(digest, type(value))
        # Hooks of saving and loading take no part in what a network computes.
        _take(digest, {name: each for name, each in vars(value).items() if "state_dict" not in name}, inside)
    else:
        raise _NoContent


def _take_array(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu().contiguous()
        _say(digest, "array", tensor.dtype, tuple(tensor.shape))
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
        return
    array = np.asarray(value)
    if array.dtype.hasobject:
        raise _NoContent
    _say(digest, "array", array.dtype.str, array.shape)
    for row in array if array.ndim > 1 else [array]:
        digest.update(np.ascontiguousarray(row).tobytes())


def _take_named(digest: Any, value: Any) -> None:
    name = value.__qualname__
    if "<" in name or getattr(value, "__self__", None) not in (None, sys.modules.get(value.__module__ or "")):
        raise _NoContent
    _say(digest, "name", value.__module__, name, _source(value.__module__ or ""))


@lru_cache
def _source(module: str) -> str:
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or module.partition(".")[0] in _HASHED_ELSEWHERE:
        return ""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _say(digest: Any, *words: Any) -> None:
    digest.update("\0".join(map(str, words)).encode() + b"\1")
