"""Splits of recordings: the golden arithmetic, no leak, saved and read again."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainlab.data.recording_split import Assignment, Member, TrainingSpan, draw_groups, subject_in
from brainlab.data.splits import PARTS, window_index
from brainlab.data.windows import samples_of
from brainlab.errors import InvalidFile, InvalidValue, LeakError


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict:
    return json.loads((golden_dir / "meg/04_datasplitter.json").read_text())


def members_of(tree: list[dict]) -> list[Member]:
    return [
        Member(entry["session"], subject_in(entry["session"]), entry["dataset"], sum(entry["lengths"]))
        for entry in tree
    ]


def windows_of(entry: dict, length: int, overlap: int) -> list[tuple[int, int]]:
    return [
        (chunk, int(start))
        for chunk, n_samples in enumerate(entry["lengths"])
        for start in window_index([[0, n_samples]], length, length - overlap)
    ]


def test_golden_windows_are_found_in_order(golden: dict) -> None:
    length, overlap = samples_of(1.0, 100.0), samples_of(0.5, 100.0)
    found = [
        [entry["dataset"], entry["session"], f"{chunk}.npy", start]
        for entry in golden["tree"]
        for chunk, start in windows_of(entry, length, overlap)
    ]
    assert (length, overlap) == (golden["window_size"], golden["overlap"])
    assert found == golden["windows"]
    assert len(found) == 81


def test_golden_fractional_windows_round_as_python_does(golden: dict) -> None:
    known = golden["frac"]
    length, overlap = samples_of(known["example_seconds"], 100.0), samples_of(known["overlap_seconds"], 100.0)
    assert (length, overlap) == (known["window_size"], known["overlap"]) == (33, 11)
    found = [
        [entry["dataset"], entry["session"], f"{chunk}.npy", start]
        for entry in golden["tree"]
        for chunk, start in windows_of(entry, length, overlap)
    ]
    assert len(found) == known["n_windows"] == 233
    assert found[:8] == known["first8"]


@pytest.mark.parametrize("case", range(5))
def test_golden_splits_are_exact(golden: dict, case: int) -> None:
    known, tree = golden["cases"][case], golden["tree"]
    wanted = known["args"]
    parts = draw_groups(
        members_of(tree), wanted["split_strategy"], wanted.get("val_ratio", 0.1), wanted.get("test_ratio", 0.1),
        wanted["seed"], wanted.get("heldout_dataset"),
    )  # fmt: skip
    for part in PARTS:
        found = sorted([tree[number]["dataset"], tree[number]["session"]] for number in parts[part])
        assert found == known["splits"][part], part
        count = sum(len(windows_of(tree[number], 100, 50)) for number in parts[part])
        assert count == known["window_counts"][part]


def test_golden_table_of_counts_is_exact(golden: dict) -> None:
    for n, val, test, n_train, n_val, n_test, *sessions in golden["split_table_seed42"]:
        members = [Member(f"s{number:02d}", f"s{number}", "d", 10) for number in range(n)]
        parts = draw_groups(members, "session", val, test, 42)
        assert tuple(len(parts[part]) for part in PARTS) == (n_train, n_val, n_test)
        for part, known in zip(PARTS, sessions, strict=True):
            assert {f"s{number}" for number in parts[part]} == set(known)


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=30), st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**31),
    st.sampled_from(["subject", "session"]),
)  # fmt: skip
def test_every_recording_stands_in_one_part_and_no_group_in_two(subjects, val, test, seed, kind) -> None:
    members = [Member(f"s{n:02d}", f"sub-{s}", f"d{s % 2}", 100) for n, s in enumerate(subjects)]
    parts = draw_groups(members, kind, val, test, seed)
    assert sorted(number for part in PARTS for number in parts[part]) == list(range(len(members)))
    assert parts["train"]
    assignment, left_out = Assignment.draw(members, kind, (1 - val - test, val, test), seed, sfreq_hz=10.0)
    assert not left_out
    assert assignment.check() is assignment


def test_data_sets_share_one_generator() -> None:
    """The second data set's draw goes on where the first one's ended."""
    members = [Member(f"s{n}", f"s{n}", dataset, 10) for dataset in "ab" for n in range(6)]
    rng, expected = random.Random(5), []
    for offset in (0, 6):
        names = [f"s{n}" for n in range(6)]
        rng.shuffle(names)
        expected += sorted(offset + int(name[1:]) for name in names[:4])
    assert draw_groups(members, "session", 0.2, 0.2, 5)["train"] == expected


def test_time_blocks_lie_apart_and_short_recordings_are_named() -> None:
    members = [Member("long", "a", "d", 6000), Member("short", "b", "d", 900)]
    assignment, left_out = Assignment.draw(members, "time", (0.6, 0.2, 0.2), 0, sfreq_hz=100.0, guard_s=5.0)
    assert list(left_out) == ["short"]
    (train,), (val,), (test,) = (assignment.rows[part][0] for part in PARTS)
    assert train[0] == 0
    assert val[0] - train[1] == test[0] - val[1] == 500
    assert test[1] == 6000


@pytest.mark.parametrize(("n_samples", "sfreq_hz"), [(6000, 100.0), (18001, 300.0), (900, 100.0)])
def test_statistics_never_see_more_than_the_training_block(n_samples: int, sfreq_hz: float) -> None:
    span = TrainingSpan("time", (0.6, 0.2, 0.2), 5.0)
    start, stop = span(None, n_samples, sfreq_hz)
    assert start == 0
    assert stop <= 0.6 * n_samples
    assert TrainingSpan("subject", calibration_s=10.0)(None, n_samples, sfreq_hz) == (0, min(n_samples, 10 * sfreq_hz))
    assert "calibration_s" not in span.recipe()


def test_a_saved_split_is_read_again_and_a_leak_is_refused(tmp_path: Path) -> None:
    members = [Member(f"s{n}", f"sub-{n // 2}", "d", 100 + n) for n in range(8)]
    drawn, _ = Assignment.draw(members, "subject", (0.5, 0.25, 0.25), 3, sfreq_hz=10.0)
    path = drawn.save(tmp_path / "split.json")
    assert Assignment.load(path, members) == drawn
    content = json.loads(path.read_text())
    moved = next(entry for entry in content["sessions"] if entry["train"])
    moved["test"], moved["train"] = moved["train"], []
    path.write_text(json.dumps(content))
    with pytest.raises(LeakError, match=f"subject={moved['subject']}"):
        Assignment.load(path, members)
    with pytest.raises(InvalidFile, match="none for other"):
        Assignment.load(path, [*members, Member("other", "o", "d", 5)])
    path.write_text("[]")
    with pytest.raises(InvalidFile, match="saved split"):
        Assignment.load(path, members)


def test_a_held_out_data_set_must_be_there() -> None:
    with pytest.raises(InvalidValue, match=r"heldout_dataset=mous: expected one of a"):
        draw_groups([Member("s", "s", "a", 1)], "dataset", 0.1, 0.1, 0, "mous")
    assert np.all([not rows for rows in draw_groups([], "subject", 0.1, 0.1, 0).values()])
