"""The reconstruction report: same masks for everyone, honest differences, figures from the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from brainlab.data.eeg_patches import EegPatches
from brainlab.errors import InvalidValue
from brainlab.evaluation.reconstruction import Reconstruction, bootstrap_means
from brainlab.tasks.masked_patches import MaskedPatches

pytest.importorskip("mne")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EegPatches:
    module = EegPatches(cache_dir=str(tmp_path_factory.mktemp("cache")), size="tiny", window_s=2.0, guard_s=1.0)
    module.prepare_data()
    module.setup("fit")
    return module


class _Constant(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x: torch.Tensor, mask: Any = None) -> torch.Tensor:
        return torch.zeros_like(x) + self.value


class _Oracle(nn.Module):
    """Cheats: gives back what it was asked to reconstruct."""

    def forward(self, x: torch.Tensor, mask: Any = None) -> torch.Tensor:
        return x


def _judged(data: EegPatches, encoder: nn.Module, out: Path, **settings: Any) -> Any:
    return Reconstruction(n_bootstrap=200, **settings)(MaskedPatches(encoder=encoder), data, out)


def test_silence_scores_as_the_baseline_of_silence(data: EegPatches, tmp_path: Path) -> None:
    found = _judged(data, _Constant(0.0), tmp_path)
    assert found.headline == "masked_mse"
    silent, zero = found.metric("masked_mse"), found.metric("zero_mse")
    assert (silent.value, silent.low, silent.high) == pytest.approx((zero.value, zero.low, zero.high), rel=1e-6)
    assert silent.chance == found.metric("channel_mean_mse").value
    assert silent.control == found.metric("linear_mse").value
    assert silent.low < silent.value < silent.high
    assert found.metric("gain_over_channel_mean").value == pytest.approx(0.0, abs=0.02)


def test_the_order_of_the_baselines_is_that_of_their_knowledge(data: EegPatches, tmp_path: Path) -> None:
    error = _judged(data, _Constant(0.0), tmp_path).details["mean_squared_error"]
    assert error["covariance"] < error["neighbours"] < error["channel_mean"] <= error["zero"] * 1.02


def test_a_perfect_network_beats_everything_and_the_notes_say_by_how_much(data: EegPatches, tmp_path: Path) -> None:
    found = _judged(data, _Oracle(), tmp_path)
    assert found.metric("masked_mse").value == 0.0
    for name in ("channel_mean", "linear", "neighbours", "covariance"):
        assert found.metric(f"gain_over_{name}").value == 1.0
    assert any("100.0% below channel mean" in note for note in found.notes)


def test_a_bad_network_is_reported_as_worse(data: EegPatches, tmp_path: Path) -> None:
    found = _judged(data, _Constant(1.0), tmp_path)
    assert found.metric("gain_over_linear").high < 0
    assert any("above channel mean" in note for note in found.notes)


def test_masks_do_not_depend_on_the_batch_size(data: EegPatches, tmp_path: Path) -> None:
    size = data.batch_size
    first = _judged(data, _Constant(0.1), tmp_path).details
    data.batch_size = 3
    again = _judged(data, _Constant(0.1), tmp_path).details
    data.batch_size = size
    assert first["hidden_patches"] == again["hidden_patches"]
    assert first["mean_squared_error"] == pytest.approx(again["mean_squared_error"], rel=1e-4)


def test_figures_and_table_are_written(data: EegPatches, tmp_path: Path) -> None:
    found = _judged(data, _Constant(0.0), tmp_path)
    assert [figure.name for figure in found.figures] == ["traces", "spectra", "error_per_channel"]
    for figure in found.figures:
        assert figure.path.parent == tmp_path / "figures"
        assert figure.path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    errors = [f"{value:.5f}" for value in found.details["mean_squared_error"].values()]
    assert [row[1] for row in found.tables[0].rows] == errors


def test_the_task_is_left_in_the_mode_it_was_in(data: EegPatches, tmp_path: Path) -> None:
    task = MaskedPatches(encoder=_Constant(0.0)).train()
    Reconstruction(n_bootstrap=10)(task, data, tmp_path)
    assert task.training


def test_the_bootstrap_resamples_windows_alike_for_every_method() -> None:
    error = {"a": np.array([1.0, 2.0, 3.0]), "b": np.array([2.0, 4.0, 6.0])}
    draws = bootstrap_means(error, np.ones(3), 500, seed=0)
    np.testing.assert_allclose(draws["b"], 2 * draws["a"])
    assert draws["a"].mean() == pytest.approx(2.0, abs=0.1)
    assert draws["a"].std() == pytest.approx(np.std([1, 2, 3]) / np.sqrt(3), rel=0.15)


def test_an_empty_test_part_is_refused(data: EegPatches, tmp_path: Path) -> None:
    empty = EegPatches(
        cache_dir=str(data.cache.root), size="tiny", window_s=2.0, guard_s=1.0, fractions=[0.8, 0.2, 0.0]
    )
    empty.setup("fit")
    with pytest.raises(InvalidValue, match=r"data\.fractions"):
        _judged(empty, _Constant(0.0), tmp_path)
