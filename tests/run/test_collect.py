"""The table over runs: of finished ones, of those that still run or died, of sweeps, and the difference of two."""

from __future__ import annotations

import csv
import json
import os
import shutil
import socket
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from launch import tiny_config

from brainlab.errors import ConfigError
from brainlab.run.collect import Collect, find_runs, row_of, table_of
from brainlab.run.execute import execute
from brainlab.run.sweep.record import JobsFailed


def collect(tmp_path: Path, *places: Path | str) -> list[dict[str, Any]]:
    job = {"_target_": "brainlab.run.collect.Collect", "runs": [str(place) for place in places]}
    execute(tiny_config(tmp_path, f"job={json.dumps(job)}"), folder=tmp_path / "collect", overrides=[])
    with (tmp_path / "collect" / "collect.csv").open() as stream:
        return list(csv.DictReader(stream))


def stopped(folder: Path, *, host: str, pid: int, minutes: float, state: str = "RUNNING") -> Path:
    """A run that wrote its status and nothing else, some time ago."""
    folder.mkdir(parents=True)
    then = (datetime.now().astimezone() - timedelta(minutes=minutes)).isoformat(timespec="seconds")
    attempt = {"start": then, "end": None, "host": host, "pid": pid, "slurm_job_id": "12_3", "exit": None}
    status = {"state": state, "attempts": [attempt], "heartbeat": then, "error": None}
    (folder / "status.json").write_text(json.dumps(status))
    return folder


def test_unfinished_and_lost_runs_are_rows_that_say_so(finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "runs" / "1")
    here = socket.gethostname()
    stopped(tmp_path / "runs" / "2", host="node7", pid=1, minutes=200)
    stopped(tmp_path / "runs" / "3", host="node7", pid=1, minutes=0)
    stopped(tmp_path / "runs" / "10", host=here, pid=os.getpid(), minutes=5)  # stopped, not dead
    stopped(tmp_path / "runs" / "11", host="node7", pid=1, minutes=9, state="PREEMPTED")
    rows = collect(tmp_path, f"{tmp_path}/runs/*")
    assert [row["run"] for row in rows] == ["1", "2", "3", "10", "11"]
    assert [row["state"] for row in rows] == ["COMPLETED", "LOST", "RUNNING", "RUNNING", "PREEMPTED"]
    assert rows[1]["note"] == "no sign of life for 3 h"
    assert rows[1]["slurm_job_id"] == "12_3"
    assert float(rows[0]["value"]) > 0


def test_a_failed_run_is_listed_with_its_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        execute(tiny_config(tmp_path, "model.fail_at_step=2"), folder=tmp_path / "runs" / "a")
    row = row_of(tmp_path / "runs" / "a")
    assert (row["state"], row["note"]) == ("FAILED", "RuntimeError: planned failure")


def test_a_run_whose_status_is_broken_is_lost_and_says_why(tmp_path: Path) -> None:
    for number, text in enumerate(('{"state": "RUNN', "[]", "{}")):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "status.json").write_text(text)
        row = row_of(folder)
        assert (row["state"], row["note"]) == ("LOST", "its status.json is missing or damaged")


def test_a_sweep_that_still_runs_is_said_in_one_sentence(tmp_path: Path) -> None:
    beats = stopped(tmp_path / "sweep" / "0", host="node7", pid=1, minutes=0)
    job = {"num": 0, "overrides": [], "state": "RUNNING", "job_id": "here-0"}
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps({"brainlab_sweep": 1, "jobs": [job]}))
    with pytest.raises(JobsFailed, match=r"^1 job is still running; collect again later with"):
        collect(tmp_path, beats.parent)
    assert "Traceback" not in (tmp_path / "collect" / "stderr.txt").read_text()


def test_two_runs_are_compared_key_by_key(finished_run: Path, tmp_path: Path) -> None:
    words = ["model.lr=0.5", "data.n=40", "trainer.max_epochs=1", "seed=3"]
    execute(tiny_config(tmp_path, *words), folder=tmp_path / "other", overrides=words)
    collect(tmp_path, finished_run, tmp_path / "other")
    with (tmp_path / "collect" / "diff.csv").open() as stream:
        found = {row["key"]: (row["run"], row["other"]) for row in csv.DictReader(stream)}
    assert found["model.lr"] == ("0.01", "0.5")
    assert found["data.n"] == ("60", "40")
    columns = list(table_of([finished_run, tmp_path / "other"])[0])
    assert "model.lr" in columns
    assert "data.seed" not in columns  # it repeats the seed


def test_two_runs_of_one_name_are_told_apart_in_the_difference(finished_run: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(finished_run, tmp_path / name / "0")
    resolved = tmp_path / "b" / "0" / "resolved.yaml"
    resolved.write_text(resolved.read_text().replace("lr: 0.01", "lr: 0.07"))
    collect(tmp_path, tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "collect" / "diff.csv").read_text() == "key,a/0,b/0\nmodel.lr,0.01,0.07\n"


def test_a_run_without_a_configuration_has_nothing_to_be_compared_with(finished_run: Path, tmp_path: Path) -> None:
    early = stopped(tmp_path / "early", host="node7", pid=1, minutes=0)
    rows = collect(tmp_path, finished_run, early)
    assert len(rows) == 2
    assert not (tmp_path / "collect" / "diff.csv").exists()
    assert "nothing to compare" in (tmp_path / "collect" / "brainlab.log").read_text()


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("nowhere", "existing directory"),
        ("no*", "pattern that matches"),
        ("file", "not a file"),
        ("empty", "with runs"),
    ],
)
def test_a_place_without_runs_is_refused_before_anything_starts(tmp_path: Path, place: str, expected: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=rf"runs=.*{expected}.*Hint: a run's folder"):
        Collect(str(tmp_path / place)).check(tiny_config(tmp_path))


def test_tables_are_not_rows_of_later_tables(finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "outputs" / "a")
    collect(tmp_path, tmp_path / "outputs")
    shutil.move(tmp_path / "collect", tmp_path / "outputs" / "table")
    assert len(find_runs([str(tmp_path / "outputs")])) == 2
    assert [row["run"] for row in collect(tmp_path, tmp_path / "outputs")] == ["a"]


def test_runs_that_differ_in_their_seed_are_averaged(finished_run: Path, tmp_path: Path) -> None:
    execute(tiny_config(tmp_path, "seed=4"), folder=tmp_path / "runs" / "4", overrides=["seed=4"])
    collect(tmp_path, finished_run, tmp_path / "runs")
    with (tmp_path / "collect" / "collect_summary.csv").open() as stream:
        (group,) = csv.DictReader(stream)
    own = [json.loads((run / "results.json").read_text()) for run in (finished_run, tmp_path / "runs" / "4")]
    assert group["n"] == "2"
    assert float(group["best"]) == pytest.approx(sum(each["best"]["score"] for each in own) / 2)
    assert float(group["value sd"]) >= 0
