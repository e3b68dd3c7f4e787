"""Trigger codes by a data set's own rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from brainlab.errors import InvalidFile, InvalidValue
from brainlab.io.mne_reader import trigger_codes
from brainlab.prepare.steps.session import RawSession

__all__ = ["FindEvents"]


@dataclass(frozen=True)
class FindEvents:
    """Decode the trigger channel anew, at the file's own rate; it must come before :class:`Pick` and resampling.

    Every change to another code than 0 is an event, see :func:`brainlab.io.mne_reader.trigger_codes`. Without this
    step the events are those of all trigger channels, however short.

    Args:
        channels: the first of these that the file has; null takes all trigger channels.
        min_duration_s: shorter pulses are no events.
    """

    channels: Sequence[str] | None = None
    min_duration_s: float = 0.0

    def __post_init__(self) -> None:
        if self.channels is not None:
            object.__setattr__(
                self, "channels", (self.channels,) if isinstance(self.channels, str) else tuple(self.channels)
            )
        if self.min_duration_s < 0:
            raise InvalidValue("min_duration_s", self.min_duration_s, "expected at least 0", where="FindEvents")

    def __call__(self, session: RawSession) -> None:
        if session.sfreq_hz != session.sfreq_in_hz:
            raise InvalidValue("steps", "FindEvents", "expected it before Resample", where=session.source)
        wanted = None
        if self.channels is not None:
            wanted = next((name for name in self.channels if name in session.ch_names), None)
        if wanted is None and "stim" not in session.kinds:
            session.events = ()
            session.note("FindEvents", channel=None, events=0)
            return
        try:
            session.events = trigger_codes(session.raw, wanted, self.min_duration_s)
        except ValueError as error:
            first = str(error).split("\n")[0].rstrip(".")
            raise InvalidFile(
                "trigger channel", wanted, f"expected trigger codes ({first})", where=session.source
            ) from error
        session.note("FindEvents", channel=wanted, events=len(session.events))
