from __future__ import annotations

import json

import mne
import numpy as np
import pytest

from brainlab.errors import InvalidFile
from brainlab.io.brainvision import read_header, true_format
from brainlab.io.mne_reader import open_raw

RATE, N = 200.0, 4000


def write(folder, data, said, points=None, seconds=None, name="sub-01_task-rest_eeg", tail=b""):
    """Data (time, channel) in its own dtype under a header that says ``said``."""
    channels = "\n".join(f"Ch{k + 1}=E{k},,0.1,µV" for k in range(data.shape[1]))
    (folder / f"{name}.vhdr").write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n; a comment\n\n[Common Infos]\nCodepage=UTF-8\n"
        f"DataFile={name}.eeg\nMarkerFile={name}.vmrk\nDataFormat=BINARY\nDataOrientation=MULTIPLEXED\n"
        f"NumberOfChannels={data.shape[1]}\nSamplingInterval={1e6 / RATE:g}\n"
        + (f"DataPoints={points}\n" if points else "")
        + f"\n[Binary Infos]\nBinaryFormat={said}\n\n[Channel Infos]\n{channels}\n\n[Comment]\n\nGain % of [all]\n",
        encoding="utf-8",
    )
    (folder / f"{name}.vmrk").write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\n"
        f"DataFile={name}.eeg\n\n[Marker Infos]\nMk1=New Segment,,1,1,0,20240101120000000000\n"
        "Mk2=Stimulus,S  7,101,1,0\n",
        encoding="utf-8",
    )
    (folder / f"{name}.eeg").write_bytes(data.tobytes() + tail)
    if seconds is not None:
        (folder / f"{name}.json").write_text(json.dumps({"RecordingDuration": seconds, "SamplingFrequency": RATE}))
    return folder / f"{name}.vhdr"


def samples(dtype, seed=0, offset=0.0, scale=500.0):
    values = np.random.default_rng(seed).standard_normal((N, 3)) * scale + offset
    return values.astype(dtype) if dtype == "<f4" else np.round(values).astype(dtype)


FLOAT, SHORT, LONG = samples("<f4"), samples("<i2"), samples("<i4", scale=1e6)


@pytest.mark.parametrize(
    ("data", "said"),
    [(FLOAT, "IEEE_FLOAT_32"), (SHORT, "INT_16"), (LONG, "INT_32"), (np.round(FLOAT), "IEEE_FLOAT_32")],
)
@pytest.mark.parametrize("seconds", [None, N / RATE, N / RATE - 1 / RATE])
def test_true_headers_are_believed_in_silence(tmp_path, data, said, seconds):
    path = write(tmp_path, data, said, seconds=seconds)
    raw, notes = open_raw(path)
    assert raw.n_times == N
    np.testing.assert_allclose(raw.get_data(), data.T * 0.1e-6, rtol=1e-6, atol=1e-15)
    assert notes == []


@pytest.mark.parametrize(
    ("data", "said", "witness"),
    [
        (FLOAT, "INT_16", {}),
        (FLOAT, "INT_16", {"seconds": N / RATE}),
        (FLOAT, "INT_16", {"points": N}),
        (FLOAT, "INT_32", {"seconds": N / RATE}),
        (SHORT, "IEEE_FLOAT_32", {}),
        (SHORT, "IEEE_FLOAT_32", {"seconds": N / RATE}),
        (LONG, "INT_16", {"seconds": N / RATE}),
        (SHORT, "INT_32", {"points": N}),
    ],
)
def test_headers_that_lie_are_corrected_with_a_note(tmp_path, data, said, witness):
    raw, notes = open_raw(write(tmp_path, data, said, **witness))
    assert raw.n_times == N
    np.testing.assert_allclose(raw.get_data(), data.T * 0.1e-6, rtol=1e-6)
    assert raw.get_data(picks=["E1"], start=7, stop=9).shape == (1, 2)
    assert len(notes) == 1
    assert said in notes[0]
    # Markers are those of the header's own file, in samples of the true rate.
    assert [(round(a["onset"] * RATE), a["description"]) for a in raw.annotations] == [(100, "Stimulus/S  7")]


def test_quiet_counts_on_a_large_offset_are_not_taken_for_floats(tmp_path):
    # Their upper halves would be sensible exponents; the lower halves are not random enough for floats.
    data = samples("<i2", offset=15000.0, scale=50.0)
    raw, notes = open_raw(write(tmp_path, data, "INT_16"))
    np.testing.assert_allclose(raw.get_data(), data.T * 0.1e-6, rtol=1e-6)
    assert notes == []


def test_a_length_that_fits_nothing_is_noted_or_refused(tmp_path):
    raw, notes = open_raw(write(tmp_path, SHORT, "INT_16", seconds=7.0))
    assert raw.n_times == N
    assert any("7 s in the sidecar" in note for note in notes)
    with pytest.raises(InvalidFile, match="look like IEEE_FLOAT_32 and the stated length fits neither") as error:
        open_raw(write(tmp_path, FLOAT, "INT_16", seconds=7.0))
    assert "\n" not in str(error.value)
    assert "BinaryFormat" in str(error.value)
    with pytest.raises(InvalidFile, match="the stated length fits the header"):
        open_raw(write(tmp_path, FLOAT, "INT_16", seconds=2 * N / RATE))


def test_silence_and_a_cut_end_stay_as_the_header_says(tmp_path):
    raw, notes = open_raw(write(tmp_path, np.zeros((N, 3), "<i2"), "INT_16"))
    assert (raw.n_times, notes) == (N, [])
    raw, notes = open_raw(write(tmp_path, SHORT, "INT_16", tail=b"\x01\x02\x03"))
    assert raw.n_times == N
    assert any("inside a sample" in note for note in notes)


def test_units_that_the_header_leaves_open_come_from_the_table(tmp_path):
    path = write(tmp_path, SHORT, "INT_16")
    text = path.read_text(encoding="utf-8").replace("Ch1=E0,,0.1,µV", "Ch1=E0,,0.1").replace("E1,,0.1,µV", "E1,,0.1,")
    path.write_text(text, encoding="utf-8")
    assert read_header(path).without_unit == ("E0", "E1")
    raw, notes = open_raw(path)
    np.testing.assert_allclose(raw.get_data(), SHORT.T * 0.1e-6, rtol=1e-6)
    rows = "name\ttype\tunits\nE0\tEEG\tmV\nE1\tEEG\tn/a\nE2\tEEG\tmV\n"
    (tmp_path / "sub-01_task-rest_channels.tsv").write_text(rows)
    raw, notes = open_raw(path)
    scale = np.array([[0.1e-3], [0.1e-6], [0.1e-6]])
    np.testing.assert_allclose(raw.get_data(), SHORT.T * scale, rtol=1e-6)
    assert len(raw.annotations) == 1
    # A unit that the header does state wins, and the disagreement is noted.
    assert [note for note in notes if "units" in note and "E2" in note and "E0" not in note]


def test_headers_of_other_kinds_are_left_to_mne(tmp_path):
    path = write(tmp_path, SHORT, "INT_16")
    assert read_header(path).n_channels == 3
    text = path.read_text(encoding="utf-8")
    for old, new in (("DataFormat=BINARY", "DataFormat=ASCII"), ("INT_16", "UINT_16"), ("[Binary Infos]", "[Other]")):
        path.write_text(text.replace(old, new), encoding="utf-8")
        assert read_header(path) is None
    path.write_text(text.replace(".eeg\nMarker", "x.eeg\nMarker"), encoding="utf-8")
    with pytest.raises(InvalidFile, match="vhdr"):
        open_raw(path)


def test_the_real_header_that_lies_ends_in_the_float_data(real_data_dir):
    path = real_data_dir / "bids/tiny_bids/sub-01/ses-eeg/eeg/sub-01_ses-eeg_task-rest_eeg.vhdr"
    raw, notes = open_raw(path)
    data = np.fromfile(path.with_suffix(".eeg"), "<f4").reshape(5000, 69).T
    assert (raw.n_times, raw.info["sfreq"]) == (5000, 5000.0)
    np.testing.assert_allclose(raw.get_data(picks=range(67)), data[:67] * 0.1e-6, rtol=1e-6)
    np.testing.assert_allclose(raw.get_data(picks=["Temperature"]), 36.5)
    assert any("INT_16" in note and "IEEE_FLOAT_32" in note for note in notes)
    assert np.ptp(raw.get_data(picks="eeg")) == pytest.approx(2 * 3.2768e-3, rel=1e-3)


def test_the_real_header_that_is_right_is_believed(real_data_dir):
    path = real_data_dir / "eeg/brainvision/test.vhdr"
    assert true_format(read_header(path)) == ("INT_16", None)
    raw, notes = open_raw(path)
    theirs = mne.io.read_raw_brainvision(path, verbose="ERROR")
    assert notes == []
    np.testing.assert_array_equal(raw.get_data(), theirs.get_data())
