"""Simulated trees have the layouts, the faults and the planted truth that they say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.signal import butter, resample_poly, sosfiltfilt, welch

from brainlab.datasets.camcan import CALIBRATION, CROSSTALK, CamCan
from brainlab.datasets.mous import Mous
from brainlab.datasets.omega import Omega
from brainlab.datasets.recordings import AnyRecordings
from brainlab.errors import InvalidFile, InvalidValue
from brainlab.io.recording import Event
from brainlab.synthetic import meg_archive
from brainlab.synthetic.camcan import SimulatedCamCan
from brainlab.synthetic.meg_tree import planted_sources, read_planted
from brainlab.synthetic.mous import SimulatedMous
from brainlab.synthetic.omega import SimulatedOmega
from brainlab.synthetic.recordings import SimulatedRecordings

mne = pytest.importorskip("mne")

PAIRS = {"omega": (SimulatedOmega, Omega), "mous": (SimulatedMous, Mous), "camcan": (SimulatedCamCan, CamCan)}


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    roots = {name: tmp_path_factory.mktemp(name) for name in PAIRS}
    for name, (simulator, _) in PAIRS.items():
        simulator(0).write(roots[name], "tiny")
    return roots


def _read(path: Path) -> Any:
    return mne.io.read_raw_fif(path, preload=True, verbose="error")


def _planted(root: Path, path: Path) -> tuple[dict[str, Any], Any]:
    stem = path.name.removesuffix(".fif")
    return read_planted(root)["sessions"][stem], np.load(root / "planted" / f"{stem}.npz")


@pytest.mark.parametrize("name", PAIRS)
def test_the_data_set_finds_its_simulated_recordings_but_not_the_empty_room(trees: dict[str, Path], name: str) -> None:
    files = PAIRS[name][1]().find(trees[name])
    sessions = read_planted(trees[name])["sessions"]
    quirks = [sessions[file.path.name.removesuffix(".fif")]["quirk"] for file in files]
    assert sorted(quirks) == ["", "", "", "", "bads", "short"]
    assert sum(session["quirk"] == "empty_room" for session in sessions.values()) == 1
    assert len({file.subject for file in files}) == 6
    assert [file.name for file in files] == sorted(file.name for file in files)


def test_names_are_those_of_the_archives(trees: dict[str, Path]) -> None:
    names = {key: [file.name for file in PAIRS[key][1]().find(trees[key])] for key in PAIRS}
    assert names["omega"][0] == "sub-0001_ses-01_rest"
    assert names["mous"][:2] == ["sub-A2002_ses-rest", "sub-A2003_ses-auditory"]
    assert names["camcan"][1] == "cc700_sub-CC110066_ses-smt_task-smt"
    assert {file.task for file in Mous().find(trees["mous"])} == {"rest", "auditory", "visual"}
    assert [len(AnyRecordings().find(root)) for root in trees.values()] == [6, 6, 6]


@pytest.mark.parametrize("name", PAIRS)
def test_trigger_codes_are_those_of_the_plan_although_the_first_sample_is_not_zero(
    trees: dict[str, Path], name: str
) -> None:
    counts = []
    for file in PAIRS[name][1]().find(trees[name]):
        raw = _read(file.path)
        facts, planted = _planted(trees[name], file.path)
        assert raw.first_samp == facts["first_samp"] > 1000
        counts.append(len(planted["event_samples"]))
        if not counts[-1]:
            continue
        found = mne.find_events(raw, min_duration=0.05, verbose="error")
        np.testing.assert_array_equal(found[:, 0] - raw.first_samp, planted["event_samples"])
        np.testing.assert_array_equal(found[:, 2], planted["event_codes"])
    assert sum(count > 0 for count in counts) >= 1


def test_conditions_of_a_simulated_task_cover_what_was_planted(trees: dict[str, Path]) -> None:
    for name, busy in (("mous", (1, 5)), ("camcan", (6, 7, 8))):
        dataset = PAIRS[name][1]()
        file = next(file for file in dataset.find(trees[name]) if file.task in ("auditory", "smt"))
        facts, planted = _planted(trees[name], file.path)
        raw_hz = read_planted(trees[name])["sfreq_hz"]
        events = [
            Event(int(sample), int(code))
            for sample, code in zip(planted["event_samples"], planted["event_codes"], strict=True)
        ]
        n = round(facts["duration_s"] * 100)
        codes = dataset.conditions(file, events, [], n, 100.0, raw_hz)
        assert codes is not None
        at = np.round(np.arange(n) * raw_hz / 100).astype(int)
        held = planted["condition"][at] > 0.9
        share = np.isin(codes, busy)[held].mean()
        if name == "mous":  # its codes mark a whole sentence
            assert share > 0.95
            assert not np.isin(codes, busy)[planted["condition"][at] < 0.01].any()
        else:  # Cam-CAN's table gives 0.3 s of a trial
            assert share > 0.15


def test_ctf_stand_ins_have_axial_gradiometers_references_and_a_compensation_that_works(trees: dict[str, Path]) -> None:
    raw = _read(Omega().find(trees["omega"])[0].path)
    coils = {int(entry["coil_type"]) for entry in raw.info["chs"] if entry["ch_name"].startswith("M")}
    assert coils == {5001}
    assert raw.info["line_freq"] == 60
    assert raw.get_channel_types().count("ref_meg") == 8
    assert mne.channels.find_layout(raw.info).kind.startswith("CTF")

    def hum(recording: Any) -> float:
        power = recording.compute_psd(fmin=59.5, fmax=60.5, picks="mag", verbose="error").get_data()
        return float(np.median(power.max(1)))

    before = hum(raw)
    raw.apply_gradient_compensation(3, verbose="error")
    assert raw.compensation_grade == 3
    assert hum(raw) < 0.1 * before


def test_calibration_and_crosstalk_of_cam_can_are_files_that_maxwell_filtering_takes(trees: dict[str, Path]) -> None:
    root = trees["camcan"]
    raw = _read(CamCan().find(root)[0].path).crop(0, 8)
    calibration = mne.preprocessing.read_fine_calibration(root / CALIBRATION)
    assert calibration["ch_names"] == [name for name in raw.ch_names if name.startswith("MEG")]
    clean = mne.preprocessing.maxwell_filter(
        raw,
        calibration=root / CALIBRATION,
        cross_talk=root / CROSSTALK,
        int_order=3,
        ext_order=1,
        verbose="error",
    )
    assert np.isfinite(clean.get_data()).all()
    assert list(root.rglob("*acq-crosstalk_meg.fif"))


@pytest.mark.parametrize("name", PAIRS)
def test_bad_channels_the_burst_and_the_units_are_as_planted(trees: dict[str, Path], name: str) -> None:
    root = trees[name]
    for file in PAIRS[name][1]().find(root):
        facts, _ = _planted(root, file.path)
        raw = _read(file.path)
        picks = mne.pick_types(raw.info, meg=True, ref_meg=False)
        data, fs = raw.get_data(picks), raw.info["sfreq"]
        data = sosfiltfilt(butter(4, [1, 40], "band", fs=fs, output="sos"), data)
        names = np.array(raw.ch_names)[picks]
        planar = np.array(raw.get_channel_types())[picks] == "grad"
        start, stop = (round(second * fs) for second in facts["burst_s"] or (0.0, 0.0))
        quiet = np.delete(data, np.s_[start:stop], axis=1).std(1)
        unit = np.where(planar, 1e-11, 6e-13)
        good = ~np.isin(names, list(facts["bads"]))
        assert len(facts["bads"]) == (2 if facts["quirk"] != "bads" else np.ceil(0.2 * len(names)))
        assert (len(facts["bads"]) > 0.1 * len(names)) == (facts["quirk"] == "bads")
        assert ((quiet / unit)[good] > 0.1).all()
        assert ((quiet / unit)[good] < 8).all()
        for bad, what in facts["bads"].items():
            here = quiet[names == bad] / np.median(quiet[good & (planar == planar[names == bad])])
            assert (here > 2.5) if what == "noisy" else (here < 0.05)
        assert (facts["burst_s"] is None) == (facts["quirk"] == "short")
        if facts["burst_s"] is None:
            continue
        burst = data[good, start:stop].std(1) / quiet[good]
        assert np.sum(burst > 2) >= 0.15 * len(names)
        assert 5 * fs < start < stop < 10 * fs


def test_sensors_see_the_planted_rhythm_of_their_session(trees: dict[str, Path]) -> None:
    root = trees["omega"]
    for file in Omega().find(root)[:4]:
        facts, planted = _planted(root, file.path)
        sources = planted_sources(root, file.path.name.removesuffix(".fif"))
        np.testing.assert_allclose(sources.frequency_hz, facts["frequency_hz"], atol=1e-3)
        raw = _read(file.path)
        picks = mne.pick_types(raw.info, meg=True, ref_meg=False)
        frequency, power = welch(raw.get_data(picks), raw.info["sfreq"], nperseg=1200)
        # The sensor and the rhythm, of those around 10 Hz, that fit each other best.
        rhythmic = (planted["leadfield"] @ sources.patches[:, :4]) ** 2
        everything = np.einsum("cs,st,ct->c", planted["leadfield"], sources.covariance(), planted["leadfield"])
        good = ~np.isin(np.array(raw.ch_names)[picks], list(facts["bads"]))
        sensor, rhythm = np.unravel_index((rhythmic / everything[:, None] * good[:, None]).argmax(), rhythmic.shape)
        band = (frequency > 7.5) & (frequency < 14)
        peak = frequency[band][power[sensor, band].argmax()]
        assert peak == pytest.approx(sources.frequency_hz[rhythm], abs=0.5)


def test_sessions_differ_more_than_stretches_of_one_session_after_robust_scaling() -> None:
    """The planted truth that swapped controls need, on independent draws of twelve sessions."""
    from brainlab.synthetic.meg_sensors import ctf_array, head_to_device, leadfield
    from brainlab.synthetic.meg_sources import cortex, session_sources

    array = ctf_array(24, "1")
    gains = leadfield(array, cortex(), head_to_device("ctf", np.zeros(3), np.zeros(3)))[8:]
    band = butter(4, [1, 45], "band", fs=300, output="sos")
    spectra, covariances = [], []
    for number in range(1, 13):
        x = gains @ session_sources((0, 1, number), 300.0).draw(7000, np.random.default_rng(number))
        x = resample_poly(sosfiltfilt(band, x), 1, 3, axis=1)
        low, middle, high = np.quantile(x, [0.25, 0.5, 0.75], axis=1)
        x = (x - middle[:, None]) / (high - low)[:, None]
        halves = x[:, 100:1100], x[:, 1200:2200]
        frequency, _ = welch(halves[0], 100, nperseg=100)
        inside = (frequency >= 1) & (frequency <= 45)
        power = [welch(half, 100, nperseg=100)[1][:, inside] for half in halves]
        spectra.append([p / p.sum(1, keepdims=True) for p in power])
        covariances.append([np.cov(half) for half in halves])

    def jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
        middle = (p + q) / 2
        divergence = (p * np.log2(p / middle) + q * np.log2(q / middle)).sum(1) / 2
        return float(np.sqrt(divergence.clip(0)).mean())

    def covariance(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.linalg.norm(a - b) / max(np.linalg.norm(a), np.linalg.norm(b)))

    for distance, features in ((jensen_shannon, spectra), (covariance, covariances)):
        within = np.array([distance(first, second) for first, second in features])
        between = np.array(
            [np.median([distance(features[i][0], features[j][1]) for j in range(12) if j != i]) for i in range(12)]
        )
        assert np.median(between) > 1.5 * np.median(within)
        assert np.mean(between > within) >= 0.8
        pairs = [distance(features[i][0], features[j][1]) > within[i] for i in range(12) for j in range(12) if j != i]
        assert np.mean(pairs) >= 0.8


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(trees: dict[str, Path], tmp_path: Path) -> None:
    again = SimulatedOmega(0).write(tmp_path / "again", "tiny")
    for path in again:
        twin = trees["omega"] / path.relative_to(tmp_path / "again")
        assert path.read_bytes() == twin.read_bytes()
    other = SimulatedOmega(1).write(tmp_path / "other", "tiny")
    assert other[0].read_bytes() != again[0].read_bytes()


def test_recipes_are_json_and_change_with_the_seed() -> None:
    for simulator in (SimulatedOmega, SimulatedMous, SimulatedCamCan, SimulatedRecordings):
        assert json.loads(json.dumps(simulator(0).recipe())) == simulator(0).recipe() != simulator(1).recipe()


@pytest.mark.parametrize("simulator", [SimulatedOmega, SimulatedMous, SimulatedCamCan])
def test_a_recipe_covers_every_simulating_module_that_its_files_come_from(
    simulator: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meg_archive, "code_digest", lambda *files: " ".join(files))
    covered = simulator().recipe()["code"].split()
    assert f"{simulator.__module__.removeprefix('brainlab.').replace('.', '/')}.py" in covered
    package = Path(meg_archive.__file__).parents[1]
    for file in covered:
        imported = re.findall(r"from brainlab\.synthetic\.(\w+) import", (package / file).read_text(encoding="utf-8"))
        assert {f"synthetic/{name}.py" for name in imported} <= set(covered)


def test_what_is_not_there_is_named(tmp_path: Path, trees: dict[str, Path]) -> None:
    with pytest.raises(InvalidValue, match=r"data\.size=huge"):
        SimulatedMous().write(tmp_path, "huge")  # type: ignore[arg-type]
    with pytest.raises(InvalidFile, match="ground truth"):
        read_planted(tmp_path)
    with pytest.raises(InvalidValue, match="session=x"):
        planted_sources(trees["mous"], "x")
