"""Which channels are kept, found bad and repaired; missing samples, wrong units, trigger codes, compensation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest

from brainlab.datasets.omega import Omega
from brainlab.datasets.recordings import RecordingFile
from brainlab.errors import InvalidFile, InvalidValue
from brainlab.io.recording import Annotation, Event
from brainlab.prepare.steps.channels import BadChannels, Interpolate, Pick, ZeroBads, own_noise, unlike_the_others
from brainlab.prepare.steps.checks import HeldValues, MissingSamples, Statistics, Units
from brainlab.prepare.steps.events import FindEvents
from brainlab.prepare.steps.filters import BandPass, Resample
from brainlab.prepare.steps.meg import GradientCompensation, Maxwell
from brainlab.prepare.steps.opening import open_session, system_of
from brainlab.prepare.steps.session import Discarded, RawSession
from brainlab.synthetic.omega import SimulatedOmega

FILE = RecordingFile(Path("a.fif"), "a", "d", "s", "a")
NAMES = ["Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2", "F7", "F8"]


def eeg(n_samples: int = 2000, sfreq_hz: float = 100.0, placed: bool = False, **facts: Any) -> RawSession:
    samples = np.random.default_rng(0).normal(0, 2e-5, (len(NAMES), n_samples))
    raw = mne.io.RawArray(samples, mne.create_info(NAMES, sfreq_hz, "eeg", verbose="ERROR"), verbose="ERROR")
    if placed:
        raw.set_montage("standard_1020", verbose="ERROR")
    return RawSession(raw, FILE, **facts)


def mixed() -> RawSession:
    kinds = ["mag", "grad", "ref_meg", "stim", "eeg"]
    raw = mne.io.RawArray(np.ones((5, 10)), mne.create_info(["M", "G", "R", "S", "E"], 10.0, kinds), verbose="ERROR")
    return RawSession(raw, FILE)


def test_channels_are_kept_by_kind_and_the_others_noted():
    one = mixed()
    Pick(("meg",), exclude=["G"])(one)
    assert one.ch_names == ["M"]
    assert one.dropped == {"G": "grad", "R": "ref_meg", "S": "stim", "E": "eeg"}


def test_a_recording_without_such_channels_is_refused_with_what_it_holds():
    with pytest.raises(InvalidFile, match=r"channels=eeg, grad, mag, ref_meg, stim: expected .* type seeg \(a\.fif\)"):
        Pick("seeg")(mixed())


def test_outliers_are_judged_on_a_logarithmic_scale():
    rng = np.random.default_rng(0)
    amplitude = np.exp(rng.normal(0, 0.3, 50))
    assert not unlike_the_others(amplitude, 5).any()
    amplitude[[3, 7, 9]] = 30.0, 0.01, 0.0
    assert np.flatnonzero(unlike_the_others(amplitude, 5)).tolist() == [3, 7, 9]
    assert unlike_the_others(np.zeros(3), 5).all()
    assert unlike_the_others(np.array([1.0, 1.0, 1.01, 1.0]), 5).tolist() == [False] * 4


def test_flat_and_noisy_channels_are_bad_and_a_burst_on_one_is_not():
    one = eeg()
    one.samples[2] *= 20
    one.samples[5] = 1e-5
    one.samples[7, 500:600] *= 100
    BadChannels(max_share=0.2)(one)
    assert one.raw.info["bads"] == ["F3", "C4"]


def shared(n_channels: int, n_samples: int, seed: int = 0) -> np.ndarray:
    """Five sources of unit size that reach every channel, and noise of a tenth."""
    rng = np.random.default_rng(seed)
    field = rng.standard_normal((n_channels, 5)) @ rng.standard_normal((5, n_samples))
    return field + 0.1 * rng.standard_normal((n_channels, n_samples))


def test_the_noise_of_a_channel_s_own_is_what_no_other_explains():
    samples = shared(30, 20_000)
    samples[4] += rng_noise(20_000)
    found = own_noise(samples, 200)
    assert found[4] == pytest.approx(1.0, rel=0.1)
    assert np.delete(found, 4).mean() == pytest.approx(0.1, rel=0.15)
    referenced = own_noise(samples - samples.mean(axis=0), 200)
    assert referenced.argmax() == 4
    assert referenced[4] > 5 * np.median(referenced)


def rng_noise(n_samples: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(n_samples)


def test_a_channel_that_is_noisy_by_itself_is_bad_though_it_is_no_louder():
    one = eeg(n_samples=5000)
    one.samples[:] = 1e-5 * shared(len(NAMES), 5000)
    one.samples[6] = 1e-5 * (one.samples[6] * 1e5 + rng_noise(5000))
    BadChannels()(one)
    assert one.raw.info["bads"] == ["P3"]
    one.raw.info["bads"] = []
    BadChannels(noise_threshold=None)(one)
    assert one.raw.info["bads"] == []


def test_a_dead_sensor_is_found_before_compensation_gives_it_the_references_signal(real_data_dir):
    file = RecordingFile(real_data_dir / "meg" / "test_ctf_comp_raw.fif", "ctf", "d", "s", "ctf")
    one = open_session(file, {})
    GradientCompensation(0)(one)
    row = one.rows(("mag",))[7]
    one.samples[row] = 0
    GradientCompensation(3)(one)
    assert one.raw.info["bads"] == one.facts[-1]["flat"] == [one.ch_names[row]]
    assert one.samples[row].std() > 0


def test_dead_sensors_are_looked_for_in_the_training_span_alone(real_data_dir):
    file = RecordingFile(real_data_dir / "meg" / "test_ctf_comp_raw.fif", "ctf", "d", "s", "ctf")

    def spoilt(statistics):
        one = open_session(file, {}, lambda file, n_samples, sfreq_hz: (0, n_samples // 2))
        GradientCompensation(0)(one)
        one.used_span_s = (0.0, 0.0)
        row = one.rows(("mag",))[7]
        half = one.n_samples // 2
        one.samples[row, :half] = 0  # what comes later must not matter
        GradientCompensation(3, statistics)(one)
        return one, one.ch_names[row], half

    one, name, half = spoilt("training")
    assert one.facts[-1]["flat"] == [name]
    assert one.used_span_s == (0.0, half / one.sfreq_hz)
    one, _, _ = spoilt("recording")
    assert one.facts[-1]["flat"] == []
    assert one.used_span_s == (0.0, one.n_samples / one.sfreq_hz)


def test_the_planted_bad_channels_of_simulated_meg_are_found_and_no_others(tmp_path):
    SimulatedOmega().write(tmp_path, "tiny")
    planted = json.loads(next(tmp_path.rglob("planted.json")).read_text())["sessions"]
    files = Omega().find(tmp_path)[:5]  # the last one holds twelve seconds
    for file in files:
        one = open_session(file, {})
        for step in (GradientCompensation(), Pick(), BandPass(1.0, 45.0), Resample(100.0), BadChannels(max_share=1)):
            step(one)
        wanted = next(facts["bads"] for name, facts in planted.items() if file.path.name.startswith(name))
        assert sorted(one.raw.info["bads"]) == sorted(wanted)


def test_channels_are_compared_with_their_own_kind():
    rng = np.random.default_rng(0)
    samples = np.concatenate([rng.normal(0, 1e-12, (6, 600)), rng.normal(0, 1e-11, (6, 600))])
    info = mne.create_info(12, 100.0, ["mag"] * 6 + ["grad"] * 6, verbose="ERROR")
    one = RawSession(mne.io.RawArray(samples, info, verbose="ERROR"), FILE)
    BadChannels()(one)
    assert one.raw.info["bads"] == []


def test_what_happens_after_the_training_span_makes_no_channel_bad():
    def early(file: RecordingFile, n_samples: int, sfreq_hz: float) -> tuple[int, int]:
        return 0, 1000

    one = eeg(training_span=early)
    one.samples[2, 1000:] *= 100
    BadChannels()(one)
    assert one.raw.info["bads"] == []
    BadChannels(statistics="recording")(one)
    assert one.raw.info["bads"] == ["F3"]


def test_too_many_bad_channels_discard_the_session_and_marked_ones_count():
    one = eeg()
    one.raw.info["bads"] = ["Fp1"]
    one.samples[2] = 0
    with pytest.raises(Discarded) as caught:
        BadChannels()(one)
    assert caught.value.reason == "bad_channels: 2 of 12, more than 10 %"
    assert caught.value.facts["bads"] == ["Fp1", "F3"]
    assert caught.value.facts["share"] == 0.1667


def test_a_session_of_flat_channels_only_is_all_bad():
    one = eeg()
    one.samples[:] = 0
    with pytest.raises(Discarded, match="12 of 12"):
        BadChannels()(one)


def test_interpolation_is_mne_s_and_says_which_channels_it_made():
    one = eeg(placed=True)
    one.raw.info["bads"] = ["C3"]
    expected = one.raw.copy().interpolate_bads(verbose="ERROR").get_data()
    Interpolate()(one)
    np.testing.assert_array_equal(one.samples, expected)
    assert (one.interpolated, one.raw.info["bads"]) == (["C3"], [])


def test_interpolation_without_positions_is_one_sentence():
    one = eeg()
    one.raw.info["bads"] = ["C3"]
    with pytest.raises(InvalidFile, match=r"positions=missing for Fp1.*expected .*interpolate C3 \(a\.fif\)\. Hint:"):
        Interpolate()(one)


def test_bad_channels_without_positions_can_be_zeroed_with_a_warning():
    one = eeg()
    one.raw.info["bads"] = ["C3"]
    Interpolate("zero")(one)
    assert not one.samples[4].any()
    assert one.raw.info["bads"] == ["C3"]
    assert one.warnings == ["bad channels C3 are zero: sensors without positions cannot be interpolated"]


def test_without_bad_channels_no_position_is_needed():
    one = eeg()
    Interpolate()(one)
    assert one.interpolated == []


def test_a_bad_sensor_of_a_ctf_helmet_is_interpolated_after_its_references_are_gone(real_data_dir):
    file = RecordingFile(real_data_dir / "meg" / "test_ctf_comp_raw.fif", "ctf", "d", "s", "ctf")
    one = open_session(file, {})
    GradientCompensation(1)(one)
    Pick()(one)
    one.raw.pick(one.ch_names[:40])  # MNE takes seconds for the whole helmet
    row = 20
    truth = one.samples[row].copy()
    one.samples[row] = 0
    one.raw.info["bads"] = [one.ch_names[row]]
    Interpolate()(one)
    assert np.corrcoef(truth, one.samples[row])[0, 1] > 0.9
    assert one.warnings == ["the file holds no shape of the head: its centre is taken to be at (0.0, 0.0, 0.04) m"]
    assert one.system == "ctf275"
    assert one.facts[0] == {"step": "GradientCompensation", "grade": 1, "was": 3, "flat": []}


def test_bad_channels_become_zero_and_stay_bad():
    one = eeg()
    one.raw.info["bads"] = ["C3"]
    ZeroBads()(one)
    assert not one.samples[4].any()
    assert one.samples[3].any()
    assert one.raw.info["bads"] == ["C3"]


def test_missing_samples_name_channel_and_time():
    one = eeg()
    one.samples[3, 250:300] = np.nan
    with pytest.raises(InvalidFile, match=r"samples=nan: .*channel F4 has none from 2.5 to 3 s \(a\.fif\)\. Hint:"):
        MissingSamples()(one)


def test_marked_missing_samples_are_bridged_and_avoided():
    one = eeg()
    one.samples[3, 250:300] = np.nan
    one.samples[3, [249, 300]] = 1e-5, 3e-5
    one.samples[8, 100:] = np.inf
    MissingSamples("mark")(one)
    assert np.isfinite(one.samples).all()
    assert one.samples[3, 275] == pytest.approx(1e-5 + 2e-5 * 26 / 51)
    assert one.annotations == [Annotation(2.5, 0.5, "BAD_missing")]
    assert one.raw.info["bads"] == ["O1"]
    assert not one.samples[8].any()


@pytest.mark.parametrize(
    ("kind", "amplitude", "unit", "said"),
    [("mag", 200.0, "fT", "mag=fT"), ("eeg", 30.0, "uV", "eeg=uV"), ("grad", 3000.0, "fT/cm", "grad=fT/cm")],
)
def test_units_that_cannot_be_right_are_refused_and_can_be_given(kind, amplitude, unit, said):
    samples = np.random.default_rng(0).normal(0, amplitude, (4, 1000))
    raw = mne.io.RawArray(samples.copy(), mne.create_info(4, 100.0, kind, verbose="ERROR"), verbose="ERROR")
    with pytest.raises(InvalidFile, match=rf"{kind} amplitude=.*\(a\.fif\)\. Hint: data\.steps\.units\.{said}"):
        Units()(RawSession(raw.copy(), FILE))
    Units(check=False)(RawSession(raw.copy(), FILE))
    one = RawSession(raw, FILE)
    Units(**{kind: unit})(one)
    assert one.samples.std() < 1e-3
    np.testing.assert_allclose(one.samples, samples * {"fT": 1e-15, "uV": 1e-6, "fT/cm": 1e-13}[unit])


def test_offsets_drifts_and_flat_channels_are_no_wrong_units():
    one = eeg()
    one.samples[:] += 0.3 + np.linspace(0, 1e-3, 2000)
    one.samples[0] = 0
    Units()(one)
    one.samples[:] = 0.25
    with pytest.raises(InvalidFile, match="all are flat"):
        Units()(one)


def test_an_unknown_unit_is_refused():
    with pytest.raises(InvalidValue, match=r"eeg=fT: expected one of V, mV"):
        Units(eeg="fT")


def staircase(one, rows, width=50):
    one.samples[rows] = np.repeat(one.samples[rows, ::width], width, axis=1)[:, : one.n_samples]


def test_a_channel_that_holds_its_values_is_bad():
    one = eeg()
    one.raw.info["bads"] = ["Fp1"]
    staircase(one, [3])
    one.samples[5, 300:800] = one.samples[5, 300]  # still for a quarter of the time
    one.samples[8] = 0.25  # flat: another step's finding
    HeldValues()(one)
    assert one.raw.info["bads"] == ["Fp1", "F4"]
    assert one.facts[-1] == {"step": "HeldValues", "hold_s": {"F4": 0.5}}
    assert one.warnings == ["bad channels that hold each value for about 0.5 s: F4"]


def test_most_channels_that_hold_their_values_leave_the_session_out_and_are_named():
    one = eeg()
    staircase(one, list(range(11)))
    HeldValues()(one)
    assert len(one.raw.info["bads"]) == 11
    assert one.warnings == ["bad channels that hold each value for about 0.5 s: Fp1, Fp2, F3, F4, C3 and 6 more"]
    with pytest.raises(Discarded, match="bad_channels: 11 of 12"):
        BadChannels()(one)


def test_a_long_pause_is_no_held_value():
    one = eeg()
    one.samples[:, 500:1700] = 0.0
    HeldValues()(one)
    assert (one.raw.info["bads"], one.warnings) == ([], [])


def test_a_reference_sensor_that_holds_its_values_is_bad_before_it_enters_others():
    one = eeg()
    one.raw.set_channel_types({"Fp1": "ref_meg", "Fp2": "ref_meg"}, on_unit_change="ignore")
    staircase(one, [0])
    HeldValues()(one)
    assert one.raw.info["bads"] == ["Fp1"]


def test_coarse_numbers_are_not_held_values():
    one = eeg()
    one.samples[:] = np.round(one.samples / 5e-5)
    assert (np.diff(one.samples) == 0).mean() > 0.5
    HeldValues()(one)
    assert one.raw.info["bads"] == []
    assert one.facts == []


def test_a_recording_that_holds_its_values_everywhere_is_kept_and_said_to_be_slow():
    one = eeg()
    staircase(one, list(range(len(one.ch_names))))
    HeldValues()(one)
    assert one.raw.info["bads"] == []
    assert one.warnings == [
        "12 of 12 eeg channels hold each value for about 0.5 s: nothing above 1 Hz was recorded, whatever the rate of"
        " 100 Hz promises"
    ]


def test_real_recordings_hold_no_values_but_the_one_that_does(real_data_dir):
    said = []
    for name in ("eeglab_data.set", "sub-S1_ses-01_task-Experiment_run-01_eeg.set"):
        one = open_session(RecordingFile(real_data_dir / "eeg" / "eeglab" / name, "a", "d", "s", "a"), {})
        HeldValues()(one)
        assert one.raw.info["bads"] == []
        said.append([text for text in one.warnings if "hold each value" in text])
    assert list(map(len, said)) == [0, 1]
    assert "15 of 15 eeg channels hold each value for about 1" in said[1][0]


@pytest.mark.parametrize("settings", [{"least_s": 0.0}, {"max_share": 1.0}])
def test_impossible_limits_of_held_values_are_refused(settings):
    with pytest.raises(InvalidValue, match=next(iter(settings))):
        HeldValues(**settings)


def test_session_statistics_are_noted_and_judge():
    one = eeg(n_samples=4)
    one.samples[:] = [0.0, 1.0, 2.0, 2.0]
    Statistics(edge_range=0.1)(one)
    assert one.facts[-1]["edge_pct"] == 75.0
    assert one.facts[-1]["mean"] == 1.25
    with pytest.raises(Discarded, match="edge_pct 75 is beyond 50"):
        Statistics(max_edge_pct=50)(one)
    with pytest.raises(Discarded, match="is beyond 1"):
        Statistics(min_std=1.0)(one)


def test_trigger_codes_are_counted_from_the_first_sample_whatever_the_clock(tmp_path):
    samples = np.zeros((2, 1000))
    samples[0] = np.random.default_rng(0).normal(0, 1e-5, 1000)
    samples[1, 200:210] = 7
    samples[1, 500:502] = 3
    info = mne.create_info(["Cz", "UPPT001"], 100.0, ["eeg", "stim"], verbose="ERROR")
    raw = mne.io.RawArray(samples, info, first_samp=5000, verbose="ERROR")
    raw.set_annotations(mne.Annotations([1.5], [0.5], ["late"]))
    raw.save(tmp_path / "a_raw.fif", verbose="ERROR")
    one = open_session(RecordingFile(tmp_path / "a_raw.fif", "a", "d", "s", "a"), {})
    assert one.raw.first_samp == 5000
    assert one.events == (Event(200, 7), Event(500, 3))
    assert [(note.onset_s, note.description) for note in one.annotations] == [(1.5, "late")]
    FindEvents(["STI101", "UPPT001"], min_duration_s=0.05)(one)
    assert one.events == (Event(200, 7),)
    FindEvents(["nothing"])(eeg())


def test_a_code_that_follows_a_larger_one_or_stands_at_the_start_is_an_event(tmp_path):
    samples = np.zeros((2, 1000))
    samples[0] = np.random.default_rng(0).normal(0, 1e-5, 1000)
    for start, stop, code in ((0, 10, 1), (200, 210, 40), (210, 220, 10), (400, 410, 20), (410, 1000, 15)):
        samples[1, start:stop] = code
    info = mne.create_info(["Cz", "UPPT001"], 100.0, ["eeg", "stim"], verbose="ERROR")
    mne.io.RawArray(samples, info, first_samp=300, verbose="ERROR").save(tmp_path / "a_raw.fif", verbose="ERROR")
    one = open_session(RecordingFile(tmp_path / "a_raw.fif", "a", "d", "s", "a"), {})
    expected = (Event(0, 1), Event(200, 40), Event(210, 10), Event(400, 20), Event(410, 15))
    assert one.events == expected
    FindEvents(["UPPT001"], min_duration_s=0.05)(one)
    assert one.events == expected


def test_systems_are_told_apart_by_their_coils(real_data_dir):
    assert system_of(eeg().raw) == "eeg"
    kit = open_session(RecordingFile(real_data_dir / "meg" / "kit_test.sqd", "kit", "d", "s", "kit"), {})
    assert kit.system == "kit"


def test_maxwell_filtering_is_refused_where_it_has_no_meaning(tmp_path):
    with pytest.raises(InvalidFile, match=r"system=.*expected Elekta/MEGIN.*a\.fif.*Hint: data\.steps\.maxwell=null"):
        Maxwell()(eeg())
    with pytest.raises(InvalidFile, match=r"calibration=.*expected an existing file"):
        Maxwell(calibration=str(tmp_path / "none.dat"))


def test_compensation_needs_its_matrices_and_is_remarked_where_there_are_none(real_data_dir):
    one = eeg()
    GradientCompensation()(one)
    assert one.warnings == []
    file = RecordingFile(real_data_dir / "meg" / "test_ctf_comp_raw.fif", "ctf", "d", "s", "ctf")
    late = open_session(file, {})
    Pick()(late)
    with pytest.raises(InvalidFile, match="reference channels, which Pick has dropped"):
        GradientCompensation(0)(late)
    bare = open_session(file, {})
    bare.raw.pick("mag", verbose="ERROR")  # a file that was saved without its references
    GradientCompensation(0)(bare)
    assert bare.warnings == ["no gradient compensation: the file holds no compensation matrices"]
    with pytest.raises(InvalidValue, match="grade=5"):
        GradientCompensation(5)
