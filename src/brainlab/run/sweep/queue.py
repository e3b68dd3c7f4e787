"""What SLURM knows of jobs: ``squeue``, ``scontrol`` and ``sacct``, each asked once for all of them.

Any of the three may be missing, refuse or hang; then it has said nothing (``None``), which differs from an answer in
which a job does not appear.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

__all__ = ["Cluster", "QueueEntry", "is_slurm_id", "parse_sacct", "parse_scontrol", "parse_squeue"]

ENDED_WORDS = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"}
)
"""SLURM's states after which a job's processes are gone; every other word means that it waits, runs or is moved."""

WAITING_WORDS = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT", "SUSPENDED"}
)

ANSWER_TIMEOUT_S = 45.0
_GONE = "Invalid job id specified"


@dataclass(frozen=True)
class QueueEntry:
    """The state of one job in SLURM's words."""

    state: str
    """One word: RUNNING, CANCELLED …"""
    detail: str = ""
    """What SLURM adds: ``by 0``, a reason, an exit code."""

    @property
    def ended(self) -> bool:
        return self.state in ENDED_WORDS

    @property
    def waits(self) -> bool:
        return self.state in WAITING_WORDS

    def __str__(self) -> str:
        return f"SLURM: {self.state} {self.detail}".rstrip()


def is_slurm_id(job_id: str | None) -> bool:
    """Whether ``job_id`` names a job or one task of an array: ``12`` or ``12_3``."""
    return job_id is not None and re.fullmatch(r"\d+(_\d+)?", job_id) is not None


def parse_squeue(text: str) -> dict[str, QueueEntry]:
    """The lines of ``squeue -h -r -o '%i|%T|%r'`` by job id.

    >>> parse_squeue("12_3|PENDING|JobArrayTaskLimit")["12_3"]
    QueueEntry(state='PENDING', detail='JobArrayTaskLimit')
    """
    found: dict[str, QueueEntry] = {}
    for line in text.splitlines():
        parts = line.strip().split("|", 2)
        if len(parts) != 3:
            continue
        job_id, state, reason = parts
        entry = QueueEntry(_one_word(state)[0], "" if reason in ("None", "") else reason)
        found.update(dict.fromkeys(_tasks(job_id), entry))
    return found


def parse_scontrol(text: str) -> dict[str, QueueEntry]:
    """The lines of ``scontrol -o show job`` by job id.

    >>> parse_scontrol("JobId=12 JobName=x JobState=FAILED Reason=NonZeroExitCode ExitCode=1:0")
    {'12': QueueEntry(state='FAILED', detail='NonZeroExitCode, exit code 1:0')}
    """
    found: dict[str, QueueEntry] = {}
    for line in text.splitlines():
        number = re.match(r"JobId=(\d+)\b", line)
        state = re.search(r" JobState=([A-Z_]+) ", line + " ")
        if number is None or state is None:
            continue
        array = re.match(r"JobId=\d+ ArrayJobId=(\d+) ArrayTaskId=(\S+)", line)
        job_id = number[1] if array is None else f"{array[1]}_{array[2] if array[2].isdigit() else f'[{array[2]}]'}"
        reason = re.search(r" Reason=(\S+)", line)
        code = re.search(r" ExitCode=(\d+:\d+)", line)
        details = [reason[1]] if reason is not None and reason[1] != "None" else []
        details += [f"exit code {code[1]}"] if code is not None and code[1] != "0:0" else []
        entry = QueueEntry(state[1], ", ".join(details))
        found.update(dict.fromkeys(_tasks(job_id), entry))
    return found


def parse_sacct(text: str) -> dict[str, QueueEntry]:
    """The lines of ``sacct -X --parsable2 --noheader -o JobID,State,ExitCode`` by job id.

    >>> parse_sacct("12_3|CANCELLED by 0|0:0")
    {'12_3': QueueEntry(state='CANCELLED', detail='by 0')}
    """
    found: dict[str, QueueEntry] = {}
    for line in text.splitlines():
        parts = line.strip().split("|")
        if len(parts) < 3 or "." in parts[0]:  # 12.batch, 12.0: steps of a job, not the job
            continue
        word, rest = _one_word(parts[1])
        code = "" if parts[2] in ("0:0", "") else f"exit code {parts[2]}"
        entry = QueueEntry(word, ", ".join(part for part in (rest, code) if part))
        found.update(dict.fromkeys(_tasks(parts[0]), entry))
    return found


def _one_word(state: str) -> tuple[str, str]:
    """``CANCELLED by 0`` → the word and the rest; a ``+`` marks a cut word."""
    word, _, rest = state.strip().partition(" ")
    return word.rstrip("+"), rest


def _tasks(job_id: str) -> list[str]:
    """The single ids in one entry: pending tasks of an array may be folded into ``12_[0,3-5%2]``.

    >>> _tasks("12_[0,3-5%2]")
    ['12_0', '12_3', '12_4', '12_5']
    """
    folded = re.fullmatch(r"(\d+)_\[([\d,:-]+)(?:%\d+)?\]", job_id)
    if folded is None:
        return [job_id]
    found: list[str] = []
    for part in folded[2].split(","):
        bounds = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if bounds is None:
            continue
        first, last, step = int(bounds[1]), int(bounds[2] or bounds[1]), int(bounds[3] or 1)
        found += [f"{folded[1]}_{task}" for task in range(first, last + 1, step)]
    return found


def _ask(command: Sequence[str]) -> str | None:
    """What a command of SLURM prints, or ``None`` where it could not say anything."""
    # Users colour and reformat these commands by environment variables.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("SQUEUE_", "SACCT_"))}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=ANSWER_TIMEOUT_S, env=environment
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode == 0:
        return done.stdout
    # The only refusal that is an answer: none of these jobs is known any more.
    return done.stdout if _GONE in done.stderr else None


class Cluster:
    """The three commands; the number of calls does not grow with the number of jobs.

    Args:
        ask: runs a command and gives its output, or ``None``.
    """

    def __init__(self, ask: Callable[[Sequence[str]], str | None] = _ask) -> None:
        self._ask = ask

    def squeue(self, ids: Collection[str]) -> dict[str, QueueEntry] | None:
        """What the controller remembers of the jobs, ended ones of the last minutes included."""
        text = self._ask(["squeue", "-a", "-h", "-r", "-t", "all", "-j", ",".join(_whole(ids)), "-o", "%i|%T|%r"])
        return None if text is None else parse_squeue(text)

    def scontrol(self, ids: Collection[str]) -> dict[str, QueueEntry] | None:
        """The same from ``scontrol show job``, which takes one job, or lists all."""
        whole = _whole(ids)
        text = self._ask(["scontrol", "-a", "-o", "show", "job", *(whole if len(whole) == 1 else [])])
        return None if text is None else {key: entry for key, entry in parse_scontrol(text).items() if key in set(ids)}

    def sacct(self, ids: Collection[str]) -> dict[str, QueueEntry] | None:
        """What the accounting has, seconds late and sometimes only a part of an array."""
        command = [
            "sacct",
            "-X",
            "--parsable2",
            "--noheader",
            "-o",
            "JobID,State,ExitCode",
            "-j",
            ",".join(_whole(ids)),
        ]
        text = self._ask(command)
        return None if text is None else parse_sacct(text)


def _whole(ids: Collection[str]) -> list[str]:
    """The jobs that ``ids`` are tasks of: one word names a whole array, and a command line has an end."""
    return sorted({job_id.partition("_")[0] for job_id in ids}, key=int)
