"""What a run leaves behind: enough to read it, to repeat it, and to see what went wrong."""

from __future__ import annotations

import json
import logging
import re
import sys
from pathlib import Path

import pytest
from launch import tiny_config
from omegaconf import OmegaConf

from brainlab.config.resolved import resolved_yaml
from brainlab.errors import ConfigError, InvalidFile, InvalidValue
from brainlab.run.collect import Collect, find_runs, table_of
from brainlab.run.directory import RunDirectory, jsonable, read_json, write_json
from brainlab.run.evaluate import stored_config
from brainlab.run.execute import execute
from brainlab.run.fingerprint import Fingerprint, differing_keys, flatten, of_config, plain_config
from brainlab.run.history import History
from brainlab.run.report import number, render
from brainlab.run.status import Status
from brainlab.run.tracking import RunInfo, RunLogger


def test_everything_needed_to_repeat_a_run_is_there(finished_run: Path) -> None:
    for name in (
        ".hydra/config.yaml", ".hydra/overrides.yaml", "resolved.yaml", "fingerprint.txt", "cmd.txt",
        "attempts/1.yaml", "env.json", "status.json", "results.json", "brainlab.log", "stderr.txt",
        "checkpoints/last.ckpt", "checkpoints/best.ckpt", "mlflow_run_id", "metrics.jsonl", "report.html",
    ):  # fmt: skip
        assert (finished_run / name).is_file(), name
    status = json.loads((finished_run / "status.json").read_text())
    assert status["state"] == "COMPLETED"
    assert status["exit"] == 0
    assert status["attempts"][0]["batches"] == 45
    assert OmegaConf.load(finished_run / "attempts" / "1.yaml").overrides == ["logger=mlflow"]
    environment = json.loads((finished_run / "env.json").read_text())
    assert environment["versions"]["torch"]
    assert environment["machine"]["cpu_count"] >= 1
    results = json.loads((finished_run / "results.json").read_text())
    assert results["data_source"] == "synthetic"
    assert results["metrics"]["accuracy"]["chance"] == 0.5
    assert results["best"]["checkpoint"] == "checkpoints/best.ckpt"
    log = (finished_run / "brainlab.log").read_text()
    assert "data source: SIMULATED" in log
    assert "accuracy = " in log
    assert not [path.name for path in (finished_run / "checkpoints").iterdir() if path.name.startswith(".")]


def test_mlflow_knows_the_run(finished_run: Path) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{finished_run.parent / 'mlflow.db'}")
    run = client.get_run((finished_run / "mlflow_run_id").read_text().strip())
    assert run.info.status == "FINISHED"
    assert run.data.params["model.lr"] == "0.01"
    assert run.data.tags["brainlab.data_source"] == "synthetic"
    assert run.data.tags["brainlab.fingerprint"] == (finished_run / "fingerprint.txt").read_text().splitlines()[0]
    assert run.info.artifact_uri.startswith((finished_run.parent / "mlruns").as_uri())
    assert {file.path for file in client.list_artifacts(run.info.run_id)} >= {"resolved.yaml", "report.html"}
    assert run.data.metrics["test/accuracy"] == json.loads((finished_run / "results.json").read_text())["metrics"][
        "accuracy"
    ]["value"]  # fmt: skip


def test_the_report_is_one_file_that_says_simulated_and_escapes_what_it_shows(finished_run: Path) -> None:
    text = (finished_run / "report.html").read_text()
    assert "SIMULATED DATA" in text
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "a note with &lt;angle&gt; brackets" in text
    assert "data:image/png;base64," in text
    assert not re.search(r'(src|href)="(?!data:)', text)
    for shown in ("accuracy", "95 % interval", "chance", "Configuration", "brainlab rerun="):
        assert shown in text


def test_the_report_of_recorded_data_has_no_banner(tmp_path: Path) -> None:
    results = {
        "experiment": "x", "state": "COMPLETED", "data_source": "files", "run_dir": "/r", "headline": "top1",
        "monitor": {"metric": "val/loss", "mode": "min"},
        "figures": [{"name": "gone", "caption": "", "file": "no.png"}],
        "metrics": {"top1": {"name": "top1", "value": 0.5, "low": 0.4, "high": 0.6, "chance": 0.01, "ceiling": 0.8}},
    }  # fmt: skip
    text = render(results, tmp_path)
    assert "SIMULATED" not in text
    assert "ceiling 0.8" in text


def test_names_of_recordings_stay_whole_in_the_report(tmp_path: Path) -> None:
    data = {
        "left_out": {"eeg_brainvision_test.vhdr": "3 s are too short"}, "window_s": 2.0,
        "layout": {"channel_sets": 2, "types": {"eeg": 3}, "seen": ["a", 1.5]}, "recordings": [{"session": "a"}],
    }  # fmt: skip
    results = {"state": "COMPLETED", "data_source": "files", "run_dir": "/r", "data": data}
    text = render(results, tmp_path)
    rows = dict(re.findall(r"<tr><td>([^<]*)</td><td>([^<]*)</td></tr>", text))
    assert rows == {
        "left out · eeg_brainvision_test.vhdr": "3 s are too short", "window s": "2", "layout · channel sets": "2",
        "layout · types · eeg": "3", "layout · seen": "a, 1.5",
    }  # fmt: skip
    assert "<summary>recordings</summary>" in text


@pytest.mark.parametrize(("better", "words"), [("lower", "← better"), ("higher", "better →")])
def test_the_report_says_first_what_was_found_and_which_way_is_good(tmp_path: Path, better: str, words: str) -> None:
    metric = {"name": "distance", "value": 0.3, "control": 0.4, "ceiling": 0.1, "better": better, "note": "what it is"}
    results = {
        "experiment": "x", "state": "COMPLETED", "data_source": "files", "run_dir": "/r", "headline": "distance",
        "monitor": {"metric": "val/loss", "mode": "min"}, "metrics": {"distance": metric},
        "notes": ["The model is nearer than the control."],
        "tables": [{"name": "t", "caption": "A long table", "header": ["a"], "rows": [[1]]}],
    }  # fmt: skip
    text = render(results, tmp_path)
    verdict = text.index("The model is nearer than the control.")
    assert text.index('class="number"') < verdict < text.index("<h2>Metrics</h2>") < text.index("A long table")
    assert words in text
    assert re.search(r'<td colspan="5">what it is</td>', text)


@pytest.mark.parametrize("program", ["brainlab", "site-packages/brainlab/__main__.py"])
def test_the_command_of_a_run_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(sys, "argv", [str(tmp_path / program), "model.lr=0.1", "data.root=/my files"])
    with pytest.raises(RuntimeError, match="planned failure"):
        execute(tiny_config(tmp_path, "model.fail_at_step=1"), folder=tmp_path / "run")
    assert (tmp_path / "run" / "cmd.txt").read_text() == "brainlab model.lr=0.1 'data.root=/my files'\n"


def test_a_failed_run_says_so_once_and_keeps_its_traceback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(RuntimeError, match="planned failure") as caught:
        execute(tiny_config(tmp_path, "model.fail_at_step=4", "logger=mlflow"), folder=tmp_path / "run")
    assert caught.value.brainlab_reported
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["exit"]) == ("FAILED", 1)
    assert "planned failure" in status["error"]
    assert "planned failure" in (tmp_path / "run" / "stderr.txt").read_text()
    shown = [record.getMessage() for record in caplog.records if "run failed" in record.getMessage()]
    assert len(shown) == 1
    assert str(tmp_path / "run" / "stderr.txt") in shown[0]
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert client.get_run((tmp_path / "run" / "mlflow_run_id").read_text().strip()).info.status == "FAILED"


def test_what_a_run_says_goes_to_stdout_and_why_it_failed_to_stderr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError, match="planned failure"):
        execute(tiny_config(tmp_path, "model.fail_at_step=1"), folder=tmp_path / "run")
    shown = capfd.readouterr()
    assert "run failed: RuntimeError: planned failure" in shown.err
    assert f"run directory: {tmp_path / 'run'}" in shown.out
    assert "run failed" not in shown.out


def test_a_tracker_that_fails_does_not_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def start(self, info: RunInfo, history: list) -> None: ...
        def log(self, rows: list) -> None:
            raise ConnectionError("no route to host")

        flush = finish = lambda self, *args: (_ for _ in ()).throw(ConnectionError("no route to host"))

    logger = RunLogger(History(tmp_path / "metrics.jsonl"), Broken())
    for step in range(3):
        logger.log_metrics({"a": 1.0}, step)
    logger.finish("COMPLETED")
    assert caplog.text.count("no route to host") == 2
    assert [row.step for row in History(tmp_path / "metrics.jsonl").rows] == [0, 1, 2]


def test_history_drops_repeated_rows_and_a_half_written_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    history = History(path)
    assert len(history.add({"a": 1.0, "b": float("nan")}, 0)) == 2
    assert history.add({"a": 1.0}, 0) == []
    history.close()
    with path.open("a") as file:
        file.write('{"name": "a", "st')
    again = History(path)
    assert [(row.name, row.step) for row in again.rows] == [("a", 0), ("b", 0)]
    again.add({"a": 2.0}, 1)
    again.close()
    assert History(path).curves()["a"] == [(0, 1.0), (1, 2.0)]


def test_csv_tracker_writes_one_line_per_step(tmp_path: Path) -> None:
    from brainlab.run.trackers.csv import CsvTracker

    logger = RunLogger(History(tmp_path / "metrics.jsonl"), CsvTracker())
    logger.start(RunInfo(tmp_path, "x", 1))
    logger.log_metrics({"b": 1.0, "a": 2.0}, 3)
    logger.log_metrics({"a": 4.0}, 10)
    logger.finish("COMPLETED")
    assert (tmp_path / "metrics.csv").read_text() == "step,a,b\n3,2.0,1.0\n10,4.0,\n"


def test_places_and_workers_do_not_change_the_fingerprint_but_settings_do(tmp_path: Path) -> None:
    base = of_config(plain_config(tiny_config(tmp_path)))
    for word in ("data.num_workers=2", "data.root=/elsewhere", "trainer.devices=4", "logger=mlflow", "tags=[x]",
                 "data.cache_dir=/c", "trainer.max_epochs=9"):  # fmt: skip
        assert of_config(plain_config(tiny_config(tmp_path / "other", word))).config == base.config, word
    for word in ("model.lr=0.1", "seed=1", "data.n=61", "trainer.accumulate_grad_batches=2"):
        assert of_config(plain_config(tiny_config(tmp_path, word))).config != base.config, word
    assert of_config(plain_config(tiny_config(tmp_path, "trainer.max_epochs=9"))).growth != base.growth
    real = Fingerprint(base.config, base.growth, "files", "abc")
    assert real.value != Fingerprint(base.config, base.growth, "synthetic", "abc").value
    assert real.value != Fingerprint(base.config, base.growth, "files", "abd").value


def test_differing_keys_name_both_values() -> None:
    old, new = {"model": {"lr": 1, "width": 2}, "paths": {"root": "a"}}, {"model": {"lr": 3}, "paths": {"root": "b"}}
    assert differing_keys(old, new) == {"model.lr": (1, 3), "model.width": (2, None)}
    assert flatten({"a": {}}) == {"a": {}}


def test_status_closes_an_attempt_that_was_killed(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    first = Status(run)
    first.start()
    first._stop.set()
    second = Status(run)
    second.start()
    second.finish("COMPLETED", 0)
    content = read_json(run.status)
    assert [attempt["exit"] for attempt in content["attempts"]] == ["killed", 0]
    assert content["attempts"][0]["end"] is not None


def test_json_files_hold_no_nan(tmp_path: Path) -> None:
    import numpy as np

    write_json(tmp_path / "x.json", {"a": float("nan"), "b": np.float32(1.5), "c": Path("p"), 1: {2}})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": 1.5, "c": "p", "1": [2]}
    assert jsonable((np.arange(2), True)) == [[0, 1], True]


def test_two_processes_cannot_work_in_one_directory(tmp_path: Path) -> None:
    from filelock import FileLock

    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"), pytest.raises(ConfigError, match="no other process"):
        execute(tiny_config(tmp_path), folder=tmp_path / "run")
    assert not (tmp_path / "run" / "resolved.yaml").exists()


def test_an_unknown_monitor_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match=r"monitor\.metric=val/lss.*did you mean val/loss"):
        execute(tiny_config(tmp_path, "monitor.metric=val/lss"), folder=tmp_path / "run")


def test_evaluate_reproduces_the_result_from_the_checkpoint_alone(finished_run: Path, tmp_path: Path) -> None:
    job = "{_target_: brainlab.run.evaluate.Evaluate, checkpoint: " + str(finished_run) + "}"
    # Another width: the checkpoint's own configuration must win.
    cfg = tiny_config(tmp_path, f"job={job}", "model.width=3")
    score = execute(cfg, folder=tmp_path / "run", overrides=[])
    results = json.loads((finished_run / "results.json").read_text())
    assert score == results["metrics"]["accuracy"]["value"]
    again = json.loads((tmp_path / "run" / "results.json").read_text())
    assert again["metrics"] == results["metrics"]
    assert again["best"]["score"] == results["best"]["score"]


def test_evaluate_names_the_weights_that_do_not_fit(finished_run: Path, tmp_path: Path) -> None:
    job = "{_target_: brainlab.run.evaluate.Evaluate, checkpoint: " + str(finished_run / "checkpoints/best.ckpt") + "}"
    cfg = tiny_config(tmp_path, f"job={job}", "model.width=3")
    with pytest.raises(InvalidFile, match=r"other shapes: net\.0\.bias"):
        execute(cfg, folder=tmp_path / "run", overrides=["model.width=3"])


def test_explicit_overrides_win_over_the_stored_configuration(tmp_path: Path) -> None:
    stored = resolved_yaml(tiny_config(tmp_path / "old", "data.n=33", "model.width=5"))
    cfg = tiny_config(tmp_path, "data.batch_size=7")
    found = stored_config(cfg, stored, ["data.batch_size=7", "job=evaluate"])
    assert (found.data.n, found.data.batch_size, found.model.width) == (33, 7, 5)
    assert found.data.cache_dir == str(tmp_path / "cache")


def test_collect_lines_runs_up_and_shows_where_two_differ(finished_run: Path, tmp_path: Path) -> None:
    execute(tiny_config(tmp_path, "model.lr=0.02", "trainer.max_epochs=1"), folder=tmp_path / "sweep" / "1")
    job = "{_target_: brainlab.run.collect.Collect, runs: ['" + f"{finished_run}', '{tmp_path / 'sweep'}" + "']}"
    execute(tiny_config(tmp_path, f"job={job}"), folder=tmp_path / "collect")
    table = (tmp_path / "collect" / "collect.csv").read_text().splitlines()
    assert len(table) == 3
    assert "model.lr" in table[0]
    assert "COMPLETED" in table[1]
    difference = (tmp_path / "collect" / "diff.csv").read_text()
    assert "model.lr,0.01,0.02" in difference.replace("model.lr,0.02,0.01", "model.lr,0.01,0.02")
    assert {row["model.lr"] for row in table_of(find_runs([str(finished_run), str(tmp_path / "sweep")]))} == {
        0.01,
        0.02,
    }
    with pytest.raises(InvalidFile, match="nowhere"):
        find_runs([str(tmp_path / "nowhere")])
    with pytest.raises(ConfigError, match="runs"):
        Collect(None)


@pytest.mark.parametrize(
    ("value", "text"), [(0.12345, "0.1235"), (2.5e-7, "2.5e-07"), (1234567, "1,234,567"), (None, "–"), ("a", "a")]
)
def test_numbers_in_the_report_are_readable(value: object, text: str) -> None:
    assert number(value) == text


def test_a_terminated_run_is_cancelled_and_can_go_on(tmp_path: Path) -> None:
    import os
    import signal
    import subprocess
    import sys
    import time

    trace = tmp_path / "trace"
    words = [str(tmp_path), f"model.trace={trace}", "model.sleep_s=0.05"]
    command = [sys.executable, str(Path(__file__).parent / "launch.py"), *words]
    process = subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and (not trace.exists() or trace.read_text().count("\n") < 6):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) != 0
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["exit"]) == ("CANCELLED", 130)
    score = execute(tiny_config(tmp_path, *words[1:]), folder=tmp_path / "run")
    assert score is not None
    assert "resumed at epoch 0, batch" in (tmp_path / "run" / "brainlab.log").read_text()


def test_attempts_add_up_to_the_wall_time(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    killed = {"start": "2026-01-01T10:00:00+00:00", "end": None, "exit": None}
    failed = {"start": "2026-01-01T09:00:00+00:00", "end": "2026-01-01T09:02:00+00:00", "exit": 1}
    write_json(run.status, {"state": "RUNNING", "heartbeat": "2026-01-01T10:00:30+00:00", "attempts": [failed, killed]})
    status = Status(run)
    status.start()
    status.finish("COMPLETED", 0)
    assert 150 <= status.wall_s < 160


def test_changed_code_is_kept_with_the_run_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from brainlab.run import environment

    answers = {"rev-parse": "abc\n", "diff": "+" * 3_000_000, "status": "?? new.py\n"}
    monkeypatch.setattr(environment, "_git", lambda folder, *words: answers[words[0]])
    assert environment.code_state(RunDirectory(tmp_path))["diff"] == "code.diff"
    text = (tmp_path / "code.diff").read_text()
    assert 1_000_000 < len(text) < 1_001_000
    assert "only 1000000 of 3000000 characters are kept" in text
    assert "?? new.py" in text

    answers |= {"diff": "", "status": ""}
    (tmp_path / "clean").mkdir()
    assert environment.code_state(RunDirectory(tmp_path / "clean"))["git_dirty"] is False
    assert not (tmp_path / "clean" / "code.diff").exists()


def test_replaced_configuration_files_are_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from brainlab.config import search_path
    from brainlab.run.environment import environment

    monkeypatch.setattr(search_path, "_current", search_path.SearchPath())
    (tmp_path / "experiment").mkdir()
    mine = tmp_path / "experiment" / "eeg_pretrain.yaml"
    mine.write_text("# @package _global_\n")
    search_path.use(search_path.find([str(tmp_path)], {}, tmp_path))
    replaced = environment(RunDirectory(tmp_path / "run"))["config_replaced"]
    assert [entry["file"] for entry in replaced] == [str(mine)]
    assert replaced[0]["replaces"].endswith("conf/experiment/eeg_pretrain.yaml")
