"""From nodes to objects."""

from __future__ import annotations

import functools
import sys

import pytest
from omegaconf import OmegaConf

from brainlab.config import signatures
from brainlab.config.build import build
from brainlab.config.schema import ALLOWED_TARGETS
from brainlab.config.signatures import find_definition
from brainlab.errors import ConfigError, InvalidValue


def node(text):
    return OmegaConf.create(text)


def test_nested_nodes_are_built_and_containers_arrive_plain():
    cfg = node({
        "width": 4,
        "model": {
            "_target_": "torch.nn.Sequential",
            "_args_": [{"_target_": "torch.nn.Linear", "in_features": "${width}", "out_features": 2}],
        },
        "plain": {"_target_": "torch.nn.Fold", "output_size": [4, 4], "kernel_size": [2, 2]},
    })  # fmt: skip

    assert build(cfg.model)[0].in_features == 4
    assert type(build(cfg.plain).output_size) is list


def test_a_partial_waits_for_the_rest():
    made = build(node({"_target_": "torch.nn.Linear", "_partial_": True, "out_features": 2}))

    assert isinstance(made, functools.partial)
    assert made(in_features=3).weight.shape == (2, 3)


def test_keywords_from_code_win_over_the_node():
    assert (
        build(node({"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 2}), in_features=5).in_features
        == 5
    )


def test_null_builds_nothing_and_lists_are_built_one_by_one():
    assert build(None) is None
    assert [type(each).__name__ for each in build(node([{"_target_": "torch.nn.ReLU"}]))] == ["ReLU"]


def test_a_target_that_refuses_its_arguments_names_the_key():
    with pytest.raises(InvalidValue, match=r"model\.head.*Linear.*bogus"):
        build(node({"model": {"head": {"_target_": "torch.nn.Linear", "bogus": 1}}}).model.head)


def test_a_constructor_that_refuses_an_argument_is_answered_with_the_key_of_it():
    cfg = node({"data": {"steps": {"held": {"_target_": "brainlab.prepare.steps.checks.HeldValues", "least_s": 0}}}})

    with pytest.raises(InvalidValue, match=r"^Invalid data\.steps\.held\.least_s=0: expected a positive number\.$"):
        build(cfg.data)


@pytest.mark.parametrize(
    "target", ["os.system", "brainlab.cli.os.system", "torch.nn.Module.forward", "hydra.utils.call", "torch.nn.Linearr"]
)
def test_a_foreign_target_is_refused(target):
    with pytest.raises(ConfigError) as refused:
        build(node({"a": {"_target_": target, "command": "false"}}).a)

    assert refused.value.code == 2
    assert "a._target_" in str(refused.value)


def test_the_list_of_the_configuration_counts():
    cfg = node({
        "security": {"allowed_targets": [*ALLOWED_TARGETS, "fractions.Fraction"]},
        "a": {"_target_": "fractions.Fraction", "numerator": 3},
    })  # fmt: skip

    assert build(cfg.a) == 3
    with pytest.raises(ConfigError):
        build(OmegaConf.to_container(cfg.a))


def test_a_name_that_changes_its_face_at_import_is_refused(tmp_path, monkeypatch):
    (tmp_path / "facade.py").write_text("class Thing: ...\nglobals()['Thing'] = __import__('os').system\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    cfg = node({"security": {"allowed_targets": ["facade"]}, "a": {"_target_": "facade.Thing"}})

    with pytest.raises(ConfigError):
        build(cfg.a)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ("brainlab.config.build.build", "never a target"),
        ("brainlab.run.environment._git", "private"),
        ("brainlab.io.atomic.write_atomically", "no class"),
    ],
)
def test_a_name_that_only_importing_reveals_is_refused(made, reason, tmp_path, monkeypatch):
    module, _, name = made.rpartition(".")
    (tmp_path / "hidden.py").write_text(
        f"import importlib\nThing = getattr(importlib.import_module('{module}'), '{name}')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "hidden", raising=False)
    find_definition.cache_clear()
    signatures._module_file.cache_clear()
    signatures._source.cache_clear()
    cfg = node({"security": {"allowed_targets": ["brainlab", "hidden"]}, "a": {"_target_": "hidden.Thing"}})

    with pytest.raises(ConfigError, match=reason):
        build(cfg.a)
