"""Which objects a configuration may build.

A written path and the object behind it must both be allowed: ``brainlab.cli.os.system`` starts well and ends badly.
Methods are never targets, because some of them fetch and run foreign code (``from_pretrained``).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from brainlab.config.schema import ALLOWED_TARGETS
from brainlab.config.signatures import Definition, NotFound, find_definition

__all__ = ["HYDRA_TARGETS", "Refused", "admitted", "allowed_targets", "check_object", "check_target", "targets_in"]

HYDRA_TARGETS = ("hydra_plugins", "hydra._internal.core_plugins", "hydra.experimental.callbacks", "logging", "colorlog")
"""Additionally allowed inside the ``hydra`` node, which Hydra and ``logging`` build themselves."""

# What builds, unpickles or fetches by name would open the list again.
_NEVER = (
    "hydra.utils",
    "hydra._internal.utils",
    "hydra._internal.instantiate",
    "brainlab.config.build",
    "brainlab.cli.main",
    "torch.utils.data.datapipes",  # RoutedDecoder unpickles what FileOpener reads
    "torchmetrics.multimodal",  # CLIPScore trusts the code that lies beside a model
    "torchmetrics.text.bert",  # loads the model that a text names
    "torchmetrics.text.infolm",
    "diffusers.models.autoencoders.ltx2_diffusion_decoder",  # fetches compiled kernels
)

# Other rooms' functions read, write and start things; these compute.
_FUNCTION_ROOMS = ("brainlab.models", "brainlab.nn", "brainlab.metrics", "brainlab.signal")
# Their classes open files and shape a run as soon as they are built; no configuration needs them.
_CLOSED_ROOMS = ("brainlab.io", "brainlab.config", "brainlab.plot", "brainlab.cli")
_DOORS = ("brainlab.config.run_folder.ClaimRunFolder",)  # the packaged hydra node names it
_WANTED = "a target is a class, or a function of " + ", ".join(_FUNCTION_ROOMS)


class Refused(Exception):
    """A target that may not or cannot be built: what is wrong, and the way out."""

    def __init__(self, expected: str, hint: str | None = None) -> None:
        super().__init__(expected)
        self.expected, self.hint = expected, hint


def allowed_targets(cfg: Any) -> tuple[str, ...]:
    """The list that ``cfg`` carries at ``security.allowed_targets``, else the default one."""
    security = cfg.get("security") if isinstance(cfg, Mapping) or OmegaConf.is_dict(cfg) else None
    chosen = security.get("allowed_targets") if security is not None else None
    return ALLOWED_TARGETS if chosen is None else tuple(str(each) for each in chosen)


def admitted(name: str, allowed: Iterable[str]) -> bool:
    """Whether ``name`` is an entry or lies below one, by whole components.

    >>> admitted("torch.nn.Linear", ["torch.nn"]), admitted("torch.nnx.Linear", ["torch.nn"])
    (True, False)
    """
    return any(name == entry or name.startswith(entry + ".") for entry in allowed)


def check_target(target: Any, allowed: Sequence[str]) -> Definition:
    """Judge ``target`` from source alone.

    Raises:
        Refused: it is not allowed or does not exist.
    """
    if not isinstance(target, str) or not target:
        raise Refused("expected the dotted name of a class")
    listed = ", ".join(allowed)
    _never(target, target)
    if not admitted(target, allowed):
        raise Refused(*_not_allowed(target, allowed, listed))
    try:
        found = find_definition(target)
    except NotFound as error:
        raise Refused(f"'{target}' cannot be imported: {error}", _closest(target, error.candidates)) from None
    _never(target, found.name)
    if target in allowed:
        return found
    _public(target, target, allowed)
    if found.kind == "method":
        raise Refused(f"'{target}' is a method; {_WANTED}")
    if found.kind == "module":
        # A module reached through another module's import (brainlab.cli.os) says so by its own name.
        raise Refused(f"'{target}' is the module '{found.name}'; {_WANTED}")
    if not admitted(found.name, allowed):
        raise Refused(f"'{target}' is '{found.name}', which is not in security.allowed_targets", f"allowed: {listed}")
    _public(target, found.name, ("brainlab",))
    if found.kind == "function" and not admitted(found.name, _FUNCTION_ROOMS):
        raise Refused(
            f"'{target}' is a function; {_WANTED}",
            "list its full name in security.allowed_targets if it is meant",
        )
    _closed(target, found.name)
    return found


def check_object(target: str, found: Any, allowed: Sequence[str]) -> None:
    """Judge the imported object behind ``target`` once more, before it is called.

    Raises:
        Refused: it was defined outside the allowed packages, or is neither a class nor a function that only computes.
    """
    name = f"{getattr(found, '__module__', None)}.{getattr(found, '__qualname__', None)}"
    _never(target, name)
    if target in allowed:
        return
    _public(target, name, ("brainlab",))
    if not admitted(name, allowed):
        raise Refused(f"'{target}' is '{name}', which is not in security.allowed_targets")
    if not isinstance(found, type) and not (admitted(name, _FUNCTION_ROOMS) and "." not in found.__qualname__):
        raise Refused(f"'{target}' is no class; {_WANTED}")
    _closed(target, name)


def targets_in(node: Any, path: str, *, logging_keys: bool = False) -> Iterator[tuple[str, Any]]:
    """Every ``_target_`` below ``node`` with its key; with ``logging_keys`` also what ``logging`` would call."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            here = f"{path}.{key}" if path else str(key)
            named = isinstance(value, str) and value.startswith("ext://")
            if key == "_target_" or (logging_keys and (named or key in ("()", "class"))):
                yield here, value
            else:
                yield from targets_in(value, here, logging_keys=logging_keys)
    elif isinstance(node, Sequence) and not isinstance(node, str | bytes):
        for index, value in enumerate(node):
            yield from targets_in(value, f"{path}[{index}]", logging_keys=logging_keys)


def _never(target: str, name: str) -> None:
    """Refuse ``name``, which is what ``target`` says or leads to, whatever the list holds."""
    if admitted(name, _NEVER):
        led = "" if name == target else f" is '{name}', which"
        raise Refused(f"'{target}'{led} builds or loads whatever it is told to and is never a target")


def _closed(target: str, name: str) -> None:
    """Refuse what lies in a room whose objects are made by code alone."""
    room = next((room for room in _CLOSED_ROOMS if admitted(name, (room,))), None)
    if room is not None and name not in _DOORS:
        led = "" if name == target else f" is '{name}', which"
        raise Refused(f"'{target}'{led} is a tool of {room} that no configuration builds")


def _public(target: str, name: str, packages: Iterable[str]) -> None:
    """Refuse ``name`` where the part below an entry of ``packages`` is private.

    Of other packages only the written path counts: torch.optim.Adafactor is defined in torch.optim._adafactor.
    """
    below = min((name[len(entry) :] for entry in packages if admitted(name, (entry,))), key=len, default="")
    private = next((part for part in below.split(".") if part.startswith("_")), None)
    if private is not None:
        raise Refused(f"'{target}' is private ({private}); {_WANTED}")


def _not_allowed(target: str, allowed: Sequence[str], listed: str) -> tuple[str, str]:
    top = target.partition(".")[0]
    tops = sorted({entry.partition(".")[0] for entry in allowed})
    close = difflib.get_close_matches(top, tops, n=1)
    try:
        find_definition(top)
    except NotFound as error:
        meant = f"did you mean {close[0]}{target[len(top) :]}?" if close else f"allowed: {listed}"
        return f"'{target}' is not in security.allowed_targets and cannot be imported: {error}", meant
    return f"'{target}' is not in security.allowed_targets", f"allowed: {listed}"


def _closest(target: str, candidates: Sequence[str]) -> str | None:
    front, _, name = target.rpartition(".")
    close = difflib.get_close_matches(name, candidates, n=1)
    return f"did you mean {front}.{close[0]}?" if close else None
