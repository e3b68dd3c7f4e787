"""The headline experiment, killed in the middle of an epoch, ends as if it had been left alone."""

from __future__ import annotations

import sys
from pathlib import Path

import kill_resume
import pytest


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_headline_experiment_survives_a_kill_by_either_way_of_resuming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BRAINLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    words = [
        "experiment=eeg_fmri_align",
        "trainer=debug",
        "trainer.limit_train_batches=9",
        "trainer.max_epochs=2",
        "trainer.log_every_n_steps=1",
        "data.batch_size=4",
        "model.encoder.n_layer=2",
        "callbacks.last.every_n_steps=2",
        "logger=mlflow",
    ]
    options = [str(tmp_path / "runs"), "--kills", "2", "--resume", "both"]
    code = kill_resume.main([*options, "--", sys.executable, "-m", "brainlab", *words])
    text = capsys.readouterr().out
    assert code == 0, text
    assert "resumed in the middle of an epoch; everything equal" in text
