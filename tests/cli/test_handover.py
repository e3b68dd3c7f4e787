"""A sweep's jobs are composed once: those that were checked are those that run."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from brainlab.config import preflight
from brainlab.errors import ConfigError


def test_a_job_is_handed_over_once_and_with_the_sweeps_own_names():
    calls = []

    def named() -> str:
        calls.append(1)
        return f"name-{len(calls)}"

    OmegaConf.register_new_resolver("handover_name", named, use_cache=True, replace=True)
    node = {"mode": None, "overrides": {"hydra": []}, "job": {"name": "a"}}
    both = ({"folder": "${handover_name:}", "lr": lr, "hydra": node} for lr in (0.0, 1.0))
    master, job = (OmegaConf.create(each) for each in both)
    master.hydra.mode = "MULTIRUN"
    assert (master.folder, job.folder) == ("name-1", "name-2")
    preflight._checked[("lr=1",)] = job

    handed = preflight.handed_over(master, ["lr=1"])

    assert handed is job
    assert (handed.lr, handed.folder, handed.hydra.mode) == (1.0, "name-1", "MULTIRUN")
    assert preflight.handed_over(master, ["lr=1"]) is None


def test_a_sweeper_that_learns_from_results_must_wait_for_them():
    cfg = OmegaConf.create({"wait": False, "hydra": {"sweeper": {"_target_": "somewhere.OptunaSweeper"}}})

    with pytest.raises(ConfigError, match=r"Invalid wait=false: OptunaSweeper chooses jobs from the results"):
        preflight._waits_for_results(cfg)

    cfg.wait = True
    preflight._waits_for_results(cfg)
    cfg.wait, cfg.hydra.sweeper._target_ = False, "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
    preflight._waits_for_results(cfg)


COMPARE = """
import omegaconf
from hydra._internal.config_loader_impl import ConfigLoaderImpl as Loader
import brainlab.config.preflight as preflight

loaders, start, hand_over, load = [], Loader.__init__, preflight.handed_over, Loader.load_sweep_config
Loader.__init__ = lambda self, *words, **more: (loaders.append(self), start(self, *words, **more))[1]
Loader.load_sweep_config = lambda self, *words: (print("composed"), load(self, *words))[1]

def leaves(node, path=""):
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}")
    else:
        yield path, str(node)

def compared(master, words):
    ours = hand_over(master, words)
    ours_, its = (
        dict(leaves(omegaconf.OmegaConf.to_container(each))) for each in (ours, load(loaders[-1], master, list(words)))
    )
    print("differs:", sorted(key for key in ours_.keys() | its.keys() if ours_.get(key) != its.get(key)))
    return ours

preflight.handed_over = compared
from brainlab.cli import main
main()
"""
"""Runs the command line; says how each handed-over job differs from what Hydra would have composed for it."""


def test_each_job_is_composed_once_and_is_what_hydra_would_compose(workplace):
    ended = workplace.run("-m", "logger=none", "model.lr=1,2", "job.fails_at=2", code=COMPARE)

    assert ended.out.count("composed\n") == 2
    told = [line for line in ended.out.splitlines() if line.startswith("differs:")]
    assert told == ["differs: ['.hydra.job.id', '.hydra.job.num', '.hydra.runtime.output_dir']"] * 2  # set at its start
    assert ended.code == 1
    assert "1 completed, 1 failed, 0 lost" in ended.out
