"""What a search may choose, and what it draws from that."""

from __future__ import annotations

import itertools
import math

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from brainlab.config.search_space import Choice, Interval, Space, read_space, refuse_fractions, refuse_intervals
from brainlab.errors import ConfigError
from brainlab.run.sweep.space import distributions, draws, seed_for


def space(*words: str, method: str = "random") -> Space:
    return read_space(OverridesParser.create().parse_overrides(list(words)), method)


def taken(words: list[str], n: int, seed: int = 0) -> list[tuple[str, ...]]:
    found = space(*words)
    return [found.words(point) for point in itertools.islice(draws(found, seed), n)]


def test_hydras_words_become_dimensions():
    found = space(
        "seed=3", "a=interval(0,1)", "b=tag(log,interval(1e-5,1e-2))", "c=int(interval(1,8))", "d=range(1,10,4)",
        "e=x,y", "f=choice(1,2)", "g=range(0,1,0.25)", "h=tag(log,int,interval(1,64))",
    )  # fmt: skip

    assert found.parts[0] == "seed=3"
    a, b, c, d, e, f, g, h = found.dimensions
    assert isinstance(a, Interval)
    assert (a.low, a.high, a.log, a.whole) == (0.0, 1.0, False, False)
    assert (b.low, b.high, b.log) == (1e-5, 1e-2, True)
    assert (c.low, c.high, c.whole, c.size) == (1, 8, True, 8)
    assert d.enumerated() == [1, 5, 9]
    assert (e, f.values) == (Choice("e", "x,y", ("x", "y")), ("1", "2"))
    assert [g.word(value) for value in g.enumerated()] == ["0.0", "0.25", "0.5", "0.75"]
    assert (h.whole, h.log) == (True, True)
    assert found.size is None


def test_the_later_of_two_words_counts():
    (dimension,) = space("a=1,2,3", "b=interval(0,1)", "a=5").dimensions

    assert dimension.key == "b"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("a=interval(2,1)", "the lower end first"),
        ("a=interval(1,1)", "two different ends"),
        ("a=interval(0,inf)", "finite"),
        ("a=tag(log,interval(0,1))", "above 0"),
        ("a=tag(lgo,interval(1,2))", "unknown tag lgo"),
        ("a=tag(int,interval(0.5,2))", "whole numbers"),
        ("a=range(5,5)", "a range that holds a value"),
        ("a=tag(log,range(1,100,5))", "log scale"),
        ("seed=interval(0,9)", "cannot be searched"),
        ("seed=0", "expected a key to search over"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(word, expected):
    with pytest.raises(ConfigError) as refused:
        space(word, method="optuna")

    assert expected in str(refused.value)


def test_a_grid_refuses_intervals():
    with pytest.raises(ConfigError, match="sweep=optuna"):
        refuse_intervals(OverridesParser.create().parse_overrides(["a=1,2", "b=interval(0,1)"]))


def test_an_interval_over_a_whole_number_must_say_what_is_meant():
    cfg = OmegaConf.create({"width": 8, "dropout": 0, "lr": 0.1})

    for word in (
        "width=int(interval(4,16))",
        "width=float(interval(4,16))",
        "dropout=interval(0,1)",
        "lr=interval(1,9)",
    ):
        refuse_fractions(space(word), cfg)
    with pytest.raises(ConfigError, match=r"write width=int\(interval\(4,16\)\)"):
        refuse_fractions(space("width=interval(4,16)"), cfg)


def test_every_end_and_choice_is_probed():
    words = {
        word for probe in space("a=tag(log,interval(1,100))", "b=x,y,z", "c=range(0,5)").probes() for word in probe
    }

    assert words == {"a=1.0", "a=100.0", "a=10.0", "b=x", "b=y", "b=z", "c=0", "c=4", "c=2"}


def test_draws_repeat_for_a_seed_and_more_trials_continue_them():
    words = ["a=interval(0,1)", "b=x,y", "c=tag(log,int(interval(1,999)))"]

    assert taken(words, 5) == taken(words, 20)[:5]
    assert taken(words, 5) != taken(words, 5, seed=1)


def test_draws_cover_a_small_space_once_and_then_end():
    assert sorted(taken(["a=x,y", "b=range(0,3)"], 99)) == sorted((f"a={a}", f"b={b}") for a in "xy" for b in range(3))


def test_logarithmic_draws_spread_over_the_decades():
    found = [float(word.partition("=")[2]) for (word,) in taken(["a=tag(log,interval(1e-6,1))"], 600)]

    for decade in range(6):
        assert 60 < sum(10.0**-decade >= value > 10.0 ** -(decade + 1) for value in found) < 140


@given(
    low=st.floats(-1e6, 1e6),
    width=st.floats(1e-6, 1e6),
    at=st.floats(0, 1),
)
def test_a_written_value_stays_inside_and_close(low, width, at):
    dimension = Interval("a", "", low, low + width)
    value = min(max(low + at * width, dimension.low), dimension.high)

    written = float(dimension.word(value))

    assert dimension.low <= written <= dimension.high
    assert abs(written - value) <= 1e-4 * (dimension.high - dimension.low)


@given(
    st.lists(st.sampled_from(["a=interval(0,1)", "b=x,y", "c=range(0,9)", "d=tag(log,interval(1e-3,1))"]), min_size=1)
)
def test_every_written_trial_is_read_back_as_plain_values(words):
    for trial in taken(words, 3):
        for override in OverridesParser.create().parse_overrides(list(trial)):
            assert not override.is_sweep_override()


def test_optuna_gets_the_same_space():
    found = distributions(
        space("a=interval(0,1)", "b=tag(log,interval(1e-3,1))", "c=range(0,9,3)", "d=x,y", "e=range(0,1,0.5)")
    )

    assert (found["a"].low, found["a"].high, found["a"].log) == (0, 1, False)
    assert found["b"].log
    assert (found["c"].low, found["c"].high, found["c"].step) == (0, 6, 3)
    assert found["d"].choices == ("x", "y")
    assert math.isclose(found["e"].step, 0.5)


def test_seeds_of_trials_differ():
    assert len({seed_for(seed, number) for seed in range(20) for number in range(50)}) == 1000
