"""Steps in frequency: band-pass, notch, resampling, by MNE's FIR filters on the whole recording.

Each says how far it looks ahead (``look_ahead_s``): a split in time must leave at least that between two parts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from brainlab.errors import InvalidFile, InvalidValue
from brainlab.prepare.steps.session import RawSession

__all__ = ["BandPass", "Notch", "Resample", "look_ahead_s"]

_NYQUIST_SHARE = 0.9
_LARGEST_DOWN = 10_000
# scipy's and so MNE's polyphase filter spans so many samples of the lower rate on either side.
_POLYPHASE_HALF = 10


def _positive(step: str, **values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not value > 0:
            raise InvalidValue(name, value, "expected a positive frequency or null", where=step)


def _expect_phase(step: str, phase: str) -> None:
    if phase not in ("zero", "minimum"):
        raise InvalidValue("phase", phase, "expected zero or minimum", where=step)


def look_ahead_s(steps: Mapping[str, Any], sfreq_hz: float) -> float:
    """How many seconds ahead of itself a prepared sample knows, through all filters of a preparation together.

    Args:
        steps: name → step or null, in order; those that are no filters look at single samples.
        sfreq_hz: rate of the file.

    Returns:
        0 for minimum-phase filters without resampling; infinite where resampling goes through the spectrum.
    """
    done = [step for step in steps.values() if step is not None]
    out = next((float(step.sfreq_hz) for step in done if isinstance(step, Resample)), None)
    rate, reach, stop_hz = sfreq_hz, 0.0, None
    for step in done:
        if isinstance(step, BandPass):
            reach += step.look_ahead_s(rate, out)
            stop_hz = step.stop_hz(rate, out)
        elif isinstance(step, Notch):
            reach += step.look_ahead_s(rate, stop_hz)
        elif isinstance(step, Resample):
            reach += step.look_ahead_s(rate)
            rate = step.sfreq_hz
        elif hasattr(step, "look_ahead_s"):
            reach += step.look_ahead_s(rate)
    return reach


@dataclass(frozen=True)
class BandPass:
    """FIR band-pass at the present rate.

    The upper edge never exceeds 0.9 × the Nyquist frequency of the file, or of the rate that a later step resamples
    to: beyond it the filter's transition band would leave the spectrum. The edge that was used is noted.

    Args:
        l_freq_hz: lower edge, null for none.
        h_freq_hz: upper edge, null for none.
        phase: "zero" (symmetric: a sample also depends on later ones) or "minimum" (causal).
    """

    l_freq_hz: float | None = 1.0
    h_freq_hz: float | None = 50.0
    phase: Literal["zero", "minimum"] = "zero"

    def __post_init__(self) -> None:
        _positive("BandPass", l_freq_hz=self.l_freq_hz, h_freq_hz=self.h_freq_hz)
        _expect_phase("BandPass", self.phase)
        if self.l_freq_hz is not None and self.h_freq_hz is not None and self.l_freq_hz >= self.h_freq_hz:
            raise InvalidValue(
                "l_freq_hz", self.l_freq_hz, f"expected it below h_freq_hz={self.h_freq_hz:g}", where="BandPass"
            )

    def edges(
        self, sfreq_hz: float, sfreq_out_hz: float | None = None, where: str | None = None
    ) -> tuple[float | None, float | None]:
        """The edges (Hz) that are used at a rate that a later step resamples to ``sfreq_out_hz``.

        Raises:
            InvalidValue: if nothing lies between them.
        """
        low, high = self.l_freq_hz, self.h_freq_hz
        bound = _NYQUIST_SHARE * min(sfreq_hz, sfreq_out_hz or sfreq_hz) / 2
        if high is not None:
            high = min(high, bound)
        if low is not None and low >= (high or bound):
            raise InvalidValue("l_freq_hz", low, f"expected it below {high or bound:g} Hz", where=where)
        return low, high

    def stop_hz(self, sfreq_hz: float, sfreq_out_hz: float | None = None) -> float | None:
        """Above this frequency nothing is left, None without an upper edge."""
        high = self.edges(sfreq_hz, sfreq_out_hz)[1]
        # Where MNE's automatic transition band ends: a quarter of the edge, at least 2 Hz, within the spectrum.
        return None if high is None else high + min(max(0.25 * high, 2.0), sfreq_hz / 2 - high)

    def look_ahead_s(self, sfreq_hz: float, sfreq_out_hz: float | None = None) -> float:
        """How far ahead of itself a sample of the result knows: half the filter, or 0 with minimum phase."""
        low, high = self.edges(sfreq_hz, sfreq_out_hz)
        return _half_filter_s(sfreq_hz, low, high, self.phase)

    def __call__(self, session: RawSession) -> None:
        low, high = self.edges(session.sfreq_hz, session.sfreq_out_hz, session.source)
        if low is None and high is None:
            return
        with session.listening():
            session.raw.filter(low, high, picks=session.filtered_rows(), phase=self.phase, verbose="WARNING")
        if high is not None:
            session.lowpass_stop_hz = self.stop_hz(session.sfreq_hz, session.sfreq_out_hz)
        session.note("BandPass", l_freq_hz=low, h_freq_hz=high, phase=self.phase)


@dataclass(frozen=True)
class Notch:
    """FIR notch at the mains frequency and its harmonics.

    Args:
        line_hz: 50 or 60; null does nothing.
        phase: "zero" (symmetric: a sample also depends on later ones, for seconds) or "minimum" (causal).
    """

    line_hz: float | None = 50.0
    phase: Literal["zero", "minimum"] = "zero"

    def __post_init__(self) -> None:
        _positive("Notch", line_hz=self.line_hz)
        _expect_phase("Notch", self.phase)

    def lines(self, sfreq_hz: float, stop_hz: float | None = None) -> list[float]:
        """The frequencies (Hz) that are removed where nothing is left above ``stop_hz``."""
        if self.line_hz is None:
            return []
        top = 0.95 * sfreq_hz / 2
        if stop_hz is not None:
            top = min(top, stop_hz)
        return [self.line_hz * k for k in range(1, int(top / self.line_hz) + 1) if self.line_hz * k < top]

    def look_ahead_s(self, sfreq_hz: float, stop_hz: float | None = None) -> float:
        """How far ahead of itself a sample of the result knows: half the filter, or 0 with minimum phase."""
        lines = np.array(self.lines(sfreq_hz, stop_hz))
        if not len(lines):
            return 0.0
        # MNE's widths: a 200th of the line, and half a hertz to either side for the transition.
        beside = lines / 400 + 0.5
        return _half_filter_s(sfreq_hz, lines + beside, lines - beside, self.phase, 0.5)

    def __call__(self, session: RawSession) -> None:
        if self.line_hz is None:
            return
        lines = self.lines(session.sfreq_hz, session.lowpass_stop_hz)
        if lines:
            with session.listening():
                session.raw.notch_filter(lines, picks=session.filtered_rows(), phase=self.phase, verbose="WARNING")
        elif not self.lines(session.sfreq_hz):  # else the band-pass has removed them
            session.warn(
                f"no notch: line_hz={self.line_hz:g} does not fit below half the recording's rate of"
                f" {session.sfreq_hz:g} Hz"
            )
        session.note("Notch", lines_hz=lines, phase=self.phase)


def _half_filter_s(sfreq_hz: float, low: Any, high: Any, phase: str, transition_hz: float | str = "auto") -> float:
    """Seconds on either side of a symmetric filter that MNE designs; 0 for a causal one."""
    if phase == "minimum" or (low is None and high is None):
        return 0.0
    import mne

    taps = mne.filter.create_filter(
        None, sfreq_hz, low, high, l_trans_bandwidth=transition_hz, h_trans_bandwidth=transition_hz, verbose="ERROR"
    )
    return (len(taps) - 1) / 2 / sfreq_hz


@dataclass(frozen=True)
class Resample:
    """Another sampling rate, behind an anti-alias filter; events and annotations keep their times.

    Args:
        sfreq_hz: new rate.
        method: "polyphase" (FIR) or "fft" (whole recording, padded).
    """

    sfreq_hz: float = 100.0
    method: Literal["polyphase", "fft"] = "polyphase"

    def __post_init__(self) -> None:
        _positive("Resample", sfreq_hz=self.sfreq_hz)
        if self.method not in ("polyphase", "fft"):
            raise InvalidValue("method", self.method, "expected polyphase or fft", where="Resample")

    def look_ahead_s(self, sfreq_hz: float) -> float:
        """How far ahead of itself a sample of the result knows."""
        if sfreq_hz == self.sfreq_hz:
            return 0.0
        return _POLYPHASE_HALF / min(sfreq_hz, self.sfreq_hz) if self.method == "polyphase" else math.inf

    def __call__(self, session: RawSession) -> None:
        before = session.sfreq_hz
        if before == self.sfreq_hz:
            return
        if session.segments is not None or session.scalers is not None:
            raise InvalidFile(
                "steps", "Resample", "expected it before scaling and cleaning, whose statistics it would change",
                where=session.source,
            )  # fmt: skip
        up_down = Fraction(self.sfreq_hz) / Fraction(before)
        ratio = up_down.limit_denominator(_LARGEST_DOWN)
        n_out = round(session.n_samples * ratio)
        if n_out < 1:
            raise InvalidFile(
                "samples", session.n_samples, "expected at least one at the new rate", where=session.source
            )
        with session.listening():
            if self.method == "polyphase":
                _make_divisible(session, ratio.denominator)
            # Given an array of events, even an empty one, MNE does not search the trigger channels twice.
            session.raw.resample(
                self.sfreq_hz, method=self.method, npad="auto", events=np.zeros((0, 3), int), verbose="ERROR"
            )
            if session.n_samples > n_out:
                session.raw.crop(tmax=(n_out - 1) / self.sfreq_hz, verbose="ERROR")
        session.note("Resample", from_hz=before, to_hz=self.sfreq_hz, method=self.method)


def _make_divisible(session: RawSession, down: int) -> None:
    """Repeat the last sample until the length is a multiple of ``down``, as one piece.

    MNE derives the polyphase ratio from the two lengths: for other lengths it would not be that of the two rates, and
    the filter would grow to the size of the recording. The parts of a split file would be resampled one by one.
    """
    import mne

    raw, rest = session.raw, -session.n_samples % down
    if rest == 0 and len(raw.filenames) == 1:
        return
    samples = np.pad(session.samples, ((0, 0), (0, rest)), mode="edge") if rest else session.samples
    session.raw = mne.io.RawArray(samples, raw.info, first_samp=raw.first_samp, verbose="ERROR")
