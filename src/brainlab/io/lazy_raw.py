"""Samples that a reader of our own delivers, as an MNE object that reads them when asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mne
import numpy as np

__all__ = ["LazyRaw"]


class LazyRaw(mne.io.BaseRaw):  # type: ignore[misc,name-defined,unused-ignore]
    """A recording whose samples stay where they are until MNE asks for them.

    Args:
        info: measurement info with calibrations of one.
        read: ``read(start, stop)`` → float64 (channel, time) in SI units; picklable, so that copies need no samples.
        n_samples: length.
        path: where the samples lie.
    """

    def __init__(self, info: Any, read: Callable[[int, int], np.ndarray], n_samples: int, path: Path) -> None:
        super().__init__(
            info, preload=False, first_samps=(0,), last_samps=(n_samples - 1,), filenames=[path],
            raw_extras=[{"read": read}], orig_format="single", verbose="ERROR",
        )  # fmt: skip

    def _read_segment_file(
        self, data: np.ndarray, idx: Any, fi: int, start: int, stop: int, cals: Any, mult: np.ndarray | None
    ) -> None:
        samples = self._raw_extras[fi]["read"](start, stop)[idx]
        if mult is not None:
            data[:] = mult @ samples
        else:
            data[:] = samples if cals is None else samples * cals
