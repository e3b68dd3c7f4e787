"""Greedy, optimal and candidate-list matching against plain reference implementations."""

from __future__ import annotations

import logging
import tracemalloc

import numpy as np
import pytest

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.prepare.match import Matching, greedy_match, intersect_matchings, match, optimal_match


def reference_similarity(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    def unit(rows: np.ndarray) -> np.ndarray:
        rows = rows.astype(np.float64)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32).astype(np.float64)

    return np.round(unit(left) @ unit(right).T, 10)


def reference_greedy(left: np.ndarray, right: np.ndarray, limit: int | None = None) -> list[tuple[int, int]]:
    similarity = reference_similarity(left, right)
    rows, columns = np.indices(similarity.shape)
    order = np.lexsort((columns.ravel(), rows.ravel(), -similarity.ravel()))[:limit]
    used_left: set[int] = set()
    used_right: set[int] = set()
    pairs = []
    for entry in order.tolist():
        row, column = divmod(entry, similarity.shape[1])
        if row not in used_left and column not in used_right:
            used_left.add(row)
            used_right.add(column)
            pairs.append((row, column))
    return pairs


def pairs(found: Matching) -> list[tuple[int, int]]:
    return list(zip(found.left.tolist(), found.right.tolist(), strict=True))


def embeddings(n: int, m: int, dim: int, kind: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    left, right = rng.standard_normal((n, dim)), rng.standard_normal((m, dim))
    if kind == "duplicates":
        left[n // 2 :], right[m // 2 :] = left[: n - n // 2], right[: m - m // 2]
    elif kind == "ties":
        left, right = np.sign(left), np.sign(right)
    elif kind == "hubs":  # everybody's best partner is one of a few
        left += 4.0
        right[: m // 10] += 4.0
    return left.astype(np.float32), right.astype(np.float32)


@pytest.mark.parametrize("kind", ["plain", "duplicates", "ties", "hubs"])
@pytest.mark.parametrize(("n", "m"), [(60, 60), (90, 230), (230, 90), (1, 5), (5, 1)])
def test_greedy_equals_sorting_every_similarity(n: int, m: int, kind: str) -> None:
    left, right = embeddings(n, m, 6, kind)
    for length in (2, 32):
        assert pairs(greedy_match(left, right, list_length=length)) == reference_greedy(left, right)


def test_greedy_handles_pictures_that_are_all_alike() -> None:
    left, right = np.ones((20, 4), np.float32), np.ones((30, 4), np.float32)
    assert pairs(greedy_match(left, right, list_length=4)) == [(i, i) for i in range(20)]


def test_every_possible_pair_is_returned_and_top_k_is_a_prefix() -> None:
    left, right = embeddings(120, 80, 5, "hubs")
    everything = match(left, right)
    assert len(everything) == 80
    assert len(set(everything.left)) == len(set(everything.right)) == 80
    assert (np.diff(everything.similarity) <= 0).all()
    assert pairs(match(left, right, top_k=30)) == pairs(everything)[:30]
    assert len(match(left, right, top_k=10_000)) == 80


def test_scale_of_the_embeddings_does_not_matter() -> None:
    left, right = embeddings(50, 40, 6, "plain")
    assert pairs(greedy_match(left * 8, right / 4)) == pairs(greedy_match(left, right))


def test_candidate_list_walks_only_the_most_similar_entries(caplog: pytest.LogCaptureFixture) -> None:
    left, right = embeddings(100, 80, 5, "hubs")
    with caplog.at_level(logging.WARNING):
        found = match(left, right, method="candidate_list", top_k=60, expansion=3)
    assert pairs(found) == reference_greedy(left, right, limit=180)[:60]
    assert len(found) < 60
    assert "possible pairs" in caplog.text
    assert len(match(left, right, method="greedy", top_k=60)) == 60


def test_optimal_has_the_largest_total_similarity() -> None:
    left, right = embeddings(6, 7, 3, "plain")
    similarity = reference_similarity(left, right)
    from itertools import permutations

    best = max(sum(similarity[i, j] for i, j in enumerate(chosen)) for chosen in permutations(range(7), 6))
    assert optimal_match(left, right).similarity.sum() == pytest.approx(best, abs=1e-6)


def test_sparse_optimal_agrees_with_the_full_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = embeddings(150, 120, 4, "plain")
    full = optimal_match(left, right)
    monkeypatch.setattr("brainlab.prepare.match._DENSE_LIMIT", 10)
    assert optimal_match(left, right, candidates=60).similarity.sum() == pytest.approx(full.similarity.sum(), abs=1e-6)
    scarce = optimal_match(left, right, candidates=2)
    assert len(scarce) == len(set(scarce.left)) == len(set(scarce.right)) == 120


def test_intersection_keeps_the_most_similar_pictures() -> None:
    one = Matching(np.array([3, 1, 2]), np.array([30, 10, 20]), np.array([0.9, 0.8, 0.1]))
    two = Matching(np.array([1, 2, 3, 4]), np.array([11, 21, 31, 41]), np.array([0.9, 0.8, 0.7, 0.6]))
    common = intersect_matchings({"subj01": one, "subj02": two}, target=2)
    assert common.left.tolist() == [1, 3]
    assert common.right["subj01"].tolist() == [10, 30]
    assert common.right["subj02"].tolist() == [11, 31]
    assert common.mean_similarity.tolist() == pytest.approx([0.85, 0.8])


def test_shortfall_warns_or_raises(caplog: pytest.LogCaptureFixture) -> None:
    one = Matching(np.array([0, 1]), np.array([0, 1]), np.array([0.9, 0.8]))
    with caplog.at_level(logging.WARNING):
        assert len(intersect_matchings({"subj01": one}, target=5)) == 2
    assert "only 2 of 5" in caplog.text
    with pytest.raises(InvalidValue, match="target_intersection=5"):
        intersect_matchings({"subj01": one}, target=5, on_shortfall="raise")


def test_min_similarity_drops_weak_pairs() -> None:
    left, right = embeddings(30, 30, 4, "plain")
    assert (match(left, right, min_similarity=0.5).similarity >= 0.5).all()


def test_bad_embeddings_are_refused() -> None:
    good = np.ones((3, 4), np.float32)
    bad = good.copy()
    bad[1] = 0
    with pytest.raises(InvalidValue, match=r"right\[1\]"):
        match(good, bad)
    with pytest.raises(ShapeMismatch, match="4 and 5"):
        match(good, np.ones((3, 5), np.float32))
    with pytest.raises(InvalidValue, match="expected one of"):
        match(good, good, method="best")  # type: ignore[arg-type]


def test_memory_stays_far_below_the_similarity_matrix() -> None:
    left, right = embeddings(8000, 6000, 16, "plain")
    tracemalloc.start()
    greedy_match(left, right)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.7 * 4 * 8000 * 6000
