"""Weights that a training starts from: ``weights.encoder=FILE`` fills the task's sub-module of that name.

A file may be a run directory, whose best checkpoint is meant: ``weights.network=RUN model.lr=1e-4`` goes on from an
earlier run with other settings.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from brainlab.errors import InvalidFile, InvalidValue, ShapeMismatch
from brainlab.run.directory import RunDirectory
from brainlab.run.fingerprint import flatten

__all__ = ["fingerprint_weights", "load_weights_into", "weights_of"]

log = logging.getLogger(__name__)


def weights_of(config: Mapping[str, Any]) -> dict[str, str]:
    """The files that a resolved configuration names, by part of the model.

    >>> weights_of({"weights": {"encoder": None, "network": {"decoder": "a.pt"}}})
    {'network.decoder': 'a.pt'}
    """
    named = flatten(config.get("weights") or {})
    return {part: str(file) for part, file in named.items() if part and file is not None}


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


def load_weights_into(task: Any, weights: Mapping[str, str], codes: str | None = None) -> None:
    """Fill sub-modules of ``task`` strictly.

    A network family that circulates in several forms reads them by the ``load_released_weights`` of its own file.

    Args:
        task: the built task.
        weights: dotted sub-module → file written by ``torch.save``, or a run directory. The file is a state dict or a
            checkpoint that holds one, of the sub-module alone or of all that it was part of, compiled or not.
        codes: fingerprint of the tokenizer whose codes the task reads; null where it reads none.

    Raises:
        InvalidValue: no such sub-module or file, or weights that learned the codes of another tokenizer.
        InvalidFile: the file is damaged, would run code, or holds other tensors; nothing is loaded.
        ShapeMismatch: a tensor has another shape; nothing is loaded.
    """
    from brainlab.io.torch_file import load_torch
    from brainlab.run.callbacks.last import STATE_KEY

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
        facts = state.get(STATE_KEY)
        facts = facts if isinstance(facts, Mapping) else {}
        if codes is not None and facts.get("tokenizer", codes) not in (None, codes):
            raise InvalidValue(
                f"weights.{name}",
                file,
                "expected weights that learned the codes of this run's tokenizer: to them its codes mean other signals",
                hint=_how_to_keep(facts.get("config")),
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
            _load_strictly(module, state, name, file)
            log.info("weights.%s: all tensors of %s", name, file)


def _how_to_keep(config: Any) -> str:
    """What keeps the tokenizer of the run whose configuration, as YAML, came with the weights."""
    file: Any = None
    with suppress(yaml.YAMLError):  # the file may come from anywhere
        plain = yaml.safe_load(str(config))
        for key in ("data", "tokenizer", "checkpoint"):
            plain = plain.get(key) if isinstance(plain, dict) else None
        file = plain
    words = "the data.tokenizer of that run" if file is None else f"tokenizer=file data.tokenizer.checkpoint={file}"
    return f"keep theirs: {words}"


def _load_strictly(module: Any, state: Mapping[str, Any], name: str, file: str) -> None:
    own = module.state_dict()
    given = _tensors_of(state.get("state_dict", state), name, own)
    shapes = [
        f"{key} {_shape(given[key])} instead of {_shape(own[key])}"
        for key in sorted(own.keys() & given.keys())
        if _shape(own[key]) != _shape(given[key])
    ]
    wrong = sorted(own.keys() ^ given.keys()) + shapes
    if wrong:
        raise ShapeMismatch(
            f"weights.{name}",
            file,
            f"expected the {len(own)} tensors of this part, but these differ: {wrong[:8]}",
            hint="sizes of the network and of the tokenizer's vocabulary must be those that it was trained with"
            if shapes
            else None,
        )
    module.load_state_dict(given, strict=True)


def _tensors_of(state: Mapping[str, Any], name: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of ``state`` that stand for ``own``: all of them, or those below the part's name."""
    # A compiled module stands one level below its own name.
    plain = {".".join(step for step in str(key).split(".") if step != "_orig_mod"): item for key, item in state.items()}
    readings = [
        {key.removeprefix(prefix): item for key, item in plain.items() if key.startswith(prefix)}
        for prefix in ("", f"{name}.", "model.", f"model.{name}.")
    ]
    return max(readings, key=lambda reading: len(own.keys() & reading.keys()))


def _shape(item: Any) -> tuple[int, ...] | None:
    return tuple(item.shape) if hasattr(item, "shape") else None


def _existing(name: str, file: str) -> Path:
    path = Path(file).expanduser()
    best = RunDirectory(path).best if path.is_dir() else path
    if not best.is_file():
        what = "a run directory with checkpoints/best.ckpt" if path.is_dir() else "an existing file"
        raise InvalidValue(f"weights.{name}", file, f"expected {what}")
    return best
