"""Raw recordings become filtered, resampled, scaled EEG with events at the right times."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from brainlab.datasets.recordings import RecordingFile
from brainlab.errors import InvalidFile, InvalidValue
from brainlab.io.recording import Annotation, Channel, Event, Recording
from brainlab.io.store import Store
from brainlab.prepare.recordings import (
    MANIFEST,
    Preparation,
    band_filter,
    name_channels,
    pick_channels,
    prepare_recording,
    prepare_store,
    resample,
)


def _recording(
    sfreq_hz: float = 128.0, seconds: float = 40.0, names: tuple[str, ...] = ("Cz", "Pz", "EOG1")
) -> Recording:
    """10 Hz of 20 µV on every channel, over 60 Hz (above the store's band) of 20 µV, white noise of 1 µV."""
    rng = np.random.default_rng(0)
    time = np.arange(round(seconds * sfreq_hz)) / sfreq_hz
    wave = 20e-6 * np.sin(2 * np.pi * 10 * time) + 20e-6 * np.sin(2 * np.pi * 60 * time)
    samples = wave + 1e-6 * rng.standard_normal((len(names), len(time))) + 500e-6
    return Recording.from_array(
        samples,
        sfreq_hz,
        [Channel(name, "eeg", (0.01 * row, 0.0, 0.1)) for row, name in enumerate(names)],
        annotations=[Annotation(1.25, 0.5, "square"), Annotation(3.0078125, 0.0, "rt")],
        events=[Event(256, 7)],
    )


def _amplitude(samples: np.ndarray, sfreq_hz: float, frequency_hz: float) -> float:
    """Amplitude of one frequency, away from the edges."""
    middle = samples[round(10 * sfreq_hz) : round(30 * sfreq_hz)]
    time = np.arange(len(middle)) / sfreq_hz
    return float(2 * np.abs(np.mean(middle * np.exp(-2j * np.pi * frequency_hz * time))))


def test_eeg_is_kept_in_hundreds_of_microvolts_and_eye_channels_are_dropped() -> None:
    ready = prepare_recording(_recording(), Preparation())
    assert ready.ch_names == ("Cz", "Pz")
    assert ready.sfreq_hz == 200.0
    assert {channel.unit for channel in ready.channels} == {"0.0001 V"}
    assert ready.channels[1].position == (0.01, 0.0, 0.1)
    samples = ready.samples()
    assert _amplitude(samples[0], 200.0, 10.0) == pytest.approx(0.2, rel=0.01)
    assert abs(samples.mean()) < 0.01


def test_the_low_pass_stays_below_the_file_s_nyquist_frequency() -> None:
    plan = Preparation()
    steps = {step["step"]: step for step in prepare_recording(_recording(128.0), plan).provenance["steps"]}
    assert steps["band_filter"]["h_freq_hz"] == pytest.approx(0.9 * 64)
    steps = {step["step"]: step for step in prepare_recording(_recording(500.0), plan).provenance["steps"]}
    assert steps["band_filter"]["h_freq_hz"] == 75.0
    slow = Preparation(sfreq_hz=100.0)
    steps = {step["step"]: step for step in prepare_recording(_recording(500.0), slow).provenance["steps"]}
    assert steps["band_filter"]["h_freq_hz"] == pytest.approx(0.9 * 50)


def test_the_band_filter_removes_what_lies_outside_and_keeps_what_lies_inside() -> None:
    raw = _recording(500.0)
    passed = band_filter(raw, 0.3, 40.0).samples()[0]
    assert _amplitude(passed, 500.0, 60.0) < 0.05 * _amplitude(raw.samples()[0], 500.0, 60.0)
    assert _amplitude(passed, 500.0, 10.0) == pytest.approx(20e-6, rel=0.01)
    assert abs(passed.mean()) < 1e-6
    notched = band_filter(raw, None, 75.0, notch_hz=60.0).samples()[0]
    assert _amplitude(notched, 500.0, 60.0) < 0.05 * 20e-6
    assert _amplitude(notched, 500.0, 10.0) == pytest.approx(20e-6, rel=0.01)


def test_filtering_and_resampling_agree_with_mne_on_the_same_samples() -> None:
    mne = pytest.importorskip("mne")
    recording = _recording(128.0)
    raw = mne.io.RawArray(recording.samples(), mne.create_info(list(recording.ch_names), 128.0, "eeg"), verbose="error")
    raw.drop_channels(["EOG1"]).filter(0.3, 0.9 * 64, verbose="error").resample(200.0, verbose="error")
    ready = prepare_recording(recording, Preparation())
    np.testing.assert_allclose(ready.samples() * 1e-4, raw.get_data(), atol=1e-10)


def test_times_survive_resampling() -> None:
    ready = resample(_recording(128.0), 200.0)
    assert ready.annotations == _recording(128.0).annotations
    assert ready.events == (Event(400, 7),)
    assert ready.duration_s == pytest.approx(40.0)


def test_names_correct_types_and_the_step_is_noted() -> None:
    named = name_channels(_recording())
    assert [channel.kind for channel in named.channels] == ["eeg", "eeg", "eog"]
    assert named.provenance["steps"] == [{"step": "name_channels", "retyped": {"EOG1": "eog"}}]


def test_a_recording_without_eeg_is_refused_with_what_it_holds() -> None:
    with pytest.raises(InvalidFile, match=r"channels=eog: expected at least one of type eeg"):
        pick_channels(name_channels(_recording(names=("EOG1", "VEOG"))), ["eeg"])


def test_samples_that_are_not_finite_are_refused_by_channel() -> None:
    samples = np.ones((2, 4000))
    samples[1, 7] = np.nan
    with pytest.raises(InvalidFile, match="channel Pz"):
        prepare_recording(Recording.from_array(samples, 200.0, ["Cz", "Pz"]), Preparation())


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"sfreq_hz": 0.0}, "data.sfreq_hz"),
        ({"l_freq_hz": -1.0}, "data.l_freq_hz"),
        ({"l_freq_hz": 80.0}, "data.l_freq_hz"),
        ({"notch_hz": 0.0}, "data.notch_hz"),
    ],
)
def test_settings_without_meaning_are_refused(settings: dict[str, float], name: str) -> None:
    with pytest.raises(InvalidValue, match=name):
        Preparation(**settings)  # type: ignore[arg-type]


def _files(*names: str) -> list[RecordingFile]:
    return [RecordingFile(Path(f"{name}.set"), name, "set", name, name) for name in names]


def _read(path: Path) -> Recording:
    if path.stem.startswith("broken"):
        raise InvalidFile("recording", path, "expected a file that MNE reads")
    return _recording()


def test_a_store_holds_samples_events_and_facts(tmp_path: Path) -> None:
    rows = prepare_store(_files("one", "two"), tmp_path, Preparation(), read=_read)
    assert [row["status"] for row in rows] == ["prepared", "prepared"]
    assert rows == json.loads((tmp_path / MANIFEST).read_text())
    store = Store(tmp_path)
    session = store.sessions[store.index("two")]
    assert session.ch_names == ("Cz", "Pz")
    assert session.attrs["subject"] == "two"
    assert session.attrs["dropped"] == {"EOG1": "eog"}
    expected = [(250, "square"), (400, None), (602, "rt")]
    assert [(event["sample"], event.get("description")) for event in session.events] == expected
    np.testing.assert_allclose(
        store.read("two", 0, session.n_samples), prepare_recording(_recording(), Preparation()).samples(), atol=1e-6
    )


def test_a_failed_recording_fails_the_job_after_the_others_and_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=r"broken\.set: expected .* Hint: data\.on_error=skip") as caught:
        prepare_store(_files("broken", "fine"), tmp_path, Preparation(), read=_read)
    assert str(caught.value).count("Invalid ") == 1


def test_several_failed_recordings_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidFile, match=r"recordings=2 of 3: .*broken\.set: expected .*; broken2\.set: expected"
    ) as caught:
        prepare_store([*_files("broken", "fine"), *_files("broken2")], tmp_path, Preparation(), read=_read)
    assert str(caught.value).count("Invalid ") == 1


def test_skipped_recordings_stay_in_the_manifest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = prepare_store(_files("broken", "fine"), tmp_path, Preparation(), read=_read, on_error="skip")
    assert [row["status"] for row in rows] == ["failed", "prepared"]
    assert "expected a file that MNE reads" in rows[0]["error"]
    assert "broken.set" in caplog.text
    assert [session.name for session in Store(tmp_path).sessions] == ["fine"]


def test_nothing_left_is_an_error_even_when_failures_are_skipped(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=r"broken\.set: expected .* Hint: data\.include"):
        prepare_store(_files("broken"), tmp_path, Preparation(), read=_read, on_error="skip")


def test_amplitudes_unlike_eeg_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def in_microvolts(path: Path) -> Recording:
        raw = _recording()
        return Recording.from_array(raw.samples() * 1e6, raw.sfreq_hz, raw.channels)

    rows = prepare_store(_files("one"), tmp_path, Preparation(), read=in_microvolts)
    assert "unlike EEG" in rows[0]["warnings"][0]
    assert "unlike EEG" in caplog.text
