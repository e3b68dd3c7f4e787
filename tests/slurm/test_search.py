"""A guided search on a cluster outlives the process that steers it."""

from __future__ import annotations

import json


def test_a_search_whose_submitter_is_killed_repeats_none_of_its_trials(cluster, start):
    words = ("sweep=optuna", "sweep.n_trials=6", "sweep.n_parallel=2", "job.case=range(0,30)", "job.seconds=5")
    first = start(*words)
    cluster.until(lambda: len(first.started_jobs()) >= 2 if first.folder.exists() else False, "two trials run")
    first.kill()

    ended = start(*words).wait()

    assert ended.code == 0, ended.err + ended.out
    assert first.started_jobs() == dict.fromkeys(range(6), 1)
    scores = {int(row["job.case"]): float(row["score"]) for row in first.rows().values()}
    assert all(case == score for case, score in scores.items())
    found = json.loads((first.folder / "search.json").read_text())
    assert [trial["state"] for trial in found["trials"]] == ["COMPLETE"] * 6
    assert f"best trial: job {found['trials'][found['best']]['job']}, score = {max(scores.values()):.6g}" in ended.out
