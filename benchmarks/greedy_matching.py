"""Exact greedy matching of 16,540 with 10,000 embeddings of width 768, and a plain broadcast on a slice.

::

    python benchmarks/greedy_matching.py [--n 16540 --m 10000 --dim 768] [--slice 400] [--repeats 5]

The peer computes every cosine by broadcasting (row, column, dim) and sorts all of them; it fits on a slice only. There
both must return the same pairs. The exit status is 1 where they differ, or where the full size needs more than 500 MB
beside its inputs.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import numpy as np
import psutil
from side_by_side import environment, in_turns, report

from brainlab.prepare.match import greedy_match

LIMIT_MB = 500.0
_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024


def embeddings(n: int, m: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that share 40 directions and an offset, as image embeddings do: some pictures are everybody's best."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((40, dim), dtype=np.float32)

    def draw(count: int) -> np.ndarray:
        rows = rng.standard_normal((count, 40), dtype=np.float32) @ directions
        rows += 0.5 * rng.standard_normal((count, dim), dtype=np.float32)
        rows += 1.0
        return rows

    return draw(n), draw(m)


def broadcast_match(left: np.ndarray, right: np.ndarray) -> list[tuple[int, int]]:
    """Every cosine by broadcasting, then a walk down the sorted list."""
    left = left / np.linalg.norm(left, axis=1, keepdims=True)
    right = right / np.linalg.norm(right, axis=1, keepdims=True)
    similarity = (left[:, None, :] * right[None, :, :]).sum(axis=2)
    order = np.argsort(-similarity, axis=None, kind="stable")
    free_left, free_right = set(range(len(left))), set(range(len(right)))
    pairs = []
    for entry in order.tolist():
        row, column = divmod(entry, len(right))
        if row in free_left and column in free_right:
            free_left.remove(row)
            free_right.remove(column)
            pairs.append((row, column))
    return pairs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=16540)
    parser.add_argument("--m", type=int, default=10000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--slice", type=int, default=400, help="pictures per side where the peer takes part")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(environment("brainlab", "numpy"))

    left, right = embeddings(options.n, options.m, options.dim, seed=0)
    before = psutil.Process().memory_info().rss
    walls, cpus = [], []
    for _ in range(options.repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        found = greedy_match(left, right)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    extra_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_BYTES - before) / 1e6
    complete = len(found) == min(options.n, options.m)
    print(
        f"greedy {options.n} × {options.m} × {options.dim}: {len(found)} pairs, median of {options.repeats}: "
        f"{np.median(walls):.1f} s wall, {np.median(cpus):.1f} CPU-s; peak {extra_mb:.0f} MB beside the inputs "
        f"(limit {LIMIT_MB:.0f} MB); the similarity matrix alone would be {options.n * options.m * 4 / 1e6:.0f} MB"
    )

    size = options.slice
    small_left, small_right = left[:size], right[: size - size // 5]
    ours = greedy_match(small_left, small_right)
    theirs = broadcast_match(small_left.astype(np.float64), small_right.astype(np.float64))
    equal = list(zip(ours.left.tolist(), ours.right.tolist(), strict=True)) == theirs
    print(f"slice {len(small_left)} × {len(small_right)}: same {len(theirs)} pairs as the broadcast: {equal}")
    times = in_turns(
        {
            "greedy_match": lambda: greedy_match(small_left, small_right),
            "broadcast": lambda: broadcast_match(small_left, small_right),
        },
        options.repeats,
    )
    report(times, "greedy_match", {})
    return 0 if equal and complete and extra_mb <= LIMIT_MB else 1


if __name__ == "__main__":
    raise SystemExit(main())
