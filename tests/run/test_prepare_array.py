"""An array of preparations: one person each, one cache, and whatever they share is built once."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from brainlab.data.eeg_patches import EegPatches
from brainlab.data.things_nsd import ThingsNsdData
from brainlab.errors import InvalidValue

PREPARE_ONE = """
import sys
from brainlab.data.things_nsd import ThingsNsdData
data = ThingsNsdData(cache_dir=sys.argv[1], size="tiny", subject=int(sys.argv[2]))
data.prepare_data()
data.setup()
print(data.fingerprint, len(data.records), *data.settings.eeg_subjects)
"""
_ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def built(cache: Path) -> dict[str, int]:
    """How many results of each kind a cache holds."""
    kinds = [kind for kind in cache.iterdir() if kind.is_dir() and kind.name != "fingerprints"]
    return {kind.name: len([entry for entry in kind.iterdir() if not entry.name.startswith(".")]) for kind in kinds}


def test_a_number_stands_for_one_person_with_eeg(tmp_path: Path) -> None:
    data = ThingsNsdData(cache_dir=str(tmp_path), size="tiny", subject=3, eeg_subjects=["sub-01", "sub-02"])
    assert data.settings.eeg_subjects == ("sub-03",)
    for wrong in (0, -1, True, "two", 1.5):
        with pytest.raises(InvalidValue, match=r"data\.subject=.*number of a person"):
            ThingsNsdData(cache_dir=str(tmp_path), subject=wrong)  # type: ignore[arg-type]


def test_ten_people_share_one_simulation_and_everything_but_their_eeg(tmp_path: Path) -> None:
    fingerprints = set()
    for subject in (1, 2, 10):
        data = ThingsNsdData(cache_dir=str(tmp_path), size="tiny", subject=subject)
        data.prepare_data()
        data.setup()
        fingerprints.add(data.fingerprint)
    assert 0 < data.ceilings("val")["bayes_single_trial"] <= 1
    assert len(fingerprints) == 3
    assert built(tmp_path) == {
        "image_pairs_simulated": 1, "nsd_betas": 2, "picture_embedding": 2, "picture_pairs": 1, "picture_split": 1,
        "picture_clusters": 1, "nsd_targets": 2, "things_epochs": 3, "alignment_records": 3,
    }  # fmt: skip


def test_the_simulation_has_nobody_beyond_the_real_data(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match=r"data\.subject=11: expected one of sub-01, .*sub-10"):
        ThingsNsdData(cache_dir=str(tmp_path), size="tiny", subject=11).prepare_data()


def test_tasks_that_start_together_build_what_they_share_once(tmp_path: Path) -> None:
    tasks = [
        subprocess.Popen(
            [sys.executable, "-c", PREPARE_ONE, str(tmp_path / "cache"), str(subject)],
            env=_ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for subject in (4, 5, 6)
    ]  # fmt: skip
    told = [task.communicate(timeout=300) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0, 0], told
    outputs = [out.split() for out, _ in told]
    assert [words[-1] for words in outputs] == ["sub-04", "sub-05", "sub-06"]
    assert len({words[0] for words in outputs}) == 3
    found = built(tmp_path / "cache")
    assert found.pop("things_epochs") == found.pop("alignment_records") == 3
    assert found.pop("picture_embedding") == found.pop("nsd_betas") == found.pop("nsd_targets") == 2
    assert set(found.values()) == {1}


def test_the_command_prepares_everyone_into_one_cache(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "brainlab", "-m", "job=prepare", "data.subject=range(1,4)", "data.size=tiny",
        f"paths.root={tmp_path}", f"paths.cache={tmp_path / 'cache'}", "hydra.sweep.dir=sweep",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, env=_ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "sweep" / "sweep.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["state"], row["data.subject"]) for row in rows] == [("COMPLETED", str(n)) for n in (1, 2, 3)]
    assert built(tmp_path / "cache")["image_pairs_simulated"] == 1
    for number, subject in enumerate(("sub-01", "sub-02", "sub-03")):
        assert subject in (tmp_path / "sweep" / str(number) / "report.html").read_text()


def test_recordings_of_one_person_are_chosen_by_name_or_number(tmp_path: Path) -> None:
    prepared = []
    for subject in (2, "02", "sub-02"):
        data = EegPatches(cache_dir=str(tmp_path), size="tiny", subject=subject)
        data.prepare_data()
        data.setup()
        prepared.append(data.fingerprint)
        assert {session.attrs["subject"] for session in data.store.sessions} == {"sub-02"}
    assert len(set(prepared)) == 1
    with pytest.raises(InvalidValue, match=r"data\.subject=9: expected one of sub-01, sub-02"):
        EegPatches(cache_dir=str(tmp_path), size="tiny", subject=9).prepare_data()
