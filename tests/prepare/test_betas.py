from __future__ import annotations

import numpy as np
import pytest

from brainlab.errors import InvalidValue
from brainlab.prepare.betas import average_by_picture, normalise_betas


def trials() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    session = np.repeat([0, 1], 30)
    return (rng.standard_normal((60, 8)) * 3 + 5 + 10 * session[:, None]).astype(np.float32), session


def test_training_statistics_do_not_see_held_out_trials() -> None:
    betas, session = trials()
    train = np.arange(60) < 40
    first = normalise_betas(betas, session, train=train)
    assert np.allclose(first[train].mean(axis=0), 0, atol=1e-5)
    assert np.allclose(first[train].std(axis=0), 1, atol=1e-5)
    changed = betas.copy()
    changed[~train] *= 50
    assert np.array_equal(normalise_betas(changed, session, train=train)[train], first[train])


def test_session_mode_standardises_each_session() -> None:
    betas, session = trials()
    result = normalise_betas(betas, session, mode="session")
    for name in (0, 1):
        assert np.allclose(result[session == name].mean(axis=0), 0, atol=1e-5)
        assert np.allclose(result[session == name].std(axis=0), 1, atol=1e-5)


def test_a_still_voxel_becomes_zero() -> None:
    betas, session = trials()
    betas[:, 2] = 7.3
    assert (normalise_betas(betas, session, mode="session")[:, 2] == 0).all()


def test_training_mode_needs_training_trials() -> None:
    betas, session = trials()
    with pytest.raises(InvalidValue, match="training trials"):
        normalise_betas(betas, session, train=np.zeros(60, bool))
    with pytest.raises(InvalidValue, match="expected one of"):
        normalise_betas(betas, session, mode="voxel")  # type: ignore[arg-type]


def test_average_over_repetitions() -> None:
    ids, mean, count = average_by_picture(np.array([[1.0], [5.0], [3.0], [2.0]]), np.array([9, 4, 9, 9]))
    assert ids.tolist() == [4, 9]
    assert mean[:, 0].tolist() == [5.0, 2.0]
    assert count.tolist() == [1, 3]
