"""Windows of recordings: prepared once, split without leaks, one order of channels, the same as signals and codes."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from brainlab.data.recordings import MixedRecordings, Recordings
from brainlab.data.sources import Source
from brainlab.data.splits import PARTS
from brainlab.datasets.recordings import AnyRecordings, RecordingFile
from brainlab.errors import InvalidFile, InvalidValue, LeakError
from brainlab.io.legacy_chunk_writer import write_chunks
from brainlab.prepare.steps.channels import Pick
from brainlab.prepare.steps.cleaning import Clean
from brainlab.prepare.steps.filters import BandPass, Resample
from brainlab.prepare.steps.scaling import RobustScale
from brainlab.types import PreparedData, Tokenizer

mne = pytest.importorskip("mne")


class Halves:
    """A stand-in tokenizer: per frame and channel, the sign of the mean and whether it is large."""

    n_levels, vocab_size, receptive_field = 2, 2, 0
    made = 0

    def __init__(self, n_channels: int, hop: int = 4) -> None:
        self.hop, self.n_sites, self.fingerprint = hop, n_channels, f"halves-{n_channels}-{hop}"

    def encode(self, signal: torch.Tensor) -> torch.Tensor:
        Halves.made += 1
        means = signal.unflatten(-1, (-1, self.hop)).mean(dim=-1).transpose(1, 2)
        return torch.stack([means > 0, means.abs() > 0.5], dim=-1).long()

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return (codes[..., 0] * 2.0 - 1).transpose(1, 2).repeat_interleave(self.hop, dim=2)


@dataclasses.dataclass(frozen=True)
class Named(AnyRecordings):
    """Any recordings under another name."""

    name: str = "other"

    def conditions(self, *_: Any) -> None:
        return None


def write(
    path: Path, names: Sequence[str], seconds: float, sfreq_hz: float = 100.0, seed: int = 0, notes: Any = None
) -> None:
    rng = np.random.default_rng(seed)
    samples = 1e-5 * rng.standard_normal((len(names), round(seconds * sfreq_hz)))
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = mne.io.RawArray(samples, mne.create_info(list(names), sfreq_hz, "eeg"), verbose="error")
    if notes is not None:
        raw.set_annotations(mne.Annotations(*notes))
    raw.save(path, verbose="error")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eeg")
    for subject in range(6):
        names = ["Cz", "Pz", "Oz"] if subject != 2 else ["Oz", "Fz"]
        path = folder / f"sub-{subject:02d}" / "eeg" / f"sub-{subject:02d}_task-rest_raw.fif"
        write(path, names, 40 + subject, seed=subject)
    return folder


STEPS = {"pick": Pick(("eeg",)), "resample": Resample(50.0), "off": None, "scale": RobustScale()}


def ready(cache: Path, root: Path | None, **settings: Any) -> Recordings:
    data = Recordings(
        cache_dir=str(cache), dataset=AnyRecordings(), root=None if root is None else str(root),
        **{"steps": STEPS, "window_s": 2.0, "guard_s": 2.0, "batch_size": 4, **settings},
    )  # fmt: skip
    data.prepare_data()
    data.setup("fit")
    return data


def test_signals_come_in_one_order_with_what_is_missing_marked(cache: Path, root: Path) -> None:
    data = ready(cache, root, split="session", fractions=[0.6, 0.2, 0.2])
    assert isinstance(data, PreparedData)
    assert data.ch_names == ("Cz", "Pz", "Oz", "Fz")
    assert dict(data.shapes) == {"n_samples": 100, "n_channels": 4}
    seen = set()
    for part in PARTS:
        for batch in getattr(data, f"{part}_dataloader")():
            assert batch["signal"].dtype == torch.float32
            for signal, present, session, start in zip(
                *(batch[key] for key in ("signal", "present", "session", "start")), strict=True
            ):
                entry = data.session(int(session))
                seen.add(entry.name)
                raw = data.store.read(int(session), int(start), 100)
                assert present.tolist() == [name in entry.ch_names for name in data.ch_names]
                for row, name in enumerate(data.ch_names):
                    expected = raw[entry.ch_names.index(name)] if name in entry.ch_names else np.zeros(100)
                    np.testing.assert_array_equal(signal[row].numpy(), expected)
                np.testing.assert_array_equal(data.signal(int(session), int(start), 100), signal.numpy())
    assert len(seen) == 6


def test_separate_batches_hold_one_channel_set_each(cache: Path, root: Path) -> None:
    data = ready(cache, root, split="time", layout="separate", windows_per_epoch=60)
    assert "n_channels" not in data.shapes
    widths = {
        (batch["signal"].shape[1], len({data.session(n).ch_names for n in batch["session"].tolist()}))
        for batch in data.train_dataloader()
    }
    assert widths == {(3, 1), (2, 1)}
    assert all(batch["present"].all() for batch in data.train_dataloader())


@pytest.mark.parametrize("split", ["subject", "session"])
def test_no_recording_stands_in_two_parts(cache: Path, root: Path, split: str) -> None:
    data = ready(cache, root, split=split, fractions=[0.5, 0.2, 0.3])
    held = [set(rows[:, 0].tolist()) for rows in data.stretches.values()]
    assert [len(one) for one in held] == [3, 1, 2]
    assert set.union(*held) == set(range(6))
    other = ready(cache, root, split=split, fractions=[0.5, 0.2, 0.3], seed=1)
    assert [set(rows[:, 0].tolist()) for rows in other.stretches.values()] != held


def test_blocks_in_time_lie_apart_and_no_window_crosses_a_border(cache: Path, root: Path) -> None:
    data = ready(cache, root, split="time", windows_per_epoch=200)
    for session in range(6):
        blocks = sorted(row[1:] for rows in data.stretches.values() for row in rows.tolist() if row[0] == session)
        assert all(after[0] - before[1] >= 100 for before, after in itertools.pairwise(blocks))
    for part in PARTS:
        loader = getattr(data, f"{part}_dataloader")()
        for epoch in range(2):
            loader.batch_sampler.set_epoch(epoch)
            for batch in loader:
                for session, start in zip(batch["session"].tolist(), batch["start"].tolist(), strict=True):
                    rows = data.stretches[part]
                    assert any(n == session and a <= start and start + 100 <= b for n, a, b in rows.tolist())


def test_statistics_come_from_the_training_block(cache: Path, root: Path) -> None:
    data = ready(cache, root, split="time")
    for session in range(6):
        start, stop = data.scaler_span(session)
        assert 0 == start < stop
        train = [row for row in data.stretches["train"].tolist() if row[0] == session]
        assert stop <= max(row[2] for row in train) + 1
        scalers, entry = data.scalers[session], data.session(session)
        assert scalers is not None
        back = data.store.read(session) * np.array(scalers["scale"])[:, None] + np.array(scalers["centre"])[:, None]
        assert back.std() == pytest.approx(1e-5, rel=0.5)
        median = np.median(data.store.read(session, start, stop - start), axis=1)
        np.testing.assert_allclose(median, np.zeros(entry.n_channels), atol=0.05)
    early = ready(cache, root, split="session", fractions=[0.6, 0.2, 0.2], calibration_s=10.0)
    assert early.scaler_span(0) == (0, 500)


def test_windows_split_and_overlap_read_the_same_codes(cache: Path, root: Path) -> None:
    tokenizer = partial(Halves)
    settings = {"tokenizer": tokenizer, "fractions": [0.5, 0.2, 0.3], "split": "session"}
    data = ready(cache, root, **settings)
    assert isinstance(data.tokenizer, Tokenizer)
    assert dict(data.shapes) == {
        "n_samples": 100, "n_channels": 4, "n_sites": 4, "n_levels": 2, "vocab_size": 2, "n_frames": 25,
    }  # fmt: skip
    made = Halves.made
    for changes in (
        {"window_s": 4.0}, {"overlap_s": 1.52}, {"seed": 5}, {"split": "subject"}, {"windows_per_epoch": 50},
        {"batch_size": 2},
    ):  # fmt: skip
        again = ready(cache, root, **{**settings, **changes})
        assert again._codes is not None
        assert data._codes is not None
        assert again._codes.folder == data._codes.folder
        for batch in itertools.chain(again.train_dataloader(), again.test_dataloader()):
            assert batch["codes"].dtype == torch.int64
            assert batch.keys() == {"codes", "session", "start", "index"}
            for codes, session, start in zip(batch["codes"], batch["session"], batch["start"], strict=True):
                signal = torch.from_numpy(again.signal(int(session), int(start), again.n_samples))
                expected = Halves(4).encode(signal[None])[0]
                assert torch.equal(codes, expected)
                np.testing.assert_array_equal(again.codes(int(session), int(start), len(codes)), expected)
    assert Halves.made > made  # ours, above
    before = Halves.made
    ready(cache, root, **settings)
    assert Halves.made == before, "codes are made once"
    assert ready(cache, root, **{**settings, "tokenizer": partial(Halves, hop=5)}).fingerprint != data.fingerprint


def test_frames_count_from_the_segment_also_where_the_split_cuts_elsewhere(cache: Path, root: Path) -> None:
    data = ready(cache, root, split="time", tokenizer=partial(Halves, hop=20), windows_per_epoch=30)
    assert all(start % 20 == 0 == stop % 20 for rows in data.stretches.values() for _, start, stop in rows.tolist())
    assert data._codes is not None
    for batch in data.train_dataloader():
        assert (batch["start"] % 20 == 0).all()


def test_a_window_that_is_no_whole_number_of_frames_is_one_sentence(cache: Path, root: Path) -> None:
    settings = {"tokenizer": partial(Halves, hop=20), "split": "session", "fractions": [0.5, 0.2, 0.3]}
    with pytest.raises(InvalidValue, match=r"data\.window_s=2\.1: expected a window.*105 samples.*hop of 20"):
        ready(cache, root, **settings, window_s=2.1)
    with pytest.raises(InvalidValue, match=r"data\.overlap_s=0\.3: expected the step.*85 samples.*hop of 20"):
        ready(cache, root, **settings, overlap_s=0.3)


def test_an_epoch_is_a_function_of_seed_and_epoch_and_can_be_continued(cache: Path, root: Path) -> None:
    for tokenizer in (None, partial(Halves)):
        data = ready(cache, root, split="time", windows_per_epoch=30, tokenizer=tokenizer)
        loader, key = data.train_dataloader(), "signal" if tokenizer is None else "codes"

        def epoch(number: int, skip: int = 0, loader: Any = loader, key: str = key) -> list[torch.Tensor]:
            loader.batch_sampler.set_epoch(number)
            loader.batch_sampler.skip_batches(skip)
            return [batch[key] for batch in loader]

        second, first = epoch(1), epoch(0)
        assert all(torch.equal(a, b) for a, b in zip(epoch(1, skip=2), second[2:], strict=True))
        assert not torch.equal(first[0], second[0])


def test_cleaned_segments_and_bad_annotations_are_never_crossed(cache: Path, tmp_path: Path) -> None:
    write(tmp_path / "a_raw.fif", ["Cz", "Pz"], 60, notes=([10.0, 50.0], [2.0, 0.0], ["BAD_jump", "boundary"]))
    loud = mne.io.read_raw_fif(tmp_path / "a_raw.fif", preload=True, verbose="error")
    loud._data[:, 3050:3300] *= 100
    loud.save(tmp_path / "a_raw.fif", overwrite=True, verbose="error")
    steps = {**STEPS, "clean": Clean(window_s=2.0, min_segment_s=4.0, clip=None)}
    data = ready(cache, tmp_path, steps=steps, split="session", fractions=[1.0, 0.0, 0.0], windows_per_epoch=300)
    assert data.stretches["train"].tolist() == [[0, 0, 500], [0, 600, 1500], [0, 1700, 2500], [0, 2500, 3000]]
    assert data.val_dataloader() == []
    for batch in data.train_dataloader():
        for start in batch["start"].tolist():
            assert any(a <= start and start + 100 <= b for _, a, b in data.stretches["train"].tolist())


@pytest.mark.parametrize(
    ("loud_s", "bad_s", "message"),
    [
        (31, 62, r"val, but of its 30 s cleaning left nothing\. Hint: data\.steps\.clean=null"),
        (33.5, 62, r"val, but of its 30 s cleaning left no stretch of more than 1 s\. Hint: data\.steps\.clean"),
        (62, 31, r"val, .* keeping clear of bad .* left no stretch of more than 0\.\d+ s\. Hint: data\.avoid_bad=f"),
    ],
)
def test_a_part_that_lost_its_stretches_says_to_what(
    cache: Path, tmp_path: Path, loud_s: float, bad_s: float, message: str
) -> None:
    write(tmp_path / "a_raw.fif", ["Cz", "Pz"], 62, notes=([bad_s - 0.5], [62.4 - bad_s], ["bad"]))
    loud = mne.io.read_raw_fif(tmp_path / "a_raw.fif", preload=True, verbose="error")
    loud._data[:, round(100 * loud_s) :] *= 100
    loud.save(tmp_path / "a_raw.fif", overwrite=True, verbose="error")
    steps = {**STEPS, "clean": Clean(window_s=1.0, min_segment_s=0.5, max_bad_pct=90.0)}
    with pytest.raises(InvalidValue, match=rf"data\.window_s=2\.0: expected room in {message}"):
        ready(cache, tmp_path, steps=steps, split="time", fractions=[0.5, 0.5, 0.0])


def test_what_was_left_out_and_where_the_seconds_went_is_described(cache: Path, root: Path, tmp_path: Path) -> None:
    for subject in range(3):
        write(tmp_path / f"sub-{subject}_raw.fif", ["Cz", "Pz"], 30, seed=subject)
    write(tmp_path / "sub-9_raw.fif", ["Cz", "Pz"], 3, seed=9)
    steps = {**STEPS, "clean": Clean(window_s=2.0, min_segment_s=10.0)}
    data = ready(cache, tmp_path, steps=steps, split="session", fractions=[0.4, 0.3, 0.3])
    told = json.loads(json.dumps(data.describe()))
    assert told["status"] == {"prepared": 3, "discarded": 1}
    rows = {row["session"]: row for row in told["recordings"]}
    assert rows["sub-9_raw"]["reason"] == "no_segments"
    assert sorted(sum(row["seconds"].values()) for row in told["recordings"] if "seconds" in row) == [30.0] * 3
    assert told["parts"]["train"] == {"sessions": 1, "seconds": 30.0, "windows": 15}
    assert told["layout"]["channels"] == 2
    assert told["layout"]["systems"] == {"eeg": 2}
    sessions, parts = data.tables()
    assert [(row[0], row[1]) for row in sessions.rows][-1] == ("sub-9_raw", "discarded")
    assert parts.rows[0] == ("train", 1, 30.0, 15)
    short = ready(cache, tmp_path, split="time", steps=STEPS)
    assert list(short.left_out) == ["sub-9_raw"]
    last = short.tables()[0].rows[-1]
    assert (last[0], last[1]) == ("sub-9_raw", "prepared")
    assert last[-1].startswith("in no part: 3 s are too short")
    assert "left_out" not in told


def test_a_saved_split_is_used_again_and_one_that_leaks_is_refused(cache: Path, root: Path, tmp_path: Path) -> None:
    data = ready(cache, root, split="subject", fractions=[0.5, 0.2, 0.3])
    assert data.split_path.is_file()
    again = ready(cache, root, split="session", split_file=str(data.split_path), seed=99)
    assert all(np.array_equal(again.stretches[part], data.stretches[part]) for part in PARTS)
    content = json.loads(data.split_path.read_text())
    for entry in content["sessions"]:
        entry["subject"] = "sub-00"
    path = tmp_path / "split.json"
    moved = content["sessions"][0]
    moved["train"], moved["val"], moved["test"] = [[0, 2000]], [[1500, 2000]], []
    path.write_text(json.dumps(content))
    with pytest.raises(LeakError):
        ready(cache, root, split_file=str(path))


def test_a_split_that_cannot_be_kept_fails_before_training(root: Path, tmp_path: Path) -> None:
    path = ready(tmp_path, root, split="subject", fractions=[0.5, 0.2, 0.3]).split_path
    path.write_text(path.read_text()[:-1])
    with pytest.raises(InvalidFile, match=r"split\.json: expected \d+ bytes, found \d+.*delete the folder"):
        ready(tmp_path, root, split="subject", fractions=[0.5, 0.2, 0.3])
    shutil.rmtree(path.parents[1])
    path.parents[1].touch()
    with pytest.raises(InvalidFile, match=r"cache=.*expected a writable folder"):
        ready(tmp_path, root, split="subject", fractions=[0.5, 0.2, 0.3])


def test_a_saved_split_in_time_must_fit_the_statistics(cache: Path, root: Path) -> None:
    early = ready(cache, root, split="time", fractions=[0.4, 0.3, 0.3])
    again = ready(cache, root, split="time", fractions=[0.4, 0.3, 0.3], split_file=str(early.split_path))
    assert all(np.array_equal(again.stretches[part], early.stretches[part]) for part in PARTS)
    with pytest.raises(LeakError, match=r"statistics=sub-00.*expected them from the training block"):
        ready(cache, root, split="time", fractions=[0.6, 0.2, 0.2], split_file=str(early.split_path))
    with pytest.raises(InvalidValue, match=r"data\.split=subject: expected time with a split in time"):
        ready(cache, root, split="subject", split_file=str(early.split_path))


def test_a_saved_split_in_time_has_room_for_the_present_window_and_tells_its_own_guard(cache: Path, root: Path) -> None:
    settings: dict[str, Any] = {"split": "time", "fractions": [0.4, 0.3, 0.3]}
    early = ready(cache, root, **settings, window_s=1.0, guard_s=1.0)
    saved = {**settings, "split_file": str(early.split_path), "steps": {**STEPS, "scale": None}}
    assert ready(cache, root, **saved, window_s=1.0, guard_s=2.0).describe()["guard_s"] == 1.0
    with pytest.raises(
        LeakError, match=r"data\.split_file=.*at least data\.window_s=2 .* found one of 1 s.*window_s=1 at"
    ):
        ready(cache, root, **saved, window_s=2.0, guard_s=2.0)


def test_preparation_is_keyed_by_content_and_by_what_changes_samples(cache: Path, tmp_path: Path) -> None:
    write(tmp_path / "a_raw.fif", ["Cz"], 40)
    settings = {"split": "time", "fractions": [0.6, 0.2, 0.2]}
    first = ready(cache, tmp_path, **settings)
    assert ready(cache, tmp_path, **settings, batch_size=2, seed=3).fingerprint == first.fingerprint
    other = ready(cache, tmp_path, **settings, steps={**STEPS, "resample": Resample(25.0)})
    assert other.fingerprint != first.fingerprint
    (tmp_path / "a_raw.fif").unlink()
    write(tmp_path / "a_raw.fif", ["Cz"], 30)
    again = ready(cache, tmp_path, **settings)
    assert again.fingerprint != first.fingerprint
    assert len(again.windows["train"]) < len(first.windows["train"])


def test_training_signals_see_the_training_part_only_and_can_be_shortened(cache: Path, root: Path) -> None:
    data = ready(cache, root, split="time")
    whole = list(data.training_signals())
    assert len(whole) == len(data.stretches["train"]) == 6
    for (session, signal), (number, start, stop) in zip(whole, data.stretches["train"].tolist(), strict=True):
        assert session == number
        np.testing.assert_array_equal(signal, data.signal(number, start, stop - start))
    some = list(data.training_signals(max_s=12.0))
    assert sum(signal.shape[1] for _, signal in some) == pytest.approx(12 * 50, abs=6)


def test_several_data_sets_are_mixed_and_one_is_held_out(cache: Path, root: Path, tmp_path: Path) -> None:
    for subject in range(4):
        write(tmp_path / f"sub-{subject:02d}_task-rest_raw.fif", ["Cz", "Iz"], 30, 200.0, seed=subject)
    data = MixedRecordings(
        cache_dir=str(cache), window_s=2.0, guard_s=2.0, split="dataset", heldout_dataset="two",
        sources={
            "one": Source(AnyRecordings(), root=str(root), steps=STEPS),
            "two": Source(Named(), root=str(tmp_path), steps=STEPS),
        },
    )  # fmt: skip
    data.setup("fit")
    assert data.ch_names == ("Cz", "Pz", "Oz", "Fz", "Iz")
    names = {part: {data.session(n).name for n in rows[:, 0].tolist()} for part, rows in data.stretches.items()}
    assert names["train"] == {f"one_{name}" for name in (f"sub-{n:02d}_task-rest_raw" for n in range(6))}
    assert len(names["val"]) == len(names["test"]) == 2
    assert all(name.startswith("two_") for name in names["val"] | names["test"])
    assert {data.session(n).attrs["dataset"] for n in range(len(data.store))} == {"one", "two"}
    assert data.describe()["status"] == {"prepared": 10}
    slow = MixedRecordings(
        cache_dir=str(cache), window_s=2.0,
        sources={
            "one": Source(AnyRecordings(), root=str(root), steps=STEPS),
            "two": Source(Named(), root=str(tmp_path), steps={**STEPS, "resample": Resample(40.0)}),
        },
    )  # fmt: skip
    with pytest.raises(InvalidValue, match="sfreq_hz=40, 50: expected one rate"):
        slow.prepare_data()


def test_a_recording_that_comes_twice_may_not_stand_in_two_parts(cache: Path, root: Path) -> None:
    sources = {name: Source(AnyRecordings(), root=str(root), steps=STEPS) for name in ("one", "two")}
    settings: dict[str, Any] = {"cache_dir": str(cache), "window_s": 2.0, "guard_s": 2.0, "sources": sources}
    data = MixedRecordings(**settings, split="dataset", heldout_dataset="two")
    with pytest.raises(LeakError, match=r"recording=two_.*found them in train \(as one_.*\) and val"):
        data.setup("fit")
    MixedRecordings(**settings, split="time").setup("fit")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "week"}, r"data\.split=week: unknown"),
        ({"layout": "mixed"}, r"data\.layout=mixed: unknown"),
        ({"fractions": [0.5, 0.1, 0.1]}, r"data\.fractions="),
        ({"window_s": 0}, r"data\.window_s=0: expected a positive"),
        ({"overlap_s": 2.0}, r"data\.overlap_s=2\.0: expected 0 or more, below"),
        ({"split": "time", "guard_s": 1.0}, r"data\.window_s=2\.0: expected at most data\.guard_s=1"),
        ({"split": "time", "window_s": 30.0, "guard_s": 30.0}, r"data\.guard_s=30"),
        ({"split": "subject", "window_s": 300.0}, r"data\.window_s=300\.0: expected at most the \d+ s"),
        ({"split": "subject", "fractions": [0.98, 0.01, 0.01]}, r"data\.split=subject: expected recordings in every"),
        ({"split": "dataset", "heldout_dataset": "mous"}, r"data\.heldout_dataset=mous: expected one of"),
        ({"layout": "separate", "tokenizer": Halves}, r"data\.layout=separate: expected canonical with a tokenizer"),
        ({"batch_size": 0}, r"data\.batch_size=0"),
        ({"windows_per_epoch": 0}, r"data\.windows_per_epoch=0"),
        ({"steps": {"scale": "robust"}}, r"data\.steps\.scale=robust: expected a step"),
        ({"steps": {"relu": torch.nn.ReLU()}}, r"data\.steps\.relu=ReLU: expected a dataclass"),
        ({"include": "*.set"}, r"data\.include=\*\.set"),
    ],
)
def test_settings_that_cannot_work_are_one_sentence(
    cache: Path, root: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises((InvalidValue, InvalidFile), match=message):
        ready(cache, root, **settings)


def test_without_files_and_simulator_the_root_is_asked_for(cache: Path) -> None:
    with pytest.raises(InvalidValue, match=r"data\.root=null: expected a folder of recordings"):
        ready(cache, None)


def test_a_broken_file_fails_or_is_skipped_and_stays_in_the_manifest(cache: Path, tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"good{number}_raw.fif", ["Cz", "Pz"], 30, seed=number)
    (tmp_path / "bad_raw.fif").write_bytes((tmp_path / "good0_raw.fif").read_bytes()[:3000])
    with pytest.raises(InvalidFile, match=r"bad_raw\.fif"):
        ready(cache, tmp_path, split="time")
    data = ready(cache, tmp_path, split="time", on_error="skip")
    assert len(data.store) == 3
    assert data.describe()["status"] == {"failed": 1, "prepared": 3}


def test_a_link_to_nothing_fails_alone(cache: Path, tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path / f"good{number}_raw.fif", ["Cz", "Pz"], 30, seed=number)
    (tmp_path / "never_fetched_raw.fif").symlink_to(tmp_path / "annex" / "object")
    with pytest.raises(InvalidFile, match=r"never_fetched_raw\.fif: expected an existing file.*on_error=skip"):
        ready(cache, tmp_path, split="time")
    data = ready(cache, tmp_path, split="time", on_error="skip")
    assert data.describe()["status"] == {"failed": 1, "prepared": 2}
    (tmp_path / "annex").mkdir()
    (tmp_path / "good0_raw.fif").rename(tmp_path / "annex" / "object")
    data = ready(cache, tmp_path, split="time", on_error="skip")
    assert data.describe()["status"] == {"prepared": 2}


def test_training_codes_are_those_of_the_windows_and_disturb_no_loader(cache: Path, root: Path) -> None:
    data = ready(cache, root, split="time", tokenizer=Halves)
    loader = data.train_dataloader()
    found = list(data.training_codes())
    assert data.train_sampler is loader.batch_sampler
    rows = data.stretches["train"].tolist()
    assert [session for session, _ in found] == [session for session, *_ in rows]
    for (session, codes), (_, start, stop) in zip(found, rows, strict=True):
        np.testing.assert_array_equal(codes, data.codes(session, start, (stop - start) // 4))
    short = sum(len(codes) for _, codes in data.training_codes(max_s=10.0))
    assert 0 < short <= 10.0 * data.sfreq_hz / 4
    with pytest.raises(InvalidValue, match=r"data\.tokenizer=null"):
        next(ready(cache, root, split="time").training_codes())


class Learned(Halves):
    """As if it had been trained."""

    def __init__(self, n_channels: int, trained_with: dict[str, Any] | None) -> None:
        super().__init__(n_channels)
        self.trained_with = trained_with


def written_settings(folder: Path, **settings: Any) -> dict[str, Any]:
    """What a configuration file says of the data that ``ready`` makes."""
    return {
        "root": str(folder), "include": "*", "subject": None, "size": "default",
        "steps": {
            "pick": {"_target_": "x.Pick", "kinds": ["eeg"]}, "resample": {"_target_": "x.Resample", "sfreq_hz": 50},
            "off": None, "scale": {"_target_": "x.RobustScale"},
        },
        "split": "session", "fractions": [0.5, 0.2, 0.3], "guard_s": 2.0, "seed": 0, **settings,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("trained_with", "own", "expected"),
    [
        ({}, {}, None),
        ({"split": "time"}, {}, r"trained on 3 of the 3 recordings that validate or test here \(sub-.*not held out"),
        ({"fractions": [1.0, 0.0, 0.0]}, {}, r"trained on 3 of the 3 recordings"),
        ({"split": "time"}, {"split": "time"}, None),
        ({"split": "time", "seed": 7}, {"split": "time"}, None),
        ({"split": "time", "fractions": [0.8, 0.1, 0.1]}, {"split": "time"}, r"trained on 6 of the 6 recordings"),
        ({"root": "elsewhere"}, {}, r"trained on other recordings.*is unknown"),
        ({"steps": {"pick": {"_target_": "x.Pick", "kinds": ["eeg"]}}}, {}, r"prepared in another way.*is unknown"),
        ({"split_file": "gone.json"}, {}, r"cannot be drawn again.*is unknown"),
        (None, {}, r"does not say which recordings it was trained on.*is unknown"),
    ],
)
def test_a_tokenizer_that_has_seen_what_is_held_out_is_told(
    cache: Path, root: Path, trained_with: Any, own: dict[str, Any], expected: str | None, caplog: Any
) -> None:
    kept = None if trained_with is None else written_settings(root, **trained_with)
    settings = {"split": "session", "fractions": [0.5, 0.2, 0.3], **own}
    data = ready(cache, root, tokenizer=partial(Learned, trained_with=kept), **settings)
    if expected is None:
        assert data.notes == []
        return
    (note,) = data.notes
    assert re.search(expected, note)
    assert data.describe()["notes"] == [note]
    assert note in caplog.text


def test_filters_that_look_further_than_the_guard_are_told(cache: Path, root: Path) -> None:
    steps = {"pick": Pick(("eeg",)), "band": BandPass(0.2, 20.0, "zero"), "resample": Resample(50.0)}
    (note,) = ready(cache, root, split="time", steps=steps).notes
    assert re.search(r"look [\d.]+ s ahead, further than data\.guard_s=2", note)
    causal = {**steps, "band": BandPass(0.2, 20.0, "minimum")}
    assert ready(cache, root, split="time", steps=causal).notes == []
    assert ready(cache, root, split="session", fractions=[0.5, 0.2, 0.3], steps=steps).notes == []


@dataclasses.dataclass(frozen=True)
class Remark:
    """A step that remarks the same on all recordings, and something of its own on each."""

    own: int = 1

    def __call__(self, session: Any) -> None:
        session.warn("the amplifier was slow")
        for number in range(self.own):
            session.warn(f"{number}: {session.source}")


def test_what_was_remarked_on_recordings_is_said_at_every_setup_once_per_text(
    cache: Path, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"sub-{number:02d}_task-rest_raw" for number in range(6)]
    slow = f"6 recordings ({', '.join(names[:5])}"
    for _ in ("prepared", "from the cache"):
        caplog.clear()
        data = ready(cache, root, split="session", fractions=[0.5, 0.2, 0.3], steps={**STEPS, "remark": Remark(0)})
        assert data.notes == [f"{slow} and 1 more): the amplifier was slow"]
        assert data.notes[0] in caplog.messages
    first, *own, rest = ready(
        cache, root, split="session", fractions=[0.5, 0.2, 0.3], steps={**STEPS, "remark": Remark()}
    ).notes
    assert first.startswith(slow)
    assert len(own) == 4
    assert own[0].startswith(f"1 recording ({names[0]}): 0: ")
    assert rest == "Other remarks on 2 recordings stand in the table of recordings."


def test_a_tree_of_pickled_chunks_is_imported_with_its_borders(cache: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(3):
        places = rng.uniform(size=(2, 2))
        write_chunks(
            tmp_path / f"sub-{number}_rest", rng.standard_normal((2, 1500)), 50.0, ["MLC11", "MLC12"], ["mag"] * 2,
            places, chunk_s=12,
        )  # fmt: skip
    data = ready(cache, tmp_path, split="session", fractions=[0.4, 0.3, 0.3])
    assert data.sfreq_hz == 50.0
    assert [row[1:] for rows in data.stretches.values() for row in rows.tolist()] == 3 * [
        [0, 600], [600, 1200], [1200, 1500],
    ]  # fmt: skip
    assert {row["status"] for row in data.describe()["recordings"]} == {"prepared"}
    assert data.scaler_span(0) is None
    assert data.notes == []
    (note,) = ready(cache, tmp_path, split="time").notes
    assert re.search(r"Nobody knows which part of .* its scales .* data\.split=time", note)
    with pytest.raises(InvalidValue, match=r"data\.subject=1: expected nothing but the default"):
        ready(cache, tmp_path, subject=1)


def test_a_subject_is_chosen_by_name(cache: Path, root: Path) -> None:
    data = ready(cache, root, split="time", subject=3)
    assert [entry.attrs["subject"] for entry in data.store.sessions] == ["sub-03"]
    assert isinstance(AnyRecordings().find(str(root))[0], RecordingFile)
