"""Does a rollout stay closer to its own recording than to another one? Divergence curves with swapped controls.

Four lines are followed over growing prefixes: ``correct`` (generated i, real i), ``target_swap`` (generated i, real j),
``prompt_swap`` (generated j, real i) and ``real_real`` (real i, real j), the floor that two independent recordings of
the same kind keep between them. The unit of every statistic is the context, or the cluster (session) of contexts that
are not independent of one another.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.metrics.rollouts import DISTANCES, prefix_distances
from brainlab.metrics.statistics import bootstrap_medians

__all__ = [
    "CONTROLS",
    "LINES",
    "Correction",
    "Divergence",
    "adjusted",
    "divergence",
    "paired",
    "paired_rows",
    "partners",
]

LINES = ("correct", "target_swap", "prompt_swap", "real_real")
CONTROLS = LINES[1:]
Correction = Literal["holm", "benjamini_hochberg", "none"]


def partners(
    kinds: Sequence[Hashable], n_partners: int, seed: int, owners: Sequence[Hashable] | None = None
) -> list[list[int]]:
    """Draw for each context other contexts of the same kind, in the order of the contexts.

    Every control draws with a generator of its own from the same seed, so all controls meet the same partners.

    Args:
        kinds: of each context, for instance (dataset, task).
        n_partners: per context; drawn with replacement only where there are fewer candidates.
        seed: of ``numpy.random.default_rng``.
        owners: of each context (session, subject): partners have another owner. Null: any other context will do.

    Returns:
        one list per context; empty where it has no candidate.

    >>> partners(["rest", "task", "rest"], 2, seed=0)
    [[2, 2], [], [0, 0]]
    """
    if n_partners < 1:
        raise InvalidValue("n_partners", n_partners, "expected at least 1 partner per context")
    if owners is not None and len(owners) != len(kinds):
        raise ShapeMismatch("owners", len(owners), f"expected one per context, {len(kinds)}")
    generator = np.random.default_rng(seed)
    drawn: list[list[int]] = []
    for i, kind in enumerate(kinds):
        candidates = [
            j
            for j, other in enumerate(kinds)
            if j != i and other == kind and (owners is None or owners[j] != owners[i])
        ]
        if not candidates:
            drawn.append([])
            continue
        chosen = generator.choice(candidates, n_partners, replace=n_partners > len(candidates))
        drawn.append([int(j) for j in chosen])
    return drawn


@dataclass(frozen=True)
class Divergence:
    """Distances per line, prefix and context.

    ``lines[line][distance]`` is (prefix, context): the mean over the context's pairs, NaN where it has none.
    """

    sfreq_hz: float
    prefixes: tuple[int, ...]
    lines: Mapping[str, Mapping[str, Float[np.ndarray, "prefix context"]]]
    partners: tuple[tuple[int, ...], ...] = field(default=())

    @property
    def prefixes_s(self) -> list[float]:
        """Lengths of the prefixes in seconds."""
        return [prefix / self.sfreq_hz for prefix in self.prefixes]

    def curves(self) -> dict[str, dict[str, dict[str, list[float | None]]]]:
        """Per line and distance: mean, median, q25, q75, std and n over contexts at each prefix. JSON-ready."""
        return {
            line: {name: _curve(values) for name, values in by_name.items()} for line, by_name in self.lines.items()
        }

    def statistics(
        self,
        n_bootstrap: int = 5000,
        seed: int = 0,
        correction: Correction = "holm",
        clusters: Int[np.ndarray, " context"] | None = None,
    ) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """How much closer ``correct`` is than each control: per control and distance one record per prefix.

        Δ = control − correct, the other way round for similarities, so that positive always speaks for the model. A
        record holds the prefix in seconds and what :func:`paired` found; ``p_adjusted`` corrects over the distances
        of one control at one prefix.

        Args:
            n_bootstrap: resamplings of the median.
            seed: of the resampling.
            correction: for testing 36 distances at once.
            clusters: contexts with the same number count as one (a session's contexts are not independent); see
                :func:`paired`. Null: every context on its own.
        """
        found: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for control in CONTROLS:
            if control not in self.lines:
                continue
            names = list(self.lines["correct"])
            change = np.stack([self.lines[control][name] - self.lines["correct"][name] for name in names])
            change[[DISTANCES[name].better == "higher" for name in names]] *= -1
            records = iter(paired_rows(change.reshape(-1, change.shape[-1]), n_bootstrap, seed, clusters))
            table = {name: [{"prefix_s": s, **next(records)} for s in self.prefixes_s] for name in names}
            for row in range(len(self.prefixes)):
                family = [of_name[row] for of_name in table.values()]
                raw = [np.nan if record["p"] is None else record["p"] for record in family]
                for record, p in zip(family, adjusted(np.array(raw), correction), strict=True):
                    record["p_adjusted"] = _number(p)
            found[control] = table
        return found

    def to_dict(self) -> dict[str, Any]:
        """The values themselves, JSON-ready."""
        return {
            "prefixes_s": self.prefixes_s,
            "partners": [list(drawn) for drawn in self.partners],
            "lines": {
                line: {name: [[_number(v) for v in row] for row in values] for name, values in by_name.items()}
                for line, by_name in self.lines.items()
            },
        }


def divergence(
    generated: Any,
    real: Any,
    sfreq_hz: float,
    prefixes: Sequence[int],
    kinds: Sequence[Hashable],
    *,
    owners: Sequence[Hashable] | None = None,
    context_of: Int[np.ndarray, " rollout"] | None = None,
    n_partners: int = 1,
    seed: int = 0,
    fmin_hz: float = 0.5,
    fmax_hz: float | None = None,
    max_bytes: int = 1 << 30,
    workers: int | None = None,
) -> Divergence:
    """All 36 distances of the four lines at growing prefixes.

    Args:
        generated: (rollout, channel, time).
        real: (context, channel, time), the true continuations.
        sfreq_hz: sampling rate.
        prefixes: lengths in samples, ascending.
        kinds: of each context; partners are of the same kind.
        owners: of each context; see :func:`partners`.
        context_of: the context that each rollout continues; null: one rollout per context, in order.
        n_partners: drawn per context.
        seed: of the draws.
        fmin_hz: lower edge of the spectra.
        fmax_hz: upper edge; null: 0.95 of the Nyquist frequency.
        max_bytes: of spectra held at once.
        workers: threads.

    Raises:
        ShapeMismatch: if rollouts, contexts and kinds do not belong together.
    """
    n_contexts = len(real)
    context_of = np.arange(len(generated)) if context_of is None else np.asarray(context_of)
    if len(kinds) != n_contexts:
        raise ShapeMismatch("kinds", len(kinds), f"expected one per context, {n_contexts}")
    if context_of.shape != (len(generated),) or set(context_of.tolist()) != set(range(n_contexts)):
        raise ShapeMismatch(
            "generated", len(generated), f"expected rollouts that continue each of the {n_contexts} real continuations"
        )
    drawn = partners(kinds, n_partners, seed, owners)
    rollouts = [np.flatnonzero(context_of == i).tolist() for i in range(n_contexts)]
    crossed: list[tuple[int, int]] = []
    member: dict[str, list[tuple[int, int]]] = {line: [] for line in LINES}  # (context, row of its pair)
    floor: list[tuple[int, int]] = []
    for i, others in enumerate(drawn):
        own = [("correct", r, i) for r in rollouts[i]]
        swapped = [("target_swap", r, j) for j in others for r in rollouts[i]]
        prompted = [("prompt_swap", r, i) for j in others for r in rollouts[j]]
        for line, left, right in own + swapped + prompted:
            member[line].append((i, len(crossed)))
            crossed.append((left, right))
        for j in others:
            member["real_real"].append((i, len(floor)))
            floor.append((i, j))
    settings: dict[str, Any] = {"fmin_hz": fmin_hz, "fmax_hz": fmax_hz, "max_bytes": max_bytes, "workers": workers}
    by_pair = prefix_distances(generated, real, crossed, sfreq_hz, prefixes, **settings)
    by_floor = prefix_distances(real, real, floor, sfreq_hz, prefixes, **settings)
    lines = {
        line: {
            name: _by_context((by_floor if line == "real_real" else by_pair)[name], member[line], n_contexts)
            for name in DISTANCES
        }
        for line in LINES
    }
    return Divergence(float(sfreq_hz), tuple(int(p) for p in prefixes), lines, tuple(tuple(row) for row in drawn))


def paired(
    change: Float[np.ndarray, " context"],
    n_bootstrap: int = 5000,
    seed: int = 0,
    clusters: Int[np.ndarray, " context"] | None = None,
) -> dict[str, float | int | None]:
    """Median of paired differences with its interval, share above 0 and the Wilcoxon signed-rank test. JSON-ready.

    Contexts without a value are left out (``n`` says how many are in); a null stands where nothing can be said. With
    ``clusters`` the bootstrap draws whole clusters, and the test is over the medians of the clusters: sixteen contexts
    of six sessions that share their session's luck are six observations, not sixteen.

    Returns:
        ``n``, ``n_clusters`` (the independent units), ``median`` over contexts, ``low`` and ``high`` (95 % percentile
        bootstrap of the median; null for a single unit), ``share_positive`` of the contexts, ``p`` (two-sided).

    Source: Wilcoxon (1945); Efron and Tibshirani (1993), chapter 13.
    """
    return paired_rows(np.asarray(change)[None], n_bootstrap, seed, clusters)[0]


def paired_rows(
    change: Float[np.ndarray, "row context"],
    n_bootstrap: int = 5000,
    seed: int = 0,
    clusters: Int[np.ndarray, " context"] | None = None,
) -> list[dict[str, float | int | None]]:
    """:func:`paired` of many rows about the same contexts, which share the resamplings."""
    change = np.asarray(change, dtype=np.float64)
    nothing = {"n": 0, "n_clusters": 0, "median": None, "low": None, "high": None, "share_positive": None, "p": None}
    found: list[dict[str, float | int | None]] = [dict(nothing) for _ in change]
    patterns, pattern_of = np.unique(np.isfinite(change), axis=0, return_inverse=True)
    for number, defined in enumerate(patterns):
        if not defined.any():
            continue
        (rows,) = np.nonzero(pattern_of.reshape(-1) == number)
        values = change[rows][:, defined]
        groups = np.arange(values.shape[1]) if clusters is None else np.asarray(clusters)[defined]
        members = [groups == group for group in np.unique(groups)]
        low = high = np.full(len(rows), np.nan)
        if len(members) > 1:
            low, high = bootstrap_medians(values, groups, n_bootstrap, seed)
        units = values if clusters is None else np.stack([np.median(values[:, own], axis=1) for own in members], axis=1)
        p = _signed_rank(units)
        for place, row in enumerate(rows.tolist()):
            found[row] = {
                "n": values.shape[1],
                "n_clusters": len(members),
                "median": float(np.median(values[place])),
                "low": _number(low[place]),
                "high": _number(high[place]),
                "share_positive": float((values[place] > 0).mean()),
                "p": _number(p[place]),
            }
    return found


def _signed_rank(values: Float[np.ndarray, "row context"]) -> Float[np.ndarray, " row"]:
    """Two-sided Wilcoxon signed-rank test of each row; NaN where nothing differs or one unit is left."""
    from scipy.stats import wilcoxon

    p = np.full(len(values), np.nan)
    if values.shape[1] < 2:
        return p
    size = np.sort(np.abs(values), axis=1)
    # SciPy chooses its method for a whole table: rows with ties or zeros go alone.
    plain = (size[:, 0] > 0) & (np.diff(size, axis=1) > 0).all(axis=1)
    if plain.any():
        p[plain] = wilcoxon(values[plain], axis=1).pvalue
    for row in np.flatnonzero(~plain & (size[:, -1] > 0)).tolist():
        p[row] = wilcoxon(values[row]).pvalue
    return p


def adjusted(p: Float[np.ndarray, " test"], method: Correction = "holm") -> Float[np.ndarray, " test"]:
    """p-values corrected for the number of tests; NaN stays NaN and is not counted.

    >>> adjusted(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]

    Source: Holm (1979); Benjamini and Hochberg (1995).
    """
    if method == "none":
        return p.copy()
    if method not in ("holm", "benjamini_hochberg"):
        raise InvalidValue("correction", method, "expected holm, benjamini_hochberg or none")
    result = np.full(p.shape, np.nan)
    (tested,) = np.nonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    n = len(order)
    if method == "holm":
        steps = np.maximum.accumulate(p[order] * (n - np.arange(n)))
    else:
        steps = np.minimum.accumulate((p[order] * n / (np.arange(n) + 1))[::-1])[::-1]
    result[order] = np.minimum(steps, 1.0)
    return result


def _by_context(values: np.ndarray, member: Sequence[tuple[int, int]], n_contexts: int) -> np.ndarray:
    """Mean over the pairs of each context, (prefix, context)."""
    total, count = np.zeros((len(values), n_contexts)), np.zeros((len(values), n_contexts))
    for context, row in member:
        defined = ~np.isnan(values[:, row])
        total[:, context] += np.where(defined, values[:, row], 0.0)
        count[:, context] += defined
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _curve(values: Float[np.ndarray, "prefix context"]) -> dict[str, list[float | None]]:
    rows = [row[np.isfinite(row)] for row in values]
    kinds = {
        "mean": np.mean,
        "median": np.median,
        "q25": lambda row: np.quantile(row, 0.25),
        "q75": lambda row: np.quantile(row, 0.75),
        "std": np.std,
    }
    found: dict[str, list[float | None]] = {
        name: [float(kind(row)) if len(row) else None for row in rows]  # type: ignore[operator]
        for name, kind in kinds.items()
    }
    found["n"] = [float(len(row)) for row in rows]
    return found


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return float(value) if np.isfinite(value) else None
