"""Dense condition codes: which condition holds at every sample, from a table of events, trigger codes or annotations.

0 means no condition. Where ranges overlap, the later one wins. Onsets and durations are seconds from the first sample.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int16

from brainlab.errors import InvalidFile, InvalidValue
from brainlab.io.recording import Annotation, Event

__all__ = ["Row", "dense", "fits", "from_annotations", "from_events", "from_table", "read_table"]

Row = tuple[float, float, int]
"""Onset in s, duration in s (NaN or 0: until the next onset), code."""

_MISSING = ("", "n/a", "na", "nan", "none", "null")
_LARGEST = np.iinfo(np.int16).max


def dense(rows: Sequence[Row], n_samples: int, sfreq_hz: float) -> Int16[np.ndarray, " time"]:
    """One code per sample.

    A range starts at round(onset · rate) and is round(duration · rate) samples long, at least one; without a duration
    it lasts until the next onset, the last one for one sample. What lies outside the recording is cut off.

    Args:
        rows: onset, duration and code; in any order.
        n_samples: length of the recording.
        sfreq_hz: its rate.

    >>> dense([(0.2, 0.0, 3), (0.5, 0.2, 7)], 10, 10.0).tolist()
    [0, 0, 3, 3, 3, 7, 7, 0, 0, 0]
    """
    codes = np.zeros(n_samples, np.int16)
    ordered = sorted(rows, key=lambda row: row[0])
    onsets = [round(onset * sfreq_hz) for onset, _, _ in ordered]
    for number, (_, duration_s, code) in enumerate(ordered):
        start = onsets[number]
        if math.isfinite(duration_s) and duration_s > 0:
            stop = start + round(duration_s * sfreq_hz)
        else:
            stop = onsets[number + 1] if number + 1 < len(onsets) else start + 1
        stop = max(stop, start + 1)
        codes[max(start, 0) : max(min(stop, n_samples), 0)] = _int16(code)
    return codes


def from_events(events: Sequence[Event], raw_sfreq_hz: float) -> list[Row]:
    """Every trigger code until the next one; samples count from the first one at the rate of the file."""
    return [(event.sample / raw_sfreq_hz, math.nan, event.code) for event in events]


def from_annotations(annotations: Sequence[Annotation]) -> list[Row]:
    """Marked stretches, numbered 1 … K in the alphabetical order of their names; bad… and edge… marks are none."""
    kept = [mark for mark in annotations if not mark.description.lower().startswith(("bad", "edge", "boundary"))]
    number = {name: k + 1 for k, name in enumerate(sorted({mark.description for mark in kept}))}
    return [(mark.onset_s, mark.duration_s, number[mark.description]) for mark in kept]


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a BIDS ``_events.tsv``, as written.

    Raises:
        InvalidFile: if it is no table with a column ``onset``.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidFile("events", path, f"expected a readable table ({type(error).__name__})") from error
    reader = csv.DictReader(text.splitlines(), delimiter="\t")
    rows = [{str(key).strip(): (value or "").strip() for key, value in row.items() if key} for row in reader]
    if "onset" not in [name.strip() for name in reader.fieldnames or ()]:
        raise InvalidFile("events", path, "expected tab-separated columns, one of them named onset")
    return rows


def from_table(rows: Sequence[dict[str, str]]) -> list[Row]:
    """Ranges and codes of an events table.

    Codes come from ``value`` where it holds numbers (gaps take the value above, at the top the value below), else from
    ``trial_type`` (1 … K in alphabetical order; 0 where it is missing), else they are the number of the row. Rows
    without an onset are no events.
    """
    timed = [row for row in rows if math.isfinite(_number(row.get("onset", "")))]
    return [
        (_number(row["onset"]), _number(row.get("duration", "")), code)
        for row, code in zip(timed, _codes(timed), strict=True)
    ]


def _codes(rows: Sequence[dict[str, str]]) -> list[int]:
    values = [_number(row.get("value", "")) for row in rows]
    known = [value for value in values if math.isfinite(value)]
    if known:
        codes, last = [], known[0]
        for value in values:
            last = value if math.isfinite(value) else last
            codes.append(_whole(last))
        return codes
    types = [row.get("trial_type", "") for row in rows]
    names = sorted({name for name in types if name.lower() not in _MISSING})
    if names:
        number = {name: k + 1 for k, name in enumerate(names)}
        return [number.get(name, 0) for name in types]
    return list(range(1, len(rows) + 1))


def _number(text: str) -> float:
    """NaN for everything that is no finite number."""
    if text.lower() in _MISSING:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _whole(value: float) -> int:
    if value != round(value):
        raise InvalidValue("value", value, "expected whole numbers as condition codes in its table of events")
    return int(value)


def fits(code: int) -> bool:
    """Whether 16 bits hold a code."""
    return -_LARGEST - 1 <= code <= _LARGEST


def _int16(code: int) -> int:
    if not fits(code):
        raise InvalidValue("code", code, f"expected condition codes up to {_LARGEST}, which 16 bits hold")
    return code
