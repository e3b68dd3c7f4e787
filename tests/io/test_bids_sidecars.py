from __future__ import annotations

import json

import mne
import numpy as np
import pytest

from brainlab.errors import InvalidFile
from brainlab.io.bids_sidecars import sidecar, sidecar_facts, table
from brainlab.io.mne_reader import open_raw, read_recording

BOM = "\ufeff"
LANDMARKS = {
    "AnatomicalLandmarkCoordinates": {"NAS": [0, 100, 0], "LPA": [-80, 0, 0], "RPA": [80, 0, 0]},
    "AnatomicalLandmarkCoordinateUnits": "mm",
}


@pytest.fixture
def bids(tmp_path):
    """A FIF of four channels, whose clock starts at sample 50, in a BIDS tree."""
    folder = tmp_path / "sub-01/ses-a/eeg"
    folder.mkdir(parents=True)
    (tmp_path / "dataset_description.json").write_text("{}")
    info = mne.create_info(["Cz", "Pz", "X1", "X2"], 100.0, "eeg")
    raw = mne.io.RawArray(
        np.random.default_rng(0).standard_normal((4, 600)) * 1e-5, info, first_samp=50, verbose="ERROR"
    )
    raw.set_annotations(mne.Annotations([0.5, 2.0], [0.1, 0.5], ["own", "BAD_jump"]))
    path = folder / "sub-01_ses-a_task-rest_eeg.fif"
    raw.save(path, verbose="ERROR")
    return path, raw.get_data()


def beside(path, ending, text, folder=None):
    (folder or path.parent).joinpath(path.name.replace("eeg.fif", ending)).write_text(text, encoding="utf-8")


def test_kinds_and_bads_come_from_the_channel_table(bids):
    path, data = bids
    rows = (
        "name\ttype\tunits\tstatus\nCz\tEEG\tµV\tgood\nPz\tEEG\tuV\tbad\n"
        "X1\tHEOG\tn/a\tn/a\nX2\tTRIG\tn/a\tgood\nNo\tEEG\tV\tn/a\n"
    )
    beside(path, "channels.tsv", BOM + rows)
    raw, notes = open_raw(path)
    assert raw.get_channel_types() == ["eeg", "eeg", "eog", "stim"]
    assert raw.info["bads"] == ["Pz"]
    np.testing.assert_allclose(raw.get_data(), data, rtol=1e-6)
    assert any("lacks: No" in note for note in notes)
    assert read_recording(path, events=False).provenance["bads"] == ["Pz"]


def test_meg_sensors_keep_the_kinds_of_their_coils(tmp_path, real_data_dir):
    raw = mne.io.read_raw_fif(real_data_dir / "meg/test_ctf_comp_raw.fif", verbose="ERROR")
    name = next(name for name, kind in zip(raw.ch_names, raw.get_channel_types(), strict=True) if kind == "mag")
    path = tmp_path / "sub-01_task-rest_meg.fif"
    raw.save(path, verbose="ERROR")
    (tmp_path / "sub-01_task-rest_channels.tsv").write_text(f"name\ttype\tstatus\n{name.split('-')[0]}\tMISC\tbad\n")
    opened, _ = open_raw(path)
    assert opened.get_channel_types() == raw.get_channel_types()
    # Tables often leave the suffix of CTF names away.
    assert opened.info["bads"] == [*raw.info["bads"], name]


def test_events_replace_the_files_own_marks_and_count_from_the_first_sample(bids):
    path, _ = bids
    rows = (
        "onset\tduration\ttrial_type\tvalue\n1.0\tn/a\tgo\t1\n0.25\t0.5\tn/a\t7\n"
        "3.5\t0\tn/a\tn/a\nn/a\t0\tlost\t1\n99\t0\tlate\t1\n"
    )
    beside(path, "events.tsv", BOM + rows)
    raw, notes = open_raw(path)
    marks = [(a.onset_s, a.duration_s, a.description) for a in read_recording(path).annotations]
    expected = [(0.25, 0.5, "7"), (1.0, 0.0, "go"), (2.0, 0.5, "BAD_jump"), (3.5, 0.0, "event")]
    assert [(round(a, 6), round(b, 6), text) for a, b, text in marks] == expected
    assert raw.first_samp == 50
    assert any("2 rows" in note for note in notes)


def test_where_a_recording_was_cut_stays_known_beside_an_event_table(bids):
    path, _ = bids
    raw = mne.io.read_raw_fif(path, preload=True, verbose="ERROR")
    raw.set_annotations(mne.Annotations([0.7, 2.5], [0.1, 0.0], ["own", "boundary"]))
    raw.save(path, overwrite=True, verbose="ERROR")
    beside(path, "events.tsv", "onset\tduration\ttrial_type\n1.0\t0\tgo\n")
    marks = [(round(a.onset_s, 6), a.description) for a in read_recording(path).annotations]
    assert marks == [(1.0, "go"), (2.5, "boundary")]


def test_an_empty_event_table_changes_nothing(bids):
    path, _ = bids
    beside(path, "events.tsv", "onset\tduration\n")
    raw, notes = open_raw(path)
    assert [str(text) for text in raw.annotations.description] == ["own", "BAD_jump"]
    assert notes == []


@pytest.mark.parametrize(
    ("system", "landmarks", "unit", "scale"),
    [
        ("CapTrak", LANDMARKS, "mm", 1e3),
        ("CapTrak", {}, "m", 1.0),
        ("EEGLAB", {}, "cm", 1e2),
        ("Other", LANDMARKS, "m", 1),
    ],
)
def test_positions_come_from_the_electrode_table_in_head_coordinates(bids, system, landmarks, unit, scale):
    path, _ = bids
    place = np.array([0.01, 0.06, 0.08])  # right, front, up
    turned = np.array([place[1], -place[0], place[2]]) if system == "EEGLAB" else place
    x, y, z = turned * scale
    rows = f"name\tx\ty\tz\nCz\t{x:.8f}\t{y:.8f}\t{z:.8f}\nPz\tn/a\tn/a\tn/a\n"
    for name, text in (
        ("sub-01_ses-a_electrodes.tsv", BOM + rows),
        (
            "sub-01_ses-a_coordsystem.json",
            json.dumps({"EEGCoordinateSystem": system, "EEGCoordinateUnits": unit, **landmarks}),
        ),
    ):
        (path.parent / name).write_text(text, encoding="utf-8")
    recording = read_recording(path)
    np.testing.assert_allclose(recording.channels[0].position, place, atol=1e-6)
    assert recording.channels[1].position is None
    assert recording.provenance["notes"] == []


def test_positions_that_cannot_be_right_are_left_out_with_a_note(bids):
    path, _ = bids
    (path.parent / "sub-01_electrodes.tsv").write_text("name\tx\ty\tz\nCz\t10\t60\t80\n")
    assert any("no coordinate system" in note for note in open_raw(path)[1])
    system = path.parent / "sub-01_coordsystem.json"
    for facts, reason in (
        ({"EEGCoordinateSystem": "CapTrak", "EEGCoordinateUnits": "m"}, "no head"),
        ({"EEGCoordinateSystem": "Other", "EEGCoordinateUnits": "mm"}, "without landmarks"),
    ):
        system.write_text(json.dumps(facts))
        raw, notes = open_raw(path)
        assert any(reason in note for note in notes)
        assert not np.isfinite(raw.info["chs"][0]["loc"][:3]).all() or not raw.info["chs"][0]["loc"][:3].any()


def test_sidecars_are_inherited_and_the_nearest_wins(bids):
    path, _ = bids
    root = path.parents[3]
    (root / "task-rest_eeg.json").write_text(json.dumps({"PowerLineFrequency": 60, "RecordingDuration": 50.0}))
    (root / "task-other_eeg.json").write_text(json.dumps({"PowerLineFrequency": 40}))
    beside(path, "eeg.json", json.dumps({"RecordingDuration": 6.0, "SamplingFrequency": 100.0}))
    assert sidecar_facts(path) == {"PowerLineFrequency": 60, "RecordingDuration": 6.0, "SamplingFrequency": 100.0}
    raw, notes = open_raw(path)
    assert raw.info["line_freq"] == 60.0
    assert notes == []
    (root.parent / "eeg.json").write_text("{}")
    assert sidecar(path, "eeg.json") == path.with_name("sub-01_ses-a_task-rest_eeg.json")
    beside(path, "eeg.json", json.dumps({"RecordingDuration": 60.0, "SamplingFrequency": 500.0}))
    notes = open_raw(path)[1]
    assert any("500 Hz" in note for note in notes)
    assert any("60 s" in note for note in notes)


def test_broken_tables_are_one_sentence(bids):
    path, _ = bids
    beside(path, "eeg.json", "{")
    with pytest.raises(InvalidFile, match=r"eeg\.json.*expected JSON") as error:
        open_raw(path)
    assert "\n" not in str(error.value)
    beside(path, "eeg.json", "{}")
    (path.parent / "sub-01_ses-a_task-rest_channels.tsv").write_bytes(b"name\ttype\n\xff\xfe\t\x00")
    with pytest.raises(InvalidFile, match=r"channels\.tsv"):
        open_raw(path)


def test_files_outside_bids_are_left_alone(tmp_path, bids):
    other = tmp_path / "rest_eeg.fif"
    other.write_bytes(bids[0].read_bytes())
    (tmp_path / "channels.tsv").write_text("name\tstatus\nCz\tbad\n")
    assert open_raw(other)[0].info["bads"] == []


def test_the_real_tables_are_read(real_data_dir):
    path = real_data_dir / "bids/tiny_bids/sub-01/ses-eeg/eeg/sub-01_ses-eeg_task-rest_eeg.vhdr"
    raw, _ = open_raw(path)
    assert [kind for kind in raw.get_channel_types() if kind != "eeg"] == ["ecg", "eog", "eog", "gsr", "temperature"]
    assert raw.info["bads"] == ["PO10"]
    assert raw.info["line_freq"] == 60.0
    rows = {row["name"]: row for row in table(path.with_name("sub-01_ses-eeg_electrodes.tsv"))}
    placed = {channel["ch_name"]: channel["loc"][:3] for channel in raw.info["chs"] if channel["ch_name"] in rows}
    assert len(placed) >= 64
    for name in ("Fp1", "Cz", "O2"):
        np.testing.assert_allclose(placed[name], [float(rows[name][axis]) for axis in "xyz"], atol=1e-6)
    marks = [(a.onset_s, a.description) for a in read_recording(path).annotations]
    assert marks == [(0.0, "start_experiment"), (0.2, "show_stimulus")]
