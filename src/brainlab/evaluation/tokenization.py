"""How good a tokenizer is on held-out recordings: what comes back from the codes, and what the codes cost.

Every score is a mean over windows of the test part, each of them a mean over its present channels; intervals are 95 %
bootstrap intervals over sessions (over blocks of consecutive windows where there are few sessions). The control takes
the reconstruction of another session for the window's own; the ceiling leaves the quantiser out. Mu-law codes of the
same windows, which need no training, show what a number of bits buys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from brainlab.errors import InvalidValue
from brainlab.metrics.statistics import bootstrap_mean
from brainlab.models.mu_law import MuLaw
from brainlab.plot.tokenization import code_use, coded_spectra, coded_traces
from brainlab.tasks.tokenization import code_counts, perplexity, reconstruction_terms
from brainlab.types import Evaluation, Figure, Metric, Table

__all__ = ["TokenizerQuality"]

_FEW_SESSIONS = 6
_N_BLOCKS = 20
_RAW_BITS = 32
_TERMS = {
    "pcc": ("higher", "Pearson correlation over time"),
    "mae": ("lower", "mean absolute error"),
    "amp": ("lower", "mean absolute difference of spectral amplitude"),
    "phase": ("lower", "mean absolute difference of spectral phase (rad)"),
}


@dataclass
class _Sums:
    """What is kept of the test part: numbers per window, sums per frequency and code, a few whole windows."""

    scores: dict[str, list[np.ndarray]] = field(default_factory=dict)
    session: list[np.ndarray] = field(default_factory=list)
    counts: Tensor | None = None
    spectra: dict[str, np.ndarray] = field(default_factory=dict)
    kept: dict[int, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = field(default_factory=dict)
    """Session → (recorded, from codes, present) of its first windows."""

    def score(self, name: str) -> np.ndarray:
        return np.concatenate(self.scores[name])


class TokenizerQuality:
    """Scores a trained tokenizer on the test windows of its data.

    Args:
        n_bootstrap: resamplings for the intervals.
        seed: of the resamplings.
        n_example_channels: channels in the figure of traces.
        n_kept: windows per session that serve the control.
        fmin_hz: lower end of the band in which spectra are compared; the upper end is 0.9 of half the sampling rate.
        mu_law_bits: of mu-law codes of every sample, for comparison.
        mu_law_max_abs: amplitude that is their edge.
    """

    def __init__(
        self,
        *,
        n_bootstrap: int = 2000,
        seed: int = 0,
        n_example_channels: int = 6,
        n_kept: int = 2,
        fmin_hz: float = 1.0,
        mu_law_bits: Sequence[int] = (2, 4, 8),
        mu_law_max_abs: float = 5.0,
    ) -> None:
        for key, value in (
            ("n_bootstrap", n_bootstrap),
            ("n_example_channels", n_example_channels),
            ("n_kept", n_kept),
        ):
            if value < 1:
                raise InvalidValue(f"evaluation.{key}", value, "expected at least 1")
        self.n_bootstrap, self.seed, self.fmin_hz = n_bootstrap, seed, fmin_hz
        self.n_example_channels, self.n_kept = n_example_channels, n_kept
        self.mu_law = [MuLaw(1, bits=bits, max_abs=mu_law_max_abs) for bits in mu_law_bits]

    def __call__(self, task: Any, data: Any, out: Path) -> Evaluation:
        """Judge ``task`` on ``data.test_dataloader()``; figures go to ``out/figures``."""
        sums = self._collect(task, data)
        if sums.counts is None:
            raise InvalidValue("data.fractions", "no test window", "expected a test part to judge the tokenizer on")
        network, sfreq_hz = task.network, float(data.sfreq_hz)
        groups = _groups(np.concatenate(sums.session))
        control = _control(sums.kept)
        metrics = self._reconstruction(sums, groups, control)
        frequency, power, coherence = _densities(sums.spectra, sfreq_hz, self.fmin_hz)
        deviation_db = float(np.abs(10 * np.log10(power["from codes"] / power["recorded"])).mean())
        band = f"{frequency[0]:g}–{frequency[-1]:g} Hz"
        metrics.append(
            Metric("spectrum_error_db", deviation_db, unit="dB", better="lower", note=f"mean over {band}, channel mean")
        )
        codes, levels = _codes(sums, network, sfreq_hz, len(data.ch_names))
        metrics += [
            Metric("perplexity", codes["perplexity"], ceiling=float(network.vocab_size), note="mean over levels"),
            Metric("codes_used", codes["used"], ceiling=1.0, note="share of the codes that occur, mean over levels"),
            Metric("bits_per_s", codes["bits_per_s"], better="lower", unit="bit/s", note="of the codes as numbers"),
            Metric("entropy_bits_per_s", codes["entropy_bits_per_s"], better="lower", unit="bit/s"),
        ]
        pcc = metrics[0]
        return Evaluation(
            headline="pcc",
            metrics=metrics,
            figures=self._figures(sums, data, frequency, power, coherence, Path(out) / "figures"),
            tables=[self._bits(sums, codes, len(data.ch_names) * sfreq_hz), levels, _sessions(sums, data)],
            notes=[
                f"Held-out correlation of recorded and decoded signals {pcc.value:.3f} ({pcc.low:.3f} to {pcc.high:.3f}"
                f"); with another session's codes {pcc.control:.3f}, without quantiser {pcc.ceiling:.3f}."
                if pcc.control is not None and pcc.ceiling is not None
                else f"Held-out correlation of recorded and decoded signals {pcc.value:.3f}.",
                f"{codes['tokens_per_s']:g} codes/s ({codes['bits_per_s']:.0f} bit/s, entropy"
                f" {codes['entropy_bits_per_s']:.0f} bit/s) stand for {codes['raw_bits_per_s']:.0f} bit/s of samples"
                f" ({_RAW_BITS} bit): {codes['compression']:.0f} times less.",
            ],
            details={
                **codes,
                "windows": len(groups),
                "sessions": len(np.unique(np.concatenate(sums.session))),
                "bootstrap_groups": len(np.unique(groups)),
                "spectrum_band_hz": [float(frequency[0]), float(frequency[-1])],
                "spectra": {name: values.tolist() for name, values in power.items()},
                "coherence": {name: values.tolist() for name, values in coherence.items()},
                "frequency_hz": frequency.tolist(),
            },
        )

    def _collect(self, task: Any, data: Any) -> _Sums:
        sums = _Sums()
        network, was_training = task.network, task.training
        task.eval()
        with torch.inference_mode():
            for batch in _batches(data.test_dataloader()):
                signal = batch["signal"].to(task.device)
                present = batch.get("present", torch.ones(signal.shape[:2], dtype=torch.bool)).to(task.device)
                found = network(signal)
                ways = {"": found.signal.float()}
                if hasattr(network, "without_codes"):
                    ways["unquantised "] = network.without_codes(signal).float()
                n_time = signal.shape[-1]
                for level in range(1, network.n_levels):
                    ways[f"level {level} "] = network.decode(found.codes[..., :level])[..., :n_time].float()
                for codec in self.mu_law:
                    rows = signal.float().flatten(0, 1).unsqueeze(1)
                    ways[f"mu-law {codec.bits} "] = codec.to(task.device)(rows).view_as(signal)
                for way, guess in ways.items():
                    _add(sums.scores, _by_window(signal, guess, present), way)
                _add(sums.scores, _by_window(signal, torch.zeros_like(signal), present), "silence ")
                sums.session.append(batch["session"].numpy())
                counts = torch.stack(
                    [code_counts(site, network.vocab_size) for site in found.codes.unbind(dim=2)]
                ).cpu()
                sums.counts = counts if sums.counts is None else sums.counts + counts
                _add_spectra(sums.spectra, signal, ways, present, float(data.sfreq_hz))
                for row, session in enumerate(batch["session"].tolist()):
                    kept = sums.kept.setdefault(session, [])
                    if len(kept) < self.n_kept:
                        arrays = (signal[row], ways[""][row], present[row])
                        kept.append(tuple(x.cpu().numpy() for x in arrays))
        task.train(was_training)
        return sums

    def _reconstruction(self, sums: _Sums, groups: np.ndarray, control: dict[str, float]) -> list[Metric]:
        metrics = []
        for name, (better, note) in _TERMS.items():
            values = sums.score(name)
            low, high = bootstrap_mean(values, groups, self.n_bootstrap, self.seed)
            ceiling = f"unquantised {name}"
            if name == "mae":
                chance = float(sums.score("silence mae").mean())
                note += "; chance: silence"
            else:
                chance = None
            metrics.append(
                Metric(
                    name,
                    float(values.mean()),
                    low,
                    high,
                    chance=chance,
                    control=control.get(name),
                    ceiling=float(sums.score(ceiling).mean()) if ceiling in sums.scores else None,
                    n=len(values),
                    better=better,  # type: ignore[arg-type]
                    note=f"{note}; control: another session's reconstruction; ceiling: without quantiser",
                )
            )
        return metrics

    def _bits(self, sums: _Sums, codes: Mapping[str, Any], samples_per_s: float) -> Table:
        rows = [("the tokenizer", f"{codes['bits_per_s']:.0f}", *_scores(sums, ""))]
        for codec in self.mu_law:
            name = f"mu-law, {codec.bits} bit per sample"
            rows.append((name, f"{codec.bits * samples_per_s:.0f}", *_scores(sums, f"mu-law {codec.bits} ")))
        header = ("codes", "bit/s", "correlation", "mean abs. error")
        return Table("bits", "What a number of bits buys on held-out data.", header, tuple(rows))

    def _figures(
        self,
        sums: _Sums,
        data: Any,
        frequency: np.ndarray,
        power: Mapping[str, np.ndarray],
        coherence: Mapping[str, np.ndarray],
        folder: Path,
    ) -> list[Figure]:
        scores, sessions = sums.score("pcc"), np.concatenate(sums.session)
        typical = sorted(sums.kept, key=lambda session: float(scores[sessions == session].mean()))[len(sums.kept) // 2]
        real, coded, present = sums.kept[typical][0]
        rows = np.flatnonzero(present)
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, self.n_example_channels).round().astype(int))]
        names = [data.ch_names[row] for row in rows]
        title = f"held-out session {_name(data, typical)}"
        traces = coded_traces(
            folder / "traces.png", real[rows], coded[rows], names, float(data.sfreq_hz), f"{title}, median correlation"
        )
        spectra = coded_spectra(folder / "spectra.png", frequency, power, coherence, "held-out spectra, channel mean")
        assert sums.counts is not None
        by_level = sums.counts.sum(dim=0).double()
        shares = (by_level / by_level.sum(dim=1, keepdim=True)).numpy()
        use = code_use(folder / "code_use.png", shares, "codes of held-out recordings")
        return [
            Figure("traces", "A held-out window as recorded and as it comes back from its codes.", traces),
            Figure("spectra", "Power of held-out windows before and after coding, and their coherence.", spectra),
            Figure("code_use", "Share of every code by level; a dead code would end its line early.", use),
        ]


def _batches(loaders: Any) -> Iterator[dict[str, Tensor]]:
    """The batches of one loader, or of one per channel set."""
    for loader in loaders if isinstance(loaders, list | tuple) else [loaders]:
        yield from loader


def _scores(sums: _Sums, way: str) -> tuple[str, str]:
    return f"{sums.score(f'{way}pcc').mean():.3f}", f"{sums.score(f'{way}mae').mean():.3f}"


def _by_window(real: Tensor, guess: Tensor, present: Tensor) -> dict[str, np.ndarray]:
    """Means over the present channels of each window."""
    terms = reconstruction_terms(real.flatten(0, 1), guess.flatten(0, 1))
    weight = present.double()
    total = weight.sum(dim=1).clamp(min=1)
    return {
        name: ((value.double().view(present.shape) * weight).sum(dim=1) / total).cpu().numpy()
        for name, value in terms.items()
    }


def _add(scores: dict[str, list[np.ndarray]], values: Mapping[str, np.ndarray], prefix: str) -> None:
    for name, value in values.items():
        scores.setdefault(f"{prefix}{name}", []).append(value)


def _add_spectra(
    sums: dict[str, np.ndarray], real: Tensor, ways: Mapping[str, Tensor], present: Tensor, sfreq_hz: float
) -> None:
    """Add power and cross power of segments of 2 s, half overlapping, Hann-tapered (Welch, 1967)."""
    n = min(real.shape[-1], round(2 * sfreq_hz))
    taper = torch.hann_window(n, device=real.device)

    def transformed(x: Tensor) -> Tensor:
        segments = x[present].unfold(-1, n, max(1, n // 2))
        return torch.fft.rfft((segments - segments.mean(dim=-1, keepdim=True)) * taper)

    scale = 1 / (sfreq_hz * float(taper.square().sum()))
    recorded = transformed(real)

    def added(name: str, value: Tensor) -> None:
        # Summed over channels as well: a channel's share in the coherence is its share in the power.
        sums[name] = sums.get(name, 0.0) + (value.sum(dim=(0, 1)) * scale).cpu().numpy()

    added("recorded", recorded.abs().square().double())
    sums["n"] = sums.get("n", np.zeros(1)) + recorded.shape[0] * recorded.shape[1]
    for way, label in (("", "from codes"), ("unquantised ", "without quantiser")):
        if way in ways:
            coded = transformed(ways[way])
            added(label, coded.abs().square().double())
            added(f"{label} × recorded", (recorded.conj() * coded).to(torch.complex128))


def _densities(
    sums: Mapping[str, np.ndarray], sfreq_hz: float, fmin_hz: float
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Frequencies, mean one-sided power densities, and coherences with the recording."""
    n = len(sums["recorded"])
    frequency = np.arange(n) * sfreq_hz / 2 / max(n - 1, 1)
    inside = (frequency >= fmin_hz) & (frequency <= 0.45 * sfreq_hz)
    if not inside.any():
        inside = frequency > 0
    power = {name: 2 * sums[name] / sums["n"] for name in sums if name != "n" and "×" not in name}
    coherence = {
        name: np.abs(sums[f"{name} × recorded"]) ** 2 / np.maximum(sums[name] * sums["recorded"], 1e-30)
        for name in power
        if name != "recorded"
    }
    small = max(float(power["recorded"].max()) * 1e-9, 1e-30)
    return (
        frequency[inside],
        {name: np.maximum(values[inside], small) for name, values in power.items()},
        {name: values[inside] for name, values in coherence.items()},
    )


def _groups(session: np.ndarray) -> np.ndarray:
    """What is resampled as a whole: sessions, or runs of windows where there are few sessions."""
    if len(np.unique(session)) >= _FEW_SESSIONS:
        return session
    return np.arange(len(session)) * min(_N_BLOCKS, len(session)) // len(session)


def _control(kept: Mapping[int, list[tuple[np.ndarray, np.ndarray, np.ndarray]]]) -> dict[str, float]:
    """Scores of taking the next session's reconstruction for a window's own."""
    sessions = sorted(kept)
    found: dict[str, list[float]] = {}
    for place, session in enumerate(sessions):
        other = kept[sessions[(place + 1) % len(sessions)]]
        for row, (real, _, present) in enumerate(kept[session]):
            if len(sessions) == 1 and len(other) == 1:
                continue
            _, guess, also = other[(row + (len(sessions) == 1)) % len(other)]
            both = present & also
            if not both.any() or real.shape != guess.shape:
                continue
            terms = reconstruction_terms(torch.from_numpy(real[both]), torch.from_numpy(guess[both]))
            for name, value in terms.items():
                found.setdefault(name, []).append(float(value.mean()))
    return {name: float(np.mean(values)) for name, values in found.items()}


def _codes(sums: _Sums, network: Any, sfreq_hz: float, n_channels: int) -> tuple[dict[str, Any], Table]:
    """Numbers about the codes as a whole, and a table with one row per level."""
    assert sums.counts is not None
    by_level = sums.counts.sum(dim=0)
    share = by_level.double() / by_level.sum(dim=1, keepdim=True)
    level_bits = -(share * share.clamp(min=1e-300).log2()).sum(dim=1)
    own = sums.counts.double() / sums.counts.sum(dim=2, keepdim=True)
    frame_bits = float(-(own * own.clamp(min=1e-300).log2()).sum())
    frames_per_s = sfreq_hz / network.hop
    tokens_per_s = frames_per_s * network.n_sites * network.n_levels
    bits_per_s = tokens_per_s * float(np.log2(network.vocab_size))
    raw = n_channels * sfreq_hz * _RAW_BITS
    spread = perplexity(by_level)
    used = (by_level > 0).double().mean(dim=1)
    rows = []
    for level in range(network.n_levels):
        name = "pcc" if level + 1 == network.n_levels else f"level {level + 1} pcc"
        score = float(sums.score(name).mean())
        cells = (f"{float(used[level]):.1%}", f"{float(spread[level]):.1f}", f"{float(level_bits[level]):.2f}")
        rows.append((str(level + 1), *cells, f"{score:.3f}"))
    header = ("level", "codes used", f"perplexity of {network.vocab_size}", "entropy (bit)", "correlation up to it")
    facts = {
        "perplexity": float(spread.mean()),
        "used": float(used.mean()),
        "perplexity_per_level": spread.tolist(),
        "used_per_level": used.tolist(),
        "entropy_bits_per_level": level_bits.tolist(),
        "pcc_up_to_level": [float(row[-1]) for row in rows],
        "frames_per_s": frames_per_s,
        "tokens_per_s": tokens_per_s,
        "bits_per_s": bits_per_s,
        "entropy_bits_per_s": frame_bits * frames_per_s,
        "raw_bits_per_s": raw,
        "compression": raw / bits_per_s,
    }
    return facts, Table("levels", "What each level of the quantiser does on held-out data.", header, tuple(rows))


def _sessions(sums: _Sums, data: Any, most: int = 30) -> Table:
    session, pcc, mae = np.concatenate(sums.session), sums.score("pcc"), sums.score("mae")
    rows = []
    for number in np.unique(session)[:most]:
        own = session == number
        rows.append((_name(data, int(number)), int(own.sum()), f"{pcc[own].mean():.3f}", f"{mae[own].mean():.3f}"))
    return Table(
        "sessions", "Held-out sessions.", ("session", "windows", "correlation", "mean abs. error"), tuple(rows)
    )


def _name(data: Any, session: int) -> str:
    return str(data.session(session).name) if hasattr(data, "session") else str(session)
