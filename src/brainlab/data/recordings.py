"""Windows of continuous recordings, as signals or as codes: one data set, several, or any files that MNE opens.

Raw files → store (prepared once, by ordered steps) → split → windows. With a tokenizer the store is also turned into
codes, once, frame by frame; windows, overlaps and splits are read from the same codes.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from brainlab.data.layout import CanonicalStore, ChannelLayout, canonical_layout, channel_sets
from brainlab.data.recording_facts import describe, tables
from brainlab.data.recording_notes import notes_of
from brainlab.data.recording_settings import check_settings
from brainlab.data.recording_split import Kind, TrainingSpan
from brainlab.data.recording_windows import assign, find_stretches, place_windows, window_lengths
from brainlab.data.sampling import ChannelSetSampler, already_collated
from brainlab.data.sources import OnError, Source, manifest_of, prepare_source, unite
from brainlab.data.splits import PARTS
from brainlab.data.stretches import usable_segments
from brainlab.errors import InvalidFile, InvalidValue
from brainlab.io.cache import Cache, code_digest
from brainlab.io.codes import CodeStore
from brainlab.io.recording import Channel
from brainlab.io.store import Session, Store
from brainlab.prepare.tokenise import tokenise_store
from brainlab.types import DataSource, Table, Tokenizer

__all__ = ["MixedRecordings", "Recordings"]

log = logging.getLogger(__name__)

_LISTED = 5


class MixedRecordings(LightningDataModule):
    """Windows of the recordings of several data sets, prepared each in its own way.

    Batches: ``session`` (batch,) number of the recording in the store, ``start`` (batch,) first sample and ``index``
    (batch,) number of the window, all int64; without a tokenizer ``signal`` (batch, channel, time) float32 in units of
    the store with zeros where a channel is missing, and ``present`` (batch, channel) bool; with one, ``codes``
    (batch, frame, site, level) int64.

    Args:
        cache_dir: where simulated and prepared recordings and codes are kept.
        sources: name → recordings of one data set; their order is that of the store.
        size: of simulations, "tiny" or "default"; ignored with files.
        on_error: "raise" or "skip" recordings that cannot be prepared. Recordings that a step discards are no errors.
        prepare_workers: processes that prepare recordings.
        tokenizer: makes a tokenizer when called with ``n_channels``; null gives signals.
        window_s: length of a window, rounded to samples.
        overlap_s: of two neighbouring windows, where they are regular.
        windows_per_epoch: training windows drawn at random per epoch; null takes all regular ones.
        split: "subject", "session", "dataset" (``heldout_dataset`` validates and tests) or "time" (every recording
            has a training, a validation and a test block).
        heldout_dataset: for ``split=dataset``.
        fractions: of the subjects, sessions or time, for training, validation and test.
        guard_s: between two blocks of a split in time; at least ``window_s``.
        calibration_s: a recording's scales and bad channels are taken from its training block (split in time) or from
            so many seconds at its beginning (other splits); null takes all of it.
        split_file: a saved split that is used instead of a new one.
        layout: "canonical" puts all channels of all recordings in one order, "separate" gives batches of one channel
            set each.
        avoid_bad: no window overlaps an annotation that starts with "bad" or crosses a boundary, as in MNE.
        batch_size: windows per batch.
        num_workers: processes that read batches.
        seed: of the draws of groups, places and order.

    Attributes (after ``setup``):
        store: the prepared signals; ``stretches``: part → rows (session, start, stop) that windows lie in;
        ``channels``: of a signal, in order; ``tokenizer``: built, or None; ``split_path``: the saved split; ``notes``:
        remarks on recordings and doubts about the split, in sentences.
    """

    def __init__(
        self,
        *,
        cache_dir: str,
        sources: Mapping[str, Source],
        size: Literal["tiny", "default"] = "default",
        on_error: Literal["raise", "skip"] = "raise",
        prepare_workers: int = 1,
        tokenizer: Any = None,
        window_s: float = 5.12,
        overlap_s: float = 0.0,
        windows_per_epoch: int | None = None,
        split: Literal["subject", "session", "dataset", "time"] = "subject",
        heldout_dataset: str | None = None,
        fractions: Sequence[float] = (0.55, 0.15, 0.3),
        guard_s: float = 10.24,
        calibration_s: float | None = 60.0,
        split_file: str | None = None,
        layout: Literal["canonical", "separate"] = "canonical",
        avoid_bad: bool = True,
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_settings(split, fractions, guard_s, window_s, overlap_s, layout)
        for name, number, least in (
            ("batch_size", batch_size, 1), ("num_workers", num_workers, 0), ("prepare_workers", prepare_workers, 1),
            ("windows_per_epoch", windows_per_epoch, 1), ("calibration_s", calibration_s, 0),
        ):  # fmt: skip
            if number is not None and number < least:
                raise InvalidValue(f"data.{name}", number, f"expected at least {least}")
        if not sources:
            raise InvalidValue("data.sources", {}, "expected at least one source of recordings")
        self.cache, self.sources = Cache(cache_dir), dict(sources)
        self.size, self.on_error, self.prepare_workers = size, on_error, prepare_workers
        self.make_tokenizer = tokenizer
        self.window_s, self.overlap_s, self.windows_per_epoch = float(window_s), float(overlap_s), windows_per_epoch
        self.split_kind: Kind = split
        self.heldout_dataset, self.split_file = heldout_dataset, split_file
        self.fractions = (float(fractions[0]), float(fractions[1]), float(fractions[2]))
        self.guard_s, self.calibration_s = float(guard_s), calibration_s
        self.layout_kind, self.avoid_bad = layout, avoid_bad
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        kinds = {one.kind for one in self.sources.values()}
        # One simulated source among files makes the result no result on recordings.
        self.source: DataSource = "synthetic" if "synthetic" in kinds else "files"
        self.fingerprint = ""
        self.notes: list[str] = []
        self.train_sampler: Any = None
        self.tokenizer: Tokenizer | None = None
        self._store: Store | None = None
        self._layout: ChannelLayout | None = None
        self._codes: CodeStore | None = None
        self._ready = False

    # What the windows are cut from.

    def prepare_data(self) -> None:
        """Simulate where there is no root, prepare what is not in the cache yet, and turn it into codes."""
        span = TrainingSpan(self.split_kind, self.fractions, self.guard_s, self.calibration_s)
        on_error: OnError = self.on_error
        folders = {
            name: prepare_source(
                source, self.cache, size=self.size, training_span=span, on_error=on_error,
                n_workers=self.prepare_workers,
            )
            for name, source in self.sources.items()
        }  # fmt: skip
        self._store = Store(unite(folders, self.cache))
        self._ready = False
        self._open()

    def _open(self) -> None:
        """Layout, tokenizer and codes of the prepared store."""
        store = self.store
        if not store.sessions:
            reasons = Counter(str(row.get("reason") or row.get("error")) for row in manifest_of(store.folder))
            said = "; ".join(f"{count} × {reason}" for reason, count in reasons.most_common(_LISTED))
            raise InvalidFile("recordings", "none", f"expected at least one that is usable ({said})", where="data.root")
        rates = sorted({session.sfreq_hz for session in store.sessions})
        if rates[-1] - rates[0] > 1e-6 * rates[-1]:
            raise InvalidValue(
                "sfreq_hz", ", ".join(f"{rate:g}" for rate in rates), "expected one rate in all recordings",
                where="data.steps", hint="a Resample step brings them to one",
            )  # fmt: skip
        self._layout = canonical_layout(store.sessions, merge=self.layout_kind == "canonical")
        self.channel_sets = channel_sets(store.sessions)
        self._seen = CanonicalStore(store, self._layout)
        self._segments = [usable_segments(session) for session in store.sessions]
        self.fingerprint = store.fingerprint
        if self.make_tokenizer is None:
            return
        if self.layout_kind == "separate" and len(set(self.channel_sets)) > 1:
            raise InvalidValue(
                "data.layout", self.layout_kind,
                f"expected canonical with a tokenizer, since there are {len(set(self.channel_sets))} channel sets",
            )  # fmt: skip
        self.tokenizer = tokenizer = self.make_tokenizer(n_channels=self.n_channels)
        self._codes = CodeStore(self._tokenised(tokenizer))
        joined = f"{store.fingerprint} {self._codes.fingerprint} {tokenizer.fingerprint}"
        self.fingerprint = hashlib.sha256(joined.encode()).hexdigest()

    def _tokenised(self, tokenizer: Tokenizer) -> Path:
        store = self.store
        inputs = {"store": store.fingerprint, "tokenizer": tokenizer.fingerprint}
        code = code_digest("prepare/tokenise.py", "io/codes.py", "data/layout.py", "data/stretches.py")

        def build(target: Path) -> None:
            names = [session.name for session in store.sessions]
            tokenise_store(target, names, self._segments, self.signal, tokenizer, sources=inputs)

        return self.cache.get("codes", {"code": code}, inputs, build)

    def setup(self, stage: str | None = None) -> None:
        """Draw the split and place the windows."""
        if self._ready:
            return
        if self._store is None:
            self.prepare_data()
        self.n_samples, self.stride = window_lengths(self)
        self.assignment, self.left_out = assign(self)
        self.assignment.refuse_copies([session.sha256 for session in self.store.sessions])
        spans = [self.scaler_span(number) or (0, 0) for number in range(len(self.store))]
        self.assignment.refuse_foreign_statistics(spans, self.sfreq_hz)
        self._say_what_is_missing()
        self.stretches = find_stretches(self, self._segments)
        self.windows = {part: place_windows(self, part, self._seen) for part in PARTS}
        self.split_path = self._saved_split()  # a damaged or full cache ends the run here, not after training
        self.notes = notes_of(self)
        for note in self.notes:
            log.warning("%s", note)
        self._ready = True

    def _say_what_is_missing(self) -> None:
        for name, reason in self.left_out.items():
            log.warning("%s is in no part: %s", name, reason)
        sets = len(set(self.channel_sets))
        if sets > 1 and self.layout_kind == "canonical":
            shares = [len(places) / self.n_channels for places in self.layout.places]
            log.info(
                "%d channel sets in one order of %d channels; a recording has %.0f to %.0f %% of them, the others are"
                " zeros and marked absent", sets, self.n_channels, 100 * min(shares), 100 * max(shares),
            )  # fmt: skip

    def _saved_split(self) -> Path:
        """The split as a file, which ``data.split_file`` takes."""
        recipe: dict[str, Any] = {"kind": self.split_kind, "fractions": list(self.fractions), "guard_s": self.guard_s}
        recipe |= {"seed": self.seed, "heldout": self.heldout_dataset, "file": self.split_file}
        recipe |= {"code": code_digest("data/recording_split.py", "data/splits.py")}
        inputs = {"store": self.store.fingerprint}
        if self.split_file is not None:
            inputs["file"] = hashlib.sha256(Path(self.split_file).expanduser().read_bytes()).hexdigest()

        def build(target: Path) -> None:
            self.assignment.save(target / "split.json")

        return self.cache.get("recordings_split", recipe, inputs, build) / "split.json"

    # Lightning's side.

    def train_dataloader(self) -> DataLoader:
        loader = self._loader("train", shuffle=True)
        self.train_sampler = loader.batch_sampler
        return loader

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        return self._loader("val") if len(self.windows["val"]) else []

    def test_dataloader(self) -> DataLoader | list[DataLoader]:
        return self._loader("test") if len(self.windows["test"]) else []

    def _loader(self, part: str, shuffle: bool = False) -> DataLoader:
        windows = self.windows[part]
        sampler = ChannelSetSampler(windows, self.batch_size, self.seed, shuffle)
        return DataLoader(windows, batch_sampler=sampler, num_workers=self.num_workers, collate_fn=already_collated)

    # What an evaluation asks for.

    @property
    def store(self) -> Store:
        """The prepared signals, channels in the order of each recording."""
        if self._store is None:
            raise InvalidValue("data", "not prepared", "expected prepare_data() before its content is asked for")
        return self._store

    @property
    def layout(self) -> ChannelLayout:
        """The common order of the channels."""
        if self._layout is None:
            raise InvalidValue("data", "not prepared", "expected prepare_data() before its content is asked for")
        return self._layout

    @property
    def code_store(self) -> CodeStore | None:
        """The codes of all sessions, None without a tokenizer."""
        return self._codes

    @property
    def sfreq_hz(self) -> float:
        """Rate of the signals."""
        return self.store.sessions[0].sfreq_hz

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Channels of a signal in canonical order."""
        return self.layout.channels

    @property
    def ch_names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(channel.name for channel in self.channels)

    @property
    def n_channels(self) -> int:
        """Rows of a signal in canonical order."""
        return self.layout.n_channels

    @property
    def positions(self) -> Float[np.ndarray, "channel 3"]:
        """Places of the channels in metres, NaN where unknown."""
        return np.array([channel.position or (np.nan,) * 3 for channel in self.channels], dtype=np.float64)

    @property
    def orientations(self) -> Float[np.ndarray, "channel 3"]:
        """Directions of the sensors, unit length, NaN where unknown."""
        return np.array([channel.orientation or (np.nan,) * 3 for channel in self.channels], dtype=np.float64)

    @property
    def session_names(self) -> tuple[str, ...]:
        """Names of the recordings in the store's order."""
        return tuple(session.name for session in self.store.sessions)

    @property
    def scalers(self) -> list[dict[str, Any] | None]:
        """Per recording the way back to SI units: value = stored · scale + centre, per channel of the recording."""
        return [session.attrs.get("scalers") for session in self.store.sessions]

    def scaler_span(self, session: int) -> tuple[int, int] | None:
        """Samples [start, stop) that this recording's own statistics were taken from.

        (0, 0) where no step took any, None where nobody knows, as in recordings that were prepared elsewhere.
        """
        span = self.session(session).attrs.get("span")
        return None if span is None else (int(span[0]), int(span[1]))

    def session(self, number: int) -> Session:
        """One recording of the store: name, length, and facts in ``attrs``."""
        if not 0 <= number < len(self.store.sessions):
            raise InvalidValue("session", number, f"expected a number from 0 below {len(self.store.sessions)}")
        return self.store.sessions[number]

    def signal(self, session: int, start: int, length: int) -> Float32[np.ndarray, "channel time"]:
        """Samples of one recording in canonical order, zeros where it has no such channel."""
        return self._seen.gather(np.array([session]), np.array([start]), length)[0]

    def present(self, session: int) -> Bool[np.ndarray, " channel"]:
        """Which canonical channels a recording has."""
        return self.layout.present(session)

    def codes(self, session: int, start: int, n_frames: int) -> Int64[np.ndarray, "frame site level"]:
        """Codes of ``n_frames`` frames from sample ``start`` on, which begins a frame inside a stretch."""
        if self._codes is None:
            raise InvalidValue("data.tokenizer", None, "expected a tokenizer, since codes are asked for")
        return self._codes.read(session, start, n_frames)

    def training_signals(self, max_s: float | None = None) -> Iterator[tuple[int, Float32[np.ndarray, "channel time"]]]:
        """(session, signal) of every training stretch, in canonical order.

        Args:
            max_s: at most so many seconds in all, an equal share of every stretch.
        """
        for session, start, length in self._training_stretches(max_s):
            if length:
                yield session, self.signal(session, start, length)

    def training_codes(self, max_s: float | None = None) -> Iterator[tuple[int, Int64[np.ndarray, "frame site level"]]]:
        """(session, codes) of every training stretch, in the store's order; draws nothing and leaves loaders alone.

        Args:
            max_s: at most so many seconds in all, an equal share of every stretch.
        """
        if self.tokenizer is None:
            raise InvalidValue("data.tokenizer", None, "expected a tokenizer, since codes are asked for")
        for session, start, length in self._training_stretches(max_s):
            n_frames = length // self.tokenizer.hop
            if n_frames:
                yield session, self.codes(session, start, n_frames)

    def _training_stretches(self, max_s: float | None) -> Iterator[tuple[int, int, int]]:
        """(session, start, length) in samples, shortened to ``max_s`` in all."""
        rows = self.stretches["train"]
        total = float((rows[:, 2] - rows[:, 1]).sum()) / self.sfreq_hz
        share = 1.0 if max_s is None else min(1.0, max_s / total)
        for session, start, stop in rows.tolist():
            yield session, start, int((stop - start) * share)

    @property
    def shapes(self) -> Mapping[str, int]:
        """Sizes of a batch; the number of channels only where all batches agree on it."""
        sizes = {"n_samples": self.n_samples}
        counts = {len(places) for places in self.layout.places}
        if self.layout_kind == "canonical" or len(set(self.channel_sets)) == 1:
            sizes["n_channels"] = self.n_channels
        elif len(counts) == 1:
            sizes["n_channels"] = counts.pop()
        if self.tokenizer is not None:
            sizes |= {
                "n_sites": self.tokenizer.n_sites,
                "n_levels": self.tokenizer.n_levels,
                "vocab_size": self.tokenizer.vocab_size,
                "n_frames": self.n_samples // self.tokenizer.hop,
            }
        return sizes

    def describe(self) -> dict[str, Any]:
        """Facts for the report: what became of every recording, who is in which part, and the layout."""
        return describe(self)

    def tables(self) -> list[Table]:
        """What became of every recording, and what each part holds, for the report."""
        return tables(self)


class Recordings(MixedRecordings):
    """Windows of the recordings of one data set, or of any folder of files that MNE opens.

    Batches and all arguments that are not below are those of :class:`MixedRecordings`.

    Args:
        dataset: knows where the files are and what they mean.
        simulator: writes the data set's layout where there is no root.
        root: folder of the data set; null simulates.
        include: glob pattern or patterns below ``root``; without a slash they match file names at any depth.
        subject: recordings of this person only, by name or number; null takes everyone.
        steps: preparation, ordered, by name; null leaves a step out.
    """

    def __init__(
        self,
        *,
        cache_dir: str,
        dataset: Any,
        simulator: Any = None,
        root: str | None = None,
        include: str | Sequence[str] = "*",
        subject: str | int | None = None,
        steps: Mapping[str, Any] | None = None,
        # Spelled out again: the keys of a configuration are checked against what stands here, and nothing is imported.
        size: Literal["tiny", "default"] = "default",
        on_error: Literal["raise", "skip"] = "raise",
        prepare_workers: int = 1,
        tokenizer: Any = None,
        window_s: float = 5.12,
        overlap_s: float = 0.0,
        windows_per_epoch: int | None = None,
        split: Literal["subject", "session", "dataset", "time"] = "subject",
        heldout_dataset: str | None = None,
        fractions: Sequence[float] = (0.55, 0.15, 0.3),
        guard_s: float = 10.24,
        calibration_s: float | None = 60.0,
        split_file: str | None = None,
        layout: Literal["canonical", "separate"] = "canonical",
        avoid_bad: bool = True,
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        source = Source(dataset, simulator, root, include, subject, dict(steps or {}))
        super().__init__(
            cache_dir=cache_dir,
            sources={dataset.name: source},
            size=size,
            on_error=on_error,
            prepare_workers=prepare_workers,
            tokenizer=tokenizer,
            window_s=window_s,
            overlap_s=overlap_s,
            windows_per_epoch=windows_per_epoch,
            split=split,
            heldout_dataset=heldout_dataset,
            fractions=fractions,
            guard_s=guard_s,
            calibration_s=calibration_s,
            split_file=split_file,
            layout=layout,
            avoid_bad=avoid_bad,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
        )
