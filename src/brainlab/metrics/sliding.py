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
_FEWEST = 3  # contexts, so that the others of each span a range


@dataclass(frozen=True)
class WindowComparison:
    """Generated against real values of each feature in each window.

    ``generated`` and ``real``: feature → (quantile, window), in the order of :data:`QUANTILES`. ``outside``: feature →
    share of the generated values outside the real 5–95 % range, per window. ``diversity``: feature → interquartile
    range of the generated over that of the real values, per window (NaN where the real values do not vary).

    The range of few recordings is narrow: of six, a third of all new recordings lies outside. ``beyond_others`` is
    therefore feature → (context, window), the share of a context's generated values outside the 5–95 % range of the
    *other* real contexts, and ``real_beyond_others`` the same for its real values: what a perfect generator scores with
    so many contexts. Both are NaN for fewer than three contexts.
    """

    generated: Mapping[str, Float[np.ndarray, "quantile window"]]
    real: Mapping[str, Float[np.ndarray, "quantile window"]]
    outside: Mapping[str, Float[np.ndarray, " window"]]
    diversity: Mapping[str, Float[np.ndarray, " window"]]
    beyond_others: Mapping[str, Float[np.ndarray, "context window"]]
    real_beyond_others: Mapping[str, Float[np.ndarray, "context window"]]

    def outside_others(self) -> tuple[Float[np.ndarray, " context"], Float[np.ndarray, " context"]]:
        """Share outside the range of the other real contexts, mean over features and windows: generated and real."""
        return _by_context(self.beyond_others), _by_context(self.real_beyond_others)

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
            "outside_others_by_context": _listed(self.outside_others()[0]),
            "real_outside_others_by_context": _listed(self.outside_others()[1]),
        }


def compare_windows(
    generated: Mapping[str, Float[np.ndarray, "signal window"]],
    real: Mapping[str, Float[np.ndarray, "context window"]],
) -> WindowComparison:
    """Compare what :func:`brainlab.metrics.rollouts.window_summaries` found in generated and in real recordings.

    Features without a single number on either side (token numbers of signals) are left out, and so are shares of bands
    in which there is no frequency to compare. By construction about a
    tenth of real values lies outside their own range; of *other* recordings more, the fewer contexts there are.

    Args:
        generated: as many signals of each context, context by context.
        real: one signal of each context.

    Raises:
        ShapeMismatch: if features or numbers of windows differ, or signals do not belong to contexts.
    """
    if list(generated) != list(real):
        raise ShapeMismatch("generated", list(generated), f"expected the features {list(real)}")
    kept = [
        name
        for name in generated
        if np.isfinite(generated[name]).any()
        and np.isfinite(real[name]).any()
        and not _is_empty_band(name, generated[name], real[name])
    ]
    made, true, outside, diversity, beyond_others, real_beyond = {}, {}, {}, {}, {}, {}
    for name in kept:
        if generated[name].shape[1:] != real[name].shape[1:]:
            raise ShapeMismatch("generated", generated[name].shape, f"expected windows as in {real[name].shape}")
        if len(generated[name]) % len(real[name]):
            raise ShapeMismatch(
                "generated", generated[name].shape, f"expected equally many signals of {len(real[name])} contexts"
            )
        made[name], true[name] = _quantiles(generated[name]), _quantiles(real[name])
        values = generated[name]
        outside[name] = _mean_over_features(dict(enumerate(_beyond(values, true[name][0], true[name][-1]))))
        beyond_others[name], real_beyond[name] = _beyond_others(values, real[name])
        spread = true[name][3] - true[name][1]
        with np.errstate(divide="ignore", invalid="ignore"):
            diversity[name] = np.where(spread > 0, (made[name][3] - made[name][1]) / spread, np.nan)
    return WindowComparison(made, true, outside, diversity, beyond_others, real_beyond)


def _is_empty_band(name: str, *sides: np.ndarray) -> bool:
    return name.startswith("bandpower_ratio_") and not any(np.nan_to_num(values).any() for values in sides)


def _beyond(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """1 where a value lies outside, NaN where there is no value or no range."""
    beyond = ((values < low) | (values > high)).astype(np.float64)
    beyond[np.isnan(values) | np.isnan(np.broadcast_to(low, values.shape))] = np.nan
    return beyond


def _beyond_others(
    generated: Float[np.ndarray, "signal window"], real: Float[np.ndarray, "context window"]
) -> tuple[Float[np.ndarray, "context window"], Float[np.ndarray, "context window"]]:
    """Each context's generated and real values against the range of the other contexts' real values."""
    n = len(real)
    made, true = np.full(real.shape, np.nan), np.full(real.shape, np.nan)
    if n < _FEWEST:
        return made, true
    drawn = generated.reshape(n, -1, real.shape[1])
    for row in range(n):
        ends = _quantiles(np.delete(real, row, axis=0))
        own = _beyond(drawn[row], ends[0], ends[-1])
        made[row] = _mean_over_features(dict(enumerate(own)))
        true[row] = _beyond(real[row], ends[0], ends[-1])
    return made, true


def _by_context(by_feature: Mapping[str, Float[np.ndarray, "context window"]]) -> Float[np.ndarray, " context"]:
    return _mean_over_features(dict(enumerate(np.concatenate([table.T for table in by_feature.values()]))))


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
