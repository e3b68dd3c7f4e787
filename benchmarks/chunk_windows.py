"""How fast are random windows read? brainlab's store against pickled float64 chunks of 60 s.

Both sides serve the same batches of 64 random windows × 68 channels × 1024 samples of the same sessions, as contiguous
float32, and the values are compared. The peer is the usual form of a data set of chunks: for each window one
``np.load(..., allow_pickle=True).item()`` of the whole chunk, of which it keeps a part; the chunks are written by this
script, and windows lie within one chunk, as that form needs. One thread, files in the page cache, set-up outside the
timer::

    OMP_NUM_THREADS=1 python benchmarks/chunk_windows.py
    OMP_NUM_THREADS=1 python benchmarks/chunk_windows.py --rates 500 --sessions 80     # 1.3 GB of chunks

Both sides move bytes and little else. The store moves a window of singles, whatever the rate; the peer a chunk of
doubles, so the ratio depends on the rate at which the chunks are kept: 100 Hz (prepared), 500 Hz (a session of 30,000
samples is one chunk) or 1200 Hz (CTF's own). A chunk above 32 MiB costs more than its bytes, because the C library
then gives its memory back to the system each time. The target is asked of every rate, and the exit status is 1 where
one misses it: at low rates a chunk has not a hundred times the bytes of a window. Bare numpy slices of an array in
memory are timed as well: no store can be faster than its copy.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from side_by_side import environment, in_turns, report

CHANNELS, CHUNK_S = 68, 60.0
LENGTH, BATCH = 1024, 64
OURS, PEER, FLOOR = "brainlab store", "pickled float64 chunks", "bare slices of an array in memory"
RATES = (100.0, 500.0, 1200.0)
TARGET = 100.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Write both forms, check that they agree, time them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="sampling rates, Hz; a chunk is 60 s")
    parser.add_argument("--sessions", type=int, default=8, help="sessions of 68 channels")
    parser.add_argument("--samples", type=int, default=30_000, help="samples of a session, at least one whole chunk")
    parser.add_argument("--batches", type=int, default=2, help="batches of 64 windows in one turn")
    parser.add_argument("--repeats", type=int, default=5, help="timed turns of each side")
    parser.add_argument("--target", type=float, default=TARGET, help="smallest ratio that passes, at every rate")
    parser.add_argument("--folder", type=Path, help="where the data is written (default: a temporary folder)")
    options = parser.parse_args(arguments)
    print("chunk windows:", environment("numpy"))
    print(
        f"{BATCH} windows x {CHANNELS} channels x {LENGTH} samples float32 per batch, {options.sessions} sessions, "
        "1 thread, warm page cache"
    )
    good = {}
    for rate in options.rates:
        samples = max(options.samples, int(rate * CHUNK_S))
        print(f"chunks of {int(rate * CHUNK_S)} samples ({CHUNK_S:g} s at {rate:g} Hz), sessions of {samples}:")
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            good[rate] = compare(Path(folder), rate, samples, {PEER: options.target}, options)
    reached = [f"{rate:g} Hz" for rate, passed in good.items() if passed]
    print(
        f"target {options.target:g}x reached at: {', '.join(reached) or 'no rate'} (of "
        f"{', '.join(f'{rate:g}' for rate in good)} Hz); 60 s are more samples at a higher rate, a window is not"
    )
    return 0 if all(good.values()) else 1


def compare(folder: Path, rate: float, samples: int, targets: dict[str, float], options: argparse.Namespace) -> bool:
    """Time the same batches on both sides."""
    from brainlab.io.legacy_chunk_writer import write_chunks
    from brainlab.io.legacy_chunks import convert_chunk_tree
    from brainlab.io.store import Store

    rng = np.random.default_rng(0)
    names = [f"src{number}" for number in range(CHANNELS)]
    for number in range(options.sessions):
        data = rng.standard_normal((CHANNELS, samples))
        write_chunks(
            folder / "tree" / f"sub-{number:03d}", data, rate, names, ["parcel"] * CHANNELS,
            np.zeros((CHANNELS, 2)), chunk_s=CHUNK_S,
        )  # fmt: skip
    convert_chunk_tree(folder / "tree", folder / "store")
    store = Store(folder / "store")
    peer = ChunkWindows(folder / "tree", int(rate * CHUNK_S))
    batches = [draw(rng, store, options.sessions) for _ in range(options.batches)]

    def ours() -> None:
        for sessions, starts in batches:
            store.gather(sessions, starts, LENGTH)

    def theirs() -> None:
        for sessions, starts in batches:
            peer.batch(sessions, starts)

    in_memory = store.gather(np.arange(options.sessions), np.zeros(options.sessions, int), samples)

    def copied() -> None:
        for sessions, starts in batches:
            out = np.empty((BATCH, CHANNELS, LENGTH), np.float32)
            for row, (session, start) in enumerate(zip(sessions.tolist(), starts.tolist(), strict=True)):
                out[row] = in_memory[session, :, start : start + LENGTH]

    for sessions, starts in batches:
        mine, other = store.gather(sessions, starts, LENGTH), peer.batch(sessions, starts)
        if mine.shape != (BATCH, CHANNELS, LENGTH) or not np.array_equal(mine, other):
            sys.exit("the two sides differ")
    longest = max(stop - start for start, stop in store.sessions[0].attrs["segments"])
    print(
        f"  equal on both sides: {len(batches)} batches; a chunk has {8 * longest / (4 * LENGTH):.1f} times the bytes "
        "of a window"
    )
    return report(in_turns({OURS: ours, PEER: theirs, FLOOR: copied}, options.repeats, options.batches), OURS, targets)


def draw(rng: np.random.Generator, store, n_sessions: int) -> tuple[np.ndarray, np.ndarray]:
    """Sessions and starts of one batch; no window crosses the border of a chunk."""
    sessions = rng.integers(0, n_sessions, BATCH)
    starts = []
    for number in sessions.tolist():
        fitting = [(a, b) for a, b in store.sessions[number].attrs["segments"] if b - a >= LENGTH]
        first, stop = fitting[rng.integers(len(fitting))]
        starts.append(int(rng.integers(first, stop - LENGTH + 1)))
    return sessions, np.array(starts)


class ChunkWindows:
    """The peer: every window loads the chunk that holds it."""

    def __init__(self, root: Path, per_chunk: int) -> None:
        self.files = [
            sorted(folder.glob("*.npy"), key=lambda path: int(path.stem)) for folder in sorted(root.iterdir())
        ]
        self.per_chunk = per_chunk

    def window(self, session: int, start: int) -> np.ndarray:
        """One window as single precision."""
        number, first = divmod(start, self.per_chunk)
        # This script wrote the file itself; a pickle from elsewhere would be a program of somebody else.
        chunk = np.load(self.files[session][number], allow_pickle=True).item()
        return chunk["data"][:, first : first + LENGTH].astype(np.float32)

    def batch(self, sessions: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Windows in one array."""
        return np.stack([self.window(int(s), int(t)) for s, t in zip(sessions, starts, strict=True)])


if __name__ == "__main__":
    sys.exit(main())
