"""Simulated recordings look to MNE like real ones, and their truth is saved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from brainlab.errors import InvalidValue
from brainlab.synthetic.recordings import CHANNELS, SIZES, write_recordings

mne = pytest.importorskip("mne")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("simulated")
    write_recordings(root, "tiny", seed=0)
    return root


def test_events_lie_at_the_planted_samples_although_the_first_sample_is_not_zero(folder: Path) -> None:
    raw = mne.io.read_raw_fif(folder / "sub-01/ses-01/eeg/sub-01_ses-01_task-rest_raw.fif", verbose="error")
    planted = np.load(folder / "sub-01_ses-01_task-rest_planted.npz")
    events, _ = mne.events_from_annotations(raw, verbose="error")
    assert raw.first_samp > 0
    np.testing.assert_array_equal(events[:, 0] - raw.first_samp, planted["event_samples"])
    trigger = raw.get_data("STI 014")[0]
    np.testing.assert_array_equal(trigger[planted["event_samples"]], planted["event_codes"] + 1)


def test_samples_are_volts_with_alpha_at_the_back_and_neighbours_alike(folder: Path) -> None:
    raw = mne.io.read_raw_fif(folder / "sub-01/ses-01/eeg/sub-01_ses-01_task-rest_raw.fif", verbose="error")
    eeg = raw.get_data(list(CHANNELS))
    deviation_uv = eeg.std(axis=1) * 1e6
    assert ((deviation_uv > 2) & (deviation_uv < 60)).all()
    spectrum = raw.compute_psd(picks=list(CHANNELS), fmin=5, fmax=20, verbose="error")
    power, frequency = spectrum.get_data(), spectrum.freqs
    alpha = power[:, np.abs(frequency - 10) < 1].mean(axis=1) / power[:, np.abs(frequency - 15) < 1].mean(axis=1)
    by_name = dict(zip(CHANNELS, alpha, strict=True))
    assert min(by_name["O1"], by_name["O2"]) > 3 * by_name["Fz"]
    correlation = np.corrcoef(eeg)
    place = CHANNELS.index
    assert correlation[place("O1"), place("O2")] > correlation[place("O1"), place("F8")] + 0.2


def test_the_same_seed_writes_the_same_samples_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    again = write_recordings(tmp_path / "again", "tiny", seed=0)[0]
    other = write_recordings(tmp_path / "other", "tiny", seed=1)[0]
    first = folder / again.relative_to(tmp_path / "again")
    samples = [mne.io.read_raw_fif(path, verbose="error").get_data() for path in (first, again, other)]
    np.testing.assert_array_equal(samples[0], samples[1])
    assert not np.array_equal(samples[0], samples[2])


def test_the_plan_is_saved_and_an_unknown_size_refused(folder: Path, tmp_path: Path) -> None:
    facts = json.loads((folder / "planted.json").read_text())
    assert facts["size"] == "tiny"
    assert facts["n_subjects"] == SIZES["tiny"].n_subjects == len(list(folder.rglob("*.fif")))
    with pytest.raises(InvalidValue, match=r"data\.size=huge"):
        write_recordings(tmp_path, "huge")  # type: ignore[arg-type]
