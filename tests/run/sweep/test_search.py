"""A search: what is tried, told, continued and refused. Jobs are stood in for by a formula of their overrides."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from brainlab.errors import BrainlabError, ConfigError
from brainlab.run.sweep.jobs import JobChange, SweepJob
from brainlab.run.sweep.pruning import Scores
from brainlab.run.sweep.record import JobsFailed, SweepRecord
from brainlab.run.sweep.search import search

CONFIG = """
hydra:
  job: {num: 0, id: '0', config_name: config}
  sweep: {dir: unused, subdir: '${hydra.job.num}'}
  launcher: {_target_: hydra._internal.core_plugins.basic_launcher.BasicLauncher}
  sweeper: {_target_: hydra_plugins.brainlab_sweeper.sweeper.BrainlabSweeper, params: null}
experiment_name: mine
seed: 0
wait: true
data: {root: null, seed: '${seed}'}
model: {lr: 0.1, width: 3, depth: 1}
trainer: {max_epochs: 5, max_steps: -1}
logger: null
paths: {root: /somewhere}
sweep: {metric: val/loss, mode: min, max_failures: null, method: optuna, n_trials: 8, n_parallel: null, seed: 0,
        storage: null, pruner: null}
"""
LR = "model.lr=tag(log,interval(1e-4,1))"


class Killed(BaseException):
    """The submitter is gone."""


class Formula:
    """A runner whose jobs score what ``score`` makes of their configuration."""

    def __init__(self, score: Callable[[DictConfig], Any], parallel: int = 1, dies_after: int | None = None) -> None:
        self.score, self.parallel, self.dies_after = score, parallel, dies_after
        self.waiting: dict[int, SweepJob] = {}
        self.ran: list[tuple[str, ...]] = []
        self.most = 0
        self.submissions: list[list[int]] = []

    def submit(self, jobs: Sequence[SweepJob], folder: Path) -> dict[int, str]:
        self.waiting.update({job.number: job for job in jobs})
        self.submissions.append([job.number for job in jobs])
        return {job.number: f"job-{job.number}" for job in jobs}

    def watch(self, ids: Mapping[int, str], folder: Path) -> Iterator[JobChange]:
        while self.waiting:
            self.most = max(self.most, len(self.waiting))
            number = min(self.waiting)
            yield JobChange(number, "RUNNING")
            if self.dies_after is not None and len(self.ran) >= self.dies_after:
                raise Killed
            job = self.waiting.pop(number)
            self.ran.append(job.overrides)
            try:
                score = self.score(job.config)
            except ArithmeticError as error:
                yield JobChange(number, "FAILED", reason=str(error))
            else:
                yield JobChange(number, "COMPLETED", score=score)

    def cancel(self, ids: Mapping[int, str]) -> None:
        self.waiting.clear()

    def script(self, jobs: Sequence[SweepJob], folder: Path) -> str | None:
        return None


def valley(cfg: DictConfig) -> float:
    return (math.log10(cfg.model.lr) + 2) ** 2


def compose(words: Sequence[str]) -> DictConfig:
    cfg = OmegaConf.create(CONFIG)
    cfg.merge_with_dotlist([word for word in words if word != "broken"])
    if cfg.model.width == 13:
        raise ConfigError("model.width", 13, "expected luck")
    return cfg


def run(folder: Path, *words: str, runner: Formula | None = None, arguments: Sequence[str] = (LR,)) -> Formula:
    folder.mkdir(exist_ok=True)
    cfg = compose(words)
    runner = runner or Formula(valley)
    with SweepRecord(folder, cfg) as record:
        run.said = search(cfg, list(arguments), record, runner, compose)  # type: ignore[attr-defined]
        record.finish()
        record.raise_if_failed()
    return runner


def told(folder: Path) -> list[tuple[str, float | None]]:
    return [(each["state"], each["score"]) for each in json.loads((folder / "search.json").read_text())["trials"]]


@pytest.mark.parametrize("method", ["random", "optuna"])
def test_a_search_runs_its_trials_and_names_the_best(method, tmp_path):
    runner = run(tmp_path / "a", f"sweep.method={method}", "sweep.n_trials=15")

    scores = [score for _, score in told(tmp_path / "a")]
    assert len(set(runner.ran)) == 15
    assert all(words[0].startswith("model.lr=") for words in runner.ran)
    assert f"val/loss = {min(scores):.6g}" in run.said
    best = scores.index(min(scores))
    assert f"rerun={tmp_path / 'a' / str(best)}" in run.said
    assert f"brainlab {runner.ran[best][0]}" in run.said


def test_the_largest_score_wins_where_that_is_asked_for(tmp_path):
    run(tmp_path / "a", "sweep.mode=max")

    assert f"= {max(score for _, score in told(tmp_path / 'a')):.6g} " in run.said


@pytest.mark.parametrize("method", ["random", "optuna"])
def test_one_seed_makes_one_search(method, tmp_path):
    words = (f"sweep.method={method}", "sweep.n_trials=14")

    first, again = run(tmp_path / "a", *words), run(tmp_path / "b", *words)
    other = run(tmp_path / "c", *words, "sweep.seed=1")

    assert first.ran == again.ran
    assert first.ran != other.ran


def test_optuna_learns_where_the_valley_is(tmp_path):
    run(tmp_path / "a", "sweep.n_trials=40")

    scores = [score for _, score in told(tmp_path / "a")]
    assert sorted(scores[25:])[7] < sorted(scores[:10])[5] / 4


@pytest.mark.parametrize("method", ["random", "optuna"])
@pytest.mark.parametrize("n", [0, 1, 12])
def test_a_killed_search_goes_on_as_if_it_had_not_been_killed(method, n, tmp_path):
    words = (f"sweep.method={method}", "sweep.n_trials=14")
    whole = run(tmp_path / "whole", *words)

    with pytest.raises(Killed):
        run(tmp_path / "a", *words, runner=Formula(valley, dies_after=n))
    rest = run(tmp_path / "a", *words)

    assert rest.ran == whole.ran[n:]
    assert told(tmp_path / "a") == told(tmp_path / "whole")
    assert run.said.splitlines()[0].startswith("best trial")


@pytest.mark.parametrize("method", ["random", "optuna"])
def test_more_trials_continue_a_search_and_a_complete_one_runs_nothing(method, tmp_path):
    first = run(tmp_path / "a", f"sweep.method={method}")
    nothing = run(tmp_path / "a", f"sweep.method={method}")
    more = run(tmp_path / "a", f"sweep.method={method}", "sweep.n_trials=11")

    assert (len(first.ran), nothing.ran, len(more.ran)) == (8, [], 3)
    assert len(told(tmp_path / "a")) == 11


@pytest.mark.parametrize("method", ["random", "optuna"])
def test_failed_trials_are_told_and_run_again_by_the_same_command(method, tmp_path):
    def fails_above(cfg: DictConfig) -> float:
        if cfg.model.lr > 0.01:
            raise ArithmeticError("diverged")
        return valley(cfg)

    with pytest.raises(JobsFailed):
        run(tmp_path / "a", f"sweep.method={method}", runner=Formula(fails_above))
    failed = [state for state, _ in told(tmp_path / "a")].count("FAILED")
    again = run(tmp_path / "a", f"sweep.method={method}")

    assert 0 < failed < 8
    assert len(again.ran) == failed
    assert len(SweepRecord.load(tmp_path / "a").rows) == 8


def test_a_search_whose_first_trials_all_fail_stops(tmp_path, capsys):
    def fails(cfg: DictConfig) -> float:
        raise ArithmeticError("no such layer")

    with pytest.raises(JobsFailed):
        run(tmp_path / "a", "sweep.n_trials=50", runner=(runner := Formula(fails)))

    assert len(runner.ran) == 5
    assert "first 5 trials all failed" in capsys.readouterr().out


def test_a_search_gives_up_after_so_many_failures(tmp_path):
    def fails_often(cfg: DictConfig) -> float:
        if cfg.model.lr > 0.001:
            raise ArithmeticError("diverged")
        return 1.0

    with pytest.raises(JobsFailed):
        run(tmp_path / "a", "sweep.max_failures=2", "sweep.n_trials=50", runner=(runner := Formula(fails_often)))

    assert [state for state, _ in told(tmp_path / "a")].count("FAILED") == 2
    assert len(runner.ran) < 20


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf])
def test_a_score_that_is_no_number_counts_as_failed(nothing, tmp_path, capsys):
    run(tmp_path / "a", runner=Formula(lambda cfg: nothing if cfg.model.lr > 0.01 else valley(cfg)))

    states = [state for state, _ in told(tmp_path / "a")]
    assert {"FAILED", "COMPLETE"} == set(states)
    assert "completed without a val/loss that is a number" in capsys.readouterr().out


def test_a_trial_that_cannot_be_composed_stops_no_other(tmp_path, capsys):
    runner = run(tmp_path / "a", "sweep.n_trials=4", arguments=["model.width=11,12,13,14"])

    assert len(runner.ran) == 3
    assert "cannot be composed: Invalid model.width=13: expected luck" in capsys.readouterr().out
    assert sorted(state for state, _ in told(tmp_path / "a")) == ["COMPLETE"] * 3 + ["FAILED"]


@pytest.mark.parametrize("method", ["random", "optuna"])
def test_a_small_space_is_tried_once_all_over(method, tmp_path):
    words = (f"sweep.method={method}", "sweep.n_trials=20")
    runner = run(tmp_path / "a", *words, arguments=["model.width=1,2,3", "model.depth=range(1,3)"],
                 runner=Formula(lambda cfg: cfg.model.width + cfg.model.depth))  # fmt: skip

    assert len(runner.ran) == len(set(runner.ran)) == 6
    assert "no more than 6 different trials" in run.said


def test_so_many_trials_run_at_a_time(tmp_path):
    runner = run(tmp_path / "a", runner=Formula(valley, parallel=3))
    fewer = run(tmp_path / "b", "sweep.n_parallel=2", "hydra.launcher._target_=x.Slurm", runner=Formula(valley, 3))

    assert (runner.most, fewer.most) == (3, 2)
    assert runner.submissions[0] == [0, 1, 2]


def test_random_trials_are_submitted_together(tmp_path):
    runner = run(tmp_path / "a", "sweep.method=random", runner=Formula(valley, parallel=3))

    assert runner.submissions == [list(range(8))]


def test_random_trials_can_be_submitted_and_left(tmp_path, capsys):
    cfg = compose(["sweep.method=random", "wait=false"])
    runner = Formula(valley)
    with SweepRecord(tmp_path, cfg) as record:
        assert search(cfg, [LR], record, runner, compose) == ""

    assert (len(runner.waiting), runner.ran) == (8, [])
    assert "collect" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "arguments", "expected"),
    [
        ([], ["model.lr=tag(log,interval(1e-4,0.1))"], r"model\.lr: tag\(log,interval\(1e-4,1\)\) → tag"),
        ([], [LR, "model.width=1,2"], "model.width: not searched → 1,2"),
        (["sweep.seed=5"], [LR], "sweep.seed=5: expected 0"),
        (["sweep.mode=max"], [LR], "sweep.mode=max: expected min"),
        (["sweep.method=random"], [LR], "sweep.method=random: expected optuna"),
    ],
)
def test_another_search_in_the_same_folder_is_refused(words, arguments, expected, tmp_path):
    run(tmp_path / "a")
    before = {file: file.read_bytes() for file in (tmp_path / "a").iterdir() if file.is_file()}

    with pytest.raises(ConfigError, match=expected):
        run(tmp_path / "a", *words, arguments=arguments)

    assert {file: file.read_bytes() for file in (tmp_path / "a").iterdir() if file.is_file()} == before


def test_a_grid_is_not_continued_as_a_search(tmp_path):
    cfg = compose(["sweep.method=grid"])
    with SweepRecord(tmp_path, cfg) as record:
        record.take([(["model.lr=1"], compose(["model.lr=1"]))])

    with pytest.raises(ConfigError, match="this one holds a grid"):
        run(tmp_path)


def test_pruned_trials_are_told_as_pruned_and_never_the_best(tmp_path, capsys):
    folder = tmp_path / "a"

    def prunes(cfg: DictConfig) -> float:
        run_dir = folder / str(cfg.hydra.job.num)
        run_dir.mkdir()
        pruned = cfg.hydra.job.num == 2
        Scores(cfg.hydra.job.num, "val/loss", "min", "median", [3.0, math.nan], "PRUNED" if pruned else "COMPLETE",
               reason="pruned after validation 2: val/loss was 4" if pruned else None).write(run_dir)  # fmt: skip
        return -1.0 if pruned else valley(cfg)

    run(folder, "sweep.pruner=median", "sweep.n_trials=4", runner=Formula(prunes))

    assert [state for state, _ in told(folder)] == ["COMPLETE", "COMPLETE", "PRUNED", "COMPLETE"]
    assert "job 2" not in run.said
    assert "1 pruned" in run.said
    assert "was pruned after validation 2" in capsys.readouterr().out
    import optuna

    (study,) = optuna.get_all_study_summaries(f"sqlite:///{folder / 'optuna.db'}")
    trial = optuna.load_study(study_name=study.study_name, storage=f"sqlite:///{folder / 'optuna.db'}").trials[2]
    assert (trial.state.name, trial.intermediate_values) == ("PRUNED", {1: 3.0})


def test_the_database_may_lie_elsewhere_and_survives_a_moved_folder(tmp_path):
    storage = f"sweep.storage=sqlite:///{tmp_path / 'elsewhere.db'}"
    run(tmp_path / "a", storage)
    (tmp_path / "a").rename(tmp_path / "moved")
    more = run(tmp_path / "moved", storage, "sweep.n_trials=9")

    assert len(more.ran) == 1
    assert not (tmp_path / "moved" / "optuna.db").exists()


def test_a_folder_with_odd_characters_holds_a_database(tmp_path):
    assert len(run(tmp_path / "a b?c=%41#d").ran) == 8


@pytest.mark.parametrize("url", ["nonsense", "sqlite:////no/such/folder/x.db", "mysql://me:secret@localhost/x"])
def test_a_storage_that_cannot_be_opened_is_named_without_its_password(url, tmp_path):
    with pytest.raises(ConfigError, match=r"sweep\.storage=.*cannot be opened") as refused:
        run(tmp_path / "a", f"sweep.storage={url}")

    assert "secret" not in str(refused.value)


def test_a_storage_that_fails_on_the_way_says_how_to_go_on(tmp_path):
    def breaks(cfg: DictConfig) -> float:
        (tmp_path / "a" / "optuna.db").write_bytes(b"no database at all, but long enough to be read as one" * 50)
        return 1.0

    with pytest.raises(BrainlabError, match="goes on"):
        run(tmp_path / "a", runner=Formula(breaks))
