"""Windows of recordings: prepared once, split without leaks, batches of one channel set, resumable order."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from brainlab.data.eeg_patches import EegPatches
from brainlab.data.sampling import ChannelSetSampler
from brainlab.errors import InvalidFile, InvalidValue
from brainlab.types import PreparedData

mne = pytest.importorskip("mne")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def _ready(cache: Path, **settings: Any) -> EegPatches:
    data = EegPatches(cache_dir=str(cache), size="tiny", **{"window_s": 2.0, "guard_s": 1.0, **settings})
    data.prepare_data()
    data.setup("fit")
    return data


def _write(path: Path, names: list[str], seconds: float, sfreq_hz: float = 200.0, seed: int = 0) -> None:
    samples = 1e-5 * np.random.default_rng(seed).standard_normal((len(names), round(seconds * sfreq_hz)))
    path.parent.mkdir(parents=True, exist_ok=True)
    mne.io.RawArray(samples, mne.create_info(names, sfreq_hz, "eeg"), verbose="error").save(path, verbose="error")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mixed")
    _write(root / "a_raw.fif", ["Cz", "Pz", "Oz"], 60)
    _write(root / "b_raw.fif", ["Cz", "Pz"], 40, 256.0, seed=1)
    _write(root / "c_raw.fif", ["Cz", "Pz", "Oz"], 30, seed=2)
    return root


def test_without_a_root_the_data_are_simulated_and_say_so(cache: Path) -> None:
    data = _ready(cache)
    assert isinstance(data, PreparedData)
    assert data.source == "synthetic"
    assert data.describe()["source"] == "synthetic"
    assert dict(data.shapes) == {"n_channels": 19, "n_patches": 2, "patch_size": 200}
    assert [r["dropped"] for r in data.describe()["recordings"]] == [
        {"EOG1": "eog", "ECG": "ecg", "STI 014": "stim"}
    ] * 2
    batch = next(iter(data.train_dataloader()))
    assert batch["eeg"].shape == (4, 19, 2, 200)
    assert batch["eeg"].dtype == torch.float32
    assert 0.01 < batch["eeg"].std() < 1.0


def test_patches_are_the_consecutive_seconds_of_the_store(cache: Path) -> None:
    data = _ready(cache)
    for batch in data.test_dataloader():
        for eeg, session in zip(batch["eeg"], batch["session"].tolist(), strict=True):
            whole = data.store.read(session)
            start = int(np.flatnonzero(whole[0] == eeg[0, 0, 0].item())[0])
            np.testing.assert_array_equal(eeg.flatten(1).numpy(), whole[:, start : start + 400])


def test_parts_lie_apart_in_time_by_the_guard_gap(cache: Path) -> None:
    data = _ready(cache, guard_s=2.0)
    for session in range(2):
        spans = {part: rows[rows[:, 0] == session, 1:] for part, rows in data.stretches.items()}
        ordered = sorted((int(a), int(b)) for rows in spans.values() for a, b in rows)
        assert len(ordered) == 3
        assert all(after - stop >= 400 for (_, stop), (after, _) in itertools.pairwise(ordered))
    train = data.stretches["train"]
    for epoch in range(3):
        data.train_dataloader()
        data.train_sampler.set_epoch(epoch)
        for batch in data.train_sampler:
            places = data._windows["train"].parts[0].locate(np.array(batch))
            for session, start in zip(places[0], places[1], strict=True):
                row = train[train[:, 0] == session][0]
                assert row[1] <= start <= row[2] - 400


def test_subjects_are_held_out_whole(cache: Path, tmp_path: Path) -> None:
    for subject in range(3):
        _write(tmp_path / f"sub-{subject}" / f"sub-{subject}_raw.fif", ["Cz", "Pz"], 20, seed=subject)
    data = _ready(cache, root=str(tmp_path), split="subject", fractions=[0.34, 0.33, 0.33])
    assert sorted(rows[:, 0].tolist() for rows in data.stretches.values()) == [[0], [1], [2]]
    held_out = int(data.stretches["test"][0, 0])
    trained = int(data.stretches["train"][0, 0])
    np.testing.assert_array_equal(data.training_statistics(held_out).mean, data.training_statistics(trained).mean)


def test_batches_never_mix_channel_sets(cache: Path, mixed: Path) -> None:
    data = _ready(cache, root=str(mixed), batch_size=4, windows_per_epoch=50)
    assert "n_channels" not in data.shapes
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        channels = set()
        for batch in loader:
            sessions = {data.store.sessions[number].ch_names for number in batch["session"].tolist()}
            assert len(sessions) == 1
            assert batch["eeg"].shape[1] == len(sessions.pop())
            channels.add(batch["eeg"].shape[1])
        assert channels == {2, 3}
    share = np.array([len(part) for part in data._windows["train"].parts])
    assert share.sum() == pytest.approx(50, abs=1)
    assert share.max() / share.min() == pytest.approx(90 / 40, rel=0.3)


def test_an_epoch_is_a_function_of_seed_and_epoch_and_can_be_continued(cache: Path, mixed: Path) -> None:
    settings = {"root": str(mixed), "batch_size": 3, "windows_per_epoch": 20}
    data = _ready(cache, **settings)
    loader = data.train_dataloader()

    def epoch(number: int, skip: int = 0) -> list[torch.Tensor]:
        loader.batch_sampler.set_epoch(number)
        loader.batch_sampler.skip_batches(skip)
        return [batch["eeg"] for batch in loader]

    second, first = epoch(1), epoch(0)
    rest = epoch(1, skip=2)
    assert len(rest) == len(second) - 2
    assert all(torch.equal(a, b) for a, b in zip(rest, second[2:], strict=True))
    assert not torch.equal(first[0], second[0])
    data.num_workers = 2
    loader = data.train_dataloader()
    assert all(torch.equal(a, b) for a, b in zip(epoch(1), second, strict=True))
    loader = _ready(cache, **settings, seed=1).train_dataloader()
    assert not torch.equal(epoch(0)[0], first[0])


def test_held_out_windows_are_the_same_in_every_epoch(cache: Path) -> None:
    data = _ready(cache)
    loader = data.val_dataloader()
    runs = []
    for epoch in (0, 5):
        loader.batch_sampler.set_epoch(epoch)
        runs.append([(batch["index"].tolist(), batch["eeg"]) for batch in loader])
    for (index, eeg), (again, eeg_again) in zip(*runs, strict=True):
        assert index == again
        assert torch.equal(eeg, eeg_again)
    numbers = [number for index, _ in runs[0] for number in index]
    assert numbers == list(range(len(numbers)))


def test_preparation_is_reused_and_a_changed_setting_never_reads_it(cache: Path, mixed: Path) -> None:
    first, again = _ready(cache, root=str(mixed)), _ready(cache, root=str(mixed), batch_size=2)
    assert first._folder == again._folder
    other = _ready(cache, root=str(mixed), h_freq_hz=40.0)
    assert other._folder != first._folder
    assert other.fingerprint != first.fingerprint


def test_changed_samples_change_the_fingerprint(cache: Path, tmp_path: Path) -> None:
    _write(tmp_path / "a_raw.fif", ["Cz"], 30, seed=0)
    before = _ready(cache, root=str(tmp_path)).fingerprint
    (tmp_path / "a_raw.fif").unlink()
    _write(tmp_path / "a_raw.fif", ["Cz"], 30, seed=1)
    assert _ready(cache, root=str(tmp_path)).fingerprint != before


def test_training_statistics_see_the_training_part_only(cache: Path) -> None:
    data = _ready(cache)
    known = data.training_statistics(0)
    session, start, stop = data.stretches["train"][0].tolist()
    samples = data.store.read(session, start, stop - start).astype(np.float64)
    np.testing.assert_allclose(known.mean, samples.mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(known.covariance, np.cov(samples), rtol=1e-4, atol=1e-9)
    assert known.positions is not None
    assert known.positions.shape == (19, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"root": "/nowhere/at/all"}, r"data\.root=/nowhere/at/all"),
        ({"include": "*.set"}, r"data\.include=\*\.set: expected data\.root"),
        ({"split": "week"}, r"data\.split=week"),
        ({"window_s": 2.5}, r"data\.window_s=2\.5: expected a whole number of patches"),
        ({"window_s": 20.0}, r"data\.window_s=20\.0: expected at most the \d"),
        ({"guard_s": 30.0}, r"data\.guard_s=30"),
        ({"windows_per_epoch": 0}, r"data\.windows_per_epoch=0"),
    ],
)
def test_settings_that_cannot_work_are_one_sentence(cache: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises((InvalidValue, InvalidFile), match=message):
        _ready(cache, **settings)


def test_a_truncated_file_is_named_and_can_be_skipped(cache: Path, tmp_path: Path) -> None:
    _write(tmp_path / "good_raw.fif", ["Cz", "Pz"], 30)
    (tmp_path / "bad_raw.fif").write_bytes((tmp_path / "good_raw.fif").read_bytes()[:3000])
    with pytest.raises(InvalidFile, match=r"bad_raw\.fif"):
        _ready(cache, root=str(tmp_path))
    data = _ready(cache, root=str(tmp_path), on_error="skip")
    assert [session.name for session in data.store.sessions] == ["good_raw"]


def test_a_sampler_covers_every_window_once(cache: Path, mixed: Path) -> None:
    data = _ready(cache, root=str(mixed), windows_per_epoch=23)
    sampler = ChannelSetSampler(data._windows["train"], 4, seed=3)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert sorted(number for batch in batches for number in batch) == list(range(len(data._windows["train"])))


def test_no_window_touches_a_bad_annotation_or_crosses_a_boundary(cache: Path, tmp_path: Path) -> None:
    samples = 1e-5 * np.random.default_rng(0).standard_normal((2, 60 * 200))
    raw = mne.io.RawArray(samples, mne.create_info(["Cz", "Pz"], 200.0, "eeg"), verbose="error")
    raw.set_annotations(mne.Annotations([10.0, 20.0, 5.0], [3.0, 0.0, 1.0], ["BAD_jump", "boundary", "fine"]))
    raw.save(tmp_path / "a_raw.fif", verbose="error")
    data = _ready(cache, root=str(tmp_path), windows_per_epoch=400)
    for batch in data.train_dataloader():
        part = data._windows["train"].parts[0]
        _, starts, _ = part.locate(batch["index"].numpy())
        stops = starts + 400
        assert not ((starts < 2600) & (stops > 2000)).any()
        assert not ((starts < 4000) & (stops > 4000)).any()
    assert _ready(cache, root=str(tmp_path), avoid_bad=False).stretches["train"].shape == (1, 3)


def test_a_file_in_another_unit_is_refused_with_the_key_that_helps(cache: Path, tmp_path: Path) -> None:
    samples = 10.0 * np.random.default_rng(0).standard_normal((2, 40 * 200))
    raw = mne.io.RawArray(samples, mne.create_info(["Cz", "Pz"], 200.0, "eeg"), verbose="error")
    raw.save(tmp_path / "a_raw.fif", verbose="error")
    with pytest.raises(InvalidFile, match=r"Hint: data\.file_unit=uV.*data\.check_unit=false"):
        _ready(cache, root=str(tmp_path))
    data = _ready(cache, root=str(tmp_path), file_unit="uV")
    assert data.store.read(0).std() == pytest.approx(0.1, rel=0.2)
