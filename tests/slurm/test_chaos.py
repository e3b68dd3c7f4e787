"""Twenty-four tasks, three of which end badly, and the same sweep again without the trouble."""

from __future__ import annotations

import json
import os
import signal

TASKS, RAISES, CANCELLED, KILLED = 24, 5, 11, 17


def test_a_sweep_keeps_what_completed_and_runs_only_the_rest_again(cluster, start, tmp_path) -> None:
    trouble = tmp_path / "trouble.json"
    trouble.write_text(json.dumps({"raises": [RAISES], "waits": [CANCELLED, KILLED]}))
    words, bad = (f"job.case=range({TASKS})",), {RAISES: "FAILED", CANCELLED: "LOST", KILLED: "LOST"}
    sweep = start(*words, LIGHT_JOB_TROUBLE=str(trouble))
    cluster.until(
        lambda: {CANCELLED, KILLED} <= set(sweep.started_jobs() if sweep.folder.exists() else ()), "the jobs run", 120
    )
    ids = cluster.until(lambda: len(sweep.job_ids()) == TASKS and sweep.job_ids(), "the ids are written down")
    cluster.ask("scancel", ids[CANCELLED])
    for process in cluster.processes(ids[KILLED]):
        os.kill(process, signal.SIGKILL)
    ended = sweep.wait()
    assert ended.code == 1, ended.err
    assert sweep.states() == {number: bad.get(number, "COMPLETED") for number in range(TASKS)}
    assert sweep.started_jobs() == dict.fromkeys(range(TASKS), 1)
    for number in set(range(TASKS)) - set(bad):
        outcome = json.loads((sweep.folder / ".jobs" / f"{number}.json").read_text())
        assert (outcome["state"], outcome["score"]) == ("COMPLETED", float(number))

    trouble.write_text("{}")
    ended = start(*words, LIGHT_JOB_TROUBLE=str(trouble)).wait()
    assert ended.code == 0, ended.err
    assert sweep.states() == dict.fromkeys(range(TASKS), "COMPLETED")
    assert sweep.started_jobs() == {number: 2 if number in bad else 1 for number in range(TASKS)}
    assert (sweep.folder / "sweep.html").stat().st_size > 1000
