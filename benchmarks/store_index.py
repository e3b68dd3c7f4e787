"""How long does it take to open a store of 1,000 sessions? brainlab's index against one JSON file per session.

Every session has 306 channels with positions and orientations that differ slightly between sessions of different
machines, 300 events, segments, scalers and the notes of eight preparation steps, as a prepared MEG store has. Opened
means: names, lengths, rates, subjects and usable segments of all sessions are there and every file has the right size,
which is what a split and a layout of windows need. The peer is the obvious form: a JSON file per session with all of
that, parsed by ``json``. What both then say of every session is compared. Warm page cache, one thread::

    python benchmarks/store_index.py
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from side_by_side import environment, in_turns, report

SESSIONS, CHANNELS, EVENTS, MACHINES, LENGTH = 1000, 306, 300, 50, 100
LIMIT_S = 0.2
OURS = "brainlab store, opened"
PEER = "a JSON file per session, all parsed"


def channels(machine: int):
    """Sensors of one machine."""
    from brainlab.io.recording import Channel

    rng = np.random.default_rng(machine)
    places = rng.normal(0, 0.1, (CHANNELS, 6))
    return [
        Channel(f"MEG{number:04d}", "mag" if number % 3 else "grad", tuple(row[:3]), tuple(row[3:]), "")
        for number, row in enumerate(places.tolist())
    ]


def facts(number: int) -> tuple[list[dict], dict]:
    """Events and attributes of one session."""
    rng = np.random.default_rng(number)
    samples = np.sort(rng.integers(0, LENGTH, EVENTS)).tolist()
    events = [{"sample": sample, "onset_s": sample / 100, "code": int(sample % 9)} for sample in samples]
    attrs = {
        "subject": f"sub-{number // 2:04d}",
        "dataset": "camcan",
        "task": "rest",
        "recording": "ses-01",
        "system": "vectorview306",
        "segments": [[start, start + 8] for start in range(0, LENGTH, 10)],
        "span": [0, 50],
        "bads": [],
        "scalers": {"centre": rng.normal(size=CHANNELS).tolist(), "scale": rng.random(CHANNELS).tolist(), "unit": "T"},
        "steps": [{"step": f"Step{k}", "facts": [1, 2, 3]} for k in range(8)],
        "warnings": [],
        "file": f"{number}.fif",
    }
    return events, attrs


def write(folder: Path) -> None:
    """The same sessions in both forms."""
    from brainlab.io.store import StoreWriter

    (folder / "json").mkdir(parents=True)
    sensors = [channels(machine) for machine in range(MACHINES)]
    samples = np.zeros((CHANNELS, LENGTH), np.float32)
    with StoreWriter(folder / "store") as writer:
        for number in range(SESSIONS):
            events, attrs = facts(number)
            named = sensors[number % MACHINES]
            writer.add_session(f"session-{number:04d}", samples, 100.0, named, events, attrs)
            entry = {
                "name": f"session-{number:04d}", "n_samples": LENGTH, "sfreq_hz": 100.0, "events": events,
                "attrs": attrs, "channels": [asdict(channel) for channel in named],
            }  # fmt: skip
            (folder / "json" / f"{number:05d}.json").write_text(json.dumps(entry))


def ours(folder: Path) -> list[tuple]:
    """What a split needs of every session, from the store."""
    from brainlab.io.store import Store

    return [
        (s.name, s.n_samples, s.sfreq_hz, s.attrs["subject"], s.attrs["segments"])
        for s in Store(folder / "store").sessions
    ]


def peer(folder: Path) -> list[tuple]:
    """The same from single files, with the same check of sizes."""
    found = []
    for path in sorted((folder / "json").iterdir()):
        entry = json.loads(path.read_text())
        os.stat(folder / "store" / f"{path.stem}.f32")
        attrs = entry["attrs"]
        found.append((entry["name"], entry["n_samples"], entry["sfreq_hz"], attrs["subject"], attrs["segments"]))
    return found


def main() -> int:
    """Write both, compare them, time them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7, help="timed turns of each side")
    options = parser.parse_args()
    print("store index:", environment("numpy"))
    print(f"{SESSIONS} sessions x {CHANNELS} channels, {EVENTS} events each, of {MACHINES} machines; warm page cache")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        if ours(folder) != peer(folder):
            sys.exit("the two sides say different things")
        sizes = {part: sum(f.stat().st_size for f in (folder / part).glob("*.json*")) for part in ("store", "json")}
        print(
            f"equal on both sides; index and details {sizes['store'] / 1e6:.0f} MB, files {sizes['json'] / 1e6:.0f} MB"
        )
        times = in_turns({OURS: lambda: ours(folder), PEER: lambda: peer(folder)}, options.repeats)
        seconds = float(np.median(times[OURS].wall)) / 1e3
        faster = report(times, OURS, {PEER: 1.0})
        good = seconds <= LIMIT_S
        print(f"  opened in {seconds:.3f} s: target {LIMIT_S:g} s {'reached' if good else 'MISSED'}")
    return 0 if good and faster else 1


if __name__ == "__main__":
    raise SystemExit(main())
