"""Training curves are drawn from whatever a run logged."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib
import pytest

from brainlab.plot import training
from brainlab.plot.training import plot_training_curves

matplotlib.use("Agg")


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Draws a history and returns the panels."""
    kept = {}

    def save(figure, path):
        kept["figure"] = figure
        figure.canvas.draw()
        return path

    monkeypatch.setattr(training, "save_figure", save)

    def draw(history):
        assert plot_training_curves(history, tmp_path / "curves.png") is not None
        return [panel for panel in kept["figure"].axes if panel.axison]

    return draw


def test_training_and_validation_of_one_quantity_share_a_panel(drawn) -> None:
    panels = drawn(
        {"train/loss": [(0, 3.0), (1, 2.0)], "val/loss": [(1, 2.5), (2, 2.4)], "val/top1": [(1, 0.1), (2, 0.2)]}
    )

    assert [panel.get_title() or panel.get_ylabel() for panel in panels] == ["loss", "top1"]
    assert [line.get_xydata().tolist() for line in panels[0].get_lines()] == [[[0, 3], [1, 2]], [[1, 2.5], [2, 2.4]]]
    assert len({line.get_color() for line in panels[0].get_lines()}) == 2
    assert [text.get_text() for text in panels[0].get_legend().get_texts()] == ["training", "validation"]


def test_a_single_value_is_a_dot_that_can_be_seen(drawn) -> None:
    panels = drawn({"train/loss_step": [(0, 3.0)], "val/loss": [(1, 2.5)], "val/top1": [(1, 0.1)]})

    for panel in panels:
        assert all(line.get_marker() == "o" for line in panel.get_lines())
    low, high = panels[1].get_ylim()
    assert low < 0.1 < high


def test_metrics_without_a_finite_value_take_no_panel(drawn, tmp_path: Path) -> None:
    history = {f"train/empty{n}": [(0, math.nan)] for n in range(9)} | {
        "val/zeta": [],
        "train/zoom": [(0, 1.0), (1, math.inf)],
    }

    (panel,) = drawn(history)

    assert [line.get_xydata().tolist() for line in panel.get_lines()] == [[[0, 1]]]
    assert plot_training_curves({"val/loss": [(0, math.nan)]}, tmp_path / "none.png") is None
