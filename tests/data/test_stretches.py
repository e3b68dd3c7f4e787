"""Stretches and the windows in them: golden windows through a store, and no border is ever crossed."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainlab.data.layout import CanonicalStore, canonical_layout
from brainlab.data.stretches import inside, usable_segments, without
from brainlab.data.token_windows import on_frames
from brainlab.data.windows import regular_windows, samples_of
from brainlab.io.recording import Channel
from brainlab.io.store import Store, StoreWriter


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict:
    return json.loads((golden_dir / "meg/04_datasplitter.json").read_text())


@pytest.fixture(scope="module")
def store(golden: dict, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The golden tree: chunks of a session follow each other and are its segments."""
    folder = tmp_path_factory.mktemp("golden")
    rng = np.random.default_rng(0)
    with StoreWriter(folder) as writer:
        for entry in golden["tree"]:
            ends = np.cumsum([0, *entry["lengths"]]).tolist()
            writer.add_session(
                entry["session"],
                rng.standard_normal((len(entry["ch_names"]), ends[-1])).astype(np.float32),
                100.0,
                [Channel(name, "mag") for name in entry["ch_names"]],
                attrs={"segments": list(itertools.pairwise(ends)), "system": entry["dataset"]},
            )
    return Store(folder)


@pytest.mark.parametrize(
    ("example_s", "overlap_s", "key"), [(1.0, 0.5, "windows"), (0.333, 0.111, "frac")], ids=["whole", "fractional"]
)
def test_golden_windows_come_out_of_a_store(
    golden: dict, store: Store, example_s: float, overlap_s: float, key: str
) -> None:
    length, overlap = samples_of(example_s, 100.0), samples_of(overlap_s, 100.0)
    segments = [usable_segments(session) for session in store.sessions]
    rows = inside([[(0, session.n_samples)] for session in store.sessions], segments)
    seen = CanonicalStore(store, canonical_layout(store.sessions))
    windows = regular_windows(seen, rows, length, length - overlap)
    found = []
    for session, start in zip(windows.sessions.tolist(), windows.starts.tolist(), strict=True):
        chunk = next(n for n, (a, b) in enumerate(segments[session]) if a <= start and start + length <= b)
        entry = golden["tree"][session]
        found.append([entry["dataset"], entry["session"], f"{chunk}.npy", start - segments[session][chunk][0]])
    if key == "windows":
        assert found == golden["windows"]
    else:
        assert len(found) == golden["frac"]["n_windows"]
        assert found[:8] == golden["frac"]["first8"]
    batch = windows.__getitems__([0, len(windows) - 1])
    assert batch["signal"].shape == (2, 7, length)


def spans(draw: st.DrawFn, most: int) -> list[tuple[int, int]]:
    """Runs that do not overlap, some of them side by side."""
    cuts = sorted(draw(st.sets(st.integers(0, 200), min_size=2, max_size=most)))
    return [run for run in itertools.pairwise(cuts) if draw(st.booleans())]


@st.composite
def recordings(draw: st.DrawFn) -> tuple[list, list, list]:
    n = draw(st.integers(1, 3))
    blocks, segments = [spans(draw, 4) for _ in range(n)], [spans(draw, 8) for _ in range(n)]
    bad = [sorted(draw(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 30)), max_size=4))) for _ in range(n)]
    return blocks, segments, [[(start, start + length) for start, length in own] for own in bad]


@given(recordings(), st.integers(1, 9))
def test_no_stretch_crosses_a_block_a_segment_or_a_bad_span(known: tuple[list, list, list], hop: int) -> None:
    blocks, segments, bad = known
    rows = without(inside(blocks, segments), bad)
    expected = np.zeros((len(blocks), 240), dtype=bool)
    for session, (own, usable, spoilt) in enumerate(zip(blocks, segments, bad, strict=True)):
        good = np.zeros(240, dtype=bool)
        for start, stop in own:
            good[start:stop] = True
        fine = np.zeros(240, dtype=bool)
        for start, stop in usable:
            fine[start:stop] = True
        expected[session] = good & fine
        for start, stop in spoilt:
            expected[session, start:stop] = False
    covered = np.zeros_like(expected)
    for session, start, stop in rows.tolist():
        assert start < stop
        assert not covered[session, start:stop].any(), "stretches overlap"
        covered[session, start:stop] = True
        assert any(a <= start and stop <= b for a, b in segments[session])
        assert any(a <= start and stop <= b for a, b in blocks[session])
        assert not any(start < a < stop for a, b in bad[session] if a == b), "a boundary is crossed"
    np.testing.assert_array_equal(covered, expected)
    for session, start, stop in on_frames(rows, segments, hop).tolist():
        first = next(a for a, b in segments[session] if a <= start and stop <= b)
        assert (start - first) % hop == 0 == (stop - start) % hop
        assert covered[session, start:stop].all()
