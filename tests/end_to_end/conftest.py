"""Runs the command line as a user would: a process of its own, an empty folder, a cache that all tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, what it printed, and the folder it ran in."""

    code: int
    text: str
    folder: Path

    def run_folder(self, experiment: str) -> Path:
        """The only run directory of ``experiment``."""
        found = sorted((self.folder / "outputs" / experiment).iterdir())
        assert len(found) == 1, f"{len(found)} run directories; output was:\n{self.text}"
        return found[0]


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache per worker: simulated data are written once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def brainlab(tmp_path: Path, shared_cache: Path) -> Callable[..., Ended]:
    """``brainlab(*words)`` in an empty folder."""

    def command(*words: str, folder: Path = tmp_path, **variables: str) -> Ended:
        env = {key: value for key, value in os.environ.items() if not key.startswith(("BRAINLAB_", "MLFLOW_"))}
        env |= {"BRAINLAB_CACHE": str(shared_cache), "OMP_NUM_THREADS": "1", **variables}
        done = subprocess.run(
            [sys.executable, "-m", "brainlab", *words], cwd=folder, env=env, capture_output=True, text=True, timeout=540
        )
        return Ended(done.returncode, done.stdout + done.stderr, folder)

    return command
