"""Contexts lie inside one stretch, after the scalers' samples; what is left out is said."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainlab.errors import InvalidValue
from brainlab.evaluation.session_sampler import SessionSampler


class _Data:
    """Rows (session, start, stop) of the test part, and facts of each session."""

    sfreq_hz = 100.0

    def __init__(self, rows: list[tuple[int, int, int]], **facts: Any) -> None:
        self.stretches = {"test": np.array(rows, dtype=np.int64).reshape(-1, 3)}
        self.facts = facts

    def session(self, number: int) -> Any:
        facts = {key: values[number] for key, values in self.facts.items()}
        return SimpleNamespace(name=f"sub-{number:02d}", attrs={"dataset": "omega", "task": "rest", **facts})


def _starts(sampled: Any) -> list[tuple[int, int]]:
    return [(place.session, place.start) for place in sampled.places]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 500), st.integers(1, 3000)), min_size=1, max_size=6),
    span=st.integers(0, 1500),
    place=st.sampled_from(["start", "random", "spread"]),
    stride=st.sampled_from([None, 0.5]),
    seed=st.integers(0, 5),
)
def test_every_context_lies_in_one_stretch_and_is_continued_after_the_scalers(rows, span, place, stride, seed) -> None:
    stretches, reach = [], [0] * 4
    for session, gap, length in rows:
        stretches.append((session, reach[session] + gap, reach[session] + gap + length))
        reach[session] = stretches[-1][2]
    data = _Data(stretches, span=[[0, span]] * 4)
    sampled = SessionSampler(context_s=2.0, total_s=5.0, stride_s=stride, place=place, seed=seed)(data)
    assert len(set(_starts(sampled))) == len(sampled.places)
    assert {place.session for place in sampled.places} | {int(each["session"][-2:]) for each in sampled.dropped} == {
        session for session, _, _ in stretches
    }
    for session, start in _starts(sampled):
        assert any(
            own == session and low <= start and start + sampled.total_steps <= high for own, low, high in stretches
        )
        assert start + sampled.context_steps >= span
    if stride is None:
        for (session, start), (other, later) in zip(_starts(sampled), _starts(sampled)[1:], strict=False):
            assert session != other or later - start >= sampled.total_steps


def test_sessions_take_turns() -> None:
    data = _Data([(0, 0, 9000), (1, 0, 9000), (2, 0, 1200)])
    sampled = SessionSampler(context_s=4, total_s=10, n_contexts=5, place="start")(data)
    assert _starts(sampled) == [(0, 0), (0, 1000), (1, 0), (1, 1000), (2, 0)]
    assert SessionSampler(context_s=4, total_s=10, contexts_per_session=1, place="start")(data).places[1].session == 1


def test_spread_contexts_lie_apart_and_random_ones_follow_the_seed() -> None:
    data = _Data([(0, 0, 10_000)])
    spread = [start for _, start in _starts(SessionSampler(context_s=4, total_s=10, n_contexts=3)(data))]
    assert spread == [0, 5000, 9000]
    drawn = [
        _starts(SessionSampler(context_s=4, total_s=10, n_contexts=3, place="random", seed=s)(data)) for s in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("place", ["start", "spread", "random"])
def test_the_seed_chooses_the_sessions_where_there_are_more_than_contexts(place) -> None:
    data = _Data([(number, 0, 3000) for number in range(20)])

    def sessions(n_contexts: int, seed: int) -> list[int]:
        sampler = SessionSampler(context_s=4, total_s=10, n_contexts=n_contexts, place=place, seed=seed)
        return [session for session, _ in _starts(sampler(data))]

    assert sessions(6, 1) == sessions(6, 1) == sorted(set(sessions(6, 1)))
    assert len({tuple(sessions(6, seed)) for seed in range(4)}) == 4
    assert {session for seed in range(30) for session in sessions(6, seed)} == set(range(20))
    assert sessions(20, 1) == sessions(20, 2) == list(range(20))
    assert sessions(25, 1) == sorted([*range(20), *range(5)])


def test_what_is_dropped_is_said_with_its_reason() -> None:
    data = _Data([(0, 0, 3000), (1, 0, 500), (2, 0, 1200)], span=[[0, 0], [0, 0], [0, 1150]])
    sampled = SessionSampler(context_s=4, total_s=10, min_contexts=1)(data)
    assert [each["session"] for each in sampled.dropped] == ["sub-01", "sub-02"]
    assert "longest 5 s" in sampled.dropped[0]["reason"]
    assert "scalers" in sampled.dropped[1]["reason"]
    assert any("2 of 3 sessions" in note for note in sampled.notes)
    assert sampled.n_sessions == 3


def test_short_recordings_shorten_the_protocol_and_the_note_says_so() -> None:
    sampled = SessionSampler(context_s=10, total_s=20)(_Data([(0, 0, 800), (1, 0, 700)]), multiple=4)
    assert sampled.context_steps == sampled.target_steps == 348
    assert len(sampled.places) == 2
    assert any("too short for 6 contexts of 20 s" in note and "6.96 s" in note for note in sampled.notes)


def test_lengths_are_halved_at_most_for_more_contexts() -> None:
    """Of 67 s, three contexts of 20 s fit; six fit when they are shorter."""
    data = _Data([(0, 0, 6700)])
    sampled = SessionSampler(context_s=10, total_s=20)(data)
    assert len(sampled.places) == 6
    assert sampled.total_steps == 1100
    assert len(SessionSampler(context_s=10, total_s=20, min_contexts=1)(data).places) == 3
    kept = SessionSampler(context_s=10, total_s=20)(_Data([(0, 0, 4500)]))
    assert (len(kept.places), kept.total_steps) == (2, 2000)


def test_a_place_for_one_context_only_is_used_where_two_never_fit() -> None:
    sampled = SessionSampler(context_s=2, total_s=4)(_Data([(0, 0, 250)], span=[[0, 0]]))
    assert len(sampled.places) == 1
    assert sampled.target_steps == 120


def test_contexts_after_long_calibrations_are_shortened_until_two_fit() -> None:
    """Of 75 s the scalers took 60: one context of 20 s would fit."""
    sampled = SessionSampler(context_s=10, total_s=20)(_Data([(0, 0, 7500)], span=[[0, 6000]]))
    assert len(sampled.places) == 2
    assert all(place.start + sampled.context_steps >= 6000 for place in sampled.places)
    assert 1000 <= sampled.total_steps < 2000


def test_lengths_are_whole_frames() -> None:
    sampled = SessionSampler(context_steps=1023, total_steps=2050, min_contexts=1)(_Data([(0, 0, 9000)]), multiple=8)
    assert (sampled.context_steps, sampled.target_steps) == (1016, 1024)
    assert any("whole frames of 8 samples" in note for note in sampled.notes)


def test_sessions_are_chosen_by_data_set_task_and_number() -> None:
    rows = [(n, 0, 3000) for n in range(6)]
    data = _Data(rows, dataset=["omega", "mous"] * 3, task=["rest", "rest", "noise", "resting", "task", "task"])
    assert {p.session for p in SessionSampler(dataset="mous")(data).places} == {1, 3, 5}
    assert {p.session for p in SessionSampler(task="rest")(data).places} == {0, 1, 3}
    some = {p.session for p in SessionSampler(num_sessions=2, seed=3)(data).places}
    assert len(some) == 2
    assert some == {p.session for p in SessionSampler(num_sessions=2, seed=3)(data).places}
    with pytest.raises(InvalidValue, match=r"evaluation\.dataset=camcan: expected one of the test part: \['mous'"):
        SessionSampler(dataset="camcan")(data)


def test_overlapping_contexts_are_announced() -> None:
    sampled = SessionSampler(context_s=4, total_s=10, stride_s=5, min_contexts=1)(_Data([(0, 0, 3000)]))
    assert len(sampled.places) == 5
    assert any("overlap" in note for note in sampled.notes)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"context_s": 20.0}, "expected more than the context of 20 s"),
        ({"context_s": -1.0}, r"evaluation\.context_s=-1.0: expected a positive number"),
        ({"part": "held-out"}, r"evaluation\.part=held-out: expected train, val or test"),
        ({"place": "middle"}, r"evaluation\.place=middle: expected start, random or spread"),
        ({"part": "val"}, "expected usable stretches in the val part"),
    ],
)
def test_what_cannot_be_is_one_sentence(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        SessionSampler(**wrong)(_Data([(0, 0, 3000)]))
