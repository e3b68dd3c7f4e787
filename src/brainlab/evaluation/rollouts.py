"""Free-running rollouts: do they stay like the recording that they continue, and for how long?

Real contexts are drawn from held-out sessions; the trained forecaster and every baseline continue the same contexts.
Everything is compared with the real continuation, with swapped pairs as controls, real recordings as the floor and the
tokenizer's reconstruction as the ceiling. The unit of every interval and test is the session, since contexts of one
session are not independent; with a single session it is the context, and nothing generalises beyond that recording.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from brainlab.errors import InvalidValue
from brainlab.evaluation.rollout_divergence import Partners, compare, drift
from brainlab.evaluation.rollout_figures import draw_figures
from brainlab.evaluation.rollout_generation import (
    RealSignals,
    continue_contexts,
    continue_once,
    read_places,
    reconstruct,
    save_rollouts,
)
from brainlab.evaluation.rollout_notes import notes_of
from brainlab.evaluation.rollout_report import Findings, metrics_of, statistics_markdown, tables_of
from brainlab.evaluation.rollout_tokens import summarise_tokens
from brainlab.evaluation.session_sampler import SessionSampler
from brainlab.io.atomic import write_atomically
from brainlab.metrics.rollouts import window_summaries
from brainlab.metrics.sliding import WindowComparison, compare_windows
from brainlab.types import Evaluation

__all__ = ["Rollouts"]

log = logging.getLogger(__name__)

_FEWEST = 8  # samples of a prefix or window: the shortest segment of the spectra
_FIRST_S = 2.0  # coherence needs several segments
_MOST_PREFIXES = 8


class Rollouts:
    """Protocol: sample contexts, continue them, compare with what really followed.

    Args:
        context_s: length of a context; ``context_steps`` in samples wins.
        total_s: context and continuation together; ``total_steps`` wins.
        context_steps: length of a context in samples.
        total_steps: context and continuation in samples.
        n_contexts: most contexts in all.
        contexts_per_session: most contexts of one session; null: as many as fit.
        min_contexts: where fewer fit, lengths are shortened, to no less than half.
        stride_s: time between possible contexts of a session; null: ``total_s``, so that none overlap.
        place: which contexts of a session come first: start, random or spread.
        part: part of the split: train, val or test.
        dataset: only sessions of this data set.
        task: only sessions whose task holds this text.
        num_sessions: only so many sessions, drawn at random.
        sampler: how codes are drawn; continuous models use its temperature.
        rollouts_per_context: continuations of each context.
        batch_size: continuations drawn at once.
        prefixes_s: lengths at which rollouts are compared, 8 samples at least, besides all of it; null: up to eight
            even steps.
        window_s: length of the sliding windows, 8 samples at least.
        window_stride_s: time from window to window.
        fmin_hz: lowest frequency of the spectra.
        fmax_hz: highest; null: 0.95 of the Nyquist frequency.
        n_partners: other contexts that each control meets, per context.
        partners: of the same data set and task: ``other_session``, or ``any`` other context.
        baselines: name → forecaster that has ``fit``, or a callable that makes one of ``n_channels``; fitted to the
            training part here. Null entries are left out.
        baseline_max_s: seconds of training signal that baselines are fitted to; null: all.
        n_bootstrap: resamplings for each interval.
        correction: of the p-values for testing 36 distances: holm, benjamini_hochberg or none.
        save_signals: write contexts and continuations to ``rollouts/rollouts.npz``.
        cache: keep the model's rollouts in the cache of the data, and take those that an earlier evaluation drew.
        n_examples: contexts in the figure of traces.
        seed: of contexts, rollouts, partners and resamplings.
    """

    def __init__(
        self,
        *,
        context_s: float = 10.0,
        total_s: float = 20.0,
        context_steps: int | None = None,
        total_steps: int | None = None,
        n_contexts: int | None = 16,
        contexts_per_session: int | None = None,
        min_contexts: int = 6,
        stride_s: float | None = None,
        place: Literal["start", "random", "spread"] = "spread",
        part: Literal["train", "val", "test"] = "test",
        dataset: str | None = None,
        task: str | None = None,
        num_sessions: int | None = None,
        sampler: Any = None,
        rollouts_per_context: int = 1,
        batch_size: int = 16,
        prefixes_s: Sequence[float] | None = None,
        window_s: float = 4.0,
        window_stride_s: float = 1.0,
        fmin_hz: float = 1.0,
        fmax_hz: float | None = None,
        n_partners: int = 4,
        partners: Partners = "other_session",
        baselines: Mapping[str, Any] | None = None,
        baseline_max_s: float | None = None,
        n_bootstrap: int = 5000,
        correction: Literal["holm", "benjamini_hochberg", "none"] = "holm",
        save_signals: bool = True,
        cache: bool = True,
        n_examples: int = 3,
        seed: int = 0,
    ) -> None:
        for name, value in (
            ("rollouts_per_context", rollouts_per_context),
            ("batch_size", batch_size),
            ("n_partners", n_partners),
            ("n_bootstrap", n_bootstrap),
            ("n_examples", n_examples),
        ):
            if value < 1:
                raise InvalidValue(f"evaluation.{name}", value, "expected at least 1")
        for key, seconds in (("window_s", window_s), *(("prefixes_s", each) for each in prefixes_s or ())):
            if not seconds > 0:
                raise InvalidValue(f"evaluation.{key}", seconds, "expected a positive number of seconds")
        if not window_stride_s > 0:
            raise InvalidValue("evaluation.window_stride_s", window_stride_s, "expected a positive number of seconds")
        if correction not in ("holm", "benjamini_hochberg", "none"):
            raise InvalidValue("evaluation.correction", correction, "expected holm, benjamini_hochberg or none")
        if partners not in ("other_session", "any"):
            raise InvalidValue("evaluation.partners", partners, "expected other_session or any")
        self.places = SessionSampler(
            context_s=context_s,
            total_s=total_s,
            context_steps=context_steps,
            total_steps=total_steps,
            n_contexts=n_contexts,
            contexts_per_session=contexts_per_session,
            min_contexts=min_contexts,
            stride_s=stride_s,
            place=place,
            part=part,
            dataset=dataset,
            task=task,
            num_sessions=num_sessions,
            seed=seed,
        )
        self.sampler, self.rollouts_per_context, self.batch_size = sampler, rollouts_per_context, batch_size
        self.prefixes_s = None if prefixes_s is None else sorted({float(each) for each in prefixes_s})
        self.window_s, self.window_stride_s = float(window_s), float(window_stride_s)
        self.fmin_hz, self.fmax_hz = float(fmin_hz), fmax_hz
        self.n_partners, self.n_bootstrap, self.seed = n_partners, n_bootstrap, seed
        self.partners: Partners = partners
        self.correction: Literal["holm", "benjamini_hochberg", "none"] = correction
        self.baselines = {name: each for name, each in (baselines or {}).items() if each is not None}
        self.baseline_max_s, self.save_signals, self.n_examples = baseline_max_s, save_signals, n_examples
        self.cache = cache
        reserved = {"real", "model", "correct", "target_swap", "prompt_swap", "real_real", "own_context", "tokenizer"}
        for name in self.baselines:
            if name in reserved:
                raise InvalidValue("evaluation.baselines", name, "expected a name that no line of the report has")

    def __call__(self, task: Any, data: Any, out: Path) -> Evaluation:
        """Judge ``task`` on held-out contexts; files go to ``out/rollouts``, figures to ``out/figures``.

        Raises:
            InvalidValue: where no context fits.
        """
        started = time.perf_counter()
        forecaster = task.forecaster(data)
        tokenizer = getattr(data, "tokenizer", None)
        was_training = task.training
        task.eval()
        sampled = self.places(data, 1 if tokenizer is None else int(tokenizer.hop))
        if not sampled.places:
            raise InvalidValue(
                "evaluation.total_s",
                f"{sampled.total_steps / sampled.sfreq_hz:g}",
                f"expected a length that fits into a session of the {self.places.part} part; "
                + (sampled.dropped[0]["reason"] if sampled.dropped else "there is none"),
                hint="a smaller evaluation.total_s and evaluation.context_s",
            )
        notes = list(sampled.notes)
        real = read_places(data, sampled)
        prefixes = self._prefixes(sampled.target_steps, sampled.sfreq_hz, notes)
        window, stride, times_s = self._sliding(sampled.target_steps, sampled.sfreq_hz, notes)
        device = getattr(task, "device", torch.device("cpu"))
        log.info("%d contexts of %d sessions", len(sampled.places), len({p.session for p in sampled.places}))

        others, facts, fitted = self._continued_by_baselines(data, real)
        cache = getattr(data, "cache", None) if self.cache else None
        made, facts["model"] = continue_once(cache, forecaster, real, self.sampler, device=device, **self._drawing)
        generated = {"model": made, **others}
        compared_with = dict(others)
        if tokenizer is not None:
            compared_with["tokenizer"] = reconstruct(tokenizer, real, self.batch_size, device)[:, None]

        compared = compare(
            made,
            real,
            compared_with,
            sampled.places,
            sfreq_hz=sampled.sfreq_hz,
            prefixes=prefixes,
            n_partners=self.n_partners,
            partners=self.partners,
            seed=self.seed,
            fmin_hz=self.fmin_hz,
            fmax_hz=self.fmax_hz,
        )
        statistics = compared.divergence.statistics(self.n_bootstrap, self.seed, self.correction, compared.clusters)
        windows = self._windows(generated, real, sampled.sfreq_hz, window, stride)
        drifting = drift(
            made,
            real,
            others,
            compared.divergence.partners,
            sfreq_hz=sampled.sfreq_hz,
            window=window,
            stride=stride,
            fmin_hz=self.fmin_hz,
            fmax_hz=self.fmax_hz,
        )
        tokens = None
        if tokenizer is not None and hasattr(task, "scores"):
            tokens = summarise_tokens(task, data, real, fitted, device)
        task.train(was_training)
        read_s, trained_s = _windows_read_s(task, forecaster, tokenizer, sampled.sfreq_hz, sampled.total_steps)
        if read_s is not None and trained_s is not None and read_s > trained_s:
            notes.append(
                f"The model reads up to {read_s:g} s at once, but was trained on windows of {trained_s:g} s: positions "
                "beyond them were never trained (model.max_context: null stays within them)."
            )
            log.warning("%s", notes[-1])

        findings = Findings(
            sampled=sampled,
            compared=compared,
            statistics=statistics,
            windows=windows,
            times_s=times_s,
            drift=drifting,
            tokens=tokens,
            facts=facts,
            source=data.source,
            part=self.places.part,
            read_s=read_s,
            groups=real.groups(),
            correction=self.correction,
            described={name: each for name, each in facts.items() if name != "model"},
            n_bootstrap=self.n_bootstrap,
            seed=self.seed,
        )
        folder = Path(out) / "rollouts"
        self._write(folder, findings, generated, real)
        metrics = metrics_of(findings)
        figures = draw_figures(
            Path(out) / "figures",
            findings,
            generated,
            real,
            reconstructed=compared_with.get("tokenizer"),
            ch_names=list(getattr(data, "ch_names", [])),
            fmin_hz=self.fmin_hz,
            fmax_hz=self.fmax_hz,
            n_examples=self.n_examples,
        )
        log.info("the evaluation took %.1f s", time.perf_counter() - started)
        return Evaluation(
            headline="psd_distance",
            metrics=metrics,
            figures=figures,
            tables=tables_of(findings),
            notes=[*notes_of(findings), *notes],
            details={
                "contexts": len(sampled.places),
                "sessions": len({place.session for place in sampled.places}),
                "dropped": list(sampled.dropped),
                "context_s": sampled.context_steps / sampled.sfreq_hz,
                "continuation_s": sampled.target_steps / sampled.sfreq_hz,
                "prefixes_s": compared.divergence.prefixes_s,
                "rollouts_per_context": self.rollouts_per_context,
                "sampler": _describe(self.sampler),
                "generation": facts,
                "files": sorted(f"rollouts/{path.name}" for path in folder.iterdir()),
                **({} if tokens is None else {"tokens": tokens.facts}),
            },
        )

    # -- steps --------------------------------------------------------------------------------------------------

    @property
    def _drawing(self) -> dict[str, int]:
        return {"per_context": self.rollouts_per_context, "batch_size": self.batch_size, "seed": self.seed}

    def _continued_by_baselines(
        self, data: Any, real: RealSignals
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]], dict[str, Any]]:
        """Fit every baseline to the training part and let it continue the same contexts."""
        made, facts = {}, {}
        fitting = {
            name: each if hasattr(each, "forecast") else each(n_channels=real.signal.shape[1])
            for name, each in self.baselines.items()
        }
        # Those without sums to fit take all they know from each context.
        sums = {name: baseline.statistics() for name, baseline in fitting.items() if hasattr(baseline, "statistics")}
        if sums:
            for session, signal in data.training_signals(self.baseline_max_s):
                present = torch.from_numpy(np.asarray(data.present(session), bool))[None]
                for each in sums.values():
                    each.add(torch.from_numpy(signal)[None], present)
        for name, baseline in fitting.items():
            if name in sums:
                baseline.solve(sums[name])
            made[name], facts[name] = continue_contexts(baseline, real, self.sampler, **self._drawing)
            facts[name] |= baseline.describe()
            log.info("%s: fitted and rolled out in %.1f s", name, facts[name]["seconds"])
        return made, facts, fitting

    def _prefixes(self, target_steps: int, sfreq_hz: float, notes: list[str]) -> list[int]:
        """Lengths to compare, in samples; the last is the whole continuation."""
        _refuse_short("total_s", target_steps, sfreq_hz, " after the context")
        if self.prefixes_s is None:
            n = int(min(_MOST_PREFIXES, max(1, target_steps // (_FIRST_S * sfreq_hz))))
            return [round(target_steps * step / n) for step in range(1, n + 1)]
        wanted = sorted({round(each * sfreq_hz) for each in self.prefixes_s})
        _refuse_short("prefixes_s", wanted[0] if wanted else target_steps, sfreq_hz)
        fitting = [each for each in wanted if each < target_steps]
        beyond = [each / sfreq_hz for each in wanted if each > target_steps]
        if beyond:
            notes.append(
                f"Prefixes of {', '.join(f'{each:g}' for each in beyond)} s are longer than the continuation and were "
                f"replaced by all of it, {target_steps / sfreq_hz:g} s."
            )
        return [*fitting, target_steps]

    def _sliding(self, target_steps: int, sfreq_hz: float, notes: list[str]) -> tuple[int, int, list[float]]:
        """Length and step of the sliding windows in samples, and the middles of the windows in seconds."""
        window, stride = round(self.window_s * sfreq_hz), max(1, round(self.window_stride_s * sfreq_hz))
        _refuse_short("window_s", window, sfreq_hz)
        if window > target_steps:
            notes.append(
                f"The sliding window of {self.window_s:g} s was shortened to the continuation of "
                f"{target_steps / sfreq_hz:g} s."
            )
            window = target_steps
        n_windows = (target_steps - window) // stride + 1
        return window, stride, [(step * stride + window / 2) / sfreq_hz for step in range(n_windows)]

    def _windows(
        self, generated: Mapping[str, np.ndarray], real: RealSignals, sfreq_hz: float, window: int, stride: int
    ) -> dict[str, WindowComparison]:
        """Summaries in sliding windows of every method against the real continuations, largest channel group."""
        rows, channels = real.groups()[0]
        target = np.ascontiguousarray(real.target[rows][:, channels])
        settings = (sfreq_hz, window, stride, self.fmin_hz, self.fmax_hz)
        true = window_summaries(target, *settings)
        found = {}
        for name, made in generated.items():
            flat = np.ascontiguousarray(made[rows][:, :, channels].reshape(-1, *target.shape[1:]))
            found[name] = compare_windows(window_summaries(flat, *settings), true)
        return found

    def _write(
        self,
        folder: Path,
        findings: Findings,
        generated: Mapping[str, np.ndarray],
        real: RealSignals,
    ) -> None:
        """Everything that the report is made of, as JSON, and the signals."""
        folder.mkdir(parents=True, exist_ok=True)
        sampled, compared = findings.sampled, findings.compared
        _write_json(folder / "contexts.json", sampled.to_dict())
        lines = {**compared.divergence.to_dict(), "curves": compared.divergence.curves()}
        lines["lines"] |= {name: _listed(values) for name, values in compared.others.items()}
        _write_json(folder / "divergence.json", lines)
        statistics = {
            "correction": self.correction,
            "unit": compared.unit,
            "n_units": compared.n_units,
            "controls": findings.statistics,
            "controls_by_context": compared.divergence.statistics(self.n_bootstrap, self.seed, self.correction),
        }
        _write_json(folder / "statistics.json", statistics)
        write_atomically(folder / "statistics.md", statistics_markdown(statistics))
        _write_json(
            folder / "windows.json",
            {"times_s": findings.times_s, **{name: each.to_dict() for name, each in findings.windows.items()}},
        )
        _write_json(
            folder / "drift.json",
            {"times_s": findings.times_s, "lines": {name: _listed(each) for name, each in findings.drift.items()}},
        )
        if findings.tokens is not None:
            tokens = findings.tokens
            _write_json(
                folder / "tokens.json",
                {
                    **tokens.facts,
                    "time_s": tokens.time_s.tolist(),
                    "bits_per_second": tokens.bits_per_second.tolist(),
                    "bits_per_token_by_context": tokens.bits_per_token.tolist(),
                },
            )
        if self.save_signals:
            metadata = {**sampled.to_dict(), "data_source": findings.source, "generation": findings.facts}
            save_rollouts(folder, generated, real, metadata)


def _refuse_short(key: str, steps: int, sfreq_hz: float, where: str = "") -> None:
    if steps < _FEWEST:
        raise InvalidValue(
            f"evaluation.{key}",
            f"{steps / sfreq_hz:g} s{where}",
            f"expected at least {_FEWEST} samples, {_FEWEST / sfreq_hz:g} s, for a spectrum",
        )


def _windows_read_s(
    task: Any, forecaster: Any, tokenizer: Any, sfreq_hz: float, total_steps: int
) -> tuple[float | None, float | None]:
    """Seconds of the past that a token model reads at once, and that its training windows had; None: not said."""
    if tokenizer is None:
        return None, None
    whole = total_steps / tokenizer.hop
    longest, trained = getattr(forecaster, "max_context", None), getattr(task, "n_frames", None)
    frame_s = tokenizer.hop / sfreq_hz
    return (
        min(whole, longest or whole) * frame_s,
        None if trained is None else trained * frame_s,
    )


def _describe(sampler: Any) -> dict[str, Any] | None:
    if sampler is None:
        return None
    plain = (str, int, float, list, tuple, type(None))
    return {key: value for key, value in vars(sampler).items() if isinstance(value, plain)}


def _listed(values: Mapping[str, np.ndarray]) -> dict[str, list[list[float | None]]]:
    return {
        name: [[float(v) if np.isfinite(v) else None for v in row] for row in rows] for name, rows in values.items()
    }


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))
