"""Claims the folder of a single run before Hydra writes into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

__all__ = ["ClaimRunFolder", "claim"]

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
    """
    overrides = OmegaConf.select(config, "hydra.overrides.hydra") or []
    if any(str(override).lstrip("+").startswith(f"{key}=") for override in overrides):
        folder = Path(str(OmegaConf.select(config, key)))
        folder.mkdir(parents=True, exist_ok=True)
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
