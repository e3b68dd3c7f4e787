"""Follows the jobs of a sweep until they have ended, and gives up where too many fail."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from brainlab.errors import BrainlabError
from brainlab.run.sweep.jobs import JobChange, Runner, SweepJob
from brainlab.run.sweep.record import SweepRecord

__all__ = ["follow", "submit"]


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
        record.refused([job.number for job in jobs], str(error))
        raise
    except KeyboardInterrupt:
        record.interrupted()
        raise
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
    try:
        for change in runner.watch(ids, record.folder):
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
        record.interrupted()
        raise
