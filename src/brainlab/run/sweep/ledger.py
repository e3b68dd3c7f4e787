"""``sweep.json``: everything that a later process has to know of a sweep."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from brainlab.io.atomic import write_atomically
from brainlab.run.directory import jsonable, read_json
from brainlab.run.fingerprint import flatten, of_config
from brainlab.run.status import now
from brainlab.run.sweep.jobs import as_score
from brainlab.run.sweep.matching import Identity, common
from brainlab.run.sweep.rows import JobRow, find
from brainlab.run.sweep.watch import OUTCOMES, read_outcome

__all__ = ["Ledger", "read", "write"]

log = logging.getLogger(__name__)

FILE = "sweep.json"
_VERSION = 1


@dataclass
class Ledger:
    """A sweep: its jobs by number, what they are, and the facts that they share."""

    rows: dict[int, JobRow] = field(default_factory=dict)
    identities: dict[int, Identity] = field(default_factory=dict)
    swept: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    """``experiment``, ``start``, ``metric``, ``mode``, ``launcher``, ``logger``, ``mlflow_run_id``, ``code`` …"""
    _shared: tuple[dict[str, Any], dict[int, dict[str, Any]], list[str]] | None = None

    def add(self, row: JobRow, identity: Identity) -> None:
        """A new job, or an old one that runs again."""
        self.rows[row.num], self.identities[row.num] = row, identity
        self._shared = None

    def shared(self) -> tuple[dict[str, Any], dict[int, dict[str, Any]], list[str]]:
        """The leaves that all jobs have in common, those of each job beside them, and the derived keys."""
        if self._shared is None:
            base = common(identity.leaves for identity in self.identities.values())
            own = {
                number: {key: value for key, value in identity.leaves.items() if key not in base}
                for number, identity in self.identities.items()
            }
            derived = sorted(frozenset().union(*(identity.derived for identity in self.identities.values())))
            self._shared = base, own, derived
        return self._shared


def write(folder: Path, ledger: Ledger) -> None:
    """Replace ``sweep.json``; what all jobs have in common is written once, and each job is one line."""
    base, own, derived = ledger.shared()
    head = {"brainlab_sweep": _VERSION, **ledger.facts, "written": now(), "swept": ledger.swept}
    tail = {"base_fingerprint": of_config(base).config if base else None, "base": base, "derived": derived}
    jobs = [_line({**row.to_dict(), "own": own[number]}) for number, row in sorted(ledger.rows.items())]
    # Written after every change of every job, so by hand: the encoder that indents is slow.
    lines = [
        *(f" {_line(key)}: {_line(value)}," for key, value in head.items()),
        ' "jobs": [\n  ' + ",\n  ".join(jobs) + "\n ],",
        ",\n".join(f" {_line(key)}: {_line(value)}" for key, value in tail.items()),
    ]
    write_atomically(folder / FILE, "{\n" + "\n".join(lines) + "\n}\n")


def _line(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        return json.dumps(jsonable(value), ensure_ascii=False)


def read(folder: Path) -> Ledger:
    """The sweep that a folder holds; numbered run directories without a ``sweep.json`` count as its jobs."""
    content = read_json(folder / FILE)
    try:
        if not isinstance(content, Mapping) or "brainlab_sweep" not in content:
            raise TypeError("no sweep")
        return _from_content(folder, content)
    except (AttributeError, KeyError, TypeError, ValueError):
        _set_aside(folder / FILE)
        return _from_run_directories(folder)


def _set_aside(file: Path) -> None:
    """Keep a record that cannot be read; what the jobs left makes a new one."""
    if not file.exists():
        return
    file.read_bytes()  # a file system that is away for a moment says so here, and nothing is set aside
    kept = file.with_name(f"{file.name}.bad")
    try:
        file.replace(kept)
    except OSError:
        kept = file
    log.warning("%s is damaged; the sweep is read from what its jobs left (the damaged file: %s)", file, kept)


def _from_content(folder: Path, content: Mapping[str, Any]) -> Ledger:
    base, derived = content.get("base") or {}, frozenset(content.get("derived") or ())
    ledger = Ledger(swept=list(content.get("swept") or ()))
    for job in content.get("jobs") or []:
        row = JobRow.from_dict(job)
        _check(row)
        row.run_dir = str(folder / str(row.num))  # the folder may have been moved
        ledger.rows[row.num] = row
        ledger.identities[row.num] = Identity(row.fingerprint, {**base, **(job.get("own") or {})}, derived)
    own = {"brainlab_sweep", "written", "swept", "jobs", "base_fingerprint", "base", "derived"}
    ledger.facts = {key: value for key, value in content.items() if key not in own}
    return ledger


def _check(row: JobRow) -> None:
    """
    Raises:
        TypeError: what a hand or a torn write made of a job cannot be worked with.
    """
    texts = (row.job_id, row.reason, row.log)
    right = (
        type(row.num) is int
        and isinstance(row.state, str)
        and isinstance(row.fingerprint, str)
        and isinstance(row.growth, Mapping)
        and (row.score is None or as_score(row.score) is not None)
        and all(text is None or isinstance(text, str) for text in texts)
    )
    if not right:
        raise TypeError(f"job {row.num!r}")


def _from_run_directories(folder: Path) -> Ledger:
    ledger = Ledger()
    numbers = [int(path.name) for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    for number in sorted(numbers):
        run_dir = folder / str(number)
        if not (run_dir / "resolved.yaml").exists():
            continue
        plain = OmegaConf.to_container(OmegaConf.load(run_dir / "resolved.yaml"))
        assert isinstance(plain, dict)
        words = run_dir / ".hydra" / "overrides.yaml"
        overrides = tuple(str(word) for word in OmegaConf.load(words)) if words.exists() else ()
        kind = of_config(plain)  # type: ignore[arg-type]
        found = find(run_dir)
        ledger.identities[number] = Identity(kind.config, flatten(plain))
        ledger.rows[number] = JobRow(
            number, overrides, kind.config, dict(kind.growth), found.state or "LOST", run_dir=str(run_dir)
        )
        row = ledger.rows[number]
        row.score, row.reason = found.score, found.error
        outcome = read_outcome(folder / OUTCOMES / f"{number}.json")
        if outcome is not None and row.state not in ("RUNNING", "PREEMPTED"):  # else it was started again since
            row.state, job_id, reason = outcome["state"], outcome.get("job_id"), outcome.get("reason")
            score = as_score(outcome.get("score"))
            row.score = row.score if score is None else score
            row.job_id = job_id if isinstance(job_id, str) else None
            row.reason = reason if isinstance(reason, str) else row.reason
        if row.state == "COMPLETED":
            row.reason = None
    return ledger
