"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest


def pytest_configure() -> None:
    """A shell's background job is deaf to SIGINT, and so would be every process that a test interrupts."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
