"""A watcher over jobs that a test wrote by hand: what a real SLURM says of each kind of end."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from brainlab.run.sweep.jobs import ENDED
from brainlab.run.sweep.watch import Watcher

SCRIPT = """#!/bin/bash
#SBATCH --array=0-4 --ntasks=1 --time=30 --output=/dev/null --requeue
leave() { echo '{"number": '$1', "state": "COMPLETED", "score": 1.5}' > .new-$1 && mv .new-$1 .jobs/$1.json; }
case $SLURM_ARRAY_TASK_ID in
  0) leave 0 ;;
  1) exit 3 ;;
  2) exec srun sleep 600 ;;
  3) [ -n "$SLURM_RESTART_COUNT" ] && leave 3 || sleep 600 ;;
  4) exec srun sleep 600 ;;
esac
"""


@pytest.mark.parametrize("hidden", [False, True], ids=["remembered", "forgotten"])
def test_every_end_is_told_once(any_accounting, tmp_path: Path, hidden: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """``hidden``: neither the queue nor the accounting knows ended jobs, as on sites that forget at once."""
    cluster = any_accounting
    (tmp_path / ".jobs").mkdir()
    (tmp_path / "script").write_text(SCRIPT)
    if hidden:
        commands = tmp_path / "bin"
        commands.mkdir()
        squeue, scontrol = shutil.which("squeue"), shutil.which("scontrol")
        scripts = {
            "squeue": f'exec {squeue} "${{@/all/pending,running}}"',
            "scontrol": f'{scontrol} "$@" | grep -vE "JobState=(FAILED|CANCELLED|COMPLETED)"; true',
            "sacct": "exit 1",
        }
        for name, line in scripts.items():
            (commands / name).write_text(f"#!/bin/bash\n{line}\n")
            (commands / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(commands), prepend=os.pathsep)
    job = cluster.ask("sbatch", "--parsable", f"--chdir={tmp_path}", str(tmp_path / "script"))
    ids = {number: f"{job}_{number}" for number in range(5)}
    watcher = Watcher(ids, tmp_path, interval_s=1.0, heartbeat_s=4.0)
    told: dict[int, list[tuple[str, str | None]]] = {number: [] for number in ids}
    cluster.until(lambda: len(cluster.processes(ids[2])) * len(cluster.processes(ids[4])), "two tasks run")
    for change in watcher.look():
        told[change.number].append((change.state, change.reason))
    cluster.ask("scancel", ids[2])
    cluster.ask("scontrol", "requeue", ids[3])
    for process in cluster.processes(ids[4]):
        os.kill(process, signal.SIGKILL)
    end = time.monotonic() + 60
    while watcher.unfinished and time.monotonic() < end:
        time.sleep(0.5)
        for change in watcher.look():
            told[change.number].append((change.state, change.reason))
    last = {number: changes[-1] for number, changes in told.items()}
    # Task 1 ended by itself with an error, which only SLURM can tell; the others were ended.
    failed = "LOST" if hidden else "FAILED"
    assert {number: state for number, (state, _) in last.items()} == {
        0: "COMPLETED", 1: failed, 2: "LOST", 3: "COMPLETED", 4: "LOST",
    }  # fmt: skip
    assert [state for state, _ in told[3]][:2] == ["RUNNING", "PREEMPTED"]
    assert all(len([state for state, _ in changes if state in ENDED]) == 1 for changes in told.values())
    reasons = [str(last[number][1]) for number in (1, 2, 4)]
    if hidden:
        assert reasons == ["it wrote no heartbeat and not in the queue"] * 3
    else:
        assert "SLURM: FAILED" in reasons[0]
        assert "exit code 3:0" in reasons[0]
        assert reasons[1].startswith("SLURM: CANCELLED")
        assert "SLURM: FAILED" in reasons[2]
