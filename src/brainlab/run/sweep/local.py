"""Runs jobs of a sweep side by side on this machine, each in a process of its own, one to a GPU where there are any."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from brainlab.run.sweep.frozen import freeze, outcome_path, private_folder
from brainlab.run.sweep.jobs import JobChange, SweepJob, as_score
from brainlab.run.sweep.watch import Watcher, mark_lost, read_outcome

__all__ = ["LocalProcesses", "gpus", "left_running"]

_LOOK_EVERY_S = 0.2
_CORES_PER_JOB = 4
_END_S = 30.0


class LocalProcesses:
    """A pool of processes.

    Args:
        task_function: what Hydra calls.
        parallel: how many jobs run at the same time; null: one per GPU, without GPUs one per four cores.
        cpus_per_task: threads for each job; null: an equal share of the cores.
    """

    def __init__(
        self, task_function: Callable[..., object], parallel: int | None = None, cpus_per_task: int | None = None
    ) -> None:
        cores = os.cpu_count() or 1
        self._function = task_function
        self._gpus = gpus()
        self.parallel = parallel or len(self._gpus) or max(1, cores // _CORES_PER_JOB)
        self._threads = cpus_per_task or max(1, cores // self.parallel)
        self._own: set[int] = set()
        self._waiting: list[int] = []
        self._running: dict[int, tuple[subprocess.Popen[bytes], int]] = {}
        self._cancelled: set[int] = set()

    def submit(self, jobs: Sequence[SweepJob], folder: Path) -> dict[int, str]:
        freeze(jobs, folder, self._function)
        private_folder(folder / ".submitit")
        self._waiting += [job.number for job in jobs]
        self._own.update(self._waiting)
        return {job.number: f"local-{job.number}" for job in jobs}

    def watch(self, ids: Mapping[int, str], folder: Path) -> Iterator[JobChange]:
        try:
            while True:
                yield from self._start(folder)
                yield from self._ended(folder)
                if not self._waiting and not self._running:
                    break
                time.sleep(_LOOK_EVERY_S)
            yield from left_running(ids, self._own, folder)
        finally:
            self._end_all()

    def cancel(self, ids: Mapping[int, str]) -> None:
        self._cancelled |= set(ids)
        for number, (process, _) in self._running.items():
            if number in ids:
                process.send_signal(signal.SIGINT)  # a training answers SIGTERM with a checkpoint and goes on

    def script(self, jobs: Sequence[SweepJob], folder: Path) -> str | None:
        return None

    def _start(self, folder: Path) -> Iterator[JobChange]:
        while self._waiting:
            number = self._waiting[0]
            if number in self._cancelled:
                self._waiting.pop(0)
                yield JobChange(number, "CANCELLED", reason="cancelled by the sweep before it started")
                continue
            slots = set(range(self.parallel)) - {slot for _, slot in self._running.values()}
            if not slots:
                return
            self._waiting.pop(0)
            slot = min(slots)
            log = _log(folder, number)
            log.parent.mkdir(exist_ok=True)
            with log.open("ab") as stream:
                process = subprocess.Popen(
                    [sys.executable, "-u", "-m", "brainlab.run.sweep.work", "--local", str(folder), str(number)],
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    env=self._environment(slot),
                    start_new_session=True,  # Ctrl-C reaches this process, which then ends its jobs one by one
                )
            self._running[number] = (process, slot)
            yield JobChange(number, "RUNNING", job_id=f"local-{process.pid}", log=log)

    def _environment(self, slot: int) -> dict[str, str]:
        environment = dict(os.environ)
        environment.setdefault("OMP_NUM_THREADS", str(self._threads))
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[slot % len(self._gpus)]
        return environment

    def _ended(self, folder: Path) -> Iterator[JobChange]:
        for number, (process, _) in list(self._running.items()):
            code = process.poll()
            if code is None:
                continue
            del self._running[number]
            job_id, log = f"local-{process.pid}", _log(folder, number)
            outcome = read_outcome(outcome_path(folder, number))
            if outcome is not None:
                score = as_score(outcome.get("score"))
                yield JobChange(number, outcome["state"], score, outcome.get("reason"), job_id, log)
            elif number in self._cancelled or code == 130:
                yield JobChange(number, "CANCELLED", reason="cancelled by the sweep", job_id=job_id, log=log)
            else:
                how = f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
                reason = f"{how}, without leaving an outcome"
                mark_lost(folder / str(number), reason)
                yield JobChange(number, "LOST", reason=reason, job_id=job_id, log=log)

    def _end_all(self) -> None:
        for process, _ in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + _END_S
        for process, _ in self._running.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._running.clear()


def left_running(ids: Mapping[int, str], own: Collection[int], folder: Path) -> Iterator[JobChange]:
    """Follow jobs that an earlier process of this sweep started and left running, until they have ended."""
    watcher = Watcher({number: job_id for number, job_id in ids.items() if number not in own}, folder)
    while watcher.unfinished:
        yield from watcher.look()
        time.sleep(_LOOK_EVERY_S)


def gpus() -> list[str]:
    """The GPUs that jobs may be given, as ``CUDA_VISIBLE_DEVICES`` names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [each.strip() for each in named.split(",") if each.strip() and each.strip() != "-1"]
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(index) for index, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]


def _log(folder: Path, number: int) -> Path:
    return folder / ".submitit" / f"local-{number}" / "log.out"
