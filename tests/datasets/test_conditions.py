"""Which condition holds at which sample: tables with gaps, trigger codes, annotations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from brainlab.datasets.conditions import dense, from_annotations, from_events, from_table, read_table
from brainlab.errors import InvalidFile, InvalidValue
from brainlab.io.recording import Annotation, Event

NAN = float("nan")


def _table(path: Path, *rows: str) -> Path:
    path.write_text("\n".join("\t".join(row.split()) for row in rows) + "\n", encoding="utf-8")
    return path


def test_a_missing_or_zero_duration_lasts_until_the_next_onset_and_the_last_one_for_a_sample() -> None:
    codes = dense([(0.1, NAN, 1), (0.4, 0.0, 2), (0.6, 0.2, 3), (0.95, NAN, 4)], 12, 10.0)
    # Python's rounding: 9.5 is even at 10.
    assert codes.tolist() == [0, 1, 1, 1, 2, 2, 3, 3, 0, 0, 4, 0]
    assert codes.dtype == np.int16


def test_a_range_is_at_least_a_sample_and_never_outside_the_recording() -> None:
    codes = dense([(-0.3, 0.5, 5), (0.5, 0.001, 6), (0.8, 9.0, 7), (50.0, 1.0, 8)], 10, 10.0)
    assert codes.tolist() == [5, 5, 0, 0, 0, 6, 0, 0, 7, 7]


def test_later_onsets_win_whatever_the_order_of_the_rows() -> None:
    rows = [(0.4, 0.3, 2), (0.0, 1.0, 1)]
    assert dense(rows, 10, 10.0).tolist() == dense(rows[::-1], 10, 10.0).tolist() == [1] * 4 + [2] * 3 + [1] * 3


def test_values_with_gaps_take_the_value_above_and_at_the_top_the_value_below(tmp_path: Path) -> None:
    table = _table(
        tmp_path / "e.tsv", "onset duration trial_type value", "1 n/a a n/a", "2 0.5 b 7", "3 0 c n/a", "4 1 d 9.0"
    )
    rows = from_table(read_table(table))
    assert [code for _, _, code in rows] == [7, 7, 7, 9]
    assert [onset for onset, _, _ in rows] == [1, 2, 3, 4]
    assert np.isnan(rows[0][1])


def test_without_numbers_the_names_are_counted_alphabetically_and_without_names_the_rows(tmp_path: Path) -> None:
    named = _table(tmp_path / "a.tsv", "onset duration trial_type value", "1 1 tone x", "2 1 n/a y", "3 1 face n/a")
    assert [code for _, _, code in from_table(read_table(named))] == [2, 0, 1]
    bare = _table(tmp_path / "b.tsv", "onset duration", "0.5 1", "n/a 1", "2.5 1")
    assert [(onset, code) for onset, _, code in from_table(read_table(bare))] == [(0.5, 1), (2.5, 2)]


def test_a_table_without_onsets_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=r"Invalid events=.*e\.tsv: .*onset"):
        read_table(_table(tmp_path / "e.tsv", "time value", "1 2"))


@pytest.mark.parametrize(("value", "error"), [("1.5", "whole numbers"), ("70000", "16 bits")])
def test_codes_that_do_not_fit_are_refused(tmp_path: Path, value: str, error: str) -> None:
    table = _table(tmp_path / "e.tsv", "onset duration value", f"1 1 {value}")
    with pytest.raises(InvalidValue, match=error):
        dense(from_table(read_table(table)), 100, 10.0)


def test_trigger_codes_last_until_the_next_one_and_annotations_as_long_as_they_say() -> None:
    assert dense(from_events([Event(200, 4), Event(500, 9)], 1000.0), 10, 10.0).tolist() == [0, 0, 4, 4, 4, 9] + [0] * 4
    marks = [Annotation(0.2, 0.3, "tone"), Annotation(0.7, 0.1, "face"), Annotation(0.0, 1.0, "BAD_blink")]
    assert dense(from_annotations(marks), 10, 10.0).tolist() == [0, 0, 2, 2, 2, 0, 0, 1, 0, 0]
