"""EEG epochs: another sampling rate, and amplitudes on the scale that the encoder was pretrained on."""

from __future__ import annotations

import logging

import numpy as np
from jaxtyping import Float

from brainlab.errors import InvalidValue
from brainlab.signal.amplitude import AmplitudePolicy, amplitude_statistics, scale_amplitude
from brainlab.signal.resample import fft_resample

__all__ = ["resample_epochs", "scale_epochs", "warn_if_unusual"]

log = logging.getLogger(__name__)

# Whitened data have no physical unit; uv/100 then divides them by 100 as they are, which the warning is about.
_UNITS = {"V": "V", "uV": "uV", "noise_sd": ""}


def resample_epochs(
    epochs: Float[np.ndarray, "*trial channel time"], sfreq_hz: float, target_hz: float
) -> Float[np.ndarray, "*trial channel new_time"]:
    """FFT resampling of whole epochs along time (the identity at the same rate), float32.

    Raises:
        InvalidValue: if the epoch does not hold a whole number of samples at the new rate.
    """
    n_in = epochs.shape[-1]
    n_out = n_in * target_hz / sfreq_hz
    if n_out < 1 or abs(n_out - round(n_out)) > 1e-6:
        raise InvalidValue(
            "data.sfreq_hz", target_hz, f"expected a rate at which {n_in} samples at {sfreq_hz:g} Hz are a whole number"
        )
    return fft_resample(np.asarray(epochs, dtype=np.float32), round(n_out))


def scale_epochs(
    epochs: Float[np.ndarray, "*trial channel time"], policy: AmplitudePolicy, unit: str
) -> Float[np.ndarray, "*trial channel time"]:
    """Amplitudes by a policy of :func:`brainlab.signal.amplitude.scale_amplitude`, each trial on its own.

    Args:
        policy: ``uv/100``, ``zscore``, ``robust`` (both per trial and channel) or ``none``.
        unit: ``V``, ``uV`` or ``noise_sd``, as the reader reports it.

    Raises:
        InvalidValue: for an unknown policy or unit.
    """
    if unit not in _UNITS:
        raise InvalidValue("amplitude unit", unit, f"expected one of {', '.join(_UNITS)}")
    return scale_amplitude(epochs, policy, _UNITS[unit])


def warn_if_unusual(scaled: Float[np.ndarray, "*trial channel time"], subject: str, unit: str) -> float:
    """Log the amplitude of scaled epochs, as a warning where the encoder was pretrained on another range.

    Returns:
        the median standard deviation over time.
    """
    statistics = amplitude_statistics(scaled)
    log.info(
        "EEG of %s (read as %s): scaled std %.3g, 99 %% of |x| below %.3g",
        subject,
        unit,
        statistics.std,
        statistics.p99_abs,
    )
    concern = statistics.concern()
    if concern:
        log.warning("EEG of %s, read as %s: %s", subject, unit, concern)
    return statistics.std
