"""Recordings that cannot be what they say, prepared as a user would: one sentence, exit code 1, nothing lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

RATE = 250.0
N_CHANNELS, N_SAMPLES = 8, 60 * 250


def save(
    path: Path, samples: np.ndarray, rate: float = RATE, kind: str = "eeg", names: list[str] | None = None
) -> Path:
    import mne

    names = names or [f"E{number}" for number in range(len(samples))]
    info = mne.create_info(names, rate, kind, verbose="ERROR")
    mne.io.RawArray(samples, info, verbose="ERROR").save(path, verbose="ERROR")
    return path


def noise(scale: float = 1e-5, seconds: float = 60, rate: float = RATE) -> np.ndarray:
    return np.random.default_rng(0).normal(0, scale, (N_CHANNELS, round(seconds * rate)))


def with_nan(folder: Path) -> None:
    samples = noise()
    samples[1, 2500:2750] = np.nan
    save(folder / "odd_raw.fif", samples)


def microvolts(folder: Path) -> None:
    save(folder / "odd_raw.fif", noise(10.0))


def femtotesla(folder: Path) -> None:
    save(folder / "odd_raw.fif", noise(100.0), kind="mag")


def other_rate(folder: Path) -> None:
    save(folder / "odd_raw.fif", noise(rate=200.0), 200.0)


def flat(folder: Path) -> None:
    samples = noise()
    samples[:6] = 0.0
    save(folder / "odd_raw.fif", samples)


def one_flat(folder: Path) -> None:
    samples = np.vstack([noise(), noise()])
    samples[1] = 0.0
    save(folder / "odd_raw.fif", samples)


def unreadable(folder: Path) -> None:
    (folder / "odd_raw.fif").write_bytes(b"no recording at all" * 100)


def truncated(folder: Path) -> None:
    path = save(folder / "odd_raw.fif", noise())
    path.write_bytes(path.read_bytes()[:40_000])


def two_of_one_name(folder: Path) -> None:
    header = f"{'0':<8}{'X':<80}{'X':<80}01.01.2001.01.01{256 * 3:<8}{'':<44}{60:<8}{1:<8}{2:<4}"
    for field, width in ((("Cz", "Cz"), 16), (("", ""), 80), (("uV", "uV"), 8), (("-100", "-100"), 8)):
        header += "".join(f"{text:<{width}}" for text in field)
    for field, width in ((("100", "100"), 8), (("-32768",) * 2, 8), (("32767",) * 2, 8), (("", ""), 80)):
        header += "".join(f"{text:<{width}}" for text in field)
    header += f"{250:<8}" * 2 + f"{'':<32}" * 2
    samples = (np.random.default_rng(0).normal(0, 3000, 60 * 500)).astype("<i2")
    (folder / "odd.edf").write_bytes(header.encode("ascii") + samples.tobytes())


CASES = {
    "missing samples": (with_nan, (), "channel E1 has none from 10"),
    "volts that are microvolts": (microvolts, (), "data.steps.units.eeg=uV"),
    "tesla that are femtotesla": (femtotesla, (), "data.steps.units.mag=fT"),
    "another rate, and no resampling": (other_rate, ("data.steps.resample=null",), "data.steps.resample"),
    "missing positions": (one_flat, ("data.steps.interpolate.missing=raise",), "positions=missing for E0, E1"),
    "no recording": (unreadable, (), "odd_raw.fif"),
    "a truncated file": (truncated, (), "odd_raw.fif"),
    "two sensors of one name": (two_of_one_name, (), "Cz"),
}


@pytest.mark.parametrize("case", CASES)
def test_an_odd_recording_fails_alone_with_one_sentence(brainlab: Callable[..., object], tmp_path: Path, case: str):
    write, words, text = CASES[case]
    folder = tmp_path / "recordings"
    folder.mkdir()
    save(folder / "good_raw.fif", noise())
    write(folder)
    cache = tmp_path / "cache"
    ended = brainlab(
        "experiment=meg_prepare",
        "data=recordings",
        f"data.root={folder}",
        "logger=none",
        *words,
        BRAINLAB_CACHE=str(cache),
    )
    assert ended.code == 1, ended.text
    assert "Traceback" not in ended.text
    said = [line for line in ended.text.splitlines() if "Invalid " in line]
    assert len(said) == 1, ended.text
    assert text in said[0]
    assert "Hint: " in said[0]
    if "rate" not in case:  # which of two rates is the odd one nobody can say
        (manifest,) = (cache / "manifests").glob("*.json")
        fates = {Path(row["file"]).name: row["status"] for row in json.loads(manifest.read_text())}
        assert sorted(fates.values()) == ["failed", "prepared"]
        assert fates["good_raw.fif"] == "prepared"


def test_a_skipped_recording_stays_in_the_report(brainlab, tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    save(folder / "good_raw.fif", noise())
    unreadable(folder)
    ended = brainlab(
        "experiment=meg_prepare", "data=recordings", f"data.root={folder}", "logger=none", "data.on_error=skip"
    )
    assert ended.code == 0, ended.text
    results = json.loads((ended.run_folder("meg_prepare") / "results.json").read_text())
    assert "failed" in json.dumps(results["tables"])


def test_a_session_without_a_good_sensor_is_left_out_with_its_reason(brainlab, tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    save(folder / "good_raw.fif", noise())
    flat(folder)
    ended = brainlab("experiment=meg_prepare", "data=recordings", f"data.root={folder}", "logger=none")
    text = ended.text
    if ended.code == 0:
        results = json.loads((ended.run_folder("meg_prepare") / "results.json").read_text())
        text = json.dumps(results["tables"])
        assert "discarded" in text
    assert "bad_channels" in text


def test_only_sessions_without_a_good_sensor_end_in_one_sentence(brainlab, tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    flat(folder)
    ended = brainlab("experiment=meg_prepare", "data=recordings", f"data.root={folder}", "logger=none")
    assert ended.code == 1, ended.text
    (said,) = [line for line in ended.text.splitlines() if "Invalid " in line]
    assert "bad_channels" in said
    assert "Hint: " in said


def test_a_store_of_another_version_is_one_sentence(brainlab, tmp_path):
    folder, cache = tmp_path / "recordings", tmp_path / "cache"
    folder.mkdir()
    save(folder / "good_raw.fif", noise())
    words = ("data=recordings", f"data.root={folder}", "logger=none")
    assert brainlab("experiment=meg_prepare", *words, BRAINLAB_CACHE=str(cache)).code == 0
    (index,) = cache.glob("recordings/*/index.json")
    index.write_text(index.read_text().replace('"version": 2', '"version": 9'))
    manifest = index.with_name("manifest.json")
    known = {key: value for key, value in json.loads(manifest.read_text()).items() if key != "contents"}
    manifest.write_text(json.dumps(known))  # as that version wrote it, not as a file that was changed since
    ended = brainlab("experiment=meg_var", *words, "data.split=time", BRAINLAB_CACHE=str(cache))
    assert ended.code == 1, ended.text
    (said,) = [line for line in ended.text.splitlines() if "Invalid " in line]
    assert "expected brainlab-store version 2, found brainlab-store version 9. Hint: " in said
