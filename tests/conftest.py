"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def _folder(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: it names the folder that this test reads")
    return Path(value)


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The folder of reference numbers."""
    return _folder("BRAINLAB_GOLDEN")


@pytest.fixture(scope="session")
def real_data_dir() -> Path:
    """The folder of small real recordings."""
    return _folder("BRAINLAB_REAL_DATA")
