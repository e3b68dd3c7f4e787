"""Makes the tiny experiment importable and runs it once for the tests that only read its files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a completed run of the tiny experiment, tracked by MLflow."""
    from launch import tiny_config

    from brainlab.run.execute import execute

    root = tmp_path_factory.mktemp("finished")
    execute(tiny_config(root, "logger=mlflow"), folder=root / "run", overrides=["logger=mlflow"])
    return root / "run"
