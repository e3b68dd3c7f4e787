"""Stretches of recordings that windows may come from: rows (session, start, stop) in samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

__all__ = ["bad_spans", "inside", "usable_segments", "without"]


def bad_spans(session: Any) -> list[tuple[int, int]]:
    """[start, stop) of what no window may touch, sorted; a boundary is a span of no length that none may cross."""
    spans = []
    for event in session.events:
        words = str(event.get("description", "")).lower()
        if words.startswith(("bad", "edge", "boundary")):
            length = event.get("duration_s", 0.0) * session.sfreq_hz if words.startswith("bad") else 0.0
            spans.append((event["sample"], event["sample"] + math.ceil(length)))
    return sorted(spans)


def usable_segments(session: Any) -> list[tuple[int, int]]:
    """The runs of a session that cleaning has left, in order; all of it where nothing was cleaned."""
    segments = session.attrs.get("segments")
    if segments is None:
        return [(0, session.n_samples)]
    return sorted((int(start), int(stop)) for start, stop in segments)


def without(
    rows: Int[np.ndarray, "stretch 3"], bad: Sequence[Sequence[tuple[int, int]]]
) -> Int[np.ndarray, "stretch 3"]:
    """Rows (session, start, stop) cut around the bad spans of their session.

    >>> without(np.array([[0, 0, 100], [1, 0, 50]]), [[(10, 20), (15, 18), (60, 60), (90, 200)], []]).tolist()
    [[0, 0, 10], [0, 20, 60], [0, 60, 90], [1, 0, 50]]
    """
    kept = []
    for session, start, stop in rows.tolist():
        for first, last in bad[session]:
            if start < first:
                kept.append((session, start, min(first, stop)))
            start = max(start, last)
            if start >= stop:
                break
        if start < stop:
            kept.append((session, start, stop))
    return np.array([row for row in kept if row[1] < row[2]], dtype=np.int64).reshape(-1, 3)


def inside(
    blocks: Sequence[Sequence[tuple[int, int]]], segments: Sequence[Sequence[tuple[int, int]]]
) -> Int[np.ndarray, "stretch 3"]:
    """Where the blocks of every session overlap its usable segments.

    >>> inside([[(0, 50)], []], [[(10, 30), (40, 90)], [(0, 9)]]).tolist()
    [[0, 10, 30], [0, 40, 50]]
    """
    rows = [
        (session, max(start, first), min(stop, last))
        for session, (own, usable) in enumerate(zip(blocks, segments, strict=True))
        for start, stop in own
        for first, last in usable
        if max(start, first) < min(stop, last)
    ]
    return np.array(sorted(rows), dtype=np.int64).reshape(-1, 3)
