"""The runner behind each launcher, and what sweepers of others get from ours."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext

from brainlab.errors import BrainlabError
from brainlab.run.sweep import runners
from brainlab.run.sweep.jobs import JobChange
from brainlab.run.sweep.local import LocalProcesses
from brainlab.run.sweep.runners import Foreign, InProcess, Slurm, runner_for


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> HydraContext:
    from hydra._internal.callbacks import Callbacks

    monkeypatch.setattr(runners, "configure_log", lambda *_: None)  # pytest's own handlers stay
    return HydraContext(config_loader=None, callbacks=Callbacks())  # type: ignore[arg-type]


def changes(runner: Any, jobs: Any, folder: Path) -> list[JobChange]:
    return list(runner.watch(runner.submit(jobs, folder), folder))


def quiet(job: Any) -> Any:
    job.config.hydra.job_logging = {"root": None}
    return job


def test_each_launcher_has_its_runner(function) -> None:
    def launcher(module: str, name: str) -> Any:
        made = type(name, (), {"__module__": module, "params": {"array_parallelism": 7, "parallelism": 3}})
        return made()

    def found(module: str, name: str) -> Any:
        return runner_for(launcher(module, name), None, function, None)  # type: ignore[arg-type]

    assert isinstance(found("hydra._internal.core_plugins.basic_launcher", "BasicLauncher"), InProcess)
    slurm = found("hydra_plugins.brainlab_slurm.launcher", "SlurmLauncher")
    assert isinstance(slurm, Slurm)
    assert slurm.parallel == 7
    local = found("hydra_plugins.brainlab_slurm.launcher", "LocalLauncher")
    assert isinstance(local, LocalProcesses)
    assert local.parallel == 3
    assert isinstance(found("hydra_plugins.hydra_joblib_launcher.joblib_launcher", "JoblibLauncher"), Foreign)


def test_here_a_job_that_fails_stops_nothing(function, make_job, context, tmp_path) -> None:
    folder = tmp_path / "sweep"
    jobs = [quiet(make_job(n, word)) for n, word in enumerate(["score", "raise", "score"])]
    told = changes(InProcess(context, function, jobs[0].config), jobs, folder)
    assert [(change.number, change.state, change.score) for change in told if change.ended] == [
        (0, "COMPLETED", 10.0), (1, "FAILED", None), (2, "COMPLETED", 12.0),
    ]  # fmt: skip
    assert told[3].reason == "ValueError: asked to fail"
    assert "Traceback" in (folder / "1" / "stderr.txt").read_text()
    assert json.loads((folder / "1" / "status.json").read_text())["state"] == "FAILED"


def test_here_jobs_that_were_cancelled_are_not_started(function, make_job, context, tmp_path) -> None:
    folder, jobs = tmp_path / "sweep", [quiet(make_job(n)) for n in range(3)]
    runner = InProcess(context, function, jobs[0].config)
    ids, ended = runner.submit(jobs, folder), []
    for change in runner.watch(ids, folder):
        if change.ended:
            ended.append(change.state)
            runner.cancel({1: ids[1], 2: ids[2]})
    assert ended == ["COMPLETED", "CANCELLED", "CANCELLED"]
    assert not (folder / "1").exists()


class Others:
    """Somebody's launcher: counts on from the index it is given."""

    def __init__(self, *ends: Any) -> None:
        self.ends, self.calls = list(ends), []

    def launch(self, job_overrides: Any, initial_job_idx: int) -> list[JobReturn]:
        self.calls.append((initial_job_idx, len(job_overrides)))
        done = []
        for overrides in job_overrides:
            end = self.ends.pop(0)
            if isinstance(end, OSError):
                raise end
            failed = isinstance(end, Exception)
            status = JobStatus.UNKNOWN if end is None else JobStatus.FAILED if failed else JobStatus.COMPLETED
            job = JobReturn(overrides=overrides, status=status)
            job.return_value = end
            done.append(job)
        return done


def test_another_launcher_gets_blocks_of_successive_numbers(make_job, tmp_path) -> None:
    launcher = Others(1.0, ValueError("bad"), None, OSError("gone"))
    told = changes(Foreign(launcher), [make_job(n) for n in (2, 3, 5, 9)], tmp_path / "sweep")
    assert launcher.calls == [(2, 2), (5, 1), (9, 1)]
    ends = {change.number: change for change in told if change.ended}
    assert [ends[n].state for n in (2, 3, 5, 9)] == ["COMPLETED", "FAILED", "LOST", "FAILED"]
    assert (ends[2].score, ends[3].reason) == (1.0, "ValueError: bad")
    assert "Others failed: OSError: gone" in str(ends[9].reason)


def test_a_cluster_is_asked_to_cancel_and_the_watcher_knows_that_it_was_on_purpose(
    function, monkeypatch, tmp_path
) -> None:
    cancelled: list[str] = []
    told: list[Any] = []
    looks = [[JobChange(1, "RUNNING")], [JobChange(1, "CANCELLED")]]

    class Watching:
        def __init__(self, ids: Any, folder: Path, interval_s: float, **_: Any) -> None:
            assert interval_s == 2.0

        unfinished = property(lambda self: looks)
        look = staticmethod(lambda: looks.pop(0))
        cancelling = staticmethod(told.extend)

    monkeypatch.setattr(runners, "Watcher", Watching)
    monkeypatch.setattr(runners, "cancel", cancelled.extend)
    monkeypatch.setattr(runners.time, "sleep", lambda _: None)
    runner = Slurm({"poll_interval_s": 2}, function)
    for change in runner.watch({1: "7_1"}, tmp_path):
        if change.state == "RUNNING":
            runner.cancel({1: "7_1"})
    assert (cancelled, told) == (["7_1"], [1])


def test_other_sweepers_get_every_end_and_no_exception(function, make_job, tmp_path, monkeypatch) -> None:
    from brainlab.config import preflight
    from hydra_plugins.brainlab_slurm.launcher import LocalLauncher

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    words = ["score", "raise"]
    monkeypatch.setattr(
        preflight,
        "judged",
        lambda loader, master, overrides: make_job(int(overrides[0]), words[int(overrides[0])]).config,
    )
    launcher = LocalLauncher(parallelism=2)
    launcher.task_function, launcher.config = function, make_job(0).config
    launcher.hydra_context = SimpleNamespace(config_loader=None)  # type: ignore[assignment]
    done = launcher.launch([["0"], ["1"]], 0)
    assert [job.status for job in done] == [JobStatus.COMPLETED, JobStatus.FAILED]
    assert done[0].return_value == 10.0
    with pytest.raises(BrainlabError, match="FAILED: ValueError: asked to fail"):
        _ = done[1].return_value
