"""Scaling, clipping and cleaning, against cases worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainlab.datasets.recordings import RecordingFile
from brainlab.errors import InvalidFile, InvalidValue
from brainlab.io.recording import Event
from brainlab.prepare.steps.cleaning import Clean, bad_windows, good_segments
from brainlab.prepare.steps.scaling import Clip, RobustScale, StandardScale, Unit
from brainlab.prepare.steps.session import Discarded, RawSession


def session(samples: Any, sfreq_hz: float = 1.0, kinds: Any = "eeg", **facts: Any) -> RawSession:
    samples = np.array(samples, dtype=float)
    info = mne.create_info(len(samples), sfreq_hz, kinds, verbose="ERROR")
    raw = mne.io.RawArray(samples, info, verbose="ERROR")
    return RawSession(raw, RecordingFile(Path("a.fif"), "a", "d", "s", "a"), **facts)


def first_half(file: RecordingFile, n_samples: int, sfreq_hz: float) -> tuple[int, int]:
    return 0, n_samples // 2


def test_robust_scaling_uses_median_and_linear_quartiles_and_leaves_a_constant_channel_undivided():
    one = session([[0.0, 1.0, 2.0, 3.0, 14.0], [7.0] * 5])
    RobustScale("recording")(one)
    np.testing.assert_allclose(one.samples[0], [-1.0, -0.5, 0.0, 0.5, 6.0])  # median 2, quartiles 1 and 3
    np.testing.assert_allclose(one.samples[1], 0.0)
    assert one.scalers is not None
    np.testing.assert_allclose(one.scalers.centre, [2.0, 7.0])
    np.testing.assert_allclose(one.scalers.scale, [2.0, 1.0])


@pytest.mark.parametrize("step", [RobustScale(), StandardScale()])
def test_statistics_come_from_the_training_span_alone(step):
    rng = np.random.default_rng(0)
    early, late = rng.normal(3, 2, (2, 500)), rng.normal(100, 50, (2, 500))
    one = session(np.concatenate([early, late], axis=1), training_span=first_half)
    step(one)
    alone = session(early)
    type(step)("recording")(alone)
    np.testing.assert_array_equal(one.samples[:, :500], alone.samples)
    assert one.used_span_s == (0.0, 500.0)


def test_standard_scaling_uses_the_population_deviation():
    one = session([[1.0, 3.0], [5.0, 5.0]])
    StandardScale("recording")(one)
    np.testing.assert_allclose(one.samples, [[-1.0, 1.0], [0.0, 0.0]])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_scalers_lead_back_to_the_physical_values_through_any_number_of_scalings(seed):
    rng = np.random.default_rng(seed)
    samples = rng.normal(rng.normal(0, 5), rng.uniform(0.1, 9), (3, 60))
    one = session(samples, training_span=first_half)
    for step in (Unit(1e-4), RobustScale(), StandardScale("recording")):
        step(one)
    assert one.scalers is not None
    back = one.samples * one.scalers.scale[:, None] + one.scalers.centre[:, None]
    np.testing.assert_allclose(back, samples, rtol=1e-10, atol=1e-10)


def test_an_empty_training_span_is_refused_by_file():
    with pytest.raises(InvalidFile, match=r"training span=\(0, 0\).*a\.fif.*Hint: statistics: recording"):
        RobustScale()(session([[1.0]], training_span=first_half))


def test_clipping_limits_each_channel_to_its_mean_and_population_deviations_and_counts():
    one = session([[0.0] * 8 + [10.0, -10.0], [1.0] * 10])
    Clip(1.0, "recording")(one)
    limit = np.sqrt(20.0)  # mean 0, population variance 200 / 10
    np.testing.assert_allclose(one.samples[0, -2:], [limit, -limit])
    np.testing.assert_allclose(one.samples[0, :8], 0.0)
    np.testing.assert_allclose(one.samples[1], 1.0)
    assert one.facts[-1]["clipped_pct"] == 10.0  # 2 of 20


def test_clipping_is_at_3_deviations_unless_told_otherwise_and_every_experiment_tells():
    one = session([[0.0] * 99 + [100.0]])
    Clip(statistics="recording")(one)
    np.testing.assert_allclose(one.samples[0, -1], 1 + 3 * np.sqrt(99.0))  # mean 1, population variance 99
    for file in (Path(__file__).resolve().parents[2] / "conf").rglob("*.yaml"):
        _, *uses = file.read_text(encoding="utf-8").split("scaling.Clip\n")
        assert all(use.strip().startswith("k: ") for use in uses), file


def test_units_are_per_kind_and_named():
    one = session([[1e-4], [2e-12]], kinds=["eeg", "mag"])
    Unit(1e-4, 1e-12)(one)
    np.testing.assert_allclose(one.samples, [[1.0], [2.0]])
    assert one.units == {"0": "0.0001 V", "1": "1e-12 T"}


def windows(*deviations: float, width: int = 4, tail: int = 0) -> np.ndarray:
    """Two channels of windows whose samples are ± the wanted deviation."""
    signs = np.tile([1.0, -1.0], width // 2)
    row = np.concatenate([deviation * signs for deviation in deviations] + [np.full(tail, 99.0)])
    return np.array([row, -row])


def test_a_window_is_bad_when_it_exceeds_the_threshold_and_the_tail_is_not_judged():
    found = bad_windows(windows(1.0, 1.5, 1.6, 0.0, tail=3), 4, 1.5)
    assert found.tolist() == [False, False, True, False]
    assert bad_windows(windows(1.0)[:, :3], 4, 1.5).tolist() == []


def test_a_window_s_deviation_is_over_channels_and_time_together():
    samples = np.array([[2.0] * 4, [-2.0] * 4])  # no channel varies, together they do
    assert bad_windows(samples, 4, 1.9).tolist() == [True]


def test_runs_are_cut_to_the_longest_and_short_rests_are_dropped():
    bad = np.array([0, 0, 0, 0, 0, 1, 0, 1, 0, 0], dtype=bool)
    assert good_segments(bad, 10, 2, 0) == [(0, 20), (20, 40), (40, 50), (60, 70), (80, 100)]
    assert good_segments(bad, 10, 2, 20) == [(0, 20), (20, 40), (80, 100)]
    assert good_segments(np.ones(3, dtype=bool), 10, 2, 0) == []
    assert good_segments(np.zeros(0, dtype=bool), 10, 2, 0) == []


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 7), st.integers(1, 5), st.integers(0, 20))
def test_segments_hold_good_windows_only_in_order_without_overlap(bad, width, most, least):
    segments = good_segments(np.array(bad, dtype=bool), width, most, least)
    inside = [k for start, stop in segments for k in range(start, stop)]
    assert inside == sorted(set(inside))
    assert not any(bad[k // width] for k in inside)
    assert all(max(1, least) <= stop - start <= most * width for start, stop in segments)
    if least <= width:
        assert len(inside) == width * (len(bad) - sum(bad))


CLEAN = Clean(window_s=4.0, std_threshold=1.5, max_bad_pct=30.0, clip=10.0, max_segment_s=8.0, min_segment_s=8.0)


def test_cleaning_keeps_good_stretches_and_every_sample():
    one = session(windows(1, 1, 1, 9, 1, 1, tail=2), events=(Event(13, 208),))
    CLEAN(one)
    assert one.segments == [(0, 8), (16, 24)]  # the third window alone is too short
    assert one.n_samples == 26
    assert one.samples[0, 12] == 9.0
    assert one.samples[0, -1] == 10.0  # the tail is clipped as everything is
    assert one.events == (Event(13, 208),)
    assert one.facts[-1] == {
        "step": "Clean", "total": 6, "bad": 1, "bad_pct": 16.6667, "kept": 5, "clipped_pct": round(100 * 4 / 52, 4),
        "segments_kept": 2, "discarded": False, "discard_reason": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("samples", "change", "reason", "words"),
    [
        (windows(1)[:, :3], {}, "too_short", "3.0 s, expected at least one window of 4 s"),
        (windows(1, 1, 9, 9), {}, "too_many_bad_windows", "50.0 % of the windows"),
        (windows(9, 9), {"max_bad_pct": 100}, "no_good_windows", "expected a calmer one"),
        (windows(1, 9, 1, 1)[:, :12], {"max_bad_pct": 50}, "no_segments", "8.0 s usable, 4.0 s at a stretch"),
        (
            windows(1, 1, 9, 1, 1, 1),
            {"max_segment_s": 12, "min_first_segment_s": 12},
            "first_segment_too_short",
            "8.0 s, expected 12 s",
        ),
    ],
)
def test_a_session_is_discarded_with_the_first_reason_that_applies(samples, change, reason, words):
    with pytest.raises(Discarded) as caught:
        replace(CLEAN, **change)(session(samples))
    assert caught.value.reason == reason
    assert words in caught.value.words
    assert "data.steps.clean." in caught.value.hint
    assert caught.value.facts["discard_reason"] == reason
    assert caught.value.facts["total"] == samples.shape[1] // 4


def test_exactly_the_allowed_share_of_bad_windows_is_kept():
    one = session(windows(1, 1, 1, 1, 9))
    replace(CLEAN, max_bad_pct=20)(one)
    assert one.segments == [(0, 8), (8, 16)]


def test_window_and_lengths_round_as_defined():
    # w = round(0.25 · 10) = 2 (half to even), at most int(1.1 / 0.25) = 4 windows, at least int(0.39 · 10) = 3 samples
    one = session(np.zeros((1, 15)) + 0.5, 10.0)
    Clean(window_s=0.25, max_segment_s=1.1, min_segment_s=0.39)(one)
    assert one.segments == [(0, 8), (8, 14)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Clean(window_s=0),
        lambda: Clean(clip=-1),
        lambda: Clean(window_s=5, max_segment_s=4),
        lambda: Clip(0),
        lambda: Unit(0),
        lambda: RobustScale("test"),  # type: ignore[arg-type]
        lambda: StandardScale("all"),  # type: ignore[arg-type]
    ],
)
def test_settings_without_meaning_are_refused(make):
    with pytest.raises(InvalidValue, match="expected"):
        make()
