"""What a sweep knows of its jobs: their numbers, which of them still have to run, and how each ended."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from brainlab.errors import BrainlabError, ConfigError
from brainlab.io.atomic import write_atomically
from brainlab.run.status import now
from brainlab.run.sweep import ledger as ledgers
from brainlab.run.sweep.curves import Points, read_curves
from brainlab.run.sweep.jobs import JobChange, SweepJob
from brainlab.run.sweep.matching import Identity, identify, refuse_other_parameters, refuse_shrinking
from brainlab.run.sweep.news import catch_up
from brainlab.run.sweep.page import render
from brainlab.run.sweep.parent import close_parent, logger_of, open_parent
from brainlab.run.sweep.queue import is_slurm_id
from brainlab.run.sweep.rows import Found, JobRow, find, words_of
from brainlab.run.sweep.summary import summary_csv
from brainlab.run.sweep.table import Entry, best_of, counted, screen_text, sweep_csv
from brainlab.run.sweep.watch import mark_lost

__all__ = ["JobsFailed", "SweepRecord", "collect_sweep"]

_PAGE_EVERY_S = 20.0
_COUNT_EVERY_S = 5.0


class JobsFailed(BrainlabError):
    """At least one job of a sweep did not complete; its siblings may have."""

    without_traceback = True
    """It says what the jobs did; where it was raised helps nobody."""


class SweepRecord:
    """The jobs of one sweep folder, kept in its ``sweep.json``.

    Used as a context it holds the folder, so that no second process works on the same sweep.

    Args:
        folder: the sweep's folder; job ``n`` lies in ``folder/n``. An earlier sweep in it is continued.
        cfg: the sweep's configuration with its ``hydra`` node; ``None`` to look at what is there.
    """

    def __init__(self, folder: Path, cfg: DictConfig | None = None) -> None:
        self.folder = Path(folder).absolute()
        self.max_failures: int | None = None if cfg is None else cfg.sweep.max_failures
        self.planned = 0
        """How many jobs there are to be, where a search adds them one by one."""
        self.given_up = False
        """Whether so many jobs failed that no more are started."""
        self.figures: list[dict[str, str]] = []
        """Further figures for ``sweep.html``: ``title``, ``caption`` and ``svg`` (or ``png``, base64)."""
        self._cfg = cfg
        self._lock = FileLock(self.folder / ".sweep.lock")
        self._found: dict[int, Found] = {}
        self._curves: dict[int, dict[str, Points]] = {}
        self._next_page = self._next_count = 0.0
        self._opened = False
        self._read()

    @classmethod
    def load(cls, folder: Path) -> SweepRecord:
        """The record of a folder, to look at or to collect."""
        return cls(folder)

    def __enter__(self) -> SweepRecord:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(
                "hydra.sweep.dir",
                self.folder,
                "expected a sweep that no other process is working on",
                hint="wait for it to end, or choose another folder",
            ) from None
        self._read()
        self.refresh()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    # --- what there is -------------------------------------------------------------------------------------------

    @property
    def rows(self) -> dict[int, JobRow]:
        """The jobs by number."""
        return self._ledger.rows

    @property
    def swept(self) -> list[str]:
        """What sets the jobs apart: the keys and groups that were given several values."""
        return self._ledger.swept

    @property
    def facts(self) -> dict[str, Any]:
        """What the jobs share, as ``sweep.json`` holds it."""
        return self._ledger.facts

    @property
    def metric(self) -> str:
        return str(self.facts.get("metric") or "score")

    @property
    def mode(self) -> str:
        return str(self.facts.get("mode") or "min")

    @property
    def alive(self) -> dict[int, str]:
        """Jobs that were started and have not ended, with their ids."""
        return {number: row.job_id for number, row in self.rows.items() if row.job_id and not row.ended}

    @property
    def n_failed(self) -> int:
        """Jobs that ended in any other way than COMPLETED."""
        return sum(row.ended and row.state != "COMPLETED" for row in self.rows.values())

    @property
    def on_cluster(self) -> bool:
        """Whether the jobs go on without the process that submitted them."""
        return "Slurm" in str(self.facts.get("launcher"))

    @property
    def collect_command(self) -> str:
        """What shows and completes this sweep later."""
        return f"brainlab job=collect runs={shlex.quote(str(self.folder))}"

    def number_of(self, job: DictConfig | Identity) -> int | None:
        """The number of the job with this configuration, where the folder knows it."""
        fingerprint = (job if isinstance(job, Identity) else identify(job)).fingerprint
        return next((number for number, row in self.rows.items() if row.fingerprint == fingerprint), None)

    def settings(self, number: int) -> dict[str, Any]:
        """What job ``number`` has for everything that is swept."""
        words, leaves = words_of(self.rows[number].overrides), self._ledger.identities[number].leaves
        return {key: words.get(key, leaves.get(key)) for key in self.swept}

    def described(self, number: int) -> str:
        """What sets job ``number`` apart from the others."""
        settings = {key: value for key, value in self.settings(number).items() if value is not None}
        return " ".join(f"{key}={value}" for key, value in settings.items())

    def leaves(self, number: int) -> Mapping[str, Any]:
        """The resolved configuration of job ``number`` by dotted key."""
        return self._ledger.identities[number].leaves

    def entries(self) -> list[Entry]:
        """The rows of every table, in the order of their numbers."""
        found = []
        for number, row in sorted(self.rows.items()):
            if number not in self._found and row.ended:
                self._found[number] = find(Path(row.run_dir))
            seed = self._ledger.identities[number].leaves.get("seed")
            found.append(Entry(row, self.settings(number), seed, self._found.get(number, Found())))
        return found

    # --- what happens --------------------------------------------------------------------------------------------

    def take(
        self, combinations: Sequence[tuple[Sequence[str], DictConfig]], *, swept: Sequence[str] = ()
    ) -> list[SweepJob]:
        """Give every combination its number and say which of them have to run.

        A combination that the folder knows keeps its number: it is left out when it completed or is still running,
        and runs again when it did not complete. A new one gets the next number. Combinations that are the same run
        are run once. May be called again and again.

        Args:
            combinations: the overrides of each job and the configuration composed from them.
            swept: keys that may take any value, beside those with several values in ``combinations``; a search
                names its space here.

        Raises:
            ConfigError: the folder holds a sweep with other settings; nothing was changed.
        """
        new = [(tuple(words), cfg, identify(cfg)) for words, cfg in combinations]
        swept = list(dict.fromkeys([*self.swept, *swept, *_several([words for words, _, _ in new])]))
        refuse_other_parameters(
            list(self._ledger.identities.values()), [each for _, _, each in new], swept, self.folder
        )
        for _, cfg, identity in new:
            _refuse_subfolders(cfg)
            if (number := self.number_of(identity)) is not None:
                refuse_shrinking(self.rows[number].growth, identity.growth, self.folder / str(number))
        self._ledger.swept = swept
        jobs: dict[int, SweepJob] = {}
        known, repeated = 0, 0
        for words, cfg, identity in new:
            number = self.number_of(identity)
            if number is None:
                number = max(self.rows, default=-1) + 1
            elif number in jobs:
                repeated += 1
                continue
            elif not self._must_run(number, identity):
                known += 1
                continue
            place = str(self.folder / str(number))
            self._ledger.add(JobRow(number, words, identity.fingerprint, identity.growth, run_dir=place), identity)
            self._found.pop(number, None)
            self._curves.pop(number, None)
            jobs[number] = SweepJob(number, words, _numbered(cfg, number))
        if repeated:
            _say(f"{repeated} of {len(new)} combinations are the same run as another one; each is run once")
        if known and len(new) > 1:
            _say(f"{known} of {len(new)} jobs are completed or still running; they are not started again")
        if jobs:
            self._open(new[0][1])
        ledgers.write(self.folder, self._ledger)
        return list(jobs.values())

    def submitted(self, ids: Mapping[int, str]) -> None:
        """Note what the jobs are called where they were started."""
        for number, job_id in ids.items():
            self.rows[number].job_id = job_id
        self._write(ended=True)
        if self.on_cluster:
            _say(f"submitted {_jobs(len(ids))} ({_arrays(ids)}) · {self.folder}")

    def refused(self, numbers: Sequence[int], reason: str) -> None:
        """Note that jobs could not be started; the next start of the sweep tries them again."""
        for number in numbers:
            self.rows[number].state, self.rows[number].reason = "FAILED", reason
        self.finish()

    def changed(self, change: JobChange) -> None:
        """Take over what became known of one job, and say it where the job ended."""
        row = self.rows[change.number]
        known = row.state
        _update(row, change)
        if row.ended:
            self._found[row.num] = find(Path(row.run_dir))
            self._curves.pop(row.num, None)
            if row.score is None and row.state == "COMPLETED":
                row.score = self._found[row.num].score
        if row.state == known and not row.ended:
            return
        self._write(ended=row.ended)
        if row.state != known:
            self._tell(row)

    def finish(self) -> None:
        """Write every file of the sweep; its run in the tracker is closed unless jobs are still to come."""
        for row in self.rows.values():
            if row.state in ("FAILED", "LOST"):  # its process was killed before it could say so itself
                mark_lost(Path(row.run_dir), row.reason or "it ended without a word", row.state)
        self._write(always=True)
        logger, parent = self.facts.get("logger"), self.facts.get("mlflow_run_id")
        states = [row.state for row in self.rows.values()]
        if not logger or not parent or self.alive or self.facts.get("tracked") == states:
            return
        entries = self.entries()
        best = best_of(entries, self.metric, self.mode)
        metrics = {"n_completed": float(states.count("COMPLETED")), "n_not_completed": float(self.n_failed)}
        if best is not None:
            metrics["best_score"] = best.spread.mean
        close_parent(
            logger,
            parent,
            status=_tracker_status(states),
            metrics=metrics,
            files=[self.folder / name for name in ("sweep.csv", "sweep_summary.csv", "sweep.html", "sweep.json")],
            gone=[
                each.found.mlflow_run_id for each in entries if each.row.state == "LOST" and each.found.mlflow_run_id
            ],
        )
        self.facts["tracked"] = states  # so that looking again costs no import of the tracker
        ledgers.write(self.folder, self._ledger)

    def show(self) -> None:
        """Print the table and the count of each outcome."""
        entries = self.entries()
        print(screen_text(entries, self.swept, self.metric, self.mode))
        print(counted([entry.row.state for entry in entries], ended_only=True))
        print(f"sweep: {self.folder / 'sweep.html'}", flush=True)

    def raise_if_failed(self) -> None:
        """
        Raises:
            JobsFailed: unless every job is COMPLETED.
        """
        alive = self.alive
        bad = [str(row.num) for row in self.rows.values() if row.state != "COMPLETED" and row.num not in alive]
        words = [f"Not completed: job {', '.join(bad)} of {self.folder}"] if bad else []
        if alive:
            verb = "is" if len(alive) == 1 else "are"
            words.append(f"{_jobs(len(alive))} {verb} still running; collect again later with: {self.collect_command}")
        if words:
            raise JobsFailed("\n".join(words))

    def interrupted(self) -> None:
        """The sweep was stopped by hand: jobs of this machine ended with it, those of a cluster go on."""
        elsewhere = {number: job_id for number, job_id in self.alive.items() if is_slurm_id(job_id)}
        for number, row in self.rows.items():
            if not row.ended and number not in elsewhere:
                row.state, row.reason = "CANCELLED", "interrupted"
        if elsewhere:
            ids = _arrays(elsewhere)
            _say(f"{_jobs(len(elsewhere))} still on the cluster (end them with: scancel {ids})")
            _say(f"collect later with: {self.collect_command}")
        self.finish()

    def left(self) -> None:
        """The jobs are on their way and nobody waits for them."""
        _say(f"not waiting for {_jobs(len(self.alive))} ({_arrays(self.alive)})")
        _say(f"collect later with: {self.collect_command}")
        self._write(always=True)

    # --- inside --------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        self._ledger = ledgers.read(self.folder)
        self._found = {}
        if self._cfg is not None:
            self.facts.update(_facts(self._cfg))

    def refresh(self) -> None:
        """Learn what became of the jobs while nobody watched them; asks the cluster where that is needed."""
        for change in catch_up(self.folder, self.rows):
            _update(self.rows[change.number], change)

    def _must_run(self, number: int, identity: Identity) -> bool:
        row, before = self.rows[number], self._ledger.identities[number]
        if number in self.alive:
            return False
        return row.state != "COMPLETED" or row.growth != identity.growth or before.places != identity.places

    def _open(self, job: DictConfig) -> None:
        """Note with what code the jobs start, and open the tracker's run of the sweep before any of them does."""
        from brainlab.run.sweep.code import code_at_submission

        if not self._opened:
            self._opened = True
            self.facts["code"] = code_at_submission(self.folder)
            self.facts.pop("tracked", None)
            self.facts.setdefault("start", now())
            self.facts["experiment"] = str(job.get("experiment_name") or "brainlab")
            self.facts["logger"] = logger = logger_of(job)
            if logger is not None:
                self.facts["mlflow_run_id"] = open_parent(
                    logger,
                    self.folder,
                    experiment=self.facts["experiment"],
                    run_id=self.facts.get("mlflow_run_id"),
                    tags={"brainlab.swept": " ".join(self.swept), "brainlab.metric": self.metric},
                )

    def _write(self, *, ended: bool = False, always: bool = False) -> None:
        ledgers.write(self.folder, self._ledger)
        if not (ended or always):
            return
        entries = self.entries()
        write_atomically(self.folder / "sweep.csv", sweep_csv(entries, self.swept, self.metric))
        # Drawing a large sweep again after each of its jobs would keep the submitter busy; a look costs nothing.
        if always or (ended and time.monotonic() >= self._next_page):
            began = time.monotonic()
            write_atomically(self.folder / "sweep_summary.csv", summary_csv(entries, self.swept, self.metric))
            self._write_page(entries)
            self._next_page = time.monotonic() + max(_PAGE_EVERY_S, 20 * (time.monotonic() - began))

    def _write_page(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.row.num not in self._curves or not entry.row.ended:
                self._curves[entry.row.num] = read_curves(Path(entry.row.run_dir) / "metrics.jsonl")
        facts = {**self.facts, "folder": str(self.folder), "collect": self.collect_command, "again": self._again()}
        page = render(entries, self.swept, facts, curves=self._curves, figures=self.figures)
        write_atomically(self.folder / "sweep.html", page)

    def _again(self) -> str:
        """The command that continues this sweep."""
        words = [word for word in shlex.split(str(self.facts.get("command") or "")) if "hydra.sweep.dir=" not in word]
        return shlex.join([*words, f"hydra.sweep.dir={self.folder}"]) if words else ""

    def _tell(self, row: JobRow) -> None:
        """Say what happened to one job, and from time to time where all of them stand."""
        states = [each.state for each in self.rows.values()]
        n_ended = sum(each.ended for each in self.rows.values())
        said = row.ended or row.state == "PREEMPTED"
        if said:
            count = f"[{n_ended}/{len(states)}] " if row.ended else ""
            words = [f"{count}job {row.num} {row.state}", self.described(row.num)]
            if row.score is not None:
                words.append(f"{self.metric} {row.score:.4g}")
            if row.state == "PREEMPTED":
                words += [row.reason or "", "it goes on when the cluster has room"]
            elif row.state != "COMPLETED":
                words += [row.reason or "", f"log: {row.log or row.run_dir}"]
            _say(" · ".join(word for word in words if word))
        if n_ended < len(states) and (self.on_cluster or row.ended) and time.monotonic() >= self._next_count:
            self._next_count = time.monotonic() + _COUNT_EVERY_S
            _say(counted(states))


def collect_sweep(folder: Path) -> SweepRecord:
    """Look once at what became of a sweep's jobs and bring all of its files up to date.

    The sweep's run in the tracker is closed once every job has ended. While another process follows the sweep, its
    files are that one's business: then the record is only read.

    Args:
        folder: the sweep's folder.
    """
    record = SweepRecord.load(folder)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(record)
        except ConfigError:
            _say(f"{record.folder} is being followed by the process that started it; this is its latest word")
        else:
            record.finish()
    return record


def _facts(cfg: DictConfig) -> dict[str, Any]:
    return {
        "metric": str(cfg.sweep.metric or "score"),
        "mode": str(cfg.sweep.mode),
        "method": str(cfg.sweep.method),
        "launcher": str(OmegaConf.select(cfg, "hydra.launcher._target_") or "").rpartition(".")[2],
        "command": shlex.join(["brainlab", *sys.argv[1:]]),
    }


def _update(row: JobRow, change: JobChange) -> None:
    row.state = change.state
    row.score = change.score if change.score is not None else row.score
    row.reason = change.reason if change.state != "COMPLETED" else None
    row.job_id = change.job_id or row.job_id
    row.log = str(change.log) if change.log else row.log


def _several(jobs: Sequence[Sequence[str]]) -> list[str]:
    """The keys that do not have the same value in all jobs."""
    settings = [words_of(job) for job in jobs]
    names = dict.fromkeys(name for job in settings for name in job)
    return [name for name in names if len({job.get(name) for job in settings}) > 1]


def _numbered(cfg: DictConfig, number: int) -> DictConfig:
    with read_write(cfg.hydra), open_dict(cfg.hydra):
        cfg.hydra.job.num, cfg.hydra.job.id = number, str(number)
    return cfg


def _refuse_subfolders(cfg: DictConfig) -> None:
    """A job is found by its number: by the cluster's records, by the next run of the sweep, by the table."""
    written = OmegaConf.to_container(cfg.hydra.sweep).get("subdir")  # type: ignore[union-attr]
    if written != "${hydra.job.num}":
        raise ConfigError(
            "hydra.sweep.subdir",
            written,
            "expected ${hydra.job.num}: the folder of a job is its number",
            hint="sweep.csv says which number has which values",
        )


def _tracker_status(states: Sequence[str]) -> str:
    """MLflow's word for how the sweep ended."""
    if set(states) <= {"COMPLETED"}:
        return "FINISHED"
    return "FAILED" if {"FAILED", "LOST"} & set(states) else "KILLED"


def _jobs(n: int) -> str:
    return f"{n} job{'' if n == 1 else 's'}"


def _arrays(ids: Mapping[int, str]) -> str:
    """The cluster's names of whole arrays: ``12`` for ``12_0`` and ``12_1``."""
    return " ".join(dict.fromkeys(job_id.partition("_")[0] for job_id in ids.values()))


def _say(text: str) -> None:
    print(text, flush=True)
