"""The sentences of a report on rollouts, whichever way a comparison falls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from brainlab.evaluation.rollout_report import HEADLINES, Findings
from brainlab.metrics.divergence import adjusted, paired

__all__ = ["notes_of"]

_FEW = 6
_LEVEL = 0.05


def notes_of(found: Findings) -> list[str]:
    """Sentences: where the contexts come from, each comparison, and what floor and ceiling mean."""
    sampled, sfreq = found.sampled, found.sampled.sfreq_hz
    compared = found.compared
    n, sessions = len(sampled.places), len(np.unique(compared.sessions))
    notes = [
        f"{_count(n, 'context')} of {sampled.context_steps / sfreq:g} s from {sessions} of "
        f"{_count(sampled.n_sessions, 'session')} of the "
        f"{found.part} part, continued for {sampled.target_steps / sfreq:g} s; the first {found.length_s:g} s of every "
        "continuation are compared. "
        + (
            "Contexts of one session are not independent: intervals draw whole sessions, and tests are over the "
            f"medians of the {sessions} sessions. A difference counts where the interval leaves out 0 and p < {_LEVEL}."
            if sessions > 1
            else "All contexts come from one recording: intervals and tests are over its stretches and do not "
            "generalise beyond this recording, to other sessions or other people."
            if n > 1
            else "Nothing here generalises beyond this stretch of one recording."
        )
    ]
    if n < 2:
        notes.append(
            "With a single context there is nothing to swap it with: controls, intervals and tests need at least 2."
        )
    elif compared.n_units < _FEW:
        notes.append(
            f"{compared.n_units} {compared.unit} are few: no test over them can reach p below "
            f"{2.0 ** (1 - compared.n_units):.2g}. Intervals over fewer than {_FEW} say little: they never leave the "
            "range of what was seen."
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
            "Controls swap with other stretches of the same session, where a kind of context comes from one session "
            "only or evaluation.partners=any: these are more alike than other recordings, and harder to beat."
        )
    if len(found.groups) > 1:
        rows, channels = found.groups[0]
        notes.append(
            f"Statistics of sliding windows (outside_real_range, outside_rate, diversity_error) and the figures of "
            f"spectra, covariance and coherence use the largest group of contexts with the same channels: {len(rows)} "
            f"of {n} contexts, {len(channels)} channels. Distances use all contexts, each on the channels it has."
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
            f"In {_count(found.compared.silent, 'context')} the model's continuation is silent (a constant): it has no "
            "spectrum, and its PSD distance counts as 1, the largest there is."
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
    if not np.isfinite(ends["correct"][distance]).any():
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
            f"rollouts are {words} (median difference {gain['median']:+.4f}"
            f"{_between(gain['low'], gain['high'], '+.4f')}, {gain['share_positive']:.0%} of contexts{_tested(gain)})."
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
            f"{gain['median']:+.4f}{_between(gain['low'], gain['high'], '+.4f')}{_tested(gain)})."
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
            f"{gain['median']:+.3f}{_between(gain['low'], gain['high'], '+.3f')}{_tested(gain)})."
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


def _sign(gain: Mapping[str, Any]) -> int:
    """1 or −1 where a difference was found, else 0.

    A bootstrap of few sessions is too narrow, so a difference needs the test as well, as soon as there are enough units
    for a test to say anything.
    """
    if gain["n_clusters"] >= _FEW and not (gain["p"] is not None and gain["p"] < _LEVEL):
        return 0
    if gain["low"] is None:
        return 0
    return 1 if gain["low"] > 0 else -1 if gain["high"] < 0 else 0


def _unsure(gain: Mapping[str, Any], found: Findings) -> str:
    """A bootstrap of few units never leaves their range, so its interval is no evidence by itself."""
    few = _sign(gain) and gain["n_clusters"] < _FEW
    return f" in these {gain['n_clusters']} {found.compared.unit}, too few to be sure" if few else ""


def _between(low: float | None, high: float | None, spelled: str = ".4f") -> str:
    return "" if low is None or high is None else f" [{low:{spelled}}, {high:{spelled}}]"


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' if n != 1 else ''}"


def _tested(gain: Mapping[str, Any]) -> str:
    return "" if gain["p"] is None else f", p = {gain['p']:.2g}"


def _number(ends: Mapping[str, Mapping[str, np.ndarray]], line: str, distance: str) -> str:
    return f"{np.nanmedian(ends[line][distance]):.4f}"
