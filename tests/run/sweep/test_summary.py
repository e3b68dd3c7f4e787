"""Means over seeds."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainlab.run.sweep.rows import Found, JobRow
from brainlab.run.sweep.summary import groups_of, spread_of, summary_csv
from brainlab.run.sweep.table import Entry, best_of, screen_text


def entry(number: int, lr: str, seed: int, score: float | None, **metrics: float) -> Entry:
    state = "FAILED" if score is None else "COMPLETED"
    row = JobRow(number, (f"model.lr={lr}", f"seed={seed}"), state=state, score=score)
    return Entry(row, {"model.lr": lr, "seed": str(seed)}, seed, Found(metrics=metrics))


def rows(entries: list[Entry], swept: list[str]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(summary_csv(entries, swept, "val/loss"))))


def test_jobs_are_grouped_by_everything_but_their_seed():
    entries = [entry(0, "1", 0, 1.0), entry(1, "1", 1, 3.0), entry(2, "2", 0, 5.0)]

    assert rows(entries, ["model.lr", "seed"]) == [
        {"model.lr": "1", "metric": "val/loss", "n": "2", "mean": "2.0", "sd": str(2**0.5)},
        {"model.lr": "2", "metric": "val/loss", "n": "1", "mean": "5.0", "sd": ""},
    ]


def test_a_sweep_of_seeds_alone_is_one_group():
    (row,) = rows([entry(seed, "1", seed, float(seed)) for seed in range(5)], ["seed"])

    assert (row["n"], row["mean"]) == ("5", "2.0")


def test_the_best_combination_is_that_of_the_best_mean_not_of_the_luckiest_seed():
    lucky = [entry(0, "1", 0, 0.1), entry(1, "1", 1, 9.0)]
    entries = [*lucky, entry(2, "2", 0, 2.0), entry(3, "2", 1, 1.0), entry(4, "2", 2, None)]
    best = best_of(entries, "val/loss", "min")

    assert best is not None
    assert (best.entry.row.num, best.spread.n, best.spread.mean) == (3, 2, 1.5)
    shown = screen_text(entries, ["model.lr", "seed"], "val/loss", "min")
    assert "* best: model.lr=2 (mean 1.5 ± 0.71 over 2 seeds; job 3 is its best seed)" in shown


def test_every_metric_has_a_row_and_jobs_that_did_not_complete_have_none():
    found = rows([entry(0, "1", 0, 1.0, top1=0.5), entry(1, "1", 1, None)], ["model.lr", "seed"])

    assert [(row["metric"], row["n"]) for row in found] == [("val/loss", "1"), ("top1", "1")]
    assert len(groups_of([entry(0, "1", 0, 1.0), entry(1, "1", 1, None)], ["model.lr", "seed"])[0].entries) == 2


def test_a_sweep_that_scored_nothing_has_only_a_header():
    assert summary_csv([entry(0, "1", 0, None)], ["model.lr"], "val/loss") == "model.lr,metric,n,mean,sd\n"


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20))
def test_the_spread_is_that_of_numpy(values: list[float]):
    spread = spread_of(values)

    assert spread is not None
    assert spread.mean == pytest.approx(np.mean(values), abs=1e-6)
    assert spread.sd == pytest.approx(np.std(values, ddof=1), abs=1e-6)
