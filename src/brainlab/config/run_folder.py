"""Claims the folder of a single run before Hydra writes into it."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from brainlab.errors import ConfigError

__all__ = ["FOLDER_NAME", "ClaimRunFolder", "claim"]

FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""What a configuration may call a folder: nothing that leads out of the one it lies in."""

_ATTEMPTS = 20


class ClaimRunFolder(Callback):
    """Hydra callback: two runs that start in the same second never share a folder."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Create the run's folder; a folder that the user named may exist already."""
        claim(config, "hydra.run.dir")


def claim(config: DictConfig, key: str) -> Path:
    """Create the folder that ``key`` names and return it.

    A folder named by its time and a random part must be new and gets another random part until it is. A folder that
    was named on the command line may exist: whether it may be used again is decided when its content is read.

    Raises:
        ConfigError: it cannot be created or written.
    """
    try:
        return _claim(config, key)
    except OSError as error:
        named = key if _is_named(config, key) else "paths.root"
        value = OmegaConf.select(config, named)
        raise ConfigError(named, value, f"expected a folder that can be written: {error.strerror or error}") from error


def _is_named(config: DictConfig, key: str) -> bool:
    overrides = OmegaConf.select(config, "hydra.overrides.hydra") or []
    return any(str(override).lstrip("+").startswith(f"{key}=") for override in overrides)


def _claim(config: DictConfig, key: str) -> Path:
    if _is_named(config, key):
        folder = Path(str(OmegaConf.select(config, key)))
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return folder
    for attempt in range(_ATTEMPTS):
        folder = Path(str(OmegaConf.select(config, key)))
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir(exist_ok=False)
            return folder
        except FileExistsError:
            if attempt == _ATTEMPTS - 1:
                raise
            OmegaConf.clear_cache(config)
    raise AssertionError("unreachable")
