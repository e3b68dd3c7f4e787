"""Several processes that SLURM starts train as one does, and are one run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

RUN = Path(__file__).parents[1] / "run"
TINY = ("--config-dir", str(RUN / "conf"), "experiment=tiny")
TWO = ("hydra.launcher.tasks_per_node=2", "trainer.devices=2", "trainer.strategy=ddp")
# Dropout draws per process, and Adam divides by the gradient's size, which blows the last bits of small ones up.
ALIGN = (
    "experiment=eeg_fmri_align", "trainer=debug", "trainer.limit_train_batches=4", "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1", "data.batch_size=5", "model.encoder.n_layer=2", "model.encoder.dropout=0",
    "model.optimizer=SGD", "model.lr=0.02", "model.warmup_fraction=0", "logger=csv",
)  # fmt: skip


def _history(run: Path) -> dict[tuple[str, int], float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {(row["name"], row["step"]): row["value"] for row in rows}


def _said(sweep: Path) -> str:
    """What all processes of a sweep's jobs wrote."""
    return "".join(path.read_text() for path in sorted(sweep.glob(".submitit/*/*_log.out")))


def test_two_tasks_train_the_same_network_as_one_process(
    cluster: Any, start: Callable[..., Any], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    done = subprocess.run(
        [sys.executable, "-m", "brainlab", *ALIGN, f"hydra.run.dir={tmp_path / 'one'}"],
        cwd=tmp_path, env={**environment, "OMP_NUM_THREADS": "1", "BRAINLAB_CACHE": str(cache)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    sweep = start(*ALIGN, *TWO, base=(), BRAINLAB_CACHE=str(cache))
    ended = sweep.wait()
    assert ended.code == 0, ended.out + ended.err

    one, two = tmp_path / "one", sweep.folder / "0"
    weights = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in (one, two)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=1e-5)
    assert _history(two) == pytest.approx(_history(one), abs=1e-4)
    found = [json.loads((run / "results.json").read_text())["metrics"] for run in (one, two)]
    values = [{name: metric["value"] for name, metric in metrics.items()} for metrics in found]
    assert values[1] == pytest.approx(values[0], abs=1e-4)
    assert len(json.loads((two / "status.json").read_text())["attempts"]) == 1
    text = _said(sweep.folder)
    for line in ("brainlab 0.", "run directory:", "data source:", "trained 8 batches", "evaluating"):
        assert text.count(line) == 1, f"{line}: one process speaks for all\n{text}"
    log = (two / "brainlab.log").read_text()
    assert log.count("run directory:") == log.count("brainlab 0.") == 1


def test_two_tasks_that_are_preempted_go_on_exactly(
    cluster: Any, start: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(RUN))
    from kill_resume import compare

    shared = (*TWO, "model.sleep_s=0.4", "callbacks.last.every_n_steps=null", "logger=csv", "data.num_workers=1")
    more = {"base": TINY, "PYTHONPATH": str(RUN), "BRAINLAB_CACHE": str(tmp_path / "cache")}
    alone = start(*shared, name="alone", **more)
    assert (ended := alone.wait()).code == 0, ended.out + ended.err
    moved = start(*shared, name="moved", **more)
    run = moved.folder / "0"

    def steps() -> int:
        path = run / "metrics.jsonl"
        return path.read_text().count('"train/loss_step"') if path.exists() else 0

    cluster.until(lambda: steps() >= 4, "they train", 120)
    cluster.preempt()
    assert (ended := moved.wait()).code == 0, ended.out + ended.err
    same = compare(alone.folder / "0", run)
    assert all(value for key, value in same.items() if key.endswith(("_equal", "_step"))), same
    attempts = json.loads((run / "status.json").read_text())["attempts"]
    assert [attempt["exit"] for attempt in attempts] == ["preempted", 0]
    assert sum(attempt["batches"] for attempt in attempts) == 30, "no batch is trained twice"


def test_a_finished_run_of_two_tasks_is_left_alone_by_both(
    cluster: Any, start: Callable[..., Any], tmp_path: Path
) -> None:
    """The first process alone sees that there is nothing to do; the second must not wait for it."""
    words = (*TINY, f"hydra.run.dir={tmp_path / 'run'}", "trainer.devices=2", "trainer.strategy=ddp", "logger=csv")
    command = ["srun", "-n2", "--ntasks-per-node=2", sys.executable, "-m", "brainlab", *words]
    environment = {**os.environ, "PYTHONPATH": str(RUN), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    outputs = []
    for more in ((), (), ("model.lr=0.5",)):
        done = subprocess.run(
            [*command, *more], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        outputs.append((done.returncode, done.stdout + done.stderr))
    assert outputs[0][0] == 0, outputs[0][1]
    assert outputs[0][1].count("run directory:") == 1
    assert outputs[1][0] == 0, outputs[1][1]
    assert outputs[1][1].count("is completed already") == 1
    assert outputs[2][0] == 2, outputs[2][1]
    assert "model.lr" in outputs[2][1]
    assert len(json.loads((tmp_path / "run" / "status.json").read_text())["attempts"]) == 1
