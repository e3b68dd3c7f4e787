"""``sweep.json``: everything that a later process has to know of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from brainlab.run.directory import read_json, write_json
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


def write(folder: Path, ledger: Ledger) -> None:
    """Replace ``sweep.json``; what all jobs have in common is written once."""
    base = common(identity.leaves for identity in ledger.identities.values())
    derived = sorted(frozenset().union(*(identity.derived for identity in ledger.identities.values())))
    jobs = []
    for number, row in sorted(ledger.rows.items()):
        leaves = ledger.identities[number].leaves
        own = {key: value for key, value in leaves.items() if key not in base}
        jobs.append({**row.to_dict(), "own": own})
    content = {
        "brainlab_sweep": _VERSION,
        **ledger.facts,
        "written": now(),
        "swept": ledger.swept,
        "jobs": jobs,
        "base_fingerprint": of_config(base).config if base else None,
        "base": base,
        "derived": derived,
    }
    write_json(folder / FILE, content)


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
