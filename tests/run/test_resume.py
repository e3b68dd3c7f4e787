"""A killed run goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from kill_resume import compare
from launch import tiny_config

from brainlab.errors import ConfigError, InvalidFile
from brainlab.run.checkpoint import latest
from brainlab.run.execute import execute

_LAUNCH = Path(__file__).parent / "launch.py"
_EARLY_STOPPING = (
    "callbacks.early_stopping="
    "{_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/loss, patience: 1, verbose: false}"
)


def _start(root: Path, *overrides: str) -> subprocess.Popen[bytes]:
    root.mkdir(exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (root / "out.txt").open("a") as stream:
        return subprocess.Popen(
            [sys.executable, str(_LAUNCH), str(root), *overrides], env=environment, stdout=stream,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def _finish(root: Path, *overrides: str) -> None:
    process = _start(root, *overrides)
    assert process.wait(timeout=300) == 0, (root / "out.txt").read_text()[-3000:]


def _traced(trace: Path) -> list[tuple[int, int, list[int]]]:
    return [tuple(json.loads(line)) for line in trace.read_text().splitlines()] if trace.exists() else []


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_at_random_moments_it_ends_with_the_same_bits(tmp_path: Path, workers: int) -> None:
    trace = tmp_path / "trace"
    words = (f"model.trace={trace}", "model.sleep_s=0.02", f"data.num_workers={workers}", "logger=mlflow")
    _finish(tmp_path / "alone", *words)
    alone = {(epoch, batch): indices for epoch, batch, indices in _traced(trace)}
    trace.unlink()
    rng = random.Random(workers)
    for moment in (rng.randint(3, 12), rng.randint(16, 28)):
        process = _start(tmp_path / "killed", *words)
        while process.poll() is None and len(_traced(trace)) < moment:
            time.sleep(0.005)
        time.sleep(rng.random() * 0.05)
        assert process.poll() is None, "ended before it was killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    before = len(_traced(trace))
    _finish(tmp_path / "killed", *words)

    found = compare(tmp_path / "alone" / "run", tmp_path / "killed" / "run")
    assert all(value for key, value in found.items() if key.endswith(("_equal", "_step"))), found
    executed = _traced(trace)
    assert all(alone[epoch, batch] == indices for epoch, batch, indices in executed)
    last = (tmp_path / "killed" / "run" / "brainlab.log").read_text()
    epoch, batch = map(int, re.findall(r"resumed at epoch (\d+), batch (\d+)", last)[-1])
    assert len(executed) - before == 45 - (15 * epoch + batch)
    assert {(epoch, batch) for epoch, batch, _ in executed} == set(alone)
    _check_tracker(tmp_path)


def _check_tracker(folder: Path) -> None:
    from mlflow.tracking import MlflowClient

    rows = {}
    for name in ("alone", "killed"):
        client = MlflowClient(f"sqlite:///{folder / name / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("tiny")
        runs = client.search_runs([experiment.experiment_id])
        assert len(runs) == 1
        assert runs[0].info.status == "FINISHED"
        rows[name] = [
            (key, point.step, point.value)
            for key in runs[0].data.metrics
            for point in client.get_metric_history(runs[0].info.run_id, key)
        ]
        keys = [row[:2] for row in rows[name]]
        assert len(keys) == len(set(keys))
    assert sorted(rows["alone"]) == sorted(rows["killed"])


class _Killed(Exception):
    pass


def _run_until(cfg, folder: Path, monkeypatch: pytest.MonkeyPatch, *, hook: str, count: int) -> None:
    """Stop a run in this process the hard way: an error that nothing of it can handle, at the ``count``-th hook."""
    from tiny_parts import TinyTask

    calls = {"n": 0}
    original = getattr(TinyTask, hook)

    def stop(self, *args, **kwargs):
        calls["n"] += 1
        if calls["n"] == count:
            raise _Killed
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(TinyTask, hook, stop)
        with pytest.raises(_Killed):
            execute(cfg, folder=folder)


@pytest.mark.parametrize(
    ("words", "hook", "count"),
    [
        ((), "validation_step", 3),
        (("callbacks.last.every_n_steps=null",), "training_step", 20),
        (("model.plateau=true",), "training_step", 33),
        (("trainer.accumulate_grad_batches=2", "callbacks.last.every_n_steps=1"), "training_step", 24),
        (("trainer.val_check_interval=5", "callbacks.last.every_n_steps=1"), "training_step", 22),
        (("trainer.max_epochs=null", "trainer.max_steps=40"), "training_step", 17),
        (("trainer.check_val_every_n_epoch=2", "callbacks.last.every_n_steps=3"), "training_step", 26),
        ((_EARLY_STOPPING, "model.lr=1.0", "trainer.max_epochs=6"), "training_step", 20),
    ],
    ids=[
        "validating",
        "epoch-ends-only",
        "plateau",
        "accumulating",
        "validating-often",
        "by-steps",
        "validating-seldom",
        "stopping-early",
    ],
)
def test_any_place_to_stop_gives_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], hook: str, count: int
) -> None:
    execute(tiny_config(tmp_path, *words), folder=tmp_path / "alone")
    _run_until(tiny_config(tmp_path, *words), tmp_path / "stopped", monkeypatch, hook=hook, count=count)
    execute(tiny_config(tmp_path, *words), folder=tmp_path / "stopped")
    found = compare(tmp_path / "alone", tmp_path / "stopped")
    assert found["resumed_at"]
    assert all(value for key, value in found.items() if key.endswith(("_equal", "_step"))), found


def test_a_finished_run_is_not_run_again(finished_run: Path) -> None:
    before = (finished_run / "results.json").read_bytes()
    score = execute(tiny_config(finished_run.parent, "logger=mlflow"), folder=finished_run)
    assert score == json.loads(before)["best"]["score"]
    assert (finished_run / "results.json").read_bytes() == before
    assert len(json.loads((finished_run / "status.json").read_text())["attempts"]) == 1


def test_stopped_during_evaluation_only_the_evaluation_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiny_parts import TinyEvaluation

    def stop(*args, **kwargs):
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(TinyEvaluation, "__call__", stop)
        with pytest.raises(_Killed):
            execute(tiny_config(tmp_path, f"model.trace={tmp_path / 'trace'}"), folder=tmp_path / "run")
    trained = len(_traced(tmp_path / "trace"))
    score = execute(tiny_config(tmp_path, f"model.trace={tmp_path / 'trace'}"), folder=tmp_path / "run")
    assert len(_traced(tmp_path / "trace")) == trained == 45
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["best"]["score"] == score is not None
    assert "accuracy" in results["metrics"]


def test_more_epochs_continue_and_fewer_are_refused(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    execute(tiny_config(tmp_path, "trainer.max_epochs=1", f"model.trace={trace}"), folder=tmp_path / "run")
    execute(tiny_config(tmp_path, "trainer.max_epochs=2", f"model.trace={trace}"), folder=tmp_path / "run")
    assert [epoch for epoch, _, _ in _traced(trace)] == [0] * 15 + [1] * 15
    with pytest.raises(ConfigError, match=r"trainer\.max_epochs=1"):
        execute(tiny_config(tmp_path, "trainer.max_epochs=1", f"model.trace={trace}"), folder=tmp_path / "run")


def test_another_configuration_is_refused_with_the_keys_that_differ(finished_run: Path) -> None:
    before = (finished_run / "resolved.yaml").read_bytes()
    with pytest.raises(ConfigError, match=r"model\.lr: 0\.01 → 0\.5") as caught:
        execute(tiny_config(finished_run.parent, "model.lr=0.5"), folder=finished_run)
    assert caught.value.code == 2
    assert (finished_run / "resolved.yaml").read_bytes() == before


def test_other_data_are_refused(tmp_path: Path) -> None:
    for name, text in (("one", "1"), ("two", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "content.txt").write_text(text)
    execute(tiny_config(tmp_path, f"data.root={tmp_path / 'one'}", "trainer.max_epochs=1"), folder=tmp_path / "run")
    with pytest.raises(ConfigError, match="data"):
        execute(tiny_config(tmp_path, f"data.root={tmp_path / 'two'}", "trainer.max_epochs=1"), folder=tmp_path / "run")


def test_never_refuses_a_used_directory(finished_run: Path) -> None:
    with pytest.raises(ConfigError, match="resume=never"):
        execute(tiny_config(finished_run.parent, "logger=mlflow", "resume=never"), folder=finished_run)


def test_a_truncated_checkpoint_falls_back_to_the_one_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    last, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    torch.save({"state_dict": {"a": torch.ones(3)}, "n": 1}, previous)
    torch.save({"state_dict": {"a": torch.ones(3)}, "n": 2}, last)
    last.write_bytes(last.read_bytes()[:200])
    path, content = latest(last, previous)
    assert path == previous
    assert content["n"] == 1
    assert "last.ckpt" in caplog.text
    previous.write_bytes(b"no checkpoint")
    with pytest.raises(InvalidFile, match="checkpoint"):
        latest(last, previous)
    assert latest(tmp_path / "none", tmp_path / "none either") is None


def test_the_checkpoint_holds_everything_and_loads_without_running_code(finished_run: Path) -> None:
    content = torch.load(finished_run / "checkpoints" / "last.ckpt", weights_only=True)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks"):
        assert content[key], key
    state = content["brainlab"]
    assert state["mlflow_run_id"] == (finished_run / "mlflow_run_id").read_text().strip()
    assert state["attempt"] == 1
    assert "lr: 0.01" in state["config"]
    assert set(state["random"][0]) == {"python", "numpy", "torch", "cuda"}
