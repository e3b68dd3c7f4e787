"""Steps in frequency: band-pass, notch, resampling, by MNE's FIR filters on the whole recording."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from brainlab.errors import InvalidFile, InvalidValue
from brainlab.prepare.steps.session import RawSession

__all__ = ["BandPass", "Notch", "Resample"]

_NYQUIST_SHARE = 0.9
_LARGEST_DOWN = 10_000


def _positive(step: str, **values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not value > 0:
            raise InvalidValue(name, value, "expected a positive frequency or null", where=step)


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
        if self.phase not in ("zero", "minimum"):
            raise InvalidValue("phase", self.phase, "expected zero or minimum", where="BandPass")
        if self.l_freq_hz is not None and self.h_freq_hz is not None and self.l_freq_hz >= self.h_freq_hz:
            raise InvalidValue(
                "l_freq_hz", self.l_freq_hz, f"expected it below h_freq_hz={self.h_freq_hz:g}", where="BandPass"
            )

    def __call__(self, session: RawSession) -> None:
        low, high = self.l_freq_hz, self.h_freq_hz
        bound = _NYQUIST_SHARE * min(session.sfreq_hz, session.sfreq_out_hz or session.sfreq_hz) / 2
        if high is not None:
            high = min(high, bound)
        if low is not None and low >= (high or bound):
            raise InvalidValue("l_freq_hz", low, f"expected it below {high or bound:g} Hz", where=session.source)
        if low is None and high is None:
            return
        with session.listening():
            session.raw.filter(low, high, picks=session.filtered_rows(), phase=self.phase, verbose="WARNING")
        if high is not None:
            # Where MNE's automatic transition band ends: a quarter of the edge, at least 2 Hz, within the spectrum.
            session.lowpass_stop_hz = high + min(max(0.25 * high, 2.0), session.sfreq_hz / 2 - high)
        session.note("BandPass", l_freq_hz=low, h_freq_hz=high, phase=self.phase)


@dataclass(frozen=True)
class Notch:
    """Zero-phase FIR notch at the mains frequency and its harmonics.

    Args:
        line_hz: 50 or 60; null does nothing.
    """

    line_hz: float | None = 50.0

    def __post_init__(self) -> None:
        _positive("Notch", line_hz=self.line_hz)

    def __call__(self, session: RawSession) -> None:
        if self.line_hz is None:
            return
        top = 0.95 * session.sfreq_hz / 2
        if session.lowpass_stop_hz is not None:  # nothing is left to remove above
            top = min(top, session.lowpass_stop_hz)
        lines = [self.line_hz * k for k in range(1, int(top / self.line_hz) + 1) if self.line_hz * k < top]
        if lines:
            with session.listening():
                session.raw.notch_filter(lines, picks=session.filtered_rows(), verbose="WARNING")
        session.note("Notch", lines_hz=lines)


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
