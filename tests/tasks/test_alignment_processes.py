"""Two processes find the same validation metrics as one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import functools, json, sys
import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
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

if __name__ == "__main__":
    n = int(sys.argv[1])
    torch.manual_seed(0)
    task = Alignment(nn.Linear(200, 200), functools.partial(FlattenHead), 3, 1, 8)
    trainer = pl.Trainer(
        accelerator="cpu", devices=n, strategy="ddp" if n > 1 else "auto", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )
    # 21 examples on two processes: one of them is seen twice.
    trainer.validate(task, DataLoader(Pairs(), batch_size=4), verbose=False)
    if trainer.is_global_zero:
        found = {k: float(trainer.callback_metrics[k]) for k in ("val/nll", "val/top1", "val/cosine")}
        print("FOUND" + json.dumps(found))
"""


def test_two_processes_find_the_same_metrics_as_one(tmp_path):
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
    assert found[0] == pytest.approx(found[1], rel=1e-6)
