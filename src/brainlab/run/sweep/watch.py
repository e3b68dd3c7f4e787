"""Watch the jobs of a sweep from outside: what they left, whether their hearts beat, and what the cluster says.

A job that completes or fails leaves an outcome file. A job that was cancelled, killed or lost with its node leaves
nothing, and the accounting that would tell may be switched off, late or wrong. So such a job is called LOST only when
two successive looks at the cluster agree that it is gone.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from brainlab.run.directory import read_json, write_json
from brainlab.run.sweep.jobs import ENDED, JobChange, as_score
from brainlab.run.sweep.queue import Cluster, QueueEntry, is_slurm_id

__all__ = ["HEARTBEAT_LOST_S", "INTERVAL_S", "OUTCOMES", "Watcher", "mark_lost", "read_outcome"]

log = logging.getLogger(__name__)

INTERVAL_S = 15.0
HEARTBEAT_LOST_S = 45.0
OUTCOMES = ".jobs"
"""The folder inside a sweep's folder where each job leaves ``<number>.json`` when it ends."""

_OWN_ENDS = frozenset({"COMPLETED", "FAILED"})
"""Ends that a job reaches by itself; its outcome may still be on its way over a slow network file system."""

_OUTCOME_POLLS = 3


@dataclass
class _Known:
    """What the watcher remembers of one job; nothing here grows with time."""

    state: str | None = None
    gone_polls: int = 0
    """Successive polls that found the job gone."""
    gone_since: float = 0.0
    heartbeat: str | None = None
    heartbeat_seen: float | None = None
    stale_outcome: tuple[int, int] | None = None
    """The file of an earlier submission, so that it is read once."""

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class Watcher:
    """Tells what became of jobs since the last look.

    Args:
        ids: the cluster's ids by job number, read anew at every look. A job whose id is not SLURM's is judged by its
            heartbeat alone.
        folder: the sweep's folder.
        interval_s: seconds between questions to the cluster; sites dislike frequent ones. Outcome files are looked
            for at every look, which costs one listing of a folder.
        heartbeat_s: a job unknown to the cluster is believed to run while its ``status.json`` changes within this
            time.
        submissions: tokens of the current submission by job number; an outcome with another token is an old one.
        cluster: who is asked.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        ids: Mapping[int, str],
        folder: Path,
        interval_s: float = INTERVAL_S,
        heartbeat_s: float = HEARTBEAT_LOST_S,
        submissions: Mapping[int, str] | None = None,
        cluster: Cluster | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ids, self._folder = ids, Path(folder)
        self._interval_s, self._heartbeat_s = interval_s, heartbeat_s
        self._submissions = submissions if submissions is not None else {}
        self._cluster, self._clock = cluster or Cluster(), clock
        self._known: dict[int, _Known] = {}
        self._next_poll = clock()
        self._cancelling: set[int] = set()
        self._silent_polls = 0

    @property
    def unfinished(self) -> list[int]:
        """The numbers of jobs that have not ended, as far as is known."""
        return [number for number in self._ids if not self._of(number).ended]

    def cancelling(self, numbers: Collection[int]) -> None:
        """Say that these jobs are being cancelled on purpose: what would be LOST is then CANCELLED."""
        self._cancelling |= set(numbers)
        self._next_poll = self._clock()

    def look(self) -> list[JobChange]:
        """Everything that changed since the last look; the cluster is asked only when it is time for that."""
        changes = self._outcomes()
        if self._clock() >= self._next_poll and self.unfinished:
            changes += self._poll()
            self._next_poll = self._clock() + self._interval_s
        return changes

    def settle(self, pause_s: float = 3.0) -> list[JobChange]:
        """One complete look for somebody who will not come back: polls again where the first leaves a doubt.

        Heartbeats are compared with this machine's clock, for there is no time to watch them.
        """
        changes = self._outcomes() + self._poll(now=True)
        if any(known.gone_polls and not known.ended for known in self._known.values()):
            time.sleep(pause_s)
            changes += self._outcomes() + self._poll(now=True)
        return changes

    def _of(self, number: int) -> _Known:
        return self._known.setdefault(number, _Known())

    def _log(self, job_id: str, state: str = "") -> Path | None:
        """The file to read: of a job that ended badly the one with the errors, where there are any."""
        if not is_slurm_id(job_id):
            return None
        out, err = (self._folder / ".submitit" / job_id / f"{job_id}_0_log.{end}" for end in ("out", "err"))
        bad = state in ENDED - {"COMPLETED"}
        if err.exists() and ((bad and err.stat().st_size) or not out.exists()):
            return err
        return out if out.exists() else None

    def _change(self, number: int, state: str, reason: str | None = None, score: float | None = None) -> JobChange:
        self._of(number).state = state
        job_id = self._ids[number]
        return JobChange(number, state, score=score, reason=reason, job_id=job_id or None, log=self._log(job_id, state))

    # --- what the jobs left ------------------------------------------------------------------------------------

    def _outcomes(self) -> list[JobChange]:
        try:
            # Listing a folder makes a network file system ask its server; a lone stat may be answered from a cache.
            with os.scandir(self._folder / OUTCOMES) as entries:
                present = {entry.name for entry in entries}
        except OSError:
            return []
        changes = []
        for number in self._ids:
            # LOST is not final here: a job that reports after all is believed.
            if f"{number}.json" in present and self._of(number).state not in ENDED - {"LOST"}:
                content = self._new_outcome(number)
                if content is not None:
                    score, reason = as_score(content.get("score")), content.get("reason")
                    changes.append(self._change(number, content["state"], reason, score))
        return changes

    def _new_outcome(self, number: int) -> dict[str, Any] | None:
        path, known = self._folder / OUTCOMES / f"{number}.json", self._of(number)
        try:
            stat = path.stat()
        except OSError:
            return None
        version = (stat.st_ino, stat.st_mtime_ns)
        if version == known.stale_outcome:
            return None
        content = read_outcome(path)
        if content is not None and self._is_current(number, content):
            return content
        known.stale_outcome = version
        return None

    def _is_current(self, number: int, outcome: Mapping[str, Any]) -> bool:
        """Whether an outcome belongs to this submission of the job and not to an earlier one."""
        token, job_id, written = self._submissions.get(number), self._ids[number], outcome.get("job_id")
        if token is not None and outcome.get("submission") not in (None, token):
            return False
        return not (is_slurm_id(written) and is_slurm_id(job_id)) or written == job_id

    # --- what the cluster says ---------------------------------------------------------------------------------

    def _poll(self, now: bool = False) -> list[JobChange]:
        waiting = {number: self._ids[number] for number in self.unfinished}
        found, arrays, answered = self._ask({job_id for job_id in waiting.values() if is_slurm_id(job_id)})
        self._silent_polls = 0 if answered else self._silent_polls + 1
        if self._silent_polls == 3:
            log.warning("Neither squeue nor scontrol answers; no job is called lost until one of them does.")
        changes = []
        for number, job_id in waiting.items():
            entry = found.get(job_id)
            if entry is not None:
                change = self._ended(number, entry, now) if entry.ended else self._goes_on(number, entry)
            elif answered or not is_slurm_id(job_id):
                change = self._missing(number, now, job_id.partition("_")[0] in arrays)
            else:
                continue  # silence is no sign that a job is gone
            changes += [change] if change is not None else []
        return changes

    def _ask(self, ids: set[str]) -> tuple[dict[str, QueueEntry], set[str], bool]:
        """What is known of the jobs, which arrays are remembered, and whether anybody answered who knows the living."""
        if not ids:
            return {}, set(), True
        squeue = self._cluster.squeue(ids)
        found = {key: entry for key, entry in (squeue or {}).items() if key in ids}
        answered = squeue is not None
        missing = ids - set(found)
        if missing:
            scontrol = self._cluster.scontrol(missing)
            found.update(scontrol or {})
            answered = answered or scontrol is not None
            missing -= set(found)
        if missing:
            # The accounting is late: what it calls ended has ended, but what it calls running may be gone for long.
            sacct = self._cluster.sacct(missing) or {}
            found.update({key: sacct[key] for key in missing & set(sacct) if sacct[key].ended})
        failed = {key for key, entry in found.items() if entry.state == "FAILED" and _exit_code(entry) is None}
        for ask in (self._cluster.scontrol, self._cluster.sacct):  # squeue does not tell exit codes
            if failed:
                told = {key: entry for key, entry in (ask(failed) or {}).items() if _exit_code(entry) is not None}
                found.update({key: told[key] for key in failed & set(told)})
                failed -= set(told)
        arrays = {job_id.partition("_")[0] for job_id in squeue or () if "_" in job_id}
        return found, arrays, answered

    def _goes_on(self, number: int, entry: QueueEntry) -> JobChange | None:
        known = self._of(number)
        known.gone_polls = 0
        if not entry.waits:
            state = "RUNNING"
        elif known.state is None:  # a new job, or one that was requeued before anybody watched
            state = "PREEMPTED" if self._status(number).get("state") == "PREEMPTED" else "PENDING"
        else:
            state = "PENDING" if known.state == "PENDING" else "PREEMPTED"
        reason = entry.detail or None
        return self._change(number, state, reason) if state != known.state else None

    def _ended(self, number: int, entry: QueueEntry, now: bool) -> JobChange | None:
        """The cluster says that the job ended, and it left no outcome."""
        known = self._of(number)
        if known.gone_polls == 0:
            known.gone_since = self._clock()
        known.gone_polls += 1
        if number in self._cancelling and entry.state == "CANCELLED":
            return self._change(number, "CANCELLED", "cancelled by the sweep")
        late = self._clock() - known.gone_since >= _OUTCOME_POLLS * self._interval_s
        if known.gone_polls < 2 or (entry.state in _OWN_ENDS and not late and not now):
            return None
        if entry.state == "FAILED" and _by_itself(entry):
            # It could not even say so: a setup line that fails, a Python that is not there, a disk that is full.
            log_file = self._log(self._ids[number], "FAILED")
            return self._lost(number, str(entry) + (f"; see {log_file}" if log_file is not None else ""), "FAILED")
        return self._lost(number, f"{entry}, without leaving an outcome" if entry.state in _OWN_ENDS else str(entry))

    def _missing(self, number: int, now: bool, array_known: bool) -> JobChange | None:
        """The cluster does not know the job; its heartbeat decides.

        A task that is cancelled before it starts vanishes from an array of which the rest is still remembered.
        """
        known, status = self._of(number), self._status(number)
        beat = status.get("heartbeat")
        if known.heartbeat_seen is None or beat != known.heartbeat:
            known.heartbeat, known.heartbeat_seen = beat, self._clock()
        # The beat is timed by this machine's clock where there is time for it: those of two machines may differ.
        age = _age_s(beat) if now or (beat is None and array_known) else self._clock() - known.heartbeat_seen
        alive = age < self._heartbeat_s and not (now and status.get("state") != "RUNNING")
        if alive:
            known.gone_polls = 0
            runs = status.get("state") == "RUNNING" and known.state != "RUNNING" and not is_slurm_id(self._ids[number])
            return self._change(number, "RUNNING") if runs else None
        known.gone_polls += 1
        if number in self._cancelling:
            return self._change(number, "CANCELLED", "cancelled by the sweep")
        if known.gone_polls < 2:
            return None
        silence = f"no heartbeat for {age:.0f} s" if beat else "it wrote no heartbeat"
        return self._lost(number, silence + (" and not in the queue" if is_slurm_id(self._ids[number]) else ""))

    def _lost(self, number: int, reason: str, state: str = "LOST") -> JobChange:
        status = self._status(number)
        attempts = status.get("attempts") or [{}]
        own = attempts[-1].get("slurm_job_id") == self._ids[number]
        if own and status.get("state") in _OWN_ENDS:  # killed between its last two files
            return self._change(number, status["state"], status.get("error") or "it left no outcome file")
        mark_lost(self._folder / str(number), reason, state)
        return self._change(number, state, reason)

    def _status(self, number: int) -> dict[str, Any]:
        status = read_json(self._folder / str(number) / "status.json")
        return status if isinstance(status, dict) else {}


def _exit_code(entry: QueueEntry) -> tuple[int, int] | None:
    """What the job's script ended with, and the signal that ended it."""
    found = re.search(r"exit code (\d+):(\d+)", entry.detail)
    return (int(found[1]), int(found[2])) if found is not None else None


def _by_itself(entry: QueueEntry) -> bool:
    """Whether the job ended with an error of its own; a shell tells of a killed process by a code above 128."""
    code = _exit_code(entry)
    return code is not None and code[1] == 0 and 0 < code[0] < 128


def read_outcome(path: Path) -> dict[str, Any] | None:
    """What a job left when it ended, or ``None`` where that is no outcome."""
    content = read_json(path)
    return content if isinstance(content, dict) and content.get("state") in ENDED else None


def mark_lost(run_dir: Path, reason: str, state: str = "LOST") -> bool:
    """Correct the ``status.json`` of a run whose process is gone; a run that ended otherwise keeps its state.

    Args:
        run_dir: the run directory.
        reason: what became of it, one sentence.
        state: FAILED where another process of the run could still say what was wrong.

    Returns:
        whether the state was changed.
    """
    path = Path(run_dir) / "status.json"
    status = read_json(path)
    if not isinstance(status, dict) or status.get("state") not in ("PENDING", "RUNNING", "PREEMPTED"):
        return False
    attempts = status.get("attempts") or []
    if attempts and attempts[-1].get("end") is None:
        attempts[-1].update(end=status.get("heartbeat"), exit=state.lower())
    status.update(state=state, error=reason)
    write_json(path, status)
    return True


def _age_s(heartbeat: str | None) -> float:
    try:
        return time.time() - datetime.fromisoformat(str(heartbeat)).timestamp()
    except ValueError:
        return float("inf")
