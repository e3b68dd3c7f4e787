"""The job that lines up finished runs in one table, and says how two of them differ."""

from __future__ import annotations

import csv
import glob
import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from brainlab.errors import ConfigError, InvalidFile
from brainlab.run.context import Run
from brainlab.run.directory import read_json, write_json
from brainlab.run.fingerprint import differing_keys, flatten, matters

__all__ = ["Collect", "find_runs", "row_of", "table_of"]

log = logging.getLogger(__name__)

_MOST_SHOWN = 60


class Collect:
    """Read runs and write ``collect.csv``; for two runs also ``diff.csv`` with the keys that differ.

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

    def __call__(self, cfg: DictConfig, run: Run) -> float | None:
        folders = [folder for folder in find_runs(self.runs) if folder != run.path]
        if not folders:
            raise InvalidFile("runs", ", ".join(self.runs), "expected at least one directory with a status.json")
        rows = table_of(folders)
        run.directory.write("collect.csv", _csv(rows))
        _show(_for_screen(rows), f"{len(rows)} runs")
        states = [row["state"] for row in rows]
        counts = (
            states.count("COMPLETED"),
            states.count("FAILED"),
            len(states) - states.count("COMPLETED") - states.count("FAILED"),
        )
        log.info("%d completed, %d failed, %d other · %s", *counts, run.path / "collect.csv")
        if len(folders) == 2:
            differing = difference(*folders)
            run.directory.write("diff.csv", _csv(differing) if differing else "key\n")
            if differing:
                _show(differing, "keys that differ")
            else:
                log.info("both runs have the same configuration")
        run.settle_fingerprint()
        write_json(run.directory.results, {"state": "COMPLETED", "runs": rows, "best": {}})
        return None


def find_runs(places: Iterable[str]) -> list[Path]:
    """Every run directory in or under ``places``, without the stages inside of chains, in natural order.

    Raises:
        InvalidFile: a place that does not exist.
    """
    found: dict[Path, None] = {}
    for place in places:
        matches = sorted(glob.glob(str(Path(place).expanduser())))
        if not matches:
            raise InvalidFile("runs", place, "expected an existing directory")
        for match in matches:
            root = Path(match).absolute()
            inside = [root / "status.json"] if (root / "status.json").exists() else sorted(root.rglob("status.json"))
            for file in inside:
                if not {"stages", "evaluations"} & set(file.relative_to(root).parts):
                    found[file.parent] = None
    return sorted(found, key=_natural)


def row_of(folder: Path) -> dict[str, Any]:
    """One run as one row: state, monitored score, headline metric with its interval, time, place."""
    status, results = read_json(folder / "status.json") or {}, read_json(folder / "results.json") or {}
    best, monitor = results.get("best") or {}, results.get("monitor") or {}
    headline = (results.get("metrics") or {}).get(results.get("headline") or "") or {}
    attempts = status.get("attempts") or [{}]
    tracker = folder / "mlflow_run_id"
    return {
        "run": folder.name,
        "experiment": results.get("experiment"),
        "state": status.get("state"),
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
        "slurm_job_id": attempts[-1].get("slurm_job_id"),
        "mlflow_run_id": tracker.read_text().strip() if tracker.exists() else None,
        "run_dir": str(folder),
    }


def table_of(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """One row per run; configuration keys in which the runs differ become columns after the state."""
    configs = [flatten(_config(folder)) for folder in folders]
    keys = sorted({key for config in configs for key in config if matters(key) or key.startswith("trainer.max_")})
    swept = [key for key in keys if len({repr(config.get(key)) for config in configs}) > 1]
    rows = []
    for folder, config in zip(folders, configs, strict=True):
        row = row_of(folder)
        first = {name: row.pop(name) for name in ("run", "experiment", "state")}
        rows.append({**first, **{key: config.get(key) for key in swept if key != "seed"}, **row})
    return rows


def difference(one: Path, other: Path) -> list[dict[str, Any]]:
    """The keys in which the configurations of two runs differ."""
    keys = differing_keys(_config(one), _config(other))
    return [{"key": key, one.name: before, other.name: after} for key, (before, after) in keys.items()]


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "resolved.yaml"
    return OmegaConf.to_container(OmegaConf.load(path)) if path.exists() else {}  # type: ignore[return-value]


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows([{key: "" if value is None else value for key, value in row.items()} for row in rows])
    return text.getvalue()


def _for_screen(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The columns that tell the runs apart, and their scores; ``collect.csv`` holds all of them."""
    always, never = ("run", "state", "best", "value"), ("run_dir", "mlflow_run_id", "low", "high", "wall_s", "chance")
    chosen = [
        key for key in rows[0] if key in always or (key not in never and len({repr(row[key]) for row in rows}) > 1)
    ]
    monitors, headlines = ({row[key] for row in rows} for key in ("monitor", "headline"))
    names = {
        "best": f"best {next(iter(monitors))}" if len(monitors) == 1 else "best",
        "value": str(next(iter(headlines)) or "value") if len(headlines) == 1 else "value",
    }
    return [{names.get(key, key): row[key] for key in chosen} for row in rows]


def _show(rows: Sequence[Mapping[str, Any]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    columns = [key for key in rows[0] if any(row[key] is not None for row in rows)]
    table = Table(title=title)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows[:_MOST_SHOWN]:
        table.add_row(*(_cell(row[column]) for column in columns))
    console = Console()
    console.print(table)
    if len(rows) > _MOST_SHOWN:
        console.print(f"… and {len(rows) - _MOST_SHOWN} more")


def _cell(value: Any) -> str:
    from rich.markup import escape

    return "" if value is None else escape(f"{value:.4g}" if isinstance(value, float) else str(value))


def _natural(path: Path) -> tuple[str, int, str]:
    """Sweep jobs are numbered folders: 2 comes before 10."""
    return (str(path.parent), int(path.name) if path.name.isdigit() else -1, path.name)
