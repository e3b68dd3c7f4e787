"""Sweeps from the command line: what runs, what is left alone, what is written."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def sweep(workplace):
    """``brainlab -m WORDS`` without a tracker, always into the same folder."""
    folder = workplace.cwd / "sweep"

    def run(*words: str):
        return workplace.run("-m", "logger=none", f"hydra.sweep.dir={folder}", *words)

    run.folder = folder
    return run


def test_a_sweep_leaves_its_tables_its_page_and_its_record(sweep, workplace):
    ended = sweep("model.lr=1,2", "seed=0,1")

    assert ended.code == 0, ended.err
    assert [(row["num"], row["state"], row["model.lr"], row["seed"]) for row in rows(sweep.folder)] == [
        ("0", "COMPLETED", "1", "0"), ("1", "COMPLETED", "1", "1"),
        ("2", "COMPLETED", "2", "0"), ("3", "COMPLETED", "2", "1"),
    ]  # fmt: skip
    assert (sweep.folder / "sweep_summary.csv").read_text().splitlines() == [
        "model.lr,metric,n,mean,sd", "1,val/loss,2,1.0,0.0", "2,val/loss,2,2.0,0.0",
    ]  # fmt: skip
    assert "Its best seed: job 0" in (sweep.folder / "sweep.html").read_text()
    record = json.loads((sweep.folder / "sweep.json").read_text())
    assert (record["brainlab_sweep"], record["swept"], record["metric"]) == (1, ["model.lr", "seed"], "val/loss")
    assert record["command"].startswith(f"brainlab --config-dir {workplace.root / 'mine'} experiment=mine -m")
    assert (sweep.folder / "0" / "cmd.txt").read_text().split(" ", 1)[1].strip() == record["command"].split(" ", 1)[1]
    assert str(sweep.folder / "sweep.html") in ended.out


def test_the_same_sweep_again_runs_only_what_failed_and_what_is_new(sweep):
    assert sweep("model.lr=1,2", "job.fails_at=2").code == 1
    stamp = (sweep.folder / "0" / "status.json").stat().st_mtime_ns

    ended = sweep("model.lr=1,2,3", "job.fails_at=2")

    assert ended.code == 1
    assert (sweep.folder / "0" / "status.json").stat().st_mtime_ns == stamp
    attempts = [json.loads((sweep.folder / str(n) / "status.json").read_text())["attempts"] for n in range(3)]
    assert [len(each) for each in attempts] == [1, 2, 1]
    assert [row["model.lr"] for row in rows(sweep.folder)] == ["1", "2", "3"]


def test_other_settings_in_the_same_folder_are_refused_with_the_keys_that_differ(sweep):
    assert sweep("model.lr=1,2").code == 0
    before = {path: path.read_bytes() for path in sweep.folder.rglob("*") if path.is_file()}

    ended = sweep("model.lr=1,2", "data.batch_size=16")

    assert ended.code == 2
    assert "data.batch_size: 8 → 16" in ended.err
    assert "model.lr:" not in ended.err
    assert {path: path.read_bytes() for path in sweep.folder.rglob("*") if path.is_file()} == before


def test_two_sweeps_in_one_second_get_two_folders(workplace):
    words = [sys.executable, "-m", "brainlab", "--config-dir", str(workplace.root / "mine"), "experiment=mine"]
    both = [
        subprocess.Popen(
            [*words, "-m", "logger=none", "model.lr=1"], cwd=workplace.cwd, env=workplace.environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]  # fmt: skip

    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert len(list((workplace.cwd / "multirun" / "mine").iterdir())) == 2


def test_an_interrupted_sweep_ends_with_130_and_is_continued(sweep, workplace):
    parts = workplace.root / "lab" / "minilab" / "parts.py"
    here = '(run.path / "here").touch()'
    waits = f"if cfg.model.lr == 2:\n            import time\n            {here}\n            time.sleep(60)"
    result = "return float(cfg.model.lr)"
    parts.write_text(parts.read_text().replace(result, f"{waits}\n        {result}"))
    process = subprocess.Popen(
        [sys.executable, "-m", "brainlab", "--config-dir", str(workplace.root / "mine"), "experiment=mine", "-m",
         "logger=none", f"hydra.sweep.dir={sweep.folder}", "model.lr=1,2,3"],
        cwd=workplace.cwd, env=workplace.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    limit = time.monotonic() + 60
    while not (sweep.folder / "1" / "here").exists() and time.monotonic() < limit:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=60)

    assert process.returncode == 130
    assert [row["state"] for row in rows(sweep.folder)] == ["COMPLETED", "CANCELLED", "CANCELLED"]

    parts.write_text(parts.read_text().replace("time.sleep(60)", "pass"))
    assert sweep("model.lr=1,2,3").code == 0
    assert [row["val/loss"] for row in rows(sweep.folder)] == ["1.0", "2.0", "3.0"]


def test_a_killed_sweep_is_continued(sweep, workplace):
    parts = workplace.root / "lab" / "minilab" / "parts.py"
    dies = "if cfg.model.lr == 2:\n            import os\n            os.kill(os.getpid(), 9)"
    original = parts.read_text()
    parts.write_text(original.replace("return float(cfg.model.lr)", f"{dies}\n        return float(cfg.model.lr)"))
    assert sweep("model.lr=1,2,3").code == -9

    parts.write_text(original)
    ended = sweep("model.lr=1,2,3")

    assert ended.code == 0, ended.err
    assert "1 of 3 jobs are completed" in ended.out


def test_a_sweep_is_one_run_with_children_in_the_tracker(workplace):
    folder = workplace.cwd / "sweep"
    assert workplace.run("-m", f"hydra.sweep.dir={folder}", "model.lr=1,2").code == 0
    assert workplace.run("-m", f"hydra.sweep.dir={folder}", "model.lr=1,2").code == 0
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{workplace.cwd / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])  # these jobs track nothing
    assert run.info.run_id == json.loads((folder / "sweep.json").read_text())["mlflow_run_id"]
    assert run.info.status == "FINISHED"
    assert not (workplace.cwd / "mlruns" / "0").exists()


def test_collecting_shows_the_table_and_ends_with_the_sweeps_code(sweep, workplace):
    assert sweep("model.lr=1,2", "job.fails_at=2").code == 1
    (sweep.folder / "sweep.csv").unlink()

    ended = workplace.run("job=collect", f"runs={sweep.folder}", "logger=none", mine=False)

    assert "1 completed, 1 failed, 0 lost" in ended.out, ended.err
    assert ended.code == 1
    assert len(rows(sweep.folder)) == 2
