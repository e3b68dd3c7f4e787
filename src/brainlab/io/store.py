"""Prepared continuous recordings on disk: one float32 memory map per session and a JSON index.

A window is (session, start, length) with any start. A batch of windows is one gather into a contiguous
(window, channel, time) array, which is what a network takes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from brainlab.errors import InvalidFile, InvalidValue, ShapeMismatch
from brainlab.io.atomic import write_atomically
from brainlab.io.recording import Channel, Recording

__all__ = ["Session", "Store", "StoreWriter"]

_FORMAT = "brainlab-store"
_VERSION = 1
_INDEX = "index.json"
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Session:
    """One recording of a store.

    ``events`` are dictionaries with at least ``sample`` (from the session's first sample), ``attrs`` JSON-ready facts
    (subject, unit, steps …).
    """

    name: str
    file: str
    n_samples: int
    sfreq_hz: float
    channels: tuple[Channel, ...]
    sha256: str = ""
    events: tuple[dict[str, Any], ...] = ()
    attrs: dict[str, Any] = field(default_factory=dict)

    @property
    def ch_names(self) -> tuple[str, ...]:
        """Names in the order of the rows."""
        return tuple(channel.name for channel in self.channels)

    @property
    def n_channels(self) -> int:
        """Number of rows."""
        return len(self.channels)


class StoreWriter:
    """Writes sessions into ``folder``; the index, without which it is no store, comes last.

    >>> import tempfile, numpy as np
    >>> folder = tempfile.mkdtemp()
    >>> with StoreWriter(folder) as writer:
    ...     writer.add_session("sub-01", np.arange(6, dtype=np.float32).reshape(2, 3), 200.0, ["Cz", "Pz"])
    >>> Store(folder).read(0, 1, 2)
    array([[1., 2.],
           [4., 5.]], dtype=float32)
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / _INDEX).exists():
            raise InvalidValue("folder", self.folder, "expected a folder without a store")
        self._sessions: list[Session] = []

    def add_session(
        self,
        name: str,
        samples: Float32[np.ndarray, "channel time"] | Recording,
        sfreq_hz: float | None = None,
        channels: Sequence[Channel | str] | None = None,
        events: Sequence[Mapping[str, Any]] = (),
        attrs: Mapping[str, Any] | None = None,
    ) -> None:
        """Append one session.

        Args:
            name: unique in the store.
            samples: an array, or a recording (read in pieces, its rate and channels used where none are given).
            sfreq_hz: sampling rate.
            channels: one per row.
            events: JSON-ready, each with ``sample``.
            attrs: JSON-ready facts.

        Raises:
            InvalidValue: if the name is taken or a sample is not finite.
            ShapeMismatch: if rows and channels differ in number.
        """
        if name in {session.name for session in self._sessions}:
            raise InvalidValue("session", name, "expected every session name once")
        if isinstance(samples, Recording):
            recording = samples
            sfreq_hz = recording.sfreq_hz if sfreq_hz is None else sfreq_hz
            channels = recording.channels if channels is None else channels
            n_rows, n_samples, read = recording.n_channels, recording.n_samples, recording.samples
        else:
            array = np.asarray(samples)
            if array.ndim != 2:
                raise ShapeMismatch("samples", array.shape, "expected (channel, time)", where=name)
            n_rows, n_samples = array.shape

            def read(start: int, stop: int | None) -> np.ndarray:
                return array[:, start:stop]

        if sfreq_hz is None or channels is None:
            raise InvalidValue("sfreq_hz, channels", "none", "expected both for an array", where=name)
        named = tuple(channel if isinstance(channel, Channel) else Channel(channel) for channel in channels)
        if len(named) != n_rows:
            raise ShapeMismatch("channels", len(named), f"expected {n_rows}, one per row of samples", where=name)
        file = f"{len(self._sessions):05d}.f32"
        digest = self._write(self.folder / file, read, n_rows, n_samples, name)
        self._sessions.append(
            Session(
                name=name,
                file=file,
                n_samples=n_samples,
                sfreq_hz=float(sfreq_hz),
                channels=named,
                sha256=digest,
                events=tuple(dict(event) for event in events),
                attrs=dict(attrs or {}),
            )
        )

    def _write(self, path: Path, read: Any, n_rows: int, n_samples: int, name: str) -> str:
        # Written by pwrite, never through a memory map: a full disk is then an error instead of a bus error.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        digest = hashlib.sha256()
        try:
            for start in range(0, n_samples, _CHUNK):
                stop = min(start + _CHUNK, n_samples)
                piece = np.ascontiguousarray(read(start, stop), dtype="<f4")
                if not np.isfinite(piece).all():
                    row, column = np.argwhere(~np.isfinite(piece))[0]
                    raise InvalidValue(
                        "sample", piece[row, column], f"expected finite numbers (row {row}, sample {start + column})",
                        where=name,
                    )  # fmt: skip
                digest.update(piece.tobytes())
                for row in range(n_rows):
                    _pwrite(descriptor, piece[row], 4 * (row * n_samples + start))
        finally:
            os.close(descriptor)
        return digest.hexdigest()

    def close(self) -> None:
        """Write the index; the folder is a store from here on."""
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "layout": "channel-major",
            "sessions": [asdict(session) for session in self._sessions],
        }
        content["sha256"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        write_atomically(self.folder / _INDEX, json.dumps(content))

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()


def _pwrite(descriptor: int, values: np.ndarray, offset: int) -> None:
    view = memoryview(values).cast("B")
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


class Store:
    """Sessions of a store, opened for reading; memory maps are opened at first use in each process.

    Raises:
        InvalidFile: if the folder holds no store, another version, or a file that is too short.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        path = self.folder / _INDEX
        try:
            content = json.loads(path.read_text())
            if content.get("format") != _FORMAT or content.get("version") != _VERSION:
                raise InvalidFile("store", path, f"expected format {_FORMAT} version {_VERSION}")
            self.fingerprint: str = content["sha256"]
            self.sessions: tuple[Session, ...] = tuple(_session(entry) for entry in content["sessions"])
        except OSError as error:
            raise InvalidFile("store", path, f"expected the index of a prepared store ({error.strerror})") from None
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, InvalidFile):
                raise
            raise InvalidFile("store", path, f"expected the index of a prepared store ({error})") from None
        self._maps: dict[int, np.ndarray] = {}
        for session in self.sessions:
            file, size = self.folder / session.file, 4 * session.n_channels * session.n_samples
            found = file.stat().st_size if file.exists() else -1
            if found != size:
                raise InvalidFile("store", file, f"expected {size} bytes, found {max(found, 0)}")

    def __len__(self) -> int:
        return len(self.sessions)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    def index(self, name: str) -> int:
        """Number of the session called ``name``."""
        for number, session in enumerate(self.sessions):
            if session.name == name:
                return number
        known = ", ".join(session.name for session in self.sessions[:20])
        raise InvalidValue("session", name, f"expected one of {known}", where=str(self.folder))

    def samples(self, session: int | str) -> Float32[np.ndarray, "channel time"]:
        """All samples of one session, still on disk."""
        number = self.index(session) if isinstance(session, str) else int(session)
        if number not in self._maps:
            entry = self.sessions[number]
            shape = (entry.n_channels, entry.n_samples)
            if 0 in shape:
                self._maps[number] = np.zeros(shape, np.float32)
            else:
                self._maps[number] = np.asarray(np.memmap(self.folder / entry.file, "<f4", "r", shape=shape))
        return self._maps[number]

    def read(self, session: int | str, start: int, length: int) -> Float32[np.ndarray, "channel time"]:
        """One window, as an array of its own.

        Raises:
            InvalidValue: if it does not lie inside the session.
        """
        samples = self.samples(session)
        if start < 0 or length < 0 or start + length > samples.shape[1]:
            raise InvalidValue("window", (start, length), f"expected it within {samples.shape[1]} samples")
        return np.array(samples[:, start : start + length])

    def gather(
        self,
        sessions: Int[np.ndarray, " window"],
        starts: Int[np.ndarray, " window"],
        length: int,
        out: Float32[np.ndarray, "window channel time"] | None = None,
    ) -> Float32[np.ndarray, "window channel time"]:
        """A batch of windows in one contiguous array.

        Args:
            sessions: session number of every window; all of them with equally many channels.
            starts: first sample of every window.
            length: samples per window.
            out: filled and returned when given.

        Raises:
            InvalidValue: if a window does not lie inside its session.
            ShapeMismatch: if the sessions differ in their number of channels.
        """
        numbers, firsts = np.asarray(sessions).tolist(), np.asarray(starts).tolist()
        if out is None:
            n_channels = self.sessions[numbers[0]].n_channels if numbers else 0
            out = np.empty((len(numbers), n_channels, length), np.float32)
        maps = self._maps
        for row, (number, first) in enumerate(zip(numbers, firsts, strict=True)):
            samples = maps[number] if number in maps else self.samples(number)
            if first < 0 or first + length > samples.shape[1]:
                raise InvalidValue("window", (first, length), f"expected it within {samples.shape[1]} samples")
            if samples.shape[0] != out.shape[1]:
                raise ShapeMismatch(
                    "channels", samples.shape[0], f"expected {out.shape[1]} as in the first window of the batch",
                    where=self.sessions[number].name,
                )  # fmt: skip
            out[row] = samples[:, first : first + length]
        return out


def _session(entry: dict[str, Any]) -> Session:
    channels = tuple(
        Channel(
            channel["name"],
            channel["kind"],
            tuple(channel["position"]) if channel["position"] else None,
            tuple(channel["orientation"]) if channel["orientation"] else None,
            channel["unit"],
        )
        for channel in entry["channels"]
    )
    return Session(**{**entry, "channels": channels, "events": tuple(entry["events"])})
