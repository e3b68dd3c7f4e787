"""One session of continuous data: samples in SI units, channels, annotations, and where they came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
from jaxtyping import Float

from brainlab.errors import InvalidValue

__all__ = ["Annotation", "Channel", "Event", "Recording"]

Position = tuple[float, float, float]
Reader = Callable[[Sequence[int], int, int], np.ndarray]


@dataclass(frozen=True)
class Channel:
    """One sensor.

    ``kind`` is MNE's channel type (eeg, eog, mag, grad, stim …), ``position`` and ``orientation`` are in metres in
    head or device coordinates (None where unknown), ``unit`` is the SI unit of the samples. ``sensor`` says what MNE's
    types leave open, where it is known: magnetometer, planar gradiometer, axial gradiometer or electrode.
    """

    name: str
    kind: str = "eeg"
    position: Position | None = None
    orientation: Position | None = None
    unit: str = "V"
    sensor: str = ""


@dataclass(frozen=True)
class Annotation:
    """A marked stretch; ``onset_s`` counts from the first sample of the recording."""

    onset_s: float
    duration_s: float
    description: str


@dataclass(frozen=True)
class Event:
    """A code on a trigger channel; ``sample`` counts from the first sample of the recording."""

    sample: int
    code: int


@dataclass(frozen=True)
class Recording:
    """Continuous samples, read when asked for.

    Args:
        read: ``read(picks, start, stop)`` → float64 (channel, time) in SI units, for channel indices and samples.
        n_samples: length.
        sfreq_hz: sampling rate.
        channels: one entry per channel, in the order of the rows.
        annotations: marked stretches, onsets from the first sample.
        events: codes of the trigger channels.
        meas_date: start of the measurement (UTC), or None.
        provenance: JSON-ready facts: source file, reader, steps applied so far.
    """

    read: Reader
    n_samples: int
    sfreq_hz: float
    channels: tuple[Channel, ...]
    annotations: tuple[Annotation, ...] = ()
    events: tuple[Event, ...] = ()
    meas_date: datetime | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.sfreq_hz > 0:
            raise InvalidValue("sfreq_hz", self.sfreq_hz, "expected a positive number")
        names = [channel.name for channel in self.channels]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InvalidValue("channels", ", ".join(twice), "expected every channel name once")

    @classmethod
    def from_array(
        cls,
        samples: Float[np.ndarray, "channel time"],
        sfreq_hz: float,
        channels: Sequence[Channel | str],
        annotations: Sequence[Annotation] = (),
        events: Sequence[Event] = (),
        meas_date: datetime | None = None,
        provenance: dict[str, Any] | None = None,
    ) -> Recording:
        """A recording whose samples are in memory, in SI units."""
        samples = np.asarray(samples)
        named = tuple(channel if isinstance(channel, Channel) else Channel(channel) for channel in channels)
        if samples.ndim != 2 or len(samples) != len(named):
            raise InvalidValue(
                "samples", samples.shape, f"expected (channel, time) with {len(named)} channels as they are named"
            )
        return cls(
            read=lambda picks, start, stop: samples[list(picks), start:stop],
            n_samples=samples.shape[1],
            sfreq_hz=float(sfreq_hz),
            channels=named,
            annotations=tuple(annotations),
            events=tuple(events),
            meas_date=meas_date,
            provenance=dict(provenance or {}),
        )

    @property
    def ch_names(self) -> tuple[str, ...]:
        """Names in the order of the rows."""
        return tuple(channel.name for channel in self.channels)

    @property
    def n_channels(self) -> int:
        """Number of rows."""
        return len(self.channels)

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.n_samples / self.sfreq_hz

    def samples(self, start: int = 0, stop: int | None = None) -> Float[np.ndarray, "channel time"]:
        """Samples ``start`` (included) to ``stop`` (excluded, default the end) of all channels, SI units.

        Raises:
            InvalidValue: if the range does not lie inside the recording.
        """
        stop = self.n_samples if stop is None else stop
        if not 0 <= start <= stop <= self.n_samples:
            raise InvalidValue(
                "range", (start, stop), f"expected 0 <= start <= stop <= {self.n_samples}", where=self.source
            )
        return self.read(range(self.n_channels), start, stop)

    def pick(self, names: Sequence[str]) -> Recording:
        """The same recording with these channels only, in this order.

        Raises:
            InvalidValue: if a name is unknown.
        """
        have = {name: row for row, name in enumerate(self.ch_names)}
        for name in names:
            if name not in have:
                raise InvalidValue("channel", name, f"expected one of {', '.join(self.ch_names)}", where=self.source)
        rows = [have[name] for name in names]
        inner = self.read
        return replace(
            self,
            read=lambda picks, start, stop: inner([rows[pick] for pick in picks], start, stop),
            channels=tuple(self.channels[row] for row in rows),
        )

    def pick_kinds(self, *kinds: str) -> Recording:
        """The same recording with the channels of these kinds only."""
        return self.pick([channel.name for channel in self.channels if channel.kind in kinds])

    @property
    def source(self) -> str | None:
        """The file that the samples come from, as far as known."""
        return self.provenance.get("file")
