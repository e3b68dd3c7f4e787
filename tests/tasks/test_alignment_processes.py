"""Two processes find the same validation metrics and the same weights as one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

SCRIPT = """
import functools, json, sys
import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from brainlab.data.sampling import ResumableSampler
from brainlab.metrics.alignment import unit_rows
from brainlab.models.pooling_heads import FlattenHead
from brainlab.tasks.alignment import Alignment

class Pairs(Dataset):
    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.picture = torch.arange(21) % 7
        self.eeg = torch.randn(21, 3, 1, 200, generator=generator)
        self.target = unit_rows(torch.randn(7, 2, 8, generator=generator))

    def __len__(self):
        return 21

    def __getitem__(self, i):
        p = self.picture[i]
        return {
            "eeg": self.eeg[i], "target": self.target[p], "target_mask": torch.ones(2, dtype=torch.bool),
            "image_id": p, "target_id": p.repeat(2), "label": p % 2, "index": torch.tensor(i), "subject": 0 * p,
        }

def make():
    torch.manual_seed(0)
    return Alignment(
        nn.Linear(200, 200), functools.partial(FlattenHead), 3, 1, 8, learnable_temperature=True, optimizer="SGD",
        lr=0.3, warmup_fraction=0.0,
    )

def weights(task):
    return torch.cat([part.detach().flatten() for part in task.parameters()])

if __name__ == "__main__":
    n = int(sys.argv[1])
    task, before = make(), weights(make())
    options = dict(
        accelerator="cpu", devices=n, strategy="ddp" if n > 1 else "auto", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )
    # Batches of 5, 5, 5, 5 and 1: parts of unequal length, and one example for two processes.
    sampler = ResumableSampler(21, 5, seed=0)
    trainer = pl.Trainer(**options, max_epochs=2, use_distributed_sampler=False)
    trainer.fit(task, DataLoader(Pairs(), batch_sampler=sampler))
    trained = weights(task)
    if trainer.is_global_zero:
        print("MOVED" + json.dumps([float((trained - before).abs().max()), float(trained[-1] - before[-1])]))
        torch.save(trained, f"weights-{n}.pt")

    task = make()
    trainer = pl.Trainer(**options)
    # 21 examples on two processes: one of them is seen twice.
    trainer.validate(task, DataLoader(Pairs(), batch_size=4), verbose=False)
    if trainer.is_global_zero:
        found = {k: float(trainer.callback_metrics[k]) for k in ("val/nll", "val/top1", "val/cosine")}
        print("FOUND" + json.dumps(found))
    if n > 1:
        torch.distributed.destroy_process_group()  # a process that ends inside its group may abort
"""


def test_two_processes_find_the_same_metrics_and_weights_as_one(tmp_path):
    script = tmp_path / "validate.py"
    script.write_text(SCRIPT)
    found = []
    for n in ("1", "2"):
        done = subprocess.run(
            [sys.executable, str(script), n],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        line = next(line for line in done.stdout.splitlines() if line.startswith("FOUND"))
        found.append(json.loads(line.removeprefix("FOUND")))
        line = next(line for line in done.stdout.splitlines() if line.startswith("MOVED"))
        moved = json.loads(line.removeprefix("MOVED"))
        assert min(map(abs, moved)) > 1e-3, "training changes the weights and the temperature"
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    one, two = (torch.load(tmp_path / f"weights-{n}.pt", weights_only=True) for n in (1, 2))
    torch.testing.assert_close(two, one, rtol=0, atol=1e-5)
