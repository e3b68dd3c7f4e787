"""Windows with too much power are bad; a session keeps its good stretches, or is left out with a reason.

Nothing is cut out of the stored samples: the usable stretches are listed beside them, so that windows never cross a
gap and an analysis of everything stays possible.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from brainlab.errors import InvalidValue
from brainlab.prepare.steps.session import Discarded, RawSession

__all__ = ["Clean", "bad_windows", "good_segments"]

Reason = Literal["too_short", "too_many_bad_windows", "no_good_windows", "first_segment_too_short", "no_segments"]


def bad_windows(
    samples: Float[np.ndarray, "channel time"], width: int, threshold: float
) -> Bool[np.ndarray, " window"]:
    """Which windows side by side have a standard deviation, over channels and time together, above a threshold.

    Args:
        samples: all channels; what does not fill a last window is not judged.
        width: samples per window.
        threshold: in units of the samples.
    """
    n_windows = samples.shape[1] // width
    spread = [samples[:, k * width : (k + 1) * width].std() for k in range(n_windows)]
    return np.array(spread) > threshold if spread else np.zeros(0, dtype=bool)


def good_segments(
    bad: Bool[np.ndarray, " window"], width: int, most_windows: int, least_samples: int
) -> list[tuple[int, int]]:
    """Runs of good windows, cut into pieces, without the short ones.

    Args:
        bad: one entry per window.
        width: samples per window.
        most_windows: longest piece.
        least_samples: shortest piece that is kept.

    Returns:
        [start, stop) in samples, in order.

    >>> good_segments(np.array([0, 0, 0, 1, 0], bool), 10, 2, 10)
    [(0, 20), (20, 30), (40, 50)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[1], bad.astype(np.int8), [1]])))
    pieces = [
        (start * width, min(start + most_windows, last) * width)
        for first, last in edges.reshape(-1, 2).tolist()
        for start in range(first, last, most_windows)
    ]
    return [(start, stop) for start, stop in pieces if stop - start >= least_samples]


@dataclass(frozen=True)
class Clean:
    """Judge windows of the scaled samples, keep runs of good ones, clip the rest of the outliers.

    Windows are judged before clipping. A session is discarded, in this order of reasons, when it has no whole window
    (too_short), more than ``max_bad_pct`` % bad windows (too_many_bad_windows), no good one (no_good_windows), no
    piece of at least ``min_segment_s`` (no_segments), or a first piece below ``min_first_segment_s``
    (first_segment_too_short).

    Args:
        window_s: width of a window.
        std_threshold: a window with a larger standard deviation over channels × time is bad.
        max_bad_pct: discards a session with more bad windows than this.
        clip: limit of the stored numbers, ±; null for none.
        max_segment_s: longer runs are cut.
        min_segment_s: shorter pieces are not kept.
        min_first_segment_s: a session whose first piece is shorter is discarded.
    """

    window_s: float = 5.0
    std_threshold: float = 1.5
    max_bad_pct: float = 20.0
    clip: float | None = 10.0
    max_segment_s: float = 600.0
    min_segment_s: float = 60.0
    min_first_segment_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("window_s", "std_threshold", "max_segment_s"):
            if not getattr(self, name) > 0:
                raise InvalidValue(name, getattr(self, name), "expected a positive number", where="Clean")
        if self.clip is not None and not self.clip > 0:
            raise InvalidValue("clip", self.clip, "expected a positive number or null", where="Clean")
        if self.max_segment_s < self.window_s:
            raise InvalidValue(
                "max_segment_s",
                self.max_segment_s,
                f"expected at least one window of {self.window_s:g} s",
                where="Clean",
            )

    def __call__(self, session: RawSession) -> None:
        rate, samples = session.sfreq_hz, session.samples
        width = round(self.window_s * rate)
        if width < 1:
            raise InvalidValue("window_s", self.window_s, f"expected at least one sample at {rate:g} Hz", where="Clean")
        bad = bad_windows(samples, width, self.std_threshold)
        total, n_bad = len(bad), int(bad.sum())
        segments = good_segments(bad, width, int(self.max_segment_s / self.window_s), int(self.min_segment_s * rate))
        pct = 100 * n_bad / total if total else 0.0
        summary: dict[str, Any] = {"total": total, "bad": n_bad, "bad_pct": round(pct, 4), "kept": total - n_bad}
        reason: Reason | None = None
        if total == 0:
            reason = "too_short"
        elif pct > self.max_bad_pct:
            reason = "too_many_bad_windows"
        elif n_bad == total:
            reason = "no_good_windows"
        elif not segments:
            reason = "no_segments"
        elif segments[0][1] - segments[0][0] < int(self.min_first_segment_s * rate):
            reason = "first_segment_too_short"
        if reason is not None:
            raise Discarded(
                reason,
                {**summary, "clipped_pct": 0.0, "segments_kept": 0, "discarded": True, "discard_reason": reason},
                *self._words(reason, session.n_samples / rate, bad, pct, segments, width / rate, rate),
            )
        outside = 0
        if self.clip is not None:
            for row in samples:
                outside += int(np.count_nonzero(np.abs(row) > self.clip))
                np.clip(row, -self.clip, self.clip, out=row)
        session.segments = segments
        clipped = round(100 * outside / samples.size, 4)
        session.note(
            "Clean", **summary, clipped_pct=clipped, segments_kept=len(segments), discarded=False, discard_reason=None
        )

    def _words(
        self, reason: Reason, seconds: float, bad: np.ndarray, pct: float, segments: list[tuple[int, int]],
        width_s: float, rate: float,
    ) -> tuple[str, str]:  # fmt: skip
        """What was found and expected, and the key that decides."""
        key = "data.steps.clean"
        if reason == "too_short":
            return (
                f"{seconds:.1f} s, expected at least one window of {self.window_s:g} s",
                f"{key}.window_s={_floor(seconds):g} with a smaller {key}.min_segment_s",
            )
        if reason == "too_many_bad_windows":
            return (
                f"{pct:.1f} % of the windows have a standard deviation above {self.std_threshold:g}, expected at most"
                f" {self.max_bad_pct:g} %",
                f"{key}.max_bad_pct={np.ceil(pct):g} or a larger {key}.std_threshold",
            )
        if reason == "no_good_windows":
            return (
                f"every window has a standard deviation above {self.std_threshold:g}, expected a calmer one",
                f"a larger {key}.std_threshold",
            )
        if reason == "first_segment_too_short":
            first_s = (segments[0][1] - segments[0][0]) / rate
            return (
                f"the first clean stretch has {first_s:.1f} s, expected {self.min_first_segment_s:g} s",
                f"{key}.min_first_segment_s={_floor(first_s):g}",
            )
        usable_s = float((~bad).sum()) * width_s
        runs = [stop - start for start, stop in good_segments(bad, 1, max(1, int(self.max_segment_s / width_s)), 1)]
        longest_s = max(runs) * width_s
        return (
            f"{usable_s:.1f} s usable, {longest_s:.1f} s at a stretch, expected a clean stretch of"
            f" {self.min_segment_s:g} s",
            f"{key}.min_segment_s={_floor(longest_s):g}",
        )


def _floor(seconds: float) -> float:
    """Rounded down to tenths, so that a limit of this is met."""
    return max(0.1, np.floor(10 * seconds + 1e-6) / 10)
