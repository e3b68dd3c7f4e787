"""The job that says what a model would cost: parameters, memory and operations, without data and without memory."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from brainlab.errors import ConfigError, ShapeMismatch
from brainlab.run.context import Run
from brainlab.run.loading import loading

__all__ = ["Size"]

log = logging.getLogger(__name__)

_SIZES = ("n_sites", "n_levels", "vocab_size")


class Size:
    """Build the network of a token model where tensors hold nothing, and count.

    Data are neither read nor prepared: what they would decide is given here.

    Args:
        n_channels: channels of the recordings.
        sfreq_hz: samples per second of the prepared recordings.
        n_frames: frames of a training window; null is ``model.n_frames``, else what ``data.window_s`` holds.
        batch_size: windows of a training step; null is ``data.batch_size``.
    """

    def __init__(
        self,
        n_channels: int = 68,
        sfreq_hz: float = 100.0,
        n_frames: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        for name, value in (("n_channels", n_channels), ("sfreq_hz", sfreq_hz)):
            if not 0 < value < math.inf:
                raise ConfigError(f"job.{name}", value, "expected a positive number")
        for name, number in (("n_frames", n_frames), ("batch_size", batch_size)):
            if number is not None and number < 1:
                raise ConfigError(f"job.{name}", number, "expected a positive number, or null")
        self.n_channels, self.sfreq_hz, self.n_frames, self.batch_size = n_channels, sfreq_hz, n_frames, batch_size

    def check(self, cfg: DictConfig) -> None:
        """
        Raises:
            ConfigError: the model is not one whose network reads codes.
        """
        network = cfg.model.get("network") if cfg.get("model") is not None else None
        if network is None or not network.get("_partial_") or any(name not in cfg.model for name in _SIZES):
            raise ConfigError(
                "model",
                cfg.model.get("_target_") if cfg.get("model") is not None else None,
                "expected a model of codes",
                hint="for example model=flat_gpt",
            )

    def __call__(self, cfg: DictConfig, run: Run) -> float | None:
        log.info("loading torch …")
        with loading():
            from brainlab.config.build import build
            from brainlab.run import conclude
            from brainlab.run.directory import write_json
            from brainlab.run.report import write_report
            from brainlab.types import Evaluation, Metric, Table

        tokenizer = self._tokenizer(cfg)
        sizes = {name: _agreed(name, cfg.model[name], tokenizer.get(name)) for name in _SIZES}
        network = functools.partial(build(cfg.model.network, path="model.network"), **sizes)
        batch = self.batch_size or int((cfg.get("data") or {}).get("batch_size") or 1)
        frames = self._frames(cfg, tokenizer["hop"])
        facts = _measure(network, sizes, frames, batch, str(cfg.trainer.get("precision") or "32-true"))
        per_second = self.sfreq_hz / tokenizer["hop"]
        rows = _rows(facts, frames, batch, per_second, tokenizer)
        details = {"tokenizer": tokenizer, "network": {**sizes, "n_frames": frames, "batch_size": batch, **facts}}
        outcome = Evaluation(
            headline="parameters",
            metrics=[Metric("parameters", float(facts["parameters"]), better="lower")],
            tables=[Table("size", "What the model costs, counted without running it", ("", "", "how"), tuple(rows))],
            notes=["Operations: one multiplication and one addition are two. Attention is counted over all pairs."],
            details=details,
        )
        results = conclude.results_of(cfg, run, outcome, data=None, best={}, fingerprint=run.settle_fingerprint())
        write_json(run.directory.results, results)
        write_report(run, results, {})
        wide = max(len(name) for name, *_ in rows)
        log.info("%s", "\n".join(f"{name:<{wide}}  {value:>14}  {how}" for name, value, how in rows))
        log.info("report: %s", run.directory.report)
        return None

    def _tokenizer(self, cfg: DictConfig) -> dict[str, Any]:
        """What the tokenizer of the data would be; sizes that nobody described are null."""
        import torch

        from brainlab.config.build import build

        node: Any = (cfg.get("data") or {}).get("tokenizer")
        unknown: dict[str, Any] = {"hop": 1, "parameters": 0, **dict.fromkeys(_SIZES)}
        if not OmegaConf.is_dict(node):
            return unknown
        # A trained tokenizer is described by its network; its weights may not be there yet.
        node = node.network if node.get("network") is not None else node
        with torch.device("meta"):
            tokenizer = build(node, path="data.tokenizer")(self.n_channels)
        count = sum(parameter.numel() for parameter in tokenizer.parameters())
        buffers = sum(buffer.numel() for buffer in tokenizer.buffers() if buffer.is_floating_point())
        found = {name: int(getattr(tokenizer, name)) for name in ("hop", *_SIZES)}
        return {**found, "parameters": count, "buffers": buffers}

    def _frames(self, cfg: DictConfig, hop: int) -> int:
        frames = self.n_frames or cfg.model.get("n_frames")
        if frames is None:
            window_s = (cfg.get("data") or {}).get("window_s")
            if window_s is None:
                raise ConfigError("job.n_frames", "null", "expected a number of frames: the data have no window_s")
            frames = round(float(window_s) * self.sfreq_hz) // hop
        return int(frames)


def _agreed(name: str, configured: int | None, found: int | None) -> int:
    if configured is None and found is None:
        raise ConfigError(f"model.{name}", "null", "expected a size: there is no tokenizer to take it from")
    if configured is not None and found is not None and configured != found:
        raise ShapeMismatch(f"model.{name}", configured, f"expected {found}, which is what the tokenizer has")
    return int(configured if configured is not None else found)  # type: ignore[arg-type]


def _measure(
    network: Callable[..., Any], sizes: Mapping[str, int], frames: int, batch: int, precision: str
) -> dict[str, Any]:
    """Everything that is counted: bytes and operations."""
    import torch

    from brainlab.nn.footprint import count_flops, footprint

    low = {"b": torch.bfloat16, "1": torch.float16}.get(precision[0])
    shape = (sizes["n_sites"], sizes["n_levels"])

    def codes(n_rows: int, n_frames: int) -> Any:
        return torch.zeros(n_rows, n_frames, *shape, dtype=torch.long)

    with torch.device("meta"):
        built = network()
    cost = footprint(network, lambda module: module.loss(codes(batch, frames)), low)
    facts = {
        "precision": precision,
        "parameters": cost.parameters,
        "weight_bytes": cost.weights,
        "gradient_bytes": cost.gradients,
        "optimizer_bytes": 2 * cost.gradients,
        "activation_bytes": cost.activations,
        "training_bytes": cost.weights + 3 * cost.gradients + cost.activations,
        "flops_per_step": cost.flops,
        "flops_per_token": cost.flops // (batch * frames * built.tokens_per_frame),
        "tokens_per_frame": built.tokens_per_frame,
    }
    if hasattr(built, "cache"):
        facts["kv_cache_bytes"] = built.cache(1, frames, low).n_bytes

    def greedy(logits: Any, level: int, generator: Any) -> Any:
        return logits.argmax(dim=-1)

    def generated(n_new: int) -> int:
        return count_flops(network, lambda module: module.generate(codes(1, frames - 2), n_new, greedy))

    if frames > 2:
        # The last frame of a full window: with it less without it, so that reading the window in is not counted.
        facts["flops_per_generated_frame"] = generated(2) - generated(1)
    return facts


def _rows(
    facts: Mapping[str, Any], frames: int, batch: int, per_second: float, tokenizer: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
    """The table of the report: what, how much, and how it comes about."""
    tokens = frames * facts["tokens_per_frame"]
    window = f"{frames:,} frames = {tokens:,} tokens = {frames / per_second:.4g} s"
    rows = [
        ("parameters", f"{facts['parameters']:,}", f"{facts['parameters'] / 1e6:.1f} M"),
        ("window", f"{tokens:,} tokens", window),
        ("weights", _memory(facts["weight_bytes"]), "float32"),
        ("gradients", _memory(facts["gradient_bytes"]), "float32"),
        ("optimizer", _memory(facts["optimizer_bytes"]), "two averages of AdamW, float32"),
        ("activations", _memory(facts["activation_bytes"]), f"{batch} windows, precision {facts['precision']}"),
        ("training, in all", _memory(facts["training_bytes"]), "per device that holds a whole batch"),
        ("training step", _flops(facts["flops_per_step"]), f"forward and backward, {batch} windows"),
        ("training, per token", _flops(facts["flops_per_token"]), "attention over a whole window in it"),
    ]
    if "kv_cache_bytes" in facts:
        rows.append(("key–value cache", _memory(facts["kv_cache_bytes"]), "one rollout with a full window"))
    if "flops_per_generated_frame" in facts:
        work = facts["flops_per_generated_frame"] * per_second
        how = f"{per_second * facts['tokens_per_frame']:.4g} tokens at the end of a full window"
        rows.append(("generating one second", _flops(work), how))
    if tokenizer["parameters"]:
        channels = f"{tokenizer['hop']} samples → {tokenizer['n_sites']} × {tokenizer['n_levels']} codes a frame"
        rows.append(("tokenizer parameters", f"{tokenizer['parameters']:,}", channels))
    return rows


def _memory(n_bytes: float) -> str:
    """
    >>> _memory(1536), _memory(5 * 1024**3)
    ('1.50 KiB', '5.00 GiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.2f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.2f} TiB"


def _flops(n: float) -> str:
    """
    >>> _flops(1.6e14)
    '160.00 TFLOP'
    """
    for unit in ("", "k", "M", "G", "T"):
        if n < 1000:
            return f"{n:.2f} {unit}FLOP"
        n /= 1000
    return f"{n:.2f} PFLOP"
