"""Preparation steps on real recordings of seven formats: units, filters, positions and events against plain MNE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest

from brainlab.datasets.recordings import RecordingFile
from brainlab.errors import InvalidFile
from brainlab.io.cache import Cache
from brainlab.io.store import Store
from brainlab.prepare.session_store import prepare_session
from brainlab.prepare.sessions import prepare_store
from brainlab.prepare.steps.channels import Pick
from brainlab.prepare.steps.filters import BandPass, Notch, Resample
from brainlab.prepare.steps.meg import GradientCompensation
from brainlab.prepare.steps.scaling import RobustScale, Unit


def _neuroscan(path: Path) -> Any:
    counts = np.frombuffer(path.read_bytes()[1050:103470], "<i2").reshape(-1, 2).T
    volts = counts * (np.float32(114.58333587646484) / 204.8 * 1e-6)
    return mne.io.RawArray(volts, mne.create_info(["VEOG", "HEOG"], 200.0, "eog"), verbose="ERROR")


def _float_bids(path: Path) -> Any:
    raw = mne.io.read_raw_brainvision(path, verbose="ERROR")
    values = np.fromfile(path.with_suffix(".eeg"), "<f4").reshape(-1, 69).T * 0.1e-6
    kinds = ["eeg"] * 64 + ["ecg", "eog", "eog", "misc", "misc"]
    return mne.io.RawArray(values, mne.create_info(raw.ch_names, 5000.0, kinds), verbose="ERROR")


@dataclass(frozen=True)
class Case:
    """A file, how plain MNE opens it, what is kept, and the numbers that its notes state."""

    path: str
    read: Callable[[Path], Any]
    kind: str
    system: str
    unit: str
    n_kept: int
    dropped: dict[str, int]
    n_events: int
    band: tuple[float | None, float]
    sfreq_hz: float
    extra: tuple[str, ...] = ()


CASES = {
    "kit": Case(
        "meg/kit_test.sqd", mne.io.read_raw_kit, "mag", "kit", "T", 157, {"ref_meg": 3, "misc": 32, "stim": 1}, 2,
        (4.0, 40.0), 250.0,
    ),
    "ctf": Case(
        "meg/test_ctf_comp_raw.fif", mne.io.read_raw_fif, "mag", "ctf275", "T", 274,
        {"ref_meg": 29, "misc": 35, "stim": 2}, 0, (None, 40.0), 240.0,
    ),
    "eeglab": Case(
        "eeg/eeglab/eeglab_data.set", mne.io.read_raw_eeglab, "eeg", "eeg", "V", 30, {"eog": 2}, 154, (1.0, 40.0),
        100.0, ("EOG1", "EOG2"),
    ),
    "eeglab in one file": Case(
        "eeg/eeglab/sub-S1_ses-01_task-Experiment_run-01_eeg.set", mne.io.read_raw_eeglab, "eeg", "eeg", "V", 15, {},
        55, (1.0, 40.0), 128.0,
    ),
    "brainvision": Case(
        "eeg/brainvision/test.vhdr", mne.io.read_raw_brainvision, "eeg", "eeg", "V", 26, {"misc": 6}, 13, (1.0, 40.0),
        250.0,
    ),
    "edf": Case(
        "eeg/edf/test_stim_channel.edf", mne.io.read_raw_edf, "eeg", "eeg", "V", 1, {"stim": 2}, 1200, (0.5, 40.0),
        100.0,
    ),
    "neuroscan": Case(
        "eeg/neuroscan/test.cnt", _neuroscan, "eog", "other", "V", 2, {}, 24, (0.5, 40.0), 100.0,
    ),
    "bids with a wrong header": Case(
        "bids/tiny_bids/sub-01/ses-eeg/eeg/sub-01_ses-eeg_task-rest_eeg.vhdr", _float_bids, "eeg", "eeg", "V", 64,
        {"eog": 2, "ecg": 1, "gsr": 1, "temperature": 1}, 2, (10.0, 40.0), 1000.0,
    ),
}  # fmt: skip


def _file(path: Path) -> RecordingFile:
    return RecordingFile(path, "session", "real", "sub-01", "rest")


def _plain(case: Case, path: Path) -> Any:
    """The same work by MNE alone, in SI units at the new rate."""
    raw = case.read(path)
    raw.load_data(verbose="ERROR")
    raw.drop_channels([name for name in case.extra if name in raw.ch_names])
    raw.pick(case.kind, verbose="ERROR")
    raw.filter(*case.band, picks="all", verbose="ERROR")
    return raw.resample(case.sfreq_hz, method="fft", npad="auto", verbose="ERROR")


@pytest.fixture(params=list(CASES), scope="module")
def prepared(request, real_data_dir: Path, tmp_path_factory):  # type: ignore[no-untyped-def]
    case = CASES[request.param]
    path, folder = real_data_dir / case.path, tmp_path_factory.mktemp("store")
    steps = {
        "pick": Pick((case.kind,)),
        "band_pass": BandPass(*case.band),
        "resample": Resample(case.sfreq_hz, method="fft"),
        "scale": RobustScale(),
    }
    (row,) = prepare_store([_file(path)], folder / "store", steps, cache=Cache(folder / "cache"))
    return case, path, row, Store(folder / "store"), _plain(case, path)


def test_stored_numbers_are_those_of_mne_in_si_units(prepared) -> None:  # type: ignore[no-untyped-def]
    case, _, row, store, plain = prepared
    session = store.sessions[0]
    assert row["status"] == "prepared"
    # CTF's names end in the number of the system, which layouts leave away.
    assert session.ch_names == tuple(name.split("-")[0] for name in plain.ch_names)
    assert session.n_channels == case.n_kept
    assert {channel.kind for channel in session.channels} == {case.kind}
    assert session.sfreq_hz == case.sfreq_hz
    scalers = session.attrs["scalers"]
    assert scalers["unit"] == case.unit
    stored = store.read(0).astype(np.float64)
    si = stored * np.array(scalers["scale"])[:, None] + np.array(scalers["centre"])[:, None]
    expected = plain.get_data()
    assert si.shape == expected.shape
    np.testing.assert_allclose(si, expected, rtol=0, atol=1e-5 * expected.std())
    low, middle, high = np.quantile(stored, [0.25, 0.5, 0.75], axis=1)
    np.testing.assert_allclose(middle, 0, atol=1e-3)
    np.testing.assert_allclose(high - low, 1, atol=1e-3)


def test_dropped_channels_positions_and_system_are_the_files(prepared) -> None:  # type: ignore[no-untyped-def]
    case, path, row, store, plain = prepared
    session = store.sessions[0]
    kinds = list(row["dropped"].values())
    assert {kind: kinds.count(kind) for kind in kinds} == case.dropped
    assert row["system"] == case.system
    places = {channel.name: channel.position for channel in session.channels}
    if "tiny_bids" in str(path):  # its positions stand in a table
        assert None not in places.values()
        return
    for channel in plain.info["chs"]:
        known = np.isfinite(channel["loc"][:3]).all() and channel["loc"][:3].any()
        found = places[channel["ch_name"].split("-")[0]]
        assert (found is not None) == bool(known)
        if found is not None:
            np.testing.assert_allclose(found, channel["loc"][:3], atol=1e-7)
    if case.kind == "mag":
        directions = np.array([channel.orientation for channel in session.channels])
        np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(directions, [c["loc"][9:12] for c in plain.info["chs"]], atol=1e-6)


def test_events_are_at_the_times_mne_gives(prepared) -> None:  # type: ignore[no-untyped-def]
    case, path, _, store, _ = prepared
    session = store.sessions[0]
    assert len(session.events) == case.n_events
    raw = case.read(path)
    if "tiny_bids" in str(path):
        expected = [(0.0, "start_experiment"), (0.2, "show_stimulus")]
    elif case.kind == "eog":  # the event table: byte offsets into samples of four bytes
        table = path.read_bytes()[103479:]
        offsets = [int.from_bytes(table[at + 4 : at + 8], "little") for at in range(0, 24 * 8, 8)]
        names = [event["description"] for event in session.events]
        assert (names.count("boundary"), names.count("keyboard 1")) == (12, 2)
        expected = [((at - 1050) // 4 / 200, name) for at, name in zip(offsets, names, strict=True)]
    elif "stim" in raw:
        found = mne.find_events(raw, shortest_event=1, verbose="ERROR")
        expected = [((sample - raw.first_samp) / raw.info["sfreq"], int(code)) for sample, _, code in found]
    else:
        order = np.argsort(raw.annotations.onset, kind="stable")
        expected = [(float(raw.annotations.onset[n]), str(raw.annotations.description[n])) for n in order]
    onsets = np.array([event["onset_s"] for event in session.events])
    np.testing.assert_allclose(onsets, [onset for onset, _ in expected], atol=1e-9)
    assert [event.get("code", event.get("description")) for event in session.events] == [what for _, what in expected]
    samples = np.array([event["sample"] for event in session.events])
    np.testing.assert_allclose(samples, np.minimum(onsets * case.sfreq_hz, session.n_samples - 1), atol=0.501)


def test_of_a_kit_line_that_is_never_0_only_rises_count(real_data_dir: Path) -> None:
    session = prepare_session(_file(real_data_dir / "meg/kit_test.sqd"), {})
    assert [event.code for event in session.events] == [255, 255]


@pytest.mark.parametrize("grade", [0, 1, 2, 3])
def test_ctf_compensation_is_mnes_and_references_go_afterwards(real_data_dir: Path, grade: int) -> None:
    path = real_data_dir / "meg/test_ctf_comp_raw.fif"
    session = prepare_session(_file(path), {"compensation": GradientCompensation(grade), "pick": Pick(("mag",))})
    plain = mne.io.read_raw_fif(path, preload=True, verbose="ERROR")
    assert plain.compensation_grade == 3
    untouched = plain.copy().pick("mag").get_data()
    plain.apply_gradient_compensation(grade, verbose="ERROR").pick("mag")
    assert "ref_meg" not in session.kinds
    assert list(session.dropped.values()).count("ref_meg") == 29
    np.testing.assert_allclose(session.samples, plain.get_data(), rtol=1e-9, atol=1e-18)
    assert np.array_equal(session.samples, untouched) == (grade == 3)
    assert session.raw.compensation_grade == grade


@pytest.mark.parametrize("phase", ["zero", "minimum"])
def test_filters_and_polyphase_resampling_are_mnes(real_data_dir: Path, phase: str) -> None:
    """2,000 samples at 1000 Hz: the ratio of lengths is that of the rates, so MNE's own call gives the same."""
    path = real_data_dir / "meg/kit_test.sqd"
    steps = {
        "pick": Pick(("mag",)), "notch": Notch(50.0), "band_pass": BandPass(4.0, 40.0, phase=phase),
        "resample": Resample(100.0),
    }  # fmt: skip
    session = prepare_session(_file(path), steps)
    plain = mne.io.read_raw_kit(path, preload=True, verbose="ERROR").pick("mag")
    plain.notch_filter(np.arange(50, 475, 50), verbose="ERROR").filter(4.0, 40.0, phase=phase, verbose="ERROR")
    plain.resample(100.0, method="polyphase", verbose="ERROR")
    np.testing.assert_allclose(session.samples, plain.get_data(), rtol=1e-7, atol=1e-20)
    assert (session.n_samples, session.sfreq_hz) == (200, 100.0)


def test_the_unit_step_gives_hundreds_of_microvolts_and_picotesla(real_data_dir: Path) -> None:
    path = real_data_dir / "eeg/eeglab/eeglab_data.set"
    session = prepare_session(_file(path), {"pick": Pick(("eeg",)), "unit": Unit(volts_per_unit=1e-4)})
    raw = mne.io.read_raw_eeglab(path, preload=True, verbose="ERROR").drop_channels(["EOG1", "EOG2"])
    np.testing.assert_allclose(session.samples, raw.get_data(units="uV") / 100, rtol=1e-9)
    path = real_data_dir / "meg/kit_test.sqd"
    session = prepare_session(_file(path), {"pick": Pick(("mag",)), "unit": Unit(teslas_per_unit=1e-12)})
    raw = mne.io.read_raw_kit(path, preload=True, verbose="ERROR").pick("mag")
    np.testing.assert_allclose(session.samples, raw.get_data() * 1e12, rtol=1e-9)


def test_what_the_readers_corrected_stands_in_the_manifest(real_data_dir: Path, tmp_path: Path) -> None:
    files = [
        RecordingFile(real_data_dir / CASES[name].path, name, "real", name, "rest")
        for name in ("neuroscan", "bids with a wrong header")
    ]
    steps = {"pick": Pick(("eeg", "eog")), "resample": Resample(100.0)}
    rows = prepare_store(files, tmp_path / "store", steps, cache=Cache(tmp_path / "cache"))
    assert any("26080 samples" in warning for warning in rows[0]["warnings"])
    assert any("IEEE_FLOAT_32" in warning for warning in rows[1]["warnings"])
    assert rows[1]["bads"] == ["PO10"]


@pytest.mark.parametrize("name", ["meg/kit_test.sqd", "meg/test_ctf_comp_raw.fif", "eeg/eeglab/eeglab_data.set"])
def test_a_file_cut_short_is_one_sentence_and_stands_in_the_manifest(
    real_data_dir: Path, tmp_path: Path, name: str
) -> None:
    source = real_data_dir / name
    broken = tmp_path / source.name
    data = source.with_suffix(".fdt") if source.suffix == ".set" else source
    if data != source:
        broken.write_bytes(source.read_bytes())
    (tmp_path / data.name).write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    good = RecordingFile(real_data_dir / "eeg/edf/test_stim_channel.edf", "good", "real", "sub-02", "rest")
    files = [RecordingFile(broken, "broken", "real", "sub-01", "rest"), good]
    steps = {"resample": Resample(100.0)}
    with pytest.raises(InvalidFile) as error:
        prepare_store(files, tmp_path / "store", steps, cache=Cache(tmp_path / "cache"))
    assert source.name in str(error.value)
    assert "\n" not in str(error.value)
    rows = prepare_store(files, tmp_path / "rest", steps, cache=Cache(tmp_path / "cache"), on_error="skip")
    assert [row["status"] for row in rows] == ["failed", "prepared"]
    assert source.name in rows[0]["error"]
