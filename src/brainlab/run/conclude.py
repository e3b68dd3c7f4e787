"""The end of a run: judge the model, write ``results.json``, tell the tracker, write the report."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from brainlab.run.assemble import build_evaluator
from brainlab.run.context import Run
from brainlab.run.directory import write_json
from brainlab.run.fingerprint import Fingerprint
from brainlab.run.report import write_report
from brainlab.types import Evaluation, Metric

__all__ = ["evaluate", "headline_line", "results_of"]

log = logging.getLogger(__name__)


def evaluate(
    cfg: DictConfig,
    run: Run,
    *,
    task: Any,
    data: Any,
    logger: Any,
    best: dict[str, Any],
    fingerprint: Fingerprint,
    pruned: str | None = None,
) -> dict[str, Any]:
    """Run the evaluation protocol on ``task`` and write everything that a reader of the run needs.

    ``pruned`` says why a search ended this run early: it is then not evaluated, so that the test data see only models
    that were trained to their end.
    """
    evaluator = build_evaluator(cfg) if pruned is None else None
    outcome = None
    if evaluator is not None:
        data.setup("test")
        task.eval()
        log.info("evaluating %s", best.get("checkpoint") or "the model")
        outcome = evaluator(task, data, out=run.path)
    if logger is not None and outcome is not None:
        step = int(best.get("step") or 0)
        logger.log_metrics({f"test/{metric.name}": metric.value for metric in outcome.metrics}, step=step)
        logger.flush()
    results = results_of(cfg, run, outcome, data=data, best=best, fingerprint=fingerprint)
    if pruned is not None:
        results["pruned"] = pruned
        results["notes"].append(f"This run of a search was {pruned}. It was not evaluated on test data.")
    curves = logger.history.curves() if logger is not None else {}
    results["score"] = _score(cfg, results, curves)
    write_json(run.directory.results, results)
    write_report(run, results, curves)
    line = headline_line(results)
    if results["data_source"] == "synthetic":
        line = f"{line}  [simulated data]"
    log.info("%s\nreport: %s", line, run.directory.report)
    return results


def _score(
    cfg: DictConfig, results: Mapping[str, Any], curves: Mapping[str, Sequence[tuple[int, float]]]
) -> float | None:
    """What this run scored in ``sweep.metric``: a sweep compares its jobs, and a search its trials, by it.

    The monitored metric counts with its best value, any other logged metric with its value at that checkpoint. What
    the evaluation measured on test data is never a score: whoever chose by it would have nothing left to test on.

    Returns:
        ``None`` where the run has no such metric or it is not a number.
    """
    metric = str((cfg.get("sweep") or {}).get("metric") or cfg.monitor.metric)
    best, value = results["best"], None
    if metric == cfg.monitor.metric:
        value = best.get("score")
    elif metric in curves and not metric.startswith("test/"):
        step = best.get("step")
        earlier = [value for at, value in curves[metric] if step is None or at <= step]
        value = earlier[-1] if earlier else None
    elif metric.removeprefix("test/") in results["metrics"]:
        log.warning("sweep.metric=%s is measured on test data; jobs are not compared by it", metric)
    elif results.get("pruned") is None:
        known = sorted({cfg.monitor.metric, *(name for name in curves if not name.startswith("test/"))})
        log.warning("sweep.metric=%s is none of this run's metrics: %s", metric, ", ".join(known))
    return float(value) if value is not None and math.isfinite(value) else None


def results_of(
    cfg: DictConfig,
    run: Run,
    outcome: Evaluation | None,
    *,
    data: Any,
    best: dict[str, Any],
    fingerprint: Fingerprint,
) -> dict[str, Any]:
    """The content of ``results.json``."""
    outcome = outcome or Evaluation(headline="")
    described = data.describe() if hasattr(data, "describe") else {}
    return {
        "experiment": cfg.get("experiment_name"),
        "run_dir": str(run.path),
        "state": "COMPLETED",
        "data_source": fingerprint.data_source,
        "fingerprint": fingerprint.value,
        "seed": cfg.get("seed"),
        "monitor": {"metric": cfg.monitor.metric, "mode": cfg.monitor.mode},
        "best": best,
        "headline": outcome.headline or None,
        "metrics": {metric.name: metric.to_dict() for metric in outcome.metrics},
        "notes": [*outcome.notes, *getattr(data, "notes", ())],
        "details": outcome.details,
        "tables": [
            {
                "name": table.name,
                "caption": table.caption,
                "header": list(table.header),
                "rows": [list(row) for row in table.rows],
            }
            for table in outcome.tables
        ],
        "figures": [
            {"name": figure.name, "caption": figure.caption, "file": _relative(figure.path, run.path)}
            for figure in outcome.figures
        ],
        "data": described,
        "wall_s": round(run.status.wall_s, 1),
        "attempts": run.attempt,
    }


def headline_line(results: dict[str, Any]) -> str:
    """The one line that a run ends with."""
    name = results.get("headline")
    metric = (results.get("metrics") or {}).get(name)
    if metric is None:
        best = results.get("best") or {}
        score = best.get("score")
        shown = "–" if score is None else f"{score:.4g}"
        return f"best {results['monitor']['metric']} = {shown} (epoch {best.get('epoch')})"
    return describe_metric(Metric(**metric))


def describe_metric(metric: Metric) -> str:
    """A metric with everything it must be read against.

    >>> describe_metric(Metric("top1", 0.5, low=0.4, high=0.6, chance=0.01))
    'top1 = 0.5 [0.4, 0.6] · chance 0.01'
    """
    text = f"{metric.name} = {metric.value:.4g}{metric.unit and ' ' + metric.unit}"
    if metric.low is not None and metric.high is not None:
        text += f" [{metric.low:.4g}, {metric.high:.4g}]"
    for name, value in (("chance", metric.chance), ("control", metric.control), ("ceiling", metric.ceiling)):
        if value is not None:
            text += f" · {name} {value:.4g}"
    return text


def _relative(path: Path, folder: Path) -> str:
    path = Path(path).absolute()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
