"""Every mistake on the command line: exit code 2, one sentence that names key and way out, nothing written."""

from __future__ import annotations

import pytest

# words, and what the message must contain
MISTAKES = {
    "a mistyped key": (
        ["model.lrr=1"],
        ["model.lrr=1", "unknown key", "mine/model/line.yaml", "did you mean model.lr?"],
    ),
    "a mistyped key that is added": (["+model.lrr=1"], ["model.lrr", "unknown key", "did you mean model.lr?"]),
    "an added key in a typed node": (
        ["+trainer.max_stepz=1"],
        ["trainer.max_stepz", "did you mean trainer.max_steps?"],
    ),
    "an added key at the top": (["+sed=1"], ["sed=1", "unknown key", "did you mean seed?"]),
    "a key of the target that no file sets": (["model.width=4"], ["model.width", "write +model.width=4"]),
    "a mistyped group": (["modell=line"], ["modell", "did you mean model?", "Groups:", "trainer"]),
    "a mistyped experiment": (
        ["experiment=minee"],
        ["experiment=minee", "did you mean mine?", "eeg_fmri_align", "none"],
    ),
    "no experiment by null": (["experiment=null"], ["use experiment=none"]),
    "an added experiment": (["+experiment=mine"], ["drop the '+'"]),
    "an added value that is there": (["+model.lr=1"], ["model.lr=1", "drop the '+': model.lr=1"]),
    "an empty value": (["model.lr="], ["model.lr=", "expected a value", "model.lr=''", "null"]),
    "a comma too many": (["-m", "model.lr=1e-4,"], ["empty value after the last comma in 'model.lr=1e-4,'"]),
    "several values without -m": (
        ["model.lr=1,2"],
        ["model.lr", "several values need -m", "brainlab -m", "model.lr=1,2"],
    ),
    "a mistyped key of Hydra": (["hydra.run.dri=x"], ["hydra.run.dri", "did you mean hydra.run.dir?"]),
    "an added key of Hydra": (["+hydra.run.dri=x"], ["hydra.run.dri", "did you mean hydra.run.dir?"]),
    "a value of the wrong type": (["trainer.max_epochs=abc"], ["trainer.max_epochs=abc", "expected a whole number"]),
    "a swept value of the wrong type": (
        ["-m", "trainer.max_epochs=1,abc", "hydra/launcher=submitit_slurm"],
        ["trainer.max_epochs=abc", "expected a whole number"],
    ),
    "a swept value with Hydra's own sweeper": (
        ["-m", "hydra/sweeper=basic", "model.lr=1,abc"],
        ["model.lr=abc", "expected a number"],
    ),
    "a swept key that is added": (["-m", "+model.lrr=1,2"], ["model.lrr", "did you mean model.lr?"]),
    "a word without a value": (["debug"], ["debug", "expected key=value"]),
    "a module that is not installed": (
        ["model._target_=torchh.nn.Linear"],
        ["model._target_", "torchh.nn.Linear", "No module named 'torchh'", "did you mean torch.nn.Linear?"],
    ),
    "a name that its module lacks": (["model._target_=minilab.parts.Modell"], ["did you mean minilab.parts.Model?"]),
    "a parameter that is missing": (["~model.lr"], ["model.lr", "missing", "minilab.parts.Model"]),
    "a value left open": (["model.lr=???"], ["model.lr", "missing value"]),
    "an interpolation to nowhere": (["model.lr=${nowhere}"], ["model.lr", "cannot be resolved", "nowhere"]),
    "a folder that is missing": (["data.root=/no/such/folder"], ["data.root=/no/such/folder", "existing folder"]),
    "an extra that is not installed": (["hydra/sweeper=optuna"], ["brainlab[optuna]"]),
    "a launcher without -m": (
        ["hydra/launcher=submitit_slurm"],
        ["works only with -m", "brainlab -m", "hydra/launcher=submitit_slurm"],
    ),
    "a cluster where there is none": (["-m", "hydra/launcher=submitit_slurm"], ["sbatch"]),
    "a run that does not exist": (["rerun=/no/such/run"], ["rerun=/no/such/run", "expected a run directory"]),
    "a mistyped resume": (["resume=atuo"], ["resume=atuo", "auto, never or a run directory"]),
    "a direction that is none": (["monitor.mode=smallest"], ["monitor.mode", "min or max"]),
    "a sweep that nobody waits for": (["-m", "wait=false"], ["wait=false", "needs hydra/launcher=submitit_slurm"]),
    "a run that nobody waits for": (["wait=false"], ["wait=false", "needs hydra/launcher=submitit_slurm"]),
    "a submission that nobody waits for": (
        ["-m", "wait=false", "hydra/launcher=submitit_slurm"],
        ["hydra/launcher=submitit_slurm", "there is no sbatch on the PATH"],
    ),
    "processes that nobody starts": (
        ["-m", "hydra/launcher=submitit_slurm", "trainer.devices=2"],
        ["trainer.devices=2", "expected hydra.launcher.tasks_per_node=1", "hydra.launcher.tasks_per_node=2"],
    ),
    "nodes that were not asked for": (
        ["-m", "hydra/launcher=submitit_slurm", "trainer.num_nodes=1,2"],
        ["trainer.num_nodes=2", "expected hydra.launcher.nodes=1"],
    ),
    "more devices than GPUs": (
        ["-m", "hydra/launcher=submitit_slurm", "trainer.accelerator=gpu", "hydra.launcher.gpus_per_node=0"],
        ["trainer.devices=1", "expected at most hydra.launcher.gpus_per_node=0"],
    ),
    "processes that would start the sweep again": (
        ["-m", "trainer.strategy=ddp", "model.lr=1,2"],
        ["trainer.strategy=ddp", "cannot be swept locally"],
    ),
    "several processes of a local job": (
        ["-m", "hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=2"],
        ["hydra.launcher.tasks_per_node=2", "expected 1"],
    ),
    "no processes for local jobs": (
        ["-m", "hydra/launcher=submitit_local", "hydra.launcher.parallelism=-3"],
        ["hydra.launcher.parallelism=-3", "expected a positive number"],
    ),
    "not one process for local jobs": (
        ["-m", "hydra/launcher=submitit_local", "hydra.launcher.parallelism=0"],
        ["hydra.launcher.parallelism=0", "expected a positive number"],
    ),
    "a folder that SLURM reads as a pattern": (
        ["-m", "hydra/launcher=submitit_slurm", "hydra.sweep.dir=some/50%j"],
        ["hydra.sweep.dir=", "50%j", "without %"],
    ),
    "a place that SLURM reads as a pattern": (
        ["-m", "hydra/launcher=submitit_slurm", "paths.root=some/50%"],
        ["paths.root=", "50%", "without %"],
    ),
    "a warning after the end": (
        ["-m", "hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=1"],
        ["hydra.launcher.signal_delay_s=120", "less than hydra.launcher.timeout_min"],
    ),
    "logs elsewhere": (
        ["-m", "hydra/launcher=submitit_slurm", "hydra.launcher.submitit_folder=/tmp/logs"],
        ["hydra.launcher.submitit_folder=/tmp/logs", "hydra.sweep.dir"],
    ),
    "a mistyped key of a launcher": (
        ["-m", "hydra/launcher=submitit_slurm", "hydra.launcher.partitoin=gpu"],
        ["hydra.launcher.partitoin", "did you mean hydra.launcher.partition?"],
    ),
    "an evaluation of nothing": (["job=evaluate"], ["job.checkpoint=null", "expected a checkpoint"]),
    "a chain of nothing": (["job=chain"], ["job.stages", "at least one stage"]),
    "a swept chain of nothing": (["-m", "job=chain", "seed=1,2"], ["job.stages", "at least one stage"]),
    "a stage that cannot be composed": (
        ["validate=true", "job=chain", "+job.stages.a=['experiment=nope']"],
        ["job.stages.a", "experiment=nope"],
    ),
    "a reference to no stage": (
        ["validate=true", "job=chain", "+job.stages.a=['experiment=mine','weights.encoder=${stage:b.checkpoint}']"],
        ["job.stages.a", "b.checkpoint"],
    ),
    "stages whose words are not quoted": (
        ["job=chain", "job.stages={a: [seed=1]}"],
        ["job.stages", "+job.stages.a=['"],
    ),
    "a value outside its alias": (
        ["validate=true", "model=line", "data=things_nsd", "data.split=nsdonsense"],
        ["data.split=nsdonsense", "concept, image, subject or sklearn"],
    ),
    "no data": (["experiment=none"], ["=???", "choose one"]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_ends_with_one_helpful_sentence(case, brainlab, workplace, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    words, expected = MISTAKES[case]

    ended = brainlab(*words)

    assert ended.code == 2
    for text in expected:
        assert text in ended.err
    assert ended.err.startswith("Invalid ")
    assert len(ended.err.strip().splitlines()) == 1
    assert workplace.written() == []


def test_a_tokenizer_of_an_earlier_stage_is_refused_where_there_is_none(brainlab):
    ended = brainlab("experiment=meg_wavenet", "tokenizer=braintokmix", "validate=true", mine=False)
    assert ended.code == 2
    for text in ("data.tokenizer.checkpoint=", "no earlier stage", "tokenizer=mu_law", "tokenizer=file", "meg_gpt"):
        assert text in ended.err
    assert brainlab("experiment=meg_gpt", "validate=true", mine=False).code == 0


@pytest.mark.parametrize("experiment", ["meg_gpt", "meg_wavenet"])
def test_a_tokenizer_that_is_not_there_is_found_before_anything_is_prepared(experiment, brainlab, workplace):
    words = [f"experiment={experiment}", "tokenizer=file", "data.tokenizer.checkpoint=nope.ckpt"]
    ended = brainlab(*words, "validate=true", mine=False)
    assert ended.code == 2
    assert "data.tokenizer.checkpoint=nope.ckpt: expected an existing file" in ended.err
    (workplace.cwd / "nope.ckpt").touch()
    assert brainlab(*words, "validate=true", mine=False).code == 0


@pytest.mark.parametrize("parent", ["a file", "/proc"])  # as root only making the folder shows that /proc takes none
@pytest.mark.parametrize("words", [["hydra.run.dir"], ["paths.root"], ["-m", "hydra.sweep.dir"], ["-m", "paths.root"]])
def test_a_folder_that_cannot_be_made_names_its_key(parent, words, brainlab, workplace):
    if parent == "a file":
        parent = str(workplace.root / "lab" / "minilab" / "parts.py")
    *flags, key = words

    ended = brainlab(*flags, f"{key}={parent}/x")

    assert ended.code == 2
    assert f"Invalid {key}={parent}/x: expected a folder that can be written" in ended.err
    assert workplace.written() == []


def test_an_error_in_a_file_names_its_line(brainlab, workplace):
    file = workplace.root / "mine" / "experiment" / "mine.yaml"
    file.write_text(file.read_text() + "model:\n  lrr: 3\n")
    line = file.read_text().splitlines().index("  lrr: 3") + 1

    ended = brainlab()

    assert ended.code == 2
    assert f"mine/experiment/mine.yaml:{line}" in ended.err
    assert "did you mean model.lr?" in ended.err


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        ("modle:\n  lr: 3\n", ["modle", "unknown key", "did you mean model?"]),
        ("trainer:\n  max_epochs: many\n", ["trainer.max_epochs", "expected a whole number"]),
        ("trainer: [\n", ["expected YAML"]),
    ],
)
def test_an_error_of_the_schema_names_the_file(added, expected, brainlab, workplace):
    file = workplace.root / "mine" / "experiment" / "other.yaml"
    file.write_text("# @package _global_\ndefaults:\n  - mine\n" + added)

    ended = brainlab("experiment=other")

    assert ended.code == 2
    assert "mine/experiment/other.yaml" in ended.err
    for text in expected:
        assert text in ended.err


def test_a_missing_option_in_a_file_lists_what_there_is(brainlab, workplace):
    file = workplace.root / "mine" / "experiment" / "mine.yaml"
    file.write_text(file.read_text().replace("override /model: line", "override /model: lin"))

    ended = brainlab()

    assert ended.code == 2
    assert "did you mean line?" in ended.err


def test_with_debug_the_traceback_is_shown(brainlab, monkeypatch):
    monkeypatch.setenv("BRAINLAB_DEBUG", "1")
    assert "Traceback" in brainlab("model.lrr=1").err
