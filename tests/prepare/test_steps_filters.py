"""Filters and rates, against MNE itself on the same samples; events at exact times for any first sample."""

from __future__ import annotations

from pathlib import Path

import mne
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from brainlab.datasets.recordings import RecordingFile
from brainlab.errors import InvalidFile, InvalidValue
from brainlab.prepare.steps.filters import BandPass, Notch, Resample, look_ahead_s
from brainlab.prepare.steps.scaling import RobustScale
from brainlab.prepare.steps.session import RawSession, moved

FILE = RecordingFile(Path("a.fif"), "a", "d", "s", "a")


def raw(n_samples: int = 6000, sfreq_hz: float = 300.0, first_samp: int = 5000, n_channels: int = 2) -> mne.io.RawArray:
    """White noise of 10 µV with 10 Hz and hum."""
    rng = np.random.default_rng(0)
    time = np.arange(n_samples) / sfreq_hz
    wave = np.sin(2 * np.pi * 10 * time) + np.sin(2 * np.pi * 50 * time) + np.sin(2 * np.pi * 100 * time)
    samples = 1e-5 * (rng.standard_normal((n_channels, n_samples)) + wave)
    info = mne.create_info(n_channels, sfreq_hz, "eeg", verbose="ERROR")
    return mne.io.RawArray(samples, info, first_samp=first_samp, verbose="ERROR")


def power(samples: np.ndarray, sfreq_hz: float, frequency_hz: float) -> float:
    middle = samples[..., len(samples) // 4 : -len(samples) // 4]
    time = np.arange(middle.shape[-1]) / sfreq_hz
    return float(np.abs(middle @ np.exp(-2j * np.pi * frequency_hz * time)).mean() / len(time) * 2)


@pytest.mark.parametrize("phase", ["zero", "minimum"])
def test_the_band_pass_is_mne_s_with_the_phase_that_was_asked_for(phase):
    one = RawSession(raw(), FILE)
    BandPass(1.0, 40.0, phase)(one)
    expected = raw().filter(1.0, 40.0, phase=phase, verbose="ERROR").get_data()
    np.testing.assert_array_equal(one.samples, expected)
    assert one.facts[-1] == {"step": "BandPass", "l_freq_hz": 1.0, "h_freq_hz": 40.0, "phase": phase}


def test_a_minimum_phase_filter_does_not_look_ahead():
    impulse = raw(n_channels=1)
    impulse._data[:] = 0.0
    impulse._data[0, 3000] = 1.0
    before = {}
    for phase in ("zero", "minimum"):
        one = RawSession(impulse.copy(), FILE)
        BandPass(1.0, 40.0, phase)(one)
        before[phase] = np.abs(one.samples[0, :3000]).max()
    assert before["minimum"] < 1e-12 < 1e-3 < before["zero"]


@pytest.mark.parametrize(
    ("sfreq_hz", "out_hz", "edge"), [(300.0, None, 50.0), (300.0, 100.0, 45.0), (80.0, None, 36.0), (80.0, 200.0, 36.0)]
)
def test_the_upper_edge_stays_below_the_nyquist_frequency_of_the_file_and_of_the_store(sfreq_hz, out_hz, edge):
    one = RawSession(raw(sfreq_hz=sfreq_hz), FILE, sfreq_out_hz=out_hz)
    BandPass(1.0, 50.0)(one)
    assert one.facts[-1]["h_freq_hz"] == pytest.approx(edge)


def test_a_lower_edge_above_the_spectrum_is_refused_by_file():
    with pytest.raises(InvalidValue, match=r"l_freq_hz=60.*below 45 Hz \(a\.fif\)"):
        BandPass(60.0, 70.0)(RawSession(raw(sfreq_hz=100.0), FILE))


def test_the_notch_takes_the_harmonics_along_up_to_where_the_low_pass_has_ended():
    one = RawSession(raw(), FILE)
    Notch(50.0)(one)
    assert one.facts[-1]["lines_hz"] == [50.0, 100.0]
    np.testing.assert_array_equal(one.samples, raw().notch_filter([50.0, 100.0], verbose="ERROR").get_data())
    assert power(one.samples[0], 300.0, 50.0) < 0.02 * power(raw().get_data()[0], 300.0, 50.0)
    assert power(one.samples[0], 300.0, 10.0) == pytest.approx(1e-5, rel=0.1)
    low = RawSession(raw(), FILE)
    BandPass(1.0, 45.0)(low)  # its transition ends at 56.25 Hz
    Notch(50.0)(low)
    assert low.facts[-1]["lines_hz"] == [50.0]


def test_a_minimum_phase_notch_is_mne_s_and_does_not_look_ahead():
    one = RawSession(raw(), FILE)
    Notch(50.0, phase="minimum")(one)
    expected = raw().notch_filter([50.0, 100.0], phase="minimum", verbose="ERROR").get_data()
    np.testing.assert_array_equal(one.samples, expected)
    assert power(one.samples[0], 300.0, 50.0) < 0.02 * power(raw().get_data()[0], 300.0, 50.0)
    before = {}
    for phase in ("zero", "minimum"):
        impulse = raw(n_channels=1)
        impulse._data[:] = 0.0
        impulse._data[0, 3000] = 1.0
        one = RawSession(impulse, FILE)
        Notch(50.0, phase=phase)(one)
        before[phase] = np.abs(one.samples[0, :3000]).max()
    assert before["minimum"] < 1e-12 < 1e-3 < before["zero"]


@pytest.mark.parametrize(
    "steps",
    [
        {"a": Notch(50.0)},
        {"a": BandPass(1.0, 40.0)},
        {"a": BandPass(1.0, 40.0), "b": Notch(25.0)},
        {"a": Notch(50.0, "minimum"), "b": BandPass(1.0, 40.0, "minimum")},
        {"none": None, "b": Resample(100.0)},
        {"a": BandPass(1.0, 45.0, "minimum"), "b": Notch(25.0), "c": Resample(100.0)},
    ],
)
def test_filters_look_ahead_as_far_as_they_say(steps):
    last = 4501  # between two samples of the lower rate
    impulse = raw(n_samples=9000, n_channels=1)
    impulse._data[:] = 0.0
    impulse._data[0, last] = 1.0
    one = RawSession(impulse, FILE, sfreq_out_hz=100.0 if "c" in steps or "none" in steps else None)
    for step in filter(None, steps.values()):
        step(one)
    first = np.flatnonzero(np.abs(one.samples[0]) > 1e-9 * np.abs(one.samples).max())[0] / one.sfreq_hz
    reach = look_ahead_s(steps, 300.0)
    assert last / 300.0 - first <= reach + 1e-9
    assert last / 300.0 - first >= 0.8 * reach - 1e-9


def test_resampling_through_the_spectrum_knows_everything():
    assert look_ahead_s({"a": Resample(100.0, "fft")}, 300.0) == np.inf
    assert look_ahead_s({"a": Resample(300.0, "fft")}, 300.0) == 0.0


def test_a_mains_frequency_beyond_the_recording_is_remarked():
    one = RawSession(raw(), FILE)
    Notch(999.0)(one)
    assert one.warnings == ["no notch: line_hz=999 does not fit below half the recording's rate of 300 Hz"]
    gone = RawSession(raw(), FILE)
    BandPass(1.0, 40.0)(gone)
    Notch(60.0)(gone)
    assert (gone.warnings, gone.facts[-1]["lines_hz"]) == ([], [])


def test_no_mains_frequency_does_nothing():
    one = RawSession(raw(), FILE)
    Notch(None)(one)
    np.testing.assert_array_equal(one.samples, raw().get_data())
    assert one.facts == []


def test_a_recording_of_eye_channels_only_is_filtered_too():
    eyes = raw().set_channel_types({"0": "eog", "1": "eog"}, verbose="ERROR")
    expected = RawSession(raw(), FILE)
    one = RawSession(eyes, FILE)
    for session in (one, expected):
        BandPass(1.0, 40.0)(session)
        Notch(50.0)(session)
    np.testing.assert_array_equal(one.samples, expected.samples)


def test_a_filter_longer_than_the_recording_is_remarked():
    one = RawSession(raw(n_samples=400), FILE)
    BandPass(0.5, 40.0)(one)
    assert "longer than the signal" in one.warnings[0]


@pytest.mark.parametrize("method", ["polyphase", "fft"])
def test_resampling_is_mne_s(method):
    one = RawSession(raw(), FILE)
    Resample(100.0, method)(one)
    expected = raw().resample(100.0, method=method, verbose="ERROR").get_data()
    np.testing.assert_array_equal(one.samples, expected)
    assert (one.sfreq_hz, one.sfreq_in_hz) == (100.0, 300.0)


@pytest.mark.parametrize(
    ("n_samples", "sfreq_hz", "to_hz"), [(6001, 300.0, 100.0), (5999, 250.0, 200.0), (4999, 256.0, 100.0)]
)
def test_a_length_that_the_rates_do_not_divide_keeps_the_exact_ratio(n_samples, sfreq_hz, to_hz):
    time = np.arange(n_samples) / sfreq_hz
    slow = raw(n_samples, sfreq_hz, n_channels=1)
    slow._data[0] = np.sin(2 * np.pi * 3 * time)
    one = RawSession(slow, FILE)
    Resample(to_hz)(one)
    assert one.n_samples == round(n_samples * to_hz / sfreq_hz)
    middle = slice(100, -100)
    wanted = np.sin(2 * np.pi * 3 * np.arange(one.n_samples) / to_hz)
    np.testing.assert_allclose(one.samples[0, middle], wanted[middle], atol=3e-3)


def test_the_parts_of_a_split_file_are_resampled_as_one():
    split = mne.concatenate_raws([raw(), raw()], verbose="ERROR")
    assert len(split.filenames) == 2
    whole = mne.io.RawArray(split.get_data(), split.info, verbose="ERROR")
    one, other = RawSession(split, FILE), RawSession(whole, FILE)
    for session in (one, other):
        Resample(100.0)(session)
    np.testing.assert_array_equal(one.samples, other.samples)


def test_the_same_rate_is_left_alone_and_a_late_resampling_refused():
    one = RawSession(raw(), FILE)
    Resample(300.0)(one)
    assert one.facts == []
    RobustScale()(one)
    with pytest.raises(InvalidFile, match="before scaling"):
        Resample(100.0)(one)


@given(st.integers(0, 10**7), st.sampled_from([300.0, 1200.0, 1000.0, 480.0, 1017.25]), st.sampled_from([100.0, 128.0]))
def test_events_move_to_the_nearest_sample(sample, from_hz, to_hz):
    at = moved(sample, from_hz, to_hz, 10**8)
    assert abs(at / to_hz - sample / from_hz) <= 0.5 / to_hz + 1e-9


def test_an_event_in_the_last_half_sample_stays_inside():
    assert moved(2999, 300.0, 100.0, 1000) == 999
    assert moved(0, 300.0, 100.0, 1000) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: BandPass(-1.0, 40.0),
        lambda: BandPass(40.0, 1.0),
        lambda: BandPass(1.0, 40.0, "linear"),  # type: ignore[arg-type]
        lambda: Notch(0.0),
        lambda: Resample(0.0),
        lambda: Resample(100.0, "nearest"),  # type: ignore[arg-type]
    ],
)
def test_settings_without_meaning_are_refused(make):
    with pytest.raises(InvalidValue, match="expected"):
        make()


@pytest.mark.parametrize("name", ["recordings", "sources/camcan", "sources/mous", "sources/omega"])
def test_the_filters_of_the_data_sets_are_causal(name):
    text = (Path(__file__).parents[2] / f"conf/data/{name}.yaml").read_text(encoding="utf-8")
    steps = yaml.safe_load(text)["steps"]
    assert (steps["band_pass"]["phase"], steps["notch"]["phase"]) == ("minimum", "minimum")
