"""``${stage:NAME.what}``: how a stage of a chain refers to what an earlier one made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from omegaconf import OmegaConf

from brainlab.errors import ConfigError

__all__ = ["outputs", "register_resolver"]

_OUTPUTS: ContextVar[Mapping[str, Mapping[str, object]] | None] = ContextVar("brainlab_stage_outputs", default=None)


def register_resolver() -> None:
    """Make ``${stage:…}`` known to OmegaConf; safe to call again."""
    OmegaConf.register_new_resolver("stage", _resolve, replace=True)


@contextmanager
def outputs(stages: Mapping[str, Mapping[str, object]]) -> Iterator[None]:
    """Within this block, ``${stage:NAME.what}`` is ``stages[NAME][what]``."""
    token = _OUTPUTS.set(stages)
    try:
        yield
    finally:
        _OUTPUTS.reset(token)


def _resolve(reference: str) -> object:
    stages = _OUTPUTS.get()
    if stages is None:
        # Outside a running chain nothing is known yet: the reference stands for itself until the stage has run.
        return f"${{stage:{reference}}}"
    name, _, what = reference.partition(".")
    if name not in stages:
        raise ConfigError(
            "stage", reference, f"expected one of the earlier stages {', '.join(stages) or '(there is none)'}"
        )
    if what not in stages[name]:
        raise ConfigError("stage", reference, f"expected one of {', '.join(f'{name}.{key}' for key in stages[name])}")
    return stages[name][what]
