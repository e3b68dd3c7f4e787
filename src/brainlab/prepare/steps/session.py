"""What a preparation step is: a frozen dataclass that changes one recording in memory and notes what it did.

Steps are named and ordered by the configuration. They all work on one float64 MNE object, in place, so that a session
is held in memory once; the only conversion to float32 is that of the store at the end.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from brainlab.datasets.recordings import RecordingFile
from brainlab.errors import InvalidFile
from brainlab.io.recording import Annotation, Event

__all__ = ["Discarded", "RawSession", "Scalers", "Step", "TrainingSpan", "moved", "recipe_of"]

TrainingSpan = Callable[[RecordingFile, int, float], tuple[int, int]]

DATA_KINDS = ("mag", "grad", "eeg", "seeg", "ecog", "dbs")
"""Channel types that hold brain signals."""

_LEAST_POINTS = 10
_HEAD_CENTRE = (0.0, 0.0, 0.04)


class Discarded(Exception):
    """A session that is left out on purpose: it stays on disk and is listed with the reason.

    Args:
        reason: one word or clause for the manifest.
        facts: JSON-ready numbers behind it.
        words: what was found and what was expected, where the reason is only a code.
        hint: the key that would keep the session.

    ``warnings`` and ``steps`` are what was remarked and noted on the session before.
    """

    def __init__(self, reason: str, facts: Mapping[str, Any] | None = None, words: str = "", hint: str = "") -> None:
        super().__init__(reason)
        self.reason, self.facts, self.words, self.hint = reason, dict(facts or {}), words, hint
        self.warnings: list[str] = []
        self.steps: list[dict[str, Any]] = []

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.reason, self.facts, self.words, self.hint)


@dataclass
class Scalers:
    """How the stored numbers become physical ones again: ``value = stored * scale + centre`` per channel."""

    centre: Float[np.ndarray, " channel"]
    scale: Float[np.ndarray, " channel"]

    def then(self, centre: Float[np.ndarray, " channel"], scale: Float[np.ndarray, " channel"]) -> Scalers:
        """These scalers followed by a second scaling of their result."""
        return Scalers(self.centre + self.scale * centre, self.scale * scale)


@dataclass
class RawSession:
    """One recording while it is prepared.

    Args:
        raw: MNE object, loaded into memory in SI units, at the present rate.
        file: whose recording it is.
        events: trigger codes at the file's own rate ``sfreq_in_hz``, from the first sample.
        annotations: marked stretches, in seconds from the first sample; a step may add to them.
        sfreq_in_hz: rate of the file.
        sfreq_out_hz: rate that a later step resamples to, or None.
        training_span: samples that statistics may come from, as ``(file, n_samples, sfreq_hz) → (start, stop)``.
        system: "ctf275", "vectorview306", "kit", "eeg" …
        facts: the steps done so far, with what they noted.
        warnings: remarks for the manifest and the log.
        dropped: name → kind of channels that were left out.
        interpolated: bad channels that were replaced by their neighbours; those that still are bad are in ``raw``.
        scalers: from the store's numbers to SI units, None where the store holds SI units.
        units: channel → unit of one stored number where it is neither the SI unit nor dimensionless.
        segments: usable stretches [start, stop) in samples, None for the whole session.
        lowpass_stop_hz: above this frequency nothing is left.
        used_span_s: what statistics were taken from so far, in seconds; (0, 0) where none were.
    """

    raw: Any
    file: RecordingFile
    events: tuple[Event, ...] = ()
    annotations: list[Annotation] = field(default_factory=list)
    sfreq_in_hz: float = 0.0
    sfreq_out_hz: float | None = None
    training_span: TrainingSpan | None = None
    system: str = ""
    facts: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    interpolated: list[str] = field(default_factory=list)
    scalers: Scalers | None = None
    units: dict[str, str] = field(default_factory=dict)
    segments: list[tuple[int, int]] | None = None
    lowpass_stop_hz: float | None = None
    used_span_s: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        self.sfreq_in_hz = self.sfreq_in_hz or self.sfreq_hz

    @property
    def samples(self) -> Float[np.ndarray, "channel time"]:
        """All samples, to be changed in place."""
        # get_data() and raw[:] copy, which for an hour of MEG at the file's own rate is gigabytes.
        return self.raw._data

    @property
    def sfreq_hz(self) -> float:
        """Present rate."""
        return float(self.raw.info["sfreq"])

    @property
    def n_samples(self) -> int:
        """Present length."""
        return int(self.raw.n_times)

    @property
    def ch_names(self) -> list[str]:
        """Present channels."""
        return list(self.raw.ch_names)

    @property
    def kinds(self) -> list[str]:
        """MNE's type of every channel."""
        return list(self.raw.get_channel_types())

    @property
    def source(self) -> str:
        """The file, for messages."""
        return str(self.file.path)

    def rows(self, kinds: Sequence[str] = DATA_KINDS) -> list[int]:
        """Numbers of the channels of these types."""
        return [row for row, kind in enumerate(self.kinds) if kind in kinds]

    def filtered_rows(self) -> list[int]:
        """Channels that filters apply to: brain signals, or, in a recording without any, all but trigger channels."""
        return self.rows() or [row for row, kind in enumerate(self.kinds) if kind != "stim"]

    def span(self, statistics: str = "training") -> tuple[int, int]:
        """Samples [start, stop) that statistics are taken from, at the present rate.

        Args:
            statistics: "training" (what the split allows) or "recording" (all of it).

        Raises:
            InvalidFile: if the training span is empty.
        """
        start, stop = 0, self.n_samples
        if statistics == "training" and self.training_span is not None:
            first, last = self.training_span(self.file, self.n_samples, self.sfreq_hz)
            start, stop = max(0, int(first)), min(self.n_samples, int(last))
            if start >= stop:
                raise InvalidFile(
                    "training span", (first, last),
                    f"expected samples of the {self.n_samples / self.sfreq_hz:g} s to take statistics from",
                    where=self.source, hint="statistics: recording uses all of them",
                )  # fmt: skip
        first_s, last_s = start / self.sfreq_hz, stop / self.sfreq_hz
        known = self.used_span_s
        self.used_span_s = (min(known[0], first_s), max(known[1], last_s)) if known[1] else (first_s, last_s)
        return start, stop

    def head_origin(self) -> str | tuple[float, float, float]:
        """Centre of the head for models of its field: "auto" lets MNE fit it to the digitised points of the head.

        Where the file has none, it is 4 cm above the origin of head coordinates, with a warning.
        """
        from mne.io.constants import FIFF

        head = (FIFF.FIFFV_POINT_EXTRA, FIFF.FIFFV_POINT_EEG)
        if sum(point["kind"] in head for point in self.raw.info["dig"] or ()) >= _LEAST_POINTS:
            return "auto"
        self.warn(f"the file holds no shape of the head: its centre is taken to be at {_HEAD_CENTRE} m")
        return _HEAD_CENTRE

    def note(self, step: str, **facts: Any) -> None:
        """Record what a step did, JSON-ready."""
        self.facts.append({"step": step, **facts})

    def warn(self, text: str) -> None:
        """A remark for the manifest and the log, once."""
        if text not in self.warnings:
            self.warnings.append(text)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Turn the remarks that MNE makes while it works into warnings of this session."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        for one in caught:
            if issubclass(one.category, RuntimeWarning):
                self.warn(str(one.message).strip().split("\n")[0])

    def rescale(self, centre: Float[np.ndarray, " channel"], scale: Float[np.ndarray, " channel"]) -> None:
        """Subtract ``centre`` and divide by ``scale`` in place, and keep the way back."""
        samples = self.samples
        samples -= centre[:, None]
        samples /= scale[:, None]
        before = self.scalers or Scalers(np.zeros(len(samples)), np.ones(len(samples)))
        self.scalers = before.then(centre, scale)


@runtime_checkable
class Step(Protocol):
    """One named step. It changes the session in place; ``recipe`` holds all that its result depends on.

    It raises :class:`Discarded` for a session that is left out on purpose, and InvalidValue or InvalidFile for one
    that cannot be prepared.
    """

    def __call__(self, session: RawSession) -> None: ...


def recipe_of(step: Step) -> dict[str, Any]:
    """Class and fields of a step, for the cache key."""
    kind = type(step)
    return {"step": f"{kind.__module__}.{kind.__qualname__}", **asdict(step)}  # type: ignore[call-overload]


def moved(sample: int, from_hz: float, to_hz: float, n_samples: int) -> int:
    """The sample at ``to_hz`` nearest to ``sample`` at ``from_hz``, in exact arithmetic, both from the first sample.

    >>> moved(200, 1000.0, 100.0, 500), moved(7, 300.0, 100.0, 500), moved(1499, 300.0, 100.0, 500)
    (20, 2, 499)
    """
    return min(round(Fraction(sample) * Fraction(to_hz) / Fraction(from_hz)), n_samples - 1)
