"""Windows over a store of continuous recordings, a whole batch per read.

A stretch is a row (session, start, stop) in samples; a window never leaves its stretch, so it crosses neither the end
of a session nor the border between two parts of a split.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Int
from torch.utils.data import Dataset

from brainlab.data.splits import PARTS, TimeSplit, window_index
from brainlab.errors import InvalidValue, ShapeMismatch

__all__ = [
    "RandomWindows",
    "SignalWindows",
    "WindowGroups",
    "Windows",
    "regular_windows",
    "samples_of",
    "stretches_of",
]

Batch = dict[str, torch.Tensor]


class Sessions(Protocol):
    """What windows need of a store: how long its sessions are, how many rows they have, and batches of them."""

    @property
    def sessions(self) -> Sequence[Any]: ...

    def gather(self, sessions: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray: ...


def samples_of(seconds: float, sfreq_hz: float) -> int:
    """Seconds as samples, rounded as Python rounds.

    >>> samples_of(0.333, 100.0), samples_of(0.125, 100.0), samples_of(0.135, 100.0)
    (33, 12, 14)
    """
    return round(sfreq_hz * seconds)


def stretches_of(splits: Sequence[TimeSplit] | Sequence[None], part: str) -> Int[np.ndarray, "stretch 3"]:
    """The rows (session, start, stop) of one part, for one time split per session in the store's order."""
    if part not in PARTS:
        raise InvalidValue("part", part, f"expected one of {', '.join(PARTS)}")
    rows = [
        [session, start, stop]
        for session, split in enumerate(splits)
        if split is not None
        for start, stop in split.parts()[part].tolist()
    ]
    return np.asarray(rows, dtype=np.int64).reshape(-1, 3)


class _Gathered(Dataset[Batch], ABC):
    """One gather per batch: ``__getitems__`` receives the indices of a whole batch."""

    def __init__(self, store: Sessions, length: int, sessions: np.ndarray) -> None:
        if length < 1:
            raise InvalidValue("length", length, "expected at least one sample")
        counts = {store.sessions[number].n_channels for number in np.unique(sessions).tolist()}
        if len(counts) > 1:
            raise ShapeMismatch("channels", sorted(counts), "expected equally many in every session that is read")
        self.store = store
        self.length = int(length)

    @abstractmethod
    def locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Session, first sample and label of each of these windows."""

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """A batch of windows.

        Returns:
            ``signal`` (window, channel, time) float32 contiguous in the store's unit, ``session``, ``start`` and
            ``index`` (window,) int64, and ``label`` (window,) where there are labels.
        """
        numbers = np.asarray(indices, dtype=np.int64)
        sessions, starts, labels = self.locate(numbers)
        batch = {
            "signal": torch.from_numpy(self.store.gather(sessions, starts, self.length)),
            "session": torch.from_numpy(sessions),
            "start": torch.from_numpy(starts),
            "index": torch.from_numpy(numbers),
        }
        if labels is not None:
            batch["label"] = torch.from_numpy(labels)
        return batch

    def __getitem__(self, index: int) -> Batch:
        """One window, without the batch axis."""
        return {key: value[0] for key, value in self.__getitems__([int(index)]).items()}


class Windows(_Gathered):
    """A fixed list of windows.

    Args:
        store: prepared recordings.
        sessions: session number of every window.
        starts: first sample of every window; any start.
        length: samples per window.
        labels: one per window, or None.

    Raises:
        InvalidValue: if a window leaves its session.
        ShapeMismatch: if the lists differ in length.
    """

    def __init__(
        self,
        store: Sessions,
        sessions: Int[np.ndarray, " window"],
        starts: Int[np.ndarray, " window"],
        length: int,
        labels: np.ndarray | None = None,
    ) -> None:
        self.sessions = np.ascontiguousarray(sessions, dtype=np.int64)
        self.starts = np.ascontiguousarray(starts, dtype=np.int64)
        self.labels = None if labels is None else np.ascontiguousarray(labels)
        super().__init__(store, length, self.sessions)
        if len(self.starts) != len(self.sessions) or (labels is not None and len(labels) != len(self.starts)):
            raise ShapeMismatch("starts", len(self.starts), f"expected {len(self.sessions)}, one per session number")
        ends = np.array([session.n_samples for session in store.sessions], dtype=np.int64)[self.sessions]
        outside = np.flatnonzero((self.starts < 0) | (self.starts + self.length > ends))
        if len(outside):
            first = outside[0]
            raise InvalidValue(
                "window",
                (int(self.starts[first]), self.length),
                f"expected it within {ends[first]} samples",
                where=store.sessions[self.sessions[first]].name,
            )

    def __len__(self) -> int:
        return len(self.starts)

    def locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        labels = None if self.labels is None else self.labels[indices]
        return self.sessions[indices], self.starts[indices], labels


def regular_windows(
    store: Sessions,
    stretches: Int[np.ndarray, "stretch 3"],
    length: int,
    step: int | None = None,
    session_labels: np.ndarray | None = None,
) -> Windows:
    """Windows at equal steps (default: side by side) inside each stretch.

    Args:
        store: prepared recordings.
        stretches: rows (session, start, stop).
        length: samples per window.
        step: samples from one window to the next.
        session_labels: label of every session of the store.
    """
    rows = _checked(store, stretches)
    starts = [window_index([row[1:]], length, step) for row in rows]
    sessions = np.repeat(rows[:, 0], [len(part) for part in starts])
    labels = None if session_labels is None else np.asarray(session_labels)[sessions]
    flat = np.concatenate(starts) if starts else np.empty(0, dtype=np.int64)
    return Windows(store, sessions, flat, length, labels)


class RandomWindows(_Gathered):
    """Windows drawn anew in every epoch, uniformly over all that fit into the stretches.

    Where window ``i`` of epoch ``e`` starts depends on ``(seed, e, i)`` alone: not on the order of reading, the batch
    size or the number of workers, so a resumed run sees what the uninterrupted one would have seen.

    Args:
        store: prepared recordings.
        stretches: rows (session, start, stop).
        length: samples per window.
        n_windows: windows per epoch; default as many as lie side by side in the stretches.
        seed: of the draws.
        session_labels: label of every session of the store.

    Raises:
        InvalidValue: if no window fits.
    """

    def __init__(
        self,
        store: Sessions,
        stretches: Int[np.ndarray, "stretch 3"],
        length: int,
        n_windows: int | None = None,
        seed: int = 0,
        session_labels: np.ndarray | None = None,
    ) -> None:
        rows = _checked(store, stretches)
        rows = rows[rows[:, 2] - rows[:, 1] >= length]
        super().__init__(store, length, rows[:, 0])
        if not len(rows):
            raise InvalidValue("length", length, "expected at least one stretch that is as long as a window")
        self.stretches = rows
        self.seed = int(seed)
        self.session_labels = None if session_labels is None else np.asarray(session_labels)
        room = rows[:, 2] - rows[:, 1]
        self._ends = np.cumsum(room - length + 1)
        self.n_windows = int((room // length).sum()) if n_windows is None else int(n_windows)
        if self.n_windows < 1:
            raise InvalidValue("n_windows", self.n_windows, "expected at least one window per epoch")
        # In shared memory, so that workers that live for several epochs see the new one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return self.n_windows

    @property
    def epoch(self) -> int:
        """Which epoch's windows are drawn."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw the windows of this epoch from now on."""
        self._epoch.fill_(int(epoch))

    def locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        place = _uniform_below(self.seed, self.epoch, indices, int(self._ends[-1]))
        row = np.searchsorted(self._ends, place, side="right")
        before = np.where(row > 0, self._ends[row - 1], 0)
        sessions = self.stretches[row, 0]
        labels = None if self.session_labels is None else self.session_labels[sessions]
        return sessions, self.stretches[row, 1] + place - before, labels


class WindowGroups(Dataset[Batch]):
    """Windows of several kinds, such as channel sets, numbered one kind after the other; no batch mixes two.

    Args:
        parts: the windows of each kind.
    """

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = list(parts)
        self.ends = np.cumsum([len(part) for part in self.parts], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.ends[-1]) if self.parts else 0

    def set_epoch(self, epoch: int) -> None:
        """Draw the random windows of this epoch from now on."""
        for part in self.parts:
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)

    def __getitems__(self, numbers: Sequence[int]) -> Batch:
        index = np.asarray(numbers, dtype=np.int64)
        which = np.searchsorted(self.ends, index, side="right")
        if (which != which[0]).any():
            raise InvalidValue("batch", list(numbers), "expected windows of one channel set")
        part = self.parts[which[0]]
        batch = part.__getitems__((index - (self.ends[which[0]] - len(part))).tolist())
        return {**batch, "index": torch.from_numpy(index)}

    def __getitem__(self, number: int) -> Batch:
        return {key: value[0] for key, value in self.__getitems__([number]).items()}


class SignalWindows(WindowGroups):
    """Windows of signals; batches also say which channels are present.

    Args:
        parts: the windows of each channel set, or one for all where they share a layout.
        present: (session, channel) where they share a layout; None where every row is a channel of its session.
    """

    def __init__(self, parts: Sequence[Any], present: torch.Tensor | None) -> None:
        super().__init__(parts)
        self.present = present

    def __getitems__(self, numbers: Sequence[int]) -> Batch:
        batch = super().__getitems__(numbers)
        if self.present is None:
            return {**batch, "present": torch.ones(batch["signal"].shape[:2], dtype=torch.bool)}
        return {**batch, "present": self.present[batch["session"]]}


def _checked(store: Sessions, stretches: Any) -> np.ndarray:
    rows = np.asarray(stretches, dtype=np.int64).reshape(-1, 3)
    for session, start, stop in rows.tolist():
        if not 0 <= session < len(store.sessions):
            raise InvalidValue("session", session, f"expected a number from 0 below {len(store.sessions)}")
        if not 0 <= start <= stop <= store.sessions[session].n_samples:
            raise InvalidValue(
                "stretch",
                (start, stop),
                f"expected it within {store.sessions[session].n_samples} samples",
                where=store.sessions[session].name,
            )
    return rows


def _mixed(x: np.ndarray) -> np.ndarray:
    """Finaliser of SplitMix64 (Steele et al., 2014): every input bit reaches every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _uniform_below(seed: int, epoch: int, indices: np.ndarray, n: int) -> np.ndarray:
    """Numbers in 0 … n−1 that depend on (seed, epoch, index) alone, without a generator per example."""
    step = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        key = np.array([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)
        key = _mixed(_mixed(key + step) + np.uint64(epoch + 1) * step)
        bits = _mixed(key + (indices.astype(np.uint64) + np.uint64(1)) * step)
    # 53 bits are exact in a double; the bias is below n / 2^53.
    return ((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53 * n).astype(np.int64)
