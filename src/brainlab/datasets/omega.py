"""OMEGA, the Open MEG Archive: resting-state MEG of a CTF 275 system at 60 Hz mains.

Layout: ``sub-XNNNN/ses-*/meg/<recording>.ds`` (a ``_meg.fif`` stands for the same). Source: Niso et al. (2016).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Int16

from brainlab.datasets.recordings import Archive, RecordingFile, empty_room, recording_paths
from brainlab.io.recording import Annotation, Event

__all__ = ["Omega", "omega_task"]


def omega_task(name: str) -> str | None:
    """What was done, from a file's name; None for empty-room noise and for anything that is not rest.

    >>> [omega_task(name) for name in ("sub-0001_task-rest_meg", "sub-0001_task-restafter_meg", "x_noise_meg")]
    ['rest', 'restaftertask', None]
    """
    lower = name.lower()
    if "noise" in lower or "emptyroom" in lower:
        return None
    if "restafter" in lower:
        return "restaftertask"
    return "rest" if "rest" in lower else None


@dataclass(frozen=True)
class Omega(Archive):
    """Where OMEGA's recordings are: ``sub-<id>_ses-<s>_<task>``. All of them are rest: there are no conditions.

    The letter in front of a subject's number is dropped from the name, not from ``subject``. Runs of one session share
    a name and are numbered.
    """

    name: str = "omega"
    line_hz: float | None = 60.0

    expected: ClassVar[str] = "OMEGA recordings (sub-*/ses-*/meg/*_task-rest*)"
    others: ClassVar[str] = "recordings of an empty room or another task"

    def _files(self, folder: Path, include: str | Sequence[str]) -> Iterator[RecordingFile | None]:
        for path in recording_paths(folder, include):
            match = re.search(r"(?:^|/)(sub-[^/]+)/ses-([^/]+)/meg/([^/]+)$", path.relative_to(folder).as_posix())
            if match is None:
                continue
            task = None if empty_room(path.relative_to(folder)) else omega_task(match[3])
            if task is None:
                yield None
                continue
            label = match[1].removeprefix("sub-")
            number = label[1:] if re.fullmatch(r"[A-Za-z].+|.\d{4}", label) else label
            name = f"sub-{number}_ses-{match[2]}_{task}"
            yield RecordingFile(path, name, self.name, match[1], f"ses-{match[2]}", task)

    def conditions(
        self,
        file: RecordingFile,
        events: Sequence[Event],
        annotations: Sequence[Annotation],
        n_samples: int,
        sfreq_hz: float,
        raw_sfreq_hz: float,
    ) -> Int16[np.ndarray, " time"] | None:
        """None: rest has no conditions."""
        return None
