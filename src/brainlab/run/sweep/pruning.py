"""Decides whether a trial is worth finishing, from what its siblings scored at the same point of their training.

Every trial of a pruned search keeps its scores so far in ``pruning.json`` in its run directory, and reads those of
its siblings. No job opens the search's database: many nodes on one sqlite file, maybe over NFS, would not end well.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from brainlab.run.directory import read_json, write_json

__all__ = ["FILE", "Scores", "is_behind"]

log = logging.getLogger(__name__)

FILE = "pruning.json"


@dataclass
class Scores:
    """What one trial scored at each of its validations, counted from 1."""

    number: int
    metric: str
    mode: str
    pruner: str
    values: list[float] = field(default_factory=list)
    state: str = "RUNNING"
    """RUNNING, PRUNED, or COMPLETE once its training ended by itself."""
    rungs: dict[str, float] = field(default_factory=dict)
    """What the pruner noted about this trial."""
    reason: str | None = None

    @staticmethod
    def read(run_dir: Path) -> Scores | None:
        """The scores of the trial in ``run_dir``, or ``None`` where it has written none."""
        found = read_json(run_dir / FILE)
        if not isinstance(found, Mapping):
            return None
        try:
            return Scores(
                number=int(found["number"]),
                metric=str(found["metric"]),
                mode=str(found["mode"]),
                pruner=str(found["pruner"]),
                values=[math.nan if value is None else float(value) for value in found["values"]],
                state=str(found["state"]),
                rungs={str(name): float(value) for name, value in found["rungs"].items()},
                reason=found.get("reason"),
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            log.warning("%s holds no scores of a trial; it is left out", run_dir / FILE)
            return None

    def write(self, run_dir: Path) -> None:
        """Replace the trial's file in one step."""
        write_json(run_dir / FILE, self.__dict__)

    @property
    def pruned(self) -> bool:
        return self.state == "PRUNED"


def is_behind(own: Scores, sweep_dir: Path) -> bool:
    """Whether the pruner would end this trial after its latest validation.

    The trials are laid out anew in memory, so that the answer depends on nothing but the siblings' files; what the
    pruner notes about this trial is kept in ``own.rungs``.
    """
    import optuna
    from optuna.study import create_study
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trials = {own.number: own}
    for folder in sorted(sweep_dir.iterdir()):
        if folder.name.isdecimal() and int(folder.name) != own.number:
            scores = Scores.read(folder)
            if scores is not None and (scores.metric, scores.mode) == (own.metric, own.mode):
                trials[int(folder.name)] = scores
    states = {"RUNNING": TrialState.RUNNING, "PRUNED": TrialState.PRUNED, "COMPLETE": TrialState.COMPLETE}
    study = create_study(
        study_name=sweep_dir.name, direction="minimize" if own.mode == "min" else "maximize", pruner=_pruner(own.pruner)
    )
    for number in range(max(trials) + 1):  # optuna numbers trials by their order, and Hyperband sorts them by number
        scores = trials.get(number)
        state = states.get(scores.state, TrialState.FAIL) if scores is not None else TrialState.FAIL
        if scores is None or (state != TrialState.RUNNING and not any(math.isfinite(v) for v in scores.values)):
            study.add_trial(create_trial(state=TrialState.FAIL))
            continue
        study.add_trial(
            create_trial(
                state=state,
                value=None if state == TrialState.RUNNING else _best(scores),
                intermediate_values=dict(enumerate(scores.values, start=1)),
                system_attrs=dict(scores.rungs),
            )
        )
    trial = study.trials[own.number]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy, of scores that are all no numbers
        answer = bool(study.pruner.prune(study, trial))
    own.rungs = {
        name: float(value)
        for name, value in study.trials[own.number].system_attrs.items()
        if isinstance(value, int | float)
    }
    return answer


def _best(scores: Scores) -> float:
    finite = [value for value in scores.values if math.isfinite(value)]
    return min(finite) if scores.mode == "min" else max(finite)


def _pruner(name: str) -> Any:
    from optuna.pruners import HyperbandPruner, MedianPruner

    return HyperbandPruner() if name == "hyperband" else MedianPruner()
