"""Random windows of continuous recordings, cut into patches: any files that MNE opens, or simulated EEG.

Raw files → store (filtered, resampled, scaled; prepared once in the cache) → split → batches of windows. Recordings
may differ in their channels: a batch holds recordings of one channel set only, so nothing is padded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from brainlab.data.sampling import ResumableSampler, already_collated
from brainlab.data.splits import PARTS, TimeSplit, group_split, time_split, window_index
from brainlab.datasets.recordings import companions, find_recordings
from brainlab.errors import InvalidValue
from brainlab.io.cache import Cache
from brainlab.io.store import Store
from brainlab.prepare.recordings import Preparation, prepare_store
from brainlab.types import DataSource

__all__ = ["ChannelSetSampler", "FixedWindows", "RandomWindows", "Recordings", "TrainingStatistics"]

_SIMULATION = {"seed": 0, "code_version": 1}
_COVARIANCE_SAMPLES = 200_000


@dataclass(frozen=True)
class TrainingStatistics:
    """What the training part says about the channels of one recording, in units of the store.

    ``positions`` are the electrodes' places in metres, None where the file has none.
    """

    ch_names: tuple[str, ...]
    mean: Float[np.ndarray, " channel"]
    covariance: Float[np.ndarray, "channel channel"]
    positions: Float[np.ndarray, "channel 3"] | None


class ChannelSetSampler(ResumableSampler):
    """Batches of samples of one channel set; sample ``i`` of epoch ``e`` is called ``e · n + i``.

    The number carries the epoch, so that a data set in a worker process can draw by it without being told.

    Args:
        channel_set: number of the channel set of every sample.
        batch_size: samples per batch; the last batch of a set may be smaller.
        seed: seed of the order.
        shuffle: false gives the samples of set 0, then those of set 1 …, and epoch 0's numbers in every epoch.
    """

    def __init__(
        self, channel_set: Int[np.ndarray, " sample"], batch_size: int, seed: int = 0, shuffle: bool = True
    ) -> None:
        super().__init__(len(channel_set), batch_size, seed, shuffle)
        self.members = [np.flatnonzero(channel_set == number) for number in np.unique(channel_set)]

    def __len__(self) -> int:
        return sum(-(-len(members) // self.batch_size) for members in self.members)

    def __iter__(self) -> Iterator[list[int]]:
        first, self._skip = self._skip, 0
        rng = np.random.default_rng([self.seed, self.epoch])
        batches = []
        for members in self.members:
            order = rng.permutation(members) if self.shuffle else members
            batches += [order[at : at + self.batch_size] for at in range(0, len(order), self.batch_size)]
        places = rng.permutation(len(batches)) if self.shuffle else np.arange(len(batches))
        offset = self.epoch * self.n if self.shuffle else 0
        return ((batches[place] + offset).tolist() for place in places[first:])


class _Windows(Dataset):
    """Turns (session, start) rows into a batch of patches."""

    def __init__(self, store: Store, length: int, n_patches: int) -> None:
        self.store, self.length, self.n_patches = store, length, n_patches

    def _batch(self, index: Sequence[int], sessions: np.ndarray, starts: np.ndarray) -> dict[str, Tensor]:
        windows = self.store.gather(sessions, starts, self.length)
        patches = windows.reshape(*windows.shape[:2], self.n_patches, self.length // self.n_patches)
        return {
            "eeg": torch.from_numpy(patches),
            "index": torch.as_tensor(index, dtype=torch.int64),
            "session": torch.as_tensor(sessions, dtype=torch.int64),
        }


class RandomWindows(_Windows):
    """Windows at random places of the training stretches; the place is a function of (seed, epoch, index).

    Args:
        store: prepared recordings.
        stretches: rows of (session, first start, number of starts), one array per channel set.
        channel_set: channel set of every sample of an epoch.
        length: samples per window.
        n_patches: patches per window.
        seed: seed of the places.
    """

    def __init__(
        self,
        store: Store,
        stretches: Sequence[Int[np.ndarray, "stretch 3"]],
        channel_set: Int[np.ndarray, " sample"],
        length: int,
        n_patches: int,
        seed: int,
    ) -> None:
        super().__init__(store, length, n_patches)
        self.stretches, self.channel_set, self.seed = list(stretches), channel_set, seed
        self._ends = [np.cumsum(rows[:, 2]) for rows in self.stretches]

    def __len__(self) -> int:
        return len(self.channel_set)

    def place(self, number: int) -> tuple[int, int]:
        """Session and start of sample ``epoch · n + i``."""
        epoch, i = divmod(number, len(self))
        which = int(self.channel_set[i])
        ends = self._ends[which]
        drawn = int(np.random.default_rng([self.seed, epoch, i]).integers(ends[-1]))
        row = int(np.searchsorted(ends, drawn, side="right"))
        session, first, count = self.stretches[which][row].tolist()
        return session, first + drawn - int(ends[row] - count)

    def __getitems__(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        places = np.array([self.place(number) for number in numbers])
        return self._batch(numbers, places[:, 0], places[:, 1])

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return {key: value[0] for key, value in self.__getitems__([number]).items()}


class FixedWindows(_Windows):
    """Windows at given places, the same in every epoch.

    Args:
        store: prepared recordings.
        places: rows of (session, start).
        length: samples per window.
        n_patches: patches per window.
    """

    def __init__(self, store: Store, places: Int[np.ndarray, "window 2"], length: int, n_patches: int) -> None:
        super().__init__(store, length, n_patches)
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def __getitems__(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        rows = self.places[np.asarray(numbers)]
        return self._batch(numbers, rows[:, 0], rows[:, 1])

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return {key: value[0] for key, value in self.__getitems__([number]).items()}


class Recordings(LightningDataModule):
    """Windows of recordings in a folder, or of simulated ones where ``root`` is null.

    Batches: ``eeg`` (batch, channel, patch, time) float32 in units of ``unit_uv`` µV, ``index`` (batch,) int64 number
    of the window, ``session`` (batch,) int64 number of the recording in the store.

    Args:
        cache_dir: where prepared (and simulated) recordings are kept.
        root: folder of recordings; null simulates.
        include: glob pattern or patterns below ``root``; without a slash they match file names at any depth.
        size: of the simulation, "tiny" or "default"; ignored with files.
        window_s: length of a window, a multiple of ``patch_s``.
        patch_s: length of a patch.
        split: "time" (every recording has a training, a validation and a test stretch), "session" or "subject".
        fractions: of the time (or of the sessions, subjects) for training, validation and test.
        guard_s: seconds left out between two stretches; longer than half the kernel of the default high-pass, so that
            no filtered sample of one stretch has seen the next.
        sfreq_hz: rate of the prepared recordings.
        l_freq_hz: high-pass, or null.
        h_freq_hz: low-pass, or null; lowered to 0.9 × the Nyquist frequency of a file where it is above.
        notch_hz: mains frequency to remove with its harmonics, or null.
        unit_uv: one unit of the prepared EEG in µV.
        on_error: "raise" or "skip" recordings that cannot be prepared.
        batch_size: windows per batch.
        windows_per_epoch: random training windows per epoch; null takes as many as fit side by side.
        num_workers: processes that read batches.
        seed: of the places and order of windows (and of the draw of sessions or subjects).
    """

    def __init__(
        self,
        *,
        cache_dir: str,
        root: str | None = None,
        include: str | Sequence[str] = "*",
        size: Literal["tiny", "default"] = "default",
        window_s: float = 4.0,
        patch_s: float = 1.0,
        split: Literal["time", "session", "subject"] = "time",
        fractions: Sequence[float] = (0.7, 0.15, 0.15),
        guard_s: float = 6.0,
        sfreq_hz: float = 200.0,
        l_freq_hz: float | None = 0.3,
        h_freq_hz: float | None = 75.0,
        notch_hz: float | None = None,
        unit_uv: float = 100.0,
        on_error: Literal["raise", "skip"] = "raise",
        batch_size: int = 4,
        windows_per_epoch: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if split not in ("time", "session", "subject"):
            raise InvalidValue("data.split", split, "unknown; expected time, session or subject")
        if root is None and include not in ("*", ["*"]):
            raise InvalidValue(
                "data.include", include, "expected data.root with it, since data.root=null runs on simulated recordings"
            )
        self.patch_length = _whole("data.patch_s", patch_s * sfreq_hz, "samples")
        self.n_patches = _whole("data.window_s", window_s / patch_s, "patches")
        self.length = self.patch_length * self.n_patches
        if windows_per_epoch is not None and windows_per_epoch < 1:
            raise InvalidValue("data.windows_per_epoch", windows_per_epoch, "expected at least 1, or null")
        self.plan = Preparation(sfreq_hz, l_freq_hz, h_freq_hz, notch_hz, ("eeg",), unit_uv * 1e-6)
        self.cache, self.root = Cache(cache_dir), None if root is None else Path(root).expanduser()
        self.include, self.size, self.on_error = include, size, on_error
        self.split_kind, self.fractions, self.guard_s = split, tuple(fractions), guard_s
        self.batch_size, self.windows_per_epoch = batch_size, windows_per_epoch
        self.num_workers, self.seed = num_workers, seed
        self.source: DataSource = "synthetic" if root is None else "files"
        self.fingerprint = ""
        self.train_sampler: ChannelSetSampler | None = None
        self._folder: Path | None = None

    def prepare_data(self) -> None:
        """Simulate where there is no root, then filter, resample and store, unless the cache has it already."""
        folder = self.root
        if folder is None:
            from brainlab.synthetic.recordings import write_recordings

            def simulate(target: Path) -> None:
                write_recordings(target, self.size, _SIMULATION["seed"])

            folder = self.cache.get("recordings_simulated", {"size": self.size, **_SIMULATION}, {}, simulate)
        files = find_recordings(folder, self.include)
        parts = sorted({part for file in files for part in companions(file.path)})
        recipe = {**self.plan.recipe(), "on_error": self.on_error, "sessions": [file.name for file in files]}
        inputs = {"files": self.cache.fingerprint_files(parts, folder)}

        def prepare(target: Path) -> None:
            from brainlab.io.mne_reader import read_recording

            prepare_store(files, target, self.plan, read=read_recording, on_error=self.on_error)

        self._folder = self.cache.get("recordings", recipe, inputs, prepare)
        self.fingerprint = Store(self._folder).fingerprint

    def setup(self, stage: str | None = None) -> None:
        """Open the store and draw the split."""
        if self._folder is None:
            self.prepare_data()
        assert self._folder is not None
        if "store" in self.__dict__ and self.store.folder == self._folder:
            return
        self.store = Store(self._folder)
        names = sorted({session.ch_names for session in self.store.sessions})
        self.channel_sets = [names.index(session.ch_names) for session in self.store.sessions]
        self.stretches = self._split()
        self._places = {part: self._fixed_places(part) for part in ("val", "test")}
        self._random = self._random_windows()
        self._statistics: dict[int, TrainingStatistics] = {}

    def _split(self) -> dict[str, list[np.ndarray]]:
        """Part → for every session, rows of [start, stop)."""
        sessions = self.store.sessions
        if self.split_kind == "time":
            splits = [self._time_split(session.name, session.n_samples) for session in sessions]
            return {part: [split.parts()[part] for split in splits] for part in PARTS}
        groups = [s.name if self.split_kind == "session" else str(s.attrs["subject"]) for s in sessions]
        drawn = group_split(groups, self.fractions, self.seed, kind=self.split_kind).check(groups)
        nothing = np.empty((0, 2), dtype=np.int64)
        return {
            part: [
                np.array([[0, session.n_samples]]) if number in set(indices.tolist()) else nothing
                for number, session in enumerate(sessions)
            ]
            for part, indices in drawn.parts().items()
        }

    def _time_split(self, name: str, n_samples: int) -> TimeSplit:
        try:
            return time_split(n_samples, self.plan.sfreq_hz, self.fractions, self.guard_s)
        except InvalidValue as error:
            raise InvalidValue(
                "data.guard_s", self.guard_s, f"expected room for all parts in recording {name} ({error})"
            ) from error

    def _fixed_places(self, part: str) -> np.ndarray:
        rows = [
            (session, start)
            for session, stretches in enumerate(self.stretches[part])
            for start in window_index(stretches, self.length).tolist()
        ]
        share = self.fractions[PARTS.index(part)]
        if not rows and share > 0:
            raise self._too_long(part)
        return np.array(rows, dtype=np.int64).reshape(-1, 2)

    def _random_windows(self) -> RandomWindows:
        n_sets = max(self.channel_sets) + 1
        rows: list[list[tuple[int, int, int]]] = [[] for _ in range(n_sets)]
        for session, stretches in enumerate(self.stretches["train"]):
            for start, stop in stretches.tolist():
                if stop - start >= self.length:
                    rows[self.channel_sets[session]].append((session, start, stop - start - self.length + 1))
        filled = [number for number in range(n_sets) if rows[number]]
        if not filled:
            raise self._too_long("train")
        stretches_of = [np.array(rows[number], dtype=np.int64) for number in filled]
        room = np.array([int((r[:, 2] + self.length - 1).sum()) for r in stretches_of], dtype=np.float64)
        n = self.windows_per_epoch or max(1, int(room.sum() // self.length))
        # Every set has its share of the time, and at least one window.
        counts = np.maximum(1, np.round(n * room / room.sum())).astype(int)
        channel_set = np.repeat(np.arange(len(filled)), counts)
        return RandomWindows(self.store, stretches_of, channel_set, self.length, self.n_patches, self.seed)

    def _too_long(self, part: str) -> InvalidValue:
        longest = max((int(b - a) for rows in self.stretches[part] for a, b in rows), default=0) / self.plan.sfreq_hz
        return InvalidValue(
            "data.window_s",
            self.length / self.plan.sfreq_hz,
            f"expected at most the {longest:g} s of the longest {part} stretch",
            hint="shorter windows, longer recordings, or other data.fractions and data.guard_s",
        )

    def train_dataloader(self) -> DataLoader:
        self.train_sampler = ChannelSetSampler(self._random.channel_set, self.batch_size, self.seed)
        return self._loader(self._random, self.train_sampler)

    def val_dataloader(self) -> DataLoader:
        return self._fixed_loader("val")

    def test_dataloader(self) -> DataLoader:
        return self._fixed_loader("test")

    def _fixed_loader(self, part: str) -> DataLoader:
        places = self._places[part]
        windows = FixedWindows(self.store, places, self.length, self.n_patches)
        sets = np.array([self.channel_sets[session] for session, _ in places.tolist()], dtype=np.int64)
        return self._loader(windows, ChannelSetSampler(sets, self.batch_size, self.seed, shuffle=False))

    def _loader(self, windows: _Windows, sampler: ChannelSetSampler) -> DataLoader:
        return DataLoader(windows, batch_sampler=sampler, num_workers=self.num_workers, collate_fn=already_collated)

    def training_statistics(self, session: int) -> TrainingStatistics:
        """Mean and covariance over the training part of this recording, or, where it has none (split by session or
        subject), over the training recordings with the same channels."""
        if session not in self._statistics:
            entry = self.store.sessions[session]
            own = self.stretches["train"][session]
            same = (
                [session]
                if len(own)
                else [n for n, s in enumerate(self.channel_sets) if s == self.channel_sets[session]]
            )
            pieces = [
                self.store.read(number, start, stop - start)
                for number in same
                for start, stop in self.stretches["train"][number].tolist()
            ]
            if not pieces:
                raise InvalidValue(
                    "data.split", self.split_kind, f"expected a training recording with the channels of {entry.name}"
                )
            step = max(1, sum(piece.shape[1] for piece in pieces) // _COVARIANCE_SAMPLES)
            samples = np.concatenate([piece[:, ::step] for piece in pieces], axis=1).astype(np.float64)
            places = [channel.position for channel in entry.channels]
            positions = None if any(p is None for p in places) else np.array(places, dtype=np.float64)
            self._statistics[session] = TrainingStatistics(
                entry.ch_names, samples.mean(axis=1), np.atleast_2d(np.cov(samples)), positions
            )
        return self._statistics[session]

    @property
    def sfreq_hz(self) -> float:
        """Rate of the windows."""
        return self.plan.sfreq_hz

    @property
    def unit_uv(self) -> float:
        """One unit of the windows in µV."""
        return self.plan.unit * 1e6

    @cached_property
    def shapes(self) -> Mapping[str, int]:
        """Sizes of a batch; the number of channels only where all recordings agree on it."""
        sizes = {"n_patches": self.n_patches, "patch_size": self.patch_length}
        channels = {session.n_channels for session in self.store.sessions}
        return {**sizes, "n_channels": channels.pop()} if len(channels) == 1 else sizes

    def describe(self) -> dict[str, Any]:
        """Facts for the report."""
        sessions = self.store.sessions
        seconds = {
            part: round(sum(int((rows[:, 1] - rows[:, 0]).sum()) for rows in stretches) / self.plan.sfreq_hz, 2)
            for part, stretches in self.stretches.items()
        }
        return {
            "dataset": "recordings",
            "source": self.source,
            "folder": None if self.root is None else str(self.root),
            "recordings": [
                {
                    "name": session.name,
                    "channels": session.n_channels,
                    **{
                        key: session.attrs[key]
                        for key in ("subject", "sfreq_in_hz", "duration_s", "n_events", "dropped")
                    },
                    "steps": session.attrs["steps"],
                    "warnings": session.attrs["warnings"],
                }
                for session in sessions
            ],
            "channel_sets": len(set(self.channel_sets)),
            "sfreq_hz": self.plan.sfreq_hz,
            "unit": f"{self.unit_uv:g} µV",
            "window_s": self.length / self.plan.sfreq_hz,
            "patches_per_window": self.n_patches,
            "split": self.split_kind,
            "guard_s": self.guard_s,
            "seconds": seconds,
            "windows": {
                "train (random, per epoch)": len(self._random),
                **{part: len(places) for part, places in self._places.items()},
            },
        }


def _whole(name: str, value: float, unit: str) -> int:
    rounded = round(value)
    if rounded < 1 or abs(value - rounded) > 1e-6:
        raise InvalidValue(name, f"{value:g} {unit}", f"expected a whole number of {unit}, at least 1")
    return rounded
