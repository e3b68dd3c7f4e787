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
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from brainlab.errors import InvalidFile, InvalidValue, ShapeMismatch
from brainlab.io.atomic import write_atomically
from brainlab.io.buffers import BufferPool
from brainlab.io.recording import Channel, Recording

Reader = Callable[[int, int], np.ndarray]

__all__ = ["Session", "Store", "StoreWriter"]

_FORMAT = "brainlab-store"
_VERSION = 1
_INDEX = "index.json"
_BLOCK = 4096
_BLOCKS_AT_ONCE = 64


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
    block: int = _BLOCK
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
            file=f"{len(self._sessions):05d}.f32",
            n_samples=n_samples,
            sfreq_hz=float(sfreq_hz),
            channels=named,
            block=min(_BLOCK, n_samples),
            events=tuple(dict(event) for event in events),
            attrs=dict(attrs or {}),
        )
        self._sessions.append(replace(session, sha256=self._write(session, read)))

    def _write(self, session: Session, read: Reader) -> str:
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
                        f"expected finite numbers (channel {session.ch_names[row]}, sample {start + column})",
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
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "layout": "block channel time",
            "sessions": [asdict(session) for session in self._sessions],
        }
        content["sha256"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        write_atomically(self.folder / _INDEX, json.dumps(content))

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()


def _columns(array: np.ndarray, start: int, stop: int) -> np.ndarray:
    return array[:, start:stop]


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
        self._maps: dict[int, tuple[np.ndarray, int]] = {}
        self._pool = BufferPool()
        for session in self.sessions:
            file, size = self.folder / session.file, session.n_bytes
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
