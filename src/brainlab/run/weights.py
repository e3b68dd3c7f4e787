"""Weights that a training starts from: ``weights.encoder=FILE`` fills the task's sub-module of that name."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brainlab.errors import InvalidFile, InvalidValue, ShapeMismatch

__all__ = ["fingerprint_weights", "load_weights_into"]

log = logging.getLogger(__name__)


def fingerprint_weights(weights: Mapping[str, str]) -> str | None:
    """A hash over the content of the files, by sub-module; ``None`` where there are none.

    Raises:
        InvalidValue: a file does not exist.
    """
    if not weights:
        return None
    digest = hashlib.sha256()
    for name, file in sorted(weights.items()):
        digest.update(name.encode() + b"\0")
        with _existing(name, file).open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def load_weights_into(task: Any, weights: Mapping[str, str]) -> None:
    """Fill sub-modules of ``task`` strictly.

    A network family that circulates in several forms reads them by the ``load_released_weights`` of its own file.

    Args:
        task: the built task.
        weights: dotted sub-module → file written by ``torch.save``: a state dict, or a checkpoint that holds one.

    Raises:
        InvalidValue: no such sub-module or file.
        InvalidFile: the file is damaged, would run code, or holds other tensors; nothing is loaded.
        ShapeMismatch: a tensor has another shape; nothing is loaded.
    """
    from brainlab.io.torch_file import load_torch

    modules = dict(task.named_modules())
    for name, file in weights.items():
        if name not in modules or not name:
            raise InvalidValue(
                f"weights.{name}",
                file,
                "unknown part of the model",
                hint=f"parts: {', '.join(part for part, _ in task.named_children())}",
            )
        module = modules[name]
        try:
            state = load_torch(_existing(name, file))
        except InvalidFile as error:
            raise InvalidFile(f"weights.{name}", file, error.expected, hint=error.hint) from error
        if not isinstance(state, Mapping):
            raise InvalidFile(
                f"weights.{name}", file, f"expected a dictionary of tensors, found {type(state).__name__}"
            )
        released = getattr(sys.modules[type(module).__module__], "load_released_weights", None)
        if released is not None:
            try:
                report = released(module, state)
            except InvalidValue as error:
                raise error.because_of(f"weights.{name}={file}") from error
            ignored = f", {len(report.ignored)} others left out" if report.ignored else ""
            log.info("weights.%s: %d tensors of %s%s", name, len(report.loaded), file, ignored)
        else:
            _load_strictly(module, state.get("state_dict", state), name, file)
            log.info("weights.%s: all tensors of %s", name, file)


def _load_strictly(module: Any, state: Mapping[str, Any], name: str, file: str) -> None:
    own = module.state_dict()
    wrong = sorted(set(own) ^ set(state)) + [
        key for key in sorted(set(own) & set(state)) if own[key].shape != state[key].shape
    ]
    if wrong:
        raise ShapeMismatch(
            f"weights.{name}", file, f"expected the {len(own)} tensors of this part, but these differ: {wrong[:8]}"
        )
    module.load_state_dict(state, strict=True)


def _existing(name: str, file: str) -> Path:
    path = Path(file).expanduser()
    if not path.is_file():
        raise InvalidValue(f"weights.{name}", file, "expected an existing file")
    return path
