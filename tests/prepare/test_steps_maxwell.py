"""Signal space separation against MNE itself, on a simulated Vectorview."""

from __future__ import annotations

from pathlib import Path

import mne
import numpy as np
import pytest

from brainlab.datasets.recordings import RecordingFile
from brainlab.errors import InvalidFile
from brainlab.prepare.steps.meg import Maxwell
from brainlab.prepare.steps.opening import system_of
from brainlab.prepare.steps.session import RawSession

FILE = RecordingFile(Path("a_meg.fif"), "a", "d", "s", "a")


@pytest.fixture(scope="module")
def raw() -> mne.io.BaseRaw:
    """Seven seconds of sensor noise and a distant field that reaches all magnetometers alike."""
    canonical = mne.channels.read_meg_canonical_info("neuromag", verbose="ERROR")
    kinds = canonical.get_channel_types()
    info = mne.create_info(canonical["ch_names"], 200.0, kinds, verbose="ERROR")
    with info._unlock():
        info["dev_head_t"] = mne.transforms.Transform("meg", "head")
        for own, known in zip(info["chs"], canonical["chs"], strict=True):
            own.update(loc=known["loc"].copy(), coil_type=known["coil_type"], coord_frame=known["coord_frame"])
    rng = np.random.default_rng(0)
    noise = np.where(np.array(kinds) == "mag", 1e-14, 4e-13)[:, None] * rng.standard_normal((len(kinds), 1401))
    distant = 1e-11 * np.sin(2 * np.pi * 3 * np.arange(1401) / 200.0)
    normal = np.array([channel["loc"][11] for channel in info["chs"]])
    noise[np.array(kinds) == "mag"] += (normal[:, None] * distant)[np.array(kinds) == "mag"]
    return mne.io.RawArray(noise, info, verbose="ERROR")


def test_the_filter_is_mne_s_with_the_buffer_that_fits_and_its_own_transform(raw):
    one = RawSession(raw.copy(), FILE, system=system_of(raw))
    Maxwell(st_duration_s=1.5, find_bads=False)(one)
    expected = mne.preprocessing.maxwell_filter(
        raw.copy(), origin=(0.0, 0.0, 0.04), st_duration=1.5, destination=raw.info["dev_head_t"], mag_scale="auto",
        verbose="ERROR",
    )  # fmt: skip
    np.testing.assert_array_equal(one.samples, expected.get_data())
    magnetometers = one.rows(("mag",))
    assert one.samples[magnetometers].std() < 0.1 * raw.get_data()[magnetometers].std()
    assert one.facts[-1]["movement_compensation"] is False
    assert any(text.startswith("no movement compensation") for text in one.warnings)


def test_a_recording_shorter_than_the_buffer_is_remarked(raw):
    one = RawSession(raw.copy(), FILE, system=system_of(raw))
    Maxwell(st_duration_s=10.0, find_bads=False, movement=False)(one)
    assert one.facts[-1]["st_duration_s"] == 7.0
    assert any("shorter than 10 s" in text for text in one.warnings)


def test_flat_sensors_are_found_and_rebuilt(raw):
    spoilt = raw.copy()
    spoilt._data[5] = 0.0
    one = RawSession(spoilt, FILE, system=system_of(raw))
    Maxwell(st_duration_s=None, movement=False)(one)
    assert spoilt.ch_names[5] in one.facts[-1]["flat"]
    assert one.samples[5].std() > 0


def test_bad_sensors_are_looked_for_in_the_training_span_alone(raw):
    spoilt = raw.copy()
    spoilt._data[5, 1100:] = 0.0
    one = RawSession(spoilt, FILE, system=system_of(raw), training_span=lambda file, n_samples, sfreq_hz: (0, 1100))
    Maxwell(st_duration_s=None, movement=False)(one)
    assert one.facts[-1]["flat"] == []
    assert one.used_span_s == (0.0, 5.5)
    assert one.n_samples == raw.n_times


def test_a_calibration_of_another_machine_is_one_sentence(raw, tmp_path):
    calibration = tmp_path / "sss_cal.dat"
    calibration.write_text("junk\n")
    one = RawSession(raw.copy(), FILE, system=system_of(raw))
    with pytest.raises(InvalidFile, match=r"recording=a_meg\.fif: expected one that can be Maxwell-filtered \("):
        Maxwell(calibration=str(calibration), find_bads=False, movement=False)(one)
