"""Frozen jobs: complete, unchangeable from outside, and read back only where nobody else can write."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from brainlab.config import schema, search_path
from brainlab.config.compose import Composer
from brainlab.errors import InvalidFile
from brainlab.run.sweep import frozen as freezing
from brainlab.run.sweep.frozen import check_private, freeze, frozen_path, outcome_path, private_folder, thaw
from brainlab.run.sweep.jobs import SweepJob


def job_function(cfg):
    """Stands for the command line's entry."""
    return cfg.seed


@pytest.fixture
def job(tmp_path: Path) -> SweepJob:
    schema.register()
    config = Composer().compose(["seed=7", f"hydra.sweep.dir={tmp_path}"], multirun=True)
    return SweepJob(3, ("seed=7",), config)


def test_a_job_thaws_as_it_was_frozen_with_types_and_interpolations(job: SweepJob, tmp_path: Path) -> None:
    token = freeze([job], tmp_path, job_function)
    thawed = thaw(tmp_path, 3)
    assert (thawed.number, thawed.submission, thawed.config.seed) == (3, token, 7)
    assert OmegaConf.get_type(thawed.config.hydra).__name__ == "HydraConf"
    assert OmegaConf.get_type(thawed.config.hydra.job).__name__ == "JobConf"
    assert OmegaConf.to_yaml(thawed.config) == OmegaConf.to_yaml(job.config)
    assert thawed.config.paths.root == job.config.paths.root  # resolved anew, to the same
    assert thawed.function()(thawed.config) == 7
    assert (thawed.cwd, thawed.command) == (os.getcwd(), tuple(sys.argv))


def test_a_job_thaws_in_another_process(job: SweepJob, tmp_path: Path) -> None:
    freeze([job], tmp_path, job_function)
    code = "import sys; from brainlab.run.sweep.frozen import thaw; print(thaw(sys.argv[1], 3).config.seed)"
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "7", done.stderr


def test_yaml_edited_after_the_submission_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine" / "experiment" / "edited.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("# @package _global_\nexperiment_name: edited\nseed: 1\n")
    schema.register()
    monkeypatch.setattr(search_path, "_current", search_path.find([str(tmp_path / "mine")], {}, tmp_path))
    config = Composer().compose(["experiment=edited"], multirun=True)
    freeze([SweepJob(0, (), config)], tmp_path / "sweep", job_function)
    mine.write_text("# @package _global_\nexperiment_name: edited\nseed: 2\n")
    assert thaw(tmp_path / "sweep", 0).config.seed == 1


def test_what_an_earlier_submission_left_is_forgotten(job: SweepJob, tmp_path: Path) -> None:
    first = freeze([job], tmp_path, job_function)
    outcome_path(tmp_path, 3).write_text("{}")
    outcome_path(tmp_path, 4).write_text("{}")
    assert freeze([job], tmp_path, job_function) != first
    assert not outcome_path(tmp_path, 3).exists()
    assert outcome_path(tmp_path, 4).exists()  # a sibling that is not submitted again


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_nobody_else_can_look_at_frozen_jobs_whatever_the_umask(job: SweepJob, tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        freeze([job], tmp_path, job_function)
        assert thaw(tmp_path, 3).number == 3
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / ".jobs").stat().st_mode) == 0o700


def test_a_folder_that_was_open_is_closed_before_anything_is_put_into_it(tmp_path: Path) -> None:
    folder = tmp_path / ".jobs"
    folder.mkdir(mode=0o755)
    private_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_jobs_in_a_folder_that_others_may_write_are_not_read(job: SweepJob, tmp_path: Path) -> None:
    freeze([job], tmp_path, job_function)
    (tmp_path / ".jobs").chmod(0o770)
    with pytest.raises(InvalidFile, match="mode 0700, not 0770"):
        thaw(tmp_path, 3)


@pytest.mark.parametrize("what", ["folder", "file"])
def test_jobs_of_somebody_else_are_not_read(
    job: SweepJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    freeze([job], tmp_path, job_function)
    if what == "folder":
        monkeypatch.setattr(freezing.os, "geteuid", lambda: 4321)
    elif os.geteuid() == 0:
        os.chown(frozen_path(tmp_path, 3), 4321, -1)
    else:
        pytest.skip("only root can give a file away")
    with pytest.raises(InvalidFile, match="owned by user"):
        thaw(tmp_path, 3)


def test_what_a_planted_link_points_to_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "public").mkdir()
    (tmp_path / "public").chmod(0o755)
    (tmp_path / ".jobs").symlink_to(tmp_path / "public")
    with pytest.raises(InvalidFile, match="not a link"):
        private_folder(tmp_path / ".jobs")
    assert stat.S_IMODE((tmp_path / "public").stat().st_mode) == 0o755


def test_links_are_not_followed(job: SweepJob, tmp_path: Path) -> None:
    freeze([job], tmp_path / "real", job_function)
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / ".jobs").symlink_to(tmp_path / "real" / ".jobs")
    with pytest.raises(InvalidFile, match="not a link"):
        thaw(tmp_path / "sweep", 3)
    with pytest.raises(InvalidFile, match="not a link"):
        private_folder(tmp_path / "sweep" / ".jobs")
    frozen_path(tmp_path / "real", 4).symlink_to(frozen_path(tmp_path / "real", 3))
    with pytest.raises(InvalidFile, match="not a link"):
        thaw(tmp_path / "real", 4)


@pytest.mark.parametrize("content", [b"", b"\x80\x04nonsense", b"\x80\x04N."], ids=["empty", "broken", "none"])
def test_a_file_that_is_no_frozen_job_is_named(tmp_path: Path, content: bytes) -> None:
    private_folder(tmp_path / ".jobs")
    frozen_path(tmp_path, 0).write_bytes(content)
    with pytest.raises(InvalidFile, match=r"0\.pkl: expected a frozen job"):
        thaw(tmp_path, 0)


def test_a_missing_job_is_named(tmp_path: Path) -> None:
    private_folder(tmp_path / ".jobs")
    with pytest.raises(InvalidFile, match=r"9\.pkl: expected a file of this sweep \(No such file"):
        thaw(tmp_path, 9)
    with pytest.raises(InvalidFile, match="No such file"):
        check_private(tmp_path / "nothing")
