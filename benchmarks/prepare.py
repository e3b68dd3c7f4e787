"""What does preparing recordings cost beside MNE's own work, and how does it scale with processes?

The same FIF files (MEG, trigger channel, non-zero first sample) go through

* brainlab: hash of the file, checks for missing samples, wrong units and held values, the named steps, store with
  checksum and facts, cached under its key, linked into the store of all sessions; one process;
* MNE alone: read, find the events, pick, band-pass, notch, resample with the events, convert to float32, ``np.save``.

Both must give the same samples and events. The overhead is the median over the turns of brainlab / MNE - 1 in the same
turn. Then the full preparation (bad channels, robust scaling, clipping, cleaning as well) is timed with one process and
with two; the second number includes the start of the processes, which read MNE anew. One thread per process::

    python benchmarks/prepare.py
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from side_by_side import environment, in_turns, report

CHANNELS, SFREQ, SECONDS = 128, 1200.0, 120
FEW, MANY = 1, 8
LIMIT = 0.10
OURS, PEER = "brainlab, every step named and stored", "the same MNE calls alone"
COUNTER = count()


def write(folder: Path, n_files: int) -> None:
    """Recordings of white noise and hum, in tesla."""
    import mne

    folder.mkdir()
    n = int(SFREQ * SECONDS)
    hum = np.sin(2 * np.pi * 50 * np.arange(n) / SFREQ)
    for number in range(n_files):
        rng = np.random.default_rng(number)
        samples = np.zeros((CHANNELS + 1, n))
        samples[:-1] = 1e-13 * (3 * rng.standard_normal((CHANNELS, n)) + hum)
        for event in range(200, n - 100, int(SFREQ)):
            samples[-1, event : event + 20] = 1 + event % 7
        info = mne.create_info(
            [*(f"MEG{k:03d}" for k in range(CHANNELS)), "STI101"], SFREQ, ["mag"] * CHANNELS + ["stim"], verbose="ERROR"
        )
        raw = mne.io.RawArray(samples, info, first_samp=7000, verbose="ERROR")
        raw.save(folder / f"sub-{number:02d}_meg.fif", verbose="ERROR")


def steps(full: bool) -> dict:
    """The steps that MNE has, or a whole preparation."""
    from brainlab.prepare.steps.channels import BadChannels, Pick
    from brainlab.prepare.steps.checks import HeldValues
    from brainlab.prepare.steps.cleaning import Clean
    from brainlab.prepare.steps.filters import BandPass, Notch, Resample
    from brainlab.prepare.steps.scaling import Clip, RobustScale

    shared = {
        "held": HeldValues(), "pick": Pick("mag"), "band_pass": BandPass(1.0, 45.0), "notch": Notch(50.0),
        "resample": Resample(100.0),
    }  # fmt: skip
    rest = {"bads": BadChannels(), "scale": RobustScale(), "clip": Clip(5.0), "clean": Clean(min_segment_s=20.0)}
    return {**shared, **(rest if full else {})}


def ours(files: Path, work: Path, n_files: int, full: bool = False, n_workers: int = 1) -> Path:
    """Prepare into a cache that knows nothing."""
    from brainlab.datasets.recordings import find_recordings
    from brainlab.io.cache import Cache
    from brainlab.prepare.sessions import prepare_store

    turn = work / f"ours-{next(COUNTER)}"
    found = find_recordings(files)[:n_files]
    prepare_store(found, turn / "store", steps(full), cache=Cache(turn), n_workers=n_workers)
    return turn / "store"


def peer(files: Path, work: Path, n_files: int) -> list[tuple[Path, np.ndarray]]:
    """Plain MNE, as a script would do it."""
    import mne

    written = []
    for path in sorted(files.iterdir())[:n_files]:
        raw = mne.io.read_raw_fif(path, preload=True, verbose="ERROR")
        events = mne.find_events(raw, shortest_event=1, verbose="ERROR")
        raw.pick("mag", verbose="ERROR")
        raw.filter(1.0, 45.0, verbose="ERROR")
        raw.notch_filter([50.0], verbose="ERROR")
        raw, events = raw.resample(100.0, method="polyphase", events=events, verbose="ERROR")
        target = work / f"{path.stem}-{next(COUNTER)}.npy"
        np.save(target, raw.get_data().astype(np.float32))
        events[:, 0] -= raw.first_samp
        written.append((target, events))
    return written


def compare(store_folder: Path, written: list[tuple[Path, np.ndarray]]) -> None:
    """Stop unless samples are identical and events fall on the same samples."""
    from brainlab.io.store import Store

    store = Store(store_folder)
    for number, (path, events) in enumerate(written):
        if not np.array_equal(store.read(number), np.load(path)):
            sys.exit(f"{path.name}: the samples differ")
        found = [(event["sample"], event["code"]) for event in store.sessions[number].events]
        # MNE moves events on the file's clock, rounded, and rounds the first sample too: up to one sample apart.
        apart = [abs(sample - int(at)) for (sample, _), at in zip(found, events[:, 0], strict=True)]
        if [code for _, code in found] != events[:, 2].tolist() or max(apart) > 1:
            sys.exit(f"{path.name}: the events differ")
    print(f"identical samples, the same events: {len(written)} files")


def main() -> int:
    """Write the files, check both sides, time them, then time processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15, help="timed turns of each side; a turn varies by a tenth")
    parser.add_argument("--no-processes", action="store_true", help="leave out the second part")
    options = parser.parse_args()
    print("prepare:", environment("mne", "numpy", "scipy"))
    print(f"files of {CHANNELS} channels x {SECONDS} s at {SFREQ:g} Hz, in single precision")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        files = work / "raw"
        write(files, MANY)
        compare(ours(files, work, FEW), peer(files, work, FEW))
        ways = {OURS: lambda: ours(files, work, FEW), PEER: lambda: peer(files, work, FEW)}
        times = in_turns(ways, options.repeats, FEW)
        report(times, OURS, {})
        overhead = 1 / np.median(np.divide(times[PEER].wall, times[OURS].wall)) - 1
        in_cpu = 1 / np.median(np.divide(times[PEER].cpu, times[OURS].cpu)) - 1
        megabytes = CHANNELS * SECONDS * SFREQ * 4 / 1e6
        good = overhead <= LIMIT
        said = f"target {100 * LIMIT:g} % {'reached' if good else 'MISSED'}"
        speed = megabytes / np.median(times[OURS].wall) * 1e3
        print(f"  overhead {100 * overhead:.1f} % wall, {100 * in_cpu:.1f} % CPU: {said}; {speed:.0f} MB of file per s")
        if not options.no_processes:
            seconds = {}
            for n_workers in (1, 2):
                started = time.perf_counter()
                ours(files, work, MANY, full=True, n_workers=n_workers)
                seconds[n_workers] = time.perf_counter() - started
            print(f"  full preparation of {MANY} files: {seconds[1]:.1f} s in one process, {seconds[2]:.1f} s in two,"
                  f" {seconds[1] / seconds[2]:.2f}x on {os.cpu_count()} CPUs")  # fmt: skip
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
