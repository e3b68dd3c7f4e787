from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from brainlab.errors import InvalidFile, InvalidValue, ShapeMismatch
from brainlab.prepare.ridge import check_betas, fit_ridge, import_mindeye2_ridge, load_ridge


def data(n: int = 60, voxels: int = 20, targets: int = 7, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, voxels)) + 2.0
    y = x @ rng.standard_normal((voxels, targets)) + noise * rng.standard_normal((n, targets)) + 5.0
    return x, y


@pytest.mark.parametrize("voxels", [10, 90])
def test_ridge_solves_the_normal_equations(voxels: int) -> None:
    x, y = data(voxels=voxels)
    ridge = fit_ridge(x, y, penalties=[0.3], standardise=False)
    centred = x - x.mean(axis=0)
    weight = np.linalg.solve(centred.T @ centred + ridge.penalty * np.eye(voxels), centred.T @ (y - y.mean(axis=0))).T
    assert np.allclose(ridge.weight, weight, rtol=1e-4, atol=1e-5)
    assert np.allclose(ridge.project(x), centred @ weight.T + y.mean(axis=0), atol=1e-3)


@pytest.mark.parametrize("voxels", [10, 90])
def test_score_is_that_of_refitting_without_each_picture(voxels: int) -> None:
    x, y = data(n=25, voxels=voxels, noise=3.0)
    ridge = fit_ridge(x, y, penalties=[0.5], standardise=False)
    error = 0.0
    for held in range(len(x)):
        rest = np.arange(len(x)) != held
        centred = x[rest] - x[rest].mean(axis=0)
        inverse = np.linalg.inv(centred.T @ centred + ridge.penalty * np.eye(voxels))
        weight = inverse @ centred.T @ (y[rest] - y[rest].mean(axis=0))
        error += float(((y[held] - y[rest].mean(axis=0) - (x[held] - x[rest].mean(axis=0)) @ weight) ** 2).sum())
    assert ridge.cv_score == pytest.approx(1 - error / ((y - y.mean(axis=0)) ** 2).sum(), rel=1e-6)


def test_penalty_grows_with_noise() -> None:
    clean = fit_ridge(*data(noise=0.1))
    noisy = fit_ridge(*data(noise=30.0))
    assert noisy.penalty > 10 * clean.penalty
    assert clean.cv_score > 0.95
    assert noisy.cv_score < 0.3


def test_repetitions_of_a_picture_are_left_out_together() -> None:
    rng = np.random.default_rng(1)
    picture = np.repeat(np.arange(40), 3)
    # Voxels say nothing about the target but carry each picture's own signature.
    x = rng.standard_normal((40, 200))[picture] + 0.1 * rng.standard_normal((120, 200))
    y = rng.standard_normal((40, 5))[picture]
    assert fit_ridge(x, y, groups=picture).cv_score < 0.1
    assert fit_ridge(x, y).cv_score > 0.8


def test_target_is_standardised_on_the_fitted_rows() -> None:
    x, y = data(noise=0.0)
    y[:, 2] = 4.0
    projected = fit_ridge(x, y * 100.0, penalties=[1e-9]).project(x)
    assert np.allclose(projected.mean(axis=0), 0, atol=1e-3)
    assert np.allclose(projected.std(axis=0)[[0, 1, 3]], 1, atol=1e-2)
    assert np.allclose(projected[:, 2], 0, atol=1e-5)


def test_mean_then_ridge_is_ridge_then_mean() -> None:
    x, y = data()
    ridge = fit_ridge(x, y)
    reps = np.random.default_rng(2).standard_normal((10, 3, 20)).astype(np.float32)
    assert np.allclose(ridge.project(reps).mean(axis=1), ridge.project(reps.mean(axis=1)), atol=1e-4)


def test_ridge_survives_a_file(tmp_path: Path) -> None:
    ridge = fit_ridge(*data(), name="subj01")
    ridge.save(tmp_path / "ridge.safetensors")
    loaded = load_ridge(tmp_path / "ridge.safetensors")
    assert np.array_equal(loaded.weight, ridge.weight)
    assert (loaded.name, loaded.cv_score, loaded.n_fitted) == ("subj01", ridge.cv_score, 60)


def test_two_tensors_are_taken_from_a_mindeye2_checkpoint(tmp_path: Path) -> None:
    import torch

    weight, bias = torch.randn(16, 9), torch.randn(16)
    state = {"ridge.linears.0.weight": weight, "ridge.linears.0.bias": bias, "backbone.x": torch.zeros(3)}
    torch.save({"model_state_dict": state, "epoch": 3}, tmp_path / "last.pth")
    cached = tmp_path / "ridge.safetensors"
    ridge = import_mindeye2_ridge(tmp_path / "last.pth", cached=cached)
    assert np.array_equal(ridge.weight, weight.numpy())
    (tmp_path / "last.pth").unlink()
    assert np.array_equal(import_mindeye2_ridge(tmp_path / "last.pth", cached=cached).bias, bias.numpy())
    torch.save({"model_state_dict": {"backbone.x": torch.zeros(3)}}, tmp_path / "other.pth")
    with pytest.raises(InvalidFile, match=r"ridge\.linears\.0\.weight"):
        import_mindeye2_ridge(tmp_path / "other.pth")


def test_betas_that_do_not_fit_the_ridge_are_refused() -> None:
    good = np.random.default_rng(0).standard_normal((200, 30)).astype(np.float32)
    check_betas(good, 30, ridge="r")
    with pytest.raises(ShapeMismatch, match=r"30 voxels.*expected 31"):
        check_betas(good, 31, ridge="r")
    for wrong in (good * 3, good + 2):
        with pytest.raises(InvalidValue, match="beta_normalisation"):
            check_betas(wrong, 30, ridge="r", where="betas_session01.hdf5")


def test_bad_rows_are_refused() -> None:
    x, y = data()
    with pytest.raises(ShapeMismatch, match="60 rows"):
        fit_ridge(x, y[:-1])
    with pytest.raises(InvalidValue, match="rows=2"):
        fit_ridge(x[:2], y[:2])
    x[3, 3] = np.nan
    with pytest.raises(InvalidValue, match="betas=1 NaN"):
        fit_ridge(x, y)
