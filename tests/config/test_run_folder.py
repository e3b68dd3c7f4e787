"""Two runs never share a folder."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from omegaconf import OmegaConf

from brainlab.config.run_folder import claim


@pytest.fixture
def config(tmp_path):
    names = iter(["a", "a", "b", "c"])
    OmegaConf.register_new_resolver("test.name", lambda: next(names), use_cache=True, replace=True)

    def make(overrides=()):
        return OmegaConf.create({
            "hydra": {"run": {"dir": f"{tmp_path}/${{test.name:}}"}, "overrides": {"hydra": list(overrides)}}
        })  # fmt: skip

    return make


def test_a_taken_name_gives_way_to_the_next(config, tmp_path):
    first, second = claim(config(), "hydra.run.dir"), claim(config(), "hydra.run.dir")

    assert (first.name, second.name) == ("a", "b")


def test_the_configuration_keeps_the_name_that_was_claimed(config):
    (_, cfg) = (claim(config(), "hydra.run.dir"), config())

    assert str(claim(cfg, "hydra.run.dir")) == cfg.hydra.run.dir


def test_a_folder_named_by_the_user_may_exist(tmp_path):
    cfg = OmegaConf.create(
        {"hydra": {"run": {"dir": str(tmp_path)}, "overrides": {"hydra": [f"hydra.run.dir={tmp_path}"]}}}
    )

    assert claim(cfg, "hydra.run.dir") == tmp_path


def test_many_claims_at_once_give_many_folders(tmp_path):
    import random

    generator = random.Random(0)
    OmegaConf.register_new_resolver("test.die", lambda: generator.randint(0, 9), use_cache=True, replace=True)

    def one(_):
        cfg = OmegaConf.create({"hydra": {"run": {"dir": f"{tmp_path}/${{test.die:}}"}, "overrides": {"hydra": []}}})
        return claim(cfg, "hydra.run.dir")

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(one, range(5)))
    assert len(set(found)) == 5
