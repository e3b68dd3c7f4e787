"""The typed part of the configuration, and the packaged files."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
from omegaconf import OmegaConf

from brainlab.config.compose import Composer, forget
from brainlab.config.resolved import resolved_yaml
from brainlab.config.schema import TrainerConf, register
from brainlab.config.search_path import conf_dir
from brainlab.config.validate import validate

EXPERIMENTS = sorted(file.stem for file in (conf_dir() / "experiment").glob("*.yaml") if file.stem != "none")


@pytest.fixture
def composer():
    register()
    yield Composer()
    forget()


def test_the_trainer_has_lightnings_keys_and_defaults():
    from lightning.pytorch import Trainer

    real = inspect.signature(Trainer.__init__).parameters
    for field in dataclasses.fields(TrainerConf):
        if field.name != "_target_":
            assert field.name in real
            assert field.default == real[field.name].default


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("trainer", ["default", "debug"])
def test_every_experiment_composes_and_passes_every_check(experiment, trainer, composer):
    words = [f"experiment={experiment}", f"trainer={trainer}"]
    cfg = composer.compose(words)

    validate(cfg, composer.origins(words))

    assert cfg.experiment_name == experiment
    if trainer == "debug":
        assert (cfg.trainer.max_epochs, cfg.data.size) == (1, "tiny")


def test_the_default_is_the_first_experiment(composer):
    assert resolved_yaml(composer.compose([])) == resolved_yaml(composer.compose(["experiment=eeg_fmri_align"]))


def test_resolved_text_composes_to_itself(composer):
    text = resolved_yaml(composer.compose([]))

    assert resolved_yaml(OmegaConf.create(text)) == text
    assert "${" not in text


def test_no_packaged_file_uses_another_suffix():
    assert not list(conf_dir().rglob("*.yml"))
    assert (conf_dir() / "config.yaml").read_text().startswith("# brainlab-config: 1\n")
