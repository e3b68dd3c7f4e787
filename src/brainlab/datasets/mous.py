"""MOUS, the Mother Of Unification Studies: rest and sentences, heard or read; MEG of a CTF 275 system at 50 Hz mains.

Layout: ``sub-*/meg/sub-*_task-{rest,auditory,visual}_meg.ds`` (a ``_meg.fif`` stands for the same).
Source: Schoffelen et al. (2019).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Int16

from brainlab.datasets.recordings import Archive, RecordingFile, empty_room, recording_paths
from brainlab.errors import InvalidValue
from brainlab.io.recording import Annotation, Event

__all__ = ["Mous", "mous_conditions"]

_STARTS = {"auditory": (1, 3, 5, 7), "visual": tuple(range(1, 9))}
_SPOKEN, _READ, _END = 1, 5, 15
_UNTIL_NEXT = {10: 2, 20: 3, 40: 4}
_SHORTEST = 5  # samples; a range must be longer


def mous_conditions(
    events: Sequence[Event], n_samples: int, decimation: float, *, visual: bool
) -> Int16[np.ndarray, " time"]:
    """Dense codes of a session with sentences.

    A sentence lasts from its start code (1, 3, 5, 7; reading: 1 … 8) to code 15 and is condition 1 (reading: 5).
    Codes 10, 20, 40 are conditions 2, 3, 4 until the next event of any code. What no event ends lasts to the end of
    the recording. Later ranges overwrite earlier ones; ranges of 5 samples or less are ignored.

    Args:
        events: trigger codes at the rate of the file, from its first sample.
        n_samples: length of the result.
        decimation: rate of the file over rate of the result; samples are divided by it and rounded down.
        visual: sentences were read.
    """
    starts, code_of_sentence = (_STARTS["visual"], _READ) if visual else (_STARTS["auditory"], _SPOKEN)
    ordered = sorted(events, key=lambda event: event.sample)
    # A rate such as 1200/100 may come out as 12.000000001: that must not push an event to the sample before.
    at = [math.floor(event.sample / decimation + 1e-9) for event in ordered]
    codes = np.zeros(n_samples, np.int16)
    for number, event in enumerate(ordered):
        if event.code in starts:
            ends = (at[later] for later in range(number + 1, len(ordered)) if ordered[later].code == _END)
            condition, stop = code_of_sentence, next(ends, n_samples)
        elif event.code in _UNTIL_NEXT:
            condition, stop = _UNTIL_NEXT[event.code], at[number + 1] if number + 1 < len(at) else n_samples
        else:
            continue
        start, stop = max(at[number], 0), min(stop, n_samples)
        if stop - start > _SHORTEST:
            codes[start:stop] = condition
    return codes


@dataclass(frozen=True)
class Mous(Archive):
    """Where MOUS' recordings are, of all tasks, and what its trigger codes mean; names are ``sub-<id>_ses-<task>``.

    Attributes:
        stim_channels: where the trigger codes are.
        shortest_event_s: shorter pulses are no codes.
    """

    name: str = "mous"
    line_hz: float | None = 50.0
    stim_channels: tuple[str, ...] = ("UPPT001",)
    shortest_event_s: float = 0.05

    expected: ClassVar[str] = "MOUS recordings (sub-*/meg/*_task-*_meg.ds)"
    others: ClassVar[str] = "recordings of an empty room or without a task in their name"

    def _files(self, folder: Path, include: str | Sequence[str]) -> Iterator[RecordingFile | None]:
        for path in recording_paths(folder, include):
            match = re.search(r"(?:^|/)(sub-[^/]+)/meg/([^/]+)$", path.relative_to(folder).as_posix())
            if match is None or "crosstalk" in match[2].lower():
                continue
            task = re.search(r"task-([A-Za-z0-9]+)", match[2])
            if task is None or empty_room(path.relative_to(folder)):
                yield None
                continue
            session = f"ses-{task[1]}"
            yield RecordingFile(path, f"{match[1]}_{session}", self.name, match[1], session, task[1])

    def conditions(
        self,
        file: RecordingFile,
        events: Sequence[Event],
        annotations: Sequence[Annotation],
        n_samples: int,
        sfreq_hz: float,
        raw_sfreq_hz: float,
    ) -> Int16[np.ndarray, " time"] | None:
        """Codes of :func:`mous_conditions`; None at rest.

        Args:
            events: trigger codes at ``raw_sfreq_hz``, from the first sample.
            n_samples: length of the result, at ``sfreq_hz``.

        Raises:
            InvalidValue: if a rate is not positive.
        """
        if "rest" in file.task.lower():
            return None
        for name, rate in (("sfreq_hz", sfreq_hz), ("raw_sfreq_hz", raw_sfreq_hz)):
            if not rate > 0:
                raise InvalidValue(name, rate, "expected a positive number of samples per second", where=str(file.path))
        return mous_conditions(events, n_samples, raw_sfreq_hz / sfreq_hz, visual="visual" in file.task.lower())
