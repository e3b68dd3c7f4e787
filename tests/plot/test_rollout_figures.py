"""Figures of rollouts take what reports have: lines without values, one context, one window, one channel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from brainlab.plot import rollouts

RNG = np.random.default_rng(0)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """What is drawn, kept instead of written."""
    kept: list[Figure] = []

    def keep(figure: Figure, path: Path, dpi: int = 130) -> Path:
        figure.draw_without_rendering()
        kept.append(figure)
        return path

    monkeypatch.setattr(rollouts, "save_figure", keep)
    return kept


def _legend(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_a_line_without_values_is_left_out(drawn: list[Figure]) -> None:
    values = RNG.random((3, 8))
    lines = {
        "correct": {"psd_jsd": values},
        "target_swap": {"psd_jsd": values + 1},
        "var": {"psd_jsd": values * np.nan},
    }
    rollouts.divergence_curves(Path("x.png"), [1, 2, 3], lines, {"psd_jsd": "PSD"}, "files")
    assert _legend(drawn[0]) == ["model, own continuation", "target swap"]
    curves = [line.get_ydata() for line in drawn[0].axes[0].get_lines()]
    np.testing.assert_allclose(curves[0], np.median(values, axis=1))
    assert "recorded data" in drawn[0].get_suptitle()


def test_a_line_may_end_before_the_others(drawn: list[Figure]) -> None:
    values = RNG.random((2, 5))
    values[1] = np.nan
    lines = {"own_context": {"covariance": values}}
    rollouts.divergence_curves(Path("x.png"), [1, 2], lines, {"covariance": "covariance"}, "synthetic")
    (curve,) = (line.get_ydata() for line in drawn[0].axes[0].get_lines())
    assert np.isfinite(curve[0])
    assert np.isnan(curve[1])


def test_every_context_is_a_dot_and_one_context_needs_no_violin(drawn: list[Figure]) -> None:
    for n in (1, 7):
        lines = {"correct": {"psd_jsd": RNG.random(n)}, "var": {"psd_jsd": np.full(n, np.nan)}}
        rollouts.distance_violins(Path("x.png"), lines, {"psd_jsd": "PSD"}, 6.0, "files")
        axis = drawn[-1].axes[0]
        assert len(axis.get_lines()[0].get_xdata()) == n
        assert [tick.get_text() for tick in axis.get_xticklabels()] == ["model"]
        assert len(axis.collections) == (n > 1)


def test_effects_are_filled_where_the_corrected_test_is_sure(drawn: list[Figure]) -> None:
    """No test (two contexts, say) is no sureness, however far the interval is from 0."""
    p = {"target_swap": {"a": 0.01, "b": 0.2, "c": None}}
    shares = {"target_swap": {"a": 0.9, "b": 0.6, "c": 1.0}}
    rollouts.effect_sizes(Path("x.png"), p, shares, {"a": "A", "b": "B", "c": "C"}, 6.0, "files")
    dots = drawn[0].axes[0].get_lines()[:3]
    assert [dot.get_markerfacecolor() == "white" for dot in dots] == [False, True, True]
    assert [float(dot.get_xdata()[0]) for dot in dots] == [0.9, 0.6, 1.0]


def test_traces_name_their_channels_and_say_how_large_they_are(drawn: list[Figure]) -> None:
    context, real = RNG.standard_normal((2, 3, 50)), RNG.standard_normal((2, 3, 80))
    rollouts.example_traces(
        Path("x.png"), context, real, {"model": real}, 100.0, ["s1", "s2"], ["MLC11", "MLC12", "MLC13"], "files"
    )
    assert [tick.get_text() for tick in drawn[0].axes[0].get_yticklabels()] == ["MLC11", "MLC12", "MLC13"]
    assert "data units apart" in drawn[0].get_suptitle()


def test_a_single_window_is_drawn_as_a_point(drawn: list[Figure]) -> None:
    values = np.sort(RNG.random((5, 1)), axis=0)
    quantiles = {"real": {"psd_centroid": values}, "model": {"psd_centroid": values}}
    rollouts.window_metrics(
        Path("x.png"),
        [2.0],
        quantiles,
        ["psd_centroid"],
        {"psd_centroid": "spectral centroid"},
        {"real": {"psd_centroid": 0.3}, "model": {"psd_centroid": 0.2}},
        "files",
    )
    assert drawn[0].axes[0].get_ylabel() == "Hz"
    assert [patch.get_width() for patch in drawn[0].axes[1].patches] == [0.3, 0.2]
    assert drawn[0].axes[0].get_lines()[0].get_marker() == "o"


def test_signals_of_any_length_have_a_spectrogram(drawn: list[Figure]) -> None:
    for n in (30, 1500):
        rollouts.spectrograms(Path("x.png"), {"real": RNG.standard_normal(n)}, 100.0, 0.1, "channel", "files")
    assert len(drawn) == 2


def test_silent_signals_have_spectra_and_covariances(drawn: list[Figure]) -> None:
    rollouts.power_spectra(Path("x.png"), np.arange(1.0, 9.0), {"real": np.zeros((3, 8))}, "files")
    assert "unit²/Hz" in drawn[0].axes[0].get_ylabel()
    rollouts.covariance_matrices(Path("x.png"), {"real": np.zeros((4, 4))}, "files")
    rollouts.token_panels(
        Path("x.png"),
        np.arange(4.0),
        np.ones(4),
        np.ones(1),
        {"model": 1.0},
        {"training": np.array([1.0, 0.0])},
        "files",
    )
    assert len(drawn) == 3
