"""Checkpoint files: written whole, read without executing code, with every random state in plain form."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from brainlab.errors import InvalidFile
from brainlab.io.atomic import disk_full, fsync_path, is_disk_full
from brainlab.io.torch_file import load_torch
from brainlab.run.directory import is_rank_zero

__all__ = ["latest", "load", "load_weights", "plain", "publish", "random_state", "restore_random_state", "writing"]

log = logging.getLogger(__name__)


def random_state() -> dict[str, Any]:
    """The global random states of Python, NumPy, torch and CUDA, as tensors and plain lists.

    ``torch.load(weights_only=True)`` refuses the tuples and arrays that the generators themselves hand out.
    """
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [
            str(name),
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "torch": torch.get_rng_state(),
        "cuda": list(torch.cuda.get_rng_state_all()) if torch.cuda.is_initialized() else [],
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Put the states of :func:`random_state` back."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available() and torch.cuda.device_count() >= len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])


def plain(value: Any) -> Any:
    """``value`` built from tensors and Python's own types only.

    Raises:
        TypeError: naming the type that has no plain form.
    """
    if value is None or isinstance(value, bool | str | torch.Tensor):
        return value
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key if isinstance(key, int) else str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    raise TypeError(f"{type(value).__module__}.{type(value).__qualname__}")


@contextmanager
def writing(temporary: Path, target: Path) -> Iterator[None]:
    """Remove what could not be written whole, as other files need its room; a full disk's error names ``target``."""
    try:
        yield
    except BaseException as error:
        full = isinstance(error, Exception) and is_disk_full(error, temporary.parent)
        if is_rank_zero():
            temporary.unlink(missing_ok=True)
        if full:
            raise disk_full(target) from error
        raise


def publish(temporary: Path, target: Path, previous: Path | None = None) -> None:
    """Give a finished file its name; the file that had it becomes ``previous``. ``target`` exists at every moment."""
    fsync_path(temporary)
    if previous is not None and target.exists():
        link = previous.with_name(f".{previous.name}.link")
        link.unlink(missing_ok=True)
        try:
            os.link(target, link)
            os.replace(link, previous)
        except OSError:  # a file system without hard links: for a moment only the previous one has a name
            os.replace(target, previous)
    os.replace(temporary, target)
    fsync_path(target.parent)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint; only tensors and plain containers are accepted.

    Raises:
        InvalidFile: if it is missing, truncated, or tries to run code.
    """
    if not path.is_file():
        raise InvalidFile("checkpoint", path, "expected an existing checkpoint file")
    try:
        content = load_torch(path, memory_map=False)
    except InvalidFile as error:
        raise InvalidFile("checkpoint", path, error.expected, hint=error.hint) from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise InvalidFile("checkpoint", path, "expected a checkpoint with a state_dict")
    return content


def latest(last: Path, previous: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest readable checkpoint of a run, or ``None`` where it never wrote one.

    A truncated ``last`` is replaced by the previous one, with a warning.

    Raises:
        InvalidFile: if there are checkpoints but none can be read: starting over unasked would hide a loss.
    """
    present = [path for path in (last, previous) if path.exists()]
    for path in present:
        try:
            content = load(path)
        except InvalidFile as error:
            log.warning("%s", error)
            problem = error
            continue
        if path != last:
            log.warning("Continuing from the checkpoint before it: %s", path)
        return path, content
    if present:
        raise problem
    return None


def load_weights(module: torch.nn.Module, content: Mapping[str, Any], source: Path) -> None:
    """Load a checkpoint's weights; every key must fit.

    Raises:
        InvalidFile: naming missing keys, unknown keys and differing shapes.
    """
    weights = content["state_dict"]
    own = module.state_dict()
    missing = sorted(set(own) - set(weights))
    unknown = sorted(set(weights) - set(own))
    shapes = [
        f"{key} {tuple(weights[key].shape)} instead of {tuple(own[key].shape)}"
        for key in sorted(set(own) & set(weights))
        if hasattr(own[key], "shape") and own[key].shape != weights[key].shape
    ]
    problems = [
        f"{name}: {', '.join(keys[:6])}{f' and {len(keys) - 6} more' if len(keys) > 6 else ''}"
        for name, keys in (("missing keys", missing), ("unknown keys", unknown), ("other shapes", shapes))
        if keys
    ]
    if problems:
        raise InvalidFile(
            "checkpoint",
            source,
            f"expected the weights of this model, but found {'; '.join(problems)}",
            hint="evaluate it with the configuration it was trained with",
        )
    module.load_state_dict(weights, strict=True)
