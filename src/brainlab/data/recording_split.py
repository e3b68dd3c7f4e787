"""Which recordings, or which stretches of them, train, validate and test a model.

Groups (subjects, sessions, a held-out data set) are drawn per data set in the order of the data sets, with one
generator for all of them, so that adding a data set at the end moves nobody. A split in time cuts every recording into
three blocks with a guard gap between them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from brainlab.data.splits import PARTS, TimeSplit, time_split
from brainlab.errors import InvalidFile, InvalidValue, LeakError
from brainlab.io.atomic import write_atomically

__all__ = ["Assignment", "Kind", "Member", "TrainingSpan", "draw_groups", "subject_in", "time_blocks"]

Kind = Literal["subject", "session", "dataset", "time"]
KINDS = ("subject", "session", "dataset", "time")
Rows = list[tuple[int, int]]


@dataclass(frozen=True)
class Member:
    """One recording that is to be assigned: unique ``name``, whose it is, and its length in samples."""

    name: str
    subject: str
    dataset: str
    n_samples: int


@dataclass(frozen=True)
class TrainingSpan:
    """The part of a recording that its own statistics (scale, clipping, bad channels) may be taken from.

    A split in time trains on the first block of every recording; the other kinds hold out whole recordings, whose
    statistics then come from their first ``calibration_s``, as they would in use. Where a recording is too short for
    its blocks the share of the training block is taken, so that other steps can say what is wrong with it.

    Args:
        split: kind of the split.
        fractions: for train, val and test.
        guard_s: gap between the blocks of a split in time.
        calibration_s: seconds from the first sample; None takes the whole recording.
    """

    split: Kind = "subject"
    fractions: tuple[float, float, float] = (0.55, 0.15, 0.3)
    guard_s: float = 0.0
    calibration_s: float | None = 60.0

    def __call__(self, file: Any, n_samples: int, sfreq_hz: float) -> tuple[int, int]:
        """[start, stop) in samples of a recording of ``n_samples``."""
        stop = n_samples
        if self.split == "time":
            try:
                stop = int(time_split(n_samples, sfreq_hz, self.fractions, self.guard_s).train[-1, 1])
            except InvalidValue:
                stop = int(n_samples * self.fractions[0])
        elif self.calibration_s is not None:
            stop = min(n_samples, round(self.calibration_s * sfreq_hz))
        return 0, max(1, stop)

    def recipe(self) -> dict[str, Any]:
        """What the span depends on, for cache keys; settings without influence are left out."""
        if self.split == "time":
            return {"split": "time", "fractions": list(self.fractions), "guard_s": self.guard_s}
        return {"calibration_s": self.calibration_s}


def subject_in(name: str) -> str:
    """Whose recording a session name speaks of: its first ``sub-`` token, else the whole name.

    >>> [subject_in(name) for name in ("sub-02_ses-1_rest", "cc700_sub-CC001_task-smt", "pilot")]
    ['sub-02', 'sub-CC001', 'pilot']
    """
    return next((token for token in name.split("_") if token.startswith("sub-")), name)


def draw_groups(
    members: Sequence[Member],
    kind: Kind,
    val: float,
    test: float,
    seed: int,
    heldout_dataset: str | None = None,
) -> dict[str, list[int]]:
    """Whole groups of recordings for each part.

    Per data set, in order of appearance, with one shared ``random.Random(seed)``: recordings sorted by name, groups in
    the order in which they are first seen, shuffled; of n groups min(round(n·val), n) validate, min(round(n·test), the
    rest) test, and training gets one back from validation, else from the test part, where it would have none. The
    shuffled list is cut in the order train, validation, test. With ``kind="dataset"`` the subjects of the held-out
    data set are shuffled, the first half (rounded down) validates, the rest tests, and all others train.

    Returns:
        part → numbers of members, ascending.

    Raises:
        InvalidValue: an unknown kind, shares outside [0, 1], or a held-out data set that is not there.
    """
    if kind not in ("subject", "session", "dataset"):
        raise InvalidValue("data.split", kind, f"unknown; expected one of {', '.join(KINDS)}")
    for name, share in (("val", val), ("test", test)):
        if not 0 <= share <= 1:
            raise InvalidValue(f"share of {name}", share, "expected a number from 0 to 1")
    datasets = list(dict.fromkeys(member.dataset for member in members))
    if kind == "dataset" and heldout_dataset not in datasets:
        raise InvalidValue(
            "data.heldout_dataset", heldout_dataset, f"expected one of {', '.join(datasets)} with data.split=dataset"
        )
    rng = random.Random(seed)
    parts: dict[str, list[int]] = {part: [] for part in PARTS}
    for dataset in datasets:
        own = sorted((n for n, m in enumerate(members) if m.dataset == dataset), key=lambda n: members[n].name)
        groups: dict[str, list[int]] = {}
        for number in own:
            label = members[number].name if kind == "session" else members[number].subject
            groups.setdefault(label, []).append(number)
        names = list(groups)
        if kind == "dataset" and dataset != heldout_dataset:
            parts["train"] += own
            continue
        rng.shuffle(names)
        n = len(names)
        if kind == "dataset":
            counts = (0, n // 2, n - n // 2)
        else:
            n_val = min(round(n * val), n)
            n_test = min(round(n * test), n - n_val)
            if n and n_val + n_test == n:
                n_val, n_test = (n_val - 1, n_test) if n_val else (n_val, n_test - 1)
            counts = (n - n_val - n_test, n_val, n_test)
        start = 0
        for part, count in zip(PARTS, counts, strict=True):
            parts[part] += [number for name in names[start : start + count] for number in groups[name]]
            start += count
    return {part: sorted(numbers) for part, numbers in parts.items()}


def time_blocks(
    members: Sequence[Member], sfreq_hz: float, fractions: Sequence[float], guard_s: float
) -> tuple[list[TimeSplit | None], dict[str, str]]:
    """Training, validation and test block of every recording, in this order in time.

    Returns:
        one split per recording, None where it is too short for its blocks, and name → reason of those.
    """
    splits: list[TimeSplit | None] = []
    left_out = {}
    for member in members:
        try:
            splits.append(time_split(member.n_samples, sfreq_hz, fractions, guard_s))
        except InvalidValue:
            seconds = member.n_samples / sfreq_hz
            left_out[member.name] = f"{seconds:g} s are too short for three blocks with gaps of {guard_s:g} s"
            splits.append(None)
    return splits, left_out


@dataclass(frozen=True)
class Assignment:
    """Who stands where: a split that can be saved, read again and checked.

    Args:
        kind: of the groups.
        members: all recordings, in the order of the store.
        rows: part → one list of [start, stop) in samples per member.
        guard: samples that blocks of different parts of one recording must lie apart.
        seed: of the draw, None for a split in time.
    """

    kind: str
    members: tuple[Member, ...]
    rows: Mapping[str, tuple[Rows, ...]]
    guard: int = 0
    seed: int | None = None

    @classmethod
    def draw(
        cls,
        members: Sequence[Member],
        kind: Kind,
        fractions: Sequence[float],
        seed: int,
        *,
        sfreq_hz: float,
        guard_s: float = 0.0,
        heldout_dataset: str | None = None,
    ) -> tuple[Assignment, dict[str, str]]:
        """A checked split, and name → reason of the recordings that it has no place for."""
        rows: dict[str, tuple[Rows, ...]]
        if kind == "time":
            splits, left_out = time_blocks(members, sfreq_hz, fractions, guard_s)
            rows = {
                part: tuple(
                    [] if split is None else [(a, b) for a, b in split.parts()[part].tolist()] for split in splits
                )
                for part in PARTS
            }
            guard = max((split.guard_samples for split in splits if split is not None), default=0)
            return cls("time", tuple(members), rows, guard).check(), left_out
        numbers = draw_groups(members, kind, fractions[1], fractions[2], seed, heldout_dataset)
        chosen = {part: set(held) for part, held in numbers.items()}
        rows = {
            part: tuple([(0, m.n_samples)] if n in chosen[part] else [] for n, m in enumerate(members))
            for part in PARTS
        }
        return cls(kind, tuple(members), rows, seed=seed).check(), {}

    def check(self) -> Assignment:
        """The split itself, when nothing leaks.

        Raises:
            LeakError: a subject (or session) stands in two parts, or two blocks of a recording overlap or lie closer
                than the guard gap.
        """
        seen: dict[tuple[str, str], str] = {}
        for part in PARTS:
            for member, rows in zip(self.members, self.rows[part], strict=True):
                if not rows or self.kind == "time":
                    continue
                label = member.name if self.kind == "session" else member.subject
                other = seen.setdefault((member.dataset, label), part)
                if other != part:
                    unit = "session" if self.kind == "session" else "subject"
                    raise LeakError(
                        unit, label, f"expected every {unit} in one part only, found it in {other} and {part}"
                    )
        for number, member in enumerate(self.members):
            blocks = {part: self.rows[part][number] for part in PARTS}
            if any(start < 0 or stop > member.n_samples for rows in blocks.values() for start, stop in rows):
                raise InvalidValue(
                    "stretch", blocks, f"expected it within {member.n_samples} samples", where=member.name
                )
            train, val, test = (np.array(blocks[part], dtype=np.int64).reshape(-1, 2) for part in PARTS)
            TimeSplit(train, val, test, self.guard).check()
        return self

    def refuse_copies(self, digests: Sequence[str]) -> None:
        """No recording may stand in two parts under two names, as when two data sets overlap.

        Args:
            digests: of the samples of every member.

        Raises:
            LeakError: naming both.
        """
        if self.kind == "time":  # copies of a recording have their blocks at the same places
            return
        seen: dict[str, tuple[str, str]] = {}
        for part in PARTS:
            for member, digest, rows in zip(self.members, digests, self.rows[part], strict=True):
                if not rows or not digest:
                    continue
                name, other = seen.setdefault(digest, (member.name, part))
                if other != part:
                    raise LeakError(
                        "recording", member.name,
                        f"expected its samples in one part only, found them in {other} (as {name}) and {part}",
                    )  # fmt: skip

    def refuse_foreign_statistics(self, spans: Sequence[tuple[int, int]], sfreq_hz: float) -> None:
        """In a split in time a recording's scales may not come from more than its own training block.

        Args:
            spans: [start, stop) in samples that the scales of every member were taken from.

        Raises:
            LeakError: naming the recording.
        """
        if self.kind != "time":
            return
        for member, (_, stop), rows in zip(self.members, spans, self.rows["train"], strict=True):
            # The span was rounded at the rate of the file, the block at that of the store.
            if rows and stop > max(last for _, last in rows) + 1:
                raise LeakError(
                    "statistics", member.name,
                    f"expected them from the training block, found them from the first {stop / sfreq_hz:g} s",
                    hint="data.fractions and data.guard_s must be those of data.split_file",
                )  # fmt: skip

    def save(self, path: Path | str) -> Path:
        """Write as JSON."""
        sessions = [
            {
                "name": member.name,
                "subject": member.subject,
                "dataset": member.dataset,
                "n_samples": member.n_samples,
                **{part: self.rows[part][number] for part in PARTS},
            }
            for number, member in enumerate(self.members)
        ]
        content = {"kind": self.kind, "seed": self.seed, "guard_samples": self.guard, "sessions": sessions}
        write_atomically(Path(path), json.dumps(content, indent=1))
        return Path(path)

    @classmethod
    def load(cls, path: Path | str, members: Sequence[Member]) -> Assignment:
        """Read what :meth:`save` wrote for these recordings, and check it.

        Raises:
            InvalidFile: the file is missing, of another layout, or speaks of other recordings.
            LeakError: as :meth:`check`.
        """
        try:
            content = json.loads(Path(path).expanduser().read_text())
            known = {str(entry["name"]): entry for entry in content["sessions"]}
            absent = [member.name for member in members if member.name not in known]
            if absent:
                raise InvalidFile("data.split_file", path, f"expected a part for every recording, none for {absent[0]}")
            rows = {
                part: tuple([(int(a), int(b)) for a, b in known[member.name][part]] for member in members)
                for part in PARTS
            }
            return cls(content["kind"], tuple(members), rows, int(content["guard_samples"]), content["seed"]).check()
        except OSError as error:
            raise InvalidFile("data.split_file", path, f"expected a readable file ({error.strerror})") from None
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InvalidValue):
                raise
            raise InvalidFile("data.split_file", path, f"expected a saved split of recordings ({error})") from None
