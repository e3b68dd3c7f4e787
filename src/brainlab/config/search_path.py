"""Where configuration files come from: the user's folders first, then ours."""

from __future__ import annotations

from pathlib import Path

from brainlab.errors import ConfigError

__all__ = ["conf_dir", "launchers_dir"]

_PACKAGE = Path(__file__).resolve().parent.parent


def conf_dir() -> Path:
    """The packaged ``conf``: inside the package in a wheel, beside ``src`` in a checkout."""
    return _packaged("conf")


def launchers_dir() -> Path:
    """The packaged ``launchers``, found like ``conf_dir``."""
    return _packaged("launchers")


def _packaged(name: str) -> Path:
    for folder in (_PACKAGE / name, _PACKAGE.parent.parent / name):
        if folder.is_dir():
            return folder
    raise ConfigError(name, _PACKAGE / name, "expected the folder that is installed with brainlab",
                      hint="install brainlab again: pip install --force-reinstall brainlab")
