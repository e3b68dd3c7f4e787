"""Many recordings become one store: prepared once each, in parallel, with every fate in the manifest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest

from brainlab.datasets.camcan import CamCan
from brainlab.datasets.recordings import RecordingFile
from brainlab.errors import InvalidFile, InvalidValue
from brainlab.io.cache import Cache
from brainlab.io.store import Store
from brainlab.prepare import session_store
from brainlab.prepare import sessions as module
from brainlab.prepare.sessions import MANIFEST, manifest_table, prepare_store, recipe_of_steps
from brainlab.prepare.steps.channels import BadChannels, Pick
from brainlab.prepare.steps.checks import MissingSamples, Units
from brainlab.prepare.steps.cleaning import Clean
from brainlab.prepare.steps.filters import BandPass, Resample
from brainlab.prepare.steps.meg import Maxwell
from brainlab.prepare.steps.scaling import RobustScale, Unit
from brainlab.prepare.steps.session import RawSession, Step

STEPS: dict[str, Step | None] = {
    "pick": Pick("eeg"),
    "band_pass": BandPass(1.0, 40.0),
    "notch": None,
    "resample": Resample(100.0),
    "scale": RobustScale(),
}
NAMES = [f"E{number}" for number in range(6)]


def write(
    folder: Path, name: str, *, sfreq_hz: float = 200.0, seconds: float = 20.0, seed: int = 0, **change: Any
) -> RecordingFile:
    rng = np.random.default_rng(seed)
    samples = np.zeros((7, round(sfreq_hz * seconds)))
    samples[:6] = rng.normal(0, 1e-5, (6, samples.shape[1]))
    for start, code in change.get("triggers", {400: 9}).items():
        samples[6, start : start + 10] = code
    if "flat" in change:
        samples[change["flat"]] = 0.0
    if "gain" in change:
        samples[:6] *= change["gain"]
    if "all_missing" in change:
        samples[:6] = np.nan
    if "missing" in change:
        samples[1, change["missing"]] = np.nan
    info = mne.create_info([*NAMES, "STI 014"], sfreq_hz, ["eeg"] * 6 + ["stim"], verbose="ERROR")
    raw = mne.io.RawArray(samples, info, first_samp=5000, verbose="ERROR")
    if seconds > 5:
        raw.set_annotations(mne.Annotations([4.25], [0.5], ["square"]))
    path = folder / f"{name}_raw.fif"
    raw.save(path, overwrite=True, verbose="ERROR")
    return RecordingFile(path, name, "set", f"sub-{name}", f"ses-{name}", "rest")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[RecordingFile]:
    folder = tmp_path_factory.mktemp("raw")
    return [write(folder, name, seed=seed) for seed, name in enumerate(("a", "b", "c"))]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@dataclass(frozen=True)
class Early:
    """The first seconds of a recording."""

    seconds: float

    def __call__(self, file: RecordingFile, n_samples: int, sfreq_hz: float) -> tuple[int, int]:
        return 0, round(self.seconds * sfreq_hz)

    def recipe(self) -> dict[str, Any]:
        return {"seconds": self.seconds}


def halves(
    file: RecordingFile, events: Sequence[Any], annotations: Sequence[Any], n: int, rate: float, raw_rate: float
) -> Any:
    """1 before the first event, 2 after it."""
    codes = np.full(n, 2, np.int16)
    codes[: round(events[0].sample * rate / raw_rate)] = 1
    return codes


def test_a_store_holds_samples_events_and_facts(files, cache, tmp_path):
    rows = prepare_store(files, tmp_path / "store", STEPS, cache=cache, training_span=Early(8), conditions=halves)
    assert rows == json.loads((tmp_path / "store" / MANIFEST).read_text())
    assert [(row["session"], row["status"], row["n_channels"]) for row in rows] == [(n, "prepared", 6) for n in "abc"]
    store = Store(tmp_path / "store")
    session = store.sessions[store.index("b")]
    assert (session.sfreq_hz, session.n_samples, list(session.ch_names)) == (100.0, 2000, NAMES)
    found = {key: session.attrs[key] for key in ("subject", "dataset", "task", "recording", "file", "system")}
    assert found == {
        "subject": "sub-b", "dataset": "set", "task": "rest", "recording": "ses-b", "file": "b_raw.fif", "system": "eeg"
    }  # fmt: skip
    assert session.attrs["dropped"] == {"STI 014": "stim"}
    assert session.attrs["segments"] == [[0, 2000]]
    assert session.attrs["span"] == [0, 800]
    assert session.attrs["conditions"] == [[0, 200, 1], [200, 2000, 2]]
    assert [step["step"] for step in session.attrs["steps"]] == ["Pick", "BandPass", "Resample", "RobustScale"]
    assert session.events == (
        {"sample": 200, "onset_s": 2.0, "code": 9},
        {"sample": 425, "onset_s": 4.25, "duration_s": 0.5, "description": "square"},
    )


def test_a_wide_trigger_code_is_an_event_but_no_condition_and_costs_no_recording(cache, tmp_path):
    file = write(tmp_path, "sub-a", triggers={400: 8, 1000: 40000, 1200: 3})
    conditions = CamCan().conditions
    (row,) = prepare_store([file], tmp_path / "store", STEPS, cache=cache, conditions=conditions)
    assert row["warnings"] == ["trigger codes that 16 bits do not hold are no conditions: 40000"]
    session = Store(tmp_path / "store").sessions[0]
    assert session.attrs["conditions"] == [[200, 500, 8], [600, 601, 3]]
    assert [event["code"] for event in session.events if "code" in event] == [8, 40000, 3]


@pytest.mark.parametrize("triggers", [{400: 8}, {400: 40000}])
def test_codes_of_a_table_that_cannot_be_conditions_name_the_file(cache, tmp_path, triggers):
    file = write(tmp_path, "sub-a", triggers=triggers)
    (tmp_path / "sub-a_events.tsv").write_text("onset\tduration\tvalue\n0.8\t0.3\t1.5\n")
    with pytest.raises(InvalidValue, match=r"value=1\.5: expected whole numbers .*sub-a_raw\.fif"):
        prepare_store([file], tmp_path / "store", STEPS, cache=cache, conditions=CamCan().conditions)


def test_samples_are_those_of_mne_and_scalers_lead_back_to_volts(files, cache, tmp_path):
    prepare_store(files[:1], tmp_path / "store", STEPS, cache=cache, training_span=Early(8))
    raw = mne.io.read_raw_fif(files[0].path, preload=True, verbose="ERROR").pick(NAMES)
    expected = raw.filter(1.0, 40.0, verbose="ERROR").resample(100.0, method="polyphase", verbose="ERROR").get_data()
    session, stored = Store(tmp_path / "store").sessions[0], Store(tmp_path / "store").read(0)
    low, middle, high = np.percentile(expected[:, :800], (25, 50, 75), axis=1)
    np.testing.assert_allclose(stored, (expected - middle[:, None]) / (high - low)[:, None], atol=2e-6)
    scalers = session.attrs["scalers"]
    back = stored * np.array(scalers["scale"])[:, None] + np.array(scalers["centre"])[:, None]
    np.testing.assert_allclose(back, expected, atol=1e-10)
    assert scalers["unit"] == "V"
    assert session.channels[0].unit == ""


def test_without_scaling_a_channel_says_its_unit(files, cache, tmp_path):
    prepare_store(files[:1], tmp_path / "volts", {"pick": Pick("eeg")}, cache=cache)
    assert Store(tmp_path / "volts").sessions[0].channels[0].unit == "V"
    assert Store(tmp_path / "volts").sessions[0].attrs["scalers"] is None
    prepare_store(files[:1], tmp_path / "units", {"pick": Pick("eeg"), "unit": Unit(1e-4)}, cache=cache)
    assert Store(tmp_path / "units").sessions[0].channels[0].unit == "0.0001 V"


def test_processes_give_the_same_store_as_one(files, cache, tmp_path):
    prepare_store(files, tmp_path / "one", STEPS, cache=Cache(tmp_path / "other"), training_span=Early(8))
    prepare_store(files, tmp_path / "two", STEPS, cache=cache, training_span=Early(8), n_workers=2)
    assert Store(tmp_path / "one").fingerprint == Store(tmp_path / "two").fingerprint


def test_only_what_changed_is_prepared_again(files, cache, tmp_path, monkeypatch):
    copy = [write(tmp_path, file.name, seed=seed) for seed, file in enumerate(files)]
    prepare_store(copy, tmp_path / "one", STEPS, cache=cache)
    built: list[str] = []
    build = session_store._build
    monkeypatch.setattr(session_store, "_build", lambda job, folder: (built.append(job.file.name), build(job, folder)))
    prepare_store(copy, tmp_path / "two", STEPS, cache=cache)
    assert built == []
    renamed = [RecordingFile(f.path, f"x-{f.name}", "other", "sub-x", f.session, f.task) for f in copy]
    prepare_store(renamed, tmp_path / "three", STEPS, cache=cache)
    assert built == []
    assert Store(tmp_path / "three").sessions[0].attrs["subject"] == "sub-x"
    copy[1] = write(tmp_path, "b", seconds=10.0)
    prepare_store(copy, tmp_path / "four", STEPS, cache=cache)
    assert built == ["b"]
    assert Store(tmp_path / "four").sessions[1].n_samples == 1000
    prepare_store(copy[:1], tmp_path / "five", {**STEPS, "resample": Resample(50.0)}, cache=cache)
    assert built == ["b", "a"]


def test_sessions_are_linked_into_the_store_not_copied(files, cache, tmp_path):
    prepare_store(files, tmp_path / "cache" / "store", STEPS, cache=cache)
    assert (tmp_path / "cache" / "store" / "00000.f32").stat().st_nlink == 2


def test_the_recipe_tells_orders_spans_and_conditions_apart():
    flipped = dict(reversed(list(STEPS.items())))
    recipes = [
        recipe_of_steps(STEPS), recipe_of_steps(flipped), recipe_of_steps(STEPS, Early(8)),
        recipe_of_steps(STEPS, Early(9)), recipe_of_steps(STEPS, conditions=halves),
    ]  # fmt: skip
    assert len({json.dumps(recipe) for recipe in recipes}) == len(recipes)
    assert recipe_of_steps(STEPS) == recipe_of_steps({k: v for k, v in STEPS.items() if v is not None})


def test_the_content_of_a_calibration_file_counts(files, cache, tmp_path):
    calibration = tmp_path / "cal.dat"
    calibration.write_text("one")
    step = ("maxwell", Maxwell(calibration=str(calibration)))
    before = module._inputs(files[0], [step], cache)
    calibration.write_text("two")
    assert before["maxwell.0"] != module._inputs(files[0], [step], cache)["maxwell.0"]


@pytest.mark.parametrize("n_workers", [1, 2])
def test_a_failed_session_fails_the_job_after_the_others_and_the_manifest_survives(files, cache, tmp_path, n_workers):
    broken = tmp_path / "broken_raw.fif"
    broken.write_bytes(files[0].path.read_bytes()[:20_000])
    bad = RecordingFile(broken, "broken", "set", "sub-broken", "broken")
    with pytest.raises(InvalidFile, match=r"broken_raw\.fif.*data\.root.* Hint: .*data\.on_error=skip") as caught:
        prepare_store([bad, *files], tmp_path / "store", STEPS, cache=cache, n_workers=n_workers)
    assert str(caught.value).count("Invalid ") == 1
    assert not (tmp_path / "store" / "index.json").exists()
    (manifest,) = (cache.root / "manifests").glob("*.json")
    assert str(manifest) in str(caught.value)
    assert [row["status"] for row in json.loads(manifest.read_text())] == ["failed", *["prepared"] * 3]
    rows = prepare_store([bad, *files], tmp_path / "store2", STEPS, cache=cache, on_error="skip", n_workers=n_workers)
    assert rows[0]["status"] == "failed"
    assert "broken_raw.fif" in rows[0]["error"]
    assert [session.name for session in Store(tmp_path / "store2").sessions] == ["a", "b", "c"]


def test_several_failures_are_one_sentence_and_nothing_left_fails_even_when_skipped(files, cache, tmp_path):
    gone = [RecordingFile(tmp_path / f"{name}.fif", name, "set", name, name) for name in ("gone", "lost")]
    with pytest.raises(
        InvalidFile, match=r"recordings=2 of 3: .*gone\.fif: expected .*; .*lost\.fif: expected"
    ) as caught:
        prepare_store([*gone, files[0]], tmp_path / "store", STEPS, cache=cache)
    assert str(caught.value).count("Invalid ") == 1
    with pytest.raises(InvalidFile, match=r"2 of 2.*Hint: data\.include"):
        prepare_store(gone, tmp_path / "store2", STEPS, cache=cache, on_error="skip")


def test_discarded_sessions_are_listed_with_their_reason_and_kept_out(files, cache, tmp_path, caplog):
    caplog.set_level("INFO")
    flat = write(tmp_path, "flat", flat=[0, 1])
    short = write(tmp_path, "short", seconds=3.0)
    steps = {**STEPS, "bads": BadChannels(), "clean": Clean(window_s=1, min_segment_s=5)}
    rows = prepare_store([flat, files[0], short], tmp_path / "store", steps, cache=cache)
    assert [row["status"] for row in rows] == ["discarded", "prepared", "discarded"]
    assert rows[0]["reason"] == "bad_channels: 2 of 6, more than 10 %"
    assert rows[2]["reason"] == "no_segments"
    assert flat.path.exists()
    assert len(Store(tmp_path / "store")) == 1
    header, cells = manifest_table(rows)
    assert len(header) == len(cells[0])
    why = "3.0 s usable, 3.0 s at a stretch, expected a clean stretch of 5 s"
    hint = "data.steps.clean.min_segment_s=3"
    assert (rows[2]["words"], rows[2]["hint"]) == (why, hint)
    assert cells[2][-1].startswith(f"no_segments: {why}. Hint: {hint}")
    assert rows[0]["hint"] == "data.steps.bad_channels.max_share=0.34"
    assert f"left out: no_segments: {why}" in caplog.text
    with pytest.raises(
        InvalidFile, match=r"recordings=0 of 2: expected at least one usable.*flat: bad_channels: 2 of 6"
    ):
        prepare_store([flat, short], tmp_path / "none", steps, cache=cache)


def test_what_was_remarked_on_a_discarded_session_stays_known(cache, tmp_path, caplog):
    short = write(tmp_path, "short", seconds=3.0)
    steps = {**STEPS, "clean": Clean(window_s=1, min_segment_s=5)}
    rows = prepare_store([short, write(tmp_path, "long")], tmp_path / "store", steps, cache=cache)
    assert "longer than the signal" in rows[0]["warnings"][0]
    assert "longer than the signal" in caplog.text
    assert "longer than the signal" in manifest_table(rows)[1][0][-1]


def test_rates_that_differ_ask_for_a_resampling_step(files, cache, tmp_path):
    mixed = [files[0], write(tmp_path, "fast", sfreq_hz=250.0)]
    with pytest.raises(
        InvalidValue, match=r"data\.steps\.resample=null: .*200 Hz \(a_raw\.fif\), 250 Hz \(fast_raw\.fif\)\. Hint:"
    ):
        prepare_store(mixed, tmp_path / "store", {"pick": Pick("eeg")}, cache=cache)
    prepare_store(mixed, tmp_path / "store2", STEPS, cache=cache)


@pytest.mark.parametrize(
    ("change", "steps", "text"),
    [
        (
            {"missing": slice(300, 400)},
            STEPS,
            r"samples=nan: .*channel E1 has none from 1\.5 to 2 s .*missing\.action=mark",
        ),
        ({"gain": 1e6}, STEPS, r"eeg amplitude=.*between 1e-08 and 0\.01 V .*Hint: data\.steps\.units\.eeg=uV"),
        ({"flat": slice(0, 6)}, STEPS, r"samples=constant: .*all are flat"),
        (
            {},
            {"pick": Pick("mag")},
            r"channels=eeg, stim: expected at least one of type mag .*Hint: data\.steps\.pick\.kinds=\[eeg\]",
        ),
        (
            {},
            {"low": BandPass(95.0, 200.0)},
            r"data\.steps\.low\.l_freq_hz=95\.0: expected it below 90 Hz \(.*odd_raw\.fif",
        ),
        (
            {},
            {"clean": Clean(window_s=0.001)},
            r"data\.steps\.clean\.window_s=0\.001: .* at 200 Hz \(.*odd_raw\.fif",
        ),
        (
            {"all_missing": True},
            {"missing": MissingSamples("mark")},
            r"samples=nan: expected finite numbers, every channel lacks more than 10 % .*odd_raw\.fif",
        ),
        ({"seconds": 0.5}, {"resample": Resample(0.5)}, r"data\.steps\.resample|samples="),
    ],
)
def test_a_recording_that_cannot_be_used_is_one_sentence_with_its_file(cache, tmp_path, change, steps, text):
    file = write(tmp_path, "odd", **change)
    with pytest.raises(InvalidValue, match=text) as caught:
        prepare_store([file], tmp_path / "store", steps, cache=cache)
    assert "odd_raw.fif" in str(caught.value)
    assert str(caught.value).count("Invalid ") == 1


def test_given_units_make_it_usable(cache, tmp_path):
    file = write(tmp_path, "odd", gain=1e6)
    prepare_store([file], tmp_path / "store", {"units": Units(eeg="uV"), **STEPS}, cache=cache)
    assert np.median(Store(tmp_path / "store").sessions[0].attrs["scalers"]["scale"]) < 1e-4


@dataclass(frozen=True)
class Breaks:
    """A step with a fault."""

    def __call__(self, session: RawSession) -> None:
        raise RuntimeError("the matrix is singular\nmore")


def test_what_a_library_raises_is_told_with_step_and_file(files, cache, tmp_path):
    with pytest.raises(InvalidFile, match=r"data\.steps\.inverse=Breaks: .*the matrix is singular\) \(.*a_raw\.fif"):
        prepare_store(files[:1], tmp_path / "store", {"inverse": Breaks()}, cache=cache)


@dataclass(frozen=True)
class Killed:
    """A step whose process the operating system ends, as when memory is short."""

    def __call__(self, session: RawSession) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_one_sentence(files, cache, tmp_path):
    with pytest.raises(InvalidFile, match=r"recordings=3 of 3: .*but one was killed"):
        prepare_store(files, tmp_path / "store", {"kill": Killed()}, cache=cache, n_workers=2)


def test_a_full_cache_ends_everything_at_once(files, cache, tmp_path, monkeypatch):
    def full(job: Any, folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(session_store, "_build", full)
    with pytest.raises(InvalidFile, match="the disk is full"):
        prepare_store(files, tmp_path / "store", STEPS, cache=cache, on_error="skip")


@pytest.mark.parametrize(("key", "value"), [("on_error", "ignore"), ("n_workers", 0)])
def test_settings_without_meaning_are_refused(files, cache, tmp_path, key, value):
    with pytest.raises(InvalidValue, match="expected"):
        prepare_store(files, tmp_path / "store", STEPS, cache=cache, **{key: value})


SCRIPT = """
import sys, time
from dataclasses import dataclass
from pathlib import Path
from brainlab.datasets.recordings import find_recordings
from brainlab.io.cache import Cache
from brainlab.prepare.sessions import prepare_store

@dataclass(frozen=True)
class Slow:
    def __call__(self, session):
        Path(sys.argv[2], f"started-{session.file.name}").touch()
        time.sleep(60)

if __name__ == "__main__":
    files, work = find_recordings(sys.argv[1]), Path(sys.argv[2])
    prepare_store(files, work / "store", {"slow": Slow()}, cache=Cache(work / "cache"), n_workers=2)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_the_run_that_started_them(files, tmp_path, how):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(files[0].path.parent), str(tmp_path)]
    run = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("started-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(list(tmp_path.glob("started-*"))) == 2
        group = os.getpgid(run.pid)
        if how == signal.SIGINT:
            os.killpg(group, how)
        else:
            run.kill()
        run.wait(120)
        deadline = time.monotonic() + 60
        while _alive(group) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not _alive(group)
        if how == signal.SIGINT:
            assert not list((tmp_path / "cache").rglob(".*.tmp-*"))
    finally:
        if _alive(os.getpgid(run.pid) if run.poll() is None else run.pid):
            os.killpg(run.pid, signal.SIGKILL)


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
