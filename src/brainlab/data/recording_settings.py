"""Which settings of the windows and splits of recordings cannot work: known before anything is read."""

from __future__ import annotations

from collections.abc import Sequence

from brainlab.data.recording_split import KINDS
from brainlab.errors import InvalidValue

__all__ = ["check_settings"]


def check_settings(
    split: str, fractions: Sequence[float], guard_s: float, window_s: float, overlap_s: float, layout: str
) -> None:
    """Refuse what no recording could make work.

    Raises:
        InvalidValue: naming the setting of the data module, or the one that it does not fit to.
    """
    for name, value, known in (("split", split, KINDS), ("layout", layout, ("canonical", "separate"))):
        if value not in known:
            raise InvalidValue(f"data.{name}", value, f"unknown; expected one of {', '.join(known)}")
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6 or fractions[0] == 0:
        raise InvalidValue(
            "data.fractions", list(fractions), "expected three numbers ≥ 0 that sum to 1, the first of them above 0"
        )
    if not window_s > 0:
        raise InvalidValue("data.window_s", window_s, "expected a positive number of seconds")
    if not 0 <= overlap_s < window_s:
        raise InvalidValue("data.overlap_s", overlap_s, f"expected 0 or more, below data.window_s={window_s:g}")
    if split == "time" and guard_s < window_s:
        raise InvalidValue(
            "data.window_s", window_s,
            f"expected at most data.guard_s={guard_s:g} with data.split=time: neighbouring windows of one recording are"
            " alike", hint=f"shorter windows, or data.guard_s={window_s:g}",
        )  # fmt: skip
