"""``status.json``: what state a run is in, its attempts, and a heartbeat that tells a slow run from a dead one."""

from __future__ import annotations

import os
import socket
import threading
import time
from datetime import datetime
from typing import Any, Literal

from brainlab.run.directory import RunDirectory, read_json, write_json

__all__ = ["HEARTBEAT_S", "State", "Status", "launch_id"]

State = Literal["PENDING", "RUNNING", "COMPLETED", "FAILED", "PREEMPTED", "LOST", "CANCELLED"]

HEARTBEAT_S = 15.0


def launch_id() -> str | None:
    """What the processes that one ``srun`` started have in common, and no others; ``None`` outside of SLURM steps."""
    job, step = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_STEP_ID")
    return f"{job}.{step}.{os.environ.get('SLURM_RESTART_COUNT', 0)}" if job and step else None


def now() -> str:
    """The local time with its offset, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


class Status:
    """The state of one run; every change is on disk when the call returns.

    Args:
        run: the run directory; an existing ``status.json`` there is continued.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._path = run.status
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        stored = read_json(run.status)
        self.content: dict[str, Any] = stored if isinstance(stored, dict) else {"state": "PENDING", "attempts": []}
        self.content.setdefault("attempts", [])
        self._started = time.monotonic()

    @property
    def attempt(self) -> int:
        """The number of the current attempt, counted from 1."""
        return len(self.content["attempts"])

    @property
    def wall_s(self) -> float:
        """Seconds that all attempts took up to now; a killed one counts up to its last heartbeat."""
        spans = [(attempt.get("start"), attempt.get("end")) for attempt in self.content["attempts"][:-1]]
        earlier = sum(
            (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
            for start, end in spans
            if start and end
        )
        return earlier + time.monotonic() - self._started

    @property
    def state(self) -> State:
        return self.content["state"]

    def start(self) -> None:
        """Open a new attempt and begin the heartbeat."""
        self._started = time.monotonic()
        for earlier in self.content["attempts"]:
            if earlier.get("end") is None:  # killed: nobody was left to write it down
                earlier["end"] = self.content.get("heartbeat")
                earlier["exit"] = "killed"
        job = os.environ.get("SLURM_ARRAY_JOB_ID", os.environ.get("SLURM_JOB_ID"))
        task = os.environ.get("SLURM_ARRAY_TASK_ID")
        self.content["attempts"].append(
            {
                "start": now(),
                "end": None,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "slurm_job_id": f"{job}_{task}" if job and task else job,
                "launch": launch_id(),
                "exit": None,
            }
        )
        self._change(state="RUNNING", exit=None, error=None, heartbeat=now())
        self._stop.clear()
        self._thread = threading.Thread(target=self._beat, name="brainlab-heartbeat", daemon=True)
        self._thread.start()

    def note(self, **facts: Any) -> None:
        """Add facts to the current attempt."""
        with self._lock:
            self.content["attempts"][-1].update(facts)
            write_json(self._path, self.content, in_place=True)

    def finish(self, state: State, code: int | None, error: str | None = None) -> None:
        """Close the current attempt; a run that will go on later has no exit code."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
            self._thread = None
        self.content["attempts"][-1].update(end=now(), exit="preempted" if state == "PREEMPTED" else code)
        self._change(state=state, exit=code, error=error, heartbeat=now())

    def _change(self, **facts: Any) -> None:
        with self._lock:
            self.content.update(facts)
            write_json(self._path, self.content, in_place=True)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                self._change(heartbeat=now())
            except OSError:  # a full disk must not end the run through its pulse
                continue
