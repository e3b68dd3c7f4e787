"""Kill a run at random moments, resume it, and compare it with the same run left alone.

    python tests/run/kill_resume.py FOLDER --kills 10 --resume both -- brainlab experiment=eeg_fmri_align key=value …

Everything after ``--`` is the command of the run, without ``hydra.run.dir`` and ``paths.root``. Each round is a run of
its own: started, killed with SIGKILL in the middle of an epoch, resumed once. Needs ``trainer.log_every_n_steps=1``
(logged steps tell how far the killed process came) and ``callbacks.last.every_n_steps``. Rounds whose last checkpoint
fell on the start of an epoch or the end of training are shown but do not count. Prints a table; exit code 1 unless
everything is equal.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_RESUMED = re.compile(r"resumed at epoch (\d+), batch (\d+)")


@dataclass(frozen=True)
class Reference:
    """The uninterrupted run."""

    run: Path
    total: int
    """Batches trained."""
    per_epoch: int
    step_name: str
    """A metric that is logged once per batch."""
    batch_s: float


def run_alone(command: Sequence[str], log: Path) -> float:
    """Run to the end; returns the seconds it took."""
    started = time.monotonic()
    with log.open("a") as stream:
        code = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT).returncode
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}:\n{log.read_text()[-3000:]}")
    return time.monotonic() - started


def reference(run: Path) -> Reference:
    """What the uninterrupted run says about itself."""
    total = _attempts(run)[-1]["batches"]
    per_epoch = int(re.findall(r"(\d+) batches per epoch", (run / "brainlab.log").read_text())[-1])
    rows = _rows(run)
    names = [name for name, n in Counter(row["name"] for row in rows).items() if n == total]
    if not names:
        raise SystemExit(f"No metric was logged at each of the {total} steps: set trainer.log_every_n_steps=1.")
    times = [row["time_ms"] / 1000 for row in rows if row["name"] == names[0]]
    return Reference(run, total, per_epoch, names[0], statistics.median(b - a for a, b in itertools.pairwise(times)))


def kill(command: Sequence[str], run: Path, log: Path, ref: Reference, rng: random.Random) -> int:
    """Start a run, kill it at a random moment of a random epoch; returns the batches it had logged by then."""
    wanted = rng.randrange(ref.total // ref.per_epoch) * ref.per_epoch + rng.randint(3, ref.per_epoch)
    wanted = min(wanted, ref.total - 1)  # after the last batch there is nothing left to resume
    wait_s = rng.random() * ref.batch_s
    with log.open("a") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
    while process.poll() is None and _logged(run, ref.step_name) < wanted:
        time.sleep(0.002)
    time.sleep(wait_s)
    if process.poll() is not None:
        raise SystemExit(f"{run} ended before it was killed:\n{log.read_text()[-3000:]}")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return _logged(run, ref.step_name)


def kill_and_resume(
    program: Sequence[str], words: Sequence[str], run: Path, ref: Reference, rng: random.Random, how: str
) -> dict[str, Any]:
    """One round: what was executed, and whether the resumed run equals the uninterrupted one."""
    log = run.with_suffix(".txt")
    start = [*program, *words, f"hydra.run.dir={run}"]
    executed = kill(start, run, log, ref, rng)
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["brainlab"]
    position = saved["epoch"] * ref.per_epoch + saved["batch"]
    run_alone(start if how == "auto" else [*program, f"resume={run}"], log)
    found = compare(ref.run, run)
    said = [(int(epoch), int(batch)) for epoch, batch in _RESUMED.findall((run / "brainlab.log").read_text())]
    if saved["finished"]:  # the kill came after the end of training: only the evaluation was left
        said, position = said or [(saved["epoch"], saved["batch"])], ref.total
    after = found["batches_of_attempts"][-1] or 0
    return {
        "resume": how,
        "killed_after": executed,
        "checkpoint": (saved["epoch"], saved["batch"]),
        "resumed_at": said[0],
        "executed_then": after,
        "redone": executed - position,
        "position_equal": said == [(saved["epoch"], saved["batch"])],
        "remaining_equal": after == ref.total - position,
        **{key: value for key, value in found.items() if key.endswith(("_equal", "_step"))},
        **tracked(run),
    }


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
        "batches_of_attempts": [attempt.get("batches") for attempt in _attempts(other)],
    }


def tracked(run: Path) -> dict[str, Any]:
    """Whether MLflow has one finished run for this folder, with exactly the rows of ``metrics.jsonl``."""
    note = run / "mlflow_run_id"
    if not note.exists():
        return {}
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{run.parent / 'mlflow.db'}")
    every = client.search_runs([each.experiment_id for each in client.search_experiments()])
    own = [each for each in every if each.data.tags.get("brainlab.run_dir") == str(run)]
    found = [each.info.run_id for each in own] == [note.read_text().strip()] and own[0].info.status == "FINISHED"
    rows = [
        (name, point.step, point.value)
        for name in (own[0].data.metrics if own else ())
        for point in client.get_metric_history(own[0].info.run_id, name)
    ]
    return {
        "one_mlflow_run_equal": found,
        "mlflow_rows_equal": sorted(rows) == sorted((row["name"], row["step"], row["value"]) for row in _rows(run)),
    }


def table(rounds: Sequence[dict[str, Any]], ref: Reference) -> str:
    """The rounds as text; ``yes`` where everything of that column was equal."""
    columns = {
        "weights": ["weights_equal", "best_equal"],
        "optimizer, scheduler, rng": ["optimizer_equal", "schedulers_equal", "random_states_equal"],
        "results": ["results_equal"],
        "metrics.jsonl": ["history_equal", "one_row_per_metric_and_step"],
        "mlflow": ["one_mlflow_run_equal", "mlflow_rows_equal"],
    }
    head = ["#", "resume", "killed after", "checkpoint", "resumed at", "executed then", "sum = total + redone"]
    lines = [[*head, *columns]]
    for number, found in enumerate(rounds, 1):
        total = found["killed_after"] + found["executed_then"]
        right = "=" if total == ref.total + found["redone"] else "≠"
        lines.append(
            [
                str(number),
                found["resume"],
                f"{found['killed_after']} batches",
                "epoch {}, batch {}".format(*found["checkpoint"]),
                "epoch {}, batch {}".format(*found["resumed_at"]),
                f"{found['executed_then']} batches",
                f"{total} {right} {ref.total} + {found['redone']}",
                *(
                    "–" if not present else "yes" if all(found[key] for key in present) else "NO"
                    for present in ([key for key in keys if key in found] for keys in columns.values())
                ),
            ]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        if torch.equal(a, b):
            return True
        return (
            a.is_floating_point() and torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())
        )
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def _attempts(run: Path) -> list[dict[str, Any]]:
    return json.loads((run / "status.json").read_text())["attempts"]


def _rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _logged(run: Path, name: str) -> int:
    """Complete rows of one metric; the file may be being written to."""
    path = run / "metrics.jsonl"
    return path.read_bytes().count(json.dumps(name).encode() + b", ") if path.exists() else 0


def main(arguments: Sequence[str]) -> int:
    """Command line; returns 0 when everything was equal."""
    split = list(arguments).index("--")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="an empty folder; it gets every run and their mlflow.db")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--resume", choices=("dir", "auto", "both"), default="both", help="both: in turn")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(list(arguments[:split]))
    command = list(arguments[split + 1 :])
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    program = list(itertools.takewhile(lambda word: "=" not in word, command))
    words = [*command[len(program) :], f"paths.root={folder}"]
    alone_s = run_alone([*program, *words, f"hydra.run.dir={folder / 'alone'}"], folder / "alone.txt")
    ref = reference(folder / "alone")
    print(f"uninterrupted: {ref.total} batches in epochs of {ref.per_epoch}, {alone_s:.0f} s", flush=True)
    ways = itertools.cycle(("dir", "auto") if options.resume == "both" else (options.resume,))
    rng, rounds = random.Random(options.seed), []
    while sum(found["resumed_at"][1] > 0 for found in rounds) < options.kills and len(rounds) < 2 * options.kills:
        run = folder / f"killed-{len(rounds) + 1}"
        rounds.append(kill_and_resume(program, words, run, ref, rng, next(ways)))
        print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
    print(table(rounds, ref))
    good = all(value for found in rounds for key, value in found.items() if key.endswith(("_equal", "_step")))
    inside = sum(found["resumed_at"][1] > 0 for found in rounds)
    print(
        f"{inside} of {len(rounds)} resumed in the middle of an epoch; {'everything equal' if good else 'DIFFERENCES'}"
    )
    return 0 if good and inside >= options.kills else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
