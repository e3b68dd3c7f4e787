"""Charts as SVG text for pages that a browser opens: light enough to be drawn again each time a job ends.

Every mark may carry the number of the job it shows (``data-job``), so that a page can light up all marks of one job.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

__all__ = ["Axis", "Mark", "chart", "colours", "named_axis", "numeric_axis", "short", "ticks_of"]

# Okabe and Ito (2008), without the yellow that is too light for lines on white.
_DISTINCT = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666", "#7b3294")
# Viridis without its palest end, which is lost on white.
_ORDERED = ((68, 1, 84), (62, 74, 137), (38, 130, 142), (53, 183, 121), (160, 205, 50))
_WIDTH, _HEIGHT = 520.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 14.0, 14.0, 46.0
_LETTER, _LINE = 6.8, 14.0
_LONGEST_LABEL = 14
_WIDE_RATIO = 60.0


@dataclass(frozen=True)
class Axis:
    """A label, and where values lie between 0 and 1."""

    label: str
    place: Callable[[object], float]
    ticks: list[tuple[float, str]]
    """Position and text."""


@dataclass(frozen=True)
class Mark:
    """A line through points, or dots where there is no line."""

    points: Sequence[tuple[object, float]]
    colour: str
    title: str = ""
    job: int | None = None
    line: bool = True
    dots: bool = False
    strong: bool = False
    spread: Sequence[float | None] = field(default_factory=tuple)
    """Half the length of a bar at each point."""
    label: str = ""
    """What stands at the end of the line."""


def numeric_axis(label: str, values: Sequence[float], *, log: bool | None = None, margin: float = 0.05) -> Axis:
    """An axis over numbers; logarithmic where that is asked for, or where they span more than a factor of sixty."""
    known = [float(value) for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(known), max(known)
    if log is None:
        log = low > 0 and high / low > _WIDE_RATIO
    if log and low <= 0:
        log = False
    turn = math.log10 if log else float
    a, b = turn(low), turn(high)
    if a == b:
        a, b = (a - 0.5, b + 0.5) if log or a == 0 else (a - abs(a) / 2, b + abs(b) / 2)
    pad = (b - a) * margin
    a, b = a - pad, b + pad

    def place(value: object) -> float:
        number = float(value)  # type: ignore[arg-type]
        if not math.isfinite(number) or (log and number <= 0):
            return math.nan
        return (turn(number) - a) / (b - a)

    marks = _log_ticks(a, b) if log else ticks_of(a, b)
    return Axis(label, place, [(place(mark), short(mark)) for mark in marks])


def named_axis(label: str, names: Sequence[str]) -> Axis:
    """An axis over names, in their order."""
    order = {name: (index + 0.5) / len(names) for index, name in enumerate(names)}
    return Axis(label, lambda value: order.get(str(value), math.nan), [(x, name) for name, x in order.items()])


def ticks_of(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between two values.

    >>> ticks_of(0, 1)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    span = high - low
    if not span > 0:
        return [low]
    rough = span / (most - 1)
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(step for step in (size, 2 * size, 2.5 * size, 5 * size, 10 * size) if step >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = [10.0**power for power in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)]
    if len(decades) >= 3:
        return decades[:: max(1, len(decades) // 6)]
    first = math.floor(low)
    fine = [base * 10.0**power for power in range(first, math.ceil(high) + 1) for base in (1, 2, 5)]
    return [mark for mark in fine if low <= math.log10(mark) <= high]


def short(value: float) -> str:
    """A number for an axis.

    >>> short(0.0001), short(0.3), short(1200.0), short(250000.0)
    ('1e-4', '0.3', '1200', '2.5e5')
    """
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.6g}"
    digits, _, power = f"{value:.2e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"


def colours(values: Sequence[object], *, ordered: bool) -> dict[str, str]:
    """A colour for each value: a sequence of dark to light where they have an order, distinct ones otherwise."""
    names = list(dict.fromkeys(map(str, values)))
    if not ordered:
        return {name: _DISTINCT[index % len(_DISTINCT)] for index, name in enumerate(names)}
    return {name: _between(index / max(1, len(names) - 1)) for index, name in enumerate(names)}


def _between(share: float) -> str:
    at = share * (len(_ORDERED) - 1)
    index = min(int(at), len(_ORDERED) - 2)
    rest = at - index
    mixed = (a + (b - a) * rest for a, b in zip(_ORDERED[index], _ORDERED[index + 1], strict=True))
    return "#" + "".join(f"{round(part):02x}" for part in mixed)


def chart(marks: Sequence[Mark], x: Axis, y: Axis, *, stars: Sequence[tuple[object, float]] = ()) -> str:
    """One panel.

    Args:
        marks: drawn in order; strong ones last.
        x: the axis below.
        y: the axis on the left.
        stars: points to mark, e.g. the best one.
    """
    labels = max((min(len(mark.label), _LONGEST_LABEL) for mark in marks), default=0)
    right = _RIGHT + (labels * _LETTER + 10 if labels else 0)
    across, down = _WIDTH - _LEFT - right, _HEIGHT - _TOP - _BOTTOM

    def at(point: tuple[object, float]) -> tuple[float, float]:
        return _LEFT + across * x.place(point[0]), _TOP + down * (1 - y.place(point[1]))

    parts = [f'<svg class="chart" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{escape(y.label)}">']
    for share, text in y.ticks:
        height = _TOP + down * (1 - share)
        parts.append(f'<line class="grid" x1="{_LEFT:g}" x2="{_WIDTH - right:g}" y1="{height:.1f}" y2="{height:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8:g}" y="{height + 4:.1f}" text-anchor="end">{escape(text)}</text>')
    bottom = _HEIGHT - _BOTTOM
    parts.append(f'<line class="axis" x1="{_LEFT:g}" x2="{_WIDTH - right:g}" y1="{bottom:g}" y2="{bottom:g}"/>')
    for share, text in _thinned(x.ticks, across):
        place = _LEFT + across * share
        parts.append(f'<line class="axis" x1="{place:.1f}" x2="{place:.1f}" y1="{bottom:g}" y2="{bottom + 5:g}"/>')
        parts.append(f'<text x="{place:.1f}" y="{bottom + 19:g}" text-anchor="middle">{escape(text)}</text>')
    middle = _LEFT + across / 2
    parts.append(
        f'<text class="label" x="{middle:g}" y="{_HEIGHT - 6:g}" text-anchor="middle">{escape(x.label)}</text>'
    )
    for mark in sorted(marks, key=lambda each: each.strong):
        parts.append(_drawn(mark, at))
    ends = [(at(mark.points[-1]), mark) for mark in marks if mark.label and mark.points]
    lowest = 0.0
    for (_, height), mark in sorted((end for end in ends if math.isfinite(end[0][1])), key=lambda end: end[0][1]):
        lowest = max(height + 4, lowest + _LINE)  # labels of lines that end together stand below one another
        text = mark.label if len(mark.label) <= _LONGEST_LABEL else mark.label[: _LONGEST_LABEL - 1] + "…"
        parts.append(
            f'<text x="{_WIDTH - right + 8:g}" y="{lowest:.1f}" style="fill: {mark.colour}">{escape(text)}</text>'
        )
    for star in stars:
        place, height = at(star)
        if math.isfinite(place) and math.isfinite(height):
            parts.append(f'<circle class="star" cx="{place:.1f}" cy="{height:.1f}" r="9"><title>best</title></circle>')
    return "".join([*parts, "</svg>"])


def _drawn(mark: Mark, at: Callable[[tuple[object, float]], tuple[float, float]]) -> str:
    placed = [at(point) for point in mark.points]
    seen = [point for point in placed if all(map(math.isfinite, point))]
    if not seen:
        return ""
    job = "" if mark.job is None else f' data-job="{mark.job}"'
    strong = " strong" if mark.strong else ""
    parts = [f'<g class="mark{strong}"{job} style="--c: {mark.colour}">']
    if mark.title:
        parts.append(f"<title>{escape(mark.title)}</title>")
    for point, spread in zip(mark.points, mark.spread, strict=False):
        if spread:
            (across, low), (_, high) = at((point[0], point[1] - spread)), at((point[0], point[1] + spread))
            if all(map(math.isfinite, (across, low, high))):
                parts.append(
                    f'<path class="bar" d="M{across:.1f} {low:.1f}V{high:.1f}M{across - 5:.1f} {low:.1f}h10'
                    f'M{across - 5:.1f} {high:.1f}h10"/>'
                )
    if mark.line and len(seen) > 1:
        path = "L".join(f"{across:.1f} {down:.1f}" for across, down in seen)
        parts.append(f'<path class="hit" d="M{path}"/><path class="line" d="M{path}"/>')
    if mark.dots or len(seen) == 1:
        parts += [f'<circle class="dot" cx="{across:.1f}" cy="{down:.1f}" r="4.5"/>' for across, down in seen]
    return "".join([*parts, "</g>"])


def _thinned(ticks: Sequence[tuple[float, str]], width: float) -> list[tuple[float, str]]:
    """As many ticks as there is room for their texts."""
    longest = max((len(text) for _, text in ticks), default=1)
    room = max(1, int(width / (longest * 7.5 + 12)))
    if len(ticks) <= room:
        return [(share, text) for share, text in ticks if -0.001 <= share <= 1.001]
    return list(ticks[:: math.ceil(len(ticks) / room)])
