"""Random windows of EEG, cut into patches: any files that MNE opens, or simulated EEG.

Raw files → store (filtered, resampled, scaled; prepared once in the cache) → split → batches of windows. Recordings
may differ in their channels: a batch holds recordings of one channel set only, so nothing is padded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from brainlab.data.recording_split import TrainingSpan
from brainlab.data.sampling import ChannelSetSampler, already_collated
from brainlab.data.sources import Source, manifest_of, prepare_source
from brainlab.data.splits import PARTS, TimeSplit, group_split, time_split
from brainlab.data.stretches import bad_spans, without
from brainlab.data.windows import RandomWindows, WindowGroups, Windows, regular_windows, stretches_of
from brainlab.datasets.recordings import AnyRecordings
from brainlab.errors import InvalidValue
from brainlab.io.cache import Cache
from brainlab.io.store import Store
from brainlab.prepare.sessions import manifest_table
from brainlab.prepare.steps.channels import Pick
from brainlab.prepare.steps.checks import MissingSamples, Units
from brainlab.prepare.steps.filters import BandPass, Notch, Resample
from brainlab.prepare.steps.scaling import Unit
from brainlab.synthetic.recordings import SimulatedRecordings
from brainlab.types import DataSource, Table

__all__ = ["EegPatches", "PatchBatches", "TrainingStatistics"]

_COVARIANCE_SAMPLES = 200_000
# What the preparation calls by the names of its steps has keys of its own here.
_OWN_KEYS = {
    "data.steps.missing.action": "data.missing",
    "data.steps.units.eeg": "data.file_unit",
    "data.steps.units.check": "data.check_unit",
}


@dataclass(frozen=True)
class TrainingStatistics:
    """What the training part says about the channels of one recording, in units of the store.

    ``positions`` are the electrodes' places in metres, None where the file has none.
    """

    ch_names: tuple[str, ...]
    mean: Float[np.ndarray, " channel"]
    covariance: Float[np.ndarray, "channel channel"]
    positions: Float[np.ndarray, "channel 3"] | None


class PatchBatches(WindowGroups):
    """Batches of patches from windows of one or several channel sets.

    Args:
        parts: the windows of each channel set.
        n_patches: patches per window.
    """

    def __init__(self, parts: Sequence[Windows | RandomWindows], n_patches: int) -> None:
        super().__init__(parts)
        self.n_patches = n_patches

    def __getitems__(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        batch = super().__getitems__(numbers)
        return {
            "eeg": batch["signal"].unflatten(-1, (self.n_patches, -1)),
            "index": batch["index"],
            "session": batch["session"],
        }


class EegPatches(LightningDataModule):
    """Windows of recordings in a folder, or of simulated ones where ``root`` is null.

    Batches: ``eeg`` (batch, channel, patch, time) float32 in units of ``unit_uv`` µV, ``index`` (batch,) int64 number
    of the window, ``session`` (batch,) int64 number of the recording in the store.

    Args:
        cache_dir: where prepared (and simulated) recordings are kept.
        root: folder of recordings; null simulates.
        include: glob pattern or patterns below ``root``; without a slash they match file names at any depth.
        subject: recordings of this person only, by name (``sub-07``) or number; null takes everyone.
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
        missing: samples that are no numbers: "raise" refuses the recording, "mark" bridges them and keeps windows away.
        file_unit: what one number of a file is, where it does not say so rightly: V, mV, uV …
        check_unit: refuse amplitudes that no brain has.
        on_error: "raise" or "skip" recordings that cannot be prepared.
        avoid_bad: no window overlaps an annotation that starts with "bad" or crosses a boundary, as in MNE.
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
        subject: str | int | None = None,
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
        missing: Literal["raise", "mark"] = "raise",
        file_unit: str = "V",
        check_unit: bool = True,
        on_error: Literal["raise", "skip"] = "raise",
        avoid_bad: bool = True,
        batch_size: int = 4,
        windows_per_epoch: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if split not in ("time", "session", "subject"):
            raise InvalidValue("data.split", split, "unknown; expected time, session or subject")
        if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6 or fractions[0] == 0:
            raise InvalidValue(
                "data.fractions", list(fractions), "expected three numbers ≥ 0 that sum to 1, the first of them above 0"
            )
        for name, number, least in (
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("guard_s", guard_s, 0),
        ):
            if number < least:
                raise InvalidValue(f"data.{name}", number, f"expected at least {least}")
        for name, seconds in (("sfreq_hz", sfreq_hz), ("patch_s", patch_s), ("window_s", window_s)):
            if seconds <= 0:
                raise InvalidValue(f"data.{name}", seconds, "expected more than 0")
        self.patch_length = _whole("data.patch_s", patch_s, 1 / sfreq_hz, "samples")
        self.n_patches = _whole("data.window_s", window_s, patch_s, "patches")
        self.length = self.patch_length * self.n_patches
        if windows_per_epoch is not None and windows_per_epoch < 1:
            raise InvalidValue("data.windows_per_epoch", windows_per_epoch, "expected at least 1, or null")
        if not unit_uv > 0:
            raise InvalidValue("data.unit_uv", unit_uv, "expected a positive number")
        steps = {
            "missing": MissingSamples(missing),
            "units": Units(eeg=file_unit, check=check_unit),
            "pick": Pick(("eeg",)),
            "notch": Notch(notch_hz),
            "band_pass": BandPass(l_freq_hz, h_freq_hz),
            "resample": Resample(sfreq_hz, "fft"),
            "unit": Unit(unit_uv * 1e-6),
        }
        self.recordings = Source(AnyRecordings(), SimulatedRecordings(), root, include, subject, steps)
        self.sfreq_hz, self.unit_uv = float(sfreq_hz), float(unit_uv)
        self.cache, self.root = Cache(cache_dir), None if root is None else Path(root).expanduser()
        self.size, self.on_error = size, on_error
        self.split_kind, self.fractions, self.guard_s = split, tuple(fractions), guard_s
        self.avoid_bad = avoid_bad
        self.batch_size, self.windows_per_epoch = batch_size, windows_per_epoch
        self.num_workers, self.seed = num_workers, seed
        self.source: DataSource = "synthetic" if root is None else "files"
        self.fingerprint = ""
        self.train_sampler: Any = None
        self._folder: Path | None = None
        self._opened: Path | None = None

    def prepare_data(self) -> None:
        """Simulate where there is no root, then filter, resample and store, unless the cache has it already."""
        # No step of this module takes statistics, so the split has no part in what is prepared.
        span = TrainingSpan("session", calibration_s=None)
        try:
            self._folder = prepare_source(
                self.recordings, self.cache, size=self.size, training_span=span, on_error=self.on_error
            )
        except InvalidValue as error:
            hint = error.hint
            for step, own in _OWN_KEYS.items():
                hint = hint and hint.replace(step, own)
            raise type(error)(error.name, error.value, error.expected, where=error.where, hint=hint) from error
        self.fingerprint = Store(self._folder).fingerprint

    def setup(self, stage: str | None = None) -> None:
        """Open the store, draw the split and lay out the windows."""
        if self._folder is None:  # another process prepared; find its result
            self.prepare_data()
        if self._opened == self._folder:
            return
        self.store = Store(str(self._folder))
        names = sorted({session.ch_names for session in self.store.sessions})
        self.channel_sets = [names.index(session.ch_names) for session in self.store.sessions]
        self.stretches = self._split()
        if self.avoid_bad:
            bad = [bad_spans(session) for session in self.store.sessions]
            self.stretches = {part: without(rows, bad) for part, rows in self.stretches.items()}
        self._windows = {
            "train": self._random_windows(),
            **{part: self._fixed_windows(part) for part in ("val", "test")},
        }
        self._statistics: dict[int, TrainingStatistics] = {}
        self._opened = self._folder

    def _split(self) -> dict[str, np.ndarray]:
        """Part → rows (session, start, stop) in samples."""
        sessions = self.store.sessions
        if self.split_kind == "time":
            splits = [self._time_split(session.name, session.n_samples) for session in sessions]
            return {part: stretches_of(splits, part) for part in PARTS}
        groups = [s.name if self.split_kind == "session" else str(s.attrs["subject"]) for s in sessions]
        drawn = group_split(groups, self.fractions, self.seed, kind=self.split_kind).check(groups)
        return {
            part: np.array([[n, 0, sessions[n].n_samples] for n in indices.tolist()], dtype=np.int64).reshape(-1, 3)
            for part, indices in drawn.parts().items()
        }

    def _time_split(self, name: str, n_samples: int) -> TimeSplit:
        try:
            return time_split(n_samples, self.sfreq_hz, self.fractions, self.guard_s)
        except InvalidValue as error:
            seconds = n_samples / self.sfreq_hz
            raise InvalidValue(
                "data.guard_s", self.guard_s, f"expected room for all parts in the {seconds:g} s of recording {name}",
                hint="a smaller guard, or data.fractions with 0 for a part that is not needed",
            ) from error  # fmt: skip

    def _by_channel_set(self, part: str) -> list[np.ndarray]:
        """The stretches of a part that hold a window, for each channel set that has any."""
        rows = self.stretches[part]
        rows = rows[rows[:, 2] - rows[:, 1] >= self.length]
        if not len(rows):
            longest = max((int(b - a) for _, a, b in self.stretches[part].tolist()), default=0) / self.sfreq_hz
            raise InvalidValue(
                "data.window_s",
                self.length / self.sfreq_hz,
                f"expected at most the {longest:g} s of the longest {part} stretch",
                hint="shorter windows, longer recordings, or other data.fractions and data.guard_s",
            )
        sets = np.array(self.channel_sets)[rows[:, 0]]
        return [rows[sets == number] for number in np.unique(sets)]

    def _random_windows(self) -> PatchBatches:
        groups = self._by_channel_set("train")
        room = np.array([(rows[:, 2] - rows[:, 1]).sum() for rows in groups], dtype=np.float64)
        n = self.windows_per_epoch or max(1, int(room.sum() // self.length))
        # Every channel set has its share of the time, and at least one window.
        counts = np.maximum(1, np.round(n * room / room.sum())).astype(int).tolist()
        parts = [
            RandomWindows(self.store, rows, self.length, count, seed=self.seed + 7919 * number)
            for number, (rows, count) in enumerate(zip(groups, counts, strict=True))
        ]
        return PatchBatches(parts, self.n_patches)

    def _fixed_windows(self, part: str) -> PatchBatches:
        if self.fractions[PARTS.index(part)] == 0:
            return PatchBatches([], self.n_patches)
        groups = self._by_channel_set(part)
        return PatchBatches([regular_windows(self.store, rows, self.length) for rows in groups], self.n_patches)

    def train_dataloader(self) -> DataLoader:
        loader = self._loader("train", shuffle=True)
        self.train_sampler = loader.batch_sampler
        return loader

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        return self._loader("val") if len(self._windows["val"]) else []

    def test_dataloader(self) -> DataLoader | list[DataLoader]:
        return self._loader("test") if len(self._windows["test"]) else []

    def _loader(self, part: str, shuffle: bool = False) -> DataLoader:
        windows = self._windows[part]
        sampler = ChannelSetSampler(windows, self.batch_size, self.seed, shuffle)
        return DataLoader(windows, batch_sampler=sampler, num_workers=self.num_workers, collate_fn=already_collated)

    def training_statistics(self, session: int) -> TrainingStatistics:
        """Mean and covariance over the training part of this recording, or, where it has none (split by session or
        subject), over the training recordings with the same channels."""
        if session not in self._statistics:
            entry, rows = self.store.sessions[session], self.stretches["train"]
            if not (rows[:, 0] == session).any():
                alike = np.array(self.channel_sets)[rows[:, 0]] == self.channel_sets[session]
                rows = rows[alike]
            else:
                rows = rows[rows[:, 0] == session]
            if not len(rows):
                raise InvalidValue(
                    "data.split", self.split_kind, f"expected a training recording with the channels of {entry.name}"
                )
            pieces = [self.store.read(number, start, stop - start) for number, start, stop in rows.tolist()]
            step = max(1, sum(piece.shape[1] for piece in pieces) // _COVARIANCE_SAMPLES)
            samples = np.concatenate([piece[:, ::step] for piece in pieces], axis=1).astype(np.float64)
            places = [channel.position for channel in entry.channels]
            positions = None if any(p is None for p in places) else np.array(places, dtype=np.float64)
            self._statistics[session] = TrainingStatistics(
                entry.ch_names, samples.mean(axis=1), np.atleast_2d(np.cov(samples)), positions
            )
        return self._statistics[session]

    @cached_property
    def shapes(self) -> Mapping[str, int]:
        """Sizes of a batch; the number of channels only where all recordings agree on it."""
        sizes = {"n_patches": self.n_patches, "patch_size": self.patch_length}
        channels = {session.n_channels for session in self.store.sessions}
        return {**sizes, "n_channels": channels.pop()} if len(channels) == 1 else sizes

    def tables(self) -> list[Table]:
        """What became of every recording, for the report."""
        rows = manifest_of(self.store.folder)
        return [Table("sessions", "What became of every recording", *manifest_table(rows))]

    def describe(self) -> dict[str, Any]:
        """Facts for the report."""
        sessions = self.store.sessions
        seconds = {
            part: round(float((rows[:, 2] - rows[:, 1]).sum()) / self.sfreq_hz, 2)
            for part, rows in self.stretches.items()
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
            "sfreq_hz": self.sfreq_hz,
            "unit": f"{self.unit_uv:g} µV",
            "window_s": self.length / self.sfreq_hz,
            "patches_per_window": self.n_patches,
            "split": self.split_kind,
            "guard_s": self.guard_s,
            "seconds": seconds,
            "windows": {part: len(windows) for part, windows in self._windows.items()},
        }


def _whole(name: str, seconds: float, unit_s: float, unit: str) -> int:
    number = round(seconds / unit_s)
    if number < 1 or abs(seconds / unit_s - number) > 1e-6:
        raise InvalidValue(name, seconds, f"expected a whole number of {unit} of {unit_s:g} s, at least 1")
    return number
