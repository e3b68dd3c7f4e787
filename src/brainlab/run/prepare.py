"""The job that only prepares data."""

from __future__ import annotations

import logging

from omegaconf import DictConfig

from brainlab.run.context import Run
from brainlab.run.loading import loading

__all__ = ["Prepare"]

log = logging.getLogger(__name__)


class Prepare:
    """Build whatever is missing in the cache and report what the data are.

    Several may run at the same time and share a cache, as in ``brainlab -m job=prepare 'data.subject=range(1,11)'``:
    what they have in common is built by the first and awaited by the others.
    """

    def __call__(self, cfg: DictConfig, run: Run) -> float | None:
        log.info("loading the data libraries …")
        with loading():
            from brainlab.run import assemble, conclude
            from brainlab.run.directory import write_json
            from brainlab.run.report import write_report
            from brainlab.types import Evaluation

            data = assemble.build_data(cfg)
        assemble.prepare(data)
        fingerprint = run.settle_fingerprint(data)
        tables = list(data.tables()) if hasattr(data, "tables") else []
        outcome = Evaluation(headline="", tables=tables)
        results = conclude.results_of(cfg, run, outcome, data=data, best={}, fingerprint=fingerprint)
        write_json(run.directory.results, results)
        write_report(run, results, {})
        log.info("prepared %s\nreport: %s", fingerprint.data, run.directory.report)
        return None
