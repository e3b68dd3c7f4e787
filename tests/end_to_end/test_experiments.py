"""Every packaged experiment composes, validates and runs from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from brainlab.config.search_path import conf_dir

EXPERIMENTS = sorted(path.stem for path in (Path(conf_dir()) / "experiment").glob("*.yaml"))
PARTS = {"none": ["data=eeg_patches", "model=masked_cbramod"]}  # the bare configuration wants its parts named


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiment_validates_without_writing_anything(brainlab, experiment):
    ended = brainlab(f"experiment={experiment}", *PARTS.get(experiment, []), "validate=true")
    assert ended.code == 0, ended.text
    assert list(ended.folder.iterdir()) == []


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiment_runs_in_debug_mode_and_reports(brainlab, experiment):
    ended = brainlab(f"experiment={experiment}", *PARTS.get(experiment, []), "trainer=debug", "logger=csv")
    assert ended.code == 0, ended.text
    run = ended.run_folder(experiment)
    results = json.loads((run / "results.json").read_text())
    assert results["state"] == "COMPLETED"
    assert results["data_source"] == "synthetic"
    assert "SIMULATED" in ended.text
    assert json.loads((run / "status.json").read_text())["exit"] == 0
    for name in ("report.html", "resolved.yaml", "fingerprint.txt", "env.json", "cmd.txt", "checkpoints/last.ckpt"):
        assert (run / name).stat().st_size > 0, name
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
