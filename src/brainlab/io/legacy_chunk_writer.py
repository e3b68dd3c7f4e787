"""Writes pickled chunks, as :mod:`brainlab.io.legacy_chunk_reader` describes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from brainlab.errors import InvalidValue, ShapeMismatch

__all__ = ["write_chunks"]


def write_chunks(
    folder: Path | str,
    data: Float[np.ndarray, "channel time"],
    sfreq_hz: float,
    ch_names: Sequence[str],
    ch_types: Sequence[Any],
    pos_2d: Float[np.ndarray, "channel 2"],
    *,
    session: str | None = None,
    chunk_s: float = 60.0,
    bad_channels: Sequence[str] | None = None,
    events: Int[np.ndarray, " time"] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write one session as pickled chunks, for programs that read nothing else.

    Args:
        folder: ``<root>/<session>``.
        chunk_s: length of a chunk, cut down to whole samples; the remainder is a last, shorter chunk.
        bad_channels: rows written as zeros; named in the chunk where given.
        events: codes, appended as the last row of ``data``.
        extra: further entries, such as ``pos_3d`` and ``ori_3d``.

    Raises:
        InvalidValue: if a chunk would be empty or a bad channel is unknown.
        ShapeMismatch: if names, positions or events do not fit the data.
    """
    folder, rows = Path(folder), np.array(data, dtype=np.float64)
    length = int(sfreq_hz * chunk_s)
    if length < 1:
        raise InvalidValue("chunk_s", chunk_s, f"expected at least one sample at {sfreq_hz:g} Hz")
    if rows.ndim != 2 or not len(rows) == len(ch_names) == len(ch_types) == len(pos_2d):
        raise ShapeMismatch("data", rows.shape, f"expected (channel, time) with {len(ch_names)} named channels")
    for name in bad_channels or ():
        if name not in ch_names:
            raise InvalidValue("bad_channels", name, f"expected one of {', '.join(ch_names)}")
        rows[list(ch_names).index(name)] = 0.0
    if events is not None:
        if np.shape(events) != (rows.shape[1],):
            raise ShapeMismatch("events", np.shape(events), f"expected one code for each of {rows.shape[1]} samples")
        rows = np.vstack([rows, np.asarray(events, dtype=np.float64)[None]])
    entries = {"ch_names": list(ch_names), "ch_types": list(ch_types), "pos_2d": np.asarray(pos_2d, dtype=np.float64)}
    entries |= {"session": folder.name if session is None else session, "sfreq": float(sfreq_hz)}
    entries |= {} if bad_channels is None else {"bad_channels": list(bad_channels)}
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number, start in enumerate(range(0, rows.shape[1], length)):
        content = {"data": np.ascontiguousarray(rows[:, start : start + length]), **entries, **dict(extra or {})}
        box = np.empty((), dtype=object)
        box[()] = content
        written.append(folder / f"{number}.npy")
        np.save(written[-1], box, allow_pickle=True)
    return written
