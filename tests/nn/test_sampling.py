"""What a sampler may draw, and how often."""

from __future__ import annotations

import pytest
import torch

from brainlab.errors import InvalidValue
from brainlab.nn.sampling import Sampler

SHARES = torch.tensor([0.13, 0.56, 0.04, 0.21, 0.06])


def draws(sampler: Sampler, n: int = 4000, level: int = 0) -> torch.Tensor:
    logits = SHARES.log().expand(n, 5)
    return torch.bincount(sampler(logits, level, torch.Generator().manual_seed(0)), minlength=5) / n


def test_nucleus_keeps_the_code_that_crosses():
    assert set(draws(Sampler("top_p", top_p=0.8)).nonzero().flatten().tolist()) == {1, 3, 0}
    assert set(draws(Sampler("top_p", top_p=0.5)).nonzero().flatten().tolist()) == {1}
    assert set(draws(Sampler("top_p", top_p=1.0)).nonzero().flatten().tolist()) == {0, 1, 2, 3, 4}


def test_kept_codes_are_drawn_in_proportion():
    kept = torch.tensor([0.13, 0.56, 0.0, 0.21, 0.0])
    for sampler in (Sampler("top_p", top_p=0.8), Sampler("top_k", top_k=3)):
        assert (draws(sampler) - kept / kept.sum()).abs().max() < 0.03
    assert (draws(Sampler("roulette")) - SHARES).abs().max() < 0.03


def test_temperature_bends_the_shares():
    bent = SHARES**2 / (SHARES**2).sum()
    assert (draws(Sampler("roulette", temperature=0.5)) - bent).abs().max() < 0.03


@pytest.mark.parametrize("kind", ["top_p", "top_k", "roulette", "argmax"])
def test_temperature_zero_is_greedy(kind):
    assert draws(Sampler(kind, temperature=0.0)).tolist() == [0, 1, 0, 0, 0]


def test_argmax_ignores_the_temperature():
    assert draws(Sampler("argmax", temperature=5.0))[1] == 1


def test_levels_have_their_own_temperature():
    sampler = Sampler("roulette", level_temperatures=[1.0, 0.0])
    assert (draws(sampler, level=0) > 0).all()
    assert draws(sampler, level=1)[1] == draws(sampler, level=7)[1] == 1


def test_any_batch_shape_is_kept_and_a_seed_repeats():
    logits = torch.randn(3, 2, 4, 7)
    one, two = (Sampler("top_k", top_k=50)(logits, 0, torch.Generator().manual_seed(3)) for _ in range(2))
    assert one.shape == (3, 2, 4)
    assert torch.equal(one, two)


def test_impossible_codes_are_never_drawn():
    logits = torch.full((2000, 6), -torch.inf)
    logits[:, [2, 4]] = 0.0
    for kind in ("roulette", "top_k", "top_p"):
        drawn = Sampler(kind, top_p=1.0)(logits, 0, torch.Generator().manual_seed(0))
        assert set(drawn.tolist()) == {2, 4}


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": 0}, "top_k"),
        ({"temperature": -1.0}, "temperature"),
        ({"kind": "nucleus"}, "kind"),
        ({"level_temperatures": []}, "level_temperatures"),
        ({"level_temperatures": "linear"}, "level_temperatures"),
        ({"level_temperatures": [1.0, -0.5]}, "level_temperatures"),
        ({"temperature_decay": 0.0}, "temperature_decay"),
    ],
)
def test_settings_that_leave_nothing_to_draw_are_refused(options, name):
    with pytest.raises(InvalidValue, match=name):
        Sampler(**options)
