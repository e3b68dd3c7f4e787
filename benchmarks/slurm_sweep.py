"""A sweep of many small tasks on a real SLURM, once clean and once with some of its tasks killed at random.

The task answers with its own number and imports neither torch nor lightning nor mlflow (it checks that), so what is
measured is the sweep itself: what submitting costs per task, how much memory the waiting process needs, and whether a
result is ever lost, doubled or attributed to another task. Run it where ``sbatch`` works, or on the cluster of the
tests, which it starts when no other is there::

    python benchmarks/slurm_sweep.py [--tasks 200] [--killed 0.05] [--parallel 24]

The exit status is 1 unless every task that was left alone delivered its result exactly once, every killed one is
reported as lost, and the memory of the waiting process stays flat.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent / "tests" / "slurm"
FLAT_MIB = 4.0  # the interpreter's own arenas come and go by this much


@dataclass
class Measured:
    """What was seen of one sweep."""

    code: int = 0
    wall_s: float = 0.0
    submitted_s: float = float("nan")
    """From the command's start until SLURM had all tasks."""
    submitter_cpu_s: float = 0.0
    memory_mib: list[tuple[float, float]] = field(default_factory=list)
    """(seconds, resident memory) of the waiting process, from the last submission to the last end."""
    victims: set[int] = field(default_factory=set)
    states: dict[int, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    @property
    def growth_mib(self) -> float:
        """How much more the last quarter of the waiting needs than the first."""
        values = [value for _, value in self.memory_mib]
        quarter = max(1, len(values) // 4)
        return max(values[-quarter:]) - max(values[:quarter]) if values else float("nan")


@contextmanager
def a_cluster() -> Iterator[None]:
    """SLURM: the one that is there, else the tests' own."""
    if shutil.which("sinfo") and subprocess.run(["sinfo"], capture_output=True).returncode == 0:
        yield
        return
    script = str(TESTS / "cluster.sh")
    subprocess.run([script, "up"], check=True)
    try:
        for name, value in re.findall(r"export (\w+)=(\S+)", subprocess.check_output([script, "env"], text=True)):
            os.environ[name] = value
        yield
    finally:
        subprocess.run([script, "down"], check=True)


def sweep(
    folder: Path, tasks: int, parallel: int, victims: set[int], seconds: float, chance: random.Random
) -> Measured:
    """Run one sweep, end ``victims`` while it runs, and look at everything that it left."""
    command = [
        sys.executable, "-m", "brainlab", "-m", "--config-dir", str(TESTS / "conf"), "experiment=light",
        f"job.case=range({tasks})", f"job.seconds={seconds}", f"job.waits={sorted(victims)}", "logger=none",
        "hydra/launcher=submitit_slurm", f"hydra.launcher.array_parallelism={parallel}",
        "hydra.launcher.cpus_per_task=1", "hydra.launcher.gpus_per_node=0", "hydra.launcher.timeout_min=30",
        f"hydra.sweep.dir={folder}",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    measured, started, alive = Measured(victims=victims), time.monotonic(), set(victims)
    with open(folder.with_suffix(".log"), "w") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT, cwd=folder.parent)
        watched, ids = psutil.Process(process.pid), {}
        while process.poll() is None:
            ended = sum(1 for _ in (folder / ".jobs").glob("*.json"))
            if len(ids) < tasks:
                ids = job_ids(folder)
                if len(ids) == tasks:
                    measured.submitted_s = time.monotonic() - started
            elif ended < tasks - len(victims):
                try:
                    measured.memory_mib.append((time.monotonic() - started, watched.memory_info().rss / 2**20))
                    measured.submitter_cpu_s = sum(watched.cpu_times()[:2])
                except psutil.NoSuchProcess:
                    break
            for number in sorted(alive) if len(ids) == tasks else ():
                ran = list((folder / str(number)).glob("ran-*"))
                if ran and (end_process(ran[0]) if chance.random() < 0.5 else end_job(ids[number])):
                    alive.discard(number)
            time.sleep(0.1)
    measured.code, measured.wall_s = process.wait(), time.monotonic() - started
    judge(measured, folder, tasks)
    return measured


def job_ids(folder: Path) -> dict[int, str]:
    """SLURM's names of the jobs, as far as the sweep has written them down."""
    try:
        jobs = json.loads((folder / "sweep.json").read_text())["jobs"]
    except (OSError, ValueError):
        return {}
    return {job["num"]: job["job_id"] for job in jobs if job.get("job_id")}


def end_process(ran: Path) -> bool:
    """Kill a task's process as the kernel does when memory runs out."""
    text = ran.read_text().split()
    if not text:
        return False
    os.kill(int(text[0]), signal.SIGKILL)
    return True


def end_job(job_id: str) -> bool:
    """Cancel a task behind the sweep's back."""
    return subprocess.run(["scancel", job_id], capture_output=True).returncode == 0


def judge(measured: Measured, folder: Path, tasks: int) -> None:
    """Compare what the sweep says with what the tasks did."""
    with open(folder / "sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = [int(row["num"]) for row in rows]
    measured.states = {int(row["num"]): row["state"] for row in rows}
    if sorted(numbers) != list(range(tasks)):
        measured.wrong.append(f"sweep.csv has {len(numbers)} rows for {tasks} tasks")
    record = {job["num"]: job for job in json.loads((folder / "sweep.json").read_text())["jobs"]}
    for number in range(tasks):
        expected = "LOST" if number in measured.victims else "COMPLETED"
        state, score = measured.states.get(number), record.get(number, {}).get("score")
        times = len(list((folder / str(number)).glob("ran-*")))
        if state != expected:
            measured.wrong.append(f"task {number} is {state}, not {expected}")
        if expected == "COMPLETED" and score != float(number):
            measured.wrong.append(f"task {number} has the score {score}")
        if times != 1:
            measured.wrong.append(f"task {number} ran {times} times")
    if measured.code != (1 if measured.victims else 0):
        measured.wrong.append(f"the sweep ended with {measured.code}")


def bare_submission(tasks: int, folder: Path) -> float:
    """Seconds that ``sbatch`` alone takes for an array of as many tasks, which do nothing."""
    started = time.monotonic()
    array = ["sbatch", "--parsable", "--hold", f"--array=0-{tasks - 1}", "-o", "/dev/null", "--wrap", "true"]
    job = subprocess.run(array, capture_output=True, text=True, check=True, cwd=folder).stdout.strip()
    seconds = time.monotonic() - started
    subprocess.run(["scancel", job], check=True)
    return seconds


def table(runs: dict[str, Measured], tasks: int) -> list[str]:
    """The measured numbers, one line per quantity."""

    def line(name: str, *values: str) -> str:
        return f"{name:<44}" + "".join(f"{value:>16}" for value in values)

    found = list(runs.values())
    at = [[value for _, value in run.memory_mib] or [float("nan")] for run in found]
    return [
        line("", *runs),
        line("completed / lost / other", *(counted(run) for run in found)),
        line("results lost, doubled or wrong", *(str(len(run.wrong)) for run in found)),
        line("start of the command to all submitted (s)", *(f"{run.submitted_s:.2f}" for run in found)),
        line("  per task (s)", *(f"{run.submitted_s / tasks:.4f}" for run in found)),
        line("submitter's processor time per task (s)", *(f"{run.submitter_cpu_s / tasks:.4f}" for run in found)),
        line("submitter's memory, first (MiB)", *(f"{values[0]:.1f}" for values in at)),
        line("  halfway (MiB)", *(f"{values[len(values) // 2]:.1f}" for values in at)),
        line("  last (MiB)", *(f"{values[-1]:.1f}" for values in at)),
        line("  last quarter over first quarter (MiB)", *(f"{run.growth_mib:+.2f}" for run in found)),
        line("whole sweep (s)", *(f"{run.wall_s:.1f}" for run in found)),
    ]


def counted(run: Measured) -> str:
    states = list(run.states.values())
    completed, lost = states.count("COMPLETED"), states.count("LOST")
    return f"{completed} / {lost} / {len(states) - completed - lost}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--killed", type=float, default=0.05, help="part of the tasks to kill in the second sweep")
    parser.add_argument("--parallel", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=0.5, help="how long a task waits before it answers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="keep the sweeps' folders here")
    given = parser.parse_args(argv)
    chance = random.Random(given.seed)
    victims = set(chance.sample(range(given.tasks), round(given.tasks * given.killed)))
    with a_cluster(), tempfile.TemporaryDirectory() as temporary:
        root = given.keep or Path(temporary)
        root.mkdir(parents=True, exist_ok=True)
        bare = bare_submission(given.tasks, root)
        runs = {}
        for name, chosen in (("clean", set()), (f"{len(victims)} killed", victims)):
            folder = root / name.replace(" ", "-")
            runs[name] = sweep(folder, given.tasks, given.parallel, chosen, given.seconds, chance)
            if runs[name].wrong:
                print(folder.with_suffix(".log").read_text()[-3000:], file=sys.stderr)
    print(
        f"{given.tasks} tasks, {given.parallel} at a time, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}"
    )
    print("\n".join(table(runs, given.tasks)))
    print(f"sbatch alone, an array of {given.tasks} tasks: {bare:.2f} s")
    ok = True
    for name, run in runs.items():
        for sentence in run.wrong[:20]:
            print(f"{name}: {sentence}")
        flat = run.growth_mib <= FLAT_MIB
        if not flat:
            print(f"{name}: the waiting process grew by {run.growth_mib:.1f} MiB, more than {FLAT_MIB}")
        ok = ok and flat and not run.wrong
    print("every result exactly once, every killed task told, memory flat" if ok else "FAILED")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
