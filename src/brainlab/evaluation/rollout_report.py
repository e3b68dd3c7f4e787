"""The numbers and tables of a report on rollouts, and the findings that they are read from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from brainlab.evaluation.rollout_divergence import Compared, interval
from brainlab.evaluation.rollout_tokens import TokenSummary
from brainlab.evaluation.session_sampler import SampledPlaces
from brainlab.metrics.divergence import CONTROLS, Correction
from brainlab.metrics.rollouts import DISTANCES
from brainlab.metrics.sliding import WindowComparison
from brainlab.metrics.statistics import bootstrap_mean
from brainlab.plot.rollout_lines import FEW
from brainlab.types import DataSource, Metric, Table

__all__ = ["HEADLINES", "WORDS", "Findings", "metrics_of", "statistics_markdown", "tables_of"]

#: Distances that are metrics of their own, by the name they have there.
HEADLINES = {"psd": "psd_jsd", "covariance": "covariance"}

WORDS = {
    "correct": "rollouts of the model against the real continuation of the same context",
    "target_swap": "the same rollouts against the real continuation of another context",
    "prompt_swap": "rollouts from another context against this real continuation",
    "real_real": "real continuations of two different contexts: what an ideal model keeps that ignores its context",
    "own_context": "the end of the real context against its real continuation, equally long",
    "tokenizer": "the real continuation after encoding and decoding: what the codes alone cost",
}


@dataclass(frozen=True)
class Findings:
    """What an evaluation of rollouts found; reports and figures read from it."""

    sampled: SampledPlaces
    compared: Compared
    statistics: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
    windows: Mapping[str, WindowComparison]
    times_s: list[float]
    drift: Mapping[str, Mapping[str, Float[np.ndarray, "window context"]]]
    tokens: TokenSummary | None
    facts: Mapping[str, Mapping[str, Any]]
    source: DataSource
    part: str
    read_s: float | None
    described: Mapping[str, Mapping[str, Any]]
    n_bootstrap: int
    seed: int
    groups: Sequence[tuple[Int[np.ndarray, " context"], Int[np.ndarray, " channel"]]]
    correction: Correction

    @property
    def length_s(self) -> float:
        """The longest prefix."""
        return self.compared.divergence.prefixes_s[-1]

    @property
    def baselines(self) -> list[str]:
        """Names of the forecasters beside the model."""
        return [name for name in self.compared.lines if name in self.described]

    def gain(self, line: str, distance: str) -> dict[str, Any]:
        """How much nearer the model is than another line."""
        return self.compared.gain(line, distance, self.n_bootstrap, self.seed)

    def interval(self, line: str, distance: str) -> tuple[float, float | None, float | None, int]:
        """Median of a line, its interval over sessions, and the number of contexts."""
        values = self.compared.at_the_end()[line][distance]
        value, low, high, n = interval(values, self.n_bootstrap, self.seed, self.compared.clusters)
        # Two recordings have one distance, however often it is counted.
        return (
            (value, None, None, n) if line == "real_real" and self.compared.unit_pairs() < 3 else (value, low, high, n)
        )

    @property
    def units(self) -> Int[np.ndarray, " context"]:
        """What counts as one in intervals, of each context."""
        clusters = self.compared.clusters
        return np.arange(len(self.sampled.places)) if clusters is None else clusters


def metrics_of(found: Findings) -> list[Metric]:
    """PSD and covariance distance of every line, paired gains, windows and codes; each with its interval."""
    ends = found.compared.at_the_end()
    metrics: list[Metric] = []
    for short, distance in HEADLINES.items():
        middle = {
            line: float(np.nanmedian(values[distance])) for line, values in ends.items() if _any(values[distance])
        }
        for line in middle:
            value, low, high, n = found.interval(line, distance)
            own = line == "correct"
            metrics.append(
                Metric(
                    f"{short}_distance" if own else f"{short}_{line}",
                    value,
                    low,
                    high,
                    control=middle.get("target_swap") if own else None,
                    ceiling=middle.get("tokenizer") if own else None,
                    n=n,
                    better="lower",
                    note=_note(line, short, found) + (_references(middle) if own else ""),
                )
            )
        for line in (*CONTROLS, *found.baselines):
            if line not in middle:
                continue
            gain = found.gain(line, distance)
            if not gain["n"]:
                continue
            several = gain["n_clusters"] > 1
            p = f"; Wilcoxon over {gain['n_clusters']} {found.compared.unit} p = {_p(gain['p'])}" if several else ""
            metrics.append(
                Metric(
                    f"{short}_gain_over_{line}",
                    gain["median"],
                    gain["low"],
                    gain["high"],
                    chance=0.0,
                    n=gain["n"],
                    note=f"median over contexts of {line.replace('_', ' ')} − model, paired; above 0 in "
                    f"{gain['share_positive']:.0%} of contexts{p}",
                )
            )
    return [*metrics, *_window_metrics(found), *_token_metrics(found)]


def _window_metrics(found: Findings) -> list[Metric]:
    metrics = []
    units = found.units[found.groups[0][0]]
    for name, windows in found.windows.items():
        suffix = "" if name == "model" else f"_{name}"
        outside, of_real = windows.outside_others()
        judged = np.isfinite(outside) & np.isfinite(of_real)
        if judged.any():
            low, high = _of_mean(outside[judged], units[judged], found)
            metrics.append(
                Metric(
                    f"outside_real_range{suffix}",
                    float(outside[judged].mean()),
                    low,
                    high,
                    ceiling=float(of_real[judged].mean()),
                    n=int(judged.sum()),
                    better="lower",
                    note="share of window statistics outside the 5–95 % range of the other real contexts, mean over "
                    "features and windows; ceiling: the real continuations themselves, as for a perfect generator. "
                    "Below it: less varied than real",
                )
            )
            # As published, to compare numbers with.
            metrics.append(
                Metric(
                    f"outside_rate{suffix}",
                    float(np.nanmean(windows.outside_rate())),
                    n=int(judged.sum()),
                    better="lower",
                    note="share of window statistics outside the 5–95 % range of all real contexts, mean over features "
                    "and windows. The range holds the context's own continuation, and a tenth of the real values lies "
                    "outside it by construction; outside_real_range leaves the own context out and judges real ones "
                    "alike",
                )
            )
        diversity = windows.diversity_ratio()
        if _any(diversity):
            ratio = float(np.nanmedian(diversity))
            metrics.append(
                Metric(
                    f"diversity_error{suffix}",
                    abs(ratio - 1.0),
                    ceiling=0.0,
                    n=len(units),
                    better="lower",
                    note=f"distance of the diversity from 1; it is {ratio:.3g}: interquartile range of the statistics "
                    "over contexts, generated / real (below 1: less varied than real, above: more)"
                    + (f"; that of {len(units)} contexts says little" if len(units) < FEW else ""),
                )
            )
    return metrics


def _token_metrics(found: Findings) -> list[Metric]:
    if found.tokens is None:
        return []
    tokens, facts = found.tokens, found.tokens.facts
    n = len(found.units)
    low, high = _of_mean(tokens.bits_per_token, found.units, found)
    unigram = facts["unigram_bits_per_token"]
    uniform = facts["uniform_bits_per_token"]
    metrics = [
        Metric(
            "bits_per_token",
            facts["bits_per_token"],
            low,
            high,
            chance=uniform,
            control=unigram,
            n=n,
            unit="bit",
            better="lower",
            note="real codes, each given those before it; control: frequencies of codes in training; chance: "
            "all codes equally likely",
        ),
        Metric(
            "perplexity",
            facts["perplexity"],
            None if low is None else 2**low,
            None if high is None else 2**high,
            chance=2**uniform,
            control=facts["unigram_perplexity"],
            n=n,
            better="lower",
            note="equally likely choices per token",
        ),
        Metric(
            "bits_per_second",
            facts["bits_per_s"],
            None if low is None else low * facts["tokens_per_second"],
            None if high is None else high * facts["tokens_per_second"],
            chance=uniform * facts["tokens_per_second"],
            control=unigram * facts["tokens_per_second"],
            n=n,
            unit="bit/s",
            better="lower",
            note=f"{facts['tokens_per_second']:g} tokens per second",
        ),
    ]
    metrics.append(
        Metric(
            "next_code_mse",
            facts["decoded_mse"]["likeliest_codes"],
            control=facts["decoded_mse"]["zero"],
            ceiling=facts["decoded_mse"]["real_codes"],
            n=n,
            better="lower",
            note="signal decoded from the likeliest next codes, squared units of the data; control: silence; ceiling: "
            "the real codes",
        )
    )
    for name, values in tokens.linear.items():
        low, high = _of_mean(values, found.units, found)
        metrics.append(
            Metric(
                f"bits_per_token_{name}",
                float(values.mean()),
                low,
                high,
                n=n,
                unit="bit",
                better="lower",
                note=f"the same samples under the baseline {name}: its density times the width of the bins",
            )
        )
    return metrics


def _of_mean(
    values: Float[np.ndarray, " context"], units: Int[np.ndarray, " context"], found: Findings
) -> tuple[float, float] | tuple[None, None]:
    """Interval of a mean; a single unit has none."""
    if len(np.unique(units)) < 2:
        return None, None
    return bootstrap_mean(values, units, found.n_bootstrap, found.seed)


def tables_of(found: Findings) -> list[Table]:
    """Every line on a few distances, all 36 with their tests, what the baselines are, and who was left out."""
    ends, length = found.compared.at_the_end(), found.length_s
    shown = [*HEADLINES.values(), "coherence", "band_jsd", "stft_magnitude", "spatial_connectivity"]
    rows = [
        (
            line.replace("_", " "),
            *(_middle(values[distance]) for distance in shown),
            WORDS.get(line, f"baseline {line}: {_model_of(found, line)}"),
        )
        for line, values in ends.items()
    ]
    header = ("line", *(f"{DISTANCES[name].label}" for name in shown), "what is compared")
    tables = [
        Table("lines", f"Median distance over contexts, first {length:g} s (lower is nearer)", header, tuple(rows))
    ]
    controls = [control for control in CONTROLS if control in found.statistics and control in ends]
    if controls:
        body = []
        for distance, definition in DISTANCES.items():
            cells: list[Any] = [distance, _middle(ends["correct"][distance])]
            for control in controls:
                record = found.statistics[control][distance][-1]
                cells += [_signed(record), _share(record), _p(record["p"]), _p(record["p_adjusted"])]
            body.append((*cells, f"{definition.label}: {definition.text}"))
        titles = [
            f"{control.replace('_', ' ')}: {what}"
            for control in controls
            for what in ("Δ [95 %]", "share Δ > 0", "p", "p corrected")
        ]
        tables.append(
            Table(
                "distances",
                f"All distances over the first {length:g} s; Δ = control − model (similarities: model − control), "
                "median over contexts, positive where the model is nearer to its own continuation",
                ("distance", "model", *titles, "definition"),
                tuple(body),
            )
        )
    if found.described:
        tables.append(
            Table(
                "baselines",
                "Baselines, fitted to the training part",
                ("name", "model", "order", "samples fitted", "largest root", "drawn in by"),
                tuple(
                    (
                        name,
                        facts["model"],
                        facts.get("order") or facts.get("period", "–"),
                        facts.get("samples_fitted", "each context"),
                        round(facts["spectral_radius_fitted"], 4) if "spectral_radius_fitted" in facts else "–",
                        round(facts["shrinkage"], 4) if "shrinkage" in facts else "–",
                    )
                    for name, facts in found.described.items()
                    if "model" in facts
                ),
            )
        )
    if found.sampled.dropped:
        tables.append(
            Table(
                "dropped",
                "Sessions without a context",
                ("session", "reason"),
                tuple((each["session"], each["reason"]) for each in found.sampled.dropped),
            )
        )
    return tables


def statistics_markdown(content: Mapping[str, Any]) -> str:
    """The content of ``statistics.json`` to read: a table per length, the longest first, a row per metric and control.

    What differs between sessions and contexts as the unit (intervals and tests) stands in it for both.
    """
    controls = content["controls"]
    units = [("controls", content["unit"])]
    if content["unit"] != "contexts":
        units.append(("controls_by_context", "contexts"))
    header = ["metric", "control", "n", "median Δ", "share Δ > 0"]
    for _, unit in units:
        header += [unit, "95 % low", "95 % high", "p", "p corrected"]
    shared, own = ("n", "median", "share_positive"), ("n_clusters", "low", "high", "p", "p_adjusted")
    lines = [
        "# Is the model nearer to its own continuation than the controls are?",
        "",
        "Δ = control − model (similarities: model − control), median over contexts; positive speaks for the model. "
        f"Wilcoxon signed rank over {' and over '.join(unit for _, unit in units)}; correction: "
        f"{content['correction']}.",
    ]
    lengths = [record["prefix_s"] for record in next(iter(next(iter(controls.values())).values()))] if controls else []
    for row in reversed(range(len(lengths))):
        lines += ["", f"## First {lengths[row]:g} s", "", _row(header), _row(["---"] * len(header))]
        for distance in DISTANCES:
            for control in controls:
                cells = [controls[control][distance][row][key] for key in shared]
                for table, _ in units:
                    cells += [content[table][control][distance][row][key] for key in own]
                lines.append(_row([distance, control, *("–" if cell is None else f"{cell:.6g}" for cell in cells)]))
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _note(line: str, short: str, found: Findings) -> str:
    what = WORDS.get(line, f"rollouts of the baseline {line} ({_model_of(found, line)}) from the same contexts")
    return f"{DISTANCES[HEADLINES[short]].text}, first {found.length_s:g} s: {what}"


def _references(middle: Mapping[str, float]) -> str:
    known = {"target_swap": "control: target swap", "tokenizer": "ceiling: tokenizer's reconstruction"}
    said = [text for line, text in known.items() if line in middle]
    beside = {"real_real": "real–real", "own_context": "own context"}
    said += [f"{text} {middle[line]:.4g}" for line, text in beside.items() if line in middle]
    return "; " + "; ".join(said) if said else ""


def _model_of(found: Findings, line: str) -> str:
    facts = found.described.get(line, {})
    name = str(facts.get("model", line))
    return f"{name}, order {facts['order']}" if facts.get("order") else name


def _any(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).any())


def _middle(values: np.ndarray) -> Any:
    return round(float(np.nanmedian(values)), 4) if _any(values) else "–"


def _signed(record: Mapping[str, Any]) -> str:
    if record["median"] is None:
        return "–"
    between = "" if record["low"] is None else f" [{record['low']:+.4f}, {record['high']:+.4f}]"
    return f"{record['median']:+.4f}{between}"


def _share(record: Mapping[str, Any]) -> str:
    return "–" if record["share_positive"] is None else f"{record['share_positive']:.2f}"


def _p(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.2g}"
