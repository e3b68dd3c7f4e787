"""Which files of MOUS are recordings, and what their trigger codes mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from brainlab.datasets.mous import Mous, mous_conditions
from brainlab.datasets.recordings import RecordingFile
from brainlab.errors import InvalidValue
from brainlab.io.recording import Event


def _file(task: str) -> RecordingFile:
    return RecordingFile(Path("x.fif"), "x", "mous", "sub-A2002", f"ses-{task}", task)


def test_sessions_are_named_by_their_task_and_empty_rooms_left_out(tmp_path: Path) -> None:
    for name in ("A2002_task-rest_meg.ds", "A2002_task-auditory_meg.ds", "V1001_task-visual_meg.ds"):
        (tmp_path / f"sub-{name[:5]}" / "meg" / f"sub-{name}").mkdir(parents=True)
    for name in ("sub-A2002_task-emptyroom_meg.fif", "sub-A2002_task-noise_meg.fif", "sub-A2002_headshape.fif"):
        (tmp_path / "sub-A2002" / "meg" / name).write_bytes(b"")
    files = Mous().find(tmp_path)
    assert [(file.name, file.task) for file in files] == [
        ("sub-A2002_ses-auditory", "auditory"),
        ("sub-A2002_ses-rest", "rest"),
        ("sub-V1001_ses-visual", "visual"),
    ]
    assert [file.subject for file in Mous().find(tmp_path, "*auditory*")] == ["sub-A2002"]


def test_a_sentence_lasts_until_its_end_code_and_other_codes_until_the_next_event() -> None:
    events = [Event(at, code) for at, code in ((100, 20), (300, 1), (500, 15), (600, 40), (700, 99), (800, 10))]
    codes = mous_conditions(events, 100, 10, visual=False)
    expected = np.zeros(100, np.int16)
    expected[10:30], expected[30:50], expected[60:70], expected[80:] = 3, 1, 4, 2
    np.testing.assert_array_equal(codes, expected)
    assert codes.dtype == np.int16


def test_reading_has_eight_start_codes_and_hearing_four() -> None:
    events = [Event(0, 2), Event(100, 15), Event(200, 7), Event(300, 15)]
    assert set(mous_conditions(events, 40, 10, visual=False)[:10]) == {0}
    assert set(mous_conditions(events, 40, 10, visual=False)[20:30]) == {1}
    assert set(mous_conditions(events, 40, 10, visual=True)[:10]) == {5}
    assert set(mous_conditions(events, 40, 10, visual=True)[20:30]) == {5}


def test_a_later_range_overwrites_an_earlier_one() -> None:
    codes = mous_conditions([Event(0, 3), Event(100, 20), Event(200, 15)], 30, 10, visual=False)
    assert codes.tolist() == [1] * 10 + [3] * 10 + [0] * 10


def test_samples_are_divided_rounding_down_and_ranges_of_five_samples_are_ignored() -> None:
    assert not mous_conditions([Event(19, 20), Event(69, 99)], 20, 10, visual=False).any()  # 1 to 6: five samples
    kept = mous_conditions([Event(19, 20), Event(70, 99)], 20, 10, visual=False)
    assert np.flatnonzero(kept).tolist() == [1, 2, 3, 4, 5, 6]


def test_a_sentence_that_nothing_ends_lasts_to_the_end() -> None:
    assert mous_conditions([Event(50, 5)], 20, 10, visual=False).tolist() == [0] * 5 + [1] * 15


def test_rest_has_none_and_a_task_without_events_has_zeros() -> None:
    assert Mous().conditions(_file("rest"), [Event(0, 20)], [], 50, 100.0, 300.0) is None
    zeros = Mous().conditions(_file("auditory"), [], [], 50, 100.0, 300.0)
    assert zeros is not None
    assert zeros.tolist() == [0] * 50
    read = Mous().conditions(_file("visual"), [Event(30, 8), Event(90, 15)], [], 50, 100.0, 300.0)
    assert read is not None
    assert np.flatnonzero(read == 5).tolist() == list(range(10, 30))
    with pytest.raises(InvalidValue, match="raw_sfreq_hz"):
        Mous().conditions(_file("visual"), [], [], 50, 100.0, 0.0)
