"""Training a tokenizer: a signal has to come back from its codes.

Loss: mean absolute error + exp(−r) + commitment + amplitude + ½ · phase, where r is the Pearson correlation over time
and the last two compare amplitude and phase of the tapered spectrum; all are means over the windows of the channels
that are present. Source: arXiv:2601.20138. A spectral loss and one of the channels' covariance can be added.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from brainlab.errors import InvalidValue
from brainlab.nn.signal_losses import covariance_loss, spectral_loss
from brainlab.tasks.optim import build_scheduler, decay_groups, warmup_then
from brainlab.tasks.step_log import StepLog

__all__ = ["Tokenization", "code_counts", "perplexity", "reconstruction_terms"]


def reconstruction_terms(
    real: Float[Tensor, "row time"], guess: Float[Tensor, "row time"]
) -> dict[str, Float[Tensor, " row"]]:
    """How close each row of samples came back.

    Returns:
        ``mae`` mean absolute error; ``pcc`` unbiased covariance / (σ σ′ + 1e-6); ``amp`` and ``phase`` the mean
        absolute differences of modulus and angle of the orthonormal real Fourier transform under a periodic Hamming
        window.
    """
    # The transform has no half-precision form, and sums of squares need the digits.
    real, guess = real.float(), guess.float()
    n_time = real.shape[-1]
    a, b = real - real.mean(dim=-1, keepdim=True), guess - guess.mean(dim=-1, keepdim=True)
    covariance = (a * b).sum(dim=-1) / (n_time - 1)
    # A constant row has no gradient of its deviation; the square root would make it infinite times zero.
    deviation = [(x.square().sum(dim=-1) / (n_time - 1)).clamp(min=1e-12).sqrt() for x in (a, b)]
    taper = torch.hamming_window(n_time, device=real.device)
    spectra = [torch.fft.rfft(x * taper, norm="ortho") for x in (real, guess)]
    return {
        "mae": (real - guess).abs().mean(dim=-1),
        "pcc": covariance / (deviation[0] * deviation[1] + 1e-6),
        "amp": (spectra[0].abs() - spectra[1].abs()).abs().mean(dim=-1),
        "phase": (spectra[0].angle() - spectra[1].angle()).abs().mean(dim=-1),
    }


def code_counts(codes: Int[Tensor, "*rows level"], vocab_size: int) -> Int[Tensor, "level code"]:
    """How often each code of each level occurs."""
    n_levels = codes.shape[-1]
    rows = codes.reshape(-1, n_levels) + torch.arange(n_levels, device=codes.device) * vocab_size
    return torch.bincount(rows.flatten(), minlength=n_levels * vocab_size).view(n_levels, vocab_size)


def perplexity(counts: Int[Tensor, "*rows code"]) -> Float[Tensor, "*rows"]:
    """exp(−Σ p ln(p + 1e-6)): how many codes are in use, were all used equally."""
    share = counts / counts.sum(dim=-1, keepdim=True).clamp(min=1)
    return torch.exp(-(share * torch.log(share + 1e-6)).sum(dim=-1))


class Tokenization(StepLog):
    """Trains a tokenizer network: ``network(signal) -> (signal, codes, commit)``.

    Batches hold ``signal`` (batch, channel, time) and, where recordings lack channels, ``present`` (batch, channel);
    absent channels are zero for the network and do not count.

    Logged: ``train/`` and ``val/`` ``loss`` and its terms, ``perplexity`` of the codes in use; ``val/codes_used``; of
    every optimiser step what :class:`brainlab.tasks.step_log.StepLog` says.

    Args:
        network: builds the network; called with ``n_channels``.
        n_channels: channels of the data.
        lr: peak learning rate of AdamW.
        weight_decay: on matrices and filters.
        betas: AdamW's two averaging constants.
        warmup_steps: steps in which the rate rises linearly.
        scheduler: class of ``torch.optim.lr_scheduler`` that follows the warm-up; None keeps the peak rate.
        scheduler_options: its keywords; a length that is absent or null is the rest of the training.
        pcc_weight: weight of exp(−r).
        amp_weight: weight of the amplitude term.
        phase_weight: weight of the phase term.
        spectral_weight: weight of :func:`brainlab.nn.signal_losses.spectral_loss`; 0 does not compute it.
        covariance_weight: weight of :func:`brainlab.nn.signal_losses.covariance_loss`; 0 does not compute it.
        sfreq_hz: sampling rate for the spectral loss; None follows the data of the training.

    Raises:
        InvalidValue: for a size or weight that cannot be.
    """

    def __init__(
        self,
        *,
        network: Callable[..., nn.Module],
        n_channels: int | None = None,
        lr: float = 5e-5,
        weight_decay: float = 0.01,
        betas: tuple[float, float] | list[float] = (0.9, 0.95),
        warmup_steps: int = 300,
        scheduler: str | None = None,
        scheduler_options: dict[str, Any] | None = None,
        pcc_weight: float = 1.0,
        amp_weight: float = 1.0,
        phase_weight: float = 0.5,
        spectral_weight: float = 0.0,
        covariance_weight: float = 0.0,
        sfreq_hz: float | None = None,
    ) -> None:
        super().__init__()
        if n_channels is None:
            raise InvalidValue("model.n_channels", n_channels, "expected the number of channels of the data")
        added = {"spectral": spectral_weight, "covariance": covariance_weight}
        for name, weight in {"pcc": pcc_weight, "amp": amp_weight, "phase": phase_weight, **added}.items():
            if not 0 <= weight < math.inf:
                raise InvalidValue(f"model.{name}_weight", weight, "expected a finite number, at least 0")
        self.network: Any = network(n_channels=n_channels)
        self.lr, self.weight_decay, self.betas = lr, weight_decay, (betas[0], betas[1])
        self.warmup_steps, self.scheduler, self.scheduler_options = warmup_steps, scheduler, scheduler_options
        self.pcc_weight, self.amp_weight, self.phase_weight = pcc_weight, amp_weight, phase_weight
        self._added = {name: weight for name, weight in added.items() if weight}
        self.sfreq_hz = sfreq_hz
        self.save_hyperparameters(ignore=["network"])
        self._counts: dict[str, Tensor] = {}

    def forward(self, signal: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch channel time"]:
        """The signal that comes back."""
        return self.network(signal).signal

    def loss(self, terms: dict[str, Tensor], commit: Tensor) -> Tensor:
        """The sum that training minimises, from the mean terms."""
        loss = (
            terms["mae"]
            + self.pcc_weight * torch.exp(-terms["pcc"])
            + commit
            + self.amp_weight * terms["amp"]
            + self.phase_weight * terms["phase"]
        )
        for name, weight in self._added.items():
            loss = loss + weight * terms[name]
        return loss

    def setup(self, stage: str) -> None:
        """Take the sampling rate from the data."""
        if self.sfreq_hz is None:
            self.sfreq_hz = getattr(getattr(self.trainer, "datamodule", None), "sfreq_hz", None)
        if "spectral" in self._added and self.sfreq_hz is None:
            raise InvalidValue("model.sfreq_hz", None, "expected the sampling rate, which the spectral loss needs")

    def _terms(self, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor, Tensor, int]:
        signal = batch["signal"]
        found = self.network(signal)
        present = batch.get("present")
        if present is not None and bool(present.all()):
            present = None
        if present is None:
            real, guess = signal.flatten(0, 1), found.signal.flatten(0, 1)
        else:
            real, guess = signal[present], found.signal[present]
        terms = {name: value.mean() for name, value in reconstruction_terms(real, guess).items()}
        if "spectral" in self._added:
            assert self.sfreq_hz
            terms["spectral"] = spectral_loss(guess, real, self.sfreq_hz)
        if "covariance" in self._added:
            terms["covariance"] = covariance_loss(found.signal, signal, present).mean()
        return terms, found.commit, found.codes, len(real)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        terms, commit, codes, n_rows = self._terms(batch)
        n = len(batch["signal"])
        # A covariance is of a window, everything else of a channel's window.
        terms = {name: self._of_all(value, n if name == "covariance" else n_rows) for name, value in terms.items()}
        commit = self._of_all(commit, n)
        loss = self.loss(terms, commit)
        self.log("train/loss", loss.detach(), on_step=True, on_epoch=False, prog_bar=True, batch_size=n)
        self.log_dict({f"train/{name}": value.detach() for name, value in terms.items()}, batch_size=n)
        counts = code_counts(codes, self.network.vocab_size)
        self.log_dict({"train/commit": commit.detach(), "train/perplexity": perplexity(counts).mean()}, batch_size=n)
        # Gradients are averaged over processes; each of them has only its own part of the sums.
        return loss * self._n_processes

    @property
    def _n_processes(self) -> int:
        return 1 if self._trainer is None else int(self.trainer.world_size)

    def _of_all(self, mean: Tensor, n: int) -> Tensor:
        """The mean over the batch of all processes, of which this one has ``n`` terms; gradients are of its own."""
        if self._n_processes == 1:
            return mean
        total = torch.tensor(float(n), device=mean.device)
        torch.distributed.all_reduce(total)
        own = mean * (n / total)
        whole = own.detach().clone()
        torch.distributed.all_reduce(whole)
        return own + (whole - own.detach())

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._judge(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._judge(batch, "test")

    def _judge(self, batch: dict[str, Tensor], part: str) -> None:
        terms, commit, codes, n_rows = self._terms(batch)
        values = {**terms, "commit": commit, "loss": self.loss(terms, commit)}
        # Weighted by rows, the epoch's mean is the mean over all windows of all channels.
        self.log_dict({f"{part}/{name}": value for name, value in values.items()}, batch_size=n_rows, sync_dist=True)
        counts = code_counts(codes, self.network.vocab_size)
        self._counts[part] = self._counts[part] + counts if part in self._counts else counts

    def on_validation_epoch_end(self) -> None:
        self._log_use("val")

    def on_test_epoch_end(self) -> None:
        self._log_use("test")

    def _log_use(self, part: str) -> None:
        """Use of the codes over the whole part: a single batch has too few vectors to show every code."""
        counts = self._counts.pop(part, None)
        if counts is None:
            return
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(counts)
        self.log(f"{part}/perplexity", perplexity(counts).mean())
        self.log(f"{part}/codes_used", (counts > 0).float().mean())

    def configure_optimizers(self) -> Any:
        groups = decay_groups(self.network, self.lr, self.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=self.betas)
        if self.scheduler is None and self.warmup_steps == 0:
            return optimizer
        name, options, left = self.scheduler, self.scheduler_options, None
        if name is None:
            name, options = "ConstantLR", {"factor": 1.0, "total_iters": 1}
        elif math.isfinite(self.trainer.estimated_stepping_batches):
            left = int(self.trainer.estimated_stepping_batches) - self.warmup_steps
        schedule = warmup_then(optimizer, self.warmup_steps, build_scheduler(optimizer, name, options, left))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
