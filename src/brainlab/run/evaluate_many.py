"""Several checkpoints judged one after another, and lined up in one table with their intervals and chance levels."""

from __future__ import annotations

import copy
import glob
import hashlib
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from brainlab.errors import BrainlabError, ConfigError
from brainlab.run.context import Run
from brainlab.run.directory import RunDirectory, read_json, write_json
from brainlab.run.fingerprint import flatten, matters
from brainlab.run.tables import csv_text, differing_columns, natural, over_seeds, show

__all__ = ["EVALUATED", "NotAllEvaluated", "evaluate_all", "find_checkpoints", "labels_of"]

log = logging.getLogger(__name__)

EVALUATED = "evaluated.yaml"
"""In the folder of an evaluation: the configuration that was stored in the checkpoint, as it was evaluated."""
FOLDER = "evaluations"
_STATISTICS = ("low", "high", "chance", "control", "ceiling", "n")
_GROUPS = ("data", "model", "evaluation", "experiment_name")


class NotAllEvaluated(BrainlabError):
    """At least one of several checkpoints could not be judged; the table holds the others."""


def find_checkpoints(places: str | Sequence[str]) -> list[Path]:
    """The checkpoint files that ``places`` mean, each once, in natural order.

    Args:
        places: checkpoint files, run directories (whose ``best.ckpt`` is meant), folders above run directories such
            as a sweep's, or glob patterns of these, where ``**`` is any depth.

    Raises:
        ConfigError: a place that means nothing.
    """
    found: dict[Path, None] = {}
    for place in [places] if isinstance(places, str) else places:
        pattern = os.path.abspath(os.path.expanduser(str(place)))
        matches = [pattern] if os.path.exists(pattern) else glob.glob(pattern, recursive=True)
        files = [file for match in matches for file in _meant(Path(match), alone=match == pattern)]
        if not files:
            is_pattern = glob.has_magic(pattern)
            raise ConfigError(
                "checkpoint",
                place,
                "expected a pattern that matches checkpoints" if is_pattern else "expected an existing file",
                where="command line",
                hint="a checkpoint, a run directory, a sweep's folder, or a pattern such as 'multirun/**/best.ckpt'",
            )
        found.update(dict.fromkeys(files))
    return sorted(found, key=natural)


def _meant(place: Path, *, alone: bool) -> list[Path]:
    if not place.is_dir():
        return [place]
    run = RunDirectory(place)
    if run.used() and (alone or run.best.exists()):
        return [run.best]  # named by itself, a run without one is told so when it is loaded
    return [file for file in place.rglob("best.ckpt") if FOLDER not in file.relative_to(place).parts]


def evaluate_all(cfg: DictConfig, run: Run, files: Sequence[Path]) -> None:
    """Judge every checkpoint in a folder of its own, then write the tables and the report.

    What cannot be judged is a row with its reason, and does not keep the others from being judged.

    Raises:
        NotAllEvaluated: after everything was written.
    """
    from brainlab.run.execute import execute

    labels = labels_of(files)
    words = [
        word for word in run.overrides if word.partition("=")[0].lstrip("+") not in ("checkpoint", "job.checkpoint")
    ]
    log.info("evaluating %d checkpoints", len(files))
    rows = []
    for number, (file, label) in enumerate(zip(files, labels, strict=True)):
        # Named by the file: where a pattern finds more the next time, everyone keeps what is known already.
        folder = run.path / FOLDER / hashlib.sha256(str(file).encode()).hexdigest()[:12]
        log.info("── checkpoint %d of %d: %s", number + 1, len(files), label)
        reason = None
        try:
            execute(_for_one(cfg, file), folder=folder, overrides=[*words, f"checkpoint={file}"])
        except (Exception, ConfigError) as error:
            if type(error).__name__ == "UncompletedJobError":  # the cluster's word that this process has to end
                raise
            reason = str(error).strip() or type(error).__name__
            if isinstance(error, ConfigError):  # those are said by whoever started the command; here that is us
                log.error("%s", reason)
        rows.append(_row(label, file, folder, reason))
    _conclude(cfg, run, rows)
    bad = [row["checkpoint"] for row in rows if row["state"] != "COMPLETED"]
    if bad:
        raise NotAllEvaluated(f"{len(bad)} of {len(rows)} checkpoints could not be evaluated: {', '.join(bad)}")


def labels_of(files: Sequence[Path]) -> list[str]:
    """The shortest names that tell the files apart, as paths below what they share.

    >>> labels_of([Path("/m/0/checkpoints/best.ckpt"), Path("/m/1/checkpoints/best.ckpt")])
    ['0', '1']
    >>> labels_of([Path("/m/a/best.ckpt"), Path("/m/a/last.ckpt")])
    ['best.ckpt', 'last.ckpt']
    """
    parts = [file.parts for file in files]
    if len(set(parts)) < 2:
        return [file.name for file in files]
    head = next(i for i, words in enumerate(zip(*parts, strict=False)) if len(set(words)) > 1)
    tail = next(i for i, words in enumerate(zip(*(reversed(p) for p in parts), strict=False)) if len(set(words)) > 1)
    shortest = min(len(part) for part in parts)
    tail = min(tail, shortest - head - 1)
    return ["/".join(part[head : len(part) - tail]) for part in parts]


def _for_one(cfg: DictConfig, file: Path) -> DictConfig:
    one: DictConfig = copy.deepcopy(cfg)
    with read_write(one), open_dict(one):
        one.checkpoint = str(file)
        one.job = {"_target_": "brainlab.run.evaluate.Evaluate", "checkpoint": str(file)}
        one.resume = "auto"
    return one


def _row(label: str, file: Path, folder: Path, reason: str | None) -> dict[str, Any]:
    run = RunDirectory(folder)
    # A folder of an earlier attempt may hold results that this attempt did not confirm.
    results = (read_json(run.results) or {}) if reason is None else {}
    headline = (results.get("metrics") or {}).get(results.get("headline") or "") or {}
    best = results.get("best") or {}
    return {
        "checkpoint": label,
        "state": "COMPLETED" if reason is None else "FAILED",
        "config": _stored(folder / EVALUATED),
        "data_source": results.get("data_source"),
        "epoch": best.get("epoch"),
        "step": best.get("step"),
        "headline": headline.get("name"),
        "value": headline.get("value"),
        **{name: headline.get(name) for name in _STATISTICS},
        "metrics": results.get("metrics") or {},
        "reason": reason,
        "report": str(run.report) if reason is None else None,
        "file": str(file),
    }


def _stored(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    content = OmegaConf.to_container(OmegaConf.load(path))
    leaves = flatten(content)
    return {
        key: value for key, value in leaves.items() if key == "seed" or (key.split(".")[0] in _GROUPS and matters(key))
    }


def _conclude(cfg: DictConfig, run: Run, rows: Sequence[dict[str, Any]]) -> None:
    from brainlab.run.report import write_report

    swept = differing_columns([row["config"] for row in rows if row["config"]])
    table, metrics = _wide(rows, swept), _long(rows)
    shown = _for_screen(table)
    tables = [(f"{len(rows)} checkpoints", shown)]
    run.directory.write("evaluate.csv", csv_text(table))
    if metrics:
        run.directory.write("evaluate_metrics.csv", csv_text(metrics))
    names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    summary = over_seeds(table, [key for key in swept if key != "seed"], names)
    if summary:
        run.directory.write("evaluate_summary.csv", csv_text(summary))
        tables.append(("Mean and sample standard deviation over seeds", summary))
    for title, content in tables:
        show(content, title)
    fingerprint = run.settle_fingerprint()
    sources = {row["data_source"] for row in rows} - {None}
    results = {
        "experiment": cfg.get("experiment_name"),
        "run_dir": str(run.path),
        "state": "COMPLETED" if all(row["state"] == "COMPLETED" for row in rows) else "FAILED",
        "data_source": "synthetic" if "synthetic" in sources else next(iter(sources), None),
        "fingerprint": fingerprint.value,
        "seed": cfg.get("seed"),
        "monitor": {"metric": cfg.monitor.metric, "mode": cfg.monitor.mode},
        "best": {},
        "headline": None,
        "metrics": {},
        "notes": [
            "low and high bound the 95 % interval of a checkpoint's headline metric",
            *(f"{row['checkpoint']}: {row['reason']}" for row in rows if row["reason"]),
        ],
        "details": {},
        "tables": [
            {
                "name": title,
                "caption": title,
                "header": list(content[0]),
                "rows": [["" if value is None else value for value in row.values()] for row in content],
            }
            for title, content in tables
        ],
        "figures": [],
        "checkpoints": table,
        "data": {},
        "wall_s": round(run.status.wall_s, 1),
        "attempts": run.attempt,
    }
    write_json(run.directory.results, results)
    write_report(run, results, {})
    source = "  [simulated data]" if results["data_source"] == "synthetic" else ""
    log.info("%s%s\nreport: %s", run.path / "evaluate.csv", source, run.directory.report)


def _wide(rows: Sequence[Mapping[str, Any]], swept: Sequence[str]) -> list[dict[str, Any]]:
    """One row per checkpoint: what it was trained with where that differs, its headline with what it is read against,
    then every other metric."""
    others = dict.fromkeys(name for row in rows for name in row["metrics"])
    table = []
    for row in rows:
        entry = {"checkpoint": row["checkpoint"], "state": row["state"]}
        entry |= {key: row["config"].get(key) for key in swept}
        entry |= {key: row[key] for key in ("data_source", "epoch", "step", "headline", "value", *_STATISTICS)}
        entry |= {name: row["metrics"].get(name, {}).get("value") for name in others}
        table.append({**entry, "reason": row["reason"], "report": row["report"], "file": row["file"]})
    return table


def _long(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per checkpoint and metric, each with its interval and references."""
    return [
        {
            "checkpoint": row["checkpoint"],
            "metric": name,
            "value": metric.get("value"),
            **{key: metric.get(key) for key in _STATISTICS},
            "unit": metric.get("unit"),
            "file": row["file"],
        }
        for row in rows
        for name, metric in row["metrics"].items()
    ]


def _for_screen(table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The columns up to the headline's references; a headline that all share names its column."""
    names = list(table[0])
    until = names.index("n") + 1
    headlines: Iterable[Any] = {row["headline"] for row in table} - {None}
    common = next(iter(headlines)) if len(set(headlines)) == 1 else None
    hidden = {"data_source", "step", *(("headline",) if common else ())}
    chosen = [name for name in names[:until] if name not in hidden and any(row[name] is not None for row in table)]
    return [{(common if name == "value" and common else name): row[name] for name in chosen} for row in table]
