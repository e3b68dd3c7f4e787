"""Runs one tiny configuration in a process of its own: ``launch.py FOLDER [key=value …]``."""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

BASE = """
experiment_name: tiny
seed: 0
tags: []
monitor: {metric: val/loss, mode: min}
paths: {root: null, cache: "${paths.root}/cache"}
data: {_target_: tiny_parts.TinyData, root: null, cache_dir: "${paths.cache}", seed: "${seed}", n: 60, batch_size: 4,
       num_workers: 0, persistent_workers: false, content: a, prepare_s: 0.0}
model: {_target_: tiny_parts.TinyTask, n_inputs: null, width: 8, lr: 0.01, dropout: 0.5, trace: null, sleep_s: 0.0,
        hang: false, fail_at_step: null, plateau: false, weights: null}
evaluation: {_target_: tiny_parts.TinyEvaluation, n_bootstrap: 50, sleep_s: 0.0}
trainer: {_target_: lightning.pytorch.Trainer, accelerator: cpu, devices: 1, max_epochs: 3, max_steps: -1,
          log_every_n_steps: 1, num_sanity_val_steps: 0, enable_model_summary: false, accumulate_grad_batches: 1,
          val_check_interval: null, check_val_every_n_epoch: 1, enable_progress_bar: null}
callbacks:
  last: {_target_: brainlab.run.callbacks.last.LastCheckpoint, every_n_minutes: null, every_n_steps: 2}
  preemption: {_target_: brainlab.run.callbacks.preemption.PreemptionCheckpoint, grace_s: null}
  best: {_target_: brainlab.run.callbacks.best.BestCheckpoint, metric: "${monitor.metric}", mode: "${monitor.mode}"}
  progress: {_target_: brainlab.run.callbacks.progress.Progress, every_s: 30}
  early_stopping: null
logger: null
job: {_target_: brainlab.run.fit.Fit}
sweep: {}
security: {allowed_targets: [brainlab, tiny_parts, lightning.pytorch, torch.nn, torch.optim]}
validate: false
dry: false
wait: true
resume: auto
rerun: null
"""
MLFLOW = "{_target_: brainlab.run.trackers.mlflow.MlflowTracker, root: '${paths.root}', experiment: tiny}"


def tiny_config(folder: Path, *overrides: str) -> DictConfig:
    cfg = OmegaConf.create(BASE)
    cfg.paths.root = str(folder)
    for override in overrides:
        key, _, value = override.partition("=")
        node = OmegaConf.create(f"v: {MLFLOW if override == 'logger=mlflow' else value}")
        OmegaConf.update(cfg, key, node._get_node("v"), merge=False, force_add=True)
    return cfg


if __name__ == "__main__":
    from brainlab.run.execute import execute

    root = Path(sys.argv[1])
    config = tiny_config(root, *sys.argv[2:])
    print("score", execute(config, folder=root / "run", overrides=sys.argv[2:]))
