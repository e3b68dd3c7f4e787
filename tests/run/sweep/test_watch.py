"""What a watcher makes of outcome files, heartbeats and a cluster's answers, without a cluster."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from brainlab.run.sweep import watch
from brainlab.run.sweep.jobs import JobChange
from brainlab.run.sweep.queue import Cluster
from brainlab.run.sweep.watch import Watcher, mark_lost, read_outcome


class Site:
    """A sweep's folder and a cluster whose answers a test writes down."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.time = folder, 0.0
        self.squeue: str | None = ""
        self.scontrol: str | None = ""
        self.sacct: str | None = None
        self.calls: list[str] = []
        (folder / ".jobs").mkdir()

    def ask(self, command: Sequence[str]) -> str | None:
        self.calls.append(command[0])
        return getattr(self, command[0])

    def watcher(self, ids: dict[int, str], **settings: Any) -> Watcher:
        return Watcher(ids, self.folder, cluster=Cluster(self.ask), clock=lambda: self.time, **settings)

    def later(self, watcher: Watcher, seconds: float = 15.0) -> dict[int, str]:
        """Look again after some time; the new states by number."""
        self.time += seconds
        return {change.number: change.state for change in watcher.look()}

    def outcome(self, number: int, state: str = "COMPLETED", **content: Any) -> None:
        (self.folder / ".jobs" / f"{number}.json").write_text(json.dumps({"number": number, "state": state, **content}))

    def status(self, number: int, state: str = "RUNNING", age_s: float = 0.0, job: str = "12_0") -> Path:
        beat = (datetime.now().astimezone() - timedelta(seconds=age_s)).isoformat(timespec="seconds")
        path = self.folder / str(number) / "status.json"
        path.parent.mkdir(exist_ok=True)
        attempt = {"start": beat, "end": None if state == "RUNNING" else beat, "exit": None, "slurm_job_id": job}
        path.write_text(json.dumps({"state": state, "attempts": [attempt], "heartbeat": beat, "error": None}))
        return path


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_states_follow_the_queue_and_the_outcome_ends_a_job(site: Site) -> None:
    watcher = site.watcher({0: "12_0", 1: "12_1"})
    site.squeue = "12_0|RUNNING|None\n12_1|PENDING|Resources\n"
    assert site.later(watcher) == {0: "RUNNING", 1: "PENDING"}
    assert site.later(watcher) == {}
    site.outcome(0, score=0.5, job_id="12_0")
    (change,) = watcher.look()
    assert (change.number, change.state, change.score, change.job_id) == (0, "COMPLETED", 0.5, "12_0")
    assert watcher.unfinished == [1]
    site.outcome(1, "FAILED", reason="ValueError: no", job_id="12_1")
    (change,) = watcher.look()
    assert (change.state, change.reason) == ("FAILED", "ValueError: no")
    assert watcher.unfinished == []


def test_outcomes_are_looked_for_always_and_the_cluster_is_asked_once_per_interval(site: Site) -> None:
    watcher = site.watcher({0: "12_0"})
    site.squeue = "12_0|RUNNING|None\n"
    for _ in range(30):
        site.later(watcher, 1.0)
    assert site.calls == ["squeue"] * 2


def test_jobs_added_later_are_watched(site: Site) -> None:
    ids = {0: "12"}
    watcher = site.watcher(ids)
    site.outcome(0)
    assert site.later(watcher) == {0: "COMPLETED"}
    ids[1] = "13"
    site.squeue = "13|RUNNING|None\n"
    assert site.later(watcher) == {1: "RUNNING"}


def test_a_cancelled_task_is_lost_after_two_polls_and_keeps_the_cluster_s_word(site: Site) -> None:
    watcher = site.watcher({0: "12_0"})
    site.squeue = "12_0|RUNNING|None\n"
    site.later(watcher)
    path = site.status(0)
    site.squeue = "12_0|CANCELLED|None\n"
    assert site.later(watcher) == {}
    site.time += 15
    (change,) = watcher.look()
    assert (change.state, change.reason) == ("LOST", "SLURM: CANCELLED")
    written = json.loads(path.read_text())
    assert (written["state"], written["error"], written["attempts"][0]["exit"]) == ("LOST", "SLURM: CANCELLED", "lost")


def test_one_answer_is_not_enough(site: Site) -> None:
    watcher = site.watcher({0: "12_0"})
    for _ in range(5):
        site.squeue = "12_0|NODE_FAIL|None\n"
        assert "LOST" not in site.later(watcher).values()
        site.squeue = "12_0|PENDING|BeginTime\n"
        assert "LOST" not in site.later(watcher).values()


def test_a_requeue_is_preempted_and_goes_on(site: Site) -> None:
    watcher = site.watcher({0: "12"})
    site.squeue = "12|RUNNING|None\n"
    assert site.later(watcher) == {0: "RUNNING"}
    site.squeue = "12|PENDING|BeginTime\n"
    assert site.later(watcher) == {0: "PREEMPTED"}
    site.squeue = "12|RUNNING|None\n"
    assert site.later(watcher) == {0: "RUNNING"}


def test_a_requeue_is_recognised_by_a_watcher_that_came_later(site: Site) -> None:
    site.status(0, "PREEMPTED")
    site.squeue = "12|PENDING|BeginTime\n13|PENDING|None\n"
    assert site.later(site.watcher({0: "12", 1: "13"})) == {0: "PREEMPTED", 1: "PENDING"}


@pytest.mark.parametrize("state", ["COMPLETED", "FAILED"])
def test_a_job_that_ended_by_itself_gets_time_until_its_outcome_is_visible(site: Site, state: str) -> None:
    watcher = site.watcher({0: "12"})
    site.squeue = f"12|{state}|None\n"
    assert [site.later(watcher) for _ in range(3)] == [{}, {}, {}]
    site.outcome(0, "FAILED", reason="late")
    assert site.later(watcher) == {0: "FAILED"}


def test_a_job_that_ended_by_itself_and_left_nothing_is_lost_within_two_minutes(site: Site) -> None:
    watcher = site.watcher({0: "12"})
    site.squeue = "12|COMPLETED|None\n"
    states: dict[int, str] = {}
    while not states:
        states = site.later(watcher)
    assert states == {0: "LOST"}
    assert site.time < 120


@pytest.mark.parametrize("source", ["scontrol", "sacct"])
@pytest.mark.parametrize(
    ("code", "state"), [("1:0", "FAILED"), ("127:0", "FAILED"), ("137:0", "LOST"), ("0:9", "LOST"), ("1:9", "LOST")]
)
def test_an_error_before_the_job_could_speak_is_failed_and_a_kill_is_lost(
    site: Site, source: str, code: str, state: str
) -> None:
    watcher = site.watcher({0: "12"})
    path = site.status(0, job="12")
    log = site.folder / ".submitit" / "12" / "12_0_log.out"
    log.parent.mkdir(parents=True)
    log.touch()
    log.with_suffix(".err").write_text("python: command not found")
    site.squeue = "12|FAILED|NonZeroExitCode\n"
    told = {
        "scontrol": f"JobId=12 JobState=FAILED Reason=NonZeroExitCode ExitCode={code}",
        "sacct": f"12|FAILED|{code}",
    }
    setattr(site, source, told[source])
    changes: list[JobChange] = []
    while not changes:
        site.time += 15
        changes = watcher.look()
    assert 30 < site.time < 120
    assert (changes[0].state, changes[0].log) == (state, log.with_suffix(".err"))
    assert f"exit code {code}" in str(changes[0].reason)
    assert ("; see " in str(changes[0].reason)) == (state == "FAILED")
    assert json.loads(path.read_text())["state"] == state


def test_a_job_in_no_queue_lives_while_its_heart_beats(site: Site) -> None:
    watcher = site.watcher({0: "12"})
    for beat in range(10):
        site.status(0, age_s=-beat)  # the clock of the job's node is wrong: only that the beat changes may count
        assert site.later(watcher) == {}
    started, states = site.time, {}
    while not states:
        states = site.later(watcher)
    assert states == {0: "LOST"}
    assert 45 <= site.time - started < 120


def test_a_task_that_vanished_from_a_remembered_array_before_it_started_is_lost_at_once(site: Site) -> None:
    watcher = site.watcher({0: "12_0", 1: "12_1", 2: "13"})
    site.squeue = "12_0|RUNNING|None\n12_1|PENDING|JobArrayTaskLimit\n13|PENDING|None\n"
    site.later(watcher)
    site.squeue = "12_0|RUNNING|None\n"
    assert site.later(watcher) == {}
    assert site.later(watcher) == {1: "LOST"}
    assert site.later(watcher) == {}


def test_a_silent_cluster_loses_no_job_and_is_mentioned_once(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    watcher = site.watcher({0: "12"})
    site.squeue = site.scontrol = site.sacct = None
    with caplog.at_level(logging.WARNING, logger=watch.__name__):
        assert [site.later(watcher) for _ in range(20)] == [{}] * 20
    assert len(caplog.records) == 1
    site.squeue = "12|RUNNING|None\n"
    assert site.later(watcher) == {0: "RUNNING"}


def test_the_accounting_alone_neither_keeps_a_job_alive_nor_ends_it_at_once(site: Site) -> None:
    watcher = site.watcher({0: "12", 1: "13"})
    site.sacct = "12|RUNNING|0:0\n13|NODE_FAIL|1:0\n"
    assert site.later(watcher) == {}
    site.time += 15
    (change,) = watcher.look()
    assert (change.number, change.reason) == (1, "SLURM: NODE_FAIL exit code 1:0")
    states: dict[int, str] = {}
    while not states:
        states = site.later(watcher)
    assert states == {0: "LOST"}


def test_an_outcome_of_an_earlier_submission_is_not_taken(site: Site) -> None:
    watcher = site.watcher({0: "20_0", 1: "20_1", 2: "20_2"}, submissions={0: "new", 1: "new"})
    site.squeue = "".join(f"20_{task}|RUNNING|None\n" for task in range(3))
    site.outcome(0, submission="old", job_id="20_0")
    site.outcome(1, submission="new", job_id="20_1")
    site.outcome(2, job_id="12_2")
    assert site.later(watcher) == {0: "RUNNING", 1: "COMPLETED", 2: "RUNNING"}
    site.outcome(2, job_id="20_2")
    assert site.later(watcher, 1.0) == {2: "COMPLETED"}


def test_a_job_that_was_thought_lost_is_believed_when_it_reports(site: Site) -> None:
    watcher = site.watcher({0: "12", 1: "13"})
    site.squeue = "12|NODE_FAIL|None\n13|RUNNING|None\n"
    site.later(watcher)
    assert site.later(watcher) == {0: "LOST"}
    site.outcome(0, score=1.0)
    assert site.later(watcher, 1.0) == {0: "COMPLETED"}


def test_what_the_sweep_cancels_is_cancelled_and_not_lost(site: Site) -> None:
    watcher = site.watcher({0: "12_0", 1: "12_1"})
    site.squeue = "12_0|CANCELLED|None\n12_1|RUNNING|None\n"
    watcher.cancelling([0])
    assert site.later(watcher) == {0: "CANCELLED", 1: "RUNNING"}


def test_a_job_killed_between_its_last_two_files_has_its_own_state(site: Site) -> None:
    watcher = site.watcher({0: "12_0", 1: "12_1"})
    site.status(0, "COMPLETED", job="12_0")
    site.status(1, "COMPLETED", job="7_1")  # an earlier submission's
    site.squeue = "12_0|CANCELLED|None\n12_1|CANCELLED|None\n"
    site.later(watcher)
    assert site.later(watcher) == {0: "COMPLETED", 1: "LOST"}


def test_one_visit_settles_what_is_gone(site: Site) -> None:
    site.squeue = "14|RUNNING|None\n"
    site.status(1, age_s=300.0)
    site.status(2, age_s=5.0)
    watcher = site.watcher({0: "12", 1: "13", 2: "15", 3: "14"})
    states = {change.number: change.state for change in watcher.settle(pause_s=0)}
    assert states == {0: "LOST", 1: "LOST", 3: "RUNNING"}


def test_jobs_without_a_cluster_are_judged_by_their_heartbeat(site: Site) -> None:
    site.status(0, age_s=300.0)
    site.status(1, age_s=2.0)
    site.squeue = site.scontrol = site.sacct = None
    states = {change.number: change.state for change in site.watcher({0: "pid 1", 1: ""}).settle(pause_s=0)}
    assert states == {0: "LOST", 1: "RUNNING"}
    assert site.calls == []


def test_the_log_of_a_task_is_named(site: Site) -> None:
    log = site.folder / ".submitit" / "12_0" / "12_0_0_log.out"
    log.parent.mkdir(parents=True)
    log.touch()
    site.outcome(0)
    (change,) = site.watcher({0: "12_0"}).look()
    assert change.log == log


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "RUNNING"}', '{"score": 1}'])
def test_what_is_no_outcome_is_not_taken_for_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "0.json").write_text(text)
    assert read_outcome(tmp_path / "0.json") is None


def test_an_ended_run_keeps_its_state(site: Site) -> None:
    path = site.status(0, "FAILED")
    before = path.read_bytes()
    assert not mark_lost(site.folder / "0", "SLURM: CANCELLED")
    assert not mark_lost(site.folder / "9", "SLURM: CANCELLED")
    assert path.read_bytes() == before
