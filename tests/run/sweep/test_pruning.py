"""When a trial is ended early, and what such a run leaves behind."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from brainlab.errors import InvalidValue
from brainlab.run.callbacks.pruning import Pruning, pruning_for
from brainlab.run.directory import read_json, write_json
from brainlab.run.execute import execute
from brainlab.run.sweep.pruning import Scores, is_behind

sys.path.insert(0, str(Path(__file__).parents[1]))
from launch import tiny_config  # the tiny experiment of the tests of runs

SEARCH = "sweep={method: optuna, pruner: median, metric: val/loss, mode: min}"


def siblings(folder: Path, *curves: list[float], state: str = "COMPLETE", pruner: str = "median") -> None:
    write_json(folder / "search.json", {"brainlab_search": 1})
    for number, values in enumerate(curves):
        (folder / str(number)).mkdir()
        Scores(number, "val/loss", "min", pruner, values, state).write(folder / str(number))


def own(number: int, values: list[float], mode: str = "min", pruner: str = "median") -> Scores:
    return Scores(number, "val/loss", mode, pruner, values)


def test_a_trial_behind_the_median_of_its_siblings_is_ended(tmp_path):
    siblings(tmp_path, *[[5.0, 1.0 + n] for n in range(5)])

    assert not is_behind(own(5, [6.0, 2.9]), tmp_path)
    assert is_behind(own(5, [6.0, 3.1]), tmp_path)
    assert not is_behind(own(5, [2.0, 3.1]), tmp_path)  # it was better before, which counts


def test_the_direction_counts(tmp_path):
    siblings(tmp_path, *[[1.0 + n] for n in range(5)])
    for folder in tmp_path.glob("[0-9]"):
        scores = Scores.read(folder)
        scores.mode = "max"
        scores.write(folder)

    assert is_behind(own(7, [2.9], "max"), tmp_path)
    assert not is_behind(own(7, [3.1], "max"), tmp_path)


def test_few_or_unfinished_siblings_end_nothing(tmp_path):
    siblings(tmp_path, *[[0.1] for _ in range(4)])

    assert not is_behind(own(4, [9.0]), tmp_path)


def test_trials_that_still_run_or_were_pruned_do_not_count_as_finished(tmp_path):
    siblings(tmp_path, *[[0.1] for _ in range(9)], state="RUNNING")

    assert not is_behind(own(9, [9.0]), tmp_path)


def test_a_score_that_is_no_number_is_behind(tmp_path):
    siblings(tmp_path, *[[1.0] for _ in range(5)])

    assert is_behind(own(5, [math.nan]), tmp_path)


def test_hyperband_ends_poor_trials_and_keeps_good_ones(tmp_path):
    pruned = {}
    for number in range(24):
        (tmp_path / str(number)).mkdir()
        level = 0.0 if number % 4 == 0 else 10.0 + number
        scores = own(number, [], pruner="hyperband")
        for step in range(9):
            scores.values.append(level - 0.1 * step)
            if is_behind(scores, tmp_path):
                scores.state = "PRUNED"
                break
        else:
            scores.state = "COMPLETE"
        scores.write(tmp_path / str(number))
        pruned[number] = scores.pruned

    assert not any(pruned[number] for number in range(0, 24, 4))
    assert sum(pruned.values()) > 6
    assert any(Scores.read(tmp_path / str(number)).rungs for number in pruned)  # kept between validations


def test_damaged_and_foreign_files_are_left_out(tmp_path):
    siblings(tmp_path, *[[1.0] for _ in range(5)])
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "pruning.json").write_text('{"number": "x"}')
    (tmp_path / ".submitit").mkdir()

    assert is_behind(own(6, [2.0]), tmp_path)


def test_scores_survive_their_file(tmp_path):
    scores = Scores(3, "val/loss", "min", "median", [1.0, math.inf], "PRUNED", {"completed_rung_0": 1.5}, "late")
    scores.write(tmp_path)

    found = Scores.read(tmp_path)

    assert (found.number, found.state, found.rungs, found.reason) == (3, "PRUNED", {"completed_rung_0": 1.5}, "late")
    assert found.values[0] == 1.0
    assert math.isnan(found.values[1])


def test_only_trials_of_a_search_prune(tmp_path):
    cfg = tiny_config(tmp_path, SEARCH)
    (tmp_path / "0").mkdir()

    assert pruning_for(cfg, tmp_path / "0") is None  # the same configuration, run alone
    write_json(tmp_path / "search.json", {"brainlab_search": 1})
    assert pruning_for(cfg, tmp_path / "0") is not None
    assert pruning_for(cfg, tmp_path / "run") is None
    assert pruning_for(tiny_config(tmp_path), tmp_path / "0") is None
    assert pruning_for(tiny_config(tmp_path, "sweep={method: optuna, pruner: null}"), tmp_path / "0") is None


def trial(tmp_path: Path, number: int, *words: str) -> tuple[float | None, Path]:
    folder = tmp_path / str(number)
    return execute(tiny_config(tmp_path, SEARCH, *words), folder=folder, overrides=[]), folder


def test_a_pruned_run_ends_early_is_not_evaluated_and_says_so(tmp_path):
    siblings(tmp_path, *[[0.001] for _ in range(5)])

    score, folder = trial(tmp_path, 5)

    results, scores = read_json(folder / "results.json"), Scores.read(folder)
    assert scores.pruned
    assert len(scores.values) == 1
    assert score == pytest.approx(scores.values[0])
    assert results["pruned"].startswith("pruned after validation 1: val/loss was ")
    assert results["metrics"] == {}
    assert any("not evaluated on test data" in note for note in results["notes"])
    assert read_json(folder / "status.json")["state"] == "COMPLETED"
    assert max(row["step"] for row in rows(folder)) < 20  # one of three epochs
    assert not any(row["name"].startswith("test/") for row in rows(folder))


def test_a_trial_that_is_not_behind_goes_on_to_its_end(tmp_path):
    siblings(tmp_path, *[[9.0, 9.0, 9.0] for _ in range(5)])

    _, folder = trial(tmp_path, 5)

    scores = Scores.read(folder)
    assert (scores.state, len(scores.values)) == ("COMPLETE", 3)
    assert "accuracy" in read_json(folder / "results.json")["metrics"]


def test_pruning_is_no_part_of_what_a_run_is(tmp_path):
    siblings(tmp_path, [9.0])
    _, folder = trial(tmp_path, 5)

    execute(tiny_config(tmp_path), folder=tmp_path / "alone", overrides=[])

    assert (folder / "fingerprint.txt").read_text() == (tmp_path / "alone" / "fingerprint.txt").read_text()


def test_a_pruned_run_that_was_killed_before_its_results_is_still_not_evaluated(tmp_path):
    siblings(tmp_path, *[[0.001] for _ in range(5)])
    _, folder = trial(tmp_path, 5)
    (folder / "results.json").unlink()
    status = read_json(folder / "status.json")
    write_json(folder / "status.json", {**status, "state": "RUNNING"})

    trial(tmp_path, 5)

    results = read_json(folder / "results.json")
    assert results["pruned"]
    assert results["metrics"] == {}


def test_a_pruned_run_that_may_grow_trains_on(tmp_path):
    siblings(tmp_path, *[[0.001] for _ in range(5)])
    trial(tmp_path, 5)

    _, folder = trial(tmp_path, 5, "trainer.max_epochs=4", "sweep={method: grid}")

    assert "accuracy" in read_json(folder / "results.json")["metrics"]
    assert "pruned" not in read_json(folder / "results.json")


def test_a_metric_that_no_validation_logs_is_named(tmp_path):
    siblings(tmp_path, [1.0])

    with pytest.raises(InvalidValue, match=r"sweep\.metric=val/los: expected one of the logged .*mean val/loss"):
        trial(tmp_path, 5, "sweep={method: optuna, pruner: median, metric: val/los, mode: min}")


def test_scores_after_the_checkpoint_are_measured_again(tmp_path):
    (tmp_path / "3").mkdir()
    callback = Pruning(tmp_path / "3", "val/loss", "min", "median")
    callback.scores.values = [1.0, 2.0]
    kept = callback.state_dict()
    callback.scores.values.append(3.0)
    callback.scores.write(tmp_path / "3")

    again = Pruning(tmp_path / "3", "val/loss", "min", "median")
    again.load_state_dict(kept)
    again.on_fit_start(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]

    assert Scores.read(tmp_path / "3").values == [1.0, 2.0]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("val/loss", lambda results, curves: results["best"]["score"]),
        ("accuracy", lambda results, curves: None),
        ("test/accuracy", lambda results, curves: None),
        ("train/loss_epoch", lambda results, curves: curves["train/loss_epoch"][-1]),
        ("nowhere", lambda results, curves: None),
    ],
)
def test_a_run_scores_by_the_metric_of_its_sweep_and_never_by_its_test(metric, expected, tmp_path, caplog):
    score = execute(
        tiny_config(tmp_path, f"sweep={{metric: {metric}, mode: min}}"), folder=tmp_path / "run", overrides=[]
    )

    results = read_json(tmp_path / "run" / "results.json")
    step = results["best"]["step"]
    curves: dict[str, list[float]] = {}
    for row in rows(tmp_path / "run"):
        if row["step"] <= step:
            curves.setdefault(row["name"], []).append(row["value"])
    assert score == expected(results, curves)
    assert results["score"] == score
    assert ("is none of this run's metrics" in caplog.text) == (metric == "nowhere")
    assert ("is measured on test data" in caplog.text) == metric.endswith("accuracy")


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
