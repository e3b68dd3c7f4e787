"""Figures of rollouts take what reports have: lines without values, one context, one window, one channel."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from brainlab.plot import rollout_signals, rollouts

RNG = np.random.default_rng(0)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """What is drawn, kept instead of written."""
    kept: list[Figure] = []

    def keep(figure: Figure, path: Path, dpi: int = 130) -> Path:
        figure.draw_without_rendering()
        if figure not in kept:  # one is written in two formats
            kept.append(figure)
        return path

    for module in (rollouts, rollout_signals):
        monkeypatch.setattr(module, "save_figure", keep)
    return kept


def _labels_overlap(axis: Axes) -> bool:
    boxes = [label.get_window_extent() for label in axis.get_xticklabels() if label.get_rotation() == 0]
    return any(left.x1 > right.x0 for left, right in itertools.pairwise(boxes))


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


def test_the_title_names_the_lines_that_have_bands(drawn: list[Figure]) -> None:
    lines = {name: {"psd_jsd": RNG.random((3, 8))} for name in ("correct", "target_swap", "prompt_swap", "var")}
    rollouts.divergence_curves(Path("x.png"), [1, 2, 3], lines, {"psd_jsd": "PSD"}, "files")
    (axis,) = (axis for axis in drawn[0].axes if axis.axison)
    assert len(axis.collections) == 2
    assert drawn[0].get_suptitle().endswith("8 contexts: medians; bands: quartiles of model and target swap")


def test_distances_in_sliding_windows_have_a_title_of_their_own(drawn: list[Figure]) -> None:
    lines = {"correct": {"psd_jsd": RNG.random((3, 8))}}
    rollouts.divergence_curves(Path("x.png"), [1, 2, 3], lines, {"psd_jsd": "PSD"}, "files")
    rollouts.divergence_curves(Path("x.png"), [1, 2, 3], lines, {"psd_jsd": "PSD"}, "files", in_windows=True)
    titles = [figure.get_suptitle().partition(",")[0] for figure in drawn]
    assert titles == [
        "Distance of rollouts to real continuations", "Distance of rollouts to real continuations in sliding windows"
    ]  # fmt: skip
    assert [figure.axes[0].get_xlabel() for figure in drawn] == ["length compared (s)", "middle of the window (s)"]


def test_few_contexts_are_drawn_each_instead_of_quartiles(drawn: list[Figure]) -> None:
    values = RNG.random((3, 2))
    lines = {"correct": {"psd_jsd": values}, "var": {"psd_jsd": values + 1}}
    rollouts.divergence_curves(Path("x.png"), [1, 2, 3], lines, {"psd_jsd": "PSD"}, "files")
    axis = drawn[0].axes[0]
    assert not axis.collections
    curves = [line.get_ydata() for line in axis.get_lines()]
    np.testing.assert_allclose(curves[1:3], values.T)
    assert len(curves) == 4
    assert drawn[0].get_suptitle().endswith("2 contexts: medians; thin lines: each context of model")
    rollout_signals.power_spectra(Path("x.png"), np.arange(1.0, 4.0), {"real": 1 + values.T}, "files")
    assert not drawn[1].axes[0].collections
    assert drawn[1].axes[0].get_title().endswith("2 contexts: medians; thin lines: each context of real")


@pytest.mark.parametrize("n", [1, 2, 8])
def test_lines_of_a_single_length_stand_side_by_side(drawn: list[Figure], n: int) -> None:
    names = ("correct", "target_swap", "real_real", "var")
    lines = {name: {"psd_jsd": RNG.random((1, n))} for name in names}
    rollouts.divergence_curves(Path("x.png"), [3.48], lines, {"psd_jsd": "PSD"}, "files")
    axis = drawn[0].axes[0]
    assert axis.get_xlabel() == "length compared: 3.48 s"
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["model", "target swap", "real–real", "var"]
    medians = [line for line in axis.get_lines() if not line.get_label().startswith("_")]
    assert [float(line.get_xdata()[0]) for line in medians] == [0, 1, 2, 3]
    said = {
        1: "1 context",
        2: "small dots: each context of model and target swap",
        8: "bars: quartiles of model and target swap",
    }
    assert drawn[0].get_suptitle().endswith(said[n])


def test_ticks_of_close_windows_do_not_overlap(drawn: list[Figure]) -> None:
    lines = {"correct": {"psd_jsd": RNG.random((2, 3))}}
    rollouts.divergence_curves(Path("x.png"), [1.735, 1.745], lines, {"psd_jsd": "PSD"}, "files")
    assert not _labels_overlap(drawn[0].axes[0])


def test_few_contexts_have_no_violin(drawn: list[Figure]) -> None:
    rollouts.distance_violins(Path("x.png"), {"correct": {"psd_jsd": RNG.random(5)}}, {"psd_jsd": "PSD"}, 6.0, "files")
    assert not drawn[0].axes[0].collections
    assert len(drawn[0].axes[0].get_lines()[0].get_xdata()) == 5


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


def test_effects_say_where_none_is_sure(drawn: list[Figure]) -> None:
    for p, said in ((0.01, "filled: corrected p < 0.05"), (0.5, "none is filled"), (None, "none is filled")):
        rollouts.effect_sizes(
            Path("x.png"), {"real_real": {"a": p}}, {"real_real": {"a": 1.0}}, {"a": "A"}, 6.0, "files"
        )
        assert said in drawn[-1].axes[0].get_xlabel()


def test_traces_name_their_channels_and_say_how_large_they_are(drawn: list[Figure]) -> None:
    context, real = RNG.standard_normal((2, 3, 50)), RNG.standard_normal((2, 3, 80))
    rollout_signals.example_traces(
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
        8,
        "files",
    )
    assert drawn[0].axes[0].get_ylabel() == "Hz"
    assert [patch.get_width() for patch in drawn[0].axes[1].patches] == [0.3, 0.2]
    assert drawn[0].axes[0].get_lines()[0].get_marker() == "o"


def test_windows_of_few_contexts_have_no_ranges_and_say_what_is_left_out(drawn: list[Figure]) -> None:
    for times_s in ([2.0], [2.0, 3.0]):
        values = np.sort(RNG.random((5, len(times_s))), axis=0)
        quantiles = {name: {"psd_centroid": values} for name in ("real", "model", "var")}
        outside: dict[str, dict[str, float]] = {"real": {}, "model": {}, "var": {}}
        labels = {"psd_centroid": "spectral centroid"}
        rollouts.window_metrics(Path("x.png"), times_s, quantiles, ["psd_centroid"], labels, outside, 2, "files")
        panel, left_out = drawn[-1].axes
        assert not panel.collections
        assert not left_out.axison
        assert not left_out.patches
        assert [text.get_text() for text in left_out.texts] == ["not defined for 2 contexts"]
        assert drawn[-1].get_suptitle().endswith("medians of 2 contexts; too few for ranges")
        assert not _labels_overlap(panel)


def test_limits_of_spectra_follow_the_band_and_no_outlier(drawn: list[Figure]) -> None:
    """A filter takes the power beyond 45 Hz, a baseline has exploded, another fell silent."""
    frequency = np.arange(1.0, 48.0)
    real = np.tile(np.where(frequency < 45, 1 / frequency, 1e-9), (8, 1))
    spectra = {"real": real, "tokenizer": real / 4, "var": real * 1e12, "context_ar": real * 0}
    rollout_signals.power_spectra(Path("x.png"), frequency, spectra, "files", (1.0, 45.0))
    low, high = drawn[0].axes[0].get_ylim()
    assert 0.1 / 44 / 4 < low < 1 / 44 / 4
    assert 1 < high < 10
    assert _legend(drawn[0]) == [
        "real", "tokenizer's reconstruction", "baseline var (off the scale)", "baseline context_ar (off the scale)",
    ]  # fmt: skip


def test_limits_of_spectra_hold_all_that_is_drawn_of_real_and_model(drawn: list[Figure]) -> None:
    frequency = np.arange(1.0, 41.0)
    for n in (3, 30):
        spectra = {name: np.exp(2 * RNG.standard_normal((n, 40))) for name in ("real", "model", "var")}
        rollout_signals.power_spectra(Path("x.png"), frequency, spectra, "files")
        axis = drawn[-1].axes[0]
        low, high = axis.get_ylim()
        shown = [line.get_ydata() for line in axis.get_lines()]
        shown += [path.vertices[:, 1] for band in axis.collections for path in band.get_paths()]
        assert len(shown) == 3 + (6 if n == 3 else 2)
        assert low < min(each.min() for each in shown) < max(each.max() for each in shown) < high


def test_limits_of_coherence_follow_the_band(drawn: list[Figure]) -> None:
    frequency = np.arange(1.0, 48.0)
    real = np.where(frequency < 45, 0.5 + 0.001 * frequency, 0.99)
    rollout_signals.coherence_panel(
        Path("x.png"),
        frequency,
        {"real": real, "tokenizer": real + 0.1},
        {"real": np.eye(3)},
        "alpha",
        "files",
        (1, 45),
    )
    low, high = drawn[0].axes[0].get_ylim()
    assert 0.45 < low < 0.5
    assert 0.65 < high < 0.7
    assert _legend(drawn[0]) == ["real", "tokenizer's reconstruction"]


def test_levels_of_a_quantiser_count_from_one(drawn: list[Figure]) -> None:
    usage = {"training": np.array([0.02, 0.01, 0.0])}
    rollouts.token_panels(Path("x.png"), np.arange(3.0), np.ones(3), np.ones(2), {"model": 1.0}, usage, "files")
    bits, levels, codes = drawn[0].axes
    assert [tick.get_text() for tick in levels.get_xticklabels()] == ["model", "level 1", "level 2"]
    assert bits.get_ylim()[1] > 1.0
    assert codes.get_ylim()[1] == pytest.approx(0.04)


def test_signals_of_any_length_have_a_spectrogram(drawn: list[Figure]) -> None:
    for n in (30, 1500):
        rollout_signals.spectrograms(Path("x.png"), {"real": RNG.standard_normal(n)}, 100.0, 0.1, "channel", "files")
    assert len(drawn) == 2


def test_silent_signals_have_spectra_and_covariances(drawn: list[Figure]) -> None:
    rollout_signals.power_spectra(Path("x.png"), np.arange(1.0, 9.0), {"real": np.zeros((3, 8))}, "files")
    assert "unit²/Hz" in drawn[0].axes[0].get_ylabel()
    rollout_signals.covariance_matrices(Path("x.png"), {"real": np.zeros((4, 4))}, "files")
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
