"""Several processes train as one does, and leave one run behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

_SHARED = (
    "trainer=debug",
    "trainer.limit_train_batches=4",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1",
    "data.batch_size=5",  # two and three windows, in two processes
    "model.warmup_fraction=0",
    "logger=csv",
)
# SGD: Adam divides by the gradient's size and so blows the last bits of the smallest gradients up to whole steps.
_ALIGN = (
    *_SHARED,
    "experiment=eeg_fmri_align",
    "model.encoder.n_layer=2",
    "model.encoder.dropout=0",
    "model.optimizer=SGD",
    "model.lr=0.02",
)
_PRETRAIN = (
    *_SHARED,
    "experiment=eeg_pretrain",
    "trainer.limit_val_batches=null",
    "+model.encoder.n_layer=2",
    "+model.encoder.dropout=0",
    "model.lr=1e-4",
)


def _run(folder: Path, cache: Path, *words: str) -> str:
    folder.mkdir(exist_ok=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("BRAINLAB_")}
    environment |= {"OMP_NUM_THREADS": "1", "BRAINLAB_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, "-m", "brainlab", *words, f"hydra.run.dir={folder / 'run'}"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def _history(folder: Path) -> dict[tuple[str, int], float]:
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return {(row["name"], row["step"]): row["value"] for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize("words", [_ALIGN, _PRETRAIN], ids=["align", "pretrain"])
def test_two_processes_train_the_same_network_as_one(tmp_path: Path, words: tuple[str, ...]) -> None:
    _run(tmp_path / "one", tmp_path / "cache", *words)
    text = _run(tmp_path / "two", tmp_path / "cache", *words, "trainer.strategy=ddp", "trainer.devices=2")

    one, two = _weights(tmp_path / "one"), _weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-5)
    alone, shared = _history(tmp_path / "one"), _history(tmp_path / "two")
    assert alone == pytest.approx(shared, rel=1e-5, abs=1e-4)
    losses = [value for (name, _), value in sorted(alone.items()) if name == "train/loss"]
    assert max(losses) - min(losses) > 0.1, "the weights move"
    # One process speaks for both, and one of them evaluates.
    assert text.count("trained 8 batches in this attempt") == 1
    assert text.count("brainlab 0") == text.count("run directory:") == 1
    found = [json.loads((tmp_path / name / "run" / "results.json").read_text())["metrics"] for name in ("one", "two")]
    values = [{name: metric["value"] for name, metric in metrics.items()} for metrics in found]
    assert values[1] == pytest.approx(values[0], rel=1e-5, abs=1e-4)
    status = json.loads((tmp_path / "two" / "run" / "status.json").read_text())
    assert status["state"] == "COMPLETED"
    assert len(status["attempts"]) == 1


_FAILS = """
import atexit
import torch.distributed as dist
from brainlab.cli import main
from brainlab.tasks.masked_patches import MaskedPatches

def fail(task, batch, index):
    dist.init_process_group("gloo", init_method=f"file://{__file__}.meet", rank=0, world_size=1)
    raise ValueError("no step today")

MaskedPatches.training_step = fail
atexit.register(lambda: print("still in a group:", dist.is_initialized()))
main()
"""


def test_a_process_that_fails_leaves_its_group_before_it_ends(tmp_path: Path) -> None:
    script = tmp_path / "fails.py"
    script.write_text(_FAILS)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("BRAINLAB_")}
    done = subprocess.run(
        [sys.executable, str(script), *_PRETRAIN, f"hydra.run.dir={tmp_path / 'run'}"],
        cwd=tmp_path,
        env=environment | {"OMP_NUM_THREADS": "1", "BRAINLAB_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "no step today" in done.stderr
    assert "still in a group: False" in done.stdout
