"""Searches a space: asks for trials, runs them as jobs of the sweep, and tells what they scored."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from brainlab.config.command_line import parse
from brainlab.config.compose import Composer
from brainlab.config.preflight import space_of
from brainlab.config.search_space import Space, check_settings
from brainlab.errors import ConfigError
from brainlab.plot.svg import Mark, chart, numeric_axis
from brainlab.run.directory import read_json, write_json
from brainlab.run.sweep.follow import follow, submit
from brainlab.run.sweep.jobs import JobChange, Runner, SweepJob
from brainlab.run.sweep.pruning import Scores
from brainlab.run.sweep.record import SweepRecord
from brainlab.run.sweep.trials import OptunaTrials, Proposer, RandomTrials, Trial

__all__ = ["FILE", "search"]

FILE = "search.json"
_HOPELESS = 5


def search(
    cfg: DictConfig,
    arguments: Sequence[str],
    record: SweepRecord,
    runner: Runner,
    compose: Callable[[Sequence[str]], DictConfig],
) -> str:
    """Run the trials of ``sweep=random`` or ``sweep=optuna``.

    Args:
        cfg: the sweep's configuration.
        arguments: what was typed, intervals included.
        record: the sweep's record; an earlier search in its folder is continued.
        runner: where jobs run.
        compose: overrides to the judged configuration of a job.

    Returns:
        what a person wants to read at the end: the best trial and how to run it again.

    Raises:
        ConfigError: the folder holds another search, or the search cannot start; nothing was changed.
    """
    check_settings(cfg)
    composer = Composer(cfg.hydra.job.config_name)
    space = space_of(composer, cfg, arguments)
    earlier = _earlier(record, cfg, space)
    searching = _Search(cfg, space, record, runner, compose, earlier)
    searching.run()
    return searching.found()


class _Search:
    def __init__(
        self,
        cfg: DictConfig,
        space: Space,
        record: SweepRecord,
        runner: Runner,
        compose: Callable[[Sequence[str]], DictConfig],
        earlier: Mapping[str, Any],
    ) -> None:
        self._cfg, self._space, self._record, self._runner, self._compose = cfg, space, record, runner, compose
        sweep = cfg.sweep
        self._study_name = str(
            earlier.get("study") or f"{cfg.get('experiment_name') or 'brainlab'}-{record.folder.name}"
        )
        self._proposer: Proposer
        if sweep.method == "optuna":
            self._width = int(sweep.n_parallel or runner.parallel)
            self._proposer = OptunaTrials(
                space,
                folder=record.folder,
                storage=sweep.storage,
                name=self._study_name,
                mode=sweep.mode,
                seed=sweep.seed,
                n_trials=sweep.n_trials,
                parallel=self._width,
            )
        else:
            # Nothing is learned on the way: a cluster may have all of them at once, as one array.
            self._width = int(sweep.n_trials if not cfg.wait else sweep.n_parallel or sweep.n_trials)
            self._proposer = RandomTrials(space, sweep.seed, sweep.n_trials)
        self._trials = {trial.number: trial for trial in self._proposer.past()}
        self._open: dict[int, Trial] = {}
        self._ids: dict[int, str] = {}
        self._n_ended = 0
        self._n_good = len(self._trials)
        self._hopeless = False

    def run(self) -> None:
        """Try until the search has what it asked for, or there is no point in going on."""
        self._record.planned = int(self._cfg.sweep.n_trials)
        if self._trials:
            print(f"going on after {len(self._trials)} trials of an earlier start", flush=True)
        self._ids.update(self._record.alive)  # of a submitter that is gone: watched again, not repeated
        self._fill()
        if not self._cfg.wait:
            self._record.left()
            return
        if self._ids:
            for change in follow(self._record, self._runner, self._ids):
                if change.ended:
                    self._ended(change)
                    self._fill()
        self._write()
        self._draw(self._proposer.importance())

    # --- asking --------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Keep as many trials running as are wanted."""
        while not (self._record.given_up or self._hopeless):
            asked: list[tuple[Trial, DictConfig]] = []
            while len(self._open) + len(asked) < self._width:
                trial = self._proposer.ask()
                if trial is None:
                    break
                self._trials[trial.number] = trial
                try:
                    asked.append((trial, self._compose(trial.words)))
                except ConfigError as error:
                    print(f"trial {trial.number} cannot be composed: {error}", flush=True)
                    self._settle(trial, "FAILED", reason=str(error))
                    if self._hopeless:
                        break
            if not asked:
                return
            self._start(asked)

    def _start(self, asked: Sequence[tuple[Trial, DictConfig]]) -> None:
        record = self._record
        first = not (record.folder / FILE).exists()
        jobs = record.take(
            [(trial.words, config) for trial, config in asked],
            swept=[dimension.key.lstrip("+") for dimension in self._space.dimensions],
        )
        if first:
            OmegaConf.save(self._cfg, record.folder / "multirun.yaml")
        started: list[SweepJob] = []
        by_words = {job.overrides: job for job in jobs}
        for trial, config in asked:
            job = by_words.pop(trial.words, None)
            trial.job = job.number if job is not None else record.number_of(config)
            assert trial.job is not None
            row = record.rows[trial.job]
            if job is not None:
                started.append(job)
                self._open[trial.job] = trial
            elif trial.job in self._open:
                self._settle(trial, "FAILED", reason=f"the same run as trial {self._open[trial.job].number}")
                continue
            elif row.ended:  # told while no search was there to hear it
                self._settle_job(trial, row.state, row.score, row.reason)
            else:
                self._open[trial.job] = trial
            self._proposer.started(trial)
        self._write()  # before the jobs start: a trial finds its siblings by this file
        if started:
            self._ids.update(submit(record, self._runner, started))

    # --- telling -------------------------------------------------------------------------------------------------

    def _ended(self, change: JobChange) -> None:
        trial = self._open.pop(change.number, None)
        if trial is not None:
            row = self._record.rows[change.number]
            self._settle_job(trial, row.state, row.score, row.reason)
            self._write()
            self._draw({})

    def _settle_job(self, trial: Trial, state: str, score: float | None, reason: str | None) -> None:
        assert trial.job is not None
        if state == "CANCELLED":
            return  # it stays open, and a search that goes on begins with it
        scores = Scores.read(self._record.folder / str(trial.job)) if self._cfg.sweep.pruner else None
        trial.curve = tuple(scores.values) if scores is not None else ()
        if state != "COMPLETED":
            self._settle(trial, "FAILED", reason=reason or state)
        elif scores is not None and scores.pruned:
            print(f"trial {trial.number} (job {trial.job}) was {scores.reason}", flush=True)
            self._settle(trial, "PRUNED", score=score, reason=scores.reason)
        elif score is None or not math.isfinite(score):
            reason = f"job {trial.job} completed without a {self._cfg.sweep.metric} that is a number"
            print(f"trial {trial.number}: {reason}; it counts as failed", flush=True)
            self._settle(trial, "FAILED", reason=reason)
        else:
            self._settle(trial, "COMPLETE", score=score)

    def _settle(self, trial: Trial, state: str, *, score: float | None = None, reason: str | None = None) -> None:
        before = self._best()
        trial.state, trial.score, trial.reason = state, score, reason
        self._proposer.tell(trial)
        self._n_ended += 1
        self._n_good += state != "FAILED"
        limit = max(_HOPELESS, 2 * min(self._width, self._runner.parallel))
        if self._cfg.sweep.method == "optuna" and not self._n_good and self._n_ended >= limit and not self._hopeless:
            self._hopeless = True
            print(
                f"The first {self._n_ended} trials all failed, so the search stops: there is nothing to learn from. "
                f"The last one: {reason}",
                flush=True,
            )
        best = self._best()
        if best is not None and best is not before:
            n = len([each for each in self._trials.values() if each.state != "RUNNING"])
            print(
                f"best of {n}/{self._cfg.sweep.n_trials} trials so far: job {best.job}, "
                f"{self._cfg.sweep.metric} {best.score:.4g}  {self._described(best)}",
                flush=True,
            )

    # --- showing -------------------------------------------------------------------------------------------------

    def _best(self) -> Trial | None:
        complete = [trial for trial in self._trials.values() if trial.state == "COMPLETE" and trial.score is not None]
        sign = 1 if self._cfg.sweep.mode == "min" else -1
        return min(complete, key=lambda trial: sign * float(trial.score or 0.0), default=None)

    def _described(self, trial: Trial) -> str:
        return " ".join(f"{each.key}={each.word(trial.point[each.key])}" for each in self._space.dimensions)

    def found(self) -> str:
        """The best trial, what it ran with, and the commands that run it again."""
        if not self._cfg.wait:
            return ""
        best = self._best()
        trials = list(self._trials.values())
        count = {state: sum(trial.state == state for trial in trials) for state in ("COMPLETE", "PRUNED", "FAILED")}
        counted = f"{count['COMPLETE']} complete, {count['PRUNED']} pruned, {count['FAILED']} failed"
        n_missing = self._cfg.sweep.n_trials - len({trial.words for trial in trials})
        if n_missing > 0 and not (self._hopeless or self._record.given_up):
            counted += f"; the space holds no more than {len({trial.words for trial in trials})} different trials"
        if best is None:
            return f"No trial scored ({counted})."
        folder = self._record.folder / str(best.job)
        return "\n".join(
            [
                f"best trial: job {best.job}, {self._cfg.sweep.metric} = {best.score:.6g} ({counted})",
                f"  {self._described(best)}",
                f"  exactly again:  brainlab rerun={shlex.quote(_shown(folder))}",
                f"  as a plain run: {_plain_command(best.words)}",
            ]
        )

    def _draw(self, shares: Mapping[str, float]) -> None:
        """Show on the page what the trials scored in their order, and the best until then."""
        metric, sign = str(self._cfg.sweep.metric), 1 if self._cfg.sweep.mode == "min" else -1
        scored = [each for _, each in sorted(self._trials.items()) if each.score is not None]
        complete = [each for each in scored if each.state == "COMPLETE"]
        if len(complete) < 2:
            return
        best, until_now = [], math.inf
        for trial in complete:
            until_now = min(until_now, sign * float(trial.score or 0.0))
            best.append((float(trial.number), sign * until_now))
        marks = [Mark(best, "#0072b2", title="best so far", strong=True)]
        marks += [
            Mark(
                [(float(trial.number), float(trial.score or 0.0))],
                "#8a94a3" if trial.state == "PRUNED" else "#0072b2",
                title=f"trial {trial.number} · job {trial.job} · {self._described(trial)} · {trial.state.lower()}",
                job=trial.job,
                line=False,
                dots=True,
            )
            for trial in scored
        ]
        x = numeric_axis("trial", [float(trial.number) for trial in scored], log=False, margin=0.03)
        y = numeric_axis(metric, [float(trial.score or 0.0) for trial in scored], margin=0.08)
        caption = "Each dot is a trial; the line is the best until then."
        if any(trial.state == "PRUNED" for trial in scored):
            caption += " Grey trials were ended early."
        if shares:
            caption += " Share of the differences that each key explains (fANOVA): "
            caption += ", ".join(f"{key} {share:.0%}" for key, share in shares.items()) + "."
        figure = {"title": f"{metric} by trial", "caption": caption, "svg": chart(marks, x, y)}
        self._record.figures = [figure]

    def _write(self) -> None:
        sweep, best = self._cfg.sweep, self._best()
        write_json(
            self._record.folder / FILE,
            {
                "brainlab_search": 1,
                **_settings(self._cfg, self._space),
                "study": self._study_name if sweep.method == "optuna" else None,
                "n_trials": sweep.n_trials,
                "pruner": sweep.pruner,
                "best": None if best is None else best.number,
                "trials": [
                    {
                        "trial": trial.number,
                        "job": trial.job,
                        "state": trial.state,
                        "score": trial.score,
                        "point": trial.point,
                        "reason": trial.reason,
                    }
                    for trial in sorted(self._trials.values(), key=lambda each: each.number)
                ],
            },
        )


def _settings(cfg: DictConfig, space: Space) -> dict[str, Any]:
    """What must stay for a search to be the same search."""
    sweep = cfg.sweep
    settings = {"method": sweep.method, "metric": sweep.metric, "mode": sweep.mode, "seed": sweep.seed}
    return {**settings, "space": space.described()}


def _earlier(record: SweepRecord, cfg: DictConfig, space: Space) -> Mapping[str, Any]:
    """What an earlier search wrote into this folder, once it is known to be the same search.

    Raises:
        ConfigError: it is another one, or the folder's sweep was no search.
    """
    found = read_json(record.folder / FILE)
    if not isinstance(found, Mapping):
        if record.rows:
            raise ConfigError(
                "hydra.sweep.dir",
                record.folder,
                "expected a folder without a sweep, or one with a search: this one holds a grid",
                hint="choose another hydra.sweep.dir",
            )
        return {}
    now = _settings(cfg, space)
    for name in ("method", "metric", "mode", "seed"):
        if found.get(name) != now[name]:
            raise ConfigError(
                f"sweep.{name}",
                now[name],
                f"expected {found.get(name)}, with which the search in {record.folder} was started",
                hint="choose another hydra.sweep.dir for another search",
            )
    before, after = dict(found.get("space") or {}), now["space"]
    if before != after:
        changes = [
            f"{key}: {before.get(key, 'not searched')} → {after.get(key, 'not searched')}"
            for key in dict.fromkeys([*before, *after])
            if before.get(key) != after.get(key)
        ]
        raise ConfigError(
            "hydra.sweep.dir",
            record.folder,
            f"expected the space that this search was started with, but it differs: {', '.join(changes)}",
            hint="choose another hydra.sweep.dir for another space",
        )
    return found


def _plain_command(words: Sequence[str]) -> str:
    """One trial as a command of its own: without the search, the launcher and the sweep's folder."""
    line = parse(sys.argv[1:])
    folders = [word for folder in line.config_dirs for word in ("--config-dir", folder)]
    own = [word for word in words if not word.startswith(("sweep=", "sweep.", "hydra.", "hydra/", "wait="))]
    return shlex.join(["brainlab", *folders, *own])


def _shown(folder: Path) -> str:
    return str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else str(folder)
