"""How the jobs of a sweep ended: ``sweep.csv`` and the table on the screen."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from brainlab.errors import BrainlabError

__all__ = ["JobsFailed", "SweepTable"]


class JobsFailed(BrainlabError):
    """At least one job of a sweep did not complete; its siblings may have."""


class SweepTable:
    """One row per job, in the order of their numbers.

    Args:
        folder: the sweep's folder; job ``n`` lies in ``folder/n``.
        jobs: the overrides of each job.
        metric: what the jobs' returned score is called.
    """

    def __init__(self, folder: Path, jobs: Sequence[Sequence[str]], metric: str | None) -> None:
        self.folder, self.metric = Path(folder).absolute(), metric or "score"
        settings = [dict(_split(word) for word in job) for job in jobs]
        names = list(dict.fromkeys(name for job in settings for name in job))
        self.swept = [name for name in names if len({job.get(name) for job in settings}) > 1]
        self.rows: list[dict[str, Any]] = [
            {"num": number, "state": "PENDING", **{name: job.get(name, "") for name in self.swept}}
            for number, job in enumerate(settings)
        ]

    @property
    def n_failed(self) -> int:
        """Jobs that ended in any other way than COMPLETED."""
        return sum(row["state"] not in ("COMPLETED", "PENDING") for row in self.rows)

    def described(self, number: int) -> str:
        """What sets job ``number`` apart from the others."""
        return " ".join(f"{name}={self.rows[number][name]}" for name in self.swept) or f"job {number}"

    def ended(self, number: int, job: Any) -> None:
        """Take over what job ``number`` left behind; ``job`` is Hydra's return value for it."""
        folder = self.folder / str(number)
        status, results = _read(folder / "status.json"), _read(folder / "results.json")
        completed = getattr(getattr(job, "status", None), "name", "") == "COMPLETED"
        state = "COMPLETED" if completed else status.get("state", "FAILED")
        row = self.rows[number]
        row["state"] = state if completed or state != "COMPLETED" else "FAILED"
        score = getattr(job, "_return_value", None)
        if completed and isinstance(score, int | float):
            row[self.metric] = score
        row.update(_metrics(results))
        row["seed"] = row.get("seed") or (_read_yaml_seed(folder) if completed else "")
        row["wall_s"] = results.get("wall_s", "")
        row["run_dir"] = str(folder)
        row["slurm_job_id"] = _last(status.get("attempts"), "slurm_job_id")
        row["mlflow_run_id"] = _text(folder / "mlflow_run_id")

    def write(self) -> None:
        """Replace ``sweep.csv`` in one step."""
        last = ["seed", "wall_s", "run_dir", "slurm_job_id", "mlflow_run_id"]
        first = ["num", "state", *self.swept]
        metrics = [key for key in dict.fromkeys(k for row in self.rows for k in row) if key not in (*first, *last)]
        columns = list(dict.fromkeys([*first, *metrics, *last]))
        draft = self.folder / ".sweep.csv.tmp"
        with draft.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(draft, self.folder / "sweep.csv")

    def show(self) -> None:
        """Print the table and the count of each outcome."""
        columns = [
            "num",
            "state",
            *self.swept,
            *([self.metric] if any(self.metric in row for row in self.rows) else []),
            "run_dir",
        ]
        cells = [columns, *[[_short(row.get(name, "")) for name in columns] for row in self.rows]]
        widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
        for row in cells:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        print(self.summary(), flush=True)
        sys.stdout.flush()

    def summary(self) -> str:
        """``N completed, M failed, K lost``, and what did not start."""
        count = {state: sum(row["state"] == state for row in self.rows) for state in ("COMPLETED", "LOST", "PENDING")}
        failed = len(self.rows) - sum(count.values())
        text = f"{count['COMPLETED']} completed, {failed} failed, {count['LOST']} lost"
        return text + (f", {count['PENDING']} not started" if count["PENDING"] else "")

    def raise_if_failed(self) -> None:
        """
        Raises:
            JobsFailed: unless every job is COMPLETED.
        """
        bad = [str(row["num"]) for row in self.rows if row["state"] != "COMPLETED"]
        if bad:
            raise JobsFailed(f"Not completed: job {', '.join(bad)} of {self.folder}")


def _split(word: str) -> tuple[str, str]:
    name, _, value = word.partition("=")
    return name.lstrip("+"), value


def _metrics(results: Mapping[str, Any]) -> dict[str, Any]:
    metrics = results.get("metrics") or {}
    return {name: each.get("value", "") if isinstance(each, Mapping) else each for name, each in metrics.items()}


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8").strip() if file.is_file() else ""


def _read_yaml_seed(folder: Path) -> str:
    text = _text(folder / "resolved.yaml")
    return next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("seed:")), "")


def _last(attempts: Any, key: str) -> Any:
    return (attempts[-1].get(key) or "") if isinstance(attempts, list) and attempts else ""


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
