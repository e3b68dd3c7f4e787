"""Several checkpoints in one evaluation: what is found, what stands in the table, and what a broken one does."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from launch import tiny_config
from omegaconf import DictConfig

from brainlab.errors import ConfigError
from brainlab.run.collect import find_runs
from brainlab.run.evaluate import Evaluate
from brainlab.run.evaluate_many import NotAllEvaluated, find_checkpoints, labels_of
from brainlab.run.execute import execute


@pytest.fixture(scope="module")
def sweep(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three runs that differ in their rate; 10 comes after 2."""
    folder = tmp_path_factory.mktemp("sweep")
    shutil.copytree(finished_run, folder / "0")
    for number, lr in ((2, 0.02), (10, 0.05)):
        words = [f"model.lr={lr}", "trainer.max_epochs=1"]
        execute(tiny_config(folder, *words), folder=folder / str(number), overrides=words)
    return folder


def evaluation(tmp_path: Path, *places: Path | str) -> DictConfig:
    job = {"_target_": "brainlab.run.evaluate.Evaluate", "checkpoint": [str(place) for place in places]}
    return tiny_config(tmp_path, f"job={json.dumps(job)}", "checkpoint=null")


def rows_of(file: Path) -> list[dict[str, Any]]:
    with file.open() as stream:
        return list(csv.DictReader(stream))


def test_files_runs_folders_and_patterns_name_the_same_checkpoints(sweep: Path, tmp_path: Path) -> None:
    expected = [sweep / number / "checkpoints" / "best.ckpt" for number in ("0", "2", "10")]
    assert find_checkpoints(str(sweep)) == expected
    assert find_checkpoints(f"{sweep}/**/best.ckpt") == expected
    assert find_checkpoints(f"{sweep}/*") == expected
    assert find_checkpoints([str(expected[2]), str(sweep / "0"), f"{sweep}/[02]/checkpoints/best.ckpt"]) == expected
    assert find_checkpoints(str(sweep / "2")) == expected[1:2]
    assert labels_of(expected) == ["0", "2", "10"]
    with pytest.raises(ConfigError, match=r"checkpoint=.*none.*\*\*.*expected a pattern that matches checkpoints"):
        find_checkpoints(f"{tmp_path}/none/**/best.ckpt")
    with pytest.raises(ConfigError, match="expected an existing file"):
        Evaluate(str(tmp_path / "absent.ckpt")).check(tiny_config(tmp_path))
    with pytest.raises(ConfigError, match=r"job\.checkpoint=null"):
        Evaluate([])


def test_several_checkpoints_make_one_table_that_agrees_with_their_runs(sweep: Path, tmp_path: Path) -> None:
    score = execute(evaluation(tmp_path, f"{sweep}/**/best.ckpt"), folder=tmp_path / "run", overrides=[])
    assert score is None
    rows = rows_of(tmp_path / "run" / "evaluate.csv")
    assert [row["checkpoint"] for row in rows] == ["0", "2", "10"]
    assert [float(row["model.lr"]) for row in rows] == [0.01, 0.02, 0.05]
    for row in rows:
        own = json.loads((sweep / row["checkpoint"] / "results.json").read_text())["metrics"]["accuracy"]
        assert (row["state"], row["headline"]) == ("COMPLETED", "accuracy")
        assert [float(row[key]) for key in ("value", "low", "high", "chance")] == [
            pytest.approx(own[key]) for key in ("value", "low", "high", "chance")
        ]
        assert Path(row["report"]).is_file()
    long = rows_of(tmp_path / "run" / "evaluate_metrics.csv")
    assert [(row["checkpoint"], row["metric"]) for row in long] == [(n, "accuracy") for n in ("0", "2", "10")]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (results["state"], results["data_source"]) == ("COMPLETED", "synthetic")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "3 checkpoints" in page
    assert "model.lr" in page
    assert find_runs([str(tmp_path)]) == [tmp_path / "run"]  # its parts are no runs of their own


def test_a_checkpoint_that_cannot_be_judged_is_a_row_and_fails_the_job(sweep: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes((sweep / "2" / "checkpoints" / "best.ckpt").read_bytes()[:1000])
    cfg = evaluation(tmp_path, sweep / "0", broken, sweep / "10")
    with pytest.raises(NotAllEvaluated, match=r"1 of 3 checkpoints.*broken\.ckpt"):
        execute(cfg, folder=tmp_path / "run", overrides=[])
    rows = {Path(row["file"]).name if "broken" in row["file"] else row["file"]: row
            for row in rows_of(tmp_path / "run" / "evaluate.csv")}  # fmt: skip
    assert sorted(row["state"] for row in rows.values()) == ["COMPLETED", "COMPLETED", "FAILED"]
    assert rows["broken.ckpt"]["value"] == ""
    assert "broken.ckpt" in rows["broken.ckpt"]["reason"]
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "FAILED"
    assert "broken.ckpt" in (tmp_path / "run" / "report.html").read_text()


def test_a_repeated_command_judges_only_what_is_missing(sweep: Path, tmp_path: Path) -> None:
    broken, another = (tmp_path / name / "best.ckpt" for name in ("b", "a"))
    broken.parent.mkdir()
    broken.write_bytes(b"")
    shutil.copytree(sweep / "10" / "checkpoints", tmp_path / "c")
    cfg = evaluation(tmp_path, f"{tmp_path}/[abc]/best.ckpt")
    with pytest.raises(NotAllEvaluated):
        execute(cfg, folder=tmp_path / "run", overrides=[])
    done = [folder for folder in (tmp_path / "run" / "evaluations").iterdir() if (folder / "results.json").exists()]
    before = (done[0] / "results.json").stat().st_mtime_ns
    shutil.copy2(sweep / "2" / "checkpoints" / "best.ckpt", broken)
    shutil.copytree(sweep / "0" / "checkpoints", another.parent)  # it comes first in the order
    execute(cfg, folder=tmp_path / "run", overrides=[])
    assert (done[0] / "results.json").stat().st_mtime_ns == before
    rows = rows_of(tmp_path / "run" / "evaluate.csv")
    assert [(row["checkpoint"], row["state"]) for row in rows] == [(name, "COMPLETED") for name in ("a", "b", "c")]


def test_checkpoints_that_differ_in_their_seed_are_averaged(finished_run: Path, tmp_path: Path) -> None:
    for seed, lr in ((1, 0.01), (0, 0.3)):
        words = [f"seed={seed}", f"model.lr={lr}"]
        execute(tiny_config(tmp_path, *words), folder=tmp_path / "runs" / f"{seed}-{lr}", overrides=words)
    execute(evaluation(tmp_path, finished_run, tmp_path / "runs"), folder=tmp_path / "run", overrides=[])
    values = {row["file"]: float(row["value"]) for row in rows_of(tmp_path / "run" / "evaluate.csv")}
    pair = [value for file, value in values.items() if "0.3" not in file]
    groups = {row["model.lr"]: row for row in rows_of(tmp_path / "run" / "evaluate_summary.csv")}
    assert (groups["0.01"]["n"], groups["0.3"]["n"]) == ("2", "1")
    assert float(groups["0.01"]["accuracy"]) == pytest.approx(sum(pair) / 2)
    assert float(groups["0.01"]["accuracy sd"]) == pytest.approx(abs(pair[0] - pair[1]) / 2**0.5)
    assert groups["0.3"]["accuracy sd"] == ""
