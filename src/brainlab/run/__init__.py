"""What a run does: jobs, run directory, resume, tracking, report."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["run"]


def run(cfg: DictConfig) -> float | None:
    """Run the job of a composed and validated configuration in its run directory.

    Returns:
        the best score of ``cfg.monitor``, where the job has one.
    """
    from brainlab.run.execute import execute

    return execute(cfg)
