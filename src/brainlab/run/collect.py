"""The job that lines up runs in one table, and says how two of them differ."""

from __future__ import annotations

import glob
import logging
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from brainlab.errors import ConfigError, InvalidFile
from brainlab.run.context import Run
from brainlab.run.directory import read_json, write_json
from brainlab.run.fingerprint import differing_keys, flatten, matters
from brainlab.run.sweep.news import is_alive
from brainlab.run.sweep.watch import HEARTBEAT_LOST_S, OUTCOMES
from brainlab.run.tables import csv_text, differing_columns, natural, over_seeds, show

__all__ = ["Collect", "find_runs", "find_sweeps", "row_of", "table_of"]

log = logging.getLogger(__name__)

_PARTS_OF_RUNS = {"stages", "evaluations"}
_ALWAYS_SHOWN = ("run", "state", "best", "value", "note")
_NEVER_SHOWN = ("run_dir", "mlflow_run_id", "low", "high", "wall_s", "chance")


class Collect:
    """Read runs and write ``collect.csv``, and ``collect_summary.csv`` where runs differ only in their seed; for two
    runs also ``diff.csv`` with the keys that differ.

    A sweep's folder is brought up to date first, as if somebody had waited for it: its jobs are looked up on the
    cluster, its files are written anew, and its run in the tracker is closed once all jobs have ended.

    Args:
        runs: run directories, sweep directories, folders above them, or glob patterns.
    """

    def __init__(self, runs: str | Sequence[str] | None = None) -> None:
        if not runs:
            raise ConfigError(
                "runs",
                "null",
                "expected run or sweep directories",
                where="command line",
                hint="brainlab job=collect runs=multirun/NAME/…",
            )
        self.runs = [runs] if isinstance(runs, str) else [str(each) for each in runs]

    def check(self, cfg: DictConfig) -> None:
        """
        Raises:
            ConfigError: a place where nothing is, or no run.
        """
        for place in self.runs:
            try:
                if not find_runs([place]) and not find_sweeps([place]):
                    raise InvalidFile("runs", place, "expected a directory with runs in it")
            except InvalidFile as error:
                raise ConfigError(
                    "runs",
                    place,
                    error.expected,
                    where="command line",
                    hint="a run's folder holds status.json, a sweep's holds sweep.json",
                ) from None

    def __call__(self, cfg: DictConfig, run: Run) -> float | None:
        sweeps = [_collected(folder) for folder in find_sweeps(self.runs)]
        jobs = {Path(row.run_dir): row for sweep in sweeps for row in sweep.rows.values()}
        folders = [folder for folder in find_runs(self.runs) if folder != run.path and _is_of_interest(folder)]
        folders = sorted(dict.fromkeys([*folders, *jobs]), key=natural)
        if not folders:
            raise InvalidFile("runs", ", ".join(self.runs), "expected at least one directory with a status.json")
        rows = table_of(folders, jobs)
        run.directory.write("collect.csv", csv_text(rows))
        if len(sweeps) != 1 or set(folders) != set(jobs):  # else the sweep has shown exactly these
            show(_for_screen(rows), f"{len(rows)} runs")
            fixed = [*rows[0]][: [*rows[0]].index("data_source")]
            summary = over_seeds(rows, [key for key in fixed if key not in ("run", "state")], ["best", "value"])
            if summary:
                run.directory.write("collect_summary.csv", csv_text(summary))
                show(summary, "over seeds: mean and sample sd")
        log.info("%s · %s", _counted([row["state"] for row in rows]), run.path / "collect.csv")
        if len(folders) == 2:
            self._tell_difference(run, *folders)
        run.settle_fingerprint()
        write_json(run.directory.results, {"state": "COMPLETED", "runs": rows, "best": {}})
        for sweep in sweeps:
            sweep.raise_if_failed()
        return None

    def _tell_difference(self, run: Run, one: Path, other: Path) -> None:
        silent = [folder for folder in (one, other) if not (folder / "resolved.yaml").exists()]
        if silent:
            log.warning("%s has not written down its configuration yet; there is nothing to compare", silent[0])
            return
        rows = difference(one, other)
        run.directory.write("diff.csv", csv_text(rows) if rows else "key\n")
        if rows:
            show(rows, "keys that differ")
        else:
            log.info("both runs have the same configuration")


def find_runs(places: Iterable[str]) -> list[Path]:
    """Every run directory in or under ``places``, without the stages inside of chains, in natural order.

    Raises:
        InvalidFile: a place that does not exist.
    """
    found: dict[Path, None] = {}
    for root in _roots(places):
        inside = [root / "status.json"] if (root / "status.json").exists() else sorted(root.rglob("status.json"))
        for file in inside:
            if not _PARTS_OF_RUNS & set(file.relative_to(root).parts):
                found[file.parent] = None
    return sorted(found, key=natural)


def find_sweeps(places: Iterable[str]) -> list[Path]:
    """Every sweep's folder in or under ``places``."""
    found: dict[Path, None] = {}
    for root in _roots(places):
        inside = [root / "sweep.json"] if (root / "sweep.json").exists() else sorted(root.rglob("sweep.json"))
        for file in inside:
            content = read_json(file)
            damaged = content is None and (file.parent / OUTCOMES).is_dir()
            if damaged or (isinstance(content, Mapping) and "brainlab_sweep" in content):
                found[file.parent] = None
    return sorted(found, key=natural)


def row_of(folder: Path, job: Any = None) -> dict[str, Any]:
    """One run as one row: state, monitored score, headline metric with its interval, time, place.

    Args:
        folder: the run directory, which may not exist yet.
        job: what a sweep knows of it; it knows the queue, which the directory does not.
    """
    status, results = _mapping(folder / "status.json"), _mapping(folder / "results.json")
    best, monitor = results.get("best") or {}, results.get("monitor") or {}
    headline = (results.get("metrics") or {}).get(results.get("headline") or "") or {}
    attempts = status.get("attempts") or [{}]
    tracker = folder / "mlflow_run_id"
    state, note = _state(status)
    if state is None:
        state, note = "LOST", "its status.json is missing or damaged"
    if job is not None:
        state, note = job.state, job.reason or (note if state == job.state else None)
    return {
        "run": folder.name,
        "experiment": results.get("experiment"),
        "state": state,
        "data_source": results.get("data_source"),
        "seed": results.get("seed"),
        "monitor": monitor.get("metric"),
        "best": best.get("score"),
        "headline": headline.get("name"),
        "value": headline.get("value"),
        "low": headline.get("low"),
        "high": headline.get("high"),
        "chance": headline.get("chance"),
        "wall_s": results.get("wall_s"),
        "slurm_job_id": attempts[-1].get("slurm_job_id") or (job.job_id if job is not None else None),
        "mlflow_run_id": tracker.read_text().strip() if tracker.exists() else None,
        "note": note,
        "run_dir": str(folder),
    }


def table_of(folders: Sequence[Path], jobs: Mapping[Path, Any] | None = None) -> list[dict[str, Any]]:
    """One row per run; configuration keys in which the runs differ become columns after the state.

    Args:
        folders: run directories.
        jobs: what sweeps know of those that are theirs.
    """
    configs = [_flat(_config(folder)) for folder in folders]
    swept = differing_columns([config for config in configs if config])
    labels = _names(folders)
    rows = []
    for folder, config, label in zip(folders, configs, labels, strict=True):
        row = row_of(folder, (jobs or {}).get(folder))
        first = {"run": label, "experiment": row["experiment"] or config.get("experiment_name"), "state": row["state"]}
        if row["seed"] is None:
            row["seed"] = config.get("seed")
        rest = {key: value for key, value in row.items() if key not in first}
        rows.append({**first, **{key: config.get(key) for key in swept if key not in (*first, *rest)}, **rest})
    return rows


def difference(one: Path, other: Path) -> list[dict[str, Any]]:
    """The keys in which the configurations of two runs differ."""
    keys = differing_keys(_config(one), _config(other))
    names = _names([one, other])
    return [{"key": key, names[0]: before, names[1]: after} for key, (before, after) in keys.items()]


def _roots(places: Iterable[str]) -> list[Path]:
    found: list[Path] = []
    for place in places:
        pattern = os.path.abspath(os.path.expanduser(place))
        matches = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
        if not matches:
            is_pattern = glob.has_magic(place)
            raise InvalidFile(
                "runs",
                place,
                f"expected {'a pattern that matches something' if is_pattern else 'an existing directory'}",
            )
        found += [Path(match) for match in matches if os.path.isdir(match)]
        if not any(os.path.isdir(match) for match in matches):
            raise InvalidFile("runs", place, "expected a directory, not a file")
    return found


def _collected(folder: Path) -> Any:
    from brainlab.run.sweep.record import collect_sweep

    sweep = collect_sweep(folder)
    sweep.show()
    return sweep


def _state(status: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The state of a run by what it last wrote, and what there is to say of it."""
    state, error = status.get("state"), status.get("error")
    if state != "RUNNING":
        return state, None if state == "COMPLETED" else error
    attempt = (status.get("attempts") or [{}])[-1]
    silence = _seconds_since(status.get("heartbeat"))
    here = attempt.get("host") == socket.gethostname()
    if silence is not None and silence > HEARTBEAT_LOST_S and not (here and is_alive(attempt.get("pid"))):
        return "LOST", f"no sign of life for {_span(silence)}"
    return state, f"attempt {len(status.get('attempts') or [])}"


def _seconds_since(stamp: Any) -> float | None:
    try:
        return (datetime.now().astimezone() - datetime.fromisoformat(str(stamp))).total_seconds()
    except (TypeError, ValueError):
        return None


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _is_of_interest(folder: Path) -> bool:
    """A table of runs says nothing of those that only made tables."""
    job = _config(folder).get("job")
    return not (isinstance(job, Mapping) and str(job.get("_target_")).endswith(".Collect"))


def _mapping(file: Path) -> Mapping[str, Any]:
    content = read_json(file)
    return content if isinstance(content, Mapping) else {}


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "resolved.yaml"
    return _read(path, path.stat().st_mtime_ns) if path.exists() else {}


@lru_cache(maxsize=4096)
def _read(path: Path, changed_ns: int) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.load(path))  # type: ignore[return-value]


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flatten(config).items() if matters(key) or key.startswith("trainer.max_")}


def _names(folders: Sequence[Path]) -> list[str]:
    """Folder names, with the folder above where they are not different."""
    names = [folder.name for folder in folders]
    if len(set(names)) == len(names):
        return names
    return [f"{folder.parent.name}/{folder.name}" for folder in folders]


def _counted(states: Sequence[str | None]) -> str:
    names = ("COMPLETED", "FAILED", "LOST", "RUNNING", "PENDING", "PREEMPTED", "CANCELLED")
    told = [f"{states.count(name)} {name.lower()}" for name in names if name in states or name in names[:2]]
    unknown = sum(state not in names for state in states)
    return ", ".join(told) + (f", {unknown} unknown" if unknown else "")


def _for_screen(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The columns that tell the runs apart, and their scores; ``collect.csv`` holds all of them."""
    chosen = [
        key
        for key in rows[0]
        if key in _ALWAYS_SHOWN or (key not in _NEVER_SHOWN and len({repr(row[key]) for row in rows}) > 1)
    ]
    names = {}
    for column, source in (("best", "monitor"), ("value", "headline")):
        common = {row[source] for row in rows} - {None}
        if len(common) == 1:
            names[column] = f"best {common.pop()}" if column == "best" else str(common.pop())
    hidden = {source for column, source in (("best", "monitor"), ("value", "headline")) if column in names}
    return [{names.get(key, key): row[key] for key in chosen if key not in hidden} for row in rows]
