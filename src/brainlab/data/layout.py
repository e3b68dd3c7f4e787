"""One order of channels for recordings that differ in theirs.

Two sensors are one where the system, the name and the type agree: channels of two systems are never merged, however
near they lie, nor a magnetometer with a gradiometer, and no place makes a second channel of a known helmet's. Caps, and
helmets that are put together anew for every head, have no system to tell them by, and the A1 of one is another sensor
than the A1 of the next: there, those of one name that lie centimetres apart stay two. What a recording lacks is filled
with zeros and marked as absent.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.io.recording import Channel
from brainlab.io.store import Session, Store

__all__ = [
    "CanonicalStore",
    "ChannelLayout",
    "Extent",
    "PlanarLayout",
    "PlanarSensors",
    "canonical_layout",
    "channel_sets",
    "position_layout",
    "system_of",
]

_PLANAR_STEPS = 1e4
# Digitised positions of one electrode differ by a centimetre or two among heads and placements, those of two by more.
_SAME_PLACE_M = 0.03
_ELECTRODES = ("eeg", "ecog", "seeg", "dbs")
_MAGNETIC = ("mag", "grad", "ref_meg")
# Helmets of which there is one model: a name is one sensor of it, wherever the head lay.
_HELMETS = ("ctf275", "vectorview306", "neuromag122", "artemis123")

Sensor = tuple[str, str, str, str]
Key = tuple[str, str, str, str, int]


def system_of(session: Session) -> str:
    """The sensor system that recorded a session: ctf275, vectorview306, kit, eeg …"""
    return str(session.attrs.get("system") or session.channels[0].kind)


def _key(system: str, channel: Channel) -> Sensor:
    # CTF names end in the serial number of the electronics, which changes when the system is serviced.
    name = channel.name.split("-")[0] if system.startswith("ctf") else channel.name
    # What the file calls magnetometers may be gradiometers; of electrodes the kind says more than the sensor.
    return system, name, channel.kind, channel.sensor if channel.kind in _MAGNETIC else ""


def _named_by_system(system: str, channel: Channel) -> bool:
    """Whether a name is one sensor in all recordings of the system, at whatever place."""
    return channel.kind not in _ELECTRODES and (channel.kind not in _MAGNETIC or system in _HELMETS)


def _keys(sessions: Sequence[Session], refuse: bool) -> list[list[Key]]:
    """Per session the key of each of its channels; the last part counts places that one name has."""
    places: dict[Sensor, list[tuple[tuple[float, ...], str]]] = {}
    found = []
    for session in sessions:
        system = system_of(session)
        keys: list[Key] = []
        for channel in session.channels:
            base = _key(system, channel)
            here, known = channel.position, places.setdefault(base, [])
            if _named_by_system(system, channel) or here is None or not np.isfinite(here).all():
                keys.append((*base, 0))
                continue
            apart = [math.dist(here, place) for place, _ in known]
            number = next((n for n, metres in enumerate(apart) if metres <= _SAME_PLACE_M), len(known))
            if number == len(known):
                if known and refuse:
                    raise InvalidValue(
                        "channel", channel.name,
                        f"expected one place in all recordings, found it {100 * min(apart):.0f} cm apart in"
                        f" {known[int(np.argmin(apart))][1]} and {session.name}",
                        where="data.layout",
                        hint="data.layout=separate keeps unlike caps apart; data.include chooses recordings of one cap",
                    )  # fmt: skip
                known.append((here, session.name))
            keys.append((*base, number))
        found.append(keys)
    return found


@dataclass(frozen=True)
class ChannelLayout:
    """The common order and where the channels of every session stand in it.

    Args:
        channels: canonical channels; positions and orientations are means over the sessions that have one.
        systems: system of each.
        places: per session, the canonical row of each of its channels.
    """

    channels: tuple[Channel, ...]
    systems: tuple[str, ...]
    places: tuple[Int[np.ndarray, " channel"], ...]

    @property
    def n_channels(self) -> int:
        """Rows of a canonical window."""
        return len(self.channels)

    def present(self, session: int) -> Bool[np.ndarray, " channel"]:
        """Which canonical channels a session has."""
        mask = np.zeros(self.n_channels, dtype=bool)
        mask[self.places[session]] = True
        return mask

    def place(self, samples: Float[np.ndarray, "channel time"], session: int) -> Float32[np.ndarray, "canonical time"]:
        """The rows of one session in canonical order, zeros where it has none."""
        if samples.shape[0] != len(self.places[session]):
            raise ShapeMismatch("channels", samples.shape[0], f"expected {len(self.places[session])}")
        out = np.zeros((self.n_channels, samples.shape[1]), np.float32)
        out[self.places[session]] = samples
        return out


def canonical_layout(sessions: Sequence[Session], merge: bool = True) -> ChannelLayout:
    """The layout keyed by (system, channel name, type), in order of first sight.

    Args:
        sessions: of one store.
        merge: sensors of one key are meant to be one. Without, electrodes and sensors of no known helmet that lie
            more than 3 cm apart have rows of their own, for batches that hold one channel set each.

    Raises:
        InvalidValue: if a session has two channels of one key, or, to be merged, two sessions have such a sensor at
            places that lie more than 3 cm apart.
    """
    seen: dict[Key, list[Channel]] = {}
    places = _keys(sessions, refuse=merge)
    for session, keys in zip(sessions, places, strict=True):
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise InvalidValue("channel", twice[1], "expected every name once", where=session.name)
        for key, channel in zip(keys, session.channels, strict=True):
            seen.setdefault(key, []).append(channel)
    row = {key: number for number, key in enumerate(seen)}
    names = [key[1] for key in seen]
    types: dict[tuple[str, str], set[str]] = {}
    for system, name, kind, sensor, _ in seen:
        types.setdefault((system, name), set()).add(sensor or kind)
    channels = tuple(
        Channel(
            (name if names.count(name) == 1 else f"{system}:{name}")
            + (f" ({sensor or kind})" if len(types[system, name]) > 1 else "")
            + (f"#{n + 1}" if n else ""),
            kind,
            _mean([channel.position for channel in found]),
            _mean([channel.orientation for channel in found], unit=True),
            found[0].unit,
            found[0].sensor,
        )
        for (system, name, kind, sensor, n), found in seen.items()
    )
    return ChannelLayout(
        channels,
        tuple(system for system, *_ in seen),
        tuple(np.array([row[key] for key in keys], dtype=np.int64) for keys in places),
    )


def channel_sets(sessions: Sequence[Session]) -> list[int]:
    """Number of the channel set of every session, counted in order of first sight; unlike caps are two sets."""
    known: dict[Hashable, int] = {}
    return [known.setdefault(tuple(keys), len(known)) for keys in _keys(sessions, refuse=False)]


@dataclass(frozen=True)
class Extent:
    """What a window must know of a session to stay inside it."""

    name: str
    n_samples: int
    n_channels: int


class CanonicalStore:
    """A store seen through a layout: every session has all canonical channels.

    ``sessions`` and ``gather`` are those of a :class:`~brainlab.io.store.Store`, so that windows are cut from either.
    """

    def __init__(self, store: Store, layout: ChannelLayout) -> None:
        self.store, self.layout = store, layout
        self.sessions = tuple(Extent(s.name, s.n_samples, layout.n_channels) for s in store.sessions)
        everything = np.arange(layout.n_channels)
        known: dict[bytes, int] = {}
        self._set_of = np.array([known.setdefault(rows.tobytes(), len(known)) for rows in layout.places])
        self._plain = len(known) == 1 and np.array_equal(layout.places[0], everything) if layout.places else True

    def gather(
        self, sessions: Int[np.ndarray, " window"], starts: Int[np.ndarray, " window"], length: int
    ) -> Float32[np.ndarray, "window channel time"]:
        """A batch of windows in canonical order; absent rows are zero."""
        if self._plain:
            return self.store.gather(sessions, starts, length)
        sessions, starts = np.asarray(sessions), np.asarray(starts)
        out = np.zeros((len(sessions), self.layout.n_channels, length), np.float32)
        sets = self._set_of[sessions]
        for number in np.unique(sets):
            here = np.flatnonzero(sets == number)
            rows = self.layout.places[int(sessions[here[0]])]
            out[here[:, None], rows[None, :]] = self.store.gather(sessions[here], starts[here], length)
        return out


def _mean(values: Sequence[tuple[float, ...] | None], unit: bool = False) -> tuple[float, float, float] | None:
    known = [value for value in values if value is not None and np.isfinite(value).all()]
    if not known:
        return None
    mean = np.mean(np.asarray(known, dtype=np.float64), axis=0)
    length = float(np.linalg.norm(mean))
    if unit and length > 0:
        mean = mean / length
    return float(mean[0]), float(mean[1]), float(mean[2])


@dataclass(frozen=True)
class PlanarSensors:
    """Channels of one session as older systems describe them: places in a flat layout and type numbers."""

    names: Sequence[str]
    pos_2d: Float[np.ndarray, "channel 2"]
    types: Sequence[int]
    pos_3d: Float[np.ndarray, "channel 3"] | None = None
    ori_3d: Float[np.ndarray, "channel 3"] | None = None


@dataclass(frozen=True)
class PlanarLayout:
    """Canonical channels found by their place in a flat layout; rows without 3-D values are zero."""

    names: tuple[str, ...]
    types: tuple[int, ...]
    pos_2d: Float[np.ndarray, "channel 2"]
    pos_3d: Float[np.ndarray, "channel 3"]
    ori_3d: Float[np.ndarray, "channel 3"]
    places: tuple[Int[np.ndarray, " channel"], ...]

    def place(self, samples: Float[np.ndarray, "channel time"], session: int) -> Float[np.ndarray, "canonical time"]:
        """The rows of one session in canonical order, zeros where it has none; dtype of the input."""
        out = np.zeros((len(self.names), samples.shape[1]), samples.dtype)
        out[self.places[session]] = samples
        return out


def position_layout(sessions: Sequence[PlanarSensors]) -> PlanarLayout:
    """The layout of older systems: channels are one where place (to 1e-4) and type agree.

    It is here for data that were prepared that way. It merges sensors of different systems that share a place, and
    jitter above 1e-4 doubles channels; :func:`canonical_layout` does neither.

    Names are the alphabetically first of those merged, flat places their mean, orientations their renormalised mean,
    3-D places the mean over the sessions that have one.
    """
    seen: dict[tuple[int, int, int], list[tuple[str, Any, Any, Any]]] = {}
    keys_of = []
    for session in sessions:
        keys = []
        for number, name in enumerate(session.names):
            x, y = (float(value) for value in session.pos_2d[number])
            key = (round(x * _PLANAR_STEPS), round(y * _PLANAR_STEPS), int(session.types[number]))
            place = None if session.pos_3d is None else session.pos_3d[number]
            towards = None if session.ori_3d is None else session.ori_3d[number]
            seen.setdefault(key, []).append((name, (x, y), place, towards))
            keys.append(key)
        keys_of.append(keys)
    row = {key: number for number, key in enumerate(seen)}
    return PlanarLayout(
        names=tuple(min(name for name, *_ in found) for found in seen.values()),
        types=tuple(kind for _, _, kind in seen),
        pos_2d=np.array([np.mean([xy for _, xy, _, _ in found], axis=0) for found in seen.values()]),
        pos_3d=np.array([_mean([p for _, _, p, _ in found]) or (0.0, 0.0, 0.0) for found in seen.values()]),
        ori_3d=np.array([_mean([o for *_, o in found], unit=True) or (0.0, 0.0, 0.0) for found in seen.values()]),
        places=tuple(np.array([row[key] for key in keys], dtype=np.int64) for keys in keys_of),
    )
