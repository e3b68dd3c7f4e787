"""Searches as one types them: what is refused, what is shown, what they leave behind."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

LR = "model.lr=tag(log,interval(1e-4,1))"

MISTAKES = {
    "an interval in a grid": (["-m", LR], ["model.lr=tag(log", "sweep=random or sweep=optuna searches it"]),
    "a search without -m": (["sweep=optuna", LR], ["several values need -m", "brainlab -m"]),
    "a search over nothing": (["sweep=optuna"], ["sweep=optuna", "expected a key to search over"]),
    "an end that the model does not take": (
        ["-m", "sweep=random", "trainer.max_epochs=interval(0.5,2)"],
        ["trainer.max_epochs=0.5", "expected a whole number"],
    ),
    "fractions for a whole number": (
        ["-m", "sweep=random", "data.batch_size=interval(4,16)"],
        ["write data.batch_size=int(interval(4,16))"],
    ),
    "a key that is not there": (["-m", "sweep=random", "model.lrr=interval(0,1)"], ["did you mean model.lr?"]),
    "an empty interval": (["-m", "sweep=optuna", "model.lr=interval(2,1)"], ["the lower end first"]),
    "a seed that is searched": (["-m", "sweep=optuna", LR, "seed=0,1"], ["seed=0,1", "sweep=seeds"]),
    "a pruner that is none": (["-m", "sweep=optuna", LR, "sweep.pruner=x"], ["median, hyperband or null"]),
    "a pruner without optuna": (["-m", "sweep=random", LR, "sweep.pruner=median"], ["needs sweep=optuna"]),
    "no trials": (["-m", "sweep=random", LR, "sweep.n_trials=0"], ["sweep.n_trials=0"]),
    "several at a time in one process": (
        ["-m", "sweep=optuna", LR, "sweep.n_parallel=2"],
        ["sweep.n_parallel=2", "hydra/launcher=submitit_local"],
    ),
    "a guided search that nobody waits for": (["-m", "sweep=optuna", LR, "wait=false"], ["wait=false"]),
    "a method that is none": (["-m", "sweep.method=bayes", LR], ["sweep.method=bayes", "grid, random or optuna"]),
    "a choice by the test data": (
        ["-m", LR.replace("tag(log,", "").replace("))", ")"), "sweep=random", "sweep.metric=test/top1"],
        ["sweep.metric=test/top1", "a metric of the validation data"],
    ),
    "another's sweeper": (["-m", "sweep=optuna", LR, "hydra/sweeper=basic"], ["leave hydra/sweeper out"]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_ends_with_one_sentence_and_nothing_written(case, brainlab, workplace):
    words, expected = MISTAKES[case]

    ended = brainlab(*words)

    assert ended.code == 2
    for text in expected:
        assert text in ended.err
    assert ended.err.startswith("Invalid ")
    assert len(ended.err.strip().splitlines()) == 1
    assert workplace.written() == []


def test_a_missing_optuna_names_the_extra(brainlab, workplace, monkeypatch):
    monkeypatch.setattr("brainlab.config.search_space.find_spec", lambda name: None)

    ended = brainlab("-m", "sweep=optuna", LR)

    assert ended.code == 2
    assert "pip install 'brainlab[optuna]'" in ended.err
    assert brainlab("-m", "sweep=random", LR, "dry=true").code == 0
    assert workplace.written() == []


def test_a_dry_search_shows_its_space_and_writes_nothing(brainlab, workplace):
    ended = brainlab("-m", "sweep=optuna", LR, "data.batch_size=range(2,9,2)", "dry=true", "sweep.n_trials=7")

    assert ended.code == 0, ended.err
    assert "7 trials by sweep=optuna for the min of val/loss, over:" in ended.out
    assert f"  {LR}" in ended.out
    assert "  data.batch_size=range(2,9,2)" in ended.out
    assert workplace.written() == []


def test_a_space_may_stand_in_a_file(workplace):
    (workplace.root / "mine" / "experiment" / "searched.yaml").write_text(
        "# @package _global_\ndefaults:\n  - mine\n  - override /sweep: random\n"
        "sweep: {n_trials: 3}\nhydra: {sweeper: {params: {model.lr: 'interval(1,2)'}}}\n"
    )

    ended = workplace.run("experiment=searched")

    assert ended.code == 0, ended.err
    assert "best trial" in ended.out
    (folder,) = (workplace.cwd / "multirun" / "mine").glob("*")
    assert len(list(csv.DictReader((folder / "sweep.csv").open()))) == 3


@pytest.mark.parametrize("method", ["random", "optuna"])
def test_a_search_ends_with_its_best_trial_and_the_command_that_repeats_it(method, workplace):
    ended = workplace.run("-m", f"sweep={method}", LR, "sweep.n_trials=5", "tags=[a,'b c']")

    assert ended.code == 0, ended.err
    (folder,) = (workplace.cwd / "multirun" / "mine").glob("*")
    rows = list(csv.DictReader((folder / "sweep.csv").open()))
    best = min(rows, key=lambda row: float(row["val/loss"]))
    assert f"best trial: job {best['num']}, val/loss = {float(best['val/loss']):.6g}" in ended.out
    assert f"exactly again:  brainlab rerun={folder.relative_to(workplace.cwd)}/{best['num']}" in ended.out
    assert {row["state"] for row in rows} == {"COMPLETED"}
    plain = next(line for line in ended.out.splitlines() if "as a plain run:" in line).partition("brainlab ")[2]
    repeated = workplace.run(*shlex.split(plain), mine=False)
    assert repeated.code == 0, repeated.err
    (run,) = (workplace.cwd / "outputs" / "mine").glob("*")
    again = json.loads((run / "status.json").read_text())
    assert again["state"] == "COMPLETED"
    assert f"lr: {best['model.lr']}\n" in (run / "resolved.yaml").read_text()


def test_failing_trials_end_with_1_and_the_best_of_the_others(workplace):
    ended = workplace.run("-m", "sweep=optuna", "model.lr=1,2,3", "job.fails_at=2", "sweep.n_trials=3")

    assert ended.code == 1
    assert "2 completed, 1 failed" in ended.out
    assert "asked to fail" in ended.out
    assert "best trial: job" in ended.out


def test_a_search_whose_submitter_is_killed_goes_on_where_it_was(workplace):
    parts = workplace.root / "lab" / "minilab" / "parts.py"
    slow = parts.read_text().replace(
        "        return float(cfg.model.lr)", "        import time; time.sleep(0.5); return float(cfg.model.lr)"
    )
    parts.write_text(slow)
    words = ["-m", "sweep=optuna", LR, "sweep.n_trials=5"]
    folder = workplace.cwd / "killed"
    command = [
        sys.executable,
        "-m",
        "brainlab",
        "--config-dir",
        str(workplace.root / "mine"),
        "experiment=mine",
        *words,
    ]
    process = subprocess.Popen(
        [*command, f"hydra.sweep.dir={folder}"],
        cwd=workplace.cwd,
        env=workplace.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 240
        while not (folder / "1" / "status.json").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (folder / "4").exists()

    rest = workplace.run(*words, f"hydra.sweep.dir={folder}")
    whole = workplace.run(*words, f"hydra.sweep.dir={workplace.cwd / 'whole'}")

    assert (rest.code, whole.code) == (0, 0), rest.err
    assert "going on after" in rest.out
    assert trials(folder) == trials(workplace.cwd / "whole")
    attempts = [len(json.loads((folder / str(n) / "status.json").read_text())["attempts"]) for n in range(5)]
    assert sum(attempts) <= 6  # nothing but the trial that was killed ran twice


def test_several_trials_run_side_by_side_in_processes_of_their_own(workplace):
    ended = workplace.run(
        "-m", "sweep=optuna", LR, "sweep.n_trials=4", "hydra/launcher=submitit_local", "hydra.launcher.parallelism=2"
    )

    assert ended.code == 0, ended.err + ended.out
    assert "4 completed, 0 failed" in ended.out


def trials(folder):
    found = json.loads((folder / "search.json").read_text())
    return [(each["trial"], each["point"], each["score"], each["state"]) for each in found["trials"]]
