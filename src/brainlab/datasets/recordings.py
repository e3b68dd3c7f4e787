"""Folders of recordings that MNE can open: which files belong to a data set, and what their channels are.

A data set is a folder (``root``) and one or more glob patterns relative to it (``include``). A pattern without a slash
matches a file name at any depth. Names follow BIDS where the path does (``sub-…``, ``ses-…``, ``task-…``, ``run-…``);
elsewhere the file name is the subject. :class:`AnyRecordings` is such a folder as a data set object, :class:`Archive`
what public data sets with a layout of their own have in common.
"""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int16

from brainlab.datasets.conditions import dense, from_table, read_table
from brainlab.errors import InvalidFile, InvalidValue
from brainlab.io.bids_sidecars import sidecar
from brainlab.io.recording import Annotation, Event

__all__ = [
    "READABLE",
    "AnyRecordings",
    "Archive",
    "RecordingFile",
    "channel_kind",
    "companions",
    "empty_room",
    "events_table",
    "find_recordings",
    "names_of",
    "recording_paths",
    "recordings_of",
]

READABLE = (
    *(".fif", ".fif.gz", ".set", ".edf", ".bdf", ".gdf", ".vhdr", ".cnt", ".sqd", ".con", ".nxe", ".lay"),
    *(".ds", ".mff", ".egi", ".raw"),
)
"""Endings that may name a recording; ``.ds`` and ``.mff`` are folders. BTi/4D has none: see :func:`recording_paths`."""

_FOLDERS = (".ds", ".mff")
_LATER_PART = re.compile(r"(-\d+\.fif(\.gz)?$)|(_split-(?!0*1[_.])\d+_)")
_ENTITY = re.compile(r"(?:^|[_/])(sub|ses|task|run)-([A-Za-z0-9]+)")
# FIF also holds what is no recording: MNE's endings of derived files, and crosstalk beside Vectorview recordings.
_OTHER_FIF = re.compile(
    r"(?:[-_](?:eve|cov|trans|fwd|inv|epo|ave|ica|proj|src|bem|sol|dip|morph)|crosstalk.*|ct_sparse.*)\.fif(?:\.gz)?$",
    re.IGNORECASE,
)
_BTI_DATA = re.compile(r"[ce],rf", re.IGNORECASE)
_BTI_SIDE = ("config", "hs_file")
_INHERITED = ("events.tsv", "channels.tsv", "electrodes.tsv", "coordsystem.json")
_LISTED = 8

# Files often type every electrode as EEG; the name then is all there is to go by.
_BY_NAME = (
    ("eog", re.compile(r"^(?:[hv]?e[-_ ]?og|[hv]eo)[-_ ]?\w{0,3}$|^e[-_ ]?og\b", re.IGNORECASE)),
    ("ecg", re.compile(r"^(?:ecg|ekg)[-_ ]?\w{0,3}$", re.IGNORECASE)),
    ("emg", re.compile(r"^emg[-_ ]?\w{0,5}$", re.IGNORECASE)),
    ("stim", re.compile(r"^(?:sti ?\d+|status|trigger|stim)$", re.IGNORECASE)),
    ("misc", re.compile(r"^(?:gsr|eda|resp\w*|temp\w*|photo\w*|ppg|spo2|pulse)[-_ ]?\d*$", re.IGNORECASE)),
)


@dataclass(frozen=True)
class RecordingFile:
    """One file of a data set and whose recording it is.

    ``name`` is unique within the data set; ``task`` is what was done (rest, auditory …), empty where nothing says so.
    """

    path: Path
    name: str
    dataset: str
    subject: str
    session: str
    task: str = ""


@dataclass(frozen=True)
class Archive(ABC):
    """A public data set with a layout of its own, in which a path says whose recording of what lies there.

    Attributes:
        line_hz: mains frequency.
    """

    name: str
    line_hz: float | None

    expected: ClassVar[str]  # what is missing where no recording is found
    others: ClassVar[str]  # what is counted as left out

    def find(self, root: str | Path, include: str | Sequence[str] = "*") -> list[RecordingFile]:
        """The recordings of somebody, sorted by name; a name that occurs again gets ``-01``, ``-02`` … behind it.

        Raises:
            InvalidFile: if ``root`` is no folder.
            InvalidValue: if no recording is there.
        """
        folder = _existing_folder(root)
        found = list(self._files(folder, include))
        files = [file for file in found if file is not None]
        if not files:
            raise _nothing_found(folder, include, self.expected)
        if others := len(found) - len(files):
            logging.getLogger(type(self).__module__).info("%s: %d %s left out", folder, others, self.others)
        return _numbered(files)

    @abstractmethod
    def _files(self, folder: Path, include: str | Sequence[str]) -> Iterator[RecordingFile | None]:
        """In any order; None stands for a recording that is left out, and nothing for a file that is foreign."""

    def recipe(self) -> dict[str, Any]:
        """What the results depend on, JSON-ready."""
        return {"dataset": self.name}


@dataclass(frozen=True)
class AnyRecordings:
    """Any folder or BIDS tree of recordings that MNE opens.

    Attributes:
        line_hz: mains frequency; unknown for recordings of any origin.
    """

    name: str = "recordings"
    line_hz: float | None = None

    def find(self, root: str | Path, include: str | Sequence[str] = "*") -> list[RecordingFile]:
        """The recordings below ``root``, sorted by name; empty-room recordings in the spelling of BIDS are left out.

        Raises:
            InvalidFile, InvalidValue: as :func:`find_recordings`.
        """
        files = find_recordings(root, include)
        folder = _existing_folder(root)
        # Noise that somebody listens to is a task of EEG; in MEG the word means an empty room.
        kept = [f for f in files if _stem(f.path).endswith("_eeg") or not empty_room(f.path.relative_to(folder))]
        if not kept:
            raise InvalidValue("data.include", include, "expected recordings of somebody, found empty rooms only")
        return sorted(kept, key=lambda file: file.name)

    def conditions(
        self,
        file: RecordingFile,
        events: Sequence[Event],
        annotations: Sequence[Annotation],
        n_samples: int,
        sfreq_hz: float,
        raw_sfreq_hz: float,
    ) -> Int16[np.ndarray, " time"] | None:
        """Codes of the BIDS events table beside the recording; None without one: triggers mean anything."""
        table = events_table(file.path)
        if table is None:
            return None
        rows = from_table(read_table(table))
        return dense(rows, n_samples, sfreq_hz) if rows else None

    def recipe(self) -> dict[str, Any]:
        """What the results depend on, JSON-ready."""
        return {"dataset": self.name}


def channel_kind(name: str, kind: str) -> str:
    """What a channel is: the file's own word, unless it says EEG of a channel whose name says otherwise.

    >>> [channel_kind(name, "eeg") for name in ("EOG1", "VEOG", "HEOR", "ECG", "Fp1", "O2", "STI 014")]
    ['eog', 'eog', 'eog', 'ecg', 'eeg', 'eeg', 'stim']
    >>> channel_kind("EOG1", "misc")
    'misc'
    """
    if kind.lower() != "eeg":
        return kind.lower()
    return next((word for word, pattern in _BY_NAME if pattern.match(name.strip())), "eeg")


def find_recordings(root: str | Path, include: str | Sequence[str] = "*") -> list[RecordingFile]:
    """The recordings under ``root`` that any pattern of ``include`` matches, sorted by path.

    Side files (``.fdt``, ``.vmrk`` …) and the later parts of a split FIF are never listed: their head file stands
    for them. Nor are FIF files that are named as something derived (``-epo``, ``-cov``, ``-trans`` …) or crosstalk.

    Raises:
        InvalidFile: if ``root`` is no folder.
        InvalidValue: if nothing matches; the sentence lists what is there.
    """
    folder = _existing_folder(root)
    chosen = recording_paths(folder, include)
    if not chosen:
        raise _nothing_found(folder, include, "a pattern that matches a recording")
    files = [names_of(path, folder) for path in chosen]
    return _unique(files, folder)


def _existing_folder(root: str | Path) -> Path:
    """``root`` as a path.

    Raises:
        InvalidFile: if it is no folder.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise InvalidFile(
            "data.root", root, "expected an existing folder", hint="data.root=null runs on simulated recordings"
        )
    return folder


def recording_paths(folder: Path, include: str | Sequence[str] = "*") -> list[Path]:
    """Everything below ``folder`` that may be a recording and matches a pattern, sorted.

    The data file of BTi/4D (``c,rf…`` or ``e,rf…`` beside a file ``config``) is one, too.
    """
    patterns = [include] if isinstance(include, str) else list(include)
    there = [path for path in sorted(folder.rglob("*")) if _is_recording(path, folder)]
    return [path for path in there if any(_matches(path.relative_to(folder).as_posix(), p) for p in patterns)]


def _nothing_found(folder: Path, include: str | Sequence[str], expected: str) -> InvalidValue:
    """The error of a folder in which nothing fits; it lists what is there."""
    names = [path.relative_to(folder).as_posix() for path in recording_paths(folder)]
    listed = ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
    return InvalidValue(
        "data.include",
        include,
        f"expected {expected} under {folder}",
        hint=f"readable files there: {listed}" if names else f"no file there ends in {', '.join(READABLE)}",
    )


def empty_room(path: Path) -> bool:
    """Whether the names say that nobody was in the scanner (emptyroom; BIDS also has task-noise)."""
    words = r"(?:^|[/_-])empty[-_]?room(?![a-z0-9])|(?:sub|task)-(?:empty|noise)(?![a-z0-9])"
    return re.search(words, path.as_posix().lower()) is not None


def events_table(path: Path) -> Path | None:
    """The BIDS events table beside a recording, or the nearest one that it inherits."""
    table = path.with_name(f"{_stem(path).rsplit('_', 1)[0]}_events.tsv")
    if table.is_file():
        return table
    return sidecar(path, "events.tsv") if path.name.startswith("sub-") else None


def _numbered(files: Sequence[RecordingFile]) -> list[RecordingFile]:
    """Sorted by name, with -01, -02 … behind a name that an earlier file has already."""
    taken: set[str] = set()
    unique = []
    for file in sorted(files, key=lambda file: file.name):
        name, number = file.name, 0
        while name in taken:
            number += 1
            name = f"{file.name}-{number:02d}"
        taken.add(name)
        unique.append(replace(file, name=name))
    return sorted(unique, key=lambda file: file.name)


def recordings_of(subject: str | int, files: Sequence[RecordingFile]) -> list[RecordingFile]:
    """The recordings of one person.

    Args:
        subject: the name that a file's path gives (``sub-07``, or what follows ``sub-``), or its number.
        files: as :func:`find_recordings` lists them.

    Raises:
        InvalidValue: nobody is called that; the sentence names who is there.
    """
    wanted = str(subject)

    def is_meant(name: str) -> bool:
        label = name.removeprefix("sub-")
        return wanted in (name, label) or (wanted.isdecimal() and label.isdecimal() and int(wanted) == int(label))

    chosen = [file for file in files if is_meant(file.subject)]
    if not chosen:
        there = sorted({file.subject for file in files})
        listed = ", ".join(there[:_LISTED]) + (f" and {len(there) - _LISTED} more" if len(there) > _LISTED else "")
        raise InvalidValue("data.subject", subject, f"expected one of {listed}")
    return chosen


def names_of(path: Path, root: Path) -> RecordingFile:
    """Subject, session and data set of one file, from its path below ``root``."""
    relative = path.relative_to(root).as_posix()
    entities: dict[str, str] = {}
    for key, value in _ENTITY.findall(relative):
        entities[key] = value
    stem = _stem(path)
    session = "_".join(f"{key}-{entities[key]}" for key in ("ses", "task", "run") if key in entities)
    return RecordingFile(
        path=path,
        name=stem,
        dataset=root.resolve().name,
        subject=f"sub-{entities['sub']}" if "sub" in entities else stem,
        session=session or stem,
        task=entities.get("task", ""),
    )


def companions(path: Path) -> list[Path]:
    """Every file that the recording at ``path`` is read from: itself or its content, side files, inherited tables."""
    own = _own_files(path)
    endings = (*_INHERITED, f"{_stem(path).rsplit('_', 1)[-1]}.json") if path.name.startswith("sub-") else ()
    inherited = {file for ending in endings if (file := sidecar(path, ending)) is not None}
    return [*own, *sorted(inherited - set(own))]


def _own_files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(part for part in path.rglob("*") if part.is_file())
    stem = _stem(path)
    there = [part for part in path.parent.iterdir() if part.is_file() and part != path]
    if _is_bti(path):
        return [path, *sorted(part for part in there if part.name.lower() in _BTI_SIDE)]
    beside = [part for part in there if _belongs(part, stem)]
    return [path, *sorted(beside)]


def _belongs(part: Path, stem: str) -> bool:
    side = part.suffix.lower() in {".fdt", ".eeg", ".dat", ".vmrk", ".tsv", ".json"}
    later = _LATER_PART.search(part.name) is not None and part.name.startswith(stem.split("_split-")[0])
    base = part.name.rsplit(".", 1)[0]
    return later or (
        side and (base == stem or base in {f"{stem.rsplit('_', 1)[0]}_{kind}" for kind in ("events", "channels")})
    )


def _is_recording(path: Path, root: Path) -> bool:
    name = path.name.lower()
    if name.startswith(".") or not (name.endswith(READABLE) or _is_bti(path)):
        return False
    if path.is_dir() != name.endswith(_FOLDERS) or _LATER_PART.search(path.name) or _OTHER_FIF.search(path.name):
        return False
    return not any(parent.suffix.lower() in _FOLDERS for parent in path.relative_to(root).parents)


def _matches(relative: str, pattern: str) -> bool:
    if "/" in pattern:
        return fnmatch(relative, pattern) or (pattern.startswith("**/") and fnmatch(relative, pattern[3:]))
    return fnmatch(relative.rsplit("/", 1)[-1], pattern)


def _is_bti(path: Path) -> bool:
    if not _BTI_DATA.match(path.name) or not path.is_file():
        return False
    return any((path.parent / name).is_file() for name in ("config", "Config"))


def _stem(path: Path) -> str:
    name = path.name
    if _BTI_DATA.match(name):  # what follows a dot there is a filter's frequency
        return name
    ending = max((end for end in READABLE if name.lower().endswith(end)), key=len, default=path.suffix)
    return name[: len(name) - len(ending)] if ending else name


def _unique(files: list[RecordingFile], root: Path) -> list[RecordingFile]:
    """Names that two files share grow the folders above them, and their ending where that is not enough."""
    count: dict[str, int] = {}
    for file in files:
        count[file.name] = count.get(file.name, 0) + 1
    renamed = []
    for file in files:
        name = file.name
        if count[name] > 1:
            name = file.path.relative_to(root).as_posix().replace("/", "__")
        subject = name if file.subject == file.name else file.subject
        renamed.append(replace(file, name=name, subject=subject))
    return renamed
