"""Cam-CAN: rest and sensorimotor tasks over the adult life span; Elekta Vectorview 306 at 50 Hz mains.

Layout: somewhere below the root, in a folder named after the cohort (``cc700`` …), ``sub-*`` folders with
``*_meg.fif``; ``cal.dat`` (fine calibration) and ``ct_sparse.fif`` (crosstalk) lie beside the tree.
Source: Taylor et al. (2017).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Int16

from brainlab.datasets.conditions import dense, from_annotations, from_events, from_table, read_table
from brainlab.datasets.recordings import Archive, RecordingFile, empty_room, events_table, recording_paths
from brainlab.io.recording import Annotation, Event

__all__ = ["CALIBRATION", "CROSSTALK", "DEEPEST", "CamCan"]

DEEPEST = 7
"""Levels below the root at which a subject's folder is looked for."""

CALIBRATION = "cal.dat"
CROSSTALK = "ct_sparse.fif"


@dataclass(frozen=True)
class CamCan(Archive):
    """Where Cam-CAN's recordings are and what their events mean.

    Names are ``<cohort>_sub-<id>[_ses-…][_task-…][_run-…]``; crosstalk files and empty rooms are left out.

    Attributes:
        stim_channels: where trigger codes may be, in order of preference.
    """

    name: str = "camcan"
    line_hz: float | None = 50.0
    stim_channels: tuple[str, ...] = ("STI101", "STI 014", "UPPT001")

    expected: ClassVar[str] = f"Cam-CAN recordings (…/sub-*/…_meg.fif, at most {DEEPEST} deep)"
    others: ClassVar[str] = "empty-room recordings"

    def _files(self, folder: Path, include: str | Sequence[str]) -> Iterator[RecordingFile | None]:
        allowed = set(recording_paths(folder, include))
        for subject in _subject_folders(folder):
            for path in recording_paths(subject):
                lower = path.name.lower()
                stem = re.sub(r"\.(fif(\.gz)?|ds)$", "", lower)
                if stem == lower or not stem.endswith("_meg") or "crosstalk" in lower:
                    continue
                # Empty rooms are counted whether or not a pattern asks for them.
                if empty_room(path.relative_to(folder)):
                    yield None
                elif path in allowed:
                    yield self._file(path, subject, folder)

    def _file(self, path: Path, subject: Path, root: Path) -> RecordingFile:
        within = "/".join([subject.name, *path.relative_to(subject).parts])
        entities: dict[str, str] = dict(re.findall(r"(?:^|[_/])(ses|task|run)-([A-Za-z0-9]+)", within))
        parts = [f"{key}-{entities[key]}" for key in ("ses", "task", "run") if key in entities]
        return RecordingFile(
            path=path,
            name="_".join([_cohort(subject, root), subject.name, *parts]),
            dataset=self.name,
            subject=subject.name,
            session="_".join(parts) or subject.name,
            task=entities.get("task", ""),
        )

    def conditions(
        self,
        file: RecordingFile,
        events: Sequence[Event],
        annotations: Sequence[Annotation],
        n_samples: int,
        sfreq_hz: float,
        raw_sfreq_hz: float,
    ) -> Int16[np.ndarray, " time"] | None:
        """Codes from the events table beside the file, else from the trigger codes, else from the annotations.

        Args:
            events: trigger codes at ``raw_sfreq_hz``, from the first sample.
            n_samples: length of the result, at ``sfreq_hz``.

        Returns:
            None where nothing marks anything.
        """
        table = events_table(file.path)
        rows = from_table(read_table(table)) if table is not None else []
        rows = rows or from_events(events, raw_sfreq_hz) or from_annotations(annotations)
        return dense(rows, n_samples, sfreq_hz) if rows else None


def _subject_folders(root: Path) -> Iterator[Path]:
    """Breadth-first; a subject's folder is not searched for further subjects."""
    level = [root]
    for _ in range(DEEPEST):
        below: list[Path] = []
        for folder in level:
            for path in sorted(folder.iterdir()):
                if not path.is_dir() or path.name.startswith("."):
                    continue
                if path.name.startswith("sub-"):
                    yield path
                else:
                    below.append(path)
        level = below


def _cohort(subject: Path, root: Path) -> str:
    """The nearest folder above the subject that is named like a cohort (cc700), else the one right above it."""
    above = [*reversed(subject.relative_to(root).parent.parts), root.resolve().name]
    return next((name for name in above if re.fullmatch(r"cc\d+", name.lower())), above[0])
