"""Real EEG files: what the store holds is what MNE says of the same file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from brainlab.data.eeg_patches import EegPatches

mne = pytest.importorskip("mne")


@pytest.fixture(scope="module")
def prepared(real_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> EegPatches:
    data = EegPatches(
        cache_dir=str(tmp_path_factory.mktemp("cache")), root=str(real_data_dir), include="eeglab_data.set"
    )
    data.prepare_data()
    data.setup("fit")
    return data


@pytest.fixture(scope="module")
def raw(real_data_dir: Path):  # type: ignore[no-untyped-def]
    return mne.io.read_raw_eeglab(real_data_dir / "eeg/eeglab/eeglab_data.set", preload=True, verbose="error")


def test_thirty_eeg_channels_are_left_after_the_two_eye_channels(prepared: EegPatches, raw) -> None:  # type: ignore[no-untyped-def]
    (session,) = prepared.store.sessions
    assert session.ch_names == tuple(name for name in raw.ch_names if name not in ("EOG1", "EOG2"))
    assert session.n_channels == 30
    assert session.attrs["dropped"] == {"EOG1": "eog", "EOG2": "eog"}
    positions = np.array([channel.position for channel in session.channels])
    expected = np.array([raw.info["chs"][raw.ch_names.index(name)]["loc"][:3] for name in session.ch_names])
    np.testing.assert_allclose(positions, expected, atol=1e-6)


def test_samples_are_hundreds_of_microvolts_of_what_mne_filters_and_resamples(prepared: EegPatches, raw) -> None:  # type: ignore[no-untyped-def]
    (session,) = prepared.store.sessions
    expected = raw.copy().drop_channels(["EOG1", "EOG2"])
    expected.filter(0.3, 0.9 * 64, verbose="error").resample(200.0, verbose="error")
    stored = prepared.store.read(0, 0, session.n_samples)
    assert stored.shape == expected.get_data().shape == (30, 47662)
    np.testing.assert_allclose(stored, expected.get_data(units="uV") / 100, atol=1e-4)


def test_all_events_are_at_the_times_mne_gives(prepared: EegPatches, raw) -> None:  # type: ignore[no-untyped-def]
    (session,) = prepared.store.sessions
    assert len(session.events) == len(raw.annotations) == 154
    names = [event["description"] for event in session.events]
    assert (names.count("square"), names.count("rt")) == (80, 74)
    order = np.argsort(raw.annotations.onset, kind="stable")
    onsets = raw.annotations.onset[order] - raw.first_time
    np.testing.assert_allclose([event["onset_s"] for event in session.events], onsets, atol=1e-9)
    assert names == [str(name) for name in raw.annotations.description[order]]
    np.testing.assert_allclose([event["sample"] for event in session.events], onsets * 200.0, atol=0.5)


def test_the_stored_wave_follows_the_raw_one_around_an_event(prepared: EegPatches, raw) -> None:  # type: ignore[no-untyped-def]
    """A shift of a single sample would show: the stored segment fits the raw one best without any lag."""
    (session,) = prepared.store.sessions
    channel = session.ch_names.index("Pz")
    event = session.events[60]
    stored = prepared.store.read(0, event["sample"] - 200, 400)[channel]
    time = (np.arange(400) + event["sample"] - 200) / 200.0
    truth = raw.copy().pick(["Pz"]).filter(0.3, 57.6, verbose="error").get_data()[0] * 1e4
    lags = np.arange(-4, 5) / 200.0
    fit = [np.corrcoef(stored, np.interp(time + lag, np.arange(len(truth)) / 128.0, truth))[0, 1] for lag in lags]
    assert lags[int(np.argmax(fit))] == 0.0
    assert max(fit) > 0.97


def test_a_recording_with_numeric_event_names_and_slow_drift_is_prepared(real_data_dir: Path, tmp_path: Path) -> None:
    data = EegPatches(cache_dir=str(tmp_path), root=str(real_data_dir), include="sub-S1_*.set", guard_s=2.0)
    data.prepare_data()
    data.setup("fit")
    (session,) = data.store.sessions
    assert (session.n_channels, len(session.events)) == (15, 55)
    assert session.attrs["subject"] == "sub-S1"
    assert abs(data.store.read(0, 0, session.n_samples).mean()) < 0.02


def test_two_files_with_different_channels_train_together(real_data_dir: Path, tmp_path: Path) -> None:
    data = EegPatches(
        cache_dir=str(tmp_path), root=str(real_data_dir), include=["eeglab_data.set", "sub-S1_*.set"], guard_s=2.0,
        windows_per_epoch=40,
    )  # fmt: skip
    data.prepare_data()
    data.setup("fit")
    assert {batch["eeg"].shape[1] for batch in data.train_dataloader()} == {15, 30}
