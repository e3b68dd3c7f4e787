"""Scaling EEG to the range that a network expects, and noticing when it does not get there."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from brainlab.errors import InvalidValue

__all__ = ["POLICIES", "AmplitudeStatistics", "amplitude_statistics", "scale_amplitude"]

AmplitudePolicy = Literal["uv/100", "zscore", "robust", "none"]
POLICIES: tuple[AmplitudePolicy, ...] = ("uv/100", "zscore", "robust", "none")

_MICROVOLTS = {"V": 1e6, "mV": 1e3, "uV": 1.0, "µV": 1.0, "": 1.0}
# CBraMod was pretrained on segments whose largest deflection is below 100 µV, divided by 100.
_PRETRAINED_STD = (0.03, 1.5)
_NORMAL_IQR = 1.3489795003921634


def scale_amplitude(
    samples: Float[np.ndarray, "*rows time"], policy: AmplitudePolicy, unit: str = "V"
) -> Float[np.ndarray, "*rows time"]:
    """Scale samples by a policy.

    ``uv/100`` divides microvolts by 100; ``zscore`` and ``robust`` centre and scale every row over time, by mean and
    standard deviation or by median and interquartile range (as a standard deviation); ``none`` leaves all as it is. A
    row without variation becomes zero.

    Args:
        samples: rows of samples.
        policy: one of the four.
        unit: of the samples: V, mV, uV, or empty for dimensionless data, which ``uv/100`` takes for microvolts.

    Raises:
        InvalidValue: for an unknown policy or unit.
    """
    samples = np.asarray(samples)
    if samples.dtype != np.float64:
        samples = samples.astype(np.float32, copy=False)
    if policy == "none":
        return samples
    if policy == "uv/100":
        if unit not in _MICROVOLTS:
            raise InvalidValue("unit", unit, f"expected one of {', '.join(filter(None, _MICROVOLTS))} for uv/100")
        return samples * samples.dtype.type(_MICROVOLTS[unit] / 100)
    if policy == "zscore":
        centre = samples.mean(axis=-1, keepdims=True, dtype=np.float64)
        spread = samples.std(axis=-1, keepdims=True, dtype=np.float64)
    elif policy == "robust":
        low, centre, high = np.percentile(samples, (25, 50, 75), axis=-1, keepdims=True)
        spread = (high - low) / _NORMAL_IQR
    else:
        raise InvalidValue("amplitude", policy, f"unknown policy; expected one of {', '.join(POLICIES)}")
    inverse = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
    return ((samples - centre) * inverse).astype(samples.dtype, copy=False)


@dataclass(frozen=True)
class AmplitudeStatistics:
    """What scaled samples look like; ``std`` is the median over rows of the standard deviation over time."""

    std: float
    median_abs: float
    p99_abs: float
    max_abs: float
    share_above_one: float
    n_rows: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def concern(self) -> str | None:
        """A sentence when the amplitude is far from what the network was pretrained on, else None."""
        low, high = _PRETRAINED_STD
        if low <= self.std <= high:
            return None
        side = "below" if self.std < low else "above"
        return (
            f"The scaled EEG has a standard deviation of {self.std:.3g}, {side} the {low:g} to {high:g} of the data "
            "that the encoder was pretrained on; choose data.amplitude=zscore or robust for data that are not in "
            "microvolts."
        )


def amplitude_statistics(samples: Float[np.ndarray, "*rows time"]) -> AmplitudeStatistics:
    """Statistics of scaled samples, for the log and for :meth:`AmplitudeStatistics.concern`."""
    rows = np.asarray(samples).reshape(-1, np.shape(samples)[-1])
    if not rows.size:
        raise InvalidValue("samples", np.shape(samples), "expected at least one sample")
    size = np.abs(rows)
    return AmplitudeStatistics(
        std=float(np.median(rows.std(axis=-1))),
        median_abs=float(np.median(size)),
        p99_abs=float(np.percentile(size, 99)),
        max_abs=float(size.max()),
        share_above_one=float((size > 1).mean()),
        n_rows=len(rows),
    )
