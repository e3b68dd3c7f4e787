"""``report.html``: one file that shows what a run found, against what, on which data, and how to repeat it."""

from __future__ import annotations

import base64
import json
import logging
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from brainlab.run.context import Run
from brainlab.run.directory import is_rank_zero, jsonable

__all__ = ["render", "write_report"]

log = logging.getLogger(__name__)

_TEMPLATE = "report.html.jinja"
_REFERENCES = ("chance", "control", "ceiling", "n")
_LEFT, _RIGHT = 20.0, 620.0
_WIDE_RATIO = 1.7


def write_report(
    run: Run, results: Mapping[str, Any], curves: Mapping[str, Sequence[tuple[int, float]]]
) -> Path | None:
    """Write the report of a run beside its results; ranks other than 0 write nothing.

    Args:
        run: the run; its directory holds the figures that ``results`` names.
        results: the content of ``results.json``.
        curves: logged (step, value) pairs by metric.
    """
    if not is_rank_zero():
        return None
    from brainlab.plot.training import plot_training_curves

    training = plot_training_curves(curves, run.directory.figures / "training.png") if curves else None
    config = run.directory.resolved.read_text(encoding="utf-8")
    command = (run.path / "cmd.txt").read_text(encoding="utf-8").strip() if (run.path / "cmd.txt").exists() else ""
    run.directory.write(
        "report.html", render(results, run.path, training=training, config=config, command=command, facts=run.facts)
    )
    return run.directory.report


def render(
    results: Mapping[str, Any],
    folder: Path,
    *,
    training: Path | None = None,
    config: str = "",
    command: str = "",
    facts: Mapping[str, Any] | None = None,
) -> str:
    """The report as one self-contained HTML text; everything that came from outside is escaped.

    Args:
        results: the content of ``results.json``.
        folder: what the figures' file names are relative to.
        training: PNG of the training curves.
        config: text of ``resolved.yaml``.
        command: the command line of the run.
        facts: the content of ``env.json``.
    """
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = number
    environment.filters["cell"] = lambda value: number(value) if isinstance(value, float) else value
    results = {"attempts": 1, "tables": [], "notes": [], "seed": None, "best": {}, **jsonable(results)}
    metrics = [_complete(metric) for metric in (results.get("metrics") or {}).values()]
    headline = next((metric for metric in metrics if metric["name"] == results.get("headline")), None)
    return environment.get_template(_TEMPLATE).render(
        title=results.get("experiment") or "brainlab run",
        results=results,
        best={"score": None, "epoch": None, "step": None, **(results.get("best") or {})},
        finished=datetime.now().astimezone().strftime("%-d %B %Y, %H:%M"),
        wall=_span(results.get("wall_s")),
        headline=headline,
        scale=_scale(headline) if headline else None,
        metrics=metrics,
        columns=[name for name in _REFERENCES if any(metric[name] is not None for metric in metrics)],
        figures=[picture for figure in results.get("figures") or [] if (picture := _picture(figure, folder))],
        training=_base64(training) if training is not None and training.exists() else None,
        data_facts=[(key, _fact(value)) for key, value in _short(results.get("data") or {}) if not _long(value)],
        data_lists=[
            (key, json.dumps(value, indent=1, ensure_ascii=False))
            for key, value in _short(results.get("data") or {})
            if _long(value)
        ],
        provenance=_provenance(results, facts or {}),
        versions=sorted(((facts or {}).get("versions") or {}).items()),
        config=config,
        command=command,
        details=json.dumps(results["details"], indent=1, ensure_ascii=False) if results.get("details") else "",
    )


def number(value: Any) -> str:
    """A number as people read it: four digits that count, no exponent where it can be avoided.

    >>> number(0.123456), number(1234), number(0.00001234), number(25), number(None)
    ('0.1235', '1,234', '1.23e-05', '25', '–')
    """
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    size = abs(value)
    if size < 1e-3 or size >= 1e6:
        return f"{value:.3g}"
    return f"{value:,.1f}" if size >= 1000 else f"{value:.4g}"


def _complete(metric: Mapping[str, Any]) -> dict[str, Any]:
    empty = dict.fromkeys(("low", "high", "chance", "control", "ceiling", "n", "value"))
    return {**empty, "unit": "", "note": "", "better": "higher", **metric}


def _scale(metric: Mapping[str, Any]) -> dict[str, Any] | None:
    """Where value, interval and references stand on a line, in the picture's own units."""
    references = [(name, metric[name]) for name in ("chance", "control", "ceiling") if metric[name] is not None]
    known = [value for value in (metric["value"], metric["low"], metric["high"]) if value is not None]
    known += [value for _, value in references]
    if len(known) < 2 or metric["value"] is None:
        return None
    low, high = min(known), max(known)
    if low >= 0 and low < 0.25 * high:
        low = 0.0  # shares and errors are read from zero
    span = (high - low) or 1.0

    def place(value: float) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * (value - low) / span, 1)

    y, marks = 40, []
    # Where small is good, the ceiling lies left of chance: the scale says which way to read it.
    better = (
        {"text": "← better", "x": _LEFT, "anchor": "start", "y": 14}
        if metric["better"] == "lower"
        else {"text": "better →", "x": _RIGHT, "anchor": "end", "y": 14}
    )
    for row, (name, value) in enumerate(references):
        x = place(value)
        anchor = "start" if x < 200 else "end" if x > 440 else "middle"
        marks.append({"name": name, "value": value, "x": x, "text_x": x, "anchor": anchor, "y": y + 38 + 22 * row})
    return {
        "y": y,
        "height": y + 34 + 22 * max(len(references), 0),
        "value": place(metric["value"]),
        "low": None if metric["low"] is None or metric["high"] is None else place(metric["low"]),
        "high": None if metric["low"] is None or metric["high"] is None else place(metric["high"]),
        "marks": marks,
        "better": better,
    }


def _picture(figure: Mapping[str, Any], folder: Path) -> dict[str, Any] | None:
    path = folder / str(figure["file"])
    if not path.exists():
        log.warning("The figure %s is missing", path)
        return None
    raw = path.read_bytes()
    width, height = int.from_bytes(raw[16:20], "big"), int.from_bytes(raw[20:24], "big")  # PNG header (IHDR)
    return {
        "data": base64.b64encode(raw).decode("ascii"),
        "caption": figure.get("caption") or figure.get("name"),
        "wide": width > _WIDE_RATIO * max(height, 1),
    }


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")


def _short(facts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Facts by the words that lead to them, inner lists in one cell; names of recordings and files stay whole."""
    found: list[tuple[str, Any]] = []
    for key, value in facts.items():
        name = str(key).replace("_", " ") if str(key).isidentifier() else str(key)
        if isinstance(value, Mapping) and value:
            inner = _short(value)
            found += [(f"{name} · {rest}", _fact(leaf) if isinstance(leaf, list) else leaf) for rest, leaf in inner]
        else:
            found.append((name, value))
    return found


def _long(value: Any) -> bool:
    """Whether a fact is a list of records, which belongs folded under the table."""
    return isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value)


def _fact(value: Any) -> Any:
    if value is None:
        return "–"
    if isinstance(value, list):
        return ", ".join(str(_fact(item)) for item in value)
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _provenance(results: Mapping[str, Any], facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    code, machine = facts.get("code") or {}, facts.get("machine") or {}
    rows = [
        ("fingerprint", results.get("fingerprint")),
        ("data source", results.get("data_source")),
        ("checkpoint", (results.get("best") or {}).get("checkpoint")),
        (
            "code",
            f"{code.get('git_sha')}{' (changed: see code.diff)' if code.get('git_dirty') else ''}"
            if code.get("git_sha")
            else None,
        ),
        ("rerun of", facts.get("rerun_of")),
        ("host", machine.get("host")),
        ("system", machine.get("platform")),
        ("processor", f"{machine.get('cpu')} ({machine.get('cpu_count')} cores)" if machine.get("cpu") else None),
        ("memory", f"{machine['memory_gib']} GiB" if machine.get("memory_gib") else None),
        ("GPU", ", ".join(machine.get("gpus") or []) or None),
    ]
    return [(name, str(value)) for name, value in rows if value]


def _span(seconds: Any) -> str:
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
