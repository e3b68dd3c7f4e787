"""The job that judges checkpoints again, each with the configuration that is stored inside it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from brainlab.config.resolved import resolved_yaml
from brainlab.errors import ConfigError
from brainlab.run.context import Run
from brainlab.run.evaluate_many import EVALUATED, evaluate_all, find_checkpoints
from brainlab.run.loading import loading

__all__ = ["Evaluate", "stored_config"]

log = logging.getLogger(__name__)

_FROM_CHECKPOINT = ("data", "model", "evaluation", "experiment_name", "seed", "monitor")


class Evaluate:
    """Load a checkpoint strictly and run the evaluation protocol on it.

    Data, model and protocol are those of the checkpoint; what the command line names explicitly
    (``data.root=…``, ``evaluation=…``) wins.

    Args:
        checkpoint: a ``.ckpt`` file, a run directory whose best checkpoint is meant, a folder above run directories, a
            glob pattern, or a list of these. Several checkpoints are judged one after another into one table.
    """

    def __init__(self, checkpoint: str | Sequence[str] | None = None) -> None:
        if not checkpoint:
            raise ConfigError(
                "job.checkpoint",
                "null",
                "expected a checkpoint or a run directory",
                where="command line",
                hint="brainlab job=evaluate checkpoint=outputs/…/checkpoints/best.ckpt",
            )
        self.places = [checkpoint] if isinstance(checkpoint, str) else [str(each) for each in checkpoint]

    def check(self, cfg: DictConfig) -> None:
        """Find the checkpoints before anything starts.

        Raises:
            ConfigError: a place that means none.
        """
        find_checkpoints(self.places)

    def __call__(self, cfg: DictConfig, run: Run) -> float | None:
        files = find_checkpoints(self.places)
        if len(files) > 1:
            evaluate_all(cfg, run, files)
            return None
        return _evaluate(cfg, run, files[0])


def _evaluate(cfg: DictConfig, run: Run, checkpoint: Path) -> float | None:
    log.info("loading torch and lightning …")
    with loading():
        import lightning.pytorch as pl
        import torch

        from brainlab.config.locate import Origins
        from brainlab.config.validate import validate
        from brainlab.run import assemble, conclude
        from brainlab.run.callbacks.last import STATE_KEY
        from brainlab.run.checkpoint import load, load_weights
        from brainlab.run.logs import quiet_libraries
        from brainlab.run.tracks import open_logger

    quiet_libraries()
    content = load(checkpoint)
    state: dict[str, Any] = content.get(STATE_KEY) or {}
    if "config" in state:
        cfg = stored_config(cfg, str(state["config"]), run.overrides)
        # Whoever made the file wrote what is built below; the list of allowed targets is the command line's.
        validate(cfg, Origins(list, elsewhere=str(checkpoint)))
        run.directory.write(EVALUATED, resolved_yaml(cfg))
    else:
        log.warning("%s holds no configuration; the one of the command line is used", checkpoint)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    data = assemble.build_data(cfg)
    assemble.prepare(data, stage=None)
    fingerprint = run.settle_fingerprint(data)
    task = assemble.build_task(cfg, data)
    load_weights(task, content, checkpoint)
    if cfg.trainer.get("accelerator") != "cpu" and torch.cuda.is_available():
        task.to("cuda")
    logger = open_logger(cfg, run, data, fingerprint)
    best = {
        "score": state.get("score"),
        "epoch": state.get("best_epoch", state.get("epoch")),
        "step": content.get("global_step"),
        "checkpoint": str(checkpoint),
    }
    results = conclude.evaluate(cfg, run, task=task, data=data, logger=logger, best=best, fingerprint=fingerprint)
    headline = (results["metrics"] or {}).get(results["headline"] or "")
    return float(headline["value"]) if headline else None


def stored_config(cfg: DictConfig, text: str, overrides: list[str]) -> DictConfig:
    """The configuration to evaluate with: the checkpoint's, moved to this machine, under explicit overrides.

    Args:
        cfg: what the command line composed; it gives places, logger and what ``overrides`` name.
        text: YAML of the configuration stored in the checkpoint.
        overrides: the words of the command line.
    """
    stored = OmegaConf.create(text)
    assert isinstance(stored, DictConfig)
    merged = OmegaConf.create(OmegaConf.to_container(cfg, resolve=False))
    assert isinstance(merged, DictConfig)
    named = [word.lstrip("+~").partition("=")[0].partition("@")[0] for word in overrides]
    with open_dict(merged):
        for group in _FROM_CHECKPOINT:
            if group in named or group not in stored:
                continue
            merged[group] = stored[group]
            for key in named:
                if key.startswith(f"{group}."):
                    OmegaConf.update(merged, key, OmegaConf.select(cfg, key), force_add=True)
        data = merged.get("data")
        if data is not None and "cache_dir" in data and "data.cache_dir" not in named:
            data["cache_dir"] = cfg.paths.get("cache")
    return merged
