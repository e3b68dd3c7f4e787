"""OMEGA, the Open MEG Archive: resting-state MEG of a CTF 275 system at 60 Hz mains.

Layout: ``sub-XNNNN/ses-*/meg/<recording>.ds`` (a ``_meg.fif`` stands for the same). Source: Niso et al. (2016).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int16

from brainlab.datasets.recordings import (
    RecordingFile,
    empty_room,
    existing_folder,
    nothing_found,
    numbered,
    recording_paths,
)
from brainlab.io.recording import Annotation, Event

__all__ = ["Omega", "omega_task"]

log = logging.getLogger(__name__)


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
class Omega:
    """Where OMEGA's recordings are. All of them are rest: there are no conditions."""

    name: str = "omega"
    line_hz: float | None = 60.0

    def find(self, root: str | Path, include: str | Sequence[str] = "*") -> list[RecordingFile]:
        """The recordings of somebody at rest, sorted by name ``sub-<id>_ses-<s>_<task>``.

        The letter in front of a subject's number is dropped from the name, not from ``subject``. Runs of one session
        share a name and get ``-01``, ``-02`` … behind it.

        Raises:
            InvalidFile: if ``root`` is no folder.
            InvalidValue: if no recording is there.
        """
        folder = existing_folder(root)
        files, others = [], 0
        for path in recording_paths(folder, include):
            match = re.search(r"(?:^|/)(sub-[^/]+)/ses-([^/]+)/meg/([^/]+)$", path.relative_to(folder).as_posix())
            if match is None:
                continue
            task = None if empty_room(path.relative_to(folder)) else omega_task(match[3])
            if task is None:
                others += 1
                continue
            label = match[1].removeprefix("sub-")
            number = label[1:] if re.fullmatch(r"[A-Za-z].+|.\d{4}", label) else label
            name = f"sub-{number}_ses-{match[2]}_{task}"
            files.append(RecordingFile(path, name, self.name, match[1], f"ses-{match[2]}", task))
        if not files:
            raise nothing_found(folder, include, "OMEGA recordings (sub-*/ses-*/meg/*_task-rest*)")
        if others:
            log.info("%s: %d recordings of an empty room or another task left out", folder, others)
        return numbered(files)

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

    def recipe(self) -> dict[str, Any]:
        """What the results depend on, JSON-ready."""
        return {"dataset": self.name}
