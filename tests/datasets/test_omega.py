"""Which files of OMEGA are recordings at rest, and what they are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from brainlab.datasets.omega import Omega
from brainlab.errors import InvalidFile, InvalidValue


def _touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        if name.endswith(".ds"):
            path.mkdir(parents=True)
            (path / "inner.meg4").write_bytes(b"")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")


def test_rest_is_found_in_both_formats_and_noise_and_foreign_files_are_left_out(tmp_path: Path) -> None:
    _touch(
        tmp_path,
        "sub-A0002/ses-0001/meg/sub-A0002_ses-0001_task-rest_run-01_meg.ds",
        "sub-A0002/ses-0001/meg/sub-A0002_ses-0001_task-restafter_run-02_meg.ds",
        "sub-A0002/ses-0001/meg/sub-A0002_ses-0001_task-noise_run-01_meg.ds",
        "sub-A0002/ses-0001/meg/sub-A0002_ses-0001_task-gonogo_meg.ds",
        "sub-0001/ses-02/meg/sub-0001_ses-02_task-rest_run-01_meg.fif",
        "sub-emptyroom/ses-02/meg/sub-emptyroom_ses-02_task-rest_meg.fif",
        "derivatives/sub-0001_task-rest_meg.fif",
        "sub-0001/ses-02/anat/sub-0001_task-rest_meg.fif",
    )
    files = Omega().find(tmp_path)
    assert [(file.name, file.task, file.subject, file.session) for file in files] == [
        ("sub-0001_ses-02_rest", "rest", "sub-0001", "ses-02"),
        ("sub-0002_ses-0001_rest", "rest", "sub-A0002", "ses-0001"),
        ("sub-0002_ses-0001_restaftertask", "restaftertask", "sub-A0002", "ses-0001"),
    ]
    assert {file.dataset for file in files} == {"omega"}


def test_two_runs_of_a_session_are_two_recordings_of_one_subject(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"sub-A0007/ses-01/meg/sub-A0007_ses-01_task-rest_run-0{run}_meg.ds" for run in (1, 2, 3)))
    files = Omega().find(tmp_path)
    assert [file.name for file in files] == [f"sub-0007_ses-01_rest{end}" for end in ("", "-01", "-02")]
    assert len({file.path for file in files}) == 3
    assert {file.subject for file in files} == {"sub-A0007"}


def test_people_whose_numbers_differ_in_the_letter_only_stay_two_people(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"sub-{x}0001/ses-01/meg/sub-{x}0001_ses-01_task-rest_meg.ds" for x in "AB"))
    files = Omega().find(tmp_path)
    assert [(file.name, file.subject) for file in files] == [
        ("sub-0001_ses-01_rest", "sub-A0001"),
        ("sub-0001_ses-01_rest-01", "sub-B0001"),
    ]


def test_include_narrows_and_what_is_missing_is_said(tmp_path: Path) -> None:
    _touch(
        tmp_path,
        "sub-0001/ses-01/meg/sub-0001_ses-01_task-rest_meg.fif",
        "sub-0002/ses-01/meg/sub-0002_ses-01_task-noise_meg.fif",
        "sub-0003/ses-01/meg/sub-0003_ses-01_task-rest_meg.fif",
    )
    assert [file.subject for file in Omega().find(tmp_path, "sub-0003*")] == ["sub-0003"]
    with pytest.raises(InvalidValue, match=r"Invalid data\.include=sub-0002\*: expected OMEGA recordings"):
        Omega().find(tmp_path, "sub-0002*")
    with pytest.raises(InvalidFile, match=r"data\.root"):
        Omega().find(tmp_path / "nowhere")


def test_rest_has_no_conditions(tmp_path: Path) -> None:
    _touch(tmp_path, "sub-0001/ses-01/meg/sub-0001_ses-01_task-rest_meg.fif")
    assert Omega().conditions(Omega().find(tmp_path)[0], [], [], 10, 100.0, 300.0) is None
