"""Which jobs of a sweep run, under which numbers, and what is remembered of them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from brainlab.config.search_space import check_settings
from brainlab.errors import ConfigError
from brainlab.run.sweep.follow import follow
from brainlab.run.sweep.jobs import JobChange, SweepJob
from brainlab.run.sweep.record import JobsFailed, SweepRecord, collect_sweep
from brainlab.run.sweep.rows import find

CONFIG = """
hydra:
  job: {num: 0, id: '0'}
  sweep: {dir: unused, subdir: '${hydra.job.num}'}
  launcher: {_target_: hydra._internal.core_plugins.basic_launcher.BasicLauncher}
experiment_name: mine
seed: 0
data: {root: null, seed: '${seed}'}
model: {lr: 0.1, width: 3}
trainer: {max_epochs: 5, max_steps: -1}
logger: null
paths: {root: /somewhere}
sweep: {metric: val/loss, mode: min, max_failures: null, method: grid}
"""


def compose(*words: str) -> DictConfig:
    cfg = OmegaConf.create(CONFIG)
    cfg.merge_with_dotlist(list(words))
    return cfg


def combined(*jobs: Sequence[str]) -> list[tuple[Sequence[str], DictConfig]]:
    return [(words, compose(*words)) for words in jobs]


def record_in(folder: Path, *words: str) -> SweepRecord:
    return SweepRecord(folder, compose(*words))


def numbers(jobs: Sequence[SweepJob]) -> list[int]:
    return [job.number for job in jobs]


def completed(folder: Path, *jobs: Sequence[str], score: float = 1.0) -> None:
    """A sweep of these jobs that ran to its end."""
    with record_in(folder) as record:
        for job in record.take(combined(*jobs)):
            record.submitted({job.number: f"job-{job.number}"})
            record.changed(JobChange(job.number, "COMPLETED", score=score))
        record.finish()


def test_combinations_get_numbers_in_their_order(tmp_path):
    record = record_in(tmp_path)

    jobs = record.take(combined(["model.lr=1"], ["model.lr=2"]))

    assert numbers(jobs) == [0, 1]
    assert [job.config.hydra.job.num for job in jobs] == [0, 1]
    assert record.swept == ["model.lr"]


def test_a_search_may_ask_again_and_again(tmp_path):
    record = record_in(tmp_path)

    first = record.take(combined(["model.lr=1"]), swept=["model.lr"])
    second = record.take(combined(["model.lr=2"]), swept=["model.lr"])

    assert numbers([*first, *second]) == [0, 1]
    assert record.number_of(compose("model.lr=2")) == 1


def test_a_repeated_combination_is_run_once(tmp_path, capsys):
    jobs = record_in(tmp_path).take(combined(["model.lr=1e-4"], ["model.lr=2"], ["model.lr=0.0001"]))

    assert numbers(jobs) == [0, 1]
    assert "1 of 3 combinations are the same run" in capsys.readouterr().out


def test_completed_jobs_are_left_and_failed_lost_and_missing_ones_run_again(tmp_path):
    every = [[f"model.lr={lr}"] for lr in range(5)]
    with record_in(tmp_path) as record:
        record.take(combined(*every))
        record.submitted({number: f"job-{number}" for number in range(4)})
        record.changed(JobChange(0, "COMPLETED", score=1.0))
        record.changed(JobChange(1, "FAILED", reason="ValueError: no"))
        record.changed(JobChange(2, "LOST", reason="SLURM: NODE_FAIL"))
        record.changed(JobChange(3, "RUNNING"))

    with record_in(tmp_path) as again:
        assert numbers(again.take(combined(*every))) == [1, 2, 3, 4]
        assert again.rows[0].state == "COMPLETED"
        assert (again.rows[1].state, again.rows[1].reason) == ("PENDING", None)


def test_new_combinations_get_new_numbers_and_the_old_ones_keep_theirs(tmp_path):
    completed(tmp_path, ["model.lr=1"], ["model.lr=2"])

    with record_in(tmp_path) as record:
        jobs = record.take(combined(["model.lr=3"], ["model.lr=2"], ["model.lr=1"]))

        assert [(job.number, job.overrides) for job in jobs] == [(2, ("model.lr=3",))]


def test_another_axis_extends_a_sweep(tmp_path):
    completed(tmp_path, ["model.lr=1"], ["model.lr=2"])

    with record_in(tmp_path) as record:
        words = [[f"model.lr={lr}", f"model.width={width}"] for lr in (1, 2) for width in (3, 4)]
        jobs = record.take(combined(*words))

        assert [job.overrides for job in jobs] == [("model.lr=1", "model.width=4"), ("model.lr=2", "model.width=4")]
        assert record.settings(0) == {"model.lr": "1", "model.width": 3}


def test_other_settings_are_refused_before_anything_is_touched(tmp_path):
    completed(tmp_path, ["model.lr=1"], ["model.lr=2"])
    before = (tmp_path / "sweep.json").read_bytes()

    with (
        record_in(tmp_path) as record,
        pytest.raises(ConfigError, match=r"model\.width: 3 → 9") as refused,
    ):
        record.take(combined(["model.lr=1", "model.width=9"], ["model.lr=2", "model.width=9"]))

    assert "model.lr:" not in str(refused.value)
    assert (tmp_path / "sweep.json").read_bytes() == before


def test_values_made_from_a_swept_key_are_no_other_settings(tmp_path):
    completed(tmp_path, ["seed=0"], ["seed=1"])

    with record_in(tmp_path) as record:
        assert numbers(record.take(combined(["seed=7"]))) == [2]


def test_folders_loggers_and_launchers_may_change(tmp_path):
    completed(tmp_path, ["model.lr=1"], ["model.lr=2"])

    with record_in(tmp_path) as record:
        assert record.take(combined(["model.lr=1", "paths.root=/x"], ["model.lr=2", "paths.root=/x"])) == []


def test_a_longer_run_of_the_same_job_goes_on_and_a_shorter_one_is_refused(tmp_path):
    completed(tmp_path, ["model.lr=1"], ["model.lr=2"])

    with record_in(tmp_path) as record, pytest.raises(ConfigError, match="expected at least 5"):
        record.take(combined(["model.lr=1", "trainer.max_epochs=4"]))
    with record_in(tmp_path) as record:
        assert numbers(record.take(combined(["model.lr=1", "trainer.max_epochs=9"]))) == [0]


def test_a_job_whose_data_moved_looks_at_them_again(tmp_path):
    completed(tmp_path, ["model.lr=1"])

    with record_in(tmp_path) as record:
        assert numbers(record.take(combined(["model.lr=1", "data.root=/elsewhere"]))) == [0]


def test_a_lost_job_that_completed_after_all_is_not_run_again(tmp_path):
    with record_in(tmp_path) as record:
        record.take(combined(["model.lr=1"]))
        record.changed(JobChange(0, "LOST", reason="SLURM: NODE_FAIL"))
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "status.json").write_text('{"state": "COMPLETED"}')
    (tmp_path / "0" / "results.json").write_text('{"best": {"score": 0.5}}')

    with record_in(tmp_path) as again:
        assert again.take(combined(["model.lr=1"])) == []
        assert again.rows[0].score == 0.5


def test_run_directories_without_a_record_are_continued(tmp_path):
    folder = tmp_path / "0"
    (folder / ".hydra").mkdir(parents=True)
    plain = OmegaConf.to_container(compose("model.lr=1"), resolve=True)
    plain.pop("hydra")
    OmegaConf.save(OmegaConf.create(plain), folder / "resolved.yaml")
    OmegaConf.save(OmegaConf.create(["model.lr=1"]), folder / ".hydra" / "overrides.yaml")
    (folder / "status.json").write_text('{"state": "COMPLETED"}')

    with record_in(tmp_path) as record:
        assert numbers(record.take(combined(["model.lr=1"], ["model.lr=2"]))) == [1]


@pytest.mark.parametrize("damage", ['{"brainlab_sweep": 1, "jo', '{"brainlab_sweep": 1, "jobs": [{"num": "0"}]}'])
def test_a_damaged_record_is_kept_aside_and_the_outcomes_of_the_jobs_stand_in_for_it(tmp_path, caplog, damage):
    folder = tmp_path / "0"
    folder.mkdir()
    OmegaConf.save(OmegaConf.create({"model": {"lr": 1}, "seed": 0}), folder / "resolved.yaml")
    (tmp_path / ".jobs").mkdir()
    outcome = {"number": 0, "state": "COMPLETED", "score": 0.25, "reason": None, "job_id": "77_0"}
    (tmp_path / ".jobs" / "0.json").write_text(json.dumps(outcome))
    (tmp_path / "sweep.json").write_text(damage)

    row = SweepRecord.load(tmp_path).rows[0]

    assert (row.state, row.score, row.job_id) == ("COMPLETED", 0.25, "77_0")
    assert (tmp_path / "sweep.json.bad").read_text() == damage
    assert caplog.text.count("sweep.json.bad") == 1


def test_two_processes_never_work_on_one_sweep(tmp_path):
    with record_in(tmp_path), pytest.raises(ConfigError, match="no other process"), record_in(tmp_path):
        pass


def test_jobs_lie_in_folders_named_by_their_numbers(tmp_path):
    with pytest.raises(ConfigError, match=r"hydra\.sweep\.subdir"):
        record_in(tmp_path).take(combined(["hydra.sweep.subdir=${model.lr}"]))


def test_the_tables_hold_one_row_per_job(tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "results.json").write_text(
        json.dumps({"metrics": {"top1": {"name": "top1", "value": 0.5}}, "best": {"score": 1.0}, "wall_s": 2.5})
    )
    (tmp_path / "0" / "mlflow_run_id").write_text("abc\n")
    record = record_in(tmp_path)
    record.take(combined(["model.lr=1", "seed=4"], ["model.lr=2", "seed=4"]))
    record.submitted({0: "12_0", 1: "12_1"})
    record.changed(JobChange(0, "COMPLETED", score=1.0))
    record.changed(JobChange(1, "FAILED", reason="ValueError: no"))

    with (tmp_path / "sweep.csv").open() as file:
        first, second = csv.DictReader(file)

    assert list(first) == [
        "num", "state", "model.lr", "val/loss", "top1", "seed", "wall_s", "run_dir", "slurm_job_id", "mlflow_run_id",
    ]  # fmt: skip
    assert list(first.values()) == ["0", "COMPLETED", "1", "1.0", "0.5", "4", "2.5", str(tmp_path / "0"), "12_0", "abc"]
    assert (second["state"], second["val/loss"], second["slurm_job_id"]) == ("FAILED", "", "12_1")


def test_the_screen_names_state_id_and_log_and_says_why_a_job_failed(tmp_path, capsys):
    record = record_in(tmp_path)
    record.take(combined(["model.lr=1"], ["model.lr=2"]))
    record.submitted({0: "12_0", 1: "12_1"})
    record.changed(JobChange(0, "COMPLETED", score=1.0))
    record.changed(JobChange(1, "LOST", reason="SLURM: NODE_FAIL", log=tmp_path / "out.log"))
    capsys.readouterr()

    record.show()
    shown = capsys.readouterr().out

    assert "1    LOST       2" in shown
    assert "12_1" in shown
    assert str(tmp_path / "out.log") in shown
    assert "job 1 lost: SLURM: NODE_FAIL" in shown
    assert "1 completed, 0 failed, 1 lost" in shown
    with pytest.raises(JobsFailed, match="job 1"):
        record.raise_if_failed()


def test_a_requeued_job_is_not_told_as_ended(tmp_path, capsys):
    record = record_in(tmp_path)
    record.take(combined(["model.lr=1"], ["model.lr=2"]))
    record.submitted({0: "12_0", 1: "12_1"})
    for state in ("RUNNING", "PREEMPTED", "RUNNING"):
        record.changed(JobChange(0, state))

    assert record.alive == {0: "12_0", 1: "12_1"}
    shown = capsys.readouterr().out
    assert "job 0 PREEMPTED · model.lr=1 · it goes on" in shown
    assert "[" not in shown


class FakeRunner:
    """Tells the given changes; what is cancelled is told as cancelled."""

    parallel = 1

    def __init__(self, changes: Sequence[JobChange | BaseException], name: str = "77_") -> None:
        self.changes, self.name = changes, name
        self.cancelled: list[int] = []

    def submit(self, jobs: Sequence[SweepJob], folder: Path) -> dict[int, str]:
        return {job.number: f"{self.name}{job.number}" for job in jobs}

    def watch(self, ids: Mapping[int, str], folder: Path) -> Iterator[JobChange]:
        for change in self.changes:
            if isinstance(change, BaseException):
                raise change
            if change.number not in self.cancelled:
                yield change
        yield from (JobChange(number, "CANCELLED", reason="cancelled by the sweep") for number in self.cancelled)

    def cancel(self, ids: Mapping[int, str]) -> None:
        self.cancelled += ids

    def script(self, jobs: Sequence[SweepJob], folder: Path) -> None:
        return None


def run(record: SweepRecord, runner: FakeRunner, *jobs: Sequence[str]) -> None:
    ids = runner.submit(record.take(combined(*jobs)), record.folder)
    record.submitted(ids)
    for _ in follow(record, runner, ids):
        pass
    record.finish()


def test_after_too_many_failures_waiting_jobs_are_cancelled_and_running_ones_end(tmp_path, capsys):
    record = record_in(tmp_path, "sweep.max_failures=1")
    runner = FakeRunner(
        [JobChange(0, "RUNNING"), JobChange(1, "RUNNING"), JobChange(0, "FAILED"), JobChange(1, "COMPLETED")]
    )

    run(record, runner, *[[f"model.lr={lr}"] for lr in range(4)])

    assert runner.cancelled == [2, 3]
    assert [row.state for row in record.rows.values()] == ["FAILED", "COMPLETED", "CANCELLED", "CANCELLED"]
    assert "2 are not started" in capsys.readouterr().out


@pytest.mark.parametrize("n", [0, -1])
def test_a_limit_that_no_failure_can_reach_is_refused(n):
    with pytest.raises(ConfigError, match=f"Invalid sweep.max_failures={n}: expected at least 1"):
        check_settings(compose(f"sweep.max_failures={n}"))


def test_an_interrupted_cluster_sweep_goes_on_and_says_how_to_collect_it(tmp_path, capsys):
    slurm = "hydra.launcher._target_=hydra_plugins.x.SlurmLauncher"
    with record_in(tmp_path, slurm) as record, pytest.raises(KeyboardInterrupt):
        run(record, FakeRunner([JobChange(0, "COMPLETED", 1.0), KeyboardInterrupt()]), ["model.lr=1"], ["model.lr=2"])

    shown = capsys.readouterr().out
    assert "1 job still on the cluster" in shown
    assert "scancel 77" in shown
    assert f"brainlab job=collect runs={tmp_path}" in shown
    assert record.rows[1].state == "PENDING"


def test_an_interrupted_local_sweep_runs_the_rest_the_next_time(tmp_path):
    here = FakeRunner([JobChange(0, "COMPLETED", 1.0), KeyboardInterrupt()], name="here-")
    with record_in(tmp_path) as record, pytest.raises(KeyboardInterrupt):
        run(record, here, ["model.lr=1"], ["model.lr=2"])
    assert record.rows[1].state == "CANCELLED"

    with record_in(tmp_path) as again:
        assert numbers(again.take(combined(["model.lr=1"], ["model.lr=2"]))) == [1]


def test_jobs_that_still_run_on_the_cluster_are_watched_again_not_repeated(tmp_path, monkeypatch):
    slurm = "hydra.launcher._target_=hydra_plugins.x.SlurmLauncher"
    with record_in(tmp_path, slurm) as record:
        jobs = record.take(combined(["model.lr=1"], ["model.lr=2"]))
        record.submitted({job.number: f"77_{job.number}" for job in jobs})

    monkeypatch.setattr(
        "brainlab.run.sweep.watch.Watcher.settle",
        lambda self: [JobChange(0, "RUNNING"), JobChange(1, "LOST", reason="SLURM: CANCELLED by 0")],
    )
    for launcher in ([slurm], []):  # also when the rest is to run elsewhere
        with record_in(tmp_path, *launcher) as again:
            assert numbers(again.take(combined(["model.lr=1"], ["model.lr=2"]))) == [1]
            assert again.alive == {0: "77_0"}


def test_collecting_takes_over_the_outcomes_that_jobs_left(tmp_path):
    with record_in(tmp_path) as record:
        record.take(combined(["model.lr=1"], ["model.lr=2"]))
        record.submitted({0: "a", 1: "b"})
        record.left()
    (tmp_path / ".jobs").mkdir()
    outcome = {"state": "COMPLETED", "score": 0.25, "reason": None, "job_id": None}
    (tmp_path / ".jobs" / "0.json").write_text(json.dumps({"number": 0, **outcome}))

    collected = collect_sweep(tmp_path)

    assert collected.rows[0].score == 0.25
    assert "0,COMPLETED,1,0.25" in (tmp_path / "sweep.csv").read_text()
    assert "LOST" in (tmp_path / "sweep.csv").read_text()


def test_jobs_that_still_run_are_no_failures_and_the_way_to_see_them_later_is_said(tmp_path):
    record = record_in(tmp_path)
    record.take(combined(["model.lr=1"], ["model.lr=2"]))
    record.submitted({0: "12_0", 1: "12_1"})
    record.changed(JobChange(1, "RUNNING"))

    with pytest.raises(JobsFailed) as told:
        record.raise_if_failed()

    assert str(told.value).startswith("2 jobs are still running; collect again later with: brainlab job=collect")


def test_a_job_without_results_took_the_time_of_its_attempts(tmp_path):
    then = [f"2026-01-01T10:00:{second:02}+00:00" for second in (0, 10, 20, 25)]
    attempts = [{"start": then[0], "end": then[1]}, {"start": then[2], "end": None}, {"start": None}]
    status = {"state": "FAILED", "heartbeat": then[3], "attempts": attempts}
    (tmp_path / "status.json").write_text(json.dumps(status))

    assert find(tmp_path).wall_s == 15.0


def test_collecting_leaves_a_sweep_alone_that_is_being_followed(tmp_path, capsys):
    completed(tmp_path, ["model.lr=1"])
    (tmp_path / "sweep.csv").unlink()

    with record_in(tmp_path):
        assert collect_sweep(tmp_path).rows[0].state == "COMPLETED"

    assert not (tmp_path / "sweep.csv").exists()
    assert "being followed" in capsys.readouterr().out


def test_the_record_survives_a_moved_folder(tmp_path):
    completed(tmp_path / "before", ["model.lr=1"])
    (tmp_path / "before").rename(tmp_path / "after")

    assert SweepRecord.load(tmp_path / "after").rows[0].run_dir == str(tmp_path / "after" / "0")
