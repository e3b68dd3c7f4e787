"""What a search may choose from: Hydra's own words for intervals, ranges and choices, read as a space.

``model.lr=tag(log,interval(1e-5,1e-2))``, ``model.width=int(interval(8,64))``, ``model.depth=range(1,6)`` and
``model=small,large`` mean the same on the command line and under ``hydra.sweeper.params``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from importlib.util import find_spec
from typing import Any

from hydra.core.override_parser.types import FloatRange, IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig, OmegaConf

from brainlab.errors import ConfigError

__all__ = [
    "Choice",
    "Interval",
    "Space",
    "check_settings",
    "is_search",
    "read_space",
    "refuse_fractions",
    "refuse_intervals",
]

METHODS = ("grid", "random", "optuna")
PRUNERS = ("median", "hyperband")
_WHERE = "command line or hydra.sweeper.params"
_TAGS = ("log", "int")
_FEWEST_DIGITS = 6
_PRECISION = 1e-5  # how far rounding may move a value, as a part of its interval


@dataclass(frozen=True)
class Choice:
    """One of several values, each in the words of an override; their order means nothing."""

    key: str
    text: str
    """What the user wrote behind ``key=``."""
    values: tuple[str, ...]

    @property
    def size(self) -> int:
        return len(self.values)

    def probes(self) -> list[str]:
        """The values that must compose before a search starts: all of them."""
        return list(self.values)

    def enumerated(self) -> list[Any]:
        return list(self.values)

    def word(self, value: Any) -> str:
        return str(value)


@dataclass(frozen=True)
class Interval:
    """A number from ``low`` to ``high``, both included; on a grid where there is a ``step``."""

    key: str
    text: str
    low: float
    high: float
    log: bool = False
    whole: bool = False
    step: float | None = None

    @property
    def size(self) -> int | None:
        """How many values there are; ``None`` for a continuum."""
        if self.step is None:
            return None
        return int((Decimal(repr(self.high)) - Decimal(repr(self.low))) / Decimal(repr(self.step))) + 1

    def probes(self) -> list[Any]:
        """The ends, and a value between them that is as odd as one that a search may choose."""
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        if self.step is not None:
            middle = self.low + round((middle - self.low) / self.step) * self.step
        return list(dict.fromkeys([self.low, self.high, middle]))

    def enumerated(self) -> list[Any]:
        if self.size is None or self.step is None:
            raise ValueError("a continuum cannot be enumerated")
        return [self.low + number * self.step for number in range(self.size)]

    def word(self, value: Any) -> str:
        """``value`` as one would type it: no more digits than its interval can tell apart.

        >>> Interval("lr", "", 1e-5, 1e-2, log=True).word(0.00012345678901)
        '0.000123457'
        >>> Interval("p", "", 0.0, 1.0, step=0.1).word(0.30000000000000004)
        '0.3'
        """
        if self.whole:
            return str(round(value))
        if self.step is not None:
            low, step = Decimal(repr(self.low)), Decimal(repr(self.step))
            return repr(float(low + step * round((Decimal(value) - low) / step)))
        allowed = _PRECISION * (value * math.log(self.high / self.low) if self.log else self.high - self.low)
        for digits in range(_FEWEST_DIGITS, 17):
            rounded = float(f"{value:.{digits}g}")
            if self.low <= rounded <= self.high and abs(rounded - value) <= allowed:
                return repr(rounded)
        return repr(float(value))


Dimension = Choice | Interval


@dataclass(frozen=True)
class Space:
    """The keys that a search chooses and the words that every trial shares, in the order of the command line."""

    parts: tuple[str | Dimension, ...]

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        return tuple(part for part in self.parts if not isinstance(part, str))

    @property
    def size(self) -> int | None:
        """How many different trials there are; ``None`` where an interval is continuous."""
        sizes = [dimension.size for dimension in self.dimensions]
        return None if None in sizes else math.prod(size for size in sizes if size is not None)

    def described(self) -> dict[str, str]:
        """What each key may become, in the user's words."""
        return {dimension.key: dimension.text for dimension in self.dimensions}

    def words(self, point: Mapping[str, Any]) -> tuple[str, ...]:
        """The overrides of the trial at ``point``."""
        return tuple(
            part if isinstance(part, str) else f"{part.key}={part.word(point[part.key])}" for part in self.parts
        )

    def points(self) -> Iterator[dict[str, Any]]:
        """Every point of a space that has a ``size``, in order."""
        names = [dimension.key for dimension in self.dimensions]
        for values in itertools.product(*(dimension.enumerated() for dimension in self.dimensions)):
            yield dict(zip(names, values, strict=True))

    def probes(self) -> list[list[str]]:
        """Trials that show whether the space can be composed: every end and choice once, the others at their first."""
        first = {dimension.key: dimension.probes()[0] for dimension in self.dimensions}
        points = [first]
        for dimension in self.dimensions:
            points += [{**first, dimension.key: value} for value in dimension.probes()[1:]]
        points.append({dimension.key: dimension.probes()[-1] for dimension in self.dimensions})
        return [list(words) for words in dict.fromkeys(self.words(point) for point in points)]


def is_search(cfg: DictConfig) -> bool:
    """Whether this sweep chooses its values as it goes, instead of running every combination."""
    return OmegaConf.select(cfg, "sweep.method") in ("random", "optuna")


def read_space(overrides: Sequence[Override], method: str = "random") -> Space:
    """The space that parsed overrides describe; of two words for one key the later counts.

    Raises:
        ConfigError: a part of it makes no sense, or there is nothing to choose.
    """
    parts: dict[str, str | Dimension] = {}
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            parts[key] = override.input_line if override.is_delete() and override.input_line else _fixed(override, key)
        elif override.is_choice_sweep():
            values = tuple(dict.fromkeys(override.sweep_string_iterator()))
            if not values:
                raise ConfigError(key, _text(override), "expected at least one choice", where=_WHERE)
            parts[key] = Choice(key, _text(override), values)
        elif isinstance(override.value(), RangeSweep):
            parts[key] = _range(override, key)
        else:
            parts[key] = _interval(override, key)
    space = Space(tuple(parts.values()))
    if not space.dimensions:
        raise ConfigError(
            "sweep",
            method,
            "expected a key to search over",
            where="command line",
            hint="for example 'model.lr=tag(log,interval(1e-5,1e-2))'",
        )
    for dimension in space.dimensions:
        if dimension.key == "seed" and method == "optuna":
            raise ConfigError(
                "seed",
                dimension.text,
                "cannot be searched: the best seed is luck, not a setting",
                where=_WHERE,
                hint="run the best trial again with sweep=seeds",
            )
    return space


def refuse_intervals(overrides: Sequence[Override]) -> None:
    """
    Raises:
        ConfigError: a grid was asked to run every value of an interval.
    """
    for override in overrides:
        if override.is_interval_sweep():
            raise ConfigError(
                override.key_or_group,
                _text(override),
                "an interval has no list of values to run one by one",
                where=_WHERE,
                hint=f"sweep=random or sweep=optuna searches it; a grid takes {override.key_or_group}=a,b,c",
            )


def refuse_fractions(space: Space, cfg: DictConfig) -> None:
    """Ask what is meant where an interval between whole numbers replaces a whole number.

    Hydra reads every interval as continuous, and a width of 9.37 would fail in each trial, hours later.

    Raises:
        ConfigError: ``int(…)`` or ``float(…)`` must be said.
    """
    for dimension in space.dimensions:
        if not isinstance(dimension, Interval) or dimension.whole or dimension.text.startswith("float("):
            continue
        now = OmegaConf.select(cfg, dimension.key.lstrip("+"), throw_on_missing=False)
        ends = (dimension.low, dimension.high)
        if isinstance(now, int) and not isinstance(now, bool) and all(end.is_integer() for end in ends):
            if dimension.high - dimension.low <= 1:
                continue  # a probability that happens to be 0 now
            raise ConfigError(
                dimension.key,
                dimension.text,
                f"expected whole numbers, since it is {now} now, but an interval also holds fractions",
                where=_WHERE,
                hint=f"write {dimension.key}=int({dimension.text}), or float({dimension.text}) if fractions are meant",
            )


def check_settings(cfg: DictConfig) -> None:
    """Judge ``cfg.sweep`` before anything is composed for it.

    Raises:
        ConfigError: for the first setting that cannot work here.
    """
    sweep = cfg.sweep
    if sweep.method not in METHODS:
        raise ConfigError("sweep.method", sweep.method, f"expected {_listed(METHODS)}", hint="choose it by sweep=NAME")
    if str(sweep.metric).startswith("test/"):
        raise ConfigError(
            "sweep.metric",
            sweep.metric,
            "expected a metric of the validation data: what a sweep chooses by cannot also be its test",
            hint="every metric of every job is in sweep.csv all the same",
        )
    if sweep.max_failures is not None and sweep.max_failures < 1:
        raise ConfigError("sweep.max_failures", sweep.max_failures, "expected at least 1, or null to run all jobs")
    if not is_search(cfg):
        return
    name = f"sweep={sweep.method}"
    sweeper = str(OmegaConf.select(cfg, "hydra.sweeper._target_"))
    if not sweeper.endswith(".BrainlabSweeper"):
        raise ConfigError(
            "hydra/sweeper",
            sweeper.rpartition(".")[2],
            f"cannot search: {name} is brainlab's own",
            hint="leave hydra/sweeper out",
        )
    if sweep.mode not in ("min", "max"):
        raise ConfigError("sweep.mode", sweep.mode, "expected min or max")
    if not sweep.metric:
        raise ConfigError("sweep.metric", sweep.metric, "expected the name of a metric", hint="e.g. val/loss")
    if sweep.n_trials < 1:
        raise ConfigError("sweep.n_trials", sweep.n_trials, "expected at least 1")
    if sweep.seed < 0:
        raise ConfigError("sweep.seed", sweep.seed, "expected 0 or more")
    if sweep.n_parallel is not None and sweep.n_parallel < 1:
        raise ConfigError("sweep.n_parallel", sweep.n_parallel, "expected at least 1, or null")
    launcher = str(OmegaConf.select(cfg, "hydra.launcher._target_"))
    if (sweep.n_parallel or 1) > 1 and launcher.endswith(".BasicLauncher"):
        raise ConfigError(
            "sweep.n_parallel",
            sweep.n_parallel,
            "expected 1: without a launcher, jobs run one after another in this process",
            hint="hydra/launcher=submitit_local runs several on this machine",
        )
    if sweep.pruner is not None and sweep.pruner not in PRUNERS:
        raise ConfigError("sweep.pruner", sweep.pruner, f"expected {_listed((*PRUNERS, 'null'))}")
    if sweep.method == "random":
        for key in ("pruner", "storage"):
            if sweep[key] is not None:
                raise ConfigError(f"sweep.{key}", without_password(sweep[key]), "needs sweep=optuna")
        return
    if not cfg.wait:
        raise ConfigError(
            "wait",
            "false",
            "sweep=optuna chooses each trial from the results of earlier ones, so it must wait for them",
            where="command line",
            hint="sweep=random can be submitted and left",
        )
    if find_spec("optuna") is None:
        raise ConfigError(
            "sweep",
            "optuna",
            "its package is not installed",
            where="command line",
            hint="pip install 'brainlab[optuna]'",
        )


def _fixed(override: Override, key: str) -> str:
    return f"{key}={override.get_value_element_as_str()}"


def _text(override: Override) -> str:
    return (override.input_line or "").partition("=")[2]


def _tags(override: Override, sweep: Any, key: str) -> set[str]:
    for tag in sorted(sweep.tags):
        if tag not in _TAGS:
            raise ConfigError(key, _text(override), f"unknown tag {tag}: expected log or int", where=_WHERE)
    return set(sweep.tags)


def _range(override: Override, key: str) -> Dimension:
    sweep = override.value()
    assert isinstance(sweep, RangeSweep)
    tags = _tags(override, sweep, key)
    values = sweep.range()
    if isinstance(values, FloatRange) and values.step == 0:
        raise ConfigError(key, _text(override), "expected a step other than 0", where=_WHERE)
    found = sorted(values)
    if not found:
        raise ConfigError(key, _text(override), "expected a range that holds a value", where=_WHERE)
    if "log" in tags and (found[0] <= 0 or abs(sweep.step) != 1 or not isinstance(values, range)):
        raise ConfigError(
            key,
            _text(override),
            "expected whole numbers from 1 on, without a step, for the log scale",
            where=_WHERE,
            hint=f"write {key}=tag(log,int(interval({found[0]},{found[-1]})))",
        )
    return Interval(
        key,
        _text(override),
        found[0],
        found[-1],
        log="log" in tags,
        whole=isinstance(values, range),
        step=abs(sweep.step),
    )


def _interval(override: Override, key: str) -> Interval:
    sweep = override.value()
    assert isinstance(sweep, IntervalSweep)
    assert sweep.start is not None
    assert sweep.end is not None
    tags = _tags(override, sweep, key)
    low, high = sweep.start, sweep.end
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ConfigError(key, _text(override), "expected two finite ends", where=_WHERE)
    if low >= high:
        raise ConfigError(key, _text(override), "expected the lower end first, and two different ends", where=_WHERE)
    if "log" in tags and low <= 0:
        raise ConfigError(key, _text(override), "expected a lower end above 0 for the log scale", where=_WHERE)
    whole = "int" in tags or (isinstance(low, int) and isinstance(high, int))
    if whole and (low != int(low) or high != int(high)):
        raise ConfigError(key, _text(override), "expected whole numbers for both ends", where=_WHERE)
    if whole:
        return Interval(key, _text(override), int(low), int(high), log="log" in tags, whole=True, step=1)
    return Interval(key, _text(override), float(low), float(high), log="log" in tags)


def _listed(names: Sequence[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def without_password(url: str) -> str:
    """A storage's address as it may be shown.

    >>> without_password("postgresql://me:secret@host/db")
    'postgresql://me:***@host/db'
    """
    scheme, found, rest = str(url).partition("://")
    user, at, place = rest.rpartition("@")
    return f"{scheme}{found}{user.partition(':')[0]}:***@{place}" if at and ":" in user else str(url)
