"""Where configuration files come from: the user's folders first, then ours.

First match wins: ``--config-dir`` › ``$BRAINLAB_CONFIG_DIR`` › ``./conf`` › packaged ``conf`` › packaged ``launchers``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from brainlab.errors import ConfigError

__all__ = ["SearchPath", "conf_dir", "current", "launchers_dir", "shown", "use"]

_PACKAGE = Path(__file__).resolve().parent.parent
_MARK = "# brainlab-config: 1"


@dataclass(frozen=True)
class SearchPath:
    """The user's folders in order of precedence, which packaged files they replace, and what to warn about."""

    folders: tuple[Path, ...] = ()
    replaced: tuple[tuple[Path, Path], ...] = ()
    warnings: tuple[str, ...] = ()

    def announcements(self) -> list[str]:
        """One line for each packaged file that a user's file replaces."""
        return [f"brainlab: {shown(theirs)} replaces the packaged {_named(ours)}" for theirs, ours in self.replaced]


_current = SearchPath()


def use(search_path: SearchPath) -> None:
    """Make ``search_path`` the one that Hydra's plugin adds; Hydra builds its plugins itself, without arguments."""
    global _current
    _current = search_path


def current() -> SearchPath:
    """What ``use`` was given last."""
    return _current


def conf_dir() -> Path:
    """The packaged ``conf``: inside the package in a wheel, beside ``src`` in a checkout."""
    return _packaged("conf")


def launchers_dir() -> Path:
    """The packaged ``launchers``, found like ``conf_dir``."""
    return _packaged("launchers")


def find(config_dirs: Sequence[str], environment: Mapping[str, str], cwd: Path) -> SearchPath:
    """Collect the user's folders.

    Args:
        config_dirs: values of ``--config-dir``.
        environment: holds ``BRAINLAB_CONFIG_DIR`` or not.
        cwd: the folder that may hold ``conf``.

    Raises:
        ConfigError: a named folder is missing, holds another project's ``config.yaml``, or a ``.yml`` file.
    """
    named = [("--config-dir", text) for text in config_dirs]
    named += [
        ("BRAINLAB_CONFIG_DIR", text) for text in environment.get("BRAINLAB_CONFIG_DIR", "").split(os.pathsep) if text
    ]
    folders: list[Path] = []
    warnings: list[str] = []
    for name, text in named:
        folder = (cwd / Path(text).expanduser()).resolve()
        if not folder.is_dir():
            raise ConfigError(
                name,
                text,
                "expected an existing folder of configuration files",
                where="command line" if name.startswith("-") else "environment",
            )
        if _foreign(folder):
            raise ConfigError(
                name,
                text,
                f"expected a config.yaml whose first line is '{_MARK}'",
                where=shown(folder / "config.yaml"),
                hint="it replaces the root configuration: start from a copy of brainlab's, or rename it",
            )
        folders.append(folder)
    own = cwd / "conf"
    if own.is_dir() and own.resolve() != conf_dir():
        if _foreign(own):
            warnings.append(
                f"brainlab: ./conf is skipped: the first line of its config.yaml is not '{_MARK}', "
                "so it seems to belong to another program"
            )
        else:
            folders.append(own.resolve())
    folders = [folder for folder in dict.fromkeys(folders) if folder != conf_dir()]
    for folder in folders:
        _refuse_yml(folder)
    return SearchPath(tuple(folders), tuple(_replacements(folders)), tuple(warnings))


def _named(ours: Path) -> str:
    base, prefix = (conf_dir(), "conf") if ours.is_relative_to(conf_dir()) else (launchers_dir(), "launchers")
    return f"{prefix}/{ours.relative_to(base).as_posix()}"


def shown(path: Path | str) -> str:
    """``path`` as a reader knows it: relative to the working directory, or from ``conf`` on for packaged files."""
    path = Path(path)
    for base, prefix in ((Path.cwd(), ""), (conf_dir(), "conf/"), (launchers_dir(), "launchers/")):
        if path.is_relative_to(base):
            return prefix + path.relative_to(base).as_posix()
    return str(path)


def _foreign(folder: Path) -> bool:
    root = folder / "config.yaml"
    if not root.is_file():
        return False
    with root.open(encoding="utf-8", errors="replace") as file:
        return file.readline().strip() != _MARK


def _refuse_yml(folder: Path) -> None:
    groups = [each for each in folder.iterdir() if each.is_dir() and ((conf_dir() / each.name).is_dir())]
    for file in [*folder.glob("config.yml"), *(found for group in groups for found in group.rglob("*.yml"))]:
        raise ConfigError(
            "file",
            shown(file),
            "expected a name that ends in .yaml",
            hint=f"rename it to {file.stem}.yaml; .yml files are not read",
        )


def _replacements(folders: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    seen: set[Path] = set()
    for folder in folders:
        for theirs in sorted(folder.rglob("*.yaml")):
            relative = theirs.relative_to(folder)
            for base in (conf_dir(), launchers_dir()):
                if relative not in seen and (base / relative).is_file():
                    seen.add(relative)
                    yield theirs, base / relative


def _packaged(name: str) -> Path:
    for folder in (_PACKAGE / name, _PACKAGE.parent.parent / name):
        if folder.is_dir():
            return folder
    raise ConfigError(
        name,
        _PACKAGE / name,
        "expected the folder that is installed with brainlab",
        hint="install brainlab again: pip install --force-reinstall brainlab",
    )
