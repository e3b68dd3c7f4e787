"""``sweep.json``: everything that a later process has to know of a sweep."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from brainlab.io.atomic import write_atomically
from brainlab.run.directory import jsonable, read_json
from brainlab.run.fingerprint import flatten, of_config
from brainlab.run.status import now
from brainlab.run.sweep.matching import Identity, common
from brainlab.run.sweep.rows import JobRow, find

__all__ = ["Ledger", "read", "write"]

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
    if not isinstance(content, Mapping) or "brainlab_sweep" not in content:
        return _from_run_directories(folder)
    base, derived = content.get("base") or {}, frozenset(content.get("derived") or ())
    ledger = Ledger(swept=list(content.get("swept") or ()))
    for job in content.get("jobs") or []:
        row = JobRow.from_dict(job)
        row.run_dir = str(folder / str(row.num))  # the folder may have been moved
        ledger.rows[row.num] = row
        ledger.identities[row.num] = Identity(row.fingerprint, {**base, **(job.get("own") or {})}, derived)
    own = {"brainlab_sweep", "written", "swept", "jobs", "base_fingerprint", "base", "derived"}
    ledger.facts = {key: value for key, value in content.items() if key not in own}
    return ledger


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
        ledger.rows[number].score = found.score
    return ledger
