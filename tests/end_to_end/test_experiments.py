"""Every packaged experiment composes, validates and runs from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from brainlab.config.search_path import conf_dir

EXPERIMENTS = sorted(path.stem for path in (Path(conf_dir()) / "experiment").glob("*.yaml"))
PARTS = {  # the bare configuration wants its parts named, and what judges a checkpoint wants one
    "none": ["data=eeg_patches", "model=masked_cbramod"],
    "meg_evaluate": [f"checkpoint={__file__}"],
}
ELSEWHERE = {"meg_evaluate", "meg_gpt_full", "meg_prepare"}  # they train nothing, or too much for a test
TRAINED = [name for name in EXPERIMENTS if name not in ELSEWHERE]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiment_validates_without_writing_anything(brainlab, experiment):
    ended = brainlab(f"experiment={experiment}", *PARTS.get(experiment, []), "validate=true")
    assert ended.code == 0, ended.text
    assert list(ended.folder.iterdir()) == []


@pytest.mark.parametrize("experiment", TRAINED)
def test_experiment_runs_in_debug_mode_and_reports(brainlab, experiment):
    ended = brainlab(f"experiment={experiment}", *PARTS.get(experiment, []), "trainer=debug", "logger=csv")
    assert ended.code == 0, ended.text
    run = ended.run_folder(experiment)
    results = json.loads((run / "results.json").read_text())
    assert results["state"] == "COMPLETED"
    assert results["data_source"] == "synthetic"
    assert "SIMULATED" in ended.text
    assert json.loads((run / "status.json").read_text())["exit"] == 0
    for name in ("report.html", "resolved.yaml", "fingerprint.txt", "env.json", "cmd.txt"):
        assert (run / name).stat().st_size > 0, name
    # A chain's stages have the checkpoints that a killed run goes on from; the chain itself offers the best one.
    chained = results.get("stages")
    assert (run / "checkpoints" / ("best.ckpt" if chained else "last.ckpt")).stat().st_size > 0
    if experiment != "none":
        headline = results["metrics"][results["headline"]]
        assert headline["low"] <= headline["value"] <= headline["high"]
        assert results["figures"], "an experiment shows figures"


def test_plain_command_is_the_headline_experiment(brainlab):
    """Both spellings are one configuration, so they have one fingerprint."""
    plain = brainlab("--cfg", "job", "--resolve", "paths.root=here")
    named = brainlab("experiment=eeg_fmri_align", "--cfg", "job", "--resolve", "paths.root=here")
    assert plain.code == named.code == 0
    assert plain.text == named.text


def test_preparing_alone_says_what_became_of_every_session(brainlab):
    ended = brainlab("experiment=meg_prepare", "data.size=tiny", "logger=none")
    assert ended.code == 0, ended.text
    results = json.loads((ended.run_folder("meg_prepare") / "results.json").read_text())
    fates = json.dumps(results["data"])
    assert "prepared" in fates
    assert "discarded" in fates, "the simulated archive has sessions that must be left out"


def test_a_finished_forecaster_is_judged_again_under_another_protocol(brainlab):
    trained = brainlab("experiment=meg_var", "trainer=debug", "logger=none")
    assert trained.code == 0, trained.text
    run = trained.run_folder("meg_var")
    ended = brainlab("experiment=meg_evaluate", f"checkpoint={run}", "logger=none", "evaluation.total_s=15")
    assert ended.code == 0, ended.text
    results = json.loads((ended.run_folder("meg_evaluate") / "results.json").read_text())
    assert results["data_source"] == "synthetic"
    assert "psd_distance" in results["metrics"]
    again = brainlab(
        "job=evaluate", f"checkpoint={run}", "logger=none", "evaluation.prefixes_s=[1]", "hydra.run.dir=re"
    )
    assert again.code == 0, again.text
    assert "rollouts of the model took" not in again.text
    results = json.loads((again.folder / "re" / "results.json").read_text())
    first = json.loads((run / "results.json").read_text())
    assert results["details"]["prefixes_s"][0] == 1.0
    assert results["details"]["generation"]["model"] == first["details"]["generation"]["model"]
    assert results["metrics"]["psd_distance"]["value"] == first["metrics"]["psd_distance"]["value"]


def test_the_published_size_is_counted_without_being_built(brainlab):
    ended = brainlab("experiment=meg_gpt_full", "job=size", "logger=none")
    assert ended.code == 0, ended.text
    assert "24,576 tokens" in ended.text
    run = ended.run_folder("meg_gpt_full")
    assert json.loads((run / "results.json").read_text())["tables"]


def test_a_sweep_over_the_last_stage_trains_the_tokenizer_once(brainlab):
    ended = brainlab("-m", "experiment=meg_gpt", "trainer=debug", "logger=none", "model.lr=1.1e-3,2.2e-3")
    assert ended.code == 0, ended.text
    results = [json.loads(path.read_text()) for path in sorted(ended.folder.glob("multirun/*/*/*/results.json"))]
    assert len(results) == 2
    assert results[1]["stages"]["tokenizer"]["reused"] is True
    assert [result["stages"]["gpt"]["reused"] for result in results] == [False, False]
    assert len({result["stages"]["tokenizer"]["folder"] for result in results}) == 1
