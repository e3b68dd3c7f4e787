"""Are generated recordings as varied as real ones, and do they stay among them, window by window?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from brainlab.errors import ShapeMismatch

__all__ = ["QUANTILES", "WindowComparison", "compare_windows"]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class WindowComparison:
    """Generated against real values of each feature in each window.

    ``generated`` and ``real``: feature → (quantile, window), in the order of :data:`QUANTILES`. ``outside``: feature →
    share of the generated values outside the real 5–95 % range, per window. ``diversity``: feature → interquartile
    range of the generated over that of the real values, per window (NaN where the real values do not vary).
    """

    generated: Mapping[str, Float[np.ndarray, "quantile window"]]
    real: Mapping[str, Float[np.ndarray, "quantile window"]]
    outside: Mapping[str, Float[np.ndarray, " window"]]
    diversity: Mapping[str, Float[np.ndarray, " window"]]

    def outside_rate(self) -> Float[np.ndarray, " window"]:
        """Mean over features of the share outside the real range, per window."""
        return _mean_over_features(self.outside)

    def diversity_ratio(self) -> Float[np.ndarray, " window"]:
        """Median over features of the ratio of interquartile ranges, per window; 1 = as varied as real ones."""
        table = np.stack(list(self.diversity.values()))
        return np.array([np.median(c[~np.isnan(c)]) if (~np.isnan(c)).any() else np.nan for c in table.T])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; null where there is no number."""
        return {
            "quantiles": list(QUANTILES),
            "generated": {name: _listed(values) for name, values in self.generated.items()},
            "real": {name: _listed(values) for name, values in self.real.items()},
            "outside": {name: _listed(values) for name, values in self.outside.items()},
            "diversity": {name: _listed(values) for name, values in self.diversity.items()},
            "outside_rate": _listed(self.outside_rate()),
            "diversity_ratio": _listed(self.diversity_ratio()),
        }


def compare_windows(
    generated: Mapping[str, Float[np.ndarray, "signal window"]],
    real: Mapping[str, Float[np.ndarray, "signal window"]],
) -> WindowComparison:
    """Compare what :func:`brainlab.metrics.rollouts.window_summaries` found in generated and in real recordings.

    Features without a single number on either side (token numbers of signals) are left out. By construction about a
    tenth of real values lies outside their own range.

    Raises:
        ShapeMismatch: if features or numbers of windows differ.
    """
    if list(generated) != list(real):
        raise ShapeMismatch("generated", list(generated), f"expected the features {list(real)}")
    kept = [name for name in generated if np.isfinite(generated[name]).any() and np.isfinite(real[name]).any()]
    made, true, outside, diversity = {}, {}, {}, {}
    for name in kept:
        if generated[name].shape[1:] != real[name].shape[1:]:
            raise ShapeMismatch("generated", generated[name].shape, f"expected windows as in {real[name].shape}")
        made[name], true[name] = _quantiles(generated[name]), _quantiles(real[name])
        values = generated[name]
        beyond = ((values < true[name][0]) | (values > true[name][-1])).astype(np.float64)
        beyond[np.isnan(values)] = np.nan
        outside[name] = _mean_over_features(dict(enumerate(beyond)))
        spread = true[name][3] - true[name][1]
        with np.errstate(divide="ignore", invalid="ignore"):
            diversity[name] = np.where(spread > 0, (made[name][3] - made[name][1]) / spread, np.nan)
    return WindowComparison(made, true, outside, diversity)


def _quantiles(values: np.ndarray) -> np.ndarray:
    columns = [column[np.isfinite(column)] for column in values.T]
    nothing = np.full(len(QUANTILES), np.nan)
    return np.stack([np.quantile(column, QUANTILES) if len(column) else nothing for column in columns], axis=1)


def _mean_over_features(by_feature: Mapping[Any, np.ndarray]) -> np.ndarray:
    table = np.stack(list(by_feature.values()))
    defined = ~np.isnan(table)
    count = defined.sum(axis=0)
    return np.where(count > 0, np.where(defined, table, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)


def _listed(values: np.ndarray) -> Any:
    if values.ndim > 1:
        return [_listed(row) for row in values]
    return [float(value) if np.isfinite(value) else None for value in values]
