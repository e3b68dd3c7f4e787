"""Hands jobs to SLURM as arrays, as few as the cluster's limit allows, through submitit."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from brainlab.errors import BrainlabError
from brainlab.run.sweep.frozen import private_folder
from brainlab.run.sweep.work import Work

__all__ = ["SlurmArrays", "chunks", "max_array_size"]

log = logging.getLogger(__name__)

_FOLDER = ".submitit"
_ARRAY_LIMIT = 1001  # SLURM's own default
_BIND = "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"
_NOT_FOR_SBATCH = ("submitit_folder", "max_num_timeout", "python", "poll_interval_s")
_WORKER = "brainlab.run.sweep.work"


class SlurmArrays:
    """What a cluster is asked for, and the asking.

    Args:
        params: the keys of ``hydra.launcher``.
        folder: the sweep's folder.
    """

    def __init__(self, params: Mapping[str, Any], folder: Path) -> None:
        self.params, self.folder = dict(params), Path(folder)
        self.parallel = int(params.get("array_parallelism") or 1)

    def submit(self, numbers: Sequence[int]) -> dict[int, str]:
        """Submit jobs; all of them or none.

        Returns:
            SLURM's id of each, e.g. ``1234_5``.

        Raises:
            BrainlabError: sbatch refused; what it had accepted before is cancelled.
        """
        private_folder(self.folder / _FOLDER)
        parts = chunks(numbers, max_array_size())
        if len(parts) > self.parallel:
            log.warning(
                "%d arrays are needed for %d jobs, so up to %d run at the same time, not array_parallelism=%d",
                len(parts),
                len(numbers),
                len(parts),
                self.parallel,
            )
        ids: dict[int, str] = {}
        try:
            for part in parts:
                executor = self._executor(self._parallel(parts))
                submitted = executor.submit_all([Work(self.folder, number) for number in part])
                ids.update(zip(part, submitted, strict=True))
        except BaseException as error:
            accepted = sorted({job_id.partition("_")[0] for job_id in ids.values()})
            if accepted:
                cancel(accepted)
                log.warning("cancelled what had been submitted already: %s", " ".join(accepted))
            if isinstance(error, Exception):
                raise BrainlabError(f"sbatch refused the jobs: {_reason(error)}") from error
            raise
        return ids

    def script(self, n_jobs: int) -> str:
        """The text that ``sbatch`` would get for the first array; nothing is written."""
        parts = chunks(range(n_jobs), max_array_size())
        return str(self._executor(self._parallel(parts)).text(len(parts[0])))

    def _parallel(self, parts: Sequence[Sequence[int]]) -> int:
        """How many jobs of each array may run at the same time, so that all together keep to what was asked for."""
        return max(1, self.parallel // len(parts))

    def _executor(self, parallel: int) -> Any:
        from submitit.slurm.slurm import SlurmExecutor

        class Executor(SlurmExecutor):
            """Starts our own worker, which looks at what it is given before submitit unpickles it."""

            @classmethod
            def affinity(cls) -> int:
                return 2  # a script can be shown where there is no SLURM; submitting was refused long before

            @property
            def _submitit_command_str(self) -> str:
                return f"{self.python} -u -m {_WORKER} {shlex.quote(str(self.folder))}"

            def submit_all(self, jobs: Sequence[Work]) -> list[str]:
                # sbatch may have something to say, which submitit repeats; when it refuses, our sentence holds it.
                with contextlib.redirect_stderr(io.StringIO()) as said, self.batch():
                    submitted = [self.submit(job) for job in jobs]
                sys.stderr.write(said.getvalue())
                return [job.job_id for job in submitted]

            def text(self, n: int) -> str:
                if n > 1:
                    self.parameters["map_count"] = n
                return self._make_submission_file_text(self._submitit_command_str, "")

        executor = Executor(
            self.folder.absolute() / _FOLDER / "%j",
            max_num_timeout=int(self.params.get("max_num_timeout", 5)),
            python=self.params.get("python") or None,
        )
        keys = {key: value for key, value in self.params.items() if key not in _NOT_FOR_SBATCH and value is not None}
        keys["setup"] = _setup(keys)
        keys["srun_args"] = _srun_args(keys)
        keys["array_parallelism"] = parallel
        keys["wckey"] = None  # submitit's own would be refused where a site keeps a list of them
        executor.update_parameters(**executor._convert_parameters(keys))
        return executor


def _setup(keys: Mapping[str, Any]) -> list[str]:
    """The user's lines, behind the one without which ``srun`` binds every job to a single core."""
    lines = [str(line) for line in keys.get("setup") or []]
    needed = keys.get("cpus_per_task") is not None and not any("SRUN_CPUS_PER_TASK" in line for line in lines)
    return [_BIND, *lines] if needed else lines


def _srun_args(keys: Mapping[str, Any]) -> list[str] | None:
    """The user's words; where a job has several processes, the end of one ends the others, which wait for it."""
    words = [str(word) for word in keys.get("srun_args") or []]
    processes = int(keys.get("nodes") or 1) * int(keys.get("tasks_per_node") or 1)
    if processes > 1 and not any(word.startswith(("-K", "--kill-on-bad-exit")) for word in words):
        words.insert(0, "--kill-on-bad-exit=1")
    return words or None


def chunks(numbers: Sequence[int], most: int) -> list[list[int]]:
    """Split into as few parts as ``most`` allows, all of about the same size.

    >>> chunks(range(7), 3)
    [[0, 1, 2], [3, 4], [5, 6]]
    """
    count = -(-len(numbers) // most)
    short, longer = divmod(len(numbers), count)
    parts, start = [], 0
    for index in range(count):
        end = start + short + (index < longer)
        parts.append(list(numbers[start:end]))
        start = end
    return parts


def max_array_size() -> int:
    """How many tasks this cluster lets one array have."""
    try:
        text = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        text = ""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", text, re.MULTILINE)
    return max(1, int(found[1])) if found else _ARRAY_LIMIT


def cancel(ids: Sequence[str]) -> None:
    """Ask SLURM to end jobs; those that have ended already are no error."""
    for start in range(0, len(ids), 500):
        done = subprocess.run(["scancel", *ids[start : start + 500]], capture_output=True, text=True, timeout=120)
        if done.returncode:
            log.warning("scancel: %s", done.stderr.strip().splitlines()[-1:] or done.returncode)


def _reason(error: BaseException) -> str:
    """What ``sbatch`` said, or what kept it from being asked."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line.partition("error: ")[2] for line in lines if line.startswith("sbatch: error: ")]
    return "; ".join(told) or f"{type(error).__name__}: {lines[0] if lines else 'no word'}"
