"""Steps in amplitude: robust and standard scaling with stored scalers, clipping, plain units.

Statistics come from the training span by default, so that nothing of a validation or test stretch is in a scaler;
``statistics: recording`` takes the whole recording, as earlier systems did.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from brainlab.errors import InvalidValue
from brainlab.prepare.steps.session import RawSession

__all__ = ["Clip", "RobustScale", "StandardScale", "Unit"]

Statistics = Literal["training", "recording"]


def _check(step: str, statistics: str) -> None:
    if statistics not in ("training", "recording"):
        raise InvalidValue("statistics", statistics, "expected training or recording", where=step)


@dataclass(frozen=True)
class RobustScale:
    """(x − median) / (75 % − 25 % quantile) per channel, linear quantiles; a channel without spread is divided by 1.

    Args:
        statistics: of the "training" span or of the whole "recording".
    """

    statistics: Statistics = "training"

    def __post_init__(self) -> None:
        _check("RobustScale", self.statistics)

    def __call__(self, session: RawSession) -> None:
        start, stop = session.span(self.statistics)
        # Channel by channel: the copy that the selection of quantiles needs is then one row.
        quantiles = np.array([np.quantile(row[start:stop], (0.25, 0.5, 0.75)) for row in session.samples])
        spread = quantiles[:, 2] - quantiles[:, 0]
        session.rescale(quantiles[:, 1], np.where(spread == 0, 1.0, spread))
        session.note("RobustScale", statistics=self.statistics, samples=[start, stop])


@dataclass(frozen=True)
class StandardScale:
    """(x − mean) / population standard deviation per channel; a channel without spread is divided by 1.

    Args:
        statistics: of the "training" span or of the whole "recording".
    """

    statistics: Statistics = "training"

    def __post_init__(self) -> None:
        _check("StandardScale", self.statistics)

    def __call__(self, session: RawSession) -> None:
        start, stop = session.span(self.statistics)
        mean, spread = _moments(session, start, stop)
        session.rescale(mean, np.where(spread == 0, 1.0, spread))
        session.note("StandardScale", statistics=self.statistics, samples=[start, stop])


@dataclass(frozen=True)
class Clip:
    """Limit every channel to mean ± k·σ (population σ); how much was clipped is noted.

    Args:
        k: half-width in standard deviations.
        statistics: of the "training" span or of the whole "recording".
    """

    k: float = 3.0
    statistics: Statistics = "training"

    def __post_init__(self) -> None:
        _check("Clip", self.statistics)
        if not self.k > 0:
            raise InvalidValue("k", self.k, "expected a positive number of standard deviations", where="Clip")

    def __call__(self, session: RawSession) -> None:
        start, stop = session.span(self.statistics)
        mean, spread = _moments(session, start, stop)
        outside = 0
        for row, low, high in zip(session.samples, mean - self.k * spread, mean + self.k * spread, strict=True):
            outside += int(np.count_nonzero(row < low) + np.count_nonzero(row > high))
            np.clip(row, low, high, out=row)
        pct = 100 * outside / max(1, session.samples.size)
        session.note("Clip", k=self.k, statistics=self.statistics, clipped_pct=round(pct, 4))


@dataclass(frozen=True)
class Unit:
    """Store multiples of a unit: 1e-4 V keeps EEG as hundreds of microvolts, 1e-12 T keeps MEG as picotesla.

    Args:
        volts_per_unit: for electrodes; null leaves volts.
        teslas_per_unit: for magnetometers and axial gradiometers.
        teslas_per_metre_per_unit: for planar gradiometers.
    """

    volts_per_unit: float | None = 1e-4
    teslas_per_unit: float | None = None
    teslas_per_metre_per_unit: float | None = None

    def __post_init__(self) -> None:
        for name in ("volts_per_unit", "teslas_per_unit", "teslas_per_metre_per_unit"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidValue(name, value, "expected a positive number or null", where="Unit")

    def __call__(self, session: RawSession) -> None:
        of_kind = {"mag": (self.teslas_per_unit, "T"), "grad": (self.teslas_per_metre_per_unit, "T/m")}
        kinds = session.kinds
        chosen = [of_kind.get(kind, (self.volts_per_unit, "V")) for kind in kinds]
        scale = np.array([size or 1.0 for size, _ in chosen])
        session.rescale(np.zeros(len(scale)), scale)
        for name, (size, si) in zip(session.ch_names, chosen, strict=True):
            if size is not None:
                session.units[name] = f"{size:g} {si}"
        session.note("Unit", **{si: size for size, si in sorted({(s, si) for s, si in chosen if s is not None})})


def _moments(session: RawSession, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    rows = [row[start:stop] for row in session.samples]
    return np.array([row.mean() for row in rows]), np.array([row.std() for row in rows])
