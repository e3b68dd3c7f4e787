"""Who may see what: seeded splits into train, validation and test that refuse to leak."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from brainlab.errors import InvalidFile, InvalidValue, LeakError
from brainlab.io.atomic import write_atomically

__all__ = ["PARTS", "Split", "TimeSplit", "connected_groups", "group_split", "time_split", "window_index"]

PARTS = ("train", "val", "test")
Fractions = Sequence[float] | Mapping[str, float]


def _indices(values: Any) -> np.ndarray:
    return np.sort(np.asarray(values, dtype=np.int64).reshape(-1))


@dataclass(frozen=True)
class Split:
    """Which examples stand in which part.

    Args:
        train: sorted example indices; ``val`` and ``test`` alike.
        kind: what was kept apart: ``"concept"``, ``"subject"``, ``"image"`` …
        seed: of the draw; None where a file or an official list decided.
        groups: group of every example (whole data set, not only those in a part), or None.
    """

    train: Int[np.ndarray, " train"]
    val: Int[np.ndarray, " val"]
    test: Int[np.ndarray, " test"]
    kind: str = "group"
    seed: int | None = None
    groups: Sequence[Any] | np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for part in PARTS:
            object.__setattr__(self, part, _indices(getattr(self, part)))

    def parts(self) -> dict[str, np.ndarray]:
        """Part → indices."""
        return {part: getattr(self, part) for part in PARTS}

    def check(self, groups: Sequence[Any] | np.ndarray | None = None) -> Split:
        """The split itself, when no example and no group stands in two parts.

        Args:
            groups: group of every example; default the split's own.

        Raises:
            LeakError: naming the example or group and the two parts.
        """
        seen: dict[int, str] = {}
        for part, indices in self.parts().items():
            if len(indices) and indices[0] < 0:
                raise InvalidValue("index", int(indices[0]), f"expected example numbers from 0 in {part}")
            for index in indices.tolist():
                if index in seen:
                    twice = part if seen[index] == part else f"{seen[index]} and {part}"
                    raise LeakError("example", index, f"expected it in one part once, found it in {twice}")
                seen[index] = part
        groups = self.groups if groups is None else groups
        if groups is None:
            return self
        labels = np.asarray(groups)
        if seen and max(seen) >= len(labels):
            raise InvalidValue("index", max(seen), f"expected example numbers below {len(labels)}")
        part_of: dict[Any, str] = {}
        for part, indices in self.parts().items():
            for label in np.unique(labels[indices]).tolist():
                if part_of.setdefault(label, part) != part:
                    raise LeakError(
                        self.kind,
                        label,
                        f"expected each {self.kind} in one part only, found it in {part_of[label]} and {part}",
                    )
        return self

    def save(self, path: Path | str) -> Path:
        """Write ``.json`` (everything) or ``.csv`` (columns index, split and, where there are groups, group)."""
        path = Path(path)
        labels = None if self.groups is None else np.asarray(self.groups)
        if path.suffix == ".json":
            content = {
                "kind": self.kind,
                "seed": self.seed,
                **{part: indices.tolist() for part, indices in self.parts().items()},
                "groups": None if labels is None else labels.tolist(),
            }
            write_atomically(path, json.dumps(content))
        elif path.suffix == ".csv":
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(["index", "split"] + ([] if labels is None else ["group"]))
            rows = sorted((int(index), part) for part, indices in self.parts().items() for index in indices)
            writer.writerows([i, part] + ([] if labels is None else [labels[i]]) for i, part in rows)
            write_atomically(path, text.getvalue())
        else:
            raise InvalidValue("path", path, "expected a name ending in .json or .csv")
        return path

    @classmethod
    def load(cls, path: Path | str) -> Split:
        """Read what :meth:`save` wrote, and check it.

        Raises:
            InvalidFile: if the file is missing or has another layout.
            LeakError: if an example or group stands in two parts.
        """
        path = Path(path)
        try:
            if path.suffix == ".json":
                content = json.loads(path.read_text())
                return cls(
                    train=content["train"],
                    val=content["val"],
                    test=content["test"],
                    kind=content["kind"],
                    seed=content["seed"],
                    groups=content["groups"],
                ).check()
            with open(path, newline="") as stream:
                rows = list(csv.DictReader(stream))
            unknown = {row["split"] for row in rows} - set(PARTS)
            if unknown:
                raise InvalidFile("split", sorted(unknown)[0], "expected train, val or test", where=str(path))
            parts = {part: _indices([int(row["index"]) for row in rows if row["split"] == part]) for part in PARTS}
        except OSError as error:
            raise InvalidFile("split file", path, f"expected a readable file ({error.strerror})") from None
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InvalidValue):
                raise
            raise InvalidFile("split file", path, f"expected columns index and split, or our JSON ({error})") from None
        labels: np.ndarray | None = None
        if rows and "group" in rows[0]:
            labels = np.full(max(int(row["index"]) for row in rows) + 1, "", dtype=object)
            for row in rows:
                labels[int(row["index"])] = row["group"]
        return cls(parts["train"], parts["val"], parts["test"], kind="file", groups=labels).check()


def _fractions(fractions: Fractions) -> tuple[float, float, float]:
    if isinstance(fractions, Mapping):
        unknown = set(fractions) - set(PARTS)
        if unknown:
            raise InvalidValue("fractions", sorted(unknown)[0], "unknown part; expected train, val, test")
        fractions = [float(fractions.get(part, 0.0)) for part in PARTS]
    values = tuple(float(value) for value in fractions)
    if len(values) != 3 or min(values) < 0 or abs(sum(values) - 1) > 1e-6:
        raise InvalidValue("fractions", list(values), "expected three numbers >= 0 for train, val, test that sum to 1")
    return values[0], values[1], values[2]


def group_split(
    groups: Sequence[Any] | np.ndarray,
    fractions: Fractions,
    seed: int,
    *,
    kind: str = "group",
    only_train: Bool[np.ndarray, " example"] | None = None,
) -> Split:
    """Draw whole groups into train, val and test so that the parts hold these fractions of the examples.

    Args:
        groups: group label of every example.
        fractions: of the examples, for train, val and test; a part with a fraction above 0 gets at least one group.
        seed: of the draw.
        kind: what a group is, for messages and the saved file.
        only_train: examples that must not be held out (their whole groups go to train); they count towards train.

    Returns:
        a checked split; the same arguments give the same one.

    Raises:
        InvalidValue: if there are fewer groups than parts.
    """
    wanted = _fractions(fractions)
    labels = np.asarray(groups)
    if labels.ndim != 1:
        raise InvalidValue("groups", labels.shape, "expected one label per example")
    names, member, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    fixed = np.zeros(len(names), dtype=bool)
    if only_train is not None:
        fixed[np.unique(member[np.asarray(only_train, dtype=bool)])] = True
    free = np.flatnonzero(~fixed)
    needed = [share > 0 for share in wanted]
    if fixed.any():
        needed[0] = False
    if len(free) < sum(needed):
        raise InvalidValue(
            f"number of {kind}s", len(free), f"expected at least {sum(needed)}, one for each part that is not empty"
        )
    order = np.random.default_rng(seed).permutation(free)
    # Position k of a cut means that the first k drawn groups stand before it.
    filled = np.concatenate([[0], np.cumsum(sizes[order])]) + sizes[fixed].sum()
    total = len(labels)
    cut_train = int(np.argmin(np.abs(filled - wanted[0] * total))) if wanted[0] > 0 else 0
    cut_train = int(np.clip(cut_train, int(needed[0]), len(order) - int(needed[1]) - int(needed[2])))
    cut_val = int(np.argmin(np.abs(filled - (wanted[0] + wanted[1]) * total))) if wanted[2] > 0 else len(order)
    cut_val = int(np.clip(cut_val, cut_train + int(needed[1]), len(order) - int(needed[2])))
    if wanted[1] == 0:
        cut_val = cut_train
    part = np.zeros(len(names), dtype=np.int8)
    part[order[cut_train:cut_val]] = 1
    part[order[cut_val:]] = 2
    if wanted[2] == 0 and wanted[1] == 0:
        part[:] = 0
    assigned = part[member]
    train, val, test = (np.flatnonzero(assigned == number) for number in range(3))
    return Split(train, val, test, kind=kind, seed=seed, groups=labels).check()


def connected_groups(*labels: Sequence[Any] | np.ndarray) -> Int[np.ndarray, " example"]:
    """Group examples that are linked through any shared label, directly or over others.

    Pairs that share a picture on either side end up in one group, so that a group split of the result leaks through
    neither side.

    Returns:
        group number of every example, counted from 0 in order of first appearance.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if not labels:
        raise InvalidValue("labels", "none", "expected at least one label per example")
    n = len(labels[0])
    rows, columns, offset = [], [], n
    for column in labels:
        values = np.asarray(column)
        if len(values) != n:
            raise InvalidValue("labels", len(values), f"expected {n} entries like the first")
        names, member = np.unique(values, return_inverse=True)
        rows.append(np.arange(n))
        columns.append(member + offset)
        offset += len(names)
    row, col = np.concatenate(rows), np.concatenate(columns)
    graph = coo_matrix((np.ones(len(row), dtype=np.int8), (row, col)), shape=(offset, offset))
    component = connected_components(graph, directed=False)[1][:n]
    _, first, number = np.unique(component, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[number].astype(np.int64)


@dataclass(frozen=True)
class TimeSplit:
    """Stretches of one recording per part; every array holds rows of [start, stop) in samples."""

    train: Int[np.ndarray, "stretch 2"]
    val: Int[np.ndarray, "stretch 2"]
    test: Int[np.ndarray, "stretch 2"]
    guard_samples: int = 0
    kind: str = "time"

    def __post_init__(self) -> None:
        for part in PARTS:
            object.__setattr__(self, part, np.asarray(getattr(self, part), dtype=np.int64).reshape(-1, 2))

    def parts(self) -> dict[str, np.ndarray]:
        """Part → stretches."""
        return {part: getattr(self, part) for part in PARTS}

    def check(self) -> TimeSplit:
        """The split itself, when stretches of different parts lie at least the guard gap apart.

        Raises:
            LeakError: naming the two stretches.
        """
        rows = sorted((int(a), int(b), part) for part, stretches in self.parts().items() for a, b in stretches)
        for start, stop, part in rows:
            if not 0 <= start < stop:
                raise InvalidValue(f"{part} stretch", (start, stop), "expected 0 <= start < stop")
        for (_, stop, before), (start, _, after) in itertools.pairwise(rows):
            gap = start - stop
            if gap < 0 or (before != after and gap < self.guard_samples):
                raise LeakError(
                    "gap",
                    gap,
                    f"expected at least {self.guard_samples} samples between {before} and {after} at {start}",
                )
        return self

    def save(self, path: Path | str) -> Path:
        """Write as JSON."""
        content = {"kind": self.kind, "guard_samples": self.guard_samples}
        write_atomically(path, json.dumps(content | {part: rows.tolist() for part, rows in self.parts().items()}))
        return Path(path)

    @classmethod
    def load(cls, path: Path | str) -> TimeSplit:
        """Read what :meth:`save` wrote, and check it.

        Raises:
            InvalidFile: if the file is missing or has another layout.
        """
        try:
            content = json.loads(Path(path).read_text())
            return cls(content["train"], content["val"], content["test"], content["guard_samples"]).check()
        except OSError as error:
            raise InvalidFile("split file", path, f"expected a readable file ({error.strerror})") from None
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise InvalidFile("split file", path, f"expected a saved time split ({error})") from None


def time_split(n_samples: int, sfreq_hz: float, fractions: Fractions, guard_s: float) -> TimeSplit:
    """Cut one recording into a training, a validation and a test stretch, in this order in time.

    Args:
        n_samples: length of the recording.
        sfreq_hz: sampling rate.
        fractions: of the time that is left after the guard gaps.
        guard_s: seconds dropped between two parts, because neighbouring samples (and filter ringing) are alike.

    Raises:
        InvalidValue: if the recording is too short for its parts.
    """
    wanted = _fractions(fractions)
    if guard_s < 0:
        raise InvalidValue("guard_s", guard_s, "expected seconds >= 0")
    guard = int(np.ceil(guard_s * sfreq_hz))
    used = [number for number in range(3) if wanted[number] > 0]
    room = n_samples - guard * (len(used) - 1)
    if room < len(used):
        raise InvalidValue(
            "n_samples", n_samples, f"expected more than the {len(used) - 1} guard gaps of {guard} samples"
        )
    cuts = np.round(np.cumsum([0.0, *(wanted[number] for number in used)]) * room).astype(int)
    cuts[-1] = room
    stretches: list[list[list[int]]] = [[], [], []]
    for place, number in enumerate(used):
        start, stop = cuts[place] + place * guard, cuts[place + 1] + place * guard
        if stop <= start:
            raise InvalidValue("n_samples", n_samples, f"expected room for at least one sample of {PARTS[number]}")
        stretches[number] = [[int(start), int(stop)]]
    train, val, test = (np.asarray(rows, dtype=np.int64) for rows in stretches)
    return TimeSplit(train, val, test, guard).check()


def window_index(
    stretches: Int[np.ndarray, "stretch 2"] | Sequence[Sequence[int]], length: int, step: int | None = None
) -> Int[np.ndarray, " window"]:
    """First samples of the windows that lie wholly inside stretches of [start, stop).

    Args:
        stretches: rows of [start, stop).
        length: samples in a window.
        step: samples from one window to the next; default the length (no overlap).

    Returns:
        sorted starts; a stretch shorter than a window gives none.
    """
    step = length if step is None else step
    if length < 1 or step < 1:
        raise InvalidValue("window", (length, step), "expected a length and a step of at least one sample")
    starts = [np.arange(a, b - length + 1, step) for a, b in np.asarray(stretches, dtype=np.int64).reshape(-1, 2)]
    return np.sort(np.concatenate(starts)).astype(np.int64) if starts else np.empty(0, dtype=np.int64)
