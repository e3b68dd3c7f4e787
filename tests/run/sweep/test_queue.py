"""The words of SLURM 22.05, recorded from a cluster."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from brainlab.run.sweep.queue import Cluster, QueueEntry, is_slurm_id, parse_sacct, parse_scontrol, parse_squeue

SQUEUE = """10001_3|PENDING|JobArrayTaskLimit
10001_2|RUNNING|None
10001_0|COMPLETED|None
10001_1|FAILED|NonZeroExitCode
10005|PENDING|BeginTime
"""
SCONTROL = (
    "JobId=10003 ArrayJobId=10001 ArrayTaskId=1 ArrayTaskThrottle=2 JobName=etest UserId=root(0) GroupId=root(0) "
    "MCS_label=N/A Priority=4294901759 Nice=0 Account=root QOS=normal JobState=FAILED Reason=NonZeroExitCode "
    "Dependency=(null) Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=1:0 RunTime=00:00:00 TimeLimit=01:00:00\n"
    "JobId=10001 ArrayJobId=10001 ArrayTaskId=3-5%2 ArrayTaskThrottle=2 JobName=etest UserId=root(0) GroupId=root(0) "
    "MCS_label=N/A JobState=PENDING Reason=JobArrayTaskLimit Dependency=(null) Requeue=1 Restarts=0 ExitCode=0:0\n"
    "JobId=10009 JobName=brainlab UserId=root(0) JobState=CANCELLED Reason=None Dependency=(null) ExitCode=0:15\n"
)
SACCT = """10001_0|COMPLETED|0:0
10001_1|FAILED|1:0
10001_[3-5%2]|PENDING|0:0
10009|CANCELLED by 0|0:0
10009.batch|CANCELLED|0:15
10010|OUT_OF_ME+|0:125
"""


def test_squeue_names_each_task_and_hides_an_empty_reason() -> None:
    found = parse_squeue(SQUEUE)
    assert found["10001_3"] == QueueEntry("PENDING", "JobArrayTaskLimit")
    assert found["10001_2"] == QueueEntry("RUNNING")
    assert [key for key, entry in found.items() if entry.ended] == ["10001_0", "10001_1"]
    assert [key for key, entry in found.items() if entry.waits] == ["10001_3", "10005"]


def test_scontrol_gives_reason_and_exit_code_and_unfolds_waiting_tasks() -> None:
    found = parse_scontrol(SCONTROL)
    assert str(found["10001_1"]) == "SLURM: FAILED NonZeroExitCode, exit code 1:0"
    assert {key for key, entry in found.items() if entry.waits} == {"10001_3", "10001_4", "10001_5"}
    assert found["10009"] == QueueEntry("CANCELLED", "exit code 0:15")


def test_sacct_leaves_out_steps_and_keeps_who_cancelled() -> None:
    found = parse_sacct(SACCT)
    assert str(found["10009"]) == "SLURM: CANCELLED by 0"
    assert "10009.batch" not in found
    assert found["10001_4"].waits
    assert found["10010"] == QueueEntry("OUT_OF_ME", "exit code 0:125")


@pytest.mark.parametrize("parse", [parse_squeue, parse_scontrol, parse_sacct])
@pytest.mark.parametrize(
    "text", ["", "\n\n", "slurm_load_jobs error: Unable to contact slurm controller", "a|b", "|||"]
)
def test_what_is_no_answer_names_no_job(parse, text: str) -> None:
    assert not [key for key in parse(text) if is_slurm_id(key)]


def test_the_number_of_calls_does_not_grow_with_the_jobs() -> None:
    calls: list[Sequence[str]] = []

    def ask(command: Sequence[str]) -> str:
        calls.append(command)
        return ""

    cluster, ids = Cluster(ask), {f"{array}_{task}" for array in (7, 30) for task in range(500)}
    for question in (cluster.squeue, cluster.scontrol, cluster.sacct):
        assert question(ids) == {}
    assert len(calls) == 3
    assert [word for call in calls for word in call if "7,30" in word] == ["7,30", "7,30"]


def test_a_user_s_formatting_variables_do_not_reach_the_command(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text('#!/bin/sh\n[ -z "$SQUEUE_FORMAT" ] && echo "12|RUNNING|None"\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("SQUEUE_FORMAT", "%i")
    assert Cluster().squeue(["12"]) == {"12": QueueEntry("RUNNING")}


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", {}),
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1", None),
        ("echo 'Slurm accounting storage is disabled' >&2; exit 1", None),
    ],
)
def test_not_knowing_a_job_is_an_answer_and_failing_is_none(tmp_path, monkeypatch, script: str, expected) -> None:
    for name in ("squeue", "scontrol", "sacct"):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    cluster = Cluster()
    assert cluster.squeue(["12"]) == cluster.scontrol(["12"]) == cluster.sacct(["12"]) == expected


def test_commands_that_are_not_installed_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert Cluster().squeue(["12"]) is None
