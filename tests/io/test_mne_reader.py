from __future__ import annotations

import struct
from datetime import UTC, datetime

import mne
import numpy as np
import pytest
from mne.io.constants import FIFF

from brainlab.errors import InvalidFile, InvalidValue
from brainlab.io.mne_reader import channel_of, open_raw, read_recording


@pytest.fixture
def fif(tmp_path):
    """A recording whose clock starts 37 samples before its first sample, with a trigger channel."""
    rng = np.random.default_rng(0)
    data = rng.standard_normal((4, 500)) * 1e-5
    data[3] = 0
    data[3, 100:110] = 5
    data[3, 300:303] = 2
    info = mne.create_info(["Cz", "EOG1", "GSR", "STI 014"], 100.0, ["eeg", "eeg", "misc", "stim"])
    info.set_meas_date(datetime(2024, 5, 1, 12, tzinfo=UTC))
    raw = mne.io.RawArray(data, info, first_samp=37, verbose="ERROR")
    raw.set_montage(mne.channels.make_dig_montage({"Cz": (0.0, 0.01, 0.1)}, coord_frame="head"), on_missing="ignore")
    raw.set_annotations(mne.Annotations([1.5, 4.0], [0.2, 0.0], ["blink", "square"]))
    path = tmp_path / "x_raw.fif"
    raw.save(path, fmt="double", verbose="ERROR")
    return path, data


def test_samples_channels_and_times_agree_with_the_file(fif):
    path, data = fif
    recording = read_recording(path)
    np.testing.assert_allclose(recording.samples(), data, rtol=1e-12)
    np.testing.assert_allclose(recording.samples(120, 130), data[:, 120:130], rtol=1e-12)
    assert recording.ch_names == ("Cz", "EOG1", "GSR", "STI 014")
    assert [channel.kind for channel in recording.channels] == ["eeg", "eog", "misc", "stim"]
    assert recording.channels[0].unit == "V"
    np.testing.assert_allclose(recording.channels[0].position, (0.0, 0.01, 0.1), atol=1e-6)
    assert recording.channels[1].position is None
    assert recording.sfreq_hz == 100.0
    assert recording.meas_date == datetime(2024, 5, 1, 12, tzinfo=UTC)
    assert recording.provenance["first_sample"] == 37


def test_times_count_from_the_first_sample_where_the_clock_does_not(fif):
    recording = read_recording(fif[0])
    assert [(a.description, round(a.onset_s, 6), round(a.duration_s, 6)) for a in recording.annotations] == [
        ("blink", 1.5, 0.2),
        ("square", 4.0, 0.0),
    ]
    assert [(event.sample, event.code) for event in recording.events] == [(100, 5), (300, 2)]
    assert read_recording(fif[0], events=False).events == ()


def test_kinds_can_be_set_and_channels_picked(fif):
    recording = read_recording(fif[0], kinds={"GSR": "gsr", "EOG1": "eeg"})
    assert [channel.kind for channel in recording.channels] == ["eeg", "eeg", "gsr", "stim"]
    picked = recording.pick(["GSR", "Cz"])
    np.testing.assert_allclose(picked.samples(3, 9), fif[1][[2, 0], 3:9], rtol=1e-12)
    assert recording.pick_kinds("eeg").ch_names == ("Cz", "EOG1")
    with pytest.raises(InvalidValue, match="channel=Pz"):
        recording.pick(["Pz"])
    with pytest.raises(InvalidValue, match="range"):
        recording.samples(0, 501)
    with pytest.raises(InvalidValue, match="kinds"):
        read_recording(fif[0], kinds={"Pz": "eeg"})


def test_what_mne_cannot_read_is_one_sentence(tmp_path):
    (tmp_path / "x.edf").write_bytes(b"nothing")
    (tmp_path / "x.xyz").write_bytes(b"nothing")
    for name in ("x.edf", "x.xyz", "missing.fif"):
        with pytest.raises(InvalidFile) as error:
            read_recording(tmp_path / name)
        assert name in str(error.value)
        assert "\n" not in str(error.value)


REAL = {
    "eeg/eeglab/eeglab_data.set": (32, 30504, 128.0, 154, 0),
    "eeg/eeglab/sub-S1_ses-01_task-Experiment_run-01_eeg.set": (15, 15360, 256.0, 55, 0),
    "eeg/edf/test_stim_channel.edf": (3, 120000, 200.0, 0, 1200),
    "eeg/brainvision/test.vhdr": (32, 7900, 1000.0, 13, 0),
    "meg/kit_test.sqd": (193, 2000, 1000.0, 0, 2),
    "meg/test_ctf_comp_raw.fif": (340, 241, 480.0, 0, 0),
}


@pytest.mark.parametrize("name", list(REAL))
def test_real_files_agree_with_mne(real_data_dir, name):
    path = real_data_dir / name
    recording = read_recording(path)
    raw = mne.io.read_raw(path, preload=False, verbose="ERROR")
    n_channels, n_samples, sfreq, n_annotations, n_events = REAL[name]
    assert recording.n_channels == n_channels
    assert recording.n_samples == n_samples
    assert recording.sfreq_hz == sfreq
    assert len(recording.annotations) == n_annotations
    assert len(recording.events) == n_events
    np.testing.assert_array_equal(recording.samples(50, 90), raw[:, 50:90][0])
    if n_annotations:
        events = mne.events_from_annotations(raw, verbose="ERROR")[0][:, 0] - raw.first_samp
        onsets = np.array([a.onset_s for a in recording.annotations])
        assert set(events) <= set(np.round(onsets * sfreq).astype(int))


@pytest.mark.parametrize("name", ["meg/kit_test.sqd", "meg/test_ctf_comp_raw.fif"])
def test_directions_of_sensors_have_length_1(real_data_dir, name):
    towards = [channel.orientation for channel in read_recording(real_data_dir / name).channels if channel.orientation]
    assert len(towards) > 150
    np.testing.assert_allclose(np.linalg.norm(towards, axis=1), 1.0, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "n"), [("meg/kit_test.sqd", 157), ("meg/test_ctf_comp_raw.fif", 274)])
def test_real_axial_gradiometers_are_called_so_and_references_nothing(real_data_dir, name, n):
    channels = read_recording(real_data_dir / name, events=False).channels
    assert sum(channel.sensor == "axial gradiometer" for channel in channels) == n
    assert {(channel.kind, channel.sensor) for channel in channels if channel.kind in ("mag", "grad", "ref_meg")} == {
        ("mag", "axial gradiometer"), ("ref_meg", ""),
    }  # fmt: skip


def test_sensors_are_told_by_their_coils():
    info = mne.create_info(
        ["m", "g", "b", "o", "e", "s", "x"], 100.0, ["mag", "grad", *["mag"] * 2, "eeg", "seeg", "eog"]
    )
    info["chs"][2]["coil_type"] = FIFF.FIFFV_COIL_MAGNES_GRAD
    info["chs"][3]["coil_type"] = FIFF.FIFFV_COIL_QUSPIN_ZFOPM_MAG2
    for channel in info["chs"][:4]:
        channel["coil_type"] += 3 << 16  # compensated by references
    raw = mne.io.RawArray(np.zeros((7, 10)), info, verbose="ERROR")
    assert [channel_of(raw, number).sensor for number in range(7)] == [
        "magnetometer", "planar gradiometer", "axial gradiometer", "magnetometer", "electrode", "electrode", "",
    ]  # fmt: skip


def test_eog_of_the_real_eeg_is_known_by_name(real_data_dir):
    recording = read_recording(real_data_dir / "eeg/eeglab/eeglab_data.set")
    assert [channel.name for channel in recording.channels if channel.kind == "eog"] == ["EOG1", "EOG2"]
    assert all(channel.position is not None for channel in recording.channels)


def edf(path, names, rate=10, seconds=4):
    """A minimal EDF of ramps in µV, written byte by byte."""
    n = len(names)
    columns = [
        [name.ljust(16) for name in names], [" " * 80] * n, ["uV".ljust(8)] * n, ["-1000".ljust(8)] * n,
        ["1000".ljust(8)] * n, ["-32768".ljust(8)] * n, ["32767".ljust(8)] * n, [" " * 80] * n,
        [str(rate).ljust(8)] * n, [" " * 32] * n,
    ]  # fmt: skip
    head = f"{'0':<8}{'X':<80}{'X':<80}01.01.2401.00.00{256 * (n + 1):<8}{'':<44}{seconds:<8}{1:<8}{n:<4}"
    body = np.arange(seconds * n * rate, dtype="<i2").tobytes()
    path.write_bytes((head + "".join("".join(column) for column in columns)).encode("ascii") + body)
    return path


def test_one_name_for_two_sensors_is_one_sentence(tmp_path):
    with pytest.raises(InvalidFile, match="every channel name once, found Cz repeatedly") as error:
        open_raw(edf(tmp_path / "x.edf", ["Cz", "Pz", "Cz"]))
    assert "\n" not in str(error.value)
    raw, notes = open_raw(edf(tmp_path / "y.edf", ["Cz", "Pz", "EOG"]))
    assert raw.get_channel_types() == ["eeg", "eeg", "eog"]
    assert notes == []


def test_what_mne_warns_of_is_a_note(tmp_path):
    path = edf(tmp_path / "x.edf", ["Cz", "Pz"])
    content = bytearray(path.read_bytes())
    content[168:184] = b"99.99.9999.99.99"
    path.write_bytes(content)
    _, notes = open_raw(path)
    assert any("date" in note.lower() for note in notes)


def test_split_and_compressed_fif_are_whole(tmp_path):
    data = np.random.default_rng(0).standard_normal((60, 20000)) * 1e-5
    raw = mne.io.RawArray(data, mne.create_info(60, 1000.0, "eeg"), first_samp=100, verbose="ERROR")
    raw.save(tmp_path / "a_raw.fif", split_size="3MB", buffer_size_sec=1, verbose="ERROR")
    assert (tmp_path / "a_raw-1.fif").exists()
    raw.save(tmp_path / "b_raw.fif.gz", verbose="ERROR")
    for name in ("a_raw.fif", "b_raw.fif.gz"):
        opened, _ = open_raw(tmp_path / name)
        assert opened.n_times == 20000
        np.testing.assert_allclose(opened.get_data(start=15000, stop=15010), data[:, 15000:15010], rtol=1e-6)
    (tmp_path / "a_raw-1.fif").unlink()
    with pytest.raises(InvalidFile, match=r"a_raw\.fif"):
        open_raw(tmp_path / "a_raw.fif")


def test_kinds_that_mne_does_not_know_are_one_sentence(fif):
    with pytest.raises(InvalidValue, match="types"):
        open_raw(fif[0], kinds={"GSR": "brain"})


def test_folder_of_bti_is_told_by_its_config(tmp_path):
    from brainlab.io.mne_reader import _bti_parts

    for name in ("config", "c,rfDC", "hs_file"):
        (tmp_path / name).write_bytes(b"x")
    parts = (str(tmp_path / "c,rfDC"), str(tmp_path / "config"), str(tmp_path / "hs_file"))
    assert _bti_parts(tmp_path) == _bti_parts(tmp_path / "c,rfDC") == parts
    assert _bti_parts(tmp_path / "hs_file") is None
    (tmp_path / "config").unlink()
    assert _bti_parts(tmp_path) is None
    with pytest.raises(InvalidFile) as error:
        open_raw(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("ending", ["raw", "egi"])
def test_the_simple_binary_of_egi_is_read(tmp_path, ending):
    counts = np.arange(3 * 50, dtype=">i2").reshape(50, 3)
    head = struct.pack(">i6hi3h", 2, 2024, 5, 1, 12, 0, 0, 0, 250, 3, 1) + struct.pack(">2hih", 0, 0, 50, 0)
    path = tmp_path / f"x.{ending}"
    path.write_bytes(head + counts.tobytes())
    raw, _ = open_raw(path)
    assert (raw.info["sfreq"], raw.n_times) == (250.0, 50)
    np.testing.assert_allclose(raw.get_data(picks="eeg"), counts.T * 1e-6, rtol=1e-6)


def test_recordings_under_active_shielding_are_opened_with_a_note_and_names_are_no_news(tmp_path, real_data_dir):
    raw = mne.io.read_raw_fif(real_data_dir / "meg/test_ctf_comp_raw.fif", verbose="ERROR")
    with raw.info._unlock():
        raw.info["maxshield"] = True
    with pytest.warns(RuntimeWarning, match="naming conventions"):
        raw.save(tmp_path / "shielded.fif", verbose="WARNING")
    opened, notes = open_raw(tmp_path / "shielded.fif")
    assert opened.n_times == raw.n_times
    assert len(notes) == 1
    assert "Active Shielding" in notes[0]
