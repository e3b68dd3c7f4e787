"""Reads old trees of pickled chunks, ``<root>/<session>/<i>.npy``, and runs nothing of them.

A chunk is a dictionary saved with ``np.save``: ``data`` (channel [+ one row of event codes], time) float64 or mu-law
codes, ``ch_names``, ``ch_types``, ``pos_2d``, ``session``, ``sfreq`` and optionally ``pos_3d``, ``ori_3d``,
``bad_channels`` and how it was quantised. Pickles are read by :mod:`brainlab.io.safe_pickle`, which builds arrays and
plain containers. Chunks need not adjoin in time, so that no window may cross from one to the next: each becomes a
segment of its session.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from brainlab.errors import InvalidFile
from brainlab.io.recording import Channel, Recording
from brainlab.io.safe_pickle import load_npy

__all__ = ["LOST_SCALE", "ChunkSession", "chunk_folders", "read_chunk_session", "read_chunk_tree"]

_IGNORED = ("events", "session_")
_NEEDED = ("data", "ch_names", "ch_types", "sfreq")
_KNOWN = (*_NEEDED, "pos_2d", "pos_3d", "ori_3d", "session", "bad_channels")
# Numbers are FIFF's channel kinds; they do not tell gradiometers from magnetometers.
_BY_NUMBER = {1: "mag", 2: "eeg", 3: "stim", 202: "eog", 301: "ref_meg", 302: "emg", 402: "ecg", 502: "misc"}
# Names that tell the helmet; Vectorview's end in 1 for a magnetometer, in 2 and 3 for the planar gradiometers there.
_VECTORVIEW = re.compile(r"MEG ?\d{3}([123])")
_CTF = re.compile(r"M[LRZ][CFOPT]\d{2}(-\w+)?")
_SCALES = ("mulaw_scale", "max_abs")
LOST_SCALE = "the scale of its mu-law codes is not in its chunks: samples are between -1 and 1 and have no unit"
_DEEPEST = 8
# Beyond any unit of a brain's signal: what a damaged file, or one of another kind, holds.
_LARGEST = 1e10


@dataclass(frozen=True)
class ChunkSession:
    """The chunks of one session, read one at a time when asked for.

    ``starts`` are the first samples of the chunks and the length of all; ``facts`` is what else the chunks say,
    JSON-ready; ``has_events`` tells whether a last row of event codes follows the channels.
    """

    name: str
    files: tuple[Path, ...]
    starts: tuple[int, ...]
    sfreq_hz: float
    channels: tuple[Channel, ...]
    has_events: bool
    bads: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def n_samples(self) -> int:
        """Samples of all chunks together."""
        return self.starts[-1]

    @property
    def system(self) -> str:
        """The sensor system, where the names of all magnetic sensors tell it; else empty."""
        names = [channel.name for channel in self.channels if channel.kind in ("mag", "grad")]
        known = (("ctf275", _CTF), ("vectorview306", _VECTORVIEW))
        return next((system for system, pattern in known if names and all(map(pattern.fullmatch, names))), "")

    @property
    def segments(self) -> list[list[int]]:
        """First sample and end of every chunk."""
        return [[start, stop] for start, stop in zip(self.starts, self.starts[1:], strict=False)]

    def read(self, start: int, stop: int) -> Float[np.ndarray, "channel time"]:
        """Samples ``start`` to ``stop`` (excluded), in the chunks' own unit; codes whose scale is lost in [-1, 1].

        Raises:
            InvalidFile: if a chunk cannot be read safely.
        """
        pieces = [self._decoded(rows, path)[: len(self.channels)] for rows, path, _ in self._pieces(start, stop)]
        return np.concatenate(pieces, axis=1) if pieces else np.zeros((len(self.channels), 0))

    def conditions(self) -> list[list[int]]:
        """Stretches of one non-zero event code, [start, stop, code]; a code that lasts over a border is one stretch."""
        if not self.has_events:
            return []
        codes = np.concatenate([_codes(rows[-1], path) for rows, path, _ in self._pieces(0, self.n_samples)])
        edges = np.flatnonzero(np.diff(codes)) + 1
        starts, stops = [0, *edges.tolist()], [*edges.tolist(), len(codes)]
        return [[a, b, int(codes[a])] for a, b in zip(starts, stops, strict=True) if b > a and codes[a]]

    def recording(self) -> Recording:
        """The same as a recording that is read in pieces; its unit is that of the chunks."""
        return Recording(
            read=lambda picks, start, stop: self._checked(start, stop)[list(picks)],
            n_samples=self.n_samples,
            sfreq_hz=self.sfreq_hz,
            channels=self.channels,
            provenance={"file": str(self.files[0].parent), "reader": "chunks", "notes": list(self.notes)},
        )

    def _checked(self, start: int, stop: int) -> np.ndarray:
        """Samples that can be stored; the sentence about others names the chunk."""
        pieces = [np.zeros((len(self.channels), 0))]
        for rows, path, first in self._pieces(start, stop):
            piece = self._decoded(rows, path)[: len(self.channels)]
            wrong = ~(np.abs(piece) < _LARGEST)  # also what is no number
            if wrong.any():
                row, column = np.argwhere(wrong)[0].tolist()
                raise InvalidFile(
                    "chunk", path,
                    f"expected finite numbers below {_LARGEST:g}, found {piece[row, column]:g} (channel"
                    f" {self.channels[row].name}, sample {max(start - first, 0) + column})",
                )  # fmt: skip
            pieces.append(piece)
        return np.concatenate(pieces, axis=1)

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[np.ndarray, Path, int]]:
        for path, first, end in zip(self.files, self.starts, self.starts[1:], strict=False):
            if first < stop and start < end:
                rows = np.asarray(_load(path)["data"])
                if rows.shape != (len(self.channels) + self.has_events, end - first):
                    raise InvalidFile("chunk", path, f"expected the shape it had before, found {rows.shape}")
                yield rows[:, max(start - first, 0) : stop - first], path, first

    def _decoded(self, rows: np.ndarray, path: Path) -> np.ndarray:
        if rows.dtype.kind == "f":
            return rows
        mu, scale = self.facts.get("mulaw_mu"), _scale(self.facts)
        if not mu:
            raise InvalidFile("chunk", path, f"expected samples or mu-law codes with mulaw_mu, found {rows.dtype}")
        y = 2.0 * rows / float(mu) - 1.0
        return np.sign(y) * ((1.0 + float(mu)) ** np.abs(y) - 1.0) / float(mu) * (1.0 if scale is None else scale)


def read_chunk_tree(root: Path | str) -> list[ChunkSession]:
    """The sessions of a chunk tree, sorted by name; samples stay on disk.

    Names that contain "events" or "session_", hidden folders and folders without chunks are passed over; chunks are
    ordered by number.

    Raises:
        InvalidFile: if there is none, a chunk asks for code, or chunks of a session do not fit together.
    """
    return [read_chunk_session(name, files) for name, files in chunk_folders(Path(root))]


def chunk_folders(root: Path) -> list[tuple[str, list[Path]]]:
    """Names and chunks of all sessions, by name.

    Raises:
        InvalidFile: if there is none, or a chunk has no number.
    """
    if not root.is_dir():
        raise InvalidFile("chunk tree", root, "expected a folder of session folders")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = [(folder.name, files) for folder in folders if (files := _chunks(folder))]
    if not found:
        raise InvalidFile("chunk tree", root, "expected session folders with chunks 0.npy, 1.npy …")
    return found


def read_chunk_session(name: str, files: list[Path]) -> ChunkSession:
    """One session of a tree, from its chunks in order.

    Raises:
        InvalidFile: if a chunk asks for code, or the chunks do not fit together.
    """
    starts, notes = [0], []
    names: list[str] = []
    first: dict[str, Any] = {}
    for path in files:
        chunk = _load(path)
        if not first:
            first, names = chunk, chunk["ch_names"]
        rows = len(chunk["data"])
        same = ("ch_names", "sfreq", "mulaw_mu", *_SCALES, "predictor_kind")
        changed = next((key for key in same if chunk.get(key) != first.get(key)), None)
        if changed or rows != len(first["data"]):
            raise InvalidFile("chunk", path, f"expected the {changed or 'number of rows'} of {files[0].name}")
        starts.append(starts[-1] + chunk["data"].shape[1])
    here, n_rows = files[0], len(first["data"])
    if n_rows - len(names) not in (0, 1):
        raise InvalidFile(
            "chunk", here, f"expected {len(names)} rows of channels and at most one of events, not {n_rows}"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidFile("chunk", here, f"expected every name in ch_names once, found {', '.join(twice)} repeatedly")
    bads = tuple(first.get("bad_channels") or ())
    strange = [name for name in bads if name not in names]
    if strange:  # bad channels are rows of zeros: one without a row means that names and rows have come apart
        raise InvalidFile("chunk", here, f"expected names of ch_names as bad_channels, found {', '.join(strange)[:60]}")
    if not starts[-1]:
        raise InvalidFile("chunk", here, "expected samples, the session holds none")
    if first["data"].dtype.kind != "f":
        _expect_decodable(first, here)
        scale = _scale(first)
        if scale is None:
            notes.append(LOST_SCALE)
        elif scale.ndim and len(scale) not in (1, n_rows):
            raise InvalidFile("chunk", here, f"expected one scale or {n_rows}, one per row, found {len(scale)}")
    if first.get("scalers") is not None and {len(first["scalers"][key]) for key in ("centre", "scale")} != {len(names)}:
        raise InvalidFile("chunk", here, f"expected scalers of {len(names)} channels")
    numbers = [int(path.stem) for path in files]
    gaps = sorted(set(range(numbers[-1] + 1)) - set(numbers))
    if gaps:
        notes.append(f"chunks {', '.join(map(str, gaps[:8]))} are missing: time stands still there")
    facts = {key: value for key, value in first.items() if key not in (*_NEEDED, "session", "bad_channels")}
    return ChunkSession(
        name=name,
        files=tuple(files),
        starts=tuple(starts),
        sfreq_hz=float(first["sfreq"]),
        channels=_channels(first, names, here),
        has_events=n_rows == len(names) + 1,
        bads=bads,
        facts={key: value for key, value in facts.items() if key not in ("pos_3d", "ori_3d")},
        notes=tuple(notes),
    )


def _chunks(folder: Path) -> list[Path]:
    numbered = []
    for path in folder.glob("*.npy"):
        if path.name.startswith(".") or any(word in path.name for word in _IGNORED):
            continue
        if not path.stem.isdigit():
            raise InvalidFile("chunk", path, "expected chunks called 0.npy, 1.npy …")
        numbered.append((int(path.stem), path))
    return [path for _, path in sorted(numbered)]


def _load(path: Path) -> dict[str, Any]:
    try:
        chunk = load_npy(path, memory_map=True)
    except MemoryError:
        raise InvalidFile("chunk", path, "expected content that fits into memory") from None
    if not isinstance(chunk, dict):
        raise InvalidFile("chunk", path, f"expected a dictionary, found {type(chunk).__name__}")
    missing = [key for key in _NEEDED if key not in chunk]
    if missing:
        raise InvalidFile("chunk", path, f"expected the entry {missing[0]}")
    data = chunk["data"]
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.dtype.kind not in "fiu":
        raise InvalidFile("chunk", path, "expected data of numbers (channel, time)")
    try:
        entries = {key: _plain(value) for key, value in chunk.items() if key != "data"}
    except RecursionError as error:
        raise InvalidFile("chunk", path, f"expected entries of at most {_DEEPEST} levels ({error})") from None
    for key, expected, fits in _EXPECTED:
        if entries.get(key) is None and key not in _NEEDED:
            continue
        if not fits(entries[key]):
            raise InvalidFile("chunk", path, f"expected {expected} as {key}, found {str(entries[key])[:60]}")
    return {**entries, "data": data}


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _numbers(value: Any) -> bool:
    """A number, or a list or a column of numbers."""
    if not isinstance(value, list):
        return _number(value)
    entries = [entry[0] if isinstance(entry, list) and len(entry) == 1 else entry for entry in value]
    return bool(entries) and all(map(_number, entries))


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _kinds(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(entry, str) or (_number(entry) and entry == int(entry)) for entry in value
    )


def _scalers(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(key), list) and all(map(_number, value[key])) for key in ("centre", "scale"))
        and (isinstance(value.get("unit"), str) or _texts(value.get("unit")))
    )


# Entry → what it must be; those that are not needed may be missing or None.
_EXPECTED: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("sfreq", "a sampling rate above 0", lambda value: _number(value) and value > 0),
    ("ch_names", "a list of names", _texts),
    ("ch_types", "a list of names or numbers of types", _kinds),
    ("bad_channels", "a list of names", _texts),
    ("mulaw_mu", "a number above 0", lambda value: _number(value) and value > 0),
    *((key, "one number or one per channel", _numbers) for key in _SCALES),
    ("predictor_kind", "a name", lambda value: isinstance(value, str)),
    ("scalers", "centre and scale of every channel, and their unit", _scalers),
)


def _expect_decodable(chunk: dict[str, Any], path: Path) -> None:
    if chunk.get("predictor_kind") not in (None, "", "none"):
        raise InvalidFile(
            "chunk", path, f"expected samples, found residuals of the predictor {chunk['predictor_kind']!r}",
            hint="residuals were clipped when they were written, so the samples cannot be recovered",
        )  # fmt: skip
    if chunk.get("mulaw_mu") is None:
        raise InvalidFile(
            "chunk", path, "expected mu-law codes with mulaw_mu",
            hint="without it nobody knows what the codes mean: import the float chunks they were made from",
        )  # fmt: skip


def _scale(facts: Mapping[str, Any]) -> np.ndarray | None:
    value = next((facts[key] for key in _SCALES if facts.get(key) is not None), None)
    if value is None:
        return None
    scale = np.asarray(value, dtype=np.float64)
    return scale.reshape(-1, 1) if scale.ndim else scale


def _channels(chunk: dict[str, Any], names: list[str], path: Path) -> tuple[Channel, ...]:
    kinds = chunk["ch_types"]
    places, directions = (_rows(chunk.get(key), len(names), key, path) for key in ("pos_3d", "ori_3d"))
    if len(kinds) != len(names):
        raise InvalidFile("chunk", path, f"expected a type for each of {len(names)} channels, found {len(kinds)}")
    return tuple(
        Channel(name, kind, _triple(place), _triple(direction), "", _sensor(name, kind))
        for name, kind, place, direction in zip(names, map(_kind, names, kinds), places, directions, strict=True)
    )


def _kind(name: str, kind: Any) -> str:
    if isinstance(kind, str):
        return kind
    # Some files number the types in another way: a name that tells the sensor is the better witness.
    if (sensor := _VECTORVIEW.fullmatch(name)) is not None:
        return "mag" if sensor[1] == "1" else "grad"
    return _BY_NUMBER.get(int(kind), "misc")


def _sensor(name: str, kind: str) -> str:
    """What a sensor is, where its name or type tells."""
    if kind in ("eeg", "ecog", "seeg", "dbs"):
        return "electrode"
    if kind in ("mag", "grad") and _CTF.fullmatch(name):
        return "axial gradiometer"
    if kind in ("mag", "grad") and _VECTORVIEW.fullmatch(name):
        return "magnetometer" if kind == "mag" else "planar gradiometer"
    return ""


def _rows(values: Any, n_rows: int, name: str, path: Path) -> list[Any]:
    if values is None:
        return [None] * n_rows
    try:
        table = np.array([[math.nan if entry is None else float(entry) for entry in row] for row in values])
    except (TypeError, ValueError):
        raise InvalidFile("chunk", path, f"expected {name} of shape ({n_rows}, 3), found other entries") from None
    if table.shape != (n_rows, 3):
        raise InvalidFile("chunk", path, f"expected {name} of shape ({n_rows}, 3), found {table.shape}")
    return list(table)


def _triple(values: Any) -> tuple[float, float, float] | None:
    if values is None or not np.isfinite(values).all() or not np.any(values):
        return None
    return float(values[0]), float(values[1]), float(values[2])


def _codes(row: np.ndarray, path: Path) -> np.ndarray:
    rounded = np.round(np.asarray(row, dtype=np.float64))
    if not np.array_equal(rounded, row):
        raise InvalidFile("chunk", path, "expected whole event codes in the row after the channels")
    return rounded.astype(np.int64)


def _plain(value: Any, depth: int = 0) -> Any:
    """The same in JSON's types; deeper than any entry of a chunk is not followed.

    Raises:
        RecursionError: naming how deep it goes at least.
    """
    if depth > _DEEPEST:
        raise RecursionError("one goes deeper")
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist(), depth)
    if isinstance(value, Mapping):
        return {str(key): _plain(entry, depth + 1) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(entry, depth + 1) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
