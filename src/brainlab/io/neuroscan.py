"""Neuroscan continuous files (``.cnt``, "Version 3.x") by the published layout of their headers.

A file is a set-up block of 900 bytes, one block of 75 bytes per channel, the samples and an event table. Headers in
the wild carry sample counts that nobody updated and a block length that was never applied, so this reader takes the
place of the event table as the end of the samples, lets the count decide only between 16 and 32 bits, and looks at
the samples before it believes in blocks.

Volts are ``(count - baseline) · sensitivity · calibration / 204.8 · 1e-6``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from brainlab.errors import InvalidFile

__all__ = ["Neuroscan", "is_neuroscan"]

_SETUP, _ELECTRODE, _TABLE_HEAD = 900, 75, 9
_COUNTS_PER_UNIT = 204.8
_EVENT_BYTES = {1: 8, 2: 19, 3: 19}
# The upper half of an event's fourth byte: 11 is a reset of the DC level, 14 a pause of the recording.
_BOUNDARIES = (11, 14)
# How far the header's count may lie from the bytes there are, before it says nothing about their width.
_WIDEST_MISCOUNT = 1.3
_LOOK = 1 << 14


def is_neuroscan(path: Path | str) -> bool:
    """Whether the file starts like a Neuroscan one; other makers use the same ending."""
    try:
        with open(path, "rb") as stream:
            return stream.read(9) == b"Version 3"
    except OSError:
        return False


@dataclass(frozen=True)
class Neuroscan:
    """One continuous file; samples are read when asked for.

    ``events`` are (sample from the first one, what happened); ``block`` is the number of successive samples of a
    channel before the next channel's, ``notes`` say where the header was not believed.
    """

    path: Path
    sfreq_hz: float
    ch_names: tuple[str, ...]
    bads: tuple[str, ...]
    n_samples: int
    dtype: str
    block: int
    start: int
    baseline: tuple[float, ...]
    volts_per_count: tuple[float, ...]
    events: tuple[tuple[int, str], ...]
    notes: tuple[str, ...]

    @classmethod
    def open(cls, path: Path | str) -> Neuroscan:
        """Read the header and the event table.

        Raises:
            InvalidFile: if it is another format, truncated, or its header allows more than one reading.
        """
        path = Path(path)
        size = path.stat().st_size
        with open(path, "rb") as stream:
            setup = stream.read(_SETUP)
            if len(setup) < _SETUP or not setup.startswith(b"Version 3"):
                raise _wrong(path, "expected a Neuroscan header of version 3")
            n_channels, sfreq = struct.unpack_from("<H", setup, 370)[0], struct.unpack_from("<H", setup, 376)[0]
            claimed, table_at = struct.unpack_from("<I", setup, 864)[0], struct.unpack_from("<I", setup, 886)[0]
            offset = struct.unpack_from("<i", setup, 894)[0]
            if not n_channels or not sfreq:
                raise _wrong(path, f"expected channels and a rate, the header says {n_channels} and {sfreq} Hz")
            electrodes = stream.read(_ELECTRODE * n_channels)
        start = _SETUP + _ELECTRODE * n_channels
        if len(electrodes) < _ELECTRODE * n_channels:
            raise _wrong(path, f"expected {start} bytes of header for {n_channels} channels, found {size}")
        notes: list[str] = []
        if not start < table_at <= size:
            notes.append(f"the event table should stand at byte {table_at} of {size}; samples are read to the end")
            table_at = 0
        end = table_at or size
        width = _width(path, end - start, n_channels, claimed)
        n_samples = (end - start) // (width * n_channels)
        if not n_samples:
            raise _wrong(path, "expected samples after the header")
        if n_samples != claimed:
            notes.append(f"the header counts {claimed} samples, the file holds {n_samples}")
        counts = np.memmap(path, f"<i{width}", "r", start, (n_samples * n_channels,))
        block = _block(path, counts, n_channels, offset, width, notes)
        n_samples -= n_samples % block
        rows = [_electrode(electrodes[at : at + _ELECTRODE]) for at in range(0, len(electrodes), _ELECTRODE)]
        events = _events(path, table_at, start, width * n_channels, n_samples, notes) if table_at else ()
        return cls(
            path=path,
            sfreq_hz=float(sfreq),
            ch_names=tuple(name for name, *_ in rows),
            bads=tuple(name for name, bad, *_ in rows if bad),
            n_samples=n_samples,
            dtype=f"<i{width}",
            block=block,
            start=start,
            baseline=tuple(baseline for _, _, baseline, _ in rows),
            volts_per_count=tuple(scale for *_, scale in rows),
            events=events,
            notes=tuple(notes),
        )

    def read(self, start: int, stop: int) -> Float[np.ndarray, "channel time"]:
        """Samples ``start`` to ``stop`` (excluded) of all channels, V."""
        n_channels = len(self.ch_names)
        # Opened per call: a copy of this object, or one in another process, then needs no samples of its own.
        counts = np.memmap(self.path, self.dtype, "r", self.start, (self.n_samples * n_channels,))
        first = start // self.block
        last = -(-stop // self.block)
        pieces = counts[first * self.block * n_channels : last * self.block * n_channels]
        table = pieces.reshape(-1, n_channels, self.block).swapaxes(0, 1).reshape(n_channels, -1)
        skip = start - first * self.block
        wanted = table[:, skip : skip + stop - start].astype(np.float64)
        return (wanted - np.array(self.baseline)[:, None]) * np.array(self.volts_per_count)[:, None]


def _wrong(path: Path, expected: str) -> InvalidFile:
    return InvalidFile("recording", path, expected)


def _width(path: Path, n_bytes: int, n_channels: int, claimed: int) -> int:
    """Bytes per sample: 2 or 4, whichever the header's count is near to."""
    if claimed:
        exact = n_bytes / (n_channels * claimed)
        near = [width for width in (2, 4) if 1 / _WIDEST_MISCOUNT < exact / width < _WIDEST_MISCOUNT]
        if len(near) == 1:
            return near[0]
    raise _wrong(
        path,
        f"expected a sample count that fits the file, the header says {claimed} samples of {n_channels} channels and "
        f"there are {n_bytes} bytes, so 16 and 32 bits cannot be told apart",
    )


def _block(path: Path, counts: np.ndarray, n_channels: int, offset: int, width: int, notes: list[str]) -> int:
    """Successive samples per channel: what the header says, if the samples look like it."""
    claimed = offset // width
    if offset <= 1 or claimed <= 1 or n_channels == 1:
        return 1
    whole = len(counts) // (claimed * n_channels) * claimed * n_channels
    some = np.asarray(
        counts[: min(whole, _LOOK // (claimed * n_channels) * claimed * n_channels or whole)], dtype=float
    )
    if some.size:
        in_blocks = _roughness(some.reshape(-1, n_channels, claimed).swapaxes(0, 1).reshape(n_channels, -1))
        one_by_one = _roughness(some.reshape(-1, n_channels).T)
        if in_blocks < 0.9 * one_by_one:
            return claimed
        if one_by_one < 0.9 * in_blocks:
            notes.append(f"the header says blocks of {claimed} samples, the samples stand one by one")
            return 1
    if whole < len(counts):
        notes.append(f"the header says blocks of {claimed} samples, which do not fill the file; none are used")
        return 1
    raise _wrong(
        path,
        f"expected samples in blocks of {claimed}, as the header says, or one by one; they look alike in this file",
    )


def _roughness(samples: np.ndarray) -> float:
    """How much neighbours differ, relative to the spread: small only where neighbours are neighbours."""
    return float(
        np.abs(np.diff(samples)).mean() / (np.abs(samples - samples.mean(axis=1, keepdims=True)).mean() + 1e-9)
    )


def _electrode(raw: bytes) -> tuple[str, bool, float, float]:
    """Name, bad, baseline (counts) and volts per count of one channel."""
    name = raw[:10].split(b"\0")[0].decode("latin-1").strip()
    baseline = struct.unpack_from("<h", raw, 47)[0]
    sensitivity, calibration = struct.unpack_from("<f", raw, 59)[0], struct.unpack_from("<f", raw, 71)[0]
    return name, bool(raw[14]), float(baseline), sensitivity * calibration / _COUNTS_PER_UNIT * 1e-6


def _events(
    path: Path, at: int, start: int, bytes_per_sample: int, n_samples: int, notes: list[str]
) -> tuple[tuple[int, str], ...]:
    with open(path, "rb") as stream:
        stream.seek(at)
        head, body = stream.read(_TABLE_HEAD), stream.read()
    if len(head) < _TABLE_HEAD:
        notes.append("the event table is missing")
        return ()
    kind, n_bytes, _ = struct.unpack("<bii", head)
    if kind not in _EVENT_BYTES:
        notes.append(f"the event table is of the unknown type {kind}; no events are read")
        return ()
    size = _EVENT_BYTES[kind]
    if n_bytes > len(body):
        notes.append(f"the event table should hold {n_bytes // size} events, {len(body) // size} are there")
    found, outside = [], 0
    for place in range(0, min(n_bytes, len(body)) // size * size, size):
        stimulus, keyboard, pad, offset = struct.unpack_from("<HBBI", body, place)
        # Types 1 and 2 count bytes from the start of the file, type 3 counts samples.
        sample = offset if kind == 3 else (offset - start) // bytes_per_sample
        if 0 <= sample < n_samples:
            found.append((int(sample), _description(stimulus, keyboard, pad)))
        else:
            outside += 1
    if outside:
        notes.append(f"{outside} events lie outside the samples and are left out")
    return tuple(sorted(found, key=lambda event: event[0]))


def _description(stimulus: int, keyboard: int, pad: int) -> str:
    if stimulus:
        return str(stimulus)
    if pad >> 4 in _BOUNDARIES:
        return "boundary"
    if pad & 15:
        return f"keypad {pad & 15}"
    return f"keyboard {keyboard}" if keyboard else "0"
