"""Windows of codes: the frames of a tokenizer instead of samples, read from one store of codes for any window."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch.utils.data import Dataset

from brainlab.data.layout import Extent
from brainlab.data.windows import RandomWindows, Windows, regular_windows
from brainlab.errors import InvalidValue
from brainlab.io.codes import CodeStore

__all__ = ["TokenWindows", "frames_of", "on_frames"]

Batch = dict[str, torch.Tensor]


def on_frames(
    stretches: Int[np.ndarray, "stretch 3"], segments: Sequence[Sequence[tuple[int, int]]], hop: int
) -> Int[np.ndarray, "stretch 3"]:
    """Stretches (session, start, stop) shrunk to whole frames, which count from the beginning of their segment.

    >>> on_frames(np.array([[0, 7, 30], [0, 41, 44]]), [[(2, 40), (40, 90)]], 4).tolist()
    [[0, 10, 30]]
    """
    rows = []
    for session, start, stop in stretches.tolist():
        for first, last in segments[session]:
            if first <= start and stop <= last:
                begin = first - (first - start) // hop * hop
                end = first + (stop - first) // hop * hop
                if end > begin:
                    rows.append((session, begin, end))
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def frames_of(codes: CodeStore, stretches: Int[np.ndarray, "stretch 3"]) -> Int[np.ndarray, "stretch 3"]:
    """Stretches in samples, aligned by :func:`on_frames`, as (session, first frame, last frame + 1)."""
    rows = []
    for session, start, stop in stretches.tolist():
        first = codes.frame_at(session, start)
        rows.append((session, first, first + (stop - start) // codes.hop))
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


class _Frames:
    """A store of codes seen as sessions of frames, so that windows of frames are placed like windows of samples."""

    def __init__(self, codes: CodeStore) -> None:
        self.codes = codes
        self.sessions = tuple(Extent(session.name, session.n_frames, 1) for session in codes.sessions)

    def gather(self, sessions: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
        return self.codes.gather(sessions, starts, length)


class TokenWindows(Dataset[Batch]):
    """Windows of codes inside stretches.

    Batches: ``codes`` (window, frame, site, level), ``session``, ``start`` (first sample) and ``index`` (window,), all
    int64.

    Args:
        codes: of the tokenizer.
        stretches: rows (session, start, stop) in samples, aligned by :func:`on_frames`.
        n_frames: frames per window.
        step: frames from one window to the next; for windows in order.
        n_windows: where given, so many windows are drawn anew in every epoch.
        seed: of the draws.
    """

    def __init__(
        self,
        codes: CodeStore,
        stretches: Int[np.ndarray, "stretch 3"],
        n_frames: int,
        *,
        step: int | None = None,
        n_windows: int | None = None,
        seed: int = 0,
    ) -> None:
        if n_frames < 1:
            raise InvalidValue("n_frames", n_frames, "expected at least one frame")
        self.codes, self.n_frames = codes, n_frames
        rows, seen = frames_of(codes, stretches), _Frames(codes)
        self.places: Windows | RandomWindows = (
            regular_windows(seen, rows, n_frames, step)
            if n_windows is None
            else RandomWindows(seen, rows, n_frames, n_windows, seed=seed)
        )
        # One row per segment: which of them a frame lies in gives its sample.
        known = [(n, frame, first) for n, s in enumerate(codes.sessions) for first, frame, count in s.segments if count]
        self._segments = np.array(known, dtype=np.int64).reshape(-1, 3)
        self._bound = max((session.n_frames for session in codes.sessions), default=0) + 1

    def __len__(self) -> int:
        return len(self.places)

    def set_epoch(self, epoch: int) -> None:
        """Draw the windows of this epoch from now on."""
        if isinstance(self.places, RandomWindows):
            self.places.set_epoch(epoch)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        numbers = np.asarray(indices, dtype=np.int64)
        sessions, frames, _ = self.places.locate(numbers)
        return {
            "codes": torch.from_numpy(self.codes.gather(sessions, frames, self.n_frames)),
            "session": torch.from_numpy(sessions),
            "start": torch.from_numpy(self._samples(sessions, frames)),
            "index": torch.from_numpy(numbers),
        }

    def _samples(self, sessions: np.ndarray, frames: np.ndarray) -> np.ndarray:
        order = self._segments[:, 0] * self._bound + self._segments[:, 1]
        row = np.searchsorted(order, sessions * self._bound + frames, side="right") - 1
        return self._segments[row, 2] + (frames - self._segments[row, 1]) * self.codes.hop

    def __getitem__(self, index: int) -> Batch:
        return {key: value[0] for key, value in self.__getitems__([int(index)]).items()}
