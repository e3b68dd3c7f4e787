"""Kill a run at random moments, resume it, and compare it with the same run left alone.

    python tests/run/kill_resume.py FOLDER --kills 10 -- brainlab experiment=eeg_fmri_align trainer=debug …

Everything after ``--`` is the command of the run; it must leave out ``hydra.run.dir`` and use a tracker or none.
Both runs share the cache, so prepare the data first if its time matters. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


def run_alone(command: Sequence[str], log: Path) -> float:
    """Run to the end; returns the seconds it took."""
    started = time.monotonic()
    with log.open("a") as stream:
        code = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT).returncode
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}:\n{log.read_text()[-3000:]}")
    return time.monotonic() - started


def kill_after_progress(command: Sequence[str], run: Path, log: Path, rng: random.Random, most_rows: int) -> bool:
    """Start, wait for a random amount of new metric rows and a random moment more, kill -9. False if it ended first."""
    history = run / "metrics.jsonl"
    before = _lines(history)
    wanted = before + rng.randint(1, most_rows)
    with log.open("a") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
    while process.poll() is None and _lines(history) < wanted:
        time.sleep(0.005)
    time.sleep(rng.random() * 0.15)
    if process.poll() is not None:
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True


def compare(one: Path, other: Path) -> dict[str, Any]:
    """What must be equal between an uninterrupted and a resumed run."""
    a, b = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (one, other))
    best = [torch.load(run / "checkpoints" / "best.ckpt", weights_only=True) for run in (one, other)]
    results = [json.loads((run / "results.json").read_text()) for run in (one, other)]
    keys = [[(row["name"], row["step"]) for row in _rows(run)] for run in (one, other)]
    values = [{(row["name"], row["step"]): row["value"] for row in _rows(run)} for run in (one, other)]
    ignored = {"run_dir", "wall_s", "attempts"}
    return {
        "weights_equal": _equal(a["state_dict"], b["state_dict"]),
        "optimizer_equal": _equal(a["optimizer_states"], b["optimizer_states"]),
        "schedulers_equal": _equal(a["lr_schedulers"], b["lr_schedulers"]),
        "random_states_equal": _equal(a["brainlab"]["random"], b["brainlab"]["random"]),
        "best_equal": _equal(best[0]["state_dict"], best[1]["state_dict"]),
        "history_equal": values[0] == values[1],
        "one_row_per_metric_and_step": len(keys[1]) == len(set(keys[1])) == len(keys[0]),
        "results_equal": {k: v for k, v in results[0].items() if k not in ignored}
        == {k: v for k, v in results[1].items() if k not in ignored},
        "attempts": results[1]["attempts"],
        "resumed_at": re.findall(r"resumed at epoch \d+, batch \d+", (other / "brainlab.log").read_text()),
        "batches_of_attempts": [
            attempt.get("batches") for attempt in json.loads((other / "status.json").read_text())["attempts"]
        ],
    }


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) or bool(a.is_floating_point() and torch.equal(a.isnan(), b.isnan())
                                         and torch.equal(a.nan_to_num(), b.nan_to_num()))  # fmt: skip
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def _rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def main(arguments: Sequence[str]) -> int:
    """Command line; returns 0 when everything was equal."""
    split = arguments.index("--")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most-rows", type=int, default=40, help="metric rows that pass at most between two kills")
    options = parser.parse_args(list(arguments[:split]))
    command = list(arguments[split + 1 :])
    options.folder.mkdir(parents=True, exist_ok=True)
    one = options.folder.absolute() / "alone"
    alone_s = run_alone([*command, f"hydra.run.dir={one}"], options.folder / "alone.txt")
    rng, kills, rounds = random.Random(options.seed), 0, []
    while kills < options.kills:  # a run that reached its end makes room for another one
        other = options.folder.absolute() / f"killed-{len(rounds) + 1}"
        killed = [*command, f"hydra.run.dir={other}"]
        before = kills
        while kills < options.kills and kill_after_progress(
            killed, other, options.folder / "killed.txt", rng, options.most_rows
        ):
            kills += 1
        run_alone(killed, options.folder / "killed.txt")
        rounds.append({"kills": kills - before, **compare(one, other)})
        if kills == before:
            raise SystemExit("The run ends before it can be killed: lower --most-rows or train longer.")
    print(json.dumps({"kills": kills, "alone_s": round(alone_s, 1), "rounds": rounds}, indent=1))
    equal = [value for found in rounds for key, value in found.items() if key.endswith(("_equal", "_step"))]
    return 0 if all(equal) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
