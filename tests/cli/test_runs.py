"""What starts, where it writes, and how it ends."""

from __future__ import annotations

import csv
import re

from omegaconf import OmegaConf


def runs(workplace, experiment="mine"):
    return sorted((workplace.cwd / "outputs" / experiment).glob("*"))


def test_a_run_gets_a_folder_of_its_own_and_ends_with_0(workplace):
    ended = workplace.run("seed=3")

    assert ended.code == 0, ended.err
    (folder,) = runs(workplace)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-[0-9a-f]{6}", folder.name)
    assert OmegaConf.load(folder / "resolved.yaml").seed == 3
    assert OmegaConf.load(folder / ".hydra" / "hydra.yaml").hydra.job.name == "brainlab"


def test_a_failing_run_ends_with_1_and_says_where_the_traceback_is(workplace):
    ended = workplace.run("job.fails_at=0.001")

    assert ended.code == 1
    (folder,) = runs(workplace)
    shown = ended.out + ended.err
    assert "asked to fail" in shown
    assert str(folder / "stderr.txt") in shown
    assert "Traceback" not in shown
    assert "asked to fail" in (folder / "stderr.txt").read_text()


def test_an_interrupted_run_ends_with_130(workplace):
    parts = workplace.root / "lab" / "minilab" / "parts.py"
    parts.write_text(
        parts.read_text()
        .replace("ValueError('asked to fail')", "KeyboardInterrupt")
        .replace('ValueError("asked to fail")', "KeyboardInterrupt")
    )

    assert workplace.run("job.fails_at=0.001").code == 130


def test_checking_writes_nothing_and_names_what_may_be_built(brainlab, workplace):
    ended = brainlab("validate=true")

    assert ended.code == 0
    assert "OK" in ended.out
    assert "minilab" in ended.out
    assert workplace.written() == []


def test_a_dry_sweep_lists_its_jobs_and_writes_nothing(brainlab, workplace):
    ended = brainlab("-m", "dry=true", "model.lr=1,2", "seed=0,1")

    assert ended.code == 0
    assert "4 jobs" in ended.out
    assert "model.lr=2 seed=1" in ended.out
    assert workplace.written() == []


def test_a_full_check_imports_every_target(brainlab, workplace):
    parts = workplace.root / "lab" / "minilab" / "broken.py"
    parts.write_text("import no_such_package\n\n\nclass Model:\n    def __init__(self, lr): ...\n")

    assert brainlab("validate=true", "model._target_=minilab.broken.Model").code == 0
    ended = brainlab("validate=full", "model._target_=minilab.broken.Model")

    assert ended.code == 2
    assert "model._target_" in ended.err
    assert "no_such_package" in ended.err


def test_a_failed_job_stops_no_other_and_the_sweep_ends_with_1(workplace):
    ended = workplace.run("-m", "model.lr=1,2,3", "job.fails_at=2")

    assert ended.code == 1
    (folder,) = (workplace.cwd / "multirun" / "mine").glob("*")
    with (folder / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["num"], row["state"], row["model.lr"]) for row in rows] == [
        ("0", "COMPLETED", "1"), ("1", "FAILED", "2"), ("2", "COMPLETED", "3"),
    ]  # fmt: skip
    assert [row["val/loss"] for row in rows] == ["1.0", "", "3.0"]
    assert "2 completed, 1 failed, 0 lost" in ended.out
    assert str(folder / "1") in ended.out


def test_a_sweep_whose_jobs_complete_ends_with_0(workplace):
    ended = workplace.run("-m", "model.lr=1,2")

    assert ended.code == 0, ended.err
    assert "2 completed, 0 failed, 0 lost" in ended.out


def test_a_sweep_gives_up_after_so_many_failures(workplace):
    ended = workplace.run("-m", "job.fails_at=0.001", "seed=0,1,2", "sweep.max_failures=1")

    assert ended.code == 1
    assert "2 cancelled" in ended.out


def test_sweeping_seeds_needs_no_values(brainlab):
    ended = brainlab("sweep=seeds", "dry=true")

    assert ended.code == 0
    assert "5 jobs" in ended.out


def test_the_debug_trainer_wins_over_what_the_experiment_writes(brainlab):
    ended = brainlab("trainer=debug", "--cfg", "job")

    cfg = OmegaConf.create(ended.out)
    assert (cfg.trainer.max_epochs, cfg.trainer.limit_train_batches) == (1, 2)
    assert (cfg.trainer.accelerator, cfg.data.size) == ("cpu", "tiny")


def test_the_command_line_wins_over_the_debug_trainer(brainlab):
    cfg = OmegaConf.create(brainlab("trainer=debug", "trainer.max_epochs=7", "--cfg", "job").out)

    assert cfg.trainer.max_epochs == 7


def test_the_debug_trainer_works_in_a_sweep_and_without_an_experiment(brainlab):
    swept = brainlab("-m", "trainer=debug,cpu", "dry=true")
    bare = brainlab(
        "experiment=none", "data=tiny", "model=line", "job=score", "trainer=debug", "validate=true",
        "security.allowed_targets=[brainlab,minilab,lightning.pytorch.Trainer]",
    )  # fmt: skip

    assert swept.code == 0, swept.err
    assert bare.code == 0, bare.err


def test_a_launcher_chosen_inside_a_swept_experiment_is_refused(brainlab, workplace):
    other = workplace.root / "mine" / "experiment" / "other.yaml"
    other.write_text("# @package _global_\ndefaults:\n  - mine\n  - override /hydra/launcher: submitit_local\n")

    ended = brainlab("-m", "experiment=mine,other", "dry=true")

    assert ended.code == 2
    assert "hydra/launcher" in ended.err
