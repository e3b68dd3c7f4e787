"""Nothing outside the allow-list is imported or called, wherever a configuration hides it."""

from __future__ import annotations

import pytest

from brainlab.run.callbacks.last import STATE_KEY


@pytest.fixture
def marker(workplace):
    """A package whose import leaves a file behind."""
    file = workplace.root / "executed"
    package = workplace.root / "lab" / "evil.py"
    package.write_text(f"open({str(file)!r}, 'w').close()\n\n\nclass Thing:\n    def __init__(self, **kwargs): ...\n")
    return file


WIDER = "security.allowed_targets=[brainlab,minilab,torch,lightning.pytorch.Trainer]"
HIDDEN = {
    "a node": (["model._target_=os.system"], "model._target_"),
    "a node of another package": (["model._target_=evil.Thing"], "model._target_"),
    "a name reached through an import of ours": (
        ["+model.encoder={_target_:brainlab.cli.os.system}"],
        "model.encoder._target_",
    ),
    "a list": (["+model.encoder=[{_target_:evil.Thing}]"], "model.encoder[0]._target_"),
    "an interpolated value": (
        ["+model.encoder={_target_:'${tags[0]}'}", "tags=[evil.Thing]"],
        "model.encoder._target_",
    ),
    "a node below a node": (
        ["+model.encoder={_target_:torch.nn.Sequential,_args_:[{_target_:evil.Thing}]}"],
        "_args_[0]",
    ),
    "a callback of Hydra": (["+hydra.callbacks.x._target_=evil.Thing"], "hydra.callbacks.x._target_"),
    "a factory of logging": (["+hydra.job_logging.handlers.x={'()':evil.Thing}"], "hydra.job_logging.handlers.x"),
    "a class of logging": (
        ["hydra.job_logging.handlers.file.class=evil.Thing"],
        "hydra.job_logging.handlers.file.class",
    ),
    "a reference of logging": (["hydra.job_logging.handlers.console.stream=ext://evil.Thing"], "console.stream"),
    "the log of Hydra itself": (
        ["+hydra.hydra_logging.handlers.x={'()':evil.Thing}"],
        "hydra.hydra_logging.handlers.x",
    ),
    "a method": (["model._target_=torch.nn.Module.load_state_dict"], "method"),
    "a function of another package": (["model._target_=torch.nn.init.zeros_"], "function"),
    "what builds anything": (["model._target_=hydra.utils.get_method"], "never a target"),
    "our own build": (["model._target_=brainlab.config.build.build"], "never a target"),
    "our own build by another name": (["model._target_=brainlab.run.assemble.build"], "never a target"),
    "what unpickles": (["model._target_=torch.utils.data.datapipes.utils.decoder.Decoder"], "never a target"),
    "what unpickles, by its short name": (["model._target_=torch.utils.data.IterDataPipe", WIDER], "never a target"),
    "what trusts foreign code": (["model._target_=torchmetrics.multimodal.CLIPScore"], "never a target"),
    "what writes": (["model._target_=brainlab.io.atomic.write_atomically"], "function"),
    "what empties a file when it is built": (
        ["+data.steps.x={_target_: brainlab.io.store.StoreWriter, folder: victim}"],
        "a tool of brainlab.io that no configuration builds",
    ),
    "the same by another name": (
        ["+model.encoder={_target_: brainlab.data.sources.StoreWriter, folder: victim}"],
        "a tool of brainlab.io that no configuration builds",
    ),
    "a step that is none": (
        ["data=recordings", "+data.steps.x._target_=torch.nn.ReLU"],
        "expected a step of brainlab.prepare.steps",
    ),
    "what starts a process": (["model._target_=brainlab.run.environment._git"], "private (_git)"),
    "a private module": (["model._target_=torch.optim._adafactor.Adafactor", WIDER], "private (_adafactor)"),
    "a neighbour with a longer name": (["model._target_=torch.nnx.Linear"], "security.allowed_targets"),
}


MODES = {"run": [], "sweep": ["-m"], "check": ["validate=full"], "help": ["--hydra-help"]}
# Help builds what Hydra's own node names and nothing else.
CASES = [
    (case, mode)
    for case, (words, _) in HIDDEN.items()
    for mode in MODES
    if mode != "help" or words[0].lstrip("+").startswith("hydra.")
]


@pytest.mark.parametrize(("case", "mode"), CASES)
def test_a_foreign_target_is_refused_and_not_executed(case, mode, brainlab, workplace, marker):
    words, named = HIDDEN[case]

    ended = brainlab(*MODES[mode], *words)

    assert ended.code == 2
    assert named in ended.err
    assert not marker.exists()
    assert workplace.written() == []


def test_only_functions_that_compute_are_targets(brainlab):
    ended = brainlab("validate=full", "+model.encoder={_target_:brainlab.metrics.alignment.info_nce,_partial_:true}")

    assert ended.code == 0, ended.err


def test_positional_values_may_be_many_where_the_target_takes_any_number(brainlab):
    layers = ",".join(["{_target_:torch.nn.ReLU}"] * 3)

    ended = brainlab("validate=true", f"+model.encoder={{_target_:torch.nn.Sequential,_args_:[{layers}]}}")

    assert ended.code == 0, ended.err


def test_a_changed_list_is_announced_with_its_place(brainlab, workplace):
    assert "is not the default (" not in brainlab("validate=true", mine=False).err
    assert f"{workplace.root / 'mine/experiment/mine.yaml'}:8): brainlab, minilab" in brainlab("validate=true").err

    typed = brainlab("-m", "validate=true", "model.lr=1,2", "security.allowed_targets=[brainlab,minilab,lightning]")
    assert typed.code == 0
    assert typed.err.count("security.allowed_targets is not the default (command line)") == 1


@pytest.mark.parametrize("name", ["../up", "a/b", "/tmp/x", "..", "-x", "''"])
def test_a_name_that_becomes_a_folder_leads_nowhere_else(name, brainlab, workplace):
    named = brainlab(f"experiment_name={name}", "hydra.run.dir=there")
    stage = brainlab("job=chain", f"+job.stages={{{name}:{{experiment:mine}}}}")

    assert (named.code, stage.code) == (2, 2)
    assert "experiment_name" in named.err
    assert "job.stages" in stage.err
    assert workplace.written() == []


def test_what_a_checkpoint_wants_built_is_judged_like_a_file(workplace, marker):
    torch = pytest.importorskip("torch")
    wanted = (
        "data: {_target_: minilab.parts.Data}\nmodel: {_target_: minilab.parts.Model, lr: 1, encoder: {_target_: %s}}"
    )
    for target in ("evil.Thing", "brainlab.run.environment._git"):
        file = workplace.root / "hostile.ckpt"
        torch.save({STATE_KEY: {"config": wanted % target}, "state_dict": {}}, file)

        ended = workplace.run("job=evaluate", f"checkpoint={file}", "logger=none")

        assert ended.code == 2, ended.err
        assert f"model.encoder._target_={target}" in ended.err
        assert str(file) in ended.err
        assert not marker.exists()


def test_a_user_extends_the_list(brainlab, marker):
    words = ["model._target_=evil.Thing", "security.allowed_targets=[brainlab,minilab,evil,lightning.pytorch.Trainer]"]

    assert brainlab("validate=true", *words).code == 0
    assert not marker.exists()
