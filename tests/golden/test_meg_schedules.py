"""Learning rates, decay groups and level temperatures against reference numbers."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest
import torch
from torch import nn

from brainlab.nn.sampling import Sampler, temperatures_of_levels
from brainlab.tasks.forecasting import Forecasting
from brainlab.tasks.optim import build_scheduler, decay_groups, warmup_then


@pytest.fixture(scope="module")
def reference(golden_dir):
    return json.loads((golden_dir / "meg" / "15_schedules.json").read_text())


def test_warmup_then_cosine_gives_the_reference_rates(reference):
    wanted = reference["lr_warmup5_cosine10_eta1e-5_base1e-3"]
    optimizer = torch.optim.AdamW(decay_groups(nn.Linear(2, 2), 1e-3, 0.1))
    cosine = build_scheduler(optimizer, "CosineAnnealingLR", {"T_max": 10, "eta_min": 1e-5})
    schedule = warmup_then(optimizer, 5, cosine)
    rates = []
    for _ in wanted:
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    np.testing.assert_allclose(rates, np.array(wanted)[:, None].repeat(2, axis=1), rtol=0, atol=1e-9)


def test_level_temperatures_are_those_of_the_reference(reference):
    for options, wanted in reference["temperature_curriculum_4levels"]:
        levels = "curriculum" if options.get("temperature_curriculum") else options.get("temperature_levels")
        temperature = options.get("temperature", 1.0)
        decay, minimum = options.get("temperature_decay", 0.85), options.get("temperature_min", 0.0)
        found = temperatures_of_levels(4, levels, temperature, decay, minimum)
        if wanted is None:
            assert found is None
            continue
        np.testing.assert_allclose(found, wanted, atol=1e-6)
        sampler = Sampler("roulette", 0.9, 50, temperature, levels, decay, minimum)
        np.testing.assert_allclose([sampler.temperature_of(level) for level in range(4)], wanted, atol=1e-6)


def test_decay_groups_are_those_of_the_reference(reference):
    parts = {
        "emb": nn.Embedding(5, 4),
        "lin": nn.Linear(4, 4),
        "norm": nn.LayerNorm(4),
        "q_norm": nn.Linear(4, 4, bias=False),
    }
    model = nn.ModuleDict(parts)
    names = {id(parameter): f"model.{name}" for name, parameter in model.named_parameters()}
    found = {group["name"]: {names[id(p)] for p in group["params"]} for group in decay_groups(model, 1e-3, 0.1)}
    # The reference decides by name and spares a Linear that is called q_norm; by its type it decays.
    moved = {"model.q_norm.weight"}
    assert found["decay"] == set(reference["decay_group"]) | moved
    assert found["no_decay"] == set(reference["no_decay_group"]) - moved


def test_betas_default_to_those_of_the_reference(reference):
    assert list(inspect.signature(Forecasting).parameters["betas"].default) == reference["betas"]
