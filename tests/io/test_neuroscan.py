from __future__ import annotations

import pickle
import struct

import mne
import numpy as np
import pytest

from brainlab.errors import InvalidFile
from brainlab.io.mne_reader import open_raw, read_recording
from brainlab.io.neuroscan import Neuroscan, is_neuroscan

SENSITIVITY, CALIBRATION, BASELINE = 50.0, 1.5, 7


def write(path, counts, *, width=2, block=1, claimed=None, offset=0, events=(), kind=1, table=True, bad=()):
    """A file of the published layout: counts is (channel, time)."""
    n_channels, n_samples = counts.shape
    start = 900 + 75 * n_channels
    rows = counts.reshape(n_channels, -1, block).swapaxes(0, 1) if block > 1 else counts.T
    body = np.ascontiguousarray(rows).astype(f"<i{width}").tobytes()
    setup = bytearray(900)
    setup[:11] = b"Version 3.0"
    struct.pack_into("<H", setup, 370, n_channels)
    struct.pack_into("<H", setup, 376, 250)
    struct.pack_into("<I", setup, 864, n_samples if claimed is None else claimed)
    struct.pack_into("<I", setup, 886, start + len(body) if table else 0)
    struct.pack_into("<i", setup, 894, offset)
    electrodes = b""
    for number in range(n_channels):
        electrode = bytearray(75)
        electrode[:3] = f"E{number:02d}".encode()
        electrode[14] = number in bad
        struct.pack_into("<h", electrode, 47, BASELINE)
        struct.pack_into("<f", electrode, 59, SENSITIVITY)
        struct.pack_into("<f", electrode, 71, CALIBRATION)
        electrodes += bytes(electrode)
    tail = b""
    if table:
        for sample, stimulus, keyboard, pad in events:
            place = sample if kind == 3 else start + sample * n_channels * width
            tail += struct.pack("<HBBI", stimulus, keyboard, pad, place) + (b"" if kind == 1 else bytes(11))
        tail = struct.pack("<bii", kind, len(tail), 0) + tail
    path.write_bytes(bytes(setup) + electrodes + body + tail)
    return path


def waves(n_channels=3, n_samples=1600, scale=1000):
    """Slow waves, so that neighbours in time are alike and channels are not."""
    time = np.arange(n_samples) / 250
    rows = [np.sin(2 * np.pi * (3 + number) * time) + 3 * number for number in range(n_channels)]
    return np.round(scale * np.array(rows)).astype(np.int64)


def volts(counts):
    return (counts - BASELINE) * SENSITIVITY * CALIBRATION / 204.8 * 1e-6


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("block", [1, 8])
def test_counts_of_either_width_and_order_become_volts(tmp_path, width, block):
    counts = waves(scale=1000 if width == 2 else 1_000_000)
    path = write(tmp_path / "x.cnt", counts, width=width, block=block, offset=block * width if block > 1 else 0)
    file = Neuroscan.open(path)
    assert (file.n_samples, file.sfreq_hz, file.block) == (1600, 250.0, block)
    np.testing.assert_allclose(file.read(0, 1600), volts(counts), rtol=1e-6)
    np.testing.assert_allclose(file.read(13, 41), volts(counts)[:, 13:41], rtol=1e-6)
    assert file.notes == ()


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_a_file_that_mne_reads_is_read_alike(tmp_path):
    counts = waves()
    path = write(tmp_path / "x.cnt", counts, events=[(100, 5, 0, 0)])
    content = bytearray(path.read_bytes())
    content[225:233] = b"01/02/99"
    content[235:243] = b"10:20:30"
    path.write_bytes(content)
    theirs = mne.io.read_raw_cnt(path, data_format="int16", verbose="ERROR")
    np.testing.assert_allclose(Neuroscan.open(path).read(0, 1600), theirs.get_data(), rtol=1e-6)


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_events_of_every_type_of_table_fall_on_their_samples(tmp_path, kind):
    events = [(100, 5, 0, 0), (200, 0, 3, 0), (300, 0, 0, 4), (400, 0, 0, 0xE0), (90, 255, 0, 0)]
    file = Neuroscan.open(write(tmp_path / "x.cnt", waves(), events=events, kind=kind))
    assert file.events == ((90, "255"), (100, "5"), (200, "keyboard 3"), (300, "keypad 4"), (400, "boundary"))


def test_counts_and_blocks_of_the_header_are_not_believed(tmp_path):
    counts = waves(n_samples=1603)
    path = write(tmp_path / "x.cnt", counts, claimed=1700, offset=16, bad=[1])
    file = Neuroscan.open(path)
    assert (file.n_samples, file.block, file.bads) == (1603, 1, ("E01",))
    np.testing.assert_allclose(file.read(0, 1603), volts(counts), rtol=1e-6)
    assert any("1700" in note for note in file.notes)
    assert any("one by one" in note for note in file.notes)


def test_events_outside_and_broken_tables_are_noted(tmp_path):
    file = Neuroscan.open(write(tmp_path / "x.cnt", waves(), events=[(100, 5, 0, 0), (5000, 6, 0, 0)]))
    assert file.events == ((100, "5"),)
    assert any("1 events lie outside" in note for note in file.notes)
    file = Neuroscan.open(write(tmp_path / "y.cnt", waves(), table=False))
    assert file.events == ()
    assert any("event table" in note for note in file.notes)
    short = write(tmp_path / "z.cnt", waves(), events=[(100, 5, 0, 0), (200, 6, 0, 0)])
    short.write_bytes(short.read_bytes()[:-3])
    file = Neuroscan.open(short)
    assert file.events == ((100, "5"),)
    assert any("should hold 2 events" in note for note in file.notes)


def test_what_can_be_read_in_two_ways_is_one_sentence(tmp_path):
    noise = np.random.default_rng(0).integers(-1000, 1000, (2, 1600))
    faults = {
        "width": (write(tmp_path / "a.cnt", waves(), claimed=0), "16 and 32 bits"),
        "between": (write(tmp_path / "b.cnt", waves(), claimed=1130), "16 and 32 bits"),
        "order": (write(tmp_path / "c.cnt", noise, offset=16), "look alike"),
    }
    for path, reason in faults.values():
        with pytest.raises(InvalidFile, match=reason) as error:
            Neuroscan.open(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


def test_other_and_truncated_files_are_refused(tmp_path):
    path = write(tmp_path / "x.cnt", waves())
    assert is_neuroscan(path)
    for size in (100, 900, 1000, 1125):
        (tmp_path / "short.cnt").write_bytes(path.read_bytes()[:size])
        with pytest.raises(InvalidFile, match=r"short\.cnt"):
            Neuroscan.open(tmp_path / "short.cnt")
    (tmp_path / "riff.cnt").write_bytes(b"RIFF" + bytes(2000))
    assert not is_neuroscan(tmp_path / "riff.cnt")
    with pytest.raises(InvalidFile, match="version 3"):
        Neuroscan.open(tmp_path / "riff.cnt")


def test_the_real_file_that_mne_refuses_is_read_lazily_with_its_events(real_data_dir):
    path = real_data_dir / "eeg/neuroscan/test.cnt"
    raw, notes = open_raw(path)
    # Counts between the headers and the event table, as the data set's notes describe them.
    counts = np.frombuffer(path.read_bytes()[1050:103470], "<i2").reshape(25605, 2).T
    scale = np.float32(114.58333587646484) / 204.8 * 1e-6
    assert not raw.preload
    np.testing.assert_allclose(raw.get_data(), counts * scale, rtol=1e-6)
    np.testing.assert_allclose(
        raw.get_data(picks=["HEOG"], start=500, stop=600), counts[1:, 500:600] * scale, rtol=1e-6
    )
    assert (raw.ch_names, raw.info["sfreq"], raw.n_times) == (["VEOG", "HEOG"], 200.0, 25605)
    assert raw.get_channel_types() == ["eog", "eog"]
    assert len(raw.annotations) == 24
    assert round(raw.annotations.onset[0] * 200) == (15998 - 1050) // 4
    assert any("26080" in note for note in notes)
    loaded = pickle.loads(pickle.dumps(raw)).load_data(verbose="ERROR")
    np.testing.assert_array_equal(loaded.get_data(), raw.get_data())
    recording = read_recording(path)
    assert (recording.n_samples, len(recording.annotations)) == (25605, 24)
    assert recording.channels[0].unit == "V"
