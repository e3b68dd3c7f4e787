"""Distances of rollouts, baselines and controls to the same real continuations, paired by context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from brainlab.evaluation.rollout_generation import RealSignals
from brainlab.evaluation.session_sampler import Place
from brainlab.metrics.divergence import LINES, Divergence, divergence, paired
from brainlab.metrics.rollouts import DISTANCES, prefix_distances, window_distances
from brainlab.metrics.spectra import BANDS
from brainlab.metrics.statistics import bootstrap_median

__all__ = ["Compared", "Partners", "compare", "drift", "interval", "kinds_and_owners"]

Partners = Literal["other_session", "any"]

_SHAPES = ("psd_jsd", "band_jsd")
Lines = Mapping[str, Mapping[str, Float[np.ndarray, "prefix context"]]]


@dataclass(frozen=True)
class Compared:
    """All lines on the same contexts and prefixes.

    ``divergence`` holds the model's line and its controls, ``others`` what else was compared with the same real
    continuations: baselines, the tokenizer's reconstruction, the end of the real context. ``silent`` counts contexts
    whose rollout does not vary at all: it has no spectrum, and counts as far away as a spectrum can be (1).
    ``partners_share_session`` says whether some context was swapped with another stretch of its own session.
    """

    divergence: Divergence
    others: Lines
    sessions: Int[np.ndarray, " context"]
    partners_share_session: bool
    silent: int = 0

    @property
    def lines(self) -> dict[str, Mapping[str, Float[np.ndarray, "prefix context"]]]:
        """Every line with at least one value."""
        everything = {**self.divergence.lines, **self.others}
        return {
            name: values
            for name, values in everything.items()
            if any(np.isfinite(distance).any() for distance in values.values())
        }

    def at_the_end(self) -> dict[str, dict[str, Float[np.ndarray, " context"]]]:
        """The lines at the longest prefix."""
        return {line: {name: values[-1] for name, values in found.items()} for line, found in self.lines.items()}

    @property
    def clusters(self) -> Int[np.ndarray, " context"] | None:
        """What intervals and tests take as one: the session of each context; None where there is only one session."""
        return self.sessions if len(np.unique(self.sessions)) > 1 else None

    @property
    def n_units(self) -> int:
        """Independent units of intervals and tests: sessions, or the contexts of an only session."""
        return len(self.sessions) if self.clusters is None else len(np.unique(self.sessions))

    @property
    def unit(self) -> str:
        """What those units are."""
        return "contexts" if self.clusters is None else "sessions"

    @property
    def alone(self) -> int:
        """Contexts that nothing could be swapped with."""
        return sum(not drawn for drawn in self.divergence.partners)

    def unit_pairs(self) -> int:
        """Different pairs of units behind the real–real distance, which counts (i, j) and (j, i) alike."""
        unit = np.arange(len(self.sessions)) if self.clusters is None else self.clusters
        pairs = {
            frozenset((int(unit[row]), int(unit[other])))
            for row, drawn in enumerate(self.divergence.partners)
            for other in drawn
        }
        return len(pairs)

    def gain(self, line: str, distance: str, n_bootstrap: int, seed: int) -> dict[str, float | int | None]:
        """How much nearer the model is than ``line`` at the longest prefix; positive speaks for the model."""
        ends = self.at_the_end()
        change = ends[line][distance] - ends["correct"][distance]
        if DISTANCES[distance].better == "higher":
            change = -change
        return paired(change, n_bootstrap, seed, self.clusters)


def compare(
    model: Float32[np.ndarray, "context rollout channel time"],
    real: RealSignals,
    others: Mapping[str, Float32[np.ndarray, "context _ channel time"]],
    places: Sequence[Place],
    *,
    sfreq_hz: float,
    prefixes: Sequence[int],
    n_partners: int,
    partners: Partners = "other_session",
    seed: int,
    fmin_hz: float,
    fmax_hz: float | None,
) -> Compared:
    """Follow every line over growing prefixes.

    Contexts are compared with contexts of the same data set, task and channels only, on the channels they have.
    Partners of the controls come from other sessions wherever there are any, or are any other contexts.

    Args:
        model: rollouts of the model that is judged.
        real: the real contexts and continuations.
        others: name → rollouts or reconstructions of the same contexts.
        places: of the contexts.
        sfreq_hz: sampling rate.
        prefixes: lengths in samples, ascending.
        n_partners: other contexts that each control meets, per context.
        partners: whether they must be of another session; see :func:`kinds_and_owners`.
        seed: of drawing them.
        fmin_hz: lower edge of the spectra.
        fmax_hz: upper edge of the spectra.
    """
    n = len(places)
    settings: dict[str, Any] = {"fmin_hz": fmin_hz, "fmax_hz": fmax_hz}
    lines = _empty([*LINES], len(prefixes), n)
    extra = _empty([*others, "own_context"], len(prefixes), n)
    drawn: list[tuple[int, ...]] = [() for _ in range(n)]
    target = real.target
    for rows, channels in real.groups():
        kinds, owners = kinds_and_owners([places[row] for row in rows], partners)
        own = np.ascontiguousarray(target[rows][:, channels])
        made = np.ascontiguousarray(model[rows][:, :, channels]).reshape(-1, len(channels), own.shape[-1])
        found = divergence(
            made,
            own,
            sfreq_hz,
            prefixes,
            kinds,
            owners=owners,
            context_of=np.repeat(np.arange(len(rows)), model.shape[1]),
            n_partners=n_partners,
            seed=seed,
            **settings,
        )
        for number, row in enumerate(rows.tolist()):
            drawn[row] = tuple(int(rows[other]) for other in found.partners[number])
        _fill(lines, found.lines, rows)
        _fill(extra, _others(others, own, rows, channels, sfreq_hz, prefixes, settings), rows)
        _fill(extra, _own_context(real, own, rows, channels, sfreq_hz, prefixes, settings), rows)
    silent = int(_without_spectrum(lines["correct"])[-1].sum())
    for values in (*lines.values(), *extra.values()):
        missing = _without_spectrum(values)
        for name in _SHAPES:
            values[name][missing] = 1.0
        for name in BANDS:  # a band without a frequency has a share of 0 on both sides: that is no agreement
            values[f"bandpower_ratio_{name}"][np.isnan(values[f"psd_jsd_{name}"])] = np.nan
    joined = Divergence(float(sfreq_hz), tuple(int(prefix) for prefix in prefixes), lines, tuple(drawn))
    sessions = np.array([place.session for place in places], dtype=np.int64)
    shared = any(sessions[other] == sessions[row] for row, others_of in enumerate(drawn) for other in others_of)
    return Compared(joined, extra, sessions, bool(shared), silent)


def drift(
    model: Float32[np.ndarray, "context rollout channel time"],
    real: RealSignals,
    others: Mapping[str, Float32[np.ndarray, "context _ channel time"]],
    partners: Sequence[Sequence[int]],
    *,
    sfreq_hz: float,
    window: int,
    stride: int,
    fmin_hz: float,
    fmax_hz: float | None,
) -> dict[str, dict[str, Float[np.ndarray, "window context"]]]:
    """The same distances in sliding windows: not how much has gone wrong so far, but how wrong it is by then.

    Args:
        model: rollouts of the model that is judged.
        real: the real contexts and continuations.
        others: name → rollouts of the same contexts.
        partners: of each context, as the controls of :func:`compare` drew them.
        sfreq_hz: sampling rate.
        window: length in samples.
        stride: samples from window to window.
        fmin_hz: lower edge of the spectra.
        fmax_hz: upper edge of the spectra.
    """
    n_windows = (real.target.shape[-1] - window) // stride + 1
    made = {"correct": model, **others}
    # In the order of LINES, as figures show them.
    lines = _empty(["correct", "target_swap", "real_real", *others], n_windows, len(real.signal))
    for rows, channels in real.groups():
        place = {int(row): number for number, row in enumerate(rows)}
        stacked, first = [real.target[rows][:, channels]], {}
        for name, values in made.items():
            first[name] = sum(len(each) for each in stacked)
            stacked.append(values[rows][:, :, channels].reshape(-1, len(channels), real.target.shape[-1]))
        wanted: list[tuple[str, int, int, int]] = []  # line, context, and the two signals of a pair
        for row, number in place.items():
            swapped = [place[other] for other in partners[row]]
            for name, values in made.items():
                count = values.shape[1]
                own = [first[name] + number * count + draw for draw in range(count)]
                wanted += [(name, row, each, number) for each in own]
                if name == "correct":
                    wanted += [("target_swap", row, each, other) for each in own for other in swapped]
            wanted += [("real_real", row, number, other) for other in swapped]
        signals = np.ascontiguousarray(np.concatenate(stacked))
        pairs = [(left, right) for _, _, left, right in wanted]
        found = window_distances(signals, signals, pairs, sfreq_hz, window, stride, fmin_hz, fmax_hz)
        members: dict[tuple[str, int], list[int]] = {}
        for number, (line, row, _, _) in enumerate(wanted):
            members.setdefault((line, row), []).append(number)
        for (line, row), numbers in members.items():
            for distance, values in found.items():
                lines[line][distance][:, row] = values[:, numbers].mean(axis=1)
    return lines


def kinds_and_owners(
    places: Sequence[Place], partners: Partners = "other_session"
) -> tuple[list[tuple[str, str]], list[Any] | None]:
    """What may be swapped with what: (data set, task) of each context, and its session.

    Where all contexts of a kind come from one session, each is its own owner, so that other stretches of that session
    take the part of the other recording. With ``partners="any"`` nobody owns a context: any other one will do.
    """
    kinds = [(place.dataset, place.task) for place in places]
    if partners == "any":
        return kinds, None
    sessions: dict[tuple[str, str], set[int]] = {}
    for kind, place in zip(kinds, places, strict=True):
        sessions.setdefault(kind, set()).add(place.session)
    owners: list[Any] = [
        place.session if len(sessions[kind]) > 1 else (place.session, number)
        for number, (kind, place) in enumerate(zip(kinds, places, strict=True))
    ]
    return kinds, owners


def interval(
    values: Float[np.ndarray, " context"],
    n_bootstrap: int,
    seed: int,
    clusters: Int[np.ndarray, " context"] | None = None,
) -> tuple[float, float | None, float | None, int]:
    """Median over the contexts that have a value, its 95 % interval, and their number.

    Whole clusters are drawn; from a single one no interval can be drawn, and its ends are None.
    """
    defined = np.isfinite(values)
    kept = values[defined]
    if not len(kept):
        return np.nan, None, None, 0
    units = np.arange(len(kept)) if clusters is None else np.asarray(clusters)[defined]
    if len(np.unique(units)) < 2:
        return float(np.median(kept)), None, None, len(kept)
    low, high = bootstrap_median(kept, units, n_bootstrap, seed)
    return float(np.median(kept)), low, high, len(kept)


def _others(
    others: Mapping[str, np.ndarray],
    own: np.ndarray,
    rows: np.ndarray,
    channels: np.ndarray,
    sfreq_hz: float,
    prefixes: Sequence[int],
    settings: Mapping[str, Any],
) -> dict[str, dict[str, np.ndarray]]:
    """Distances of every other method's rollouts to the real continuation, mean over a context's rollouts."""
    if not others:
        return {}
    parts = [values[rows][:, :, channels].reshape(-1, len(channels), own.shape[-1]) for values in others.values()]
    pairs, first = [], 0
    for values in others.values():
        count = values.shape[1]
        pairs += [(first + row * count + draw, row) for row in range(len(rows)) for draw in range(count)]
        first += len(rows) * count
    found = prefix_distances(np.concatenate(parts), own, pairs, sfreq_hz, prefixes, **settings)
    lines: dict[str, dict[str, np.ndarray]] = {}
    first = 0
    for name, values in others.items():
        part = slice(first, first + len(rows) * values.shape[1])
        first = part.stop
        lines[name] = {
            distance: each[:, part].reshape(len(each), len(rows), -1).mean(axis=2) for distance, each in found.items()
        }
    return lines


def _own_context(
    real: RealSignals,
    own: np.ndarray,
    rows: np.ndarray,
    channels: np.ndarray,
    sfreq_hz: float,
    prefixes: Sequence[int],
    settings: Mapping[str, Any],
) -> dict[str, dict[str, np.ndarray]]:
    """Distances of the end of each real context to its continuation, for prefixes that are no longer than it."""
    known = np.ascontiguousarray(real.context[rows][:, channels])
    fitting = [prefix for prefix in prefixes if prefix <= known.shape[-1]]
    if not fitting:
        return {}
    length = fitting[-1]
    pairs = [(row, row) for row in range(len(rows))]
    found = prefix_distances(
        np.ascontiguousarray(known[..., -length:]), own[..., :length], pairs, sfreq_hz, fitting, **settings
    )
    missing = len(prefixes) - len(fitting)
    return {
        "own_context": {
            name: np.concatenate([values, np.full((missing, len(rows)), np.nan)]) for name, values in found.items()
        }
    }


def _without_spectrum(values: Mapping[str, np.ndarray]) -> Bool[np.ndarray, "prefix context"]:
    """Pairs that were compared (their covariance says so) but of which one has no spectrum."""
    return np.isfinite(values["covariance"]) & ~np.isfinite(values["psd_jsd"])


def _empty(names: Sequence[str], n_prefixes: int, n: int) -> dict[str, dict[str, np.ndarray]]:
    return {name: {distance: np.full((n_prefixes, n), np.nan) for distance in DISTANCES} for name in names}


def _fill(into: Mapping[str, Mapping[str, np.ndarray]], found: Lines, rows: np.ndarray) -> None:
    for line, by_distance in found.items():
        for distance, values in by_distance.items():
            into[line][distance][:, rows] = values
