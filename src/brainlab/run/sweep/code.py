"""The code that a sweep was submitted with: jobs read it when they start, which may be hours later."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brainlab.run.directory import RunDirectory, read_json
from brainlab.run.environment import code_state

__all__ = ["code_at_submission", "warn_if_code_changed"]

log = logging.getLogger(__name__)


def code_at_submission(folder: Path) -> dict[str, Any]:
    """Commit of the checkout and hash of what was changed since, whose text is left in the sweep's ``code.diff``."""
    state = code_state(RunDirectory(folder))
    return {
        "git_sha": state["git_sha"],
        "git_dirty": state["git_dirty"],
        "diff_sha256": _digest(folder, state),
    }


def warn_if_code_changed(run_dir: Path, state: Mapping[str, Any]) -> None:
    """Say once, in the log of a sweep's job, that it runs other code than it was submitted with.

    Args:
        run_dir: the job's folder.
        state: what ``code_state`` found when the job started.
    """
    sweep = read_json(run_dir.parent / "sweep.json")
    code = sweep.get("code") if isinstance(sweep, Mapping) else None
    if not isinstance(code, Mapping) or not code.get("git_sha") or not state.get("git_sha"):
        return
    before, now = code["git_sha"], state["git_sha"]
    if before != now:
        log.warning("The code changed since this sweep was submitted: commit %s then, %s now", before[:12], now[:12])
    elif code.get("diff_sha256") != _digest(run_dir, state):
        log.warning(
            "The code changed since this sweep was submitted: compare %s and %s",
            run_dir.parent / "code.diff",
            run_dir / "code.diff",
        )


def _digest(folder: Path, state: Mapping[str, Any]) -> str | None:
    if not state.get("diff"):
        return None
    try:
        return hashlib.sha256((folder / str(state["diff"])).read_bytes()).hexdigest()
    except OSError:
        return None
