"""Nouns that cross rooms: results, figures, splits and the protocols that rooms meet at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

__all__ = ["DataSource", "Evaluation", "Evaluator", "Figure", "Metric", "PreparedData", "Table"]

DataSource = Literal["synthetic", "files"]


@dataclass(frozen=True)
class Metric:
    """One score with what it must be read against.

    ``low`` and ``high`` bound the 95 % interval; ``chance`` is the score of guessing, ``control`` of a shuffled or
    trivial predictor, ``ceiling`` of the best possible one. ``better`` says which way is good.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    control: float | None = None
    ceiling: float | None = None
    n: int | None = None
    unit: str = ""
    better: Literal["higher", "lower"] = "higher"
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The fields that are set, JSON-ready."""
        return {key: value for key, value in asdict(self).items() if value is not None and value != ""}


@dataclass(frozen=True)
class Figure:
    """A picture written under the run directory; ``path`` is a PNG."""

    name: str
    caption: str
    path: Path


@dataclass(frozen=True)
class Table:
    """A small table for the report: one header and rows of cells."""

    name: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass
class Evaluation:
    """What a protocol found: typed metrics, figures and tables, plus free JSON-ready ``details``."""

    headline: str
    metrics: list[Metric] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def metric(self, name: str) -> Metric:
        """The metric called ``name``.

        Raises:
            KeyError: if the protocol did not report it.
        """
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(name)


@runtime_checkable
class PreparedData(Protocol):
    """What a run needs of a data module beside Lightning's own hooks.

    ``source`` says whether the examples come from files or from the simulator, ``fingerprint`` is the content hash of
    the prepared data (valid after ``prepare_data``), ``shapes`` holds the sizes that a model may leave ``null``
    (valid after ``setup``), ``describe`` returns JSON-ready facts for the report.
    """

    source: DataSource
    fingerprint: str

    @property
    def shapes(self) -> Mapping[str, int]: ...

    def describe(self) -> dict[str, Any]: ...


class Evaluator(Protocol):
    """A protocol of ``evaluation/``: judges a trained task on held-out data, writes its figures under ``out``."""

    def __call__(self, task: Any, data: Any, out: Path) -> Evaluation: ...
