"""Held-out masked-patch reconstruction: is the network better than guesses that need no learning?

The trained task and every baseline fill in exactly the same hidden patches of the test part. Errors are means over
hidden patches, in squared units of the data; intervals are 95 % bootstrap intervals over blocks of consecutive windows,
and differences to a baseline are paired (one resampling for both).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from brainlab.errors import InvalidValue
from brainlab.metrics.interpolation import channel_mean, covariance_guess, linear_in_time, neighbours_in_space, zero
from brainlab.plot.reconstruction import error_per_channel, example_traces, spectra
from brainlab.tasks.masked_patches import fixed_masks
from brainlab.types import Evaluation, Figure, Metric, Table

__all__ = ["Reconstruction", "block_length", "bootstrap_means"]

_METHODS = {
    "network": "the trained network",
    "zero": "silence",
    "channel_mean": "each channel's mean over the training part",
    "linear": "a straight line between the neighbouring visible samples of the channel",
    "neighbours": "inverse-distance mean of the 4 nearest visible electrodes at the same time",
    "covariance": "best linear guess from all visible electrodes at the same time (covariance of the training part)",
}
_SHORT = {
    "network": "network",
    "zero": "silence",
    "channel_mean": "channel mean",
    "linear": "linear interpolation in time",
    "neighbours": "neighbouring electrodes",
    "covariance": "covariance of the electrodes",
}
_MUST_BEAT = ("channel_mean", "linear")
_STRONGER = ("neighbours", "covariance")


@dataclass
class _Sums:
    """Running sums of one channel set: per window for the intervals, per channel and frequency for the figures."""

    ch_names: tuple[str, ...]
    error: dict[str, list[np.ndarray]] = field(default_factory=dict)
    hidden: list[np.ndarray] = field(default_factory=list)
    by_channel: dict[str, np.ndarray] = field(default_factory=dict)
    hidden_by_channel: np.ndarray | float = 0.0
    power: dict[str, np.ndarray] = field(default_factory=dict)
    example: tuple[np.ndarray, ...] = ()


class Reconstruction:
    """Scores a masked-patch task on the test windows of its data.

    Args:
        n_masks: masks per window; every window is judged on each of them.
        n_bootstrap: resamplings of windows for the intervals.
        seed: of the masks and resamplings.
        n_example_channels: channels in the figure of traces.
    """

    def __init__(
        self, *, n_masks: int = 8, n_bootstrap: int = 2000, seed: int = 0, n_example_channels: int = 6
    ) -> None:
        for key, value in (
            ("n_masks", n_masks),
            ("n_bootstrap", n_bootstrap),
            ("n_example_channels", n_example_channels),
        ):
            if value < 1:
                raise InvalidValue(f"evaluation.{key}", value, "expected at least 1")
        self.n_masks, self.n_bootstrap, self.seed = n_masks, n_bootstrap, seed
        self.n_example_channels = n_example_channels

    def __call__(self, task: Any, data: Any, out: Path) -> Evaluation:
        """Judge ``task`` on ``data.test_dataloader()``; figures go to ``out/figures``."""
        groups = self._collect(task, data)
        if not groups:
            raise InvalidValue("data.fractions", list(data.fractions), "expected a test part to judge the network on")
        methods = [name for name in _METHODS if all(name in sums.error for sums in groups.values())]
        error = {name: np.concatenate([e for s in groups.values() for e in s.error[name]]) for name in methods}
        hidden = np.concatenate([h for s in groups.values() for h in s.hidden])
        draws = bootstrap_means(error, hidden, self.n_bootstrap, self.seed)
        mean = {name: float(error[name].sum() / hidden.sum()) for name in methods}
        metrics, notes = _judge(mean, draws, len(hidden), data.unit_uv)
        shown = max(groups.values(), key=lambda sums: float(np.sum(sums.hidden_by_channel)))
        return Evaluation(
            headline="masked_mse",
            metrics=metrics,
            figures=self._figures(shown, methods, data, Path(out) / "figures"),
            tables=[_table(mean, draws, data.unit_uv)],
            notes=notes,
            details={
                "windows": len(hidden),
                "windows_per_bootstrap_block": block_length(len(hidden)),
                "masks_per_window": self.n_masks,
                "hidden_patches": int(hidden.sum()),
                "unit": f"squared units of {data.unit_uv:g} µV",
                "mean_squared_error": mean,
                "mean_squared_error_uv2": {name: value * data.unit_uv**2 for name, value in mean.items()},
                "methods": {name: _METHODS[name] for name in methods},
            },
        )

    def _collect(self, task: Any, data: Any) -> dict[tuple[str, ...], _Sums]:
        groups: dict[tuple[str, ...], _Sums] = {}
        was_training = task.training
        task.eval()
        with torch.inference_mode():
            for batch in data.test_dataloader():
                eeg = batch["eeg"]
                known = [data.training_statistics(session) for session in batch["session"].tolist()]
                sums = groups.setdefault(known[0].ch_names, _Sums(known[0].ch_names))
                n_channels, n_patches = eeg.shape[1:3]
                for draw in range(self.n_masks):
                    # Offsets keep these masks apart from those that chose the checkpoint.
                    seed = 1_000 * (self.seed + 1) + draw
                    mask = fixed_masks(batch["index"], n_channels, n_patches, task.mask_probability, seed)
                    guesses = {
                        "network": task(eeg.to(task.device), mask.to(task.device)).float().cpu(),
                        **_baselines(eeg, mask, known),
                    }
                    _add(sums, eeg, mask, guesses, first=draw == 0, sfreq_hz=data.sfreq_hz)
        task.train(was_training)
        return groups

    def _figures(self, sums: _Sums, methods: list[str], data: Any, folder: Path) -> list[Figure]:
        unit, unit2 = data.unit_uv, data.unit_uv**2
        real, guess, mask = sums.example
        rows = np.unique(np.linspace(0, len(real) - 1, self.n_example_channels).round().astype(int))
        names = [sums.ch_names[row] for row in rows]
        traces = example_traces(
            folder / "traces.png", real[rows] * unit, guess[rows] * unit, mask[rows], names, data.sfreq_hz
        )
        n_time = real.shape[-1]
        frequency = np.fft.rfftfreq(n_time, 1 / data.sfreq_hz)
        total = np.sum(sums.hidden_by_channel)
        power = {name: value / total * unit2 for name, value in sums.power.items()}
        drawn: dict[str, np.ndarray] = {
            _SHORT[name]: power[name] for name in ("network", "linear", "neighbours") if name in power
        }
        spectrum = spectra(folder / "spectra.png", frequency, power["real"], drawn)
        errors = {
            _SHORT[name]: sums.by_channel[name] / np.maximum(sums.hidden_by_channel, 1) * unit2
            for name in methods
            if name != "zero"
        }
        channels = error_per_channel(folder / "error_per_channel.png", sums.ch_names, errors)
        return [
            Figure(
                "traces", "A held-out window: recorded (black) and reconstructed (red) in the hidden patches.", traces
            ),
            Figure("spectra", "Power of held-out hidden patches: as recorded and as filled in.", spectrum),
            Figure("error_per_channel", "Mean squared error of held-out hidden patches, by channel.", channels),
        ]


def block_length(n_windows: int) -> int:
    """Windows per block of the bootstrap: the cube root of their number, at least 2 where there are 4.

    Source: Künsch (1989), the rate that balances bias and variance.

    >>> block_length(1), block_length(8), block_length(1000)
    (1, 2, 10)
    """
    return max(round(n_windows ** (1 / 3)), 2 if n_windows >= 4 else 1)


def bootstrap_means(
    error: Mapping[str, Float[np.ndarray, " window"]],
    weight: Float[np.ndarray, " window"],
    n_bootstrap: int,
    seed: int,
) -> dict[str, Float[np.ndarray, " draw"]]:
    """Weighted means of resampled windows; draw ``k`` of every method resamples the same windows.

    Neighbouring windows of a recording resemble each other, so runs of ``block_length(n)`` consecutive windows are
    drawn, wrapped around at the end: single windows would make the interval too narrow.

    Args:
        error: method → summed error of each window.
        weight: number of terms in each window's sum.
        n_bootstrap: resamplings.
        seed: of the resampling.

    Source: Politis and Romano (1992), the circular block bootstrap.
    """
    rng = np.random.default_rng(seed)
    means = {name: np.empty(n_bootstrap) for name in error}
    n, length = len(weight), block_length(len(weight))
    for draw in range(n_bootstrap):
        starts = rng.integers(n, size=-(-n // length))
        drawn = ((starts[:, None] + np.arange(length)) % n).reshape(-1)[:n]
        # How often each window was drawn is all that its mean needs, and stays small for a million windows.
        times = np.bincount(drawn, minlength=n)
        total = times @ weight
        for name, values in error.items():
            means[name][draw] = times @ values / total
    return means


def _baselines(eeg: Tensor, mask: Tensor, known: list[Any]) -> dict[str, Tensor]:
    mean = torch.from_numpy(np.stack([statistics.mean for statistics in known])).to(eeg.dtype)
    guesses = {
        "zero": zero(eeg, mask),
        "channel_mean": channel_mean(eeg, mask, mean),
        "linear": linear_in_time(eeg, mask, mean),
    }
    by_window = [slice(row, row + 1) for row in range(len(eeg))]
    if all(statistics.positions is not None for statistics in known):
        guesses["neighbours"] = torch.cat(
            [
                neighbours_in_space(eeg[row], mask[row], torch.from_numpy(statistics.positions), mean[row])
                for row, statistics in zip(by_window, known, strict=True)
            ]
        )
    guesses["covariance"] = torch.cat(
        [
            covariance_guess(eeg[row], mask[row], torch.from_numpy(statistics.covariance), mean[row])
            for row, statistics in zip(by_window, known, strict=True)
        ]
    )
    return guesses


def _add(sums: _Sums, eeg: Tensor, mask: Tensor, guesses: Mapping[str, Tensor], first: bool, sfreq_hz: float) -> None:
    hidden = mask.numpy()
    sums.hidden_by_channel = sums.hidden_by_channel + hidden.sum(axis=(0, 2))
    sums.power["real"] = sums.power.get("real", 0.0) + _power(eeg, mask, sfreq_hz)
    windows = hidden.sum(axis=(1, 2)).astype(np.float64)
    for name, guess in guesses.items():
        error = ((guess - eeg).double().square().mean(dim=-1) * mask).numpy()
        by_window = error.sum(axis=(1, 2))
        if first:
            sums.error.setdefault(name, []).append(by_window)
        else:
            sums.error[name][-1] = sums.error[name][-1] + by_window
        sums.by_channel[name] = sums.by_channel.get(name, 0.0) + error.sum(axis=(0, 2))
        sums.power[name] = sums.power.get(name, 0.0) + _power(guess, mask, sfreq_hz)
    if first:
        sums.hidden.append(windows)
    else:
        sums.hidden[-1] = sums.hidden[-1] + windows
    if not sums.example:
        sums.example = (eeg[0].numpy().copy(), guesses["network"][0].numpy().copy(), hidden[0].copy())


def _power(windows: Tensor, mask: Tensor, sfreq_hz: float) -> np.ndarray:
    """(frequency): one-sided power density (per Hz) under a Hann taper, summed over hidden patches."""
    patches = windows[mask].double()
    patches = patches - patches.mean(dim=-1, keepdim=True)
    taper = torch.hann_window(patches.shape[-1], dtype=torch.float64)
    power = torch.fft.rfft(patches * taper).abs().square() / (sfreq_hz * taper.square().sum())
    power[:, 1:] *= 2
    return power.sum(dim=0).numpy()


def _judge(
    mean: Mapping[str, float], draws: Mapping[str, np.ndarray], n: int, unit_uv: float
) -> tuple[list[Metric], list[str]]:
    unit = f"({unit_uv:g} µV)²"

    def interval(values: np.ndarray) -> tuple[float, float]:
        low, high = np.quantile(values, [0.025, 0.975])
        return float(low), float(high)

    metrics = []
    for name, value in mean.items():
        low, high = interval(draws[name])
        if name == "network":
            metrics.append(
                Metric(
                    "masked_mse",
                    value,
                    low,
                    high,
                    chance=mean["channel_mean"],
                    control=mean["linear"],
                    n=n,
                    unit=unit,
                    better="lower",
                    note="chance: channel mean; control: linear interpolation in time",
                )
            )
        else:
            metrics.append(Metric(f"{name}_mse", value, low, high, n=n, unit=unit, better="lower", note=_METHODS[name]))
    notes = []
    for name in (*_MUST_BEAT, *_STRONGER):
        if name not in mean:
            notes.append(
                "No electrode positions in every file: interpolation from neighbouring electrodes is left out."
            )
            continue
        low, high = interval(1 - draws["network"] / draws[name])
        value = 1 - mean["network"] / mean[name]
        metrics.append(
            Metric(f"gain_over_{name}", value, low, high, chance=0.0, n=n, note=f"1 − network / {_METHODS[name]}")
        )
        side = "below" if value > 0 else "above"
        sure = "" if low > 0 or high < 0 else ", a difference within its interval"
        notes.append(
            f"Held-out masked error {mean['network']:.5f} is {abs(value):.1%} {side} {_SHORT[name]}"
            f" ({mean[name]:.5f}; 95 % interval of the gain {low:.1%} to {high:.1%}{sure})."
        )
    return metrics, notes


def _table(mean: Mapping[str, float], draws: Mapping[str, np.ndarray], unit_uv: float) -> Table:
    rows = []
    for name, value in mean.items():
        low, high = np.quantile(draws[name], [0.025, 0.975])
        rows.append(
            (_SHORT[name], f"{value:.5f}", f"{low:.5f} – {high:.5f}", f"{value * unit_uv**2:.1f}", _METHODS[name])
        )
    header = ("method", f"MSE ({unit_uv:g} µV)²", "95 % interval", "MSE µV²", "how hidden patches are filled in")
    return Table("methods", "Error on the same hidden patches of the test part.", header, tuple(rows))
