"""Next-token training of networks on codes, and forecasts of signals through their tokenizer."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.models.mu_law import MuLaw, mu_law_decode
from brainlab.nn.cross_entropy import LinearPrediction, LogitPrediction, token_scores
from brainlab.nn.signal_losses import log_power_gap
from brainlab.tasks.optim import build_scheduler, decay_groups, warmup_then
from brainlab.tasks.step_log import StepLog
from brainlab.types import Tokenizer

__all__ = ["Forecasting", "TokenBatch", "TokenCorruption", "TokenForecaster"]


class TokenBatch(TypedDict):
    """One batch: ``codes`` of windows, the ``session`` each came from, its first sample ``start`` and its ``index``."""

    codes: Int[Tensor, "batch frame site level"]
    session: Int[Tensor, " batch"]
    start: Int[Tensor, " batch"]
    index: Int[Tensor, " batch"]


@dataclass(frozen=True)
class TokenCorruption:
    """Replaces whole frames of what the network reads by random codes, so that it learns to go on after its own slips.

    The chance of a frame to be covered runs from ``p_start`` at the first frame of a window to ``p_end`` at the last.
    Blocks of ``block_frames`` frames start with probability ``1 − (1 − p)^(1/block_frames)``. All tokens of a covered
    frame change, each to one of the other codes with equal chance.

    Args:
        p_start: coverage at the first frame.
        p_end: coverage at the last frame.
        block_frames: frames that one start covers.
        ramp: ``linear``, or ``log``: straight in the logarithm, where a 0 counts as 1e-12 except at its own end, so
            that from 0 next to nothing happens before the last frames.
    """

    p_start: float = 0.0
    p_end: float = 0.02
    block_frames: int = 16
    ramp: Literal["log", "linear"] = "linear"

    def __post_init__(self) -> None:
        for name, p in (("p_start", self.p_start), ("p_end", self.p_end)):
            if not 0 <= p <= 1:
                raise InvalidValue(f"model.corruption.{name}", p, "expected a probability")
        if self.block_frames < 1:
            raise InvalidValue("model.corruption.block_frames", self.block_frames, "expected at least one frame")
        if self.ramp not in ("log", "linear"):
            raise InvalidValue("model.corruption.ramp", self.ramp, "expected log or linear")

    def coverage(self, n_frames: int) -> Float[Tensor, " frame"]:
        """The chance of each frame of a window to be covered, far from the window's start."""
        if n_frames == 1:
            return torch.tensor([max(self.p_start, self.p_end)], dtype=torch.float64)
        if self.ramp == "linear":
            return torch.linspace(self.p_start, self.p_end, n_frames, dtype=torch.float64)
        first, last = math.log(max(self.p_start, 1e-12)), math.log(max(self.p_end, 1e-12))
        cover = torch.linspace(first, last, n_frames, dtype=torch.float64).exp()
        for end, p in ((0, self.p_start), (-1, self.p_end)):
            if p == 0:
                cover[end] = 0.0
        return cover

    def covered(self, batch: int, n_frames: int, device: Any = None) -> Bool[Tensor, "batch frame"]:
        """Which frames are replaced."""
        start = 1 - (1 - self.coverage(n_frames)) ** (1 / self.block_frames)
        begins = torch.rand(batch, n_frames, device=device) < start.to(device)
        n_begun = begins.long().cumsum(dim=1)
        before = torch.nn.functional.pad(n_begun, (self.block_frames, 0))[:, :n_frames]
        return n_begun > before

    def __call__(
        self, codes: Int[Tensor, "batch frame site level"], vocab_size: int
    ) -> Int[Tensor, "batch frame site level"]:
        """A corrupted copy of ``codes``."""
        covered = self.covered(codes.shape[0], codes.shape[1], codes.device)
        if vocab_size < 2:
            return codes
        other = (codes + torch.randint(1, vocab_size, codes.shape, device=codes.device)) % vocab_size
        return torch.where(covered[:, :, None, None], other, codes)


@dataclass
class TokenForecaster:
    """Continues signals through codes: encode the context, continue the codes, decode both together.

    Args:
        network: continues codes.
        tokenizer: between signals and codes.
        max_context: longest window of the network in frames; None never drops anything.
        use_cache: keep keys and values of the window.
        shift: what a full window drops: a share of it, or as an int a number of tokens.
    """

    network: nn.Module
    tokenizer: Tokenizer
    max_context: int | None = None
    use_cache: bool = True
    shift: float | int = 0.5

    @torch.no_grad()
    def encode(
        self, context: Float[Tensor, "batch channel time"], n_frames: int | None = None
    ) -> Int[Tensor, "batch frame site level"]:
        """Codes of the end of ``context``; samples that fill no frame are left out at its start.

        Args:
            context: in the units of the tokenizer.
            n_frames: last frames to return; default all.

        Raises:
            ShapeMismatch: if the context is shorter than a frame.
        """
        hop = self.tokenizer.hop
        whole = context.shape[-1] // hop
        if context.ndim != 3 or whole == 0:
            raise ShapeMismatch(
                "context", tuple(context.shape), f"expected (batch, channel, time) with at least {hop} samples"
            )
        wanted = whole if n_frames is None else min(whole, n_frames)
        read = min(whole, wanted + math.ceil(self.tokenizer.receptive_field / hop))
        codes = self.tokenizer.encode(context[..., context.shape[-1] - read * hop :])
        return codes[:, -wanted:]

    @torch.no_grad()
    def forecast(
        self,
        context: Float[Tensor, "batch channel time"],
        steps: int,
        sampler: Any,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch channel steps"]:
        """Draw one continuation of each context; see :class:`brainlab.types.Forecaster`.

        Raises:
            InvalidValue: if ``steps`` is negative.
            ShapeMismatch: if the context is shorter than a frame.
        """
        return self.forecast_with_codes(context, steps, sampler, generator)[0]

    @torch.no_grad()
    def forecast_with_codes(
        self,
        context: Float[Tensor, "batch channel time"],
        steps: int,
        sampler: Any,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "batch channel steps"], Int[Tensor, "batch frame site level"]]:
        """As :meth:`forecast`, with the codes that were drawn (the last frame may reach beyond ``steps``)."""
        if steps < 0:
            raise InvalidValue("steps", steps, "expected a number of samples, at least 0")
        device = next(self.network.parameters()).device
        if isinstance(self.tokenizer, nn.Module):
            self.tokenizer.to(device)
        known = self.encode(context.to(device), self.max_context)
        hop = self.tokenizer.hop
        generate: Callable[..., Tensor] = self.network.generate
        drawn = generate(
            known,
            -(-steps // hop),
            sampler,
            generator,
            max_frames=self.max_context,
            use_cache=self.use_cache,
            shift=self.shift,
        )
        # The context is decoded with what follows it: a causal decoder then starts the forecast from its real past.
        signal = self.tokenizer.decode(torch.cat([known, drawn], dim=1))
        first = known.shape[1] * hop
        return signal[..., first : first + steps], drawn


class Forecasting(StepLog):
    """Trains a network to predict the next code.

    Logged: ``train/loss`` (nats per token, with what the options add to it) and ``train/tokens_per_s`` per step, and
    what :class:`brainlab.tasks.step_log.StepLog` says; ``val/loss`` (plain cross-entropy), ``val/bits_per_token``,
    ``val/accuracy``, ``val/top5_accuracy`` and, of mu-law codes, ``val/mse`` (between the likeliest and the real sample
    as parts of the code's range) over the whole validation split, and the same under ``test/``.

    Args:
        network: called with ``n_sites``, ``n_levels`` and ``vocab_size``; has ``forward(codes) -> (logits, targets)``
            in the order of the codes, ``loss(codes)`` and ``generate``; ``prediction``, as of
            :class:`brainlab.models.flat_gpt.FlatGPT`, spares it the table of all logits.
        n_sites: sites of a frame; ``null`` in YAML follows the tokenizer.
        n_levels: levels of the quantiser; ``null`` in YAML follows the tokenizer.
        vocab_size: codes of a level; ``null`` in YAML follows the tokenizer.
        n_frames: frames of a training window; ``null`` in YAML follows the data.
        lr: peak learning rate of AdamW.
        weight_decay: on matrices, filters and embeddings; biases and norms have none.
        betas: AdamW's two averaging constants.
        eps: AdamW's guard against division by zero.
        warmup_steps: optimiser steps in which the rate rises linearly.
        scheduler: class of ``torch.optim.lr_scheduler`` that follows the warm-up; null keeps the peak rate.
        scheduler_options: its keywords; a length that is absent or null is the rest of the training.
        scheduler_interval: whether the schedule counts steps or epochs. With epochs a warm-up step is still an
            optimiser step: the schedule's own count runs on in fractions of an epoch.
        corruption: what the network reads in training; null shows it the codes as they are.
        label_smoothing: share of the target that all codes divide equally in training.
        half_window: only the second half of a window's frames counts, in training and in metrics: there the network
            has seen at least as much as it predicts.
        spectral_weight: weight in training of ``train/spectral``, the mean difference of the log power at 8–12 Hz
            between expected and real codes; for codes that are samples, as those of ``tokenizer=mu_law``.
        sfreq_hz: sampling rate of the codes for it; null follows the data of the training.
        max_context: longest window of a forecast in frames; null or −1 is ``n_frames``.
        use_cache: keep keys and values of the window in a forecast.
        shift: what a full window of a forecast drops: a share of it, or as an int a number of tokens.
        start_from_codes: begin training with embeddings that know which codes stand for like signals, where network
            and tokenizer can tell (``start_from``, ``code_vectors``).

    Raises:
        InvalidValue: for a size or rate that cannot be.
    """

    def __init__(
        self,
        *,
        network: Callable[..., nn.Module],
        n_sites: int | None = None,
        n_levels: int | None = None,
        vocab_size: int | None = None,
        n_frames: int | None = None,
        lr: float = 2e-4,
        weight_decay: float = 0.1,
        betas: tuple[float, float] | list[float] = (0.9, 0.95),
        eps: float = 1e-8,
        warmup_steps: int = 0,
        scheduler: str | None = "CosineAnnealingLR",
        scheduler_options: dict[str, Any] | None = None,
        scheduler_interval: Literal["step", "epoch"] = "step",
        corruption: TokenCorruption | None = None,
        label_smoothing: float = 0.0,
        half_window: bool = False,
        spectral_weight: float = 0.0,
        sfreq_hz: float | None = None,
        max_context: int | None = None,
        use_cache: bool = True,
        shift: float | int = 0.5,
        start_from_codes: bool = True,
    ) -> None:
        super().__init__()
        for name, size in (("n_sites", n_sites), ("n_levels", n_levels), ("vocab_size", vocab_size)):
            if size is None or size < 1:
                raise InvalidValue(
                    f"model.{name}",
                    size,
                    "expected a positive size; null follows the tokenizer in a run",
                    hint="choose a tokenizer, as in tokenizer=mu_law",
                )
        assert n_sites
        assert n_levels
        assert vocab_size
        if not 0 < lr < math.inf:
            raise InvalidValue("model.lr", lr, "expected a positive rate")
        if scheduler_interval not in ("step", "epoch"):
            raise InvalidValue("model.scheduler_interval", scheduler_interval, "expected step or epoch")
        if not 0 <= label_smoothing <= 1:
            raise InvalidValue("model.label_smoothing", label_smoothing, "expected a share from 0 to 1")
        if not 0 <= spectral_weight < math.inf:
            raise InvalidValue("model.spectral_weight", spectral_weight, "expected a finite number, at least 0")
        if max_context is not None and max_context != -1 and max_context < 2:
            expected = "expected at least 2 frames, one known and one new, or null for those of a training window"
            raise InvalidValue("model.max_context", max_context, expected)
        self.save_hyperparameters(ignore=["network", "corruption"], logger=False)
        self.network = network(n_sites=n_sites, n_levels=n_levels, vocab_size=vocab_size)
        self.n_sites, self.n_levels, self.vocab_size, self.n_frames = n_sites, n_levels, vocab_size, n_frames
        self.lr, self.weight_decay, self.betas, self.eps = lr, weight_decay, (betas[0], betas[1]), eps
        self.warmup_steps, self.scheduler = warmup_steps, scheduler
        self.scheduler_options, self.scheduler_interval = scheduler_options, scheduler_interval
        self.corruption = corruption
        self.label_smoothing, self.half_window = label_smoothing, half_window
        self.spectral_weight, self.sfreq_hz = spectral_weight, sfreq_hz
        self._plain = not (label_smoothing or half_window or spectral_weight)
        self.max_context = None if max_context == -1 else max_context
        self.use_cache, self.shift = use_cache, shift
        predict = getattr(self.network, "prediction", self.network.forward)
        reads = self.network.loss if self._plain else predict
        if corruption is not None and "inputs" not in inspect.signature(reads).parameters:
            raise InvalidValue(
                "model.corruption",
                type(self.network).__name__,
                "expected a network that can read other codes",
                hint="set it to null",
            )
        if spectral_weight and n_levels > 1:
            raise self._no_samples()
        self.start_from_codes = start_from_codes
        self._mu_law = False
        self._since: float | None = None

    # ---- training ------------------------------------------------------------------------------------------------

    def forward(
        self, codes: Int[Tensor, "batch frame site level"]
    ) -> tuple[Float[Tensor, "batch position vocab"], Int[Tensor, "batch position"]]:
        """Logits and the codes that they predict."""
        return self.network(codes)

    def setup(self, stage: str) -> None:
        """Learn from the data what codes stand for.

        Embeddings start from the tokenizer's codebooks; a checkpoint that is loaded afterwards wins.
        """
        data = getattr(self.trainer, "datamodule", None)
        tokenizer = getattr(data, "tokenizer", None)
        self._mu_law = isinstance(tokenizer, MuLaw)
        if self.spectral_weight:
            if tokenizer is not None and not self._mu_law:
                raise self._no_samples()
            self.sfreq_hz = getattr(data, "sfreq_hz", None) if self.sfreq_hz is None else self.sfreq_hz
            if self.sfreq_hz is None:
                raise InvalidValue("model.sfreq_hz", None, "expected the sampling rate, which spectral_weight needs")
        if stage != "fit" or not self.start_from_codes or not hasattr(self.network, "start_from"):
            return
        vectors = getattr(tokenizer, "code_vectors", None)
        if vectors is not None:
            self.network.start_from(vectors)

    def _no_samples(self) -> InvalidValue:
        return InvalidValue(
            "model.spectral_weight",
            self.spectral_weight,
            "expected 0 where codes are not samples in order, which alone have a spectrum",
            hint="tokenizer=mu_law with model=wavenet has such codes",
        )

    def _prediction(self, codes: Tensor, inputs: Tensor | None = None) -> LinearPrediction | LogitPrediction:
        """What the network says about the codes that count."""
        last = codes.shape[1] // 2 if self.half_window else None
        if hasattr(self.network, "prediction"):
            return self.network.prediction(codes, inputs, last_frames=last)
        logits, targets = self.network(codes) if inputs is None else self.network(codes, inputs)
        size = self.n_sites * self.n_levels
        counted = slice(None if last is None else -last * size, None)

        def frames(x: Tensor) -> Tensor:
            return x[:, x.shape[1] % size :].unflatten(1, (-1, self.n_sites, self.n_levels))

        return LogitPrediction(logits[:, counted], targets[:, counted], frames)

    def _loss(self, codes: Tensor, inputs: Tensor | None) -> Tensor:
        if self._plain:
            return self.network.loss(codes) if inputs is None else self.network.loss(codes, inputs)
        prediction = self._prediction(codes, inputs)
        loss = prediction.loss(self.label_smoothing)
        if self.spectral_weight:
            assert self.sfreq_hz
            each = (prediction.expected(), prediction.targets.float())
            guess, real = (prediction.frames(x).flatten(2).transpose(1, 2) for x in each)
            gap = log_power_gap(guess, real, self.sfreq_hz)
            self.log("train/spectral", gap.detach(), on_step=True, on_epoch=False)
            loss = loss + self.spectral_weight * gap
        return loss

    def training_step(self, batch: TokenBatch, batch_idx: int) -> Tensor:
        codes = batch["codes"].long()
        loss = self._loss(codes, None if self.corruption is None else self.corruption(codes, self.vocab_size))
        self.log("train/loss", loss, on_step=True, on_epoch=False, prog_bar=True, batch_size=len(codes))
        now = time.perf_counter()
        if self._since is not None and batch_idx:  # the first step of an epoch also waited for validation
            self.log("train/tokens_per_s", codes.numel() / max(now - self._since, 1e-9), on_step=True, on_epoch=False)
        self._since = now
        return loss

    def validation_step(self, batch: TokenBatch, batch_idx: int) -> None:
        self._judge(batch, "val")

    def test_step(self, batch: TokenBatch, batch_idx: int) -> None:
        self._judge(batch, "test")

    def _judge(self, batch: TokenBatch, part: str) -> None:
        prediction = self._prediction(batch["codes"].long())
        targets, (nats, likeliest, top5) = prediction.targets, prediction.scores()
        loss, n = nats.mean(), nats.numel()
        self.log(f"{part}/loss", loss, batch_size=n, prog_bar=True, sync_dist=True)
        values = {
            "bits_per_token": loss / math.log(2),
            "accuracy": (likeliest == targets).float().mean(),
            "top5_accuracy": top5.float().mean(),
        }
        if self._mu_law:
            guess, real = (mu_law_decode(codes, self.vocab_size - 1) for codes in (likeliest, targets))
            values["mse"] = (guess - real).square().mean()
        self.log_dict({f"{part}/{name}": value for name, value in values.items()}, batch_size=n, sync_dist=True)

    def scores(
        self, codes: Int[Tensor, "batch frame site level"]
    ) -> tuple[Float[Tensor, "batch position"], Bool[Tensor, "batch position"]]:
        """Cross-entropy of every predicted token in nats, and whether the likeliest code was right."""
        if hasattr(self.network, "scores"):
            return self.network.scores(codes)
        logits, targets = self.network(codes)
        nats, likeliest, _ = token_scores(logits, targets)
        return nats, likeliest == targets

    def configure_optimizers(self) -> Any:
        groups = decay_groups(self.network, self.lr, self.weight_decay)
        optimizer = torch.optim.AdamW(groups, betas=self.betas, eps=self.eps)
        if self.scheduler is None and self.warmup_steps == 0:
            return optimizer
        name, options = self.scheduler, dict(self.scheduler_options or {})
        if name is None:
            name, options = "ConstantLR", {"factor": 1.0, "total_iters": 1}
        total = self.trainer.estimated_stepping_batches
        n_steps = None if math.isinf(total) else int(total) - self.warmup_steps
        if self.scheduler_interval == "epoch":
            self._in_steps(options)
        schedule = warmup_then(optimizer, self.warmup_steps, build_scheduler(optimizer, name, options, n_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _in_steps(self, options: dict[str, Any]) -> None:
        """Lengths that were given in epochs, in optimiser steps."""
        epochs = self.trainer.max_epochs or 0
        total = self.trainer.estimated_stepping_batches
        if epochs < 1 or math.isinf(total):
            raise InvalidValue("model.scheduler_interval", "epoch", "expected a training that is bounded by epochs")
        for key in ("T_max", "T_0", "total_iters", "step_size"):
            if options.get(key) is not None:
                options[key] = max(1, round(options[key] * total / epochs))
        if options.get("milestones"):
            options["milestones"] = [round(epoch * total / epochs) for epoch in options["milestones"]]

    # ---- forecasts -----------------------------------------------------------------------------------------------

    def forecaster(self, data: Any) -> TokenForecaster:
        """What continues recordings of ``data`` with this network.

        Raises:
            InvalidValue: if the data have no tokenizer.
        """
        tokenizer = getattr(data, "tokenizer", None)
        if tokenizer is None:
            raise InvalidValue("data.tokenizer", None, "expected a tokenizer: the network reads codes")
        context = self.n_frames if self.max_context is None else self.max_context
        return TokenForecaster(self.network, tokenizer, context, self.use_cache, self.shift)
