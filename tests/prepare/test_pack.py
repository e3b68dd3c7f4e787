from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from brainlab.errors import ShapeMismatch
from brainlab.io.records import Records, write_records
from brainlab.prepare.pack import PairTargets, alignment_rows, alignment_schema, records_name


def targets(pairs: int = 3, subjects: int = 2, dim: int = 4) -> PairTargets:
    rng = np.random.default_rng(0)
    return PairTargets(
        np.arange(pairs) + 10,
        np.arange(pairs * subjects).reshape(pairs, subjects),
        7 * rng.standard_normal((pairs, subjects, dim)),
        np.ones((pairs, subjects), bool),
        np.arange(pairs) % 2,
    )


def epochs(pairs: int = 3, reps: int = 2) -> dict[int, list[tuple[int, np.ndarray]]]:
    rng = np.random.default_rng(1)
    return {0: [(pair, rng.standard_normal((reps, 5, 6)).astype(np.float32)) for pair in range(pairs)]}


@pytest.mark.parametrize("sfreq_hz", [200, 250])
def test_name_tells_rate_and_subjects(sfreq_hz: float) -> None:
    name = records_name(["sub-01", "sub-02"], ["subj01"], False, sfreq_hz)
    assert name == f"things_sub-01-sub-02_nsd_subj01_{sfreq_hz}Hz"


def test_records_hold_each_trial_with_unit_targets(tmp_path: Path) -> None:
    given, trials = targets(), epochs()
    write_records(tmp_path / "r", alignment_schema(5, 6, 2, 4), alignment_rows(trials, given))
    stored = Records(tmp_path / "r").gather(range(6))
    assert np.array_equal(stored["eeg"], np.concatenate([trial for _, trial in trials[0]]))
    assert np.allclose(np.linalg.norm(stored["target"], axis=-1), 1, atol=1e-6)
    assert stored["image_id"].tolist() == [10, 10, 11, 11, 12, 12]
    assert stored["repetition"].tolist() == [0, 1] * 3
    assert np.array_equal(stored["target_id"], np.repeat(given.target_id, 2, axis=0))


def test_mean_over_trials_gives_one_record_per_pair() -> None:
    trials = epochs()
    rows = list(alignment_rows(trials, targets(), eeg_take_mean=True))
    assert len(rows) == 3
    assert np.allclose(rows[1]["eeg"], trials[0][1][1].mean(axis=0))


def test_crossing_meets_every_repetition_of_the_first_subject() -> None:
    first, second = np.eye(4)[:3], np.stack([np.eye(4)[3], np.full(4, np.nan)])
    rows = list(alignment_rows(epochs(1), targets(1), target_reps={0: [first, second]}))
    assert len(rows) == 2 * 3
    assert [int(row["target"][0].argmax()) for row in rows] == [0, 1, 2, 0, 1, 2]
    assert all(int(row["target"][1].argmax()) == 3 for row in rows)


def test_absent_targets_are_zero() -> None:
    given = targets()
    given.target_mask[1, 0] = False
    row = list(alignment_rows(epochs(), given))[2]
    assert (row["target"][0] == 0).all()
    assert row["target_mask"].tolist() == [False, True]


def test_targets_must_fit_together() -> None:
    given = targets()
    with pytest.raises(ShapeMismatch, match="label"):
        PairTargets(given.image_id, given.target_id, given.target, given.target_mask, given.label[:2])
