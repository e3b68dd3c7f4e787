"""Steps that look at the samples before anything is done to them: missing ones, impossible units, values held too long.

The first two open every preparation, with their defaults where the configuration does not name them. Their sentences
take it that it names them ``missing`` and ``units``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from brainlab.errors import InvalidFile, InvalidValue
from brainlab.io.recording import Annotation
from brainlab.prepare.steps.session import DATA_KINDS, Discarded, RawSession

__all__ = ["HeldValues", "MissingSamples", "Statistics", "Units"]

_UNITS = {
    "T": 1.0, "mT": 1e-3, "uT": 1e-6, "nT": 1e-9, "pT": 1e-12, "fT": 1e-15,
    "T/m": 1.0, "pT/m": 1e-12, "fT/m": 1e-15, "pT/cm": 1e-10, "fT/cm": 1e-13,
    "V": 1.0, "mV": 1e-3, "uV": 1e-6, "µV": 1e-6, "nV": 1e-9,
}  # fmt: skip
_USUAL = {"mag": "fT", "grad": "fT/cm", "eeg": "uV"}
_STAIRS = 5  # held values that make a staircase; fewer are pauses
_LISTED = 5
# Standard deviations in SI units that a recording of brains may have, unfiltered, uncompensated, with drifts.
_PLAUSIBLE = {"mag": (1e-16, 1e-8, "T"), "grad": (1e-15, 1e-7, "T/m"), "eeg": (1e-8, 1e-2, "V")}


@dataclass(frozen=True)
class MissingSamples:
    """Samples that are not finite.

    Args:
        action: "raise" ends in a sentence with channel and time; "mark" bridges them by a straight line and marks the
            stretch with an annotation ``BAD_missing``, which no window touches.
        max_share: with "mark", a channel that misses more than this share becomes a bad channel of zeros instead.
    """

    action: Literal["raise", "mark"] = "raise"
    max_share: float = 0.1

    def __post_init__(self) -> None:
        if self.action not in ("raise", "mark"):
            raise InvalidValue("action", self.action, "expected raise or mark", where="MissingSamples")

    def __call__(self, session: RawSession) -> None:
        samples, rows = session.samples, np.array(session.rows(), dtype=int)
        if not len(rows):
            return
        # A sum is finite if and only if all terms are, short of an overflow: one pass without a mask.
        with np.errstate(over="ignore", invalid="ignore"):
            suspects = [row for row in rows.tolist() if not np.isfinite(samples[row].sum())]
        missing = {row: ~np.isfinite(samples[row]) for row in suspects}
        missing = {row: mask for row, mask in missing.items() if mask.any()}
        if not missing:
            return
        if self.action == "raise":
            raise self._refused(session, missing)
        lost, stretch = [], np.zeros(session.n_samples, dtype=bool)
        for row, mask in missing.items():
            if mask.mean() > self.max_share:
                samples[row] = 0.0
                lost.append(session.ch_names[row])
                continue
            good = np.flatnonzero(~mask)
            samples[row, mask] = np.interp(np.flatnonzero(mask), good, samples[row, good])
            stretch |= mask
        if len(lost) == len(rows):
            raise InvalidFile(
                "samples", "nan",
                f"expected finite numbers, every channel lacks more than {100 * self.max_share:g} % of them, too many"
                " to bridge", where=session.source,
                hint="data.include or data.on_error=skip goes on without the file",
            )  # fmt: skip
        session.raw.info["bads"] = [*session.raw.info["bads"], *(n for n in lost if n not in session.raw.info["bads"])]
        spans = _runs(stretch)
        rate = session.sfreq_hz
        session.annotations += [Annotation(a / rate, (b - a) / rate, "BAD_missing") for a, b in spans]
        session.note(
            "MissingSamples", channels=[session.ch_names[row] for row in missing], bad_channels=lost,
            stretches_s=[[a / rate, b / rate] for a, b in spans],
        )  # fmt: skip

    def _refused(self, session: RawSession, missing: dict[int, np.ndarray]) -> InvalidFile:
        row, mask = next(iter(missing.items()))
        start, stop = _runs(mask)[0]
        more = f" and {len(missing) - 1} more channels" if len(missing) > 1 else ""
        return InvalidFile(
            "samples", session.samples[row, start],
            f"expected finite numbers, channel {session.ch_names[row]}{more} has none from {start / session.sfreq_hz:g}"
            f" to {stop / session.sfreq_hz:g} s",
            where=session.source,
            hint="data.steps.missing.action=mark bridges them and keeps windows away",
        )  # fmt: skip


@dataclass(frozen=True)
class Units:
    """What the file's numbers are; MNE takes them for volts, tesla and tesla per metre.

    Args:
        mag: unit of magnetometers and axial gradiometers: T, nT, pT, fT.
        grad: unit of planar gradiometers: T/m, pT/cm, fT/cm …
        eeg: unit of electrodes: V, mV, uV, nV.
        check: refuse a typical amplitude that no brain has.
    """

    mag: str = "T"
    grad: str = "T/m"
    eeg: str = "V"
    check: bool = True

    def __post_init__(self) -> None:
        for kind in _PLAUSIBLE:
            unit = getattr(self, kind)
            fitting = [name for name in _UNITS if ("T" if kind != "eeg" else "V") in name]
            if unit not in fitting:
                raise InvalidValue(kind, unit, f"expected one of {', '.join(fitting)}", where="Units")

    def __call__(self, session: RawSession) -> None:
        kinds = np.array(session.kinds)
        changed: dict[str, str] = {}
        for kind in _PLAUSIBLE:
            unit = getattr(self, kind)
            if _UNITS[unit] != 1.0 and (kinds == kind).any():
                session.samples[kinds == kind] *= _UNITS[unit]
                changed[kind] = unit
        if changed:
            session.note("Units", **changed)
        if not self.check:
            return
        spread = {kind: _spread(session, np.flatnonzero(kinds == kind)) for kind in _PLAUSIBLE}
        brain = np.isin(kinds, DATA_KINDS)
        if brain.any() and not any((values > 0).any() for values in spread.values()) and _flat(session, brain):
            raise InvalidFile("samples", "constant", "expected channels that vary, all are flat", where=session.source)
        for kind, (low, high, unit) in _PLAUSIBLE.items():
            values = spread[kind][spread[kind] > 0]
            typical = float(np.median(values)) if len(values) else None
            if typical is not None and not low <= typical <= high:
                raise InvalidFile(
                    f"{kind} amplitude", f"{typical:.3g} {unit}",
                    f"expected a standard deviation between {low:g} and {high:g} {unit}", where=session.source,
                    hint=f"data.steps.units.{kind}={_USUAL[kind]} if that is what the file holds;"
                    " data.steps.units.check=false accepts any amplitude",
                )  # fmt: skip


@dataclass(frozen=True)
class HeldValues:
    """Channels that stand still on one value after another: a dead amplifier, or fewer samples than the file claims.

    A channel that holds its values becomes a bad channel. Where all channels of a kind do, nothing tells them apart:
    then they are kept, and a warning says how slow the recording really is. Filters hide all this, so it comes before
    them, and before references enter other channels. It looks at the training span. Constant channels and single
    pauses are left to :class:`~brainlab.prepare.steps.channels.BadChannels` and to cleaning.

    Args:
        least_s: a value is held when it stays for this long; no brain does.
        max_share: share of the training span that may be held.
    """

    least_s: float = 0.1
    max_share: float = 0.5

    def __post_init__(self) -> None:
        if not self.least_s > 0:
            raise InvalidValue("least_s", self.least_s, "expected a positive number", where="HeldValues")
        if not 0 <= self.max_share < 1:
            raise InvalidValue("max_share", self.max_share, "expected 0 to below 1", where="HeldValues")

    def __call__(self, session: RawSession) -> None:
        samples, rate = session.samples[:, slice(*session.span("training"))], session.sfreq_hz
        kinds, bads, held = np.array(session.kinds), session.raw.info["bads"], dict[str, float]()
        for kind in (*DATA_KINDS, "ref_meg"):
            holds = {session.ch_names[row]: self._hold_s(samples[row], rate) for row in np.flatnonzero(kinds == kind)}
            varying = {name: hold_s for name, hold_s in holds.items() if hold_s is not None}
            found = {name: hold_s for name, hold_s in varying.items() if hold_s}
            if not found:
                continue
            hold_s = float(np.median(list(found.values())))
            if len(found) == len(varying):
                session.warn(
                    f"{len(found)} of {len(varying)} {kind} channels hold each value for about {hold_s:.3g} s: nothing"
                    f" above {0.5 / hold_s:.3g} Hz was recorded, whatever the rate of {rate:g} Hz promises"
                )
            else:
                bads = [*bads, *(name for name in found if name not in bads)]
                session.warn(f"bad channels that hold each value for about {hold_s:.3g} s: {_listed(found)}")
            held |= found
        session.raw.info["bads"] = bads
        if held:
            session.note("HeldValues", hold_s={name: round(hold_s, 4) for name, hold_s in held.items()})

    def _hold_s(self, row: np.ndarray, sfreq_hz: float) -> float | None:
        """Typical time for which a value is held, in s; 0 where the channel varies as it should, None if constant."""
        same = row[1:] == row[:-1]
        n_same = np.count_nonzero(same)
        if n_same == len(same):
            return None
        if n_same <= self.max_share * len(same):
            return 0.0
        lengths = np.array([stop - start + 1 for start, stop in _runs(same)])
        long = lengths[lengths >= max(2, self.least_s * sfreq_hz)]
        if len(long) < _STAIRS or long.sum() <= self.max_share * len(row):
            return 0.0
        return float(np.median(long)) / sfreq_hz


@dataclass(frozen=True)
class Statistics:
    """Note mean, standard deviation, range and how much of the session lies at its edges, and leave out odd ones.

    Args:
        edge_range: a sample lies at the edge when it is this near to the smallest or largest, in units of the store.
        min_std: sessions with less spread are discarded; null keeps them.
        max_std: sessions with more spread are discarded.
        max_edge_pct: sessions with more samples at the edges are discarded.
    """

    edge_range: float = 0.1
    min_std: float | None = None
    max_std: float | None = None
    max_edge_pct: float | None = None

    def __call__(self, session: RawSession) -> None:
        samples = session.samples[session.rows()]
        low, high = float(samples.min()), float(samples.max())
        edge = (samples <= low + self.edge_range) | (samples >= high - self.edge_range)
        facts: dict[str, Any] = {
            "mean": float(samples.mean()),
            "std": float(samples.std()),
            "min": low,
            "max": high,
            "edge_pct": 100 * float(edge.mean()),
        }
        session.note("Statistics", **facts)
        for name, bound, beyond in (
            ("std", self.min_std, self.min_std is not None and facts["std"] < self.min_std),
            ("std", self.max_std, self.max_std is not None and facts["std"] > self.max_std),
            ("edge_pct", self.max_edge_pct, self.max_edge_pct is not None and facts["edge_pct"] > self.max_edge_pct),
        ):
            if beyond:
                raise Discarded(f"{name} {facts[name]:.4g} is beyond {bound:g}", facts)


def _spread(session: RawSession, rows: np.ndarray) -> np.ndarray:
    """Standard deviation per channel over at most 20 pieces of 1 s: enough to tell tesla from femtotesla."""
    rate, n = max(2, round(session.sfreq_hz)), session.n_samples
    starts = np.linspace(0, max(0, n - rate), min(20, max(1, n // rate)), dtype=int)
    spread = np.zeros((len(starts), len(rows)))
    for number, start in enumerate(starts.tolist()):
        piece = session.samples[rows, start : start + rate]  # a copy, because rows are numbered
        piece -= piece.mean(axis=1, keepdims=True)
        # A quarter of the time of np.std, which makes two more copies.
        spread[number] = np.sqrt(np.einsum("ct,ct->c", piece, piece) / piece.shape[1])
    return np.median(spread, axis=0)


def _listed(names: Iterable[str]) -> str:
    first = list(names)
    return ", ".join(first[:_LISTED]) + (f" and {len(first) - _LISTED} more" if len(first) > _LISTED else "")


def _flat(session: RawSession, brain: np.ndarray) -> bool:
    return all(np.ptp(session.samples[row]) == 0 for row in np.flatnonzero(brain).tolist())


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """[start, stop) of every run of true values.

    >>> _runs(np.array([True, False, True, True]))
    [(0, 1), (2, 4)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
