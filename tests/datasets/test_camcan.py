"""Which files of Cam-CAN are recordings, and where their conditions come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from brainlab.datasets.camcan import CamCan
from brainlab.errors import InvalidValue
from brainlab.io.recording import Annotation, Event


def _touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_subjects_are_found_at_any_depth_up_to_seven_and_named_after_their_cohort(tmp_path: Path) -> None:
    _touch(
        tmp_path,
        "cc700/meg/release005/BIDSsep/rest/sub-CC110033/ses-rest/meg/sub-CC110033_ses-rest_task-rest_meg.fif",
        "cc280/sub-CC220001/ses-smt/meg/sub-CC220001_ses-smt_task-smt_run-01_meg.fif",
        "frail/sub-CC999/meg/sub-CC999_task-rest_meg.fif.gz",
        "a/b/c/d/e/f/sub-deep/meg/sub-deep_task-rest_meg.fif",
        "a/b/c/d/e/f/g/sub-deeper/meg/sub-deeper_task-rest_meg.fif",
        "ct_sparse.fif",
        "cal.dat",
    )
    files = CamCan().find(tmp_path)
    assert [(file.name, file.subject, file.task) for file in files] == [
        ("cc280_sub-CC220001_ses-smt_task-smt_run-01", "sub-CC220001", "smt"),
        ("cc700_sub-CC110033_ses-rest_task-rest", "sub-CC110033", "rest"),
        ("f_sub-deep_task-rest", "sub-deep", "rest"),
        ("frail_sub-CC999_task-rest", "sub-CC999", "rest"),
    ]


def test_crosstalk_files_empty_rooms_and_later_parts_are_no_recordings(tmp_path: Path) -> None:
    _touch(
        tmp_path,
        "cc700/sub-CC1/ses-smt/meg/sub-CC1_ses-smt_task-smt_split-01_meg.fif",
        "cc700/sub-CC1/ses-smt/meg/sub-CC1_ses-smt_task-smt_split-02_meg.fif",
        "cc700/sub-CC1/ses-smt/meg/sub-CC1_ses-smt_acq-crosstalk_meg.fif",
        "cc700/sub-CC1/ses-smt/emptyroom/emptyroom_CC1_meg.fif",
        "cc700/sub-emptyroom/ses-20150101/meg/sub-emptyroom_ses-20150101_task-noise_meg.fif",
        "cc700/sub-CC1/ses-smt/meg/sub-CC1_ses-smt_task-smt_proc-raw.fif",
    )
    assert [file.name for file in CamCan().find(tmp_path)] == ["cc700_sub-CC1_ses-smt_task-smt"]


def test_what_occurs_twice_is_numbered_in_the_order_of_discovery(tmp_path: Path) -> None:
    _touch(
        tmp_path,
        "a/cc700/sub-CC1/meg/sub-CC1_task-rest_meg.fif",
        "cc700/sub-CC1/meg/sub-CC1_task-rest_meg.fif",
        "b/cc700/sub-CC1/meg/sub-CC1_task-rest_meg.fif",
    )
    files = CamCan().find(tmp_path)
    assert [(file.name, file.path.relative_to(tmp_path).parts[0]) for file in files] == [
        ("cc700_sub-CC1_task-rest", "cc700"),
        ("cc700_sub-CC1_task-rest-01", "a"),
        ("cc700_sub-CC1_task-rest-02", "b"),
    ]
    assert len(CamCan().find(tmp_path, "b/*")) == 1
    with pytest.raises(InvalidValue, match="Cam-CAN recordings"):
        CamCan().find(tmp_path, "*.ds")


def test_conditions_come_from_the_table_then_the_triggers_then_the_annotations(tmp_path: Path) -> None:
    _touch(tmp_path, "cc700/sub-CC1/meg/sub-CC1_task-smt_meg.fif")
    file = CamCan().find(tmp_path)[0]
    triggers, marks = [Event(500, 6), Event(700, 7)], [Annotation(0.1, 0.2, "tone")]

    def codes(events: list[Event], annotations: list[Annotation]) -> list[int] | None:
        found = CamCan().conditions(file, events, annotations, 10, 10.0, 1000.0)
        return None if found is None else found.tolist()

    assert codes([], []) is None
    assert codes([], marks) == [0, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert codes(triggers, marks) == [0, 0, 0, 0, 0, 6, 6, 7, 0, 0]
    table = file.path.with_name("sub-CC1_task-smt_events.tsv")
    table.write_text("onset\tduration\ttrial_type\tvalue\n0.2\tn/a\ttone\t3\n0.6\t0\tbutton\tn/a\n", encoding="utf-8")
    assert codes(triggers, marks) == [0, 0, 3, 3, 3, 3, 3, 0, 0, 0]
