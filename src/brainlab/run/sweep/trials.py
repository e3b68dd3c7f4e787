"""The trials of a search, and who proposes them: a random draw, or optuna."""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from brainlab.config.search_space import Space, without_password
from brainlab.errors import BrainlabError, ConfigError
from brainlab.run.sweep.space import distributions, draws, seed_for

log = logging.getLogger(__name__)

__all__ = ["DATABASE", "OptunaTrials", "Proposer", "RandomTrials", "Trial"]

DATABASE = "optuna.db"
_REPEATS = 30  # proposals in a row that were tried before, until the search looks elsewhere by itself


@dataclass
class Trial:
    """One point of the space and what became of it."""

    number: int
    point: dict[str, Any]
    words: tuple[str, ...]
    job: int | None = None
    state: str = "RUNNING"
    """RUNNING, COMPLETE, PRUNED or FAILED."""
    score: float | None = None
    reason: str | None = None
    curve: tuple[float, ...] = ()
    """Its scores during training, where the search prunes."""


class Proposer(Protocol):
    """Who chooses what is tried next."""

    def ask(self) -> Trial | None:
        """The next trial; ``None`` when there is no more."""

    def started(self, trial: Trial) -> None:
        """The trial has got its job."""

    def tell(self, trial: Trial) -> None:
        """The trial has ended."""

    def past(self) -> list[Trial]:
        """Trials that ended before this process began."""

    def importance(self) -> dict[str, float]:
        """What part of the differences between scores each key explains; empty where that is not known."""


class RandomTrials:
    """``n_trials`` seeded draws; a search that goes on draws the same ones, and its record knows which have run."""

    def __init__(self, space: Space, seed: int, n_trials: int) -> None:
        self._space, self._draws, self._n_trials, self._n_asked = space, draws(space, seed), n_trials, 0

    def ask(self) -> Trial | None:
        point = next(self._draws, None) if self._n_asked < self._n_trials else None
        if point is None:
            return None
        self._n_asked += 1
        return Trial(self._n_asked - 1, point, self._space.words(point))

    def started(self, trial: Trial) -> None:
        """Nothing is kept."""

    def tell(self, trial: Trial) -> None:
        """No draw depends on another's result."""

    def past(self) -> list[Trial]:
        return []

    def importance(self) -> dict[str, float]:
        return {}


class OptunaTrials:
    """Trials that an optuna study proposes from the scores of those before, kept in its storage.

    The study survives the process: trials that were running when it ended are handed out first, then those that
    failed, then new ones. Each trial is sampled with a seed of its own, so that a search that was killed continues
    with the very trials that it would have tried without the kill.

    Args:
        space: what is searched.
        folder: the sweep's folder, where the database lies unless there is a ``storage``.
        storage: URL of another database.
        name: what the study is called there.
        mode: min or max.
        seed: of the search.
        n_trials: how many different trials there are to be, those of earlier processes included.
        parallel: how many run at the same time.

    Raises:
        ConfigError: the storage cannot be opened.
    """

    def __init__(
        self,
        space: Space,
        *,
        folder: Path,
        storage: str | None,
        name: str,
        mode: str,
        seed: int,
        n_trials: int,
        parallel: int,
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space, self._seed, self._n_trials, self._parallel = space, seed, n_trials, parallel
        self._distributions = distributions(space)
        self._address = storage or str(folder / DATABASE)
        direction: Literal["minimize", "maximize"] = "minimize" if mode == "min" else "maximize"
        try:
            self._study = optuna.create_study(
                storage=_storage(storage, folder), study_name=name, direction=direction, load_if_exists=True
            )
        except Exception as error:  # drivers, servers, permissions: each has errors of its own
            raise ConfigError(
                "sweep.storage",
                without_password(self._address),
                f"cannot be opened: {type(error).__name__}: {without_password(_first_line(error))}",
                hint="null keeps the search in the sweep's folder",
            ) from error
        self._seen: dict[tuple[str, ...], int] = {}
        self._unfinished: list[Any] = []
        self._past: list[Trial] = []
        failed: dict[tuple[str, ...], Any] = {}
        for frozen in self._study.get_trials(deepcopy=False):
            if set(frozen.params) != set(self._distributions):
                continue  # enqueued but never asked for, or not ours
            words = space.words(frozen.params)
            self._seen.setdefault(words, frozen.number)
            failed.pop(words, None)
            if frozen.state == optuna.trial.TrialState.RUNNING:
                self._unfinished.append(frozen)
            elif "same_as" not in frozen.user_attrs:
                if frozen.state == optuna.trial.TrialState.FAIL:
                    failed[words] = frozen
                else:
                    self._past.append(_trial_of(frozen, words))
        self._failed = list(failed.values())

    def ask(self) -> Trial | None:
        with self._storage_errors():
            return self._ask()

    def _ask(self) -> Trial | None:
        if self._unfinished:
            return self._handed_out(self._unfinished.pop(0))
        if self._failed:
            return self._handed_out(self._sampled(self._failed.pop(0).params))
        if len(self._seen) >= self._n_trials:
            return None
        for _ in range(_REPEATS):
            if self._space.size is not None and len(self._seen) >= self._space.size:
                return None
            proposed = self._sampled()
            words = self._space.words(proposed.params)
            if words not in self._seen:
                return self._handed_out(proposed)
            self._tell_again(proposed, self._seen[words])
        if self._space.size is None:
            return None
        rest = (point for point in self._space.points() if self._space.words(point) not in self._seen)
        return self._handed_out(self._sampled(next(rest)))

    def started(self, trial: Trial) -> None:
        with self._storage_errors():
            self._live(trial.number).set_user_attr("job", trial.job)

    def tell(self, trial: Trial) -> None:
        from optuna.trial import TrialState

        with self._storage_errors():
            live = self._live(trial.number)
            for step, value in enumerate(trial.curve, start=1):
                if math.isfinite(value):
                    live.report(value, step)
            if trial.reason:
                live.set_user_attr("reason", trial.reason)
            if trial.state == "COMPLETE":
                self._study.tell(trial.number, trial.score)
            else:
                state = TrialState.PRUNED if trial.state == "PRUNED" else TrialState.FAIL
                self._study.tell(trial.number, state=state)

    def past(self) -> list[Trial]:
        return list(self._past)

    def importance(self) -> dict[str, float]:
        from optuna.importance import FanovaImportanceEvaluator, get_param_importances

        if len(self._distributions) < 2:
            return {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return dict(get_param_importances(self._study, evaluator=FanovaImportanceEvaluator(seed=self._seed)))
        except (ValueError, RuntimeError, ImportError) as error:  # too few trials, or all with one score
            log.debug("no importance: %s", error)
            return {}

    def _sampled(self, point: dict[str, Any] | None = None) -> Any:
        from optuna.samplers import TPESampler

        if point is not None:
            self._study.enqueue_trial(point)
        number = len(self._study.get_trials(deepcopy=False))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that constant_liar is experimental
            self._study.sampler = TPESampler(seed=seed_for(self._seed, number), constant_liar=self._parallel > 1)
        return self._study.ask(fixed_distributions=self._distributions)

    def _handed_out(self, asked: Any) -> Trial:
        words = self._space.words(asked.params)
        self._seen.setdefault(words, asked.number)
        return Trial(asked.number, dict(asked.params), words, job=asked.user_attrs.get("job"))

    def _tell_again(self, proposed: Any, number: int) -> None:
        """Answer a proposal that was tried before with what is known, which moves the sampler on."""
        from optuna.trial import TrialState

        proposed.set_user_attr("same_as", number)
        known = self._study.get_trials(deepcopy=False)[number]
        if known.state == TrialState.COMPLETE:
            self._study.tell(proposed.number, known.value)
        else:
            self._study.tell(proposed.number, state=TrialState.FAIL)

    def _live(self, number: int) -> Any:
        from optuna.trial import Trial as Live

        return Live(self._study, self._study.get_trials(deepcopy=False)[number]._trial_id)

    @contextlib.contextmanager
    def _storage_errors(self) -> Iterator[None]:
        import sqlalchemy
        from optuna.exceptions import StorageInternalError

        try:
            yield
        except (StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
            raise BrainlabError(
                f"The search's storage {without_password(self._address)} failed: "
                f"{without_password(_first_line(error))}. The same command with the same hydra.sweep.dir goes on."
            ) from error


def _storage(url: str | None, folder: Path) -> Any:
    import sqlalchemy
    from optuna.storages import RDBStorage

    if url is None:
        # Built, not written: a path may hold characters that mean something in a URL.
        url = sqlalchemy.URL.create("sqlite", database=str(folder / DATABASE)).render_as_string(hide_password=False)
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    return RDBStorage(url, engine_kwargs=options)


def _trial_of(frozen: Any, words: tuple[str, ...]) -> Trial:
    pruned = frozen.state.name == "PRUNED"
    return Trial(
        frozen.number,
        dict(frozen.params),
        words,
        job=frozen.user_attrs.get("job"),
        state="PRUNED" if pruned else "COMPLETE",
        score=None if pruned else frozen.value,
        reason=frozen.user_attrs.get("reason"),
        curve=tuple(value for _, value in sorted(frozen.intermediate_values.items())),
    )


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
