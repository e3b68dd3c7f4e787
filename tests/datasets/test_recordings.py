"""Which files belong to a folder of recordings, and what their channels are."""

from __future__ import annotations

from pathlib import Path

import pytest

from brainlab.datasets.camcan import CamCan
from brainlab.datasets.recordings import AnyRecordings, channel_kind, companions, find_recordings
from brainlab.errors import InvalidFile, InvalidValue
from brainlab.io.recording import Event


def _touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_a_pattern_without_a_slash_matches_file_names_at_any_depth(tmp_path: Path) -> None:
    _touch(tmp_path, "a.set", "deep/er/b.set", "deep/c.fif")
    assert [file.path.name for file in find_recordings(tmp_path, "*.set")] == ["a.set", "b.set"]
    assert [file.path.name for file in find_recordings(tmp_path, "deep/*.fif")] == ["c.fif"]
    assert [file.path.name for file in find_recordings(tmp_path, ["a.set", "**/*.fif"])] == ["a.set", "c.fif"]


def test_side_files_and_later_parts_are_no_recordings_but_belong_to_one(tmp_path: Path) -> None:
    _touch(tmp_path, "x.set", "x.fdt", "y.vhdr", "y.vmrk", "y.eeg", "z_raw.fif", "z_raw-1.fif", ".hidden.fif")
    files = find_recordings(tmp_path)
    assert [file.path.name for file in files] == ["x.set", "y.vhdr", "z_raw.fif"]
    assert [[part.name for part in companions(file.path)] for file in files] == [
        ["x.set", "x.fdt"],
        ["y.vhdr", "y.eeg", "y.vmrk"],
        ["z_raw.fif", "z_raw-1.fif"],
    ]


def test_fif_files_named_as_something_else_are_no_recordings(tmp_path: Path) -> None:
    others = ("a-epo.fif", "a_cov.fif", "a-trans.fif", "a-ica.fif.gz", "ct_sparse.fif", "sub-1_acq-crosstalk_meg.fif")
    _touch(tmp_path, "a_raw.fif", "recovery.fif", "wave.fif", *others)
    assert [file.path.name for file in find_recordings(tmp_path)] == ["a_raw.fif", "recovery.fif", "wave.fif"]


def test_the_bids_names_of_split_files_are_one_recording(tmp_path: Path) -> None:
    _touch(tmp_path, "sub-1_split-01_meg.fif", "sub-1_split-02_meg.fif")
    assert [file.path.name for file in find_recordings(tmp_path)] == ["sub-1_split-01_meg.fif"]


def test_a_ctf_folder_is_one_recording_whatever_lies_inside(tmp_path: Path) -> None:
    _touch(tmp_path, "run.ds/run.meg4", "run.ds/hz.ds/inner.fif")
    assert [file.path.name for file in find_recordings(tmp_path)] == ["run.ds"]
    assert {part.name for part in companions(tmp_path / "run.ds")} == {"run.meg4", "inner.fif"}


def test_subject_and_session_come_from_a_bids_path_and_else_from_the_file_name(tmp_path: Path) -> None:
    _touch(tmp_path, "sub-07/ses-b/eeg/sub-07_ses-b_task-rest_run-2_eeg.edf", "night1.edf")
    plain, bids = find_recordings(tmp_path)
    assert (plain.subject, plain.session, plain.name) == ("night1", "night1", "night1")
    assert (bids.subject, bids.session) == ("sub-07", "ses-b_task-rest_run-2")
    assert bids.dataset == tmp_path.name


def test_files_of_one_name_in_two_folders_stay_two_recordings_of_two_subjects(tmp_path: Path) -> None:
    _touch(tmp_path, "a/test.edf", "b/test.edf")
    files = find_recordings(tmp_path)
    assert [file.name for file in files] == ["a__test.edf", "b__test.edf"]
    assert len({file.subject for file in files}) == 2


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=r"Invalid data\.root=.*nowhere"):
        find_recordings(tmp_path / "nowhere")


def test_a_pattern_that_matches_nothing_says_what_is_there(tmp_path: Path) -> None:
    _touch(tmp_path, "a.set", "b/c.edf", "notes.txt")
    with pytest.raises(InvalidValue, match=r"Invalid data\.include=\*\.fif: .*a\.set, b/c\.edf\."):
        find_recordings(tmp_path, "*.fif")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidValue, match=r"no file there ends in"):
        find_recordings(tmp_path / "empty")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("EOG1", "eog"), ("HEOG", "eog"), ("VEOGL", "eog"), ("EOG left", "eog"), ("VEO", "eog"), ("ECG", "ecg")),
        *(("EKG2", "ecg"), ("EMG1", "emg"), ("STI 014", "stim"), ("Status", "stim"), ("GSR", "misc"), ("Resp", "misc")),
        *(("Fp1", "eeg"), ("FPz", "eeg"), ("T7", "eeg"), ("E12", "eeg"), ("EEG 001", "eeg"), ("TP10", "eeg")),
    ],
)
def test_names_decide_where_a_file_types_everything_as_eeg(name: str, kind: str) -> None:
    assert channel_kind(name, "eeg") == kind
    assert channel_kind(name, "misc") == "misc"


def test_any_folder_as_a_data_set_names_tasks_and_leaves_empty_rooms_out(tmp_path: Path) -> None:
    _touch(
        tmp_path,
        "sub-1/meg/sub-1_task-rest_meg.fif",
        "sub-1/meg/sub-1_task-noise_meg.fif",
        "sub-emptyroom/ses-1/meg/sub-emptyroom_ses-1_task-x_meg.fif",
        "sub-1/eeg/sub-1_task-noise_eeg.set",
        "b.edf",
    )
    files = AnyRecordings().find(tmp_path)
    assert [(file.name, file.task) for file in files] == [
        ("b", ""),
        ("sub-1_task-noise_eeg", "noise"),
        ("sub-1_task-rest_meg", "rest"),
    ]
    with pytest.raises(InvalidValue, match="empty rooms only"):
        AnyRecordings().find(tmp_path, "*emptyroom*")


def test_an_empty_room_is_known_by_the_names_below_the_root_only(tmp_path: Path) -> None:
    root = tmp_path / "sub-emptyroom"
    _touch(root, "sub-1_task-rest_meg.fif")
    assert len(AnyRecordings().find(root)) == 1


def test_conditions_of_any_recording_come_from_its_events_table_alone(tmp_path: Path) -> None:
    _touch(tmp_path, "sub-1_task-x_eeg.set")
    file = AnyRecordings().find(tmp_path)[0]
    triggers = [Event(3, 1)]
    assert AnyRecordings().conditions(file, triggers, [], 10, 10.0, 10.0) is None
    (tmp_path / "sub-1_task-x_events.tsv").write_text("onset\tduration\tvalue\n0.2\t0.3\t4\n", encoding="utf-8")
    found = AnyRecordings().conditions(file, triggers, [], 10, 10.0, 10.0)
    assert found is not None
    assert found.tolist() == [0, 0, 4, 4, 4, 0, 0, 0, 0, 0]
    assert [part.name for part in companions(file.path)] == ["sub-1_task-x_eeg.set", "sub-1_task-x_events.tsv"]


@pytest.mark.parametrize("place", ["sub-01/meg/sub-01_task-smt_events.tsv", "task-smt_events.tsv"])
@pytest.mark.parametrize("data_set", [AnyRecordings(), CamCan()])
def test_an_inherited_events_table_gives_the_conditions_and_is_part_of_the_recording(
    tmp_path: Path, place: str, data_set: AnyRecordings | CamCan
) -> None:
    _touch(tmp_path, "dataset_description.json", "sub-01/meg/sub-01_task-smt_split-01_meg.fif", "task-rest_events.tsv")
    (tmp_path / place).write_text("onset\tduration\tvalue\n0.2\t0.3\t4\n", encoding="utf-8")
    (file,) = data_set.find(tmp_path)
    found = data_set.conditions(file, [], [], 10, 10.0, 10.0)
    assert found is not None
    assert found.tolist() == [0, 0, 4, 4, 4, 0, 0, 0, 0, 0]
    assert companions(file.path) == [file.path, tmp_path / place]


def test_the_formats_without_an_ending_of_their_own_are_found_with_what_belongs_to_them(tmp_path: Path) -> None:
    _touch(tmp_path, "bti/c,rfDC", "bti/config", "bti/hs_file", "lonely/c,rfDC", "net.raw", "x/e,rfhp1.0Hz", "x/Config")
    files = find_recordings(tmp_path)
    assert [file.path.relative_to(tmp_path).as_posix() for file in files] == ["bti/c,rfDC", "net.raw", "x/e,rfhp1.0Hz"]
    assert [part.name for part in companions(files[0].path)] == ["c,rfDC", "config", "hs_file"]
    assert [part.name for part in companions(files[2].path)] == ["e,rfhp1.0Hz", "Config"]
