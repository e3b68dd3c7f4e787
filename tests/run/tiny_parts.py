"""A data module, a task and a protocol that train in a second, for tests of everything around them."""

from __future__ import annotations

import ctypes
import json
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MeanMetric

from brainlab.data.sampling import ResumableSampler, already_collated
from brainlab.types import Evaluation, Metric


class TinyDataset(Dataset):
    """Points in the plane with a label; noise is keyed by (seed, epoch, index)."""

    def __init__(self, n: int, seed: int, augment: bool) -> None:
        points = np.random.default_rng(seed).normal(size=(n, 4))
        self.x = torch.tensor(points, dtype=torch.float32)
        self.y = (self.x[:, 0] + self.x[:, 1] > 0).float()
        self.seed, self.epoch, self.augment = seed, 0, augment

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.x)

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        x = self.x[indices].clone()
        if self.augment:
            for row, index in enumerate(indices):
                noise = np.random.default_rng([self.seed, self.epoch, index]).normal(size=4)
                x[row] += 0.1 * torch.tensor(noise, dtype=torch.float32)
        return {"x": x, "y": self.y[indices], "index": torch.tensor(indices)}


class TinyData(pl.LightningDataModule):
    def __init__(
        self,
        root: str | None = None,
        cache_dir: str | None = None,
        n: int = 60,
        batch_size: int = 4,
        num_workers: int = 0,
        persistent_workers: bool = False,
        seed: int = 0,
        content: str = "a",
        prepare_s: float = 0.0,
    ) -> None:
        super().__init__()
        self.prepare_s = prepare_s
        self.n, self.batch_size, self.num_workers, self.seed = n, batch_size, num_workers, seed
        self.persistent_workers = persistent_workers
        self.cache_dir = cache_dir
        self.source = "files" if root else "synthetic"
        self.fingerprint = f"tiny-{content}-{n}"
        if root and (Path(root) / "content.txt").exists():
            self.fingerprint = (Path(root) / "content.txt").read_text()

    @property
    def shapes(self) -> dict[str, int]:
        return {"n_inputs": 4}

    def describe(self) -> dict[str, Any]:
        return {"points": self.n, "<b>name</b>": "<script>alert(1)</script>"}

    def prepare_data(self) -> None:
        time.sleep(self.prepare_s)

    def setup(self, stage: str | None = None) -> None:
        self.train, self.val = TinyDataset(self.n, self.seed, True), TinyDataset(16, self.seed + 1, False)
        self.train_sampler = ResumableSampler(self.n, self.batch_size, self.seed)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(
            self.train, batch_sampler=self.train_sampler, num_workers=self.num_workers, collate_fn=already_collated,
            persistent_workers=self.persistent_workers and self.num_workers > 0,
        )  # fmt: skip

    def val_dataloader(self) -> DataLoader:
        return DataLoader(
            self.val, batch_size=8, num_workers=self.num_workers, collate_fn=already_collated,
            persistent_workers=self.persistent_workers and self.num_workers > 0,
        )  # fmt: skip


class TinyTask(pl.LightningModule):
    """Logistic regression with a hidden layer and dropout.

    ``trace`` names a file that gets one line per trained batch, which is how tests count what was executed.
    """

    def __init__(
        self,
        n_inputs: int | None = None,
        width: int = 8,
        lr: float = 0.01,
        dropout: float = 0.5,
        trace: str | None = None,
        sleep_s: float = 0.0,
        hang: bool = False,
        fail_at_step: int | None = None,
        plateau: bool = False,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(n_inputs, width), torch.nn.ReLU(), torch.nn.Dropout(dropout), torch.nn.Linear(width, 1)
        )
        self.lr, self.trace, self.sleep_s, self.fail_at_step, self.plateau = lr, trace, sleep_s, fail_at_step, plateau
        self.hang = hang
        self.seen = MeanMetric()
        if weights is not None:
            self.load_state_dict(torch.load(weights, weights_only=True)["state_dict"])

    def _loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(self.net(batch["x"])[:, 0], batch["y"])

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        if self.fail_at_step is not None and self.global_step >= self.fail_at_step:
            raise RuntimeError("planned failure")
        loss = self._loss(batch)
        self.log("train/loss", loss, on_step=True, on_epoch=True, batch_size=len(batch["x"]))
        self.seen(batch["x"].mean())
        self.log("train/seen", self.seen, on_step=False, on_epoch=True)
        self.log("train/largest", batch["x"].max(), on_step=False, on_epoch=True, reduce_fx="max", batch_size=4)
        if self.trace:
            with open(self.trace, "a") as file:
                file.write(json.dumps([self.current_epoch, batch_idx, batch["index"].tolist()]) + "\n")
        if self.sleep_s:
            time.sleep(self.sleep_s)
        if self.hang:  # inside a library, where Python runs no signal handler
            mutex, library = ctypes.create_string_buffer(64), ctypes.CDLL(None)
            library.pthread_mutex_lock(mutex)
            library.pthread_mutex_lock(mutex)
        return loss

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        if self.sleep_s:
            time.sleep(self.sleep_s)
        self.log("val/loss", self._loss(batch), batch_size=len(batch["x"]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        if self.plateau:
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val/loss"}}
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=60)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class TinyEvaluation:
    def __init__(self, n_bootstrap: int = 50, sleep_s: float = 0.0) -> None:
        self.n_bootstrap, self.sleep_s = n_bootstrap, sleep_s

    def __call__(self, task: Any, data: Any, out: Path) -> Evaluation:
        time.sleep(self.sleep_s)
        with torch.no_grad():
            hit = ((task.net(data.val.x)[:, 0] > 0).float() == data.val.y).float()
        value = float(hit.mean())
        metric = Metric("accuracy", value, low=max(0.0, value - 0.1), high=min(1.0, value + 0.1), chance=0.5)
        return Evaluation(headline="accuracy", metrics=[metric], notes=["a note with <angle> brackets"])
