"""Nothing outside the allow-list is imported or called, wherever a configuration hides it."""

from __future__ import annotations

import pytest


@pytest.fixture
def marker(workplace):
    """A package whose import leaves a file behind."""
    file = workplace.root / "executed"
    package = workplace.root / "lab" / "evil.py"
    package.write_text(f"open({str(file)!r}, 'w').close()\n\n\nclass Thing:\n    def __init__(self, **kwargs): ...\n")
    return file


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


def test_a_user_extends_the_list(brainlab, marker):
    words = ["model._target_=evil.Thing", "security.allowed_targets=[brainlab,minilab,evil,lightning.pytorch.Trainer]"]

    assert brainlab("validate=true", *words).code == 0
    assert not marker.exists()
