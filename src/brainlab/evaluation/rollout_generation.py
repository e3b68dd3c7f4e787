"""Real contexts with their real continuations, and what forecasters make of the same contexts."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32

from brainlab.errors import InvalidFile, InvalidValue, ShapeMismatch
from brainlab.evaluation.content import content_hash
from brainlab.evaluation.session_sampler import SampledPlaces
from brainlab.io.atomic import write_atomically
from brainlab.io.cache import Cache, code_digest

__all__ = [
    "RealSignals",
    "continue_contexts",
    "continue_once",
    "load_rollouts",
    "read_places",
    "reconstruct",
    "save_rollouts",
]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RealSignals:
    """Recorded signals at the sampled places, in the data's channel order.

    ``signal`` is context and continuation together; rows of absent channels are zero.
    """

    signal: Float32[np.ndarray, "context channel time"]
    present: Bool[np.ndarray, "context channel"]
    context_steps: int

    @property
    def context(self) -> Float32[np.ndarray, "context channel time"]:
        """What forecasters are given."""
        return self.signal[..., : self.context_steps]

    @property
    def target(self) -> Float32[np.ndarray, "context channel time"]:
        """What happened next."""
        return self.signal[..., self.context_steps :]

    def groups(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Contexts that were recorded with the same channels: (their numbers, the rows of those channels).

        The largest group comes first.
        """
        patterns, which = np.unique(self.present, axis=0, return_inverse=True)
        found = [
            (np.flatnonzero(which.reshape(-1) == index), np.flatnonzero(pattern))
            for index, pattern in enumerate(patterns)
            if pattern.any()
        ]
        return sorted(found, key=lambda group: (-len(group[0]), int(group[0][0])))


def read_places(data: Any, sampled: SampledPlaces) -> RealSignals:
    """Read the sampled places from the store.

    Raises:
        ShapeMismatch: sessions with different channel sets that are not mapped to one layout.
        InvalidValue: samples that are no finite numbers.
    """
    signals = [
        np.asarray(data.signal(place.session, place.start, sampled.total_steps), np.float32) for place in sampled.places
    ]
    counts = sorted({len(signal) for signal in signals})
    if len(counts) > 1:
        raise ShapeMismatch(
            "channels",
            counts,
            "expected one channel layout over the sampled sessions",
            hint="use data.layout=canonical",
        )
    stacked = np.stack(signals)
    if not np.isfinite(stacked).all():
        row = int(np.flatnonzero(~np.isfinite(stacked).all(axis=(1, 2)))[0])
        raise InvalidValue(
            "signal", "NaN or infinite", "expected finite samples", where=f"session {sampled.places[row].name}"
        )
    present = np.stack([np.asarray(data.present(place.session), bool) for place in sampled.places])
    return RealSignals(stacked, present, sampled.context_steps)


def continue_contexts(
    forecaster: Any,
    real: RealSignals,
    sampler: Any,
    *,
    per_context: int = 1,
    batch_size: int = 16,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[Float32[np.ndarray, "context rollout channel time"], dict[str, Any]]:
    """Let a forecaster run freely from every context, for as long as the real continuation is.

    Args:
        forecaster: see :class:`brainlab.types.Forecaster`.
        real: contexts; only what lies before their continuation is handed over.
        sampler: how to draw.
        per_context: continuations of each context.
        batch_size: continuations drawn at once.
        seed: of the drawing; the same for the same batch size.
        device: where the forecaster works.

    Returns:
        continuations (absent channels zero) and facts: seconds, values that were not finite (set to 0).

    Raises:
        ShapeMismatch: if the forecaster gives another shape.
    """
    steps = real.signal.shape[-1] - real.context_steps
    context = torch.from_numpy(np.repeat(real.context, per_context, axis=0))
    generator = torch.Generator().manual_seed(seed)
    made = np.empty((len(context), context.shape[1], steps), np.float32)
    started = time.perf_counter()
    for first in range(0, len(context), batch_size):
        rows = slice(first, first + batch_size)
        with torch.inference_mode():
            drawn = forecaster.forecast(context[rows].to(device), steps, sampler, generator)
        expected = (len(context[rows]), context.shape[1], steps)
        if tuple(drawn.shape) != expected:
            raise ShapeMismatch(
                "forecast", tuple(drawn.shape), f"expected {expected}: one continuation of each context"
            )
        made[rows] = drawn.float().cpu().numpy()
    seconds = time.perf_counter() - started
    broken = ~np.isfinite(made)
    made[broken] = 0.0
    made *= np.repeat(real.present, per_context, axis=0)[..., None]
    facts = {
        "rollouts": len(made),
        "seconds": round(seconds, 3),
        "samples_per_second": round(made.shape[0] * steps / max(seconds, 1e-9), 1),
        "values_not_finite": int(broken.sum()),
        "root_mean_square": float(np.sqrt(np.square(made, dtype=np.float64).mean())),
    }
    return made.reshape(len(real.signal), per_context, *made.shape[1:]), facts


def continue_once(
    cache: Cache | None,
    forecaster: Any,
    real: RealSignals,
    sampler: Any,
    *,
    per_context: int = 1,
    batch_size: int = 16,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[Float32[np.ndarray, "context rollout channel time"], dict[str, Any]]:
    """:func:`continue_contexts`, kept in ``cache``: another evaluation of the same rollouts draws nothing.

    The key is the content of everything they depend on: weights and settings of the forecaster and its tokenizer, the
    samples of the contexts, the sampler, seed, batches, device and code. Without a cache, or where a forecaster cannot
    be told from another one by its content, they are drawn.

    Raises:
        InvalidFile: if kept rollouts were damaged.
    """
    drawn: list[tuple[np.ndarray, dict[str, Any]]] = []

    def draw() -> tuple[np.ndarray, dict[str, Any]]:
        made, facts = continue_contexts(
            forecaster, real, sampler, per_context=per_context, batch_size=batch_size, seed=seed, device=device
        )
        log.info("rollouts of the model took %.1f s", facts["seconds"])
        return made, facts

    def build(folder: Path) -> None:
        made, facts = draw()
        drawn.append((made, facts))
        np.save(folder / "generated.npy", made, allow_pickle=False)
        write_atomically(folder / "facts.json", json.dumps(facts))

    contents = {"forecaster": forecaster, "sampler": sampler, "context": real.context, "present": real.present}
    inputs = {} if cache is None else {name: content_hash(each) for name, each in contents.items()}
    known = {name: each for name, each in inputs.items() if each is not None}
    if cache is None or len(known) < len(contents):
        return draw()
    recipe = {
        "steps": real.signal.shape[-1] - real.context_steps,
        "per_context": per_context,
        "batch_size": batch_size,
        "seed": seed,
        "device": torch.device(device).type,
        "torch": str(torch.__version__),
        "code": code_digest("models", "nn", "signal", "tasks", "evaluation/rollout_generation.py"),
    }
    try:
        folder = cache.get("rollouts", recipe, known, build)
    except InvalidFile as error:
        if cache.has("rollouts", recipe, known):
            raise
        log.warning("The rollouts are not kept for another evaluation: %s", error)
        return drawn[0] if drawn else draw()
    if drawn:
        return drawn[0]
    log.info("rollouts of the model are those drawn before, %s", folder)
    return np.load(folder / "generated.npy", allow_pickle=False), json.loads((folder / "facts.json").read_text())


def reconstruct(
    tokenizer: Any, real: RealSignals, batch_size: int = 16, device: torch.device | str = "cpu"
) -> Float32[np.ndarray, "context channel time"]:
    """The real continuations after a tokenizer wrote and read them: the best that any model of its codes can do."""
    signal, parts = torch.from_numpy(real.signal), []
    for first in range(0, len(signal), batch_size):
        with torch.inference_mode():
            codes = tokenizer.encode(signal[first : first + batch_size].to(device))
            parts.append(tokenizer.decode(codes)[..., real.context_steps :].float().cpu().numpy())
    return np.concatenate(parts) * real.present[..., None]


def save_rollouts(
    folder: Path,
    generated: Mapping[str, Float32[np.ndarray, "context _ channel time"]],
    real: RealSignals,
    metadata: Mapping[str, Any],
) -> Path:
    """Write ``rollouts.npz`` (plain arrays) and ``rollouts.json`` (what they are); returns the former.

    The archive holds ``context`` and ``target`` (context, channel, time), ``present`` and one
    ``generated_<method>`` (context, rollout, channel, time) for each method, float32.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rollouts.npz"
    arrays = {f"generated_{name}": values for name, values in generated.items()}
    np.savez(path, allow_pickle=False, context=real.context, target=real.target, present=real.present, **arrays)
    write_atomically(folder / "rollouts.json", json.dumps(dict(metadata), indent=1, ensure_ascii=False))
    return path


def load_rollouts(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the metadata that :func:`save_rollouts` wrote."""
    with np.load(folder / "rollouts.npz", allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return arrays, json.loads((folder / "rollouts.json").read_text(encoding="utf-8"))
