"""What a sweep says when the process that follows it meets an error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from brainlab.errors import BrainlabError
from brainlab.run.sweep import follow as following
from brainlab.run.sweep.follow import broken_off, follow, submit
from brainlab.run.sweep.jobs import JobChange
from brainlab.run.sweep.record import JobsFailed, SweepRecord

FULL = OSError(28, "No space left on device")


class Runner:
    parallel = 1

    def __init__(self, job_id: str) -> None:
        self.job_id, self.ended = job_id, False

    def submit(self, jobs: Any, folder: Path) -> dict[int, str]:
        return {0: self.job_id}

    def watch(self, ids: Any, folder: Path) -> Iterator[JobChange]:
        try:
            yield JobChange(0, "RUNNING")
            yield JobChange(0, "COMPLETED", score=1.0)
        finally:
            self.ended = True


class Record(SweepRecord):
    """One job, and a disk that is full once the jobs were submitted."""

    full = False

    def _write(self, **_: Any) -> None:
        if self.full:
            raise FULL

    def show(self) -> None:
        print("the table")


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    from brainlab.run.sweep.matching import Identity
    from brainlab.run.sweep.rows import JobRow

    monkeypatch.setattr(following, "_submitted", [])
    found = Record(tmp_path / "sweep")
    row = JobRow(0, ("seed=1",), "print", {}, run_dir=str(tmp_path / "sweep" / "0"))
    found._ledger.add(row, Identity("print", {"seed": 1}, frozenset()))
    return found


@pytest.mark.parametrize("when", ["noting the ids", "watching", "at the end"])
@pytest.mark.parametrize("job_id", ["1234_0", "local-0"])
def test_a_full_disk_leaves_a_sentence_the_ids_and_no_job_of_this_machine(
    record: Record, capsys: pytest.CaptureFixture[str], when: str, job_id: str
) -> None:
    runner = Runner(job_id)
    record.full = when == "noting the ids"

    def sweep() -> None:
        ids = submit(record, runner, [])
        record.full = when == "watching"
        for _ in follow(record, runner, ids):
            pass
        record.full = True
        record.finish()

    with pytest.raises(OSError, match="No space") as caught:
        sweep()
    told = broken_off(caught.value)
    assert told is not None
    assert "OSError: [Errno 28] No space left on device" in str(told)
    assert runner.ended or when == "noting the ids"
    out = capsys.readouterr().out
    if job_id == "1234_0" and when != "at the end":
        assert "scancel 1234" in out
        assert f"brainlab job=collect runs={record.folder}" in out
        assert record.rows[0].state != "CANCELLED"
    else:
        assert "the table" in out
    assert broken_off(caught.value) is None  # it is said once


def test_before_anything_was_started_and_at_the_proper_end_nothing_is_added(record: Record) -> None:
    assert broken_off(FULL) is None
    for _ in follow(record, Runner("1_0"), submit(record, Runner("1_0"), [])):
        pass
    assert broken_off(JobsFailed("Not completed: job 0")) is None


def test_a_refusal_is_heard_though_it_cannot_be_written_down(record: Record) -> None:
    class Refusing(Runner):
        def submit(self, jobs: Any, folder: Path) -> dict[int, str]:
            raise BrainlabError("sbatch refused the jobs")

    record.full = True
    with pytest.raises(BrainlabError, match="sbatch refused"):
        submit(record, Refusing(""), [])
