"""The one entry: compose, validate, run."""

from __future__ import annotations

import os
import sys
from typing import Any

import hydra
from omegaconf import DictConfig

from brainlab.config import schema
from brainlab.config.search_path import conf_dir

__all__ = ["entry", "main"]

schema.register()


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
def entry(cfg: DictConfig) -> Any:
    """What Hydra calls once per job; tiny, so that it pickles."""
    from brainlab.run import run

    return run(cfg)


def main() -> None:
    """Run the command line and exit with 0, 1, 2 or 130."""
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.exit(entry())
