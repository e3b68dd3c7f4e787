"""The numbers, tables and sentences of a report on rollouts, whichever way a comparison falls."""

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
from brainlab.metrics.divergence import CONTROLS, Correction, adjusted, paired
from brainlab.metrics.rollouts import DISTANCES
from brainlab.metrics.sliding import WindowComparison
from brainlab.metrics.statistics import bootstrap_mean
from brainlab.types import DataSource, Metric, Table

__all__ = ["HEADLINES", "WORDS", "Findings", "metrics_of", "notes_of", "tables_of"]

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
_FEW = 6
_LEVEL = 0.05


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
            p = f"; Wilcoxon over {gain['n_clusters']} {found.compared.unit} p = {_p(gain['p'])}"
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
            low, high = bootstrap_mean(outside[judged], units[judged], found.n_bootstrap, found.seed)
            several = len(np.unique(units[judged])) > 1
            metrics.append(
                Metric(
                    f"outside_real_range{suffix}",
                    float(outside[judged].mean()),
                    low if several else None,
                    high if several else None,
                    ceiling=float(of_real[judged].mean()),
                    n=int(judged.sum()),
                    better="lower",
                    note="share of window statistics outside the 5–95 % range of the other real contexts, mean over "
                    "features and windows; ceiling: the real continuations themselves, as for a perfect generator. "
                    "Below it: less varied than real",
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
                    "over contexts, generated / real (below 1: less varied than real, above: more)",
                )
            )
    return metrics


def _token_metrics(found: Findings) -> list[Metric]:
    if found.tokens is None:
        return []
    tokens, facts = found.tokens, found.tokens.facts
    groups = found.units
    low, high = bootstrap_mean(tokens.bits_per_token, groups, found.n_bootstrap, found.seed)
    n = len(groups)
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
            2**low,
            2**high,
            chance=2**uniform,
            control=facts["unigram_perplexity"],
            n=n,
            better="lower",
            note="equally likely choices per token",
        ),
        Metric(
            "bits_per_second",
            facts["bits_per_s"],
            low * facts["tokens_per_second"],
            high * facts["tokens_per_second"],
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
        low, high = bootstrap_mean(values, groups, found.n_bootstrap, found.seed)
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


def notes_of(found: Findings) -> list[str]:
    """Sentences: where the contexts come from, each comparison, and what floor and ceiling mean."""
    sampled, sfreq = found.sampled, found.sampled.sfreq_hz
    compared = found.compared
    n, sessions = len(sampled.places), len(np.unique(compared.sessions))
    notes = [
        f"{n} contexts of {sampled.context_steps / sfreq:g} s from {sessions} of {sampled.n_sessions} sessions of the "
        f"{found.part} part, continued for {sampled.target_steps / sfreq:g} s; the first {found.length_s:g} s of every "
        "continuation are compared. "
        + (
            "Contexts of one session are not independent: intervals draw whole sessions, and tests are over the "
            f"medians of the {sessions} sessions. A difference counts where the interval leaves out 0 and p < {_LEVEL}."
            if sessions > 1
            else "All contexts come from one recording: intervals and tests are over its stretches and do not "
            "generalise beyond this recording, to other sessions or other people."
        )
    ]
    if n < 2:
        notes.append("With a single context there is nothing to swap it with: controls and intervals need at least 2.")
    elif compared.n_units < _FEW:
        notes.append(
            f"{compared.n_units} {compared.unit} are few: no test over them can reach p below "
            f"{2.0 ** (1 - compared.n_units):.2g}."
        )
    if n > 1 and compared.alone == n:
        notes.append(
            "No context has another one of its data set, task and channels to be swapped with: there is no target "
            "swap, prompt swap or real–real distance, and nothing here says whether rollouts keep to their recording."
        )
    elif n > 1 and compared.alone:
        notes.append(
            f"{compared.alone} of {n} contexts have no other one of their data set, task and channels to be swapped "
            "with: controls are over the rest."
        )
    if compared.partners_share_session:
        notes.append(
            "Where a kind of context comes from one session only, its controls swap with other stretches of the same "
            "session: these are more alike than other recordings, and the controls are harder to beat."
        )
    if len(found.groups) > 1:
        rows, channels = found.groups[0]
        notes.append(
            f"Statistics of sliding windows (outside_real_range, diversity_error) and the figures of spectra, "
            f"covariance and coherence use the largest group of contexts with the same channels: {len(rows)} of {n} "
            f"contexts, {len(channels)} channels. Distances use all contexts, each on the channels it has."
        )
    for short, distance in HEADLINES.items():
        notes += _comparisons(found, short, distance)
    notes += _significance(found)
    notes += _prices(found)
    if "real_real" in compared.lines:
        notes.append(
            "The real–real distance is that of two different real continuations: a perfect generator that ignores its "
            "context stands there. Rollouts fall below it by keeping to their recording (then the target swap lies "
            "higher) or by being like the average of all recordings (then it does not)."
        )
    if "own_context" in compared.lines:
        notes.append(
            "The distance of the context's end to its continuation (own context) shows how far a recording is from "
            "itself."
        )
    if "tokenizer" in compared.lines:
        notes.append(
            "The tokenizer's reconstruction shows what encoding and decoding alone cost. It follows its recording in "
            "time; in statistics of a signal, such as the 1/f exponent, a model of its codes may come out nearer."
        )
    if found.read_s is not None and found.read_s < sampled.context_steps / sfreq:
        notes.append(
            f"The model reads at most {found.read_s:g} s at once, less than the context of "
            f"{sampled.context_steps / sfreq:g} s."
        )
    if found.compared.silent:
        notes.append(
            f"In {found.compared.silent} contexts the model's continuation is silent (a constant): it has no spectrum, "
            "and its PSD distance counts as 1, the largest there is."
        )
    for name, facts in found.facts.items():
        if facts.get("values_not_finite"):
            notes.append(f"{facts['values_not_finite']} values of {name} were not finite and count as 0.")
        if facts.get("shrinkage", 1.0) < 1.0:
            notes.append(
                f"{name} was unstable as fitted (largest root {facts['spectral_radius_fitted']:.4f}); its roots were "
                f"drawn in by {facts['shrinkage']:.4f} so that it can run freely."
            )
    if not found.baselines:
        notes.append("No baseline was rolled out beside the model (evaluation.baselines is empty).")
    return notes


def _comparisons(found: Findings, short: str, distance: str) -> list[str]:
    ends = found.compared.at_the_end()
    if not _any(ends["correct"][distance]):
        return [f"The {short} distance is not defined on these data."]
    name = {"psd": "PSD"}.get(short, short.capitalize())
    own, low, high, _ = found.interval("correct", distance)
    notes = []
    if "target_swap" in ends:
        gain = found.gain("target_swap", distance)
        words = {
            1: "closer to their own session's real continuation than to others",
            0: "not distinguishably closer to their own continuation than to others",
            -1: "farther from their own continuation than from others",
        }[_sign(gain)]
        words += _unsure(gain, found)
        notes.append(
            f"{name} distance {own:.4f}{_between(low, high)}, target swap {_number(ends, 'target_swap', distance)}: "
            f"rollouts are {words} (median difference {gain['median']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}], "
            f"{gain['share_positive']:.0%} of contexts{_tested(gain)})."
        )
    for line in (*found.baselines, "real_real"):
        if line not in ends:
            continue
        gain = found.gain(line, distance)
        if not gain["n"]:
            continue
        side = {1: "nearer than", 0: "not distinguishable from", -1: "farther than"}[_sign(gain)]
        unsure = _unsure(gain, found)
        what = "the real–real distance" if line == "real_real" else f"the baseline {line}"
        notes.append(
            f"{name}: the model is {side} {what}{unsure} ({_number(ends, line, distance)}; median difference "
            f"{gain['median']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]{_tested(gain)})."
        )
    return notes


def _prices(found: Findings) -> list[str]:
    """What codes cost the model and the linear baselines, paired by context."""
    if found.tokens is None:
        return []
    tokens = found.tokens
    notes = []
    for name, values in {
        "the frequencies of codes in training": tokens.unigram_bits_per_token,
        **tokens.linear,
    }.items():
        gain = paired(values - tokens.bits_per_token, found.n_bootstrap, found.seed, found.compared.clusters)
        if not gain["n"]:
            continue
        side = {1: "fewer bits per token than", 0: "about as many bits per token as", -1: "more bits per token than"}
        what = f"the baseline {name}" if name in tokens.linear else name
        notes.append(
            f"Real codes cost the model {side[_sign(gain)]} {what}{_unsure(gain, found)}: "
            f"{tokens.bits_per_token.mean():.3f} against {values.mean():.3f} (median difference "
            f"{gain['median']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]{_tested(gain)})."
        )
    return notes


def _significance(found: Findings) -> list[str]:
    notes = []
    for control in ("target_swap", "prompt_swap"):
        table = found.statistics.get(control)
        if not table:
            continue
        last = {name: records[-1] for name, records in table.items() if records[-1]["p_adjusted"] is not None}
        if not last:
            continue
        for_it = sum(r["p_adjusted"] < _LEVEL and r["median"] > 0 for r in last.values())
        against = sum(r["p_adjusted"] < _LEVEL and r["median"] < 0 for r in last.values())
        notes.append(
            f"Of {len(last)} distances, {for_it} are significantly smaller than under the {control.replace('_', ' ')} "
            f"and {against} significantly larger (corrected for all of them, p < 0.05)."
        )
        smallest = adjusted(np.full(len(last), 2.0 ** (1 - found.compared.n_units)), found.correction)[0]
        if smallest >= _LEVEL:
            notes[-1] += (
                f" {found.compared.n_units} {found.compared.unit} cannot show more: the smallest p there is, "
                f"{2.0 ** (1 - found.compared.n_units):.2g}, is {smallest:.2g} after that correction."
            )
    return notes


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


def _sign(gain: Mapping[str, Any]) -> int:
    """1 or −1 where a difference was found, else 0.

    A bootstrap of few sessions is too narrow, so a difference needs the test as well, as soon as there are enough units
    for a test to say anything.
    """
    if gain["n_clusters"] >= _FEW and not (gain["p"] is not None and gain["p"] < _LEVEL):
        return 0
    return 1 if gain["low"] > 0 else -1 if gain["high"] < 0 else 0


def _unsure(gain: Mapping[str, Any], found: Findings) -> str:
    """A bootstrap of few units never leaves their range, so its interval is no evidence by itself."""
    few = _sign(gain) and gain["n_clusters"] < _FEW
    return f" in these {gain['n_clusters']} {found.compared.unit}, too few to be sure" if few else ""


def _between(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{low:.4f}, {high:.4f}]"


def _tested(gain: Mapping[str, Any]) -> str:
    return "" if gain["p"] is None else f", p = {gain['p']:.2g}"


def _number(ends: Mapping[str, Mapping[str, np.ndarray]], line: str, distance: str) -> str:
    return f"{np.nanmedian(ends[line][distance]):.4f}"


def _any(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).any())


def _middle(values: np.ndarray) -> Any:
    return round(float(np.nanmedian(values)), 4) if _any(values) else "–"


def _signed(record: Mapping[str, Any]) -> str:
    if record["median"] is None:
        return "–"
    return f"{record['median']:+.4f} [{record['low']:+.4f}, {record['high']:+.4f}]"


def _share(record: Mapping[str, Any]) -> str:
    return "–" if record["share_positive"] is None else f"{record['share_positive']:.2f}"


def _p(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.2g}"
