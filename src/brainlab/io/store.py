"""Prepared continuous recordings on disk: one float32 memory map per session and a JSON index.

A window is (session, start, length) with any start. A batch of windows is one gather into a contiguous
(window, channel, time) array, which is what a network takes.

On disk a session is a row of blocks of 4096 samples, channel-major inside a block: (block, channel, 4096). Median
time to gather 64 random windows of 64 channels × 200 samples out of three hours at 200 Hz into memory that is there
already, one thread, with the file in the page cache / just dropped from it:

=================== ======= ======
layout              warm    cold
=================== ======= ======
(channel, time)     0.68 ms 580 ms
(time, channel)     0.95 ms 237 ms
blocks of 256       0.61 ms 229 ms
blocks of 1024      0.62 ms 255 ms
blocks of 4096      0.60 ms 257 ms
=================== ======= ======

Whole rows put every channel of a window far away on the disk; whole time points need a transpose of every window. Of
the block sizes, nearly alike, 4096 cuts the fewest windows in two.

The index holds what every user of a store needs of every session; channels, events and all other facts are lines of a
second file that are read when asked for, so that a store of a thousand sessions opens in a fraction of a second.
Sessions of one machine share one line of channels.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Float, Float32, Int

from brainlab.errors import InvalidFile, InvalidValue, ShapeMismatch
from brainlab.io.atomic import write_atomically
from brainlab.io.buffers import BufferPool
from brainlab.io.recording import Channel, Recording

Reader = Callable[[int, int], np.ndarray]

__all__ = ["Attributes", "Session", "Store", "StoreWriter", "known_hashes"]

_FORMAT = "brainlab-store"
_VERSION = 2
_INDEX = "index.json"
_DETAILS = "details.jsonl"
_BLOCK = 4096
_BLOCKS_AT_ONCE = 64
# Facts that every user of a store reads of every session: they stand in the index.
_IN_INDEX = ("subject", "dataset", "task", "recording", "system", "segments", "span", "bads")
_ENTRY = ("name", "file", "n_samples", "sfreq_hz", "n_channels", "block", "sha256", "channels_at", "facts_at")


class _Details:
    """Lines of the details file, each parsed once, when first asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._channels: dict[int, tuple[Channel, ...]] = {}
        self._facts: dict[int, dict[str, Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_channels": {}, "_facts": {}}

    def line(self, start: int, length: int) -> Any:
        """The JSON value at a place of the file."""
        try:
            with open(self.path, "rb") as stream:
                stream.seek(start)
                return json.loads(stream.read(length))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InvalidFile("store", self.path, f"expected the details of a prepared store ({reason})") from None

    def channels(self, place: tuple[int, int]) -> tuple[Channel, ...]:
        """One set of channels; sessions with the same set get the same object."""
        if place[0] not in self._channels:
            self._channels[place[0]] = tuple(
                Channel(name, kind, _triple(position), _triple(orientation), *rest)  # the unit, and perhaps the sensor
                for name, kind, position, orientation, *rest in self.line(*place)
            )
        return self._channels[place[0]]

    def facts(self, place: tuple[int, int]) -> dict[str, Any]:
        """Events and all attributes of one session."""
        if place[0] not in self._facts:
            self._facts[place[0]] = self.line(*place)
        return self._facts[place[0]]


class Attributes(Mapping[str, Any]):
    """Facts of a session, JSON-ready; those outside the index are read from the disk when first asked for."""

    def __init__(self, known: Mapping[str, Any], details: _Details, place: tuple[int, int]) -> None:
        self._known, self._details, self._place = known, details, place

    def _all(self) -> dict[str, Any]:
        return {**self._known, **self._details.facts(self._place)["attrs"]}

    def __getitem__(self, key: str) -> Any:
        return self._known[key] if key in self._known else self._details.facts(self._place)["attrs"][key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return repr(self._all())


@dataclass(frozen=True)
class Session:
    """One recording of a store."""

    name: str
    file: str
    n_samples: int
    sfreq_hz: float
    n_channels: int
    block: int = _BLOCK
    sha256: str = ""
    known: Mapping[str, Any] = field(default_factory=dict, repr=False)
    details: _Details = field(default_factory=lambda: _Details(Path()), repr=False, compare=False)
    channels_at: tuple[int, int] = (0, 0)
    facts_at: tuple[int, int] = (0, 0)

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Sensors in the order of the rows."""
        return self.details.channels(self.channels_at)

    @property
    def ch_names(self) -> tuple[str, ...]:
        """Names in the order of the rows."""
        return tuple(channel.name for channel in self.channels)

    @property
    def events(self) -> tuple[dict[str, Any], ...]:
        """Dictionaries with at least ``sample``, counted from the session's first sample."""
        return tuple(self.details.facts(self.facts_at)["events"])

    @property
    def attrs(self) -> Attributes:
        """JSON-ready facts (subject, unit, steps …)."""
        return Attributes(self.known, self.details, self.facts_at)

    @property
    def n_bytes(self) -> int:
        """Size of the file; its last block is filled up with zeros."""
        return 4 * self.n_channels * self.block * (-(-self.n_samples // self.block) if self.block else 0)


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
        self._names: set[str] = set()
        self._sets: dict[str, tuple[int, int]] = {}
        self._stream: IO[bytes] = open(self.folder / _DETAILS, "wb")  # noqa: SIM115 - closed by close or __exit__
        self._digest = hashlib.sha256()
        self._written = 0

    def add_session(
        self,
        name: str,
        samples: Float[np.ndarray, "channel time"] | Recording,
        sfreq_hz: float | None = None,
        channels: Sequence[Channel | str] | None = None,
        events: Sequence[Mapping[str, Any]] = (),
        attrs: Mapping[str, Any] | None = None,
    ) -> None:
        """Append one session.

        Args:
            name: unique in the store.
            samples: an array, stored in single precision, or a recording (read in pieces, its rate and channels used
                where none are given).
            sfreq_hz: sampling rate.
            channels: one per row.
            events: JSON-ready, each with ``sample``.
            attrs: JSON-ready facts.

        Raises:
            InvalidValue: if the name is taken or a sample is not finite.
            ShapeMismatch: if rows and channels differ in number.
        """
        read: Reader
        if isinstance(samples, Recording):
            sfreq_hz = samples.sfreq_hz if sfreq_hz is None else sfreq_hz
            channels = samples.channels if channels is None else channels
            n_rows, n_samples, read = samples.n_channels, samples.n_samples, samples.samples
        else:
            array = np.asarray(samples)
            if array.ndim != 2:
                raise ShapeMismatch("samples", array.shape, "expected (channel, time)", where=name)
            (n_rows, n_samples), read = array.shape, partial(_columns, array)
        if sfreq_hz is None or channels is None:
            raise InvalidValue("sfreq_hz, channels", "none", "expected both for an array", where=name)
        named = tuple(channel if isinstance(channel, Channel) else Channel(channel) for channel in channels)
        if len(named) != n_rows:
            raise ShapeMismatch("channels", len(named), f"expected {n_rows}, one per row of samples", where=name)
        for event in events:
            if not 0 <= int(event["sample"]) < n_samples:
                raise InvalidValue("event sample", event["sample"], f"expected 0 to {n_samples - 1}", where=name)
        session = Session(
            name=name,
            file=self._next_file(name),
            n_samples=n_samples,
            sfreq_hz=float(sfreq_hz),
            n_channels=n_rows,
            block=min(_BLOCK, n_samples),
        )
        digest = self._write(session, read, named)
        self._add(replace(session, sha256=digest), named, events, attrs or {})

    def adopt(self, session: Session, name: str | None = None, attrs: Mapping[str, Any] | None = None) -> None:
        """Take over a session of another store; its samples are linked, not copied, where the disk allows it.

        Args:
            session: of an opened store.
            name: in this store; default its own.
            attrs: facts to add or replace.

        Raises:
            InvalidValue: if the name is taken, or the session's file is not in its store's folder.
        """
        name = session.name if name is None else name
        file = self._next_file(name)
        source = session.details.path.parent / _inside(session.details.path.parent, session.file)
        try:
            os.link(source, self.folder / file)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, self.folder / file)
        adopted = replace(session, name=name, file=file)
        self._add(adopted, session.channels, session.events, {**session.attrs, **(attrs or {})})

    def _next_file(self, name: str) -> str:
        if name in self._names:
            raise InvalidValue("session", name, "expected every session name once")
        self._names.add(name)
        return f"{len(self._sessions):05d}.f32"

    def _add(
        self,
        session: Session,
        channels: Sequence[Channel],
        events: Sequence[Mapping[str, Any]],
        attrs: Mapping[str, Any],
    ) -> None:
        table = json.dumps([[c.name, c.kind, c.position, c.orientation, c.unit, c.sensor] for c in channels])
        if table not in self._sets:
            self._sets[table] = self._append(table)
        facts = json.dumps({"events": [dict(event) for event in events], "attrs": dict(attrs)})
        self._sessions.append(
            replace(
                session,
                known={key: attrs[key] for key in _IN_INDEX if key in attrs},
                channels_at=self._sets[table],
                facts_at=self._append(facts),
            )
        )

    def _append(self, line: str) -> tuple[int, int]:
        raw = line.encode()
        self._stream.write(raw + b"\n")
        self._digest.update(raw + b"\n")
        place = (self._written, len(raw))
        self._written += len(raw) + 1
        return place

    def _write(self, session: Session, read: Reader, channels: Sequence[Channel]) -> str:
        # Plain writes, never a writable memory map: a full disk is then an error instead of a killed process.
        digest = hashlib.sha256()
        step = _BLOCKS_AT_ONCE * session.block
        with open(self.folder / session.file, "wb") as stream:
            for start in range(0, session.n_samples, step or 1):
                piece = np.asarray(read(start, min(start + step, session.n_samples)), dtype="<f4")
                if not np.isfinite(piece).all():
                    row, column = np.argwhere(~np.isfinite(piece))[0]
                    raise InvalidValue(
                        "sample",
                        piece[row, column],
                        f"expected finite numbers (channel {channels[row].name}, sample {start + column})",
                        where=session.name,
                    )
                n_blocks = -(-piece.shape[1] // session.block)
                whole = np.zeros((session.n_channels, n_blocks * session.block), "<f4")
                whole[:, : piece.shape[1]] = piece
                raw = whole.reshape(session.n_channels, n_blocks, session.block).swapaxes(0, 1).tobytes()
                digest.update(raw)
                stream.write(raw)
        return digest.hexdigest()

    def close(self) -> None:
        """Write the index; the folder is a store from here on."""
        self._stream.close()
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "layout": "block channel time",
            "details": {"bytes": self._written, "sha256": self._digest.hexdigest()},
            "sessions": [
                {key: getattr(session, key) for key in _ENTRY} | {"known": dict(session.known)}
                for session in self._sessions
            ],
        }
        content["sha256"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        write_atomically(self.folder / _INDEX, json.dumps(content))

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._stream.close()


def known_hashes(folder: Path) -> dict[str, str]:
    """File name → sha256, as far as a store written into ``folder`` tells; nothing where there is none."""
    path = folder / _INDEX
    content = json.loads(path.read_text()) if path.is_file() else {}
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        return {}
    return {_DETAILS: content["details"]["sha256"], **{one["file"]: one["sha256"] for one in content["sessions"]}}


def _inside(folder: Path, name: str) -> str:
    """The name of a file that lies in the store's own folder; an index may come from anywhere."""
    if not isinstance(name, str) or name != Path(name).name or name in ("", "..") or "\0" in name:
        raise InvalidFile("store file", repr(name), "expected files of the store's own folder", where=str(folder))
    return name


def _columns(array: np.ndarray, start: int, stop: int) -> np.ndarray:
    return array[:, start:stop]


class Store:
    """Sessions of a store, opened for reading; memory maps are opened at first use in each process.

    Raises:
        InvalidFile: if the folder holds no store, another version, or a file that is too short or lies elsewhere.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        path, hint = self.folder / _INDEX, f"delete the folder {folder} and run again; it will be prepared anew"
        try:
            content = json.loads(path.read_text())
            if content.get("format") != _FORMAT or content.get("version") != _VERSION:
                found = f"{content.get('format', 'no format')} version {content.get('version', '?')}"
                raise InvalidFile(
                    "store", self.folder, f"expected {_FORMAT} version {_VERSION}, found {found}",
                    hint=hint,
                )  # fmt: skip
            self.fingerprint: str = content["sha256"]
            details = _Details(self.folder / _DETAILS)
            self.sessions: tuple[Session, ...] = tuple(
                Session(
                    **{**entry, "channels_at": tuple(entry["channels_at"]), "facts_at": tuple(entry["facts_at"])},
                    details=details,
                )
                for entry in content["sessions"]
            )
            for one in self.sessions:
                _inside(self.folder, one.file)
            sizes = {_DETAILS: content["details"]["bytes"], **{one.file: one.n_bytes for one in self.sessions}}
        except OSError as error:
            raise InvalidFile("store", path, f"expected the index of a prepared store ({error.strerror})") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, InvalidFile):
                raise
            raise InvalidFile("store", path, f"expected the index of a prepared store ({error})", hint=hint) from None
        self._maps: dict[int, tuple[np.ndarray, int]] = {}
        self._pool = BufferPool()
        for name, size in sizes.items():
            try:
                found_size = os.stat(self.folder / name).st_size
            except OSError:
                found_size = -1
            if found_size != size:
                found = f"expected {size} bytes, found {max(found_size, 0)}"
                raise InvalidFile("store", self.folder / name, found, hint=hint)

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

    def _opened(self, number: int) -> tuple[np.ndarray, int]:
        """The memory map of one session, (block, channel, time), and its length."""
        if number not in self._maps:
            if not 0 <= number < len(self.sessions):
                raise InvalidValue("session", number, f"expected a number from 0 below {len(self.sessions)}")
            entry = self.sessions[number]
            n_blocks = -(-entry.n_samples // entry.block) if entry.block else 0
            shape = (n_blocks, entry.n_channels, entry.block)
            # A plain array over the map: indexing the memmap class itself costs more than copying a window.
            blocks = np.memmap(self.folder / entry.file, "<f4", "r", shape=shape) if 0 not in shape else None
            self._maps[number] = np.zeros(shape, np.float32) if blocks is None else np.asarray(blocks), entry.n_samples
        return self._maps[number]

    def read(
        self, session: int | str, start: int = 0, length: int | None = None
    ) -> Float32[np.ndarray, "channel time"]:
        """One window, as an array of its own; default the whole session.

        Raises:
            InvalidValue: if it does not lie inside the session.
        """
        number = self.index(session) if isinstance(session, str) else int(session)
        length = self.sessions[number].n_samples - start if length is None else length
        return self.gather(np.array([number]), np.array([start]), length)[0]

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
            length: samples per window, at least one.
            out: filled and returned when given.

        Raises:
            InvalidValue: if a window does not lie inside its session.
            ShapeMismatch: if the sessions differ in their number of channels.
        """
        # Plain integers: for a batch of 64 windows the bookkeeping is cheaper in Python than in numpy.
        numbers, firsts = np.asarray(sessions).tolist(), np.asarray(starts).tolist()
        opened = {number: self._opened(number) for number in set(numbers)}
        if out is None:
            n_channels = opened[numbers[0]][0].shape[1] if numbers else 0
            out = self._pool.empty((len(numbers), n_channels, length), np.float32)
        for number, (blocks, _) in opened.items():
            if blocks.shape[1] != out.shape[1]:
                raise ShapeMismatch(
                    "channels",
                    blocks.shape[1],
                    f"expected {out.shape[1]} as in the first window of the batch",
                    where=self.sessions[number].name,
                )
        for window, number, first in zip(out, numbers, firsts, strict=True):
            blocks, n_samples = opened[number]
            if first < 0 or length < 1 or first + length > n_samples:
                raise InvalidValue(
                    "window",
                    (first, length),
                    f"expected a start and a length of at least 1 within {n_samples} samples",
                    where=self.sessions[number].name,
                )
            size = blocks.shape[2]
            block, start = divmod(first, size)
            if start + length <= size:
                window[...] = blocks[block, :, start : start + length]
                continue
            done = size - start
            window[:, :done] = blocks[block, :, start:]
            while done < length:
                block += 1
                piece = min(size, length - done)
                window[:, done : done + piece] = blocks[block, :, :piece]
                done += piece
        return out


def _triple(values: Sequence[float] | None) -> tuple[float, float, float] | None:
    return (values[0], values[1], values[2]) if values else None
