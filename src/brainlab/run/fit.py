"""The job that trains a model, evaluates its best checkpoint and writes the report."""

from __future__ import annotations

import atexit
import logging
from typing import Any

from omegaconf import DictConfig, OmegaConf

from brainlab.run.context import Run
from brainlab.run.fingerprint import GROWTH_KEYS, flatten
from brainlab.run.loading import keep_loaded, loading

__all__ = ["Fit"]

log = logging.getLogger(__name__)


class Fit:
    """Train until the trainer's limits, then judge the best checkpoint on held-out data."""

    def __call__(self, cfg: DictConfig, run: Run) -> float | None:
        log.info("loading torch and lightning …")
        with loading():
            import lightning.pytorch as pl

            from brainlab.run import assemble, conclude
            from brainlab.run.callbacks.pruning import pruning_for
            from brainlab.run.checkpoint import latest, load, load_weights
            from brainlab.run.logs import quiet_libraries
            from brainlab.run.tracks import open_logger
            from brainlab.run.weights import load_weights_into
        keep_loaded()

        quiet_libraries()
        pl.seed_everything(cfg.seed, workers=True, verbose=False)
        data = assemble.build_data(cfg)
        assemble.prepare(data)
        fingerprint = run.settle_fingerprint(data)
        task = assemble.build_task(cfg, data)
        logger = open_logger(cfg, run, data, fingerprint)
        codes = getattr(getattr(data, "tokenizer", None), "fingerprint", None)
        context = {
            "config": OmegaConf.to_yaml(OmegaConf.create(run.plain)),
            "experiment": str(cfg.get("experiment_name")),
            "fingerprint": fingerprint.value,
            "data_source": str(fingerprint.data_source),
            "tokenizer": codes,
            "attempt": run.attempt,
            "mlflow_run_id": getattr(logger.tracker, "run_id", None),
        }
        callbacks = assemble.build_callbacks(cfg, context)
        pruning = pruning_for(cfg, run.path)
        if pruning is not None:
            callbacks["pruning"] = pruning
        trainer = assemble.build_trainer(cfg, run.directory, list(callbacks.values()), logger)
        # A process that ends on an error or a warning still in its group may abort instead of giving its exit code.
        atexit.register(_leave_processes)

        found = latest(run.directory.last, run.directory.previous)
        best = callbacks.get("best")
        if found is not None and _is_finished(found[1], cfg):
            log.info("training is finished already; only its evaluation is left")
            if best is not None:
                _restore_best(best, found[1])
        else:
            if found is None:
                load_weights_into(task, run.weights, codes)
            _fit(trainer, task, data, found[0] if found else None, callbacks.get("last"), run)
            _end_processes()
        if not trainer.is_global_zero:
            return None

        pruned = pruning.reason if pruning is not None else None
        score = getattr(best, "score", None)
        checkpoint = run.directory.best if run.directory.best.exists() and score is not None else run.directory.last
        if checkpoint.exists():
            load_weights(task, load(checkpoint), checkpoint)
        facts = {
            "score": score,
            "epoch": getattr(best, "epoch", None),
            "step": getattr(best, "step", None),
            "checkpoint": str(checkpoint.relative_to(run.path)) if checkpoint.exists() else None,
        }
        pl.seed_everything(cfg.seed, workers=True, verbose=False)
        task.to(trainer.strategy.root_device)
        results = conclude.evaluate(
            cfg, run, task=task, data=data, logger=logger, best=facts, fingerprint=fingerprint, pruned=pruned
        )
        return results["score"]


def _fit(trainer: Any, task: Any, data: Any, checkpoint: Any, last: Any, run: Run) -> None:
    data.prepare_data = _nothing_left  # Lightning asks again; what is prepared need not be told twice
    if checkpoint is not None:
        log.info("continuing from %s", checkpoint)
    try:
        trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:
        # Lightning turns Ctrl-C into an exit with code 1.
        if last is not None and last.interrupted:
            raise KeyboardInterrupt from None
        raise
    finally:
        if last is not None:
            run.status.note(batches=last.executed)
            log.info("trained %d batches in this attempt", last.executed)


def _end_processes() -> None:
    """Only training is distributed: from here on the first process works alone, and sees all data."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
    _leave_processes()


def _leave_processes() -> None:
    """Without waiting for the others, who may have failed."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _nothing_left() -> None:
    """Stands for a preparation that is done."""


def _is_finished(checkpoint: dict[str, Any], cfg: DictConfig) -> bool:
    """Whether training ended in this checkpoint and no limit has grown since."""
    from brainlab.run.callbacks.last import STATE_KEY

    state = checkpoint.get(STATE_KEY) or {}
    if not state.get("finished"):
        return False
    before = flatten(OmegaConf.to_container(OmegaConf.create(state["config"])))
    after = flatten(OmegaConf.to_container(cfg.trainer, resolve=True), "trainer")
    return all(before.get(key) == after.get(key) for key in GROWTH_KEYS)


def _restore_best(best: Any, checkpoint: dict[str, Any]) -> None:
    state = checkpoint.get("callbacks", {}).get(best.state_key)
    if state is not None:
        best.load_state_dict(state)
