from __future__ import annotations

import numpy as np
import pytest

from brainlab.prepare.reliability import repetition_cosines, target_ceilings, top1, unit_rows


def planted(noise: float, n: int = 40, reps: int = 3, dim: int = 20) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, 1, dim)) + noise * rng.standard_normal((n, reps, dim))


def test_cosines_are_listed_by_pair_and_skip_missing_repetitions() -> None:
    reps = planted(0.5)
    reps[3, 2] = np.nan
    found = repetition_cosines(reps)
    assert list(found) == ["1-2", "1-3", "2-3", "mean"]
    a, b = reps[0, 0], reps[0, 1]
    assert found["1-2"][0] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert np.isnan(found["1-3"][3])
    assert found["mean"][3] == pytest.approx(found["1-2"][3])


def test_top1_of_equal_rows_is_one() -> None:
    rows = planted(0.0)[:, 0]
    assert top1(rows, 3 * rows) == 1.0
    assert top1(rows, np.roll(rows, 1, axis=0)) == 0.0


def test_ceilings_fall_with_noise_and_stay_above_chance() -> None:
    labels = np.arange(40) % 5
    scores = []
    for noise in (0.1, 3.0):
        reps = {"subj01": planted(noise), "subj02": planted(noise)[:, ::-1]}
        targets = unit_rows(np.stack([r.mean(axis=1) for r in reps.values()], axis=1))
        found = target_ceilings(targets, reps, labels)
        assert found["label_only"] == pytest.approx(5 / 40)
        assert found["random_pair"] == pytest.approx(1 / 40)
        assert abs(found["random_pair_cosine"]) < 0.1
        scores.append(found)
    assert scores[0]["rep_to_rep"] == 1.0
    assert scores[1]["rep_to_rep"] < 0.5
    assert scores[0]["rep_to_rep_cosine"] > 0.9 > scores[1]["rep_to_rep_cosine"]


def test_undefined_ceilings_are_left_out() -> None:
    one = planted(0.1, reps=1)
    found = target_ceilings(unit_rows(one), {"subj01": one}, np.zeros(40, int))
    assert "rep_to_rep" not in found
    assert "subject_to_subject" not in found
    assert target_ceilings(unit_rows(one[:1]), {}, np.zeros(1, int)) == {}
