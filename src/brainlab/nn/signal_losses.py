"""Distances between signals that see rhythms and the relations of channels, where errors of single samples do not."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from brainlab.errors import InvalidValue, ShapeMismatch

__all__ = ["BANDS_HZ", "covariance_loss", "log_power_gap", "spectral_loss"]

BANDS_HZ = ((1.0, 4.0), (4.0, 8.0), (8.0, 13.0), (13.0, 30.0), (30.0, 50.0))
_N_FFT, _HOP, _FLOOR = 256, 64, 1e-8


def spectral_loss(guess: Float[Tensor, "row time"], real: Float[Tensor, "row time"], sfreq_hz: float) -> Tensor:
    """Mean squared error of samples, plus that of the mean log power in each of :data:`BANDS_HZ`, averaged over bands.

    Power is that of frames of 256 samples, one every 64, under a periodic Hann window, averaged over frames before the
    logarithm. The upper end of a band is the next one's. Bands in which the transform has no frequency are left out.

    Args:
        guess: samples that should be like ``real``.
        real: samples.
        sfreq_hz: sampling rate.

    Raises:
        ShapeMismatch: if there are too few samples for a frame that is centred on the first.
        InvalidValue: if no band has a frequency.
    """
    if real.shape[-1] <= _N_FFT // 2:
        raise ShapeMismatch("signal", tuple(real.shape), f"expected more than {_N_FFT // 2} samples for a spectrum")
    frequency = _frequencies(sfreq_hz, real.device)
    inside = [(frequency >= low) & (frequency < high) for low, high in BANDS_HZ]
    bands = [mask for mask in inside if bool(mask.any())]
    if not bands:
        raise InvalidValue("sfreq_hz", sfreq_hz, "expected a rate with frequencies from 1 to 50 Hz")
    window = torch.hann_window(_N_FFT, device=real.device)
    logs = []
    for x in (guess.float(), real.float()):  # the transform has no half-precision form
        spectrum = torch.stft(x, _N_FFT, _HOP, window=window, center=True, return_complex=True)
        power = torch.view_as_real(spectrum).square().sum(dim=-1).mean(dim=-1)
        logs.append(torch.log(power + _FLOOR))
    gaps = [F.mse_loss(logs[0][:, mask].mean(dim=1), logs[1][:, mask].mean(dim=1)) for mask in bands]
    return F.mse_loss(guess.float(), real.float()) + torch.stack(gaps).mean()


def covariance_loss(
    guess: Float[Tensor, "batch channel time"],
    real: Float[Tensor, "batch channel time"],
    present: Bool[Tensor, "batch channel"] | None = None,
) -> Float[Tensor, " batch"]:
    """Mean absolute difference of the unbiased covariances of channels, of each window.

    Args:
        guess: samples that should be like ``real``.
        real: samples.
        present: channels that count; default all.
    """
    covariance = []
    with torch.autocast(real.device.type, enabled=False):  # sums of products need the digits
        for x in (guess.float(), real.float()):
            x = x - x.mean(dim=-1, keepdim=True)
            covariance.append(x @ x.mT / (x.shape[-1] - 1))
    gap = (covariance[0] - covariance[1]).abs()
    if present is None:
        return gap.mean(dim=(1, 2))
    counts = (present[:, :, None] & present[:, None, :]).float()
    return (gap * counts).sum(dim=(1, 2)) / counts.sum(dim=(1, 2)).clamp(min=1)


def log_power_gap(
    guess: Float[Tensor, "batch channel time"],
    real: Float[Tensor, "batch channel time"],
    sfreq_hz: float,
    low_hz: float = 8.0,
    high_hz: float = 12.0,
) -> Float[Tensor, ""]:
    """Mean absolute difference of the log power at the frequencies from ``low_hz`` to ``high_hz``, both included.

    Power is that of the first 256 samples (fewer are continued by zeros), averaged over batch and channels before the
    logarithm.

    Raises:
        InvalidValue: if the transform has no frequency there.
    """
    frequency = _frequencies(sfreq_hz, real.device)
    inside = (frequency >= low_hz) & (frequency <= high_hz)
    if not bool(inside.any()):
        raise InvalidValue("sfreq_hz", sfreq_hz, f"expected a rate with frequencies from {low_hz:g} to {high_hz:g} Hz")
    spectra = [torch.fft.rfft(x.float(), n=_N_FFT) for x in (guess, real)]
    power = [torch.view_as_real(x).square().sum(dim=-1).mean(dim=(0, 1))[inside] for x in spectra]
    return (torch.log(power[0] + _FLOOR) - torch.log(power[1] + _FLOOR)).abs().mean()


def _frequencies(sfreq_hz: float, device: torch.device) -> Float[Tensor, " frequency"]:
    if not sfreq_hz > 0:
        raise InvalidValue("sfreq_hz", sfreq_hz, "expected a positive sampling rate")
    return torch.fft.rfftfreq(_N_FFT, 1 / sfreq_hz, device=device)
