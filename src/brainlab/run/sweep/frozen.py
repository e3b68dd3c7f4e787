"""Freezes what a job will run when it is submitted, so that nothing edited afterwards can change it.

A frozen job is a pickle: the typed ``hydra`` node of a configuration survives no other form. Only files that this user
wrote into a folder that nobody else can write are ever read back.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import pickle
import secrets
import stat
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from brainlab.config import search_path
from brainlab.errors import InvalidFile
from brainlab.io.atomic import write_atomically
from brainlab.run.sweep.jobs import SweepJob

__all__ = [
    "JOBS",
    "Frozen",
    "check_own",
    "check_private",
    "freeze",
    "frozen_path",
    "outcome_path",
    "private_folder",
    "thaw",
]

JOBS = ".jobs"


@dataclass(frozen=True)
class Frozen:
    """Everything that a job needs besides the code."""

    number: int
    submission: str
    """Tells this submission of the job from earlier and later ones."""
    config: DictConfig
    task_function: str
    """``module:name`` of what Hydra calls."""
    command: tuple[str, ...]
    """The words that the user typed."""
    cwd: str
    folders: Any
    """The configuration folders that the sweep was started with."""

    def function(self) -> Callable[[DictConfig], Any]:
        """What Hydra calls, without Hydra's own frame around it."""
        module, _, name = self.task_function.partition(":")
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        return inspect.unwrap(found)  # type: ignore[arg-type]


def frozen_path(folder: Path, number: int) -> Path:
    """Where job ``number`` of a sweep is frozen."""
    return Path(folder) / JOBS / f"{number}.pkl"


def outcome_path(folder: Path, number: int) -> Path:
    """Where job ``number`` of a sweep says how it ended."""
    return Path(folder) / JOBS / f"{number}.json"


def freeze(jobs: Iterable[SweepJob], folder: Path, task_function: Callable[..., Any]) -> str:
    """Write every job into the sweep's folder and forget how earlier submissions of the same jobs ended.

    Returns:
        the token of this submission.
    """
    import cloudpickle

    private_folder(Path(folder) / JOBS)
    submission = secrets.token_hex(8)
    name = f"{task_function.__module__}:{task_function.__qualname__}"
    for job in jobs:
        frozen = Frozen(
            number=job.number,
            submission=submission,
            config=job.config,
            task_function=name,
            command=tuple(sys.argv),
            cwd=os.getcwd(),
            folders=search_path.current(),
        )
        outcome_path(folder, job.number).unlink(missing_ok=True)
        # Not pickle: Hydra executes plugin modules again, so a class of a node need not be the module's own any more.
        write_atomically(frozen_path(folder, job.number), cloudpickle.dumps(frozen))
    return submission


def thaw(folder: Path, number: int) -> Frozen:
    """Read a frozen job.

    Raises:
        InvalidFile: somebody else could have written it, or it cannot be read.
    """
    path = frozen_path(folder, number)
    check_private(path.parent)
    check_own(path)
    try:
        frozen = pickle.loads(path.read_bytes())  # the user's own file, just checked
    except Exception as error:
        raise InvalidFile("job", path, f"expected a frozen job ({type(error).__name__}: {error})") from error
    if not isinstance(frozen, Frozen):
        raise InvalidFile("job", path, f"expected a frozen job, found {type(frozen).__name__}")
    return frozen


def private_folder(path: Path) -> Path:
    """Create a folder that only this user can look into, or make sure that an existing one is such a folder.

    Raises:
        InvalidFile: it belongs to somebody else.
    """
    with contextlib.suppress(FileExistsError):  # a file, or a link to nowhere: named below
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_own(path)  # before the mode is changed: a link would change that of what it points to
    path.chmod(0o700)
    check_private(path)
    return path


def check_private(folder: Path) -> None:
    """Make sure that nobody but this user can have put anything into ``folder``.

    Raises:
        InvalidFile: it is missing, a link, somebody else's, or open to others.
    """
    mode = stat.S_IMODE(check_own(folder).st_mode)
    if mode & 0o077:
        raise InvalidFile("job", folder, f"expected a private folder of this sweep: mode 0700, not {mode:04o}")


def check_own(path: Path) -> os.stat_result:
    """Make sure that ``path`` is this user's own and not a link; inside a private folder no more is needed.

    Raises:
        InvalidFile: it is missing, a link, or somebody else's.
    """
    try:
        found = path.lstat()
    except OSError as error:
        raise InvalidFile("job", path, f"expected a file of this sweep ({error.strerror})") from error
    expected = None
    if stat.S_ISLNK(found.st_mode):
        expected = "not a link"
    elif found.st_uid != os.geteuid():
        expected = f"owned by user {os.geteuid()}, not {found.st_uid}"
    if expected is not None:
        raise InvalidFile("job", path, f"expected a private file of this sweep: {expected}")
    return found
