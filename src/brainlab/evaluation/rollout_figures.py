"""Which figures a report on rollouts shows, and the arrays behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32

from brainlab.evaluation.rollout_generation import RealSignals
from brainlab.evaluation.rollout_report import Findings
from brainlab.metrics.divergence import CONTROLS
from brainlab.metrics.rollouts import BANDS, DISTANCES, SUMMARIES, Features, features
from brainlab.plot import rollout_signals as signal_plot
from brainlab.plot import rollouts as plot
from brainlab.plot.rollout_lines import FEW
from brainlab.types import Figure

__all__ = ["draw_figures"]

_CURVES = ("psd_jsd", "covariance", "coherence", "stft_magnitude", "one_over_f_exponent", "correlation")
_WINDOWED = (
    "spatial_connectivity",
    "one_over_f_exponent",
    "amplitude_kurtosis",
    "bandpower_ratio_alpha",
    "psd_centroid",
)
_BAND_HZ = (min(low for low, _ in BANDS.values()), max(high for _, high in BANDS.values()))
_SPREAD = f"quartiles as bands, or each context where there are fewer than {FEW}"
_EXAMPLE_CHANNELS = 5
_EXAMPLE_S = 4.0


def draw_figures(
    folder: Path,
    found: Findings,
    generated: Mapping[str, Float32[np.ndarray, "context rollout channel time"]],
    real: RealSignals,
    *,
    reconstructed: Float32[np.ndarray, "context _ channel time"] | None,
    ch_names: Sequence[str],
    fmin_hz: float,
    fmax_hz: float | None,
    n_examples: int,
) -> list[Figure]:
    """Draw every panel as PNG under ``folder``; ``reconstructed`` is the real continuation after the tokenizer."""
    compared, source = found.compared, found.source
    lines, ends, length = compared.lines, compared.at_the_end(), found.length_s
    titles = {name: DISTANCES[name].label for name in _CURVES}
    figures = [
        Figure(
            "divergence",
            "Distance of rollouts to the real continuation, by the length compared: medians over contexts. Of the "
            f"model and the target swap alone: {_SPREAD}. Below the target swap: closer to the own recording than to "
            "others.",
            plot.divergence_curves(folder / "divergence.png", compared.divergence.prefixes_s, lines, titles, source),
        ),
        Figure(
            "drift",
            "The same distances in sliding windows: how far rollouts are from what really happened at that time. "
            f"Medians over contexts; of the model and the target swap alone: {_SPREAD}.",
            plot.divergence_curves(folder / "drift.png", found.times_s, found.drift, titles, source, in_windows=True),
        ),
        Figure(
            "distances",
            f"The same distances over the first {length:g} s, one dot per context, bars at the medians.",
            plot.distance_violins(folder / "distances.png", ends, titles, length, source),
        ),
    ]
    controls = [name for name in CONTROLS if name in found.statistics and name in ends]
    if controls:
        effects = {
            control: {
                name: records[-1]["p_adjusted"]
                for name, records in found.statistics[control].items()
                if records[-1]["median"] is not None
            }
            for control in controls
        }
        labels = {name: each.label for name, each in DISTANCES.items()}
        shares = {
            control: {name: found.statistics[control][name][-1]["share_positive"] for name in effects[control]}
            for control in controls
        }
        figures.append(
            Figure(
                "effects",
                "All distances: in how many contexts the model is nearer to its own continuation than under each "
                f"control; filled where the corrected test over {found.compared.n_units} {found.compared.unit} has "
                "p < 0.05.",
                plot.effect_sizes(folder / "effects.png", effects, shares, labels, length, source),
            )
        )
    figures += _second_order(folder, found, generated, reconstructed, real, fmin_hz, fmax_hz)
    figures += _examples(folder, found, generated, real, ch_names, n_examples)
    figures.append(_windows(folder, found))
    if found.tokens is not None:
        tokens = found.tokens
        references = {
            "model": tokens.facts["bits_per_token"],
            "frequencies": tokens.facts["unigram_bits_per_token"],
            **{f"baseline {name}": float(values.mean()) for name, values in tokens.linear.items()},
            "uniform": tokens.facts["uniform_bits_per_token"],
        }
        figures.append(
            Figure(
                "tokens",
                f"What the real codes cost the model, {tokens.facts['tokens_per_second']:g} tokens per second.",
                plot.token_panels(
                    folder / "tokens.png",
                    tokens.time_s,
                    tokens.bits_per_second,
                    tokens.bits_per_level,
                    references,
                    tokens.usage,
                    source,
                ),
            )
        )
    return figures


def _second_order(
    folder: Path,
    found: Findings,
    generated: Mapping[str, np.ndarray],
    reconstructed: np.ndarray | None,
    real: RealSignals,
    fmin_hz: float,
    fmax_hz: float | None,
) -> list[Figure]:
    """Spectra, covariance and coherence of the largest group of contexts with the same channels."""
    rows, channels = real.groups()[0]
    sfreq, source = found.sampled.sfreq_hz, found.source
    signals = {"real": real.target[rows][:, channels]}
    made = {**generated, **({} if reconstructed is None else {"tokenizer": reconstructed})}
    for name, values in made.items():
        signals[name] = values[rows][:, 0][:, channels]
    known = {name: features(np.ascontiguousarray(each), sfreq, fmin_hz, fmax_hz) for name, each in signals.items()}
    frequency = known["real"].grid.frequencies
    figures = [
        Figure(
            "psd",
            "Power spectra of the continuations, mean over channels: medians over contexts; of real and model alone: "
            f"{_SPREAD}. In units of the prepared data.",
            signal_plot.power_spectra(
                folder / "psd.png",
                frequency,
                {name: each.psd.mean(axis=1) for name, each in known.items()},
                source,
                _BAND_HZ,
            ),
        )
    ]
    if len(channels) < 2:
        return figures
    figures.append(
        Figure(
            "covariance",
            "Covariance of the channels, mean over continuations.",
            signal_plot.covariance_matrices(
                folder / "covariance.png",
                {name: each.covariance.mean(axis=0) for name, each in known.items() if name != "tokenizer"},
                source,
            ),
        )
    )
    coherence = {name: _mean_coherence(each) for name, each in known.items()}
    band = next((name for name in ("alpha", *BANDS) if known["real"].grid.bands[name].any()), None)
    matrices = {}
    if band is not None:
        inside = known["real"].grid.bands[band]
        for name in ("real", "model"):
            matrices[name] = _square(coherence[name][inside].mean(axis=0), len(channels))
    figures.append(
        Figure(
            "coherence",
            "Magnitude-squared coherence between channels, mean over continuations. Few segments lift it everywhere, "
            "equally for real and generated signals.",
            signal_plot.coherence_panel(
                folder / "coherence.png",
                frequency,
                {name: np.nanmean(each, axis=1) for name, each in coherence.items()},
                matrices,
                band or "",
                source,
                _BAND_HZ,
            ),
        )
    )
    return figures


def _mean_coherence(known: Features) -> Float[np.ndarray, "frequency pair"]:
    total = np.zeros_like(known.coherence(0), dtype=np.float64)
    for index in range(len(known)):
        total += np.nan_to_num(known.coherence(index))
    return total / len(known)


def _square(pairs: Float[np.ndarray, " pair"], n: int) -> Float[np.ndarray, "channel channel"]:
    matrix = np.eye(n)
    matrix[np.triu_indices(n, k=1)] = pairs
    return np.maximum(matrix, matrix.T)


def _examples(
    folder: Path,
    found: Findings,
    generated: Mapping[str, np.ndarray],
    real: RealSignals,
    ch_names: Sequence[str],
    n_examples: int,
) -> list[Figure]:
    """Traces and spectrograms of contexts spread over the sample: not the best ones."""
    sfreq, source, places = found.sampled.sfreq_hz, found.source, found.sampled.places
    chosen = np.unique(np.linspace(0, len(places) - 1, min(n_examples, len(places))).round().astype(int))
    shared = np.flatnonzero(real.present[chosen].all(axis=0))
    channels = shared if len(shared) else np.flatnonzero(real.present[chosen[0]])
    spread = np.unique(np.linspace(0, len(channels) - 1, _EXAMPLE_CHANNELS).round().astype(int))
    shown = channels[spread]
    before = min(real.context_steps, round(_EXAMPLE_S / 2 * sfreq))
    after = min(real.target.shape[-1], round(_EXAMPLE_S * sfreq))
    part = np.ix_(chosen, shown)
    figures = [
        Figure(
            "traces",
            f"{len(shown)} channels around the end of {len(chosen)} contexts (grey: context), spread over the sample; "
            "in units of the prepared data.",
            signal_plot.example_traces(
                folder / "traces.png",
                real.context[part][..., -before:],
                real.target[part][..., :after],
                {name: made[:, 0][part][..., :after] for name, made in generated.items()},
                sfreq,
                [places[row].name for row in chosen.tolist()],
                [_named(ch_names, row) for row in shown.tolist()],
                source,
            ),
        )
    ]
    row, channel = int(chosen[0]), int(channels[len(channels) // 2])
    context = real.context[row, channel]
    signals = {"real": real.signal[row, channel]}
    for name, made in generated.items():
        signals[name] = np.concatenate([context, made[row, 0, channel]])
    name = _named(ch_names, channel)
    figures.append(
        Figure(
            "stft",
            f"Short-time power of {name} in {places[row].name}: context (left of the line) and continuations.",
            signal_plot.spectrograms(
                folder / "stft.png", signals, sfreq, real.context_steps / sfreq, f"{places[row].name}, {name}", source
            ),
        )
    )
    return figures


def _windows(folder: Path, found: Findings) -> Figure:
    first = next(iter(found.windows.values()))
    quantiles = {"real": first.real, **{name: each.generated for name, each in found.windows.items()}}
    outside = {"real": _rates(first.real_beyond_others)}
    outside |= {name: _rates(each.beyond_others) for name, each in found.windows.items()}
    shared = [name for name in SUMMARIES if all(name in rates for rates in outside.values())]
    outside = {line: {name: rates[name] for name in shared} for line, rates in outside.items()}
    return Figure(
        "windows",
        "Statistics of sliding windows: medians over contexts, the 5–95 % range of real and of the model's "
        f"continuations as bands (left out for fewer than {FEW} contexts); last panel: how often values lie outside "
        "the 5–95 % range of the other real contexts, for the real ones too (not defined for fewer than 3): "
        f"{len(found.groups[0][0])} contexts, {len(found.groups[0][1])} channels.",
        plot.window_metrics(
            folder / "windows.png",
            found.times_s,
            quantiles,
            [name for name in _WINDOWED if name in first.real],
            {name: each.label for name, each in SUMMARIES.items()},
            outside,
            len(found.groups[0][0]),
            found.source,
        ),
    )


def _rates(beyond: Mapping[str, Float[np.ndarray, "context window"]]) -> dict[str, float]:
    return {name: float(np.nanmean(values)) for name, values in beyond.items() if np.isfinite(values).any()}


def _named(ch_names: Sequence[str], channel: int) -> str:
    return ch_names[channel] if channel < len(ch_names) else f"channel {channel}"
