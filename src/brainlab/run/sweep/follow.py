"""Follows the jobs of a sweep until they have ended, and gives up where too many fail."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from brainlab.errors import BrainlabError
from brainlab.run.sweep.jobs import JobChange, Runner, SweepJob
from brainlab.run.sweep.queue import is_slurm_id
from brainlab.run.sweep.record import JobsFailed, SweepRecord

__all__ = ["BrokenOff", "broken_off", "follow", "submit"]

_submitted: list[SweepRecord] = []  # the sweep of this process, once jobs of it were started
_watching: list[Callable[[], Any]] = []  # what ends the jobs of this machine


class BrokenOff(BrainlabError):
    """Jobs were started, and then the process that follows them met an error."""


def broken_off(error: Exception) -> BrokenOff | None:
    """Take leave of a sweep whose jobs were started: jobs of this machine end, those of a cluster are named.

    Args:
        error: what happened; it may be that nothing can be written any more.

    Returns:
        what to tell the user, or ``None`` where nothing had been started or the sweep is at its proper end.
    """
    if not _submitted:
        return None
    record = _submitted.pop()
    if isinstance(error, JobsFailed):
        return None
    while _watching:
        with contextlib.suppress(Exception):
            _watching.pop()()
    elsewhere = any(is_slurm_id(job_id) for job_id in record.alive.values())
    with contextlib.suppress(Exception):  # it says what goes on before it writes
        record.interrupted()
    if not elsewhere:
        with contextlib.suppress(Exception):
            record.show()
    what = "Nobody watches the sweep any more" if elsewhere else "The sweep was broken off"
    said = str(error) if isinstance(error, BrainlabError) else f"{type(error).__name__}: {error}"
    return BrokenOff(f"{what}: {said} (sweep: {record.folder})")


def submit(record: SweepRecord, runner: Runner, jobs: Sequence[SweepJob]) -> dict[int, str]:
    """Start jobs and note what they are called; the record says so where they cannot be started.

    Returns:
        their ids by number.

    Raises:
        BrainlabError: none of them was started.
    """
    try:
        ids = runner.submit(jobs, record.folder)
    except BrainlabError as error:
        with contextlib.suppress(OSError):  # a full disk must not hide what is wrong
            record.refused([job.number for job in jobs], str(error))
        raise
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            record.interrupted()
        raise
    _submitted[:] = [record]
    record.submitted(ids)
    return ids


def follow(record: SweepRecord, runner: Runner, ids: Mapping[int, str]) -> Iterator[JobChange]:
    """Pass on every change of the jobs after the record has taken it over.

    Args:
        record: what the sweep knows; its ``max_failures`` says when the rest is not worth starting. It then says
            ``given_up``, and a search must not ask for more.
        runner: where the jobs run.
        ids: the jobs' ids by number; jobs may be added while the changes are read.

    Raises:
        KeyboardInterrupt: after the record was closed, and the user was told what goes on.
    """
    failures = 0
    _submitted[:] = [record]
    watching = runner.watch(ids, record.folder)
    end = getattr(watching, "close", lambda: None)
    _watching[:] = [end]
    try:
        for change in watching:
            counted = change.ended and not record.rows[change.number].ended and change.state != "COMPLETED"
            record.changed(change)
            failures += counted
            if not record.given_up and record.max_failures is not None and failures >= record.max_failures:
                record.given_up = True
                waiting = {number: job for number, job in ids.items() if record.rows[number].state == "PENDING"}
                print(f"{failures} jobs failed (sweep.max_failures); {len(waiting)} are not started", flush=True)
                if waiting:
                    runner.cancel(waiting)
            yield change
    except KeyboardInterrupt:
        end()
        with contextlib.suppress(OSError):
            record.interrupted()
        raise
