"""What a sweep knows of its jobs: their numbers, which of them still have to run, and how each ended."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from brainlab.errors import BrainlabError, ConfigError
from brainlab.run.directory import read_json, write_json
from brainlab.run.sweep.jobs import ENDED, JobChange, SweepJob
from brainlab.run.sweep.matching import Identity, common, identify, refuse_other_parameters, refuse_shrinking

__all__ = ["JobRow", "JobsFailed", "SweepRecord"]

VERSION = 1


class JobsFailed(BrainlabError):
    """At least one job of a sweep did not complete; its siblings may have."""


@dataclass
class JobRow:
    """One job of the sweep, as ``sweep.json`` holds it."""

    num: int
    overrides: tuple[str, ...]
    fingerprint: str
    growth: dict[str, Any] = field(default_factory=dict)
    state: str = "PENDING"
    job_id: str | None = None
    reason: str | None = None
    score: float | None = None
    log: str | None = None
    run_dir: str = ""

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class SweepRecord:
    """The jobs of one sweep folder, kept in its ``sweep.json``.

    Args:
        folder: the sweep's folder; job ``n`` lies in ``folder/n``. An earlier sweep in it is continued.
        cfg: the sweep's configuration, with its ``hydra`` node.
    """

    def __init__(self, folder: Path, cfg: DictConfig) -> None:
        self.folder = Path(folder).absolute()
        self.metric = str(cfg.sweep.metric or "score")
        self.mode = str(cfg.sweep.mode)
        self.rows: dict[int, JobRow] = {}
        self._identities: dict[int, Identity] = {}
        self._swept: list[str] = []

    def take(
        self, combinations: Sequence[tuple[Sequence[str], DictConfig]], *, swept: Sequence[str] = ()
    ) -> list[SweepJob]:
        """Give every combination its number and say which of them have to run.

        A combination that the folder knows keeps its number: it is left out when it completed, and runs again when
        it did not. A new one gets the next number. Combinations that are the same run are run once. May be called
        again and again.

        Args:
            combinations: the overrides of each job and the configuration composed from them.
            swept: keys that may take any value, beside those with several values in ``combinations``; a search
                names its space here.

        Raises:
            ConfigError: the folder holds a sweep with other settings; nothing was changed.
        """
        new = [(tuple(overrides), cfg, identify(cfg)) for overrides, cfg in combinations]
        swept = list(dict.fromkeys([*self._swept, *swept, *_several([words for words, _, _ in new])]))
        refuse_other_parameters(list(self._identities.values()), [each for _, _, each in new], swept, self.folder)
        for _, _, identity in new:
            if (number := self.number_of(identity)) is not None:
                refuse_shrinking(self.rows[number].growth, identity.growth, self.folder / str(number))
        self._swept = swept
        jobs: dict[int, SweepJob] = {}
        for words, cfg, identity in new:
            number = self.number_of(identity)
            if number is None:
                number = max(self.rows, default=-1) + 1
            elif number in jobs or not self._must_run(number, identity):
                continue
            self._identities[number] = identity
            self.rows[number] = JobRow(
                number, words, identity.fingerprint, identity.growth, run_dir=str(self.folder / str(number))
            )
            jobs[number] = SweepJob(number, words, _numbered(cfg, number))
        return list(jobs.values())

    def number_of(self, job: DictConfig | Identity) -> int | None:
        """The number of the job with this configuration, where the folder knows it."""
        fingerprint = (job if isinstance(job, Identity) else identify(job)).fingerprint
        return next((number for number, row in self.rows.items() if row.fingerprint == fingerprint), None)

    def _must_run(self, number: int, identity: Identity) -> bool:
        row, before = self.rows[number], self._identities[number]
        return row.state != "COMPLETED" or row.growth != identity.growth or before.places != identity.places

    @property
    def swept(self) -> list[str]:
        """What sets the jobs apart: the keys and groups that were given several values."""
        return self._swept

    @property
    def n_failed(self) -> int:
        """Jobs that ended in any other way than COMPLETED."""
        return sum(row.ended and row.state != "COMPLETED" for row in self.rows.values())

    def described(self, number: int) -> str:
        """What sets job ``number`` apart from the others."""
        words = dict(word.lstrip("+").split("=", 1) for word in self.rows[number].overrides if "=" in word)
        return " ".join(f"{key}={words[key]}" for key in self._swept if key in words) or f"job {number}"

    def submitted(self, ids: Mapping[int, str]) -> None:
        """Note what the jobs are called where they were started."""
        for number, job_id in ids.items():
            self.rows[number].job_id = job_id
        self._write()

    def changed(self, change: JobChange) -> None:
        """Take over what became known of one job."""
        row = self.rows[change.number]
        row.state = change.state
        row.score = change.score if change.score is not None else row.score
        row.reason = change.reason
        row.job_id = change.job_id or row.job_id
        row.log = str(change.log) if change.log else row.log
        self._write()

    def finish(self) -> None:
        """Write every file of the sweep."""
        self._write()

    def show(self) -> None:
        """Print the table and the count of each outcome."""
        sys.stdout.flush()

    def raise_if_failed(self) -> None:
        """
        Raises:
            JobsFailed: unless every job is COMPLETED.
        """
        bad = [str(row.num) for row in self.rows.values() if row.state != "COMPLETED"]
        if bad:
            raise JobsFailed(f"Not completed: job {', '.join(bad)} of {self.folder}")

    def _write(self) -> None:
        write_json(self.folder / "sweep.json", {"brainlab_sweep": VERSION, "jobs": [asdict(r) for r in self.rows.values()]})


def _several(jobs: Sequence[Sequence[str]]) -> list[str]:
    """The keys that do not have the same value in all jobs."""
    settings = [dict(word.lstrip("+").partition("=")[::2] for word in job) for job in jobs]
    names = dict.fromkeys(name for job in settings for name in job)
    return [name for name in names if len({job.get(name) for job in settings}) > 1]


def _numbered(cfg: DictConfig, number: int) -> DictConfig:
    with read_write(cfg.hydra), open_dict(cfg.hydra):
        cfg.hydra.job.num, cfg.hydra.job.id = number, str(number)
    return cfg
