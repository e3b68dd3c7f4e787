"""Resampling in the frequency domain, for whole batches at once."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy import fft

from brainlab.errors import InvalidValue

__all__ = ["fft_resample"]

_BLOCK_BYTES = 1 << 20


def fft_resample(samples: Float[np.ndarray, "*rows time"], n_out: int) -> Float[np.ndarray, "*rows out"]:
    """Resample the last axis to ``n_out`` samples, as :func:`scipy.signal.resample` does without a window.

    Computes in the precision it is given. Rows are transformed in blocks that stay in the processor's cache, so that
    memory beside input and output does not grow with the batch.

    Args:
        samples: float32 or float64; one period is assumed, so edges ring where they do not meet.
        n_out: samples afterwards.

    Returns:
        an array of the same type; the input itself where nothing changes.

    Raises:
        InvalidValue: if there is nothing to resample.
    """
    samples = np.asarray(samples)
    if samples.dtype not in (np.float32, np.float64):
        samples = samples.astype(np.float64)
    n_in = samples.shape[-1] if samples.ndim else 0
    if n_in < 1 or n_out < 1:
        raise InvalidValue("n_out", n_out, f"expected at least one sample in and out, {n_in} in")
    if n_in == n_out:
        return samples
    rows = samples.reshape(-1, n_in)
    out = np.empty((len(rows), n_out), samples.dtype)
    kept = min(n_in, n_out)
    scale = samples.dtype.type(n_out / n_in)
    step = max(1, _BLOCK_BYTES // (max(n_in, n_out) * samples.dtype.itemsize))
    for start in range(0, len(rows), step):
        spectrum = fft.rfft(rows[start : start + step], axis=-1)[:, : kept // 2 + 1]
        if kept % 2 == 0:
            # The bin at the lower Nyquist frequency stands for both its signs on one side only.
            spectrum[:, kept // 2] *= 2.0 if n_out < n_in else 0.5
        out[start : start + step] = fft.irfft(spectrum, n_out, axis=-1)
    out *= scale
    return out.reshape(*samples.shape[:-1], n_out)
