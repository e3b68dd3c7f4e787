"""Pair the pictures of two data sets one to one by the cosine of their embeddings.

Greedy walks all pairs by falling similarity and keeps a pair when neither picture is taken. The full similarity
matrix is never held: each picture of the smaller side keeps a short exact list of its best partners, and a list that
runs dry is filled again from the partners that are still free. Memory is therefore a few blocks, and the outcome is
that of sorting all N·M similarities. Ties (equal to ten decimals) go to the lower left index, then the lower right.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from brainlab.errors import InvalidValue, ShapeMismatch

__all__ = [
    "Matching",
    "MultiMatching",
    "candidate_list_match",
    "greedy_match",
    "intersect_matchings",
    "match",
    "optimal_match",
]

log = logging.getLogger(__name__)

Method = Literal["greedy", "optimal", "candidate_list"]

_DECIMALS = 10
# float32 GEMM of unit rows is within this of the float64 cosine for any width met in practice (768 … 4096).
_GEMM_ERROR = 4e-6
_BLOCK_BYTES = 24 * 2**20
_DENSE_LIMIT = 3000


@dataclass(frozen=True)
class Matching:
    """Pairs ordered by falling similarity: row ``left[i]`` goes with row ``right[i]``."""

    left: Int[np.ndarray, " pair"]
    right: Int[np.ndarray, " pair"]
    similarity: Float[np.ndarray, " pair"]

    def __len__(self) -> int:
        return len(self.left)


@dataclass(frozen=True)
class MultiMatching:
    """Left rows matched in every subject: ``right[subject]`` and ``similarity[subject]`` run along ``left``."""

    left: Int[np.ndarray, " pair"]
    right: dict[str, Int[np.ndarray, " pair"]]
    similarity: dict[str, Float[np.ndarray, " pair"]]

    def __len__(self) -> int:
        return len(self.left)

    @property
    def mean_similarity(self) -> Float[np.ndarray, " pair"]:
        """Mean over subjects."""
        return np.mean(np.stack(list(self.similarity.values())), axis=0)


def match(
    left: Float[np.ndarray, "n dim"],
    right: Float[np.ndarray, "m dim"],
    *,
    method: Method = "greedy",
    top_k: int | None = None,
    expansion: int = 20,
    min_similarity: float | None = None,
) -> Matching:
    """Pair rows of ``left`` with rows of ``right`` one to one.

    Args:
        left: embeddings of one side, any scale, finite, no zero row.
        right: embeddings of the other side.
        method: ``greedy`` (exact), ``optimal`` (largest total similarity), ``candidate_list`` (greedy over the
            ``top_k * expansion`` most similar entries only, which may return fewer pairs than exist).
        top_k: number of pairs to return; default all min(n, m).
        expansion: candidates per wanted pair, ``candidate_list`` only.
        min_similarity: drop pairs below this cosine.

    Returns:
        the pairs by falling similarity.

    Raises:
        InvalidValue: for a NaN or zero row, or ``top_k`` < 1.
        ShapeMismatch: where the widths differ.
    """
    if top_k is not None and top_k < 1:
        raise InvalidValue("top_k", top_k, "expected a positive number of pairs, or null for all")
    if method == "greedy":
        found = greedy_match(left, right, top_k=top_k)
    elif method == "optimal":
        found = optimal_match(left, right, top_k=top_k)
    elif method == "candidate_list":
        wanted = min(len(left), len(right)) if top_k is None else top_k
        found = candidate_list_match(left, right, top_k=wanted, expansion=expansion)
    else:
        raise InvalidValue("match", method, "expected one of greedy, optimal, candidate_list")
    if min_similarity is not None:
        keep = found.similarity >= min_similarity
        found = Matching(found.left[keep], found.right[keep], found.similarity[keep])
    return found


def greedy_match(
    left: Float[np.ndarray, "n dim"],
    right: Float[np.ndarray, "m dim"],
    *,
    top_k: int | None = None,
    list_length: int = 32,
) -> Matching:
    """Exact greedy one-to-one matching.

    Args:
        left, right: as in :func:`match`.
        top_k: stop after this many pairs; default all that exist.
        list_length: partners remembered per picture; it changes time and memory, never the outcome.

    Returns:
        min(n, m, top_k) pairs by falling similarity.
    """
    unit_left, unit_right = _unit_rows(left, "left"), _unit_rows(right, "right")
    _same_width(unit_left, unit_right)
    wanted = min(len(unit_left), len(unit_right))
    wanted = wanted if top_k is None else min(wanted, top_k)
    swapped = len(unit_left) > len(unit_right)
    search = _Greedy(*((unit_right, unit_left) if swapped else (unit_left, unit_right)), list_length, swapped)
    return search.run(wanted)


class _Greedy:
    """A heap with one entry per unmatched picture of the driving side: an upper bound of what it can still get."""

    def __init__(self, driver: np.ndarray, partner: np.ndarray, list_length: int, swapped: bool) -> None:
        self.driver, self.partner, self.swapped = driver, partner, swapped
        self.length = max(1, list_length)
        self.free_partner = np.ones(len(partner), dtype=bool)
        self.free_driver = np.ones(len(driver), dtype=bool)
        self.lists = np.full((len(driver), self.length), -1, dtype=np.int64)
        self.scores = np.full((len(driver), self.length), -np.inf)
        self.position = np.zeros(len(driver), dtype=np.int64)
        self.bound = np.full(len(driver), np.inf)

    def run(self, wanted: int) -> Matching:
        pairs = np.empty((wanted, 2), dtype=np.int64)
        similarity = np.empty(wanted)
        if wanted:
            self._fill(np.arange(len(self.driver)))
        heap = [self._entry(row) for row in range(len(self.driver))] if wanted else []
        heapq.heapify(heap)
        count = 0
        while count < wanted:
            key = heapq.heappop(heap)
            row = key[3]
            entry = self._entry(row)
            if entry != key:  # the bound was loose: its partner went elsewhere meanwhile
                heapq.heappush(heap, entry)
                continue
            if entry[1] < 0:
                self._refill()
                heapq.heappush(heap, self._entry(row))
                continue
            column = int(self.lists[row, self.position[row]])
            self.free_partner[column] = False
            self.free_driver[row] = False
            pairs[count] = entry[1], entry[2]
            similarity[count] = -entry[0]
            count += 1
        return Matching(pairs[:, 0].copy(), pairs[:, 1].copy(), similarity)

    def _entry(self, row: int) -> tuple[float, int, int, int]:
        """(−similarity, left, right, row) of the best known free partner, or (−bound, −1, −1, row) when none is."""
        for place in range(int(self.position[row]), self.length):
            column = int(self.lists[row, place])
            if column < 0:
                break
            if self.free_partner[column]:
                self.position[row] = place
                score = -float(self.scores[row, place])
                return (score, column, row, row) if self.swapped else (score, row, column, row)
        self.position[row] = self.length
        return -float(self.bound[row]), -1, -1, row

    def _refill(self) -> None:
        """New lists for every unmatched picture that is nearly out of free partners, in one pass."""
        rows = np.flatnonzero(self.free_driver)
        listed = self.lists[rows]
        alive = ((listed >= 0) & self.free_partner[listed]).sum(axis=1)
        self._fill(rows[alive <= self.length // 16])

    def _fill(self, rows: np.ndarray) -> None:
        columns = np.flatnonzero(self.free_partner)
        partner = self.partner if len(columns) == len(self.partner) else self.partner[columns]
        take = min(self.length, len(columns))
        step = max(1, _BLOCK_BYTES // (4 * max(1, len(columns))))
        for start in range(0, len(rows), step):
            block = rows[start : start + step]
            rough = self.driver[block] @ partner.T
            if take < len(columns):
                # The last of the top take+1 bounds everything left out.
                best = np.argpartition(rough, len(columns) - take - 1, axis=1)[:, len(columns) - take - 1 :]
                left_out = np.take_along_axis(rough, best[:, :1], axis=1)[:, 0].astype(np.float64) + _GEMM_ERROR
                best = best[:, 1:]
            else:
                best = np.broadcast_to(np.arange(len(columns)), rough.shape)
                left_out = np.full(len(block), -np.inf)
            del rough
            exact = _cosines(self.driver[block], partner, best)
            # Partners at or below the bound could be overtaken by one that was left out: not certain, so not listed.
            exact[exact <= left_out[:, None]] = -np.inf
            for line in np.flatnonzero(~np.isfinite(exact[:, :]).any(axis=1)):
                self._fill_exactly(int(block[line]), columns, partner)
            certain = np.isfinite(exact).any(axis=1)
            order = np.lexsort((best, -exact), axis=1)
            chosen = np.take_along_axis(columns[best], order, axis=1)
            scores = np.take_along_axis(exact, order, axis=1)
            chosen[~np.isfinite(scores)] = -1
            target = block[certain]
            self.lists[target] = -1
            self.scores[target] = -np.inf
            self.lists[target, :take] = chosen[certain]
            self.scores[target, :take] = scores[certain]
            self.position[target] = 0
            self.bound[target] = left_out[certain]

    def _fill_exactly(self, row: int, columns: np.ndarray, partner: np.ndarray) -> None:
        """For a picture whose best partners are (nearly) tied: score every free partner in float64."""
        exact = _cosines(self.driver[row : row + 1], partner, np.arange(len(columns))[None])[0]
        order = np.lexsort((columns, -exact))[: self.length]
        self.lists[row] = -1
        self.lists[row, : len(order)] = columns[order]
        self.scores[row, : len(order)] = exact[order]
        self.position[row] = 0
        self.bound[row] = exact[order[-1]] if len(order) < len(columns) else -np.inf


def optimal_match(
    left: Float[np.ndarray, "n dim"],
    right: Float[np.ndarray, "m dim"],
    *,
    top_k: int | None = None,
    candidates: int = 50,
) -> Matching:
    """One-to-one matching of the largest total similarity.

    Up to 3,000 × 3,000 it is exact on the full matrix. Above, it is exact on the graph of each picture's
    ``candidates`` best partners; pictures that this graph leaves single are paired greedily afterwards, so that every
    pair that exists is returned.

    Args:
        left, right: as in :func:`match`.
        top_k: keep only the most similar pairs.
        candidates: partners per picture and side in the sparse graph.
    """
    unit_left, unit_right = _unit_rows(left, "left"), _unit_rows(right, "right")
    _same_width(unit_left, unit_right)
    if max(len(unit_left), len(unit_right)) <= _DENSE_LIMIT:
        from scipy.optimize import linear_sum_assignment

        rows, columns = linear_sum_assignment(unit_left.astype(np.float64) @ unit_right.astype(np.float64).T, True)
    else:
        rows, columns = _sparse_assignment(unit_left, unit_right, candidates)
        spare_left = np.setdiff1d(np.arange(len(unit_left)), rows)
        spare_right = np.setdiff1d(np.arange(len(unit_right)), columns)
        if len(spare_left) and len(spare_right):
            rest = greedy_match(unit_left[spare_left], unit_right[spare_right])
            rows = np.concatenate([rows, spare_left[rest.left]])
            columns = np.concatenate([columns, spare_right[rest.right]])
    similarity = _pair_cosines(unit_left, unit_right, rows, columns)
    order = np.lexsort((columns, rows, -similarity))[:top_k]
    return Matching(rows[order].astype(np.int64), columns[order].astype(np.int64), similarity[order])


def candidate_list_match(
    left: Float[np.ndarray, "n dim"],
    right: Float[np.ndarray, "m dim"],
    *,
    top_k: int,
    expansion: int = 20,
) -> Matching:
    """Greedy over the ``top_k * expansion`` most similar entries of the whole matrix only.

    Kept for comparison with published runs: where a few pictures own most of the similar entries, the list ends
    before ``top_k`` pairs are found, which is logged.
    """
    unit_left, unit_right = _unit_rows(left, "left"), _unit_rows(right, "right")
    _same_width(unit_left, unit_right)
    size = min(top_k * expansion, len(unit_left) * len(unit_right))
    width = len(unit_right)
    values, entries = np.empty(0, np.float32), np.empty(0, np.int64)
    step = max(1, _BLOCK_BYTES // (4 * width))
    for start in range(0, len(unit_left), step):
        block = (unit_left[start : start + step] @ unit_right.T).ravel()
        if len(values) >= size:
            kept = np.flatnonzero(block >= values.min() - _GEMM_ERROR)
        else:
            kept = np.arange(block.size)
        values = np.concatenate([values, block[kept]])
        entries = np.concatenate([entries, kept + start * width])
        if len(values) > size:
            # Keep what a float64 ranking could still admit.
            floor = np.partition(values, len(values) - size)[len(values) - size] - _GEMM_ERROR
            admitted = values >= floor
            values, entries = values[admitted], entries[admitted]
    rows, columns = np.divmod(entries, width)
    similarity = _pair_cosines(unit_left, unit_right, rows, columns)
    order = np.lexsort((columns, rows, -similarity))[:size]
    free_left, free_right = np.ones(len(unit_left), bool), np.ones(width, bool)
    kept_pairs: list[int] = []
    for entry in order.tolist():
        row, column = rows[entry], columns[entry]
        if free_left[row] and free_right[column]:
            free_left[row] = free_right[column] = False
            kept_pairs.append(entry)
            if len(kept_pairs) == top_k:
                break
    possible = min(top_k, len(unit_left), width)
    if len(kept_pairs) < possible:
        log.warning(
            "the candidate list of %d entries gave %d of %d possible pairs; match=greedy returns all of them",
            size, len(kept_pairs), possible,
        )  # fmt: skip
    chosen = np.asarray(kept_pairs, dtype=np.int64)
    return Matching(rows[chosen], columns[chosen], similarity[chosen])


def intersect_matchings(
    matchings: Mapping[str, Matching],
    *,
    target: int | None = None,
    on_shortfall: Literal["warn", "raise"] = "warn",
) -> MultiMatching:
    """Left pictures that found a partner in every subject.

    Args:
        matchings: subject → its matching against the same left rows.
        target: wanted number; where more are common, those of the highest mean similarity stay.
        on_shortfall: what to do when fewer than ``target`` are common.

    Returns:
        pairs by falling mean similarity (ties: lower left index first).

    Raises:
        InvalidValue: without matchings, or for a shortfall with ``raise``.
    """
    if not matchings:
        raise InvalidValue("nsd_subjects", "[]", "expected at least one subject")
    common: np.ndarray | None = None
    for found in matchings.values():
        common = np.sort(found.left) if common is None else np.intersect1d(common, found.left)
    assert common is not None
    right, similarity = {}, {}
    for subject, found in matchings.items():
        order = np.argsort(found.left, kind="stable")
        place = order[np.searchsorted(found.left[order], common)]
        right[subject], similarity[subject] = found.right[place], found.similarity[place]
    mean = np.mean(np.stack(list(similarity.values())), axis=0) if len(common) else np.empty(0)
    if target is not None and len(common) < target:
        if on_shortfall == "raise":
            raise InvalidValue(
                "data.target_intersection", target,
                f"expected at most the {len(common)} pictures matched in every subject",
                hint="raise data.top_k, lower data.target_intersection, or set data.on_shortfall=warn",
            )  # fmt: skip
        log.warning("only %d of %d wanted pictures are matched in every subject", len(common), target)
    order = np.lexsort((common, -mean))[:target]
    return MultiMatching(
        common[order],
        {subject: values[order] for subject, values in right.items()},
        {subject: values[order] for subject, values in similarity.items()},
    )


def _unit_rows(rows: np.ndarray, name: str) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.ndim != 2:
        raise ShapeMismatch(name, rows.shape, "expected embeddings of shape (picture, dim)")
    unit = np.empty(rows.shape, dtype=np.float32)
    for start in range(0, len(rows), 1024):
        block = rows[start : start + 1024].astype(np.float64)
        norm = np.linalg.norm(block, axis=1, keepdims=True)
        bad = np.flatnonzero(~(np.isfinite(norm[:, 0]) & (norm[:, 0] > 0)))
        if len(bad):
            raise InvalidValue(
                f"{name}[{start + bad[0]}]", float(norm[bad[0], 0]), "expected an embedding of finite, non-zero norm"
            )
        unit[start : start + 1024] = block / norm
    return unit


def _same_width(left: np.ndarray, right: np.ndarray) -> None:
    if left.shape[1] != right.shape[1]:
        raise ShapeMismatch(
            "embeddings", f"{left.shape[1]} and {right.shape[1]}", "expected the same width on both sides"
        )


def _cosines(rows: np.ndarray, partner: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """float64 cosines (row, candidate) of unit rows, each summed in the same order wherever it stands."""
    result = np.empty(candidates.shape)
    width = rows.shape[1]
    step = max(1, _BLOCK_BYTES // (8 * width * max(1, candidates.shape[1])))
    for start in range(0, len(rows), step):
        gathered = partner[candidates[start : start + step]].astype(np.float64)
        gathered *= rows[start : start + step, None, :]
        result[start : start + step] = gathered.sum(axis=2)
    return np.round(result, _DECIMALS)


def _pair_cosines(left: np.ndarray, right: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    result = np.empty(len(rows))
    for start in range(0, len(rows), 4096):
        block = left[rows[start : start + 4096]].astype(np.float64)
        block *= right[columns[start : start + 4096]]
        result[start : start + 4096] = block.sum(axis=1)
    return np.round(result, _DECIMALS)


def _sparse_assignment(left: np.ndarray, right: np.ndarray, candidates: int) -> tuple[np.ndarray, np.ndarray]:
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    if len(left) > len(right):
        columns, rows = _sparse_assignment(right, left, candidates)
        return rows, columns
    n, m = len(left), len(right)
    edges = np.unique(np.concatenate([_top(left, right, candidates), _top(right, left, candidates)[:, ::-1]]), axis=0)
    cost = 2.0 - _pair_cosines(left, right, edges[:, 0], edges[:, 1])
    # A private dummy partner per row makes a full matching exist; its cost exceeds any chain of real ones.
    rows = np.concatenate([edges[:, 0], np.arange(n)])
    columns = np.concatenate([edges[:, 1], m + np.arange(n)])
    weights = np.concatenate([cost, np.full(n, 4.0 * n)])
    graph = csr_array((weights, (rows, columns)), shape=(n, m + n))
    chosen_rows, chosen_columns = min_weight_full_bipartite_matching(graph)
    real = chosen_columns < m
    return chosen_rows[real], chosen_columns[real]


def _top(rows: np.ndarray, partner: np.ndarray, count: int) -> np.ndarray:
    count = min(count, len(partner))
    edges = np.empty((len(rows) * count, 2), dtype=np.int64)
    step = max(1, _BLOCK_BYTES // (4 * len(partner)))
    for start in range(0, len(rows), step):
        block = rows[start : start + step] @ partner.T
        best = np.argpartition(block, len(partner) - count, axis=1)[:, len(partner) - count :]
        place = slice(start * count, (start + len(block)) * count)
        edges[place, 0] = np.repeat(np.arange(start, start + len(block)), count)
        edges[place, 1] = best.ravel()
    return edges
