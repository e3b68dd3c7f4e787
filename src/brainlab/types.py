"""Nouns that cross rooms: results, figures, splits and the protocols that rooms meet at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

__all__ = [
    "DataSource",
    "Evaluation",
    "Evaluator",
    "Figure",
    "Forecaster",
    "Metric",
    "PreparedData",
    "Table",
    "Tokenizer",
]

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


@runtime_checkable
class Tokenizer(Protocol):
    """Turns continuous signals into discrete codes and back.

    Codes are (batch, frame, site, level) int64 in ``[0, vocab_size)``: frame f covers the samples
    ``[f · hop, (f + 1) · hop)``, ``site`` is a channel or a latent place, ``level`` a stage of a residual
    quantiser. Their flat order is row-major. A code depends on its own frame and on at most ``receptive_field``
    samples before it. ``fingerprint`` changes with anything that changes a code.
    """

    hop: int
    n_sites: int
    n_levels: int
    vocab_size: int
    receptive_field: int
    fingerprint: str

    def encode(self, signal: Any) -> Any:
        """(batch, channel, time) float32, time a multiple of ``hop`` → codes."""

    def decode(self, codes: Any) -> Any:
        """Codes → (batch, channel, frame · hop) float32."""


@runtime_checkable
class Forecaster(Protocol):
    """Continues recordings: the one interface of token models, networks on signals and linear models."""

    def forecast(self, context: Any, steps: int, sampler: Any, generator: Any = None) -> Any:
        """Draw one continuation of each context.

        Args:
            context: (batch, channel, time) float32, what is known.
            steps: samples to add.
            sampler: a :class:`brainlab.nn.sampling.Sampler`; continuous models use its temperature (0: the mean).
            generator: source of randomness; None uses torch's own.

        Returns:
            (batch, channel, steps) float32.
        """
