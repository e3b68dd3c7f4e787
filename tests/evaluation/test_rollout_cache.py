"""Rollouts are drawn once for the same checkpoint, contexts and drawing, and again for any other."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from brainlab.errors import InvalidFile
from brainlab.evaluation.content import content_hash
from brainlab.evaluation.rollout_generation import RealSignals, continue_contexts, continue_once
from brainlab.io.cache import Cache
from brainlab.models.flat_gpt import FlatGPT
from brainlab.models.mu_law import MuLaw
from brainlab.nn.sampling import Sampler
from brainlab.tasks.forecasting import TokenForecaster

DRAWING = {"per_context": 2, "batch_size": 3, "seed": 0}


def forecaster(seed: int = 0, **settings: Any) -> TokenForecaster:
    """A small GPT over mu-law codes, built anew like one that is loaded from a checkpoint."""
    torch.manual_seed(seed)
    network = FlatGPT(
        n_sites=2, n_levels=1, vocab_size=16, width=16, n_layers=1, n_heads=2, n_kv_heads=1, **settings
    ).eval()
    return TokenForecaster(network, MuLaw(2, bits=4), max_context=12)


def real(n: int = 4, seed: int = 0, present: bool = True) -> RealSignals:
    signal = np.random.default_rng(seed).standard_normal((n, 2, 20)).astype(np.float32)
    return RealSignals(signal, np.full((n, 2), present), 12)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def kept(cache: Cache) -> int:
    return len(list(cache.root.glob("rollouts/[!.]*")))


def test_a_second_evaluation_takes_the_rollouts_of_the_first(
    cache: Cache, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh, _ = continue_contexts(forecaster(), real(), Sampler(), **DRAWING)
    first, facts = continue_once(cache, forecaster(), real(), Sampler(), **DRAWING)
    monkeypatch.setattr(TokenForecaster, "forecast", None)
    with caplog.at_level(logging.INFO):
        again, found = continue_once(cache, forecaster(), real(), Sampler(), **DRAWING)
    assert np.array_equal(first, fresh)
    assert np.array_equal(again, first)
    assert (again.dtype, found) == (np.float32, facts)
    assert [record.message.partition(",")[0] for record in caplog.records] == [
        "rollouts of the model are those drawn before"
    ]


def other_weights() -> TokenForecaster:
    made = forecaster()
    with torch.no_grad():
        next(made.network.parameters()).view(-1)[0] += 1e-6
    return made


def other_tokenizer() -> TokenForecaster:
    made = forecaster()
    made.tokenizer = MuLaw(2, bits=4, max_abs=4.0)
    return made


@pytest.mark.parametrize(
    "change",
    [
        {"forecaster": other_weights},
        {"forecaster": other_tokenizer},
        {"forecaster": lambda: forecaster(rope_theta=500.0)},
        {"forecaster": lambda: TokenForecaster(forecaster().network, MuLaw(2, bits=4), max_context=8)},
        {"real": lambda: real(seed=1)},
        {"real": lambda: real(n=3)},
        {"real": lambda: real(present=False)},
        {"sampler": lambda: Sampler(top_p=0.8)},
        {"sampler": lambda: Sampler(level_temperatures=[0.9])},
        {"drawing": {"seed": 1}},
        {"drawing": {"batch_size": 2}},
        {"drawing": {"per_context": 1}},
    ],
)
def test_whatever_changes_rollouts_draws_them_again(cache: Cache, change: dict[str, Any]) -> None:
    def draw(forecaster: Any = forecaster, real: Any = real, sampler: Any = Sampler, drawing: Any = None) -> None:
        continue_once(cache, forecaster(), real(), sampler(), **{**DRAWING, **(drawing or {})})

    draw()
    assert kept(cache) == 1
    draw(**change)
    assert kept(cache) == 2


def test_what_follows_the_contexts_is_no_part_of_them(cache: Cache) -> None:
    """Rollouts know nothing of the real continuation but its length."""
    other = real()
    other.signal[..., 12:] = 0.0
    for signals in (real(), other):
        continue_once(cache, forecaster(), signals, Sampler(), **DRAWING)
    assert kept(cache) == 1


def test_rollouts_of_code_that_cannot_be_named_are_drawn_each_time(cache: Cache) -> None:
    drawn = []

    def forecast(context: torch.Tensor, steps: int, sampler: Any, generator: Any = None) -> torch.Tensor:
        drawn.append(len(context))
        return torch.zeros(*context.shape[:2], steps)

    for _ in range(2):
        continue_once(cache, SimpleNamespace(forecast=forecast), real(), None, **DRAWING)
    assert sum(drawn) == 16
    assert not cache.root.exists()


def test_a_cache_that_cannot_be_written_costs_no_evaluation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").write_text("no folder")
    made, _ = continue_once(Cache(tmp_path / "cache"), forecaster(), real(), Sampler(), **DRAWING)
    assert np.array_equal(made, continue_contexts(forecaster(), real(), Sampler(), **DRAWING)[0])
    assert "not kept for another evaluation" in caplog.text


def test_damaged_rollouts_are_refused(cache: Cache) -> None:
    continue_once(cache, forecaster(), real(), Sampler(), **DRAWING)
    (file,) = cache.root.glob("rollouts/*/generated.npy")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InvalidFile, match="bytes, found"):
        continue_once(cache, forecaster(), real(), Sampler(), **DRAWING)


class Holder:
    def __init__(self, **facts: Any) -> None:
        self.__dict__.update(facts)


def test_content_is_told_apart_by_value_and_not_by_identity() -> None:
    told = [
        Holder(a=1), Holder(a=1.0), Holder(a=True), Holder(b=1), Holder(a=[1]), Holder(a={"1": 1}),
        Holder(a=np.float32(1)), Holder(a=np.float64(1)), Holder(a=torch.ones(1)), Holder(a=torch.ones(1, 1)),
        Holder(a=torch.ones(1, dtype=torch.bfloat16)), Holder(a=nn.ReLU()), Holder(a=nn.ReLU), Holder(a=np.sort),
        nn.Linear(1, 1), Holder(a=["x", "y"]), Holder(a=["xy"]), Holder(a=float("nan")),
    ]  # fmt: skip
    found = [content_hash(each) for each in told]
    assert None not in found
    assert len(set(found)) == len(told)
    assert content_hash(Holder(a=[torch.zeros(2)])) == content_hash(Holder(a=[torch.zeros(2)]))


def test_content_that_only_identity_tells_apart_has_no_hash() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    for value in (lambda: 1, cycle, iter([1]), torch.Generator(), np, Holder(a=1).__init__, np.array([object()])):
        assert content_hash([value]) is None
