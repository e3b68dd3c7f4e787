"""What became of a sweep's jobs while no process watched them."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from brainlab.run.sweep.jobs import ENDED, JobChange, as_score
from brainlab.run.sweep.queue import is_slurm_id
from brainlab.run.sweep.rows import JobRow, find
from brainlab.run.sweep.watch import HEARTBEAT_LOST_S, OUTCOMES, Watcher, read_outcome

__all__ = ["catch_up", "is_alive"]


def catch_up(folder: Path, rows: Mapping[int, JobRow]) -> Iterator[JobChange]:
    """Tell what is new, from the files that the jobs left and from the cluster.

    Args:
        folder: the sweep's folder.
        rows: its jobs, as they were last known.
    """
    waiting: dict[int, str] = {}
    for number, row in rows.items():
        change = _left_behind(folder, row)
        if change is not None:
            yield change
        elif not row.ended and row.job_id is not None:
            if is_slurm_id(row.job_id):  # whatever launcher is chosen now
                waiting[number] = row.job_id
            elif not _breathes(row):
                yield JobChange(number, "LOST", reason="its process ended without a word")
    if waiting:
        yield from Watcher(waiting, folder).settle()


def _left_behind(folder: Path, row: JobRow) -> JobChange | None:
    """What the job's own files say, where that is more than is known."""
    if row.state == "COMPLETED" or (not row.ended and row.job_id is None):
        return None
    if not row.ended:
        outcome = read_outcome(folder / OUTCOMES / f"{row.num}.json")
        written = outcome.get("job_id") if outcome is not None else None
        if outcome is not None and (not is_slurm_id(written) or written == row.job_id):
            return JobChange(row.num, outcome["state"], as_score(outcome.get("score")), outcome.get("reason"))
    if row.ended or row.state == "RUNNING":
        # Continued by hand, or requeued after it was given up for lost.
        found = find(Path(row.run_dir))
        if found.state == "COMPLETED" or (found.state in ENDED and not row.ended):
            return JobChange(row.num, str(found.state), found.score, found.error)
    return None


def _breathes(row: JobRow) -> bool:
    """Whether a job that was not started on a cluster is still running."""
    found = find(Path(row.run_dir))
    if found.state != "RUNNING" or not found.heartbeat:
        return False
    if found.host == socket.gethostname() and found.pid:
        return is_alive(found.pid)
    return time.time() - datetime.fromisoformat(found.heartbeat).timestamp() < HEARTBEAT_LOST_S


def is_alive(pid: Any) -> bool:
    """Whether a process of this machine lives; one that is stopped lives too, though its heart does not beat."""
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (OSError, TypeError, ValueError):
        return False
    return True
