from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from brainlab.data.splits import (
    PARTS,
    Split,
    TimeSplit,
    connected_groups,
    group_split,
    time_split,
    window_index,
)
from brainlab.errors import InvalidFile, InvalidValue, LeakError

FRACTIONS = st.sampled_from([(0.8, 0.1, 0.1), (0.6, 0.2, 0.2), (0.5, 0.0, 0.5), (0.9, 0.1, 0.0), (1.0, 0.0, 0.0)])


@given(st.lists(st.integers(0, 12), min_size=1, max_size=80), FRACTIONS, st.integers(0, 5))
def test_every_example_stands_in_one_part_and_no_group_in_two(groups, fractions, seed):
    needed = sum(share > 0 for share in fractions)
    assume(len(set(groups)) >= needed)
    split = group_split(groups, fractions, seed)
    parts = split.parts()
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(len(groups)))
    labels = np.asarray(groups)
    for one in PARTS:
        for other in PARTS:
            if one != other:
                assert not set(labels[parts[one]]) & set(labels[parts[other]])
    for part, share in zip(PARTS, fractions, strict=True):
        assert (len(parts[part]) > 0) == (share > 0)


@given(st.integers(30, 200), st.integers(0, 9))
def test_parts_of_many_small_groups_have_the_asked_sizes(n_groups, seed):
    split = group_split(np.repeat(np.arange(n_groups), 4), (0.8, 0.1, 0.1), seed)
    sizes = [len(indices) for indices in split.parts().values()]
    np.testing.assert_allclose(sizes, np.array([0.8, 0.1, 0.1]) * 4 * n_groups, atol=4.1)


def test_the_draw_depends_on_the_seed_alone():
    groups = np.repeat(np.arange(40), 3)
    first, again, other = (group_split(groups, (0.8, 0.1, 0.1), seed) for seed in (0, 0, 1))
    assert np.array_equal(first.test, again.test)
    assert not np.array_equal(first.test, other.test)


@given(st.lists(st.tuples(st.integers(0, 15), st.booleans()), min_size=3, max_size=60), st.integers(0, 3))
def test_groups_of_examples_that_must_train_are_never_held_out(rows, seed):
    groups, fixed = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    free = set(groups) - set(groups[fixed])
    assume(len(free) >= 3)
    split = group_split(groups, (0.6, 0.2, 0.2), seed, only_train=fixed)
    assert set(np.flatnonzero(fixed)) <= set(split.train)


def test_fewer_groups_than_parts_are_refused():
    with pytest.raises(InvalidValue, match="number of concepts=2"):
        group_split(["a", "a", "b"], (0.8, 0.1, 0.1), 0, kind="concept")
    with pytest.raises(InvalidValue, match="sum to 1"):
        group_split(["a", "b", "c"], (0.8, 0.1, 0.2), 0)
    with pytest.raises(InvalidValue, match="unknown part"):
        group_split(["a", "b", "c"], {"train": 0.5, "valid": 0.5}, 0)


def test_a_group_in_two_parts_is_refused_by_name():
    with pytest.raises(LeakError, match=r"concept=dog.*train and test"):
        Split([0, 1], [2], [3], kind="concept", groups=["dog", "cat", "cow", "dog"]).check()
    with pytest.raises(LeakError, match=r"example=1.*train and val"):
        Split([0, 1], [1], [2]).check()
    with pytest.raises(LeakError, match="example=1"):
        Split([0, 1, 1], [2], []).check()
    with pytest.raises(InvalidValue, match="below 2"):
        Split([0, 1, 2], [], [], groups=["a", "b"]).check()
    assert Split([0], [1], [2]).check().kind == "group"


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_a_saved_split_comes_back_and_a_leaking_file_is_refused(tmp_path, suffix):
    split = group_split([f"c{k % 7}" for k in range(30)], (0.6, 0.2, 0.2), 3, kind="concept")
    path = split.save(tmp_path / f"split{suffix}")
    found = Split.load(path)
    for part in PARTS:
        assert np.array_equal(found.parts()[part], split.parts()[part])
    assert list(found.groups) == list(split.groups)
    text = path.read_text()
    if suffix == ".csv":
        lines = text.splitlines()
        held_out = next(line for line in lines if ",test," in line)
        path.write_text("\n".join([*lines, held_out.replace("test", "train")]))
    else:
        path.write_text(text.replace('"train": [', f'"train": [{split.test[0]}, '))
    with pytest.raises(LeakError):
        Split.load(path)


def test_files_of_another_layout_are_refused(tmp_path):
    with pytest.raises(InvalidFile, match="readable"):
        Split.load(tmp_path / "none.csv")
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InvalidFile, match="index and split"):
        Split.load(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text("index,split\n1,valid\n")
    with pytest.raises(InvalidFile, match="valid"):
        Split.load(tmp_path / "x.csv")
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(InvalidFile):
        Split.load(tmp_path / "x.json")
    with pytest.raises(InvalidValue, match=r"\.json or \.csv"):
        Split([0], [], []).save(tmp_path / "x.txt")


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=40))
def test_connected_groups_are_the_finest_that_no_label_crosses(pairs):
    left, right = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    group = connected_groups(left, right)
    parent = list(range(len(pairs)))
    changed = True
    while changed:  # label propagation, slow and obvious
        changed = False
        for i in range(len(pairs)):
            for j in range(len(pairs)):
                if (left[i] == left[j] or right[i] == right[j]) and parent[i] != parent[j]:
                    parent[i] = parent[j] = min(parent[i], parent[j])
                    changed = True
    same = np.equal.outer(np.array(parent), np.array(parent))
    assert np.array_equal(np.equal.outer(group, group), same)
    assert group[0] == 0


@given(st.integers(10, 100_000), FRACTIONS, st.floats(0, 3))
def test_parts_in_time_are_in_order_disjoint_and_a_guard_apart(n_samples, fractions, guard_s):
    guard = int(np.ceil(guard_s * 100))
    used = sum(share > 0 for share in fractions)
    assume(n_samples > guard * (used - 1) + 40)
    split = time_split(n_samples, 100.0, fractions, guard_s)
    rows = [(*row, part) for part, stretches in split.parts().items() for row in stretches.tolist()]
    assert len(rows) == used
    assert rows[0][0] == 0
    assert rows[-1][1] == n_samples
    for (_, stop, _), (start, _, _) in pairwise(rows):
        assert start - stop == guard
    room = n_samples - guard * (used - 1)
    for part, share in zip(PARTS, fractions, strict=True):
        length = sum(b - a for a, b in split.parts()[part].tolist())
        assert abs(length - share * room) <= 1


def test_a_recording_too_short_for_its_guard_gaps_is_refused():
    with pytest.raises(InvalidValue, match="guard gaps"):
        time_split(150, 100.0, (0.8, 0.1, 0.1), 1.0)
    with pytest.raises(InvalidValue, match="guard_s"):
        time_split(150, 100.0, (0.8, 0.1, 0.1), -1.0)


def test_stretches_closer_than_the_guard_are_refused(tmp_path):
    with pytest.raises(LeakError, match="gap=5"):
        TimeSplit([[0, 10]], [[15, 20]], [[40, 50]], guard_samples=10).check()
    with pytest.raises(LeakError, match="gap=-2"):
        TimeSplit([[0, 10], [8, 12]], [], []).check()
    good = TimeSplit([[0, 10], [10, 12]], [[22, 30]], [], guard_samples=10).check()
    found = TimeSplit.load(good.save(tmp_path / "t.json"))
    assert found.val.tolist() == [[22, 30]]
    assert found.guard_samples == 10
    with pytest.raises(InvalidFile, match="readable"):
        TimeSplit.load(tmp_path / "none.json")


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 60)), max_size=5), st.integers(1, 30), st.integers(1, 30))
def test_windows_lie_inside_their_stretch_and_none_is_missing(stretches, length, step):
    rows = [(start, start + size) for start, size in stretches]
    expected = sorted(s for a, b in rows for s in range(a, b - length + 1, step))
    assert window_index(np.array(rows).reshape(-1, 2), length, step).tolist() == expected
