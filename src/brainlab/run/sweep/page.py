"""``sweep.html``: one file that shows what a sweep found, how its jobs learned, and what went wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from brainlab.plot.svg import Axis, Mark, chart, colours, named_axis, numeric_axis
from brainlab.run.sweep.curves import Points, chosen
from brainlab.run.sweep.summary import SEED, Group, Spread, groups_of
from brainlab.run.sweep.table import Best, Entry, best_of, columns_of, counted

__all__ = ["render"]

_TEMPLATE = "sweep.html.jinja"
_MOST_COLOURS = 8
_MOST_CELLS = 12
_MOST_BARS = 40


def render(
    entries: Sequence[Entry],
    swept: Sequence[str],
    facts: Mapping[str, Any],
    *,
    curves: Mapping[int, Mapping[str, Points]] | None = None,
    figures: Sequence[Mapping[str, str]] = (),
) -> str:
    """The page as one self-contained text; everything that came from outside is escaped.

    Args:
        entries: the rows of the table.
        swept: the keys that set the jobs apart.
        facts: what ``sweep.json`` says of the sweep; ``folder`` and ``collect`` beside it.
        curves: (step, value) pairs by job and metric.
        figures: more figures: ``title``, ``caption`` and ``svg`` or ``png`` (base64).
    """
    from jinja2 import Environment, FileSystemLoader

    from brainlab.run.report import number

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = number
    metric, mode = str(facts.get("metric") or "score"), str(facts.get("mode") or "min")
    groups = groups_of(entries, swept)
    chosen_best = best_of(entries, metric, mode)
    best = None if chosen_best is None else chosen_best.entry
    painter = _Painter(entries, swept, metric)
    scored = any(metric in entry.metrics(metric) for entry in entries)
    states = [entry.row.state for entry in entries]
    return environment.get_template(_TEMPLATE).render(
        facts=facts,
        metric=metric,
        mode=mode,
        swept=list(swept),
        entries=entries,
        metrics=columns_of(entries, metric),
        best=best,
        best_report=_report_of(best),
        spread=None if chosen_best is None else chosen_best.spread,
        groups=_summary(groups, metric, mode) if SEED in swept else [],
        keys=[key for key in swept if key != SEED],
        counts=counted(states),
        ended=all(entry.row.ended for entry in entries),
        simulated=any(entry.found.data_source == "synthetic" for entry in entries),
        troubled=[entry for entry in entries if entry.row.state in ("FAILED", "LOST", "CANCELLED")],
        reports={entry.row.num: report for entry in entries if (report := _report_of(entry))},
        panels=painter.panels(chosen_best, groups) if scored else [],
        grid=_grid(groups, swept, metric, mode) if scored else None,
        curves=painter.curves(curves or {}, best),
        legend=painter.legend(),
        colour_key=painter.key,
        colour_of=painter.colour,
        figures=figures,
        written=datetime.now().astimezone().strftime("%-d %B %Y, %H:%M"),
    )


class _Painter:
    """One colour per value of the key that matters most to the eye, in every chart of the page."""

    def __init__(self, entries: Sequence[Entry], swept: Sequence[str], metric: str) -> None:
        self.entries, self.metric = entries, metric
        self.keys = [key for key in swept if key != SEED]
        self.key = self.keys[0] if self.keys else SEED if SEED in swept else None
        values = _sorted([entry.settings.get(self.key) for entry in entries]) if self.key else []
        ordered = _are_numbers(values) and self.key != SEED
        few = len(values) <= _MOST_COLOURS
        self._colours = colours(values, ordered=ordered) if few or ordered else {}
        self._few = few

    def colour(self, entry: Entry) -> str:
        return self._colours.get(str(entry.settings.get(str(self.key))), "#0072b2")

    def legend(self) -> list[tuple[str, str]]:
        """Colours and what they stand for; the ends alone where there are many."""
        every = [(colour, value) for value, colour in self._colours.items()]
        if len(every) < 2:
            return []
        return every if self._few else [every[0], every[len(every) // 2], every[-1]]

    def panels(self, best: Best | None, groups: Sequence[Group]) -> list[dict[str, str]]:
        """The metric against each swept key."""
        scores = [entry for entry in self.entries if _finite(entry.metrics(self.metric).get(self.metric))]
        keys = self.keys or ([SEED] if self.key == SEED else [])
        if not scores or not keys:
            return []
        values = [entry.metrics(self.metric)[self.metric] for entry in scores]
        y = numeric_axis(self.metric, values, margin=0.08)
        panels = []
        for key in keys:
            x = _axis(key, [entry.settings.get(key) for entry in self.entries])
            others = [other for other in self.keys if other != key]
            # With two keys each line is one value of the other key; with more there is no plane to draw lines in.
            paint = _paint(self.entries, others[0]) if len(others) == 1 else self.colour
            marks = self._means(key, others, groups, paint) if len(others) <= 1 else []
            marks += [
                Mark(
                    [(_number(entry.settings.get(key)), entry.metrics(self.metric)[self.metric])],
                    paint(entry),
                    title=_title(entry, self.metric),
                    job=entry.row.num,
                    line=False,
                    dots=True,
                )
                for entry in scores
            ]
            lone = best is not None and (key != SEED or best.spread.n == 1)  # a mean over seeds stands at none of them
            star = [(_number(best.entry.settings.get(key)), best.spread.mean)] if best is not None and lone else []
            panels.append({"title": f"{self.metric} against {key}", "svg": chart(marks, x, y, stars=star)})
        return panels

    def _means(
        self, key: str, others: Sequence[str], groups: Sequence[Group], paint: Callable[[Entry], str]
    ) -> list[Mark]:
        """Means over seeds joined along one key, a line for each value of the other."""
        lines: dict[str, list[tuple[Group, Spread]]] = {}
        order = _sorted([group.settings.get(key) for group in groups])
        for group in sorted(groups, key=lambda group: _rank(order, group.settings.get(key))):
            spread = group.spread(self.metric, self.metric)
            if spread is not None:
                lines.setdefault(" ".join(str(group.settings.get(other)) for other in others), []).append(
                    (group, spread)
                )
        seeds = any(spread.n > 1 for members in lines.values() for _, spread in members)
        few = 1 < len(lines) <= _MOST_COLOURS
        return [
            Mark(
                [(_number(group.settings.get(key)), spread.mean) for group, spread in members],
                paint(members[0][0].entries[0]) if others else "#8a94a3",
                title=" · ".join(part for part in (name, "mean ± sd over seeds" if seeds else "") if part),
                spread=[spread.sd for _, spread in members],
                label=name if few else "",
            )
            for name, members in lines.items()
        ]

    def curves(self, curves: Mapping[int, Mapping[str, Points]], best: Entry | None) -> list[dict[str, str]]:
        """One panel per metric with the curves of all jobs."""
        names = chosen((name for job in curves.values() for name in job), self.metric)
        panels = []
        for name in names:
            marks = [
                Mark(
                    points,
                    self.colour(entry),
                    title=_title(entry, self.metric),
                    job=entry.row.num,
                    strong=entry is best,
                )
                for entry in self.entries
                if (points := curves.get(entry.row.num, {}).get(name))
            ]
            if not any(len(mark.points) > 1 for mark in marks):
                continue
            values = [value for mark in marks for _, value in mark.points]
            x = numeric_axis(
                "optimiser step", [float(str(p[0])) for mark in marks for p in mark.points], log=False, margin=0
            )
            panels.append({"title": name, "svg": chart(marks, x, numeric_axis(name, values))})
        return panels


def _paint(entries: Sequence[Entry], key: str) -> Callable[[Entry], str]:
    """A colour for each value of one key."""
    values = _sorted([entry.settings.get(key) for entry in entries])
    table = colours(values, ordered=_are_numbers(values))
    return lambda entry: table.get(str(entry.settings.get(key)), "#0072b2")


def _rank(order: Sequence[str], value: Any) -> int:
    return order.index(str(value)) if str(value) in order else len(order)


def _summary(groups: Sequence[Group], metric: str, mode: str) -> list[dict[str, Any]]:
    """Groups with their mean and spread, the best first, and where they lie on a common scale."""
    rows = [(group, spread) for group in groups if (spread := group.spread(metric, metric)) is not None]
    rows.sort(key=lambda row: row[1].mean, reverse=mode == "max")
    rows = rows[:_MOST_BARS]
    if not rows:
        return []
    low = min(spread.mean - (spread.sd or 0.0) for _, spread in rows)
    high = max(spread.mean + (spread.sd or 0.0) for _, spread in rows)
    span = (high - low) or 1.0

    def place(value: float) -> float:
        return round(10 + 220 * (value - low) / span, 1)

    return [
        {
            "settings": group.settings,
            "spread": spread,
            "jobs": [entry.row.num for entry in group.entries],
            "n_all": len(group.entries),
            "at": place(spread.mean),
            "low": place(spread.mean - (spread.sd or 0.0)),
            "high": place(spread.mean + (spread.sd or 0.0)),
        }
        for group, spread in rows
    ]


def _grid(groups: Sequence[Group], swept: Sequence[str], metric: str, mode: str) -> dict[str, Any] | None:
    """Two swept keys as a table of means, shaded from worst to best."""
    keys = [key for key in swept if key != SEED]
    if len(keys) != 2:
        return None
    rows, columns = (_sorted([group.settings.get(key) for group in groups]) for key in keys)
    if not (1 < len(rows) <= _MOST_CELLS and 1 < len(columns) <= _MOST_CELLS):
        return None
    cells = {tuple(str(group.settings.get(key)) for key in keys): group for group in groups}
    means = {place: spread.mean for place, group in cells.items() if (spread := group.spread(metric, metric))}
    if len(means) < 3:
        return None
    low, high = min(means.values()), max(means.values())
    span = (high - low) or 1.0

    def shade(mean: float) -> float:
        share = (mean - low) / span
        return round(share if mode == "max" else 1 - share, 3)

    return {
        "rows": rows,
        "columns": columns,
        "row_key": keys[0],
        "column_key": keys[1],
        "cells": {f"{row}\n{column}": (means[row, column], shade(means[row, column])) for row, column in means},
    }


def _axis(key: str, values: Sequence[Any]) -> Axis:
    names = _sorted(values)
    if _are_numbers(names):
        numbers = [float(name) for name in names]
        axis = numeric_axis(key, numbers, margin=0.08)
        if len(names) <= 7:  # what was tried says more than round numbers
            return Axis(
                key, axis.place, [(axis.place(number), name) for number, name in zip(numbers, names, strict=True)]
            )
        return axis
    return named_axis(key, names)


def _sorted(values: Sequence[Any]) -> list[str]:
    """Distinct values as texts, numbers by size, others in their order of appearance."""
    names = list(dict.fromkeys(str(value) for value in values if value is not None))
    return sorted(names, key=float) if _are_numbers(names) else names


def _are_numbers(values: Sequence[Any]) -> bool:
    try:
        return bool(values) and all(math.isfinite(float(value)) for value in values)
    except ValueError:
        return False


def _number(value: Any) -> Any:
    return value if value is not None else "nan"


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _title(entry: Entry, metric: str) -> str:
    settings = ", ".join(f"{key}={value}" for key, value in entry.settings.items() if value is not None)
    score = entry.metrics(metric).get(metric)
    parts = [f"job {entry.row.num}", settings, entry.row.state.lower() if score is None else f"{metric} {score:.4g}"]
    return " · ".join(part for part in parts if part)


def _report_of(entry: Entry | None) -> str | None:
    """The job's own report, beside this page."""
    if entry is None or not (Path(entry.row.run_dir) / "report.html").exists():
        return None
    return f"{Path(entry.row.run_dir).name}/report.html"
