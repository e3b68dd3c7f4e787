"""From raw recordings to a store of filtered, resampled EEG: ordered steps, Recording in and Recording out.

Order matters and is fixed: name the channels → pick → notch and band filter at the file's own rate → resample → scale.
Every step notes itself in ``provenance["steps"]``; every recording, prepared or failed, has a row in the manifest.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from brainlab.datasets.recordings import RecordingFile, channel_kind
from brainlab.errors import InvalidFile, InvalidValue
from brainlab.io.cache import code_digest
from brainlab.io.recording import Channel, Event, Recording
from brainlab.io.store import StoreWriter

__all__ = [
    "Preparation",
    "band_filter",
    "name_channels",
    "pick_channels",
    "prepare_recording",
    "prepare_store",
    "resample",
]

log = logging.getLogger(__name__)

MANIFEST = "recordings.json"

_NYQUIST_SHARE = 0.9
_LISTED = 5
_PLAUSIBLE_UV = (1.0, 200.0)


@dataclass(frozen=True)
class Preparation:
    """What is done to every recording.

    Args:
        sfreq_hz: rate of the store.
        l_freq_hz: high-pass, or None.
        h_freq_hz: low-pass, or None; never above 0.9 × the Nyquist frequency of the file or of the store.
        notch_hz: mains frequency, removed with its harmonics below the low-pass; None where it is not wanted.
        kinds: channel types that are kept.
        unit: one unit of the store in SI units: 1e-4 V stores EEG as µV/100.
    """

    sfreq_hz: float = 200.0
    l_freq_hz: float | None = 0.3
    h_freq_hz: float | None = 75.0
    notch_hz: float | None = None
    kinds: tuple[str, ...] = field(default=("eeg",))
    unit: float = 1e-4

    def __post_init__(self) -> None:
        for key in ("sfreq_hz", "unit"):
            if not getattr(self, key) > 0:
                raise InvalidValue(f"data.{key}", getattr(self, key), "expected a positive number")
        for key in ("l_freq_hz", "h_freq_hz", "notch_hz"):
            value = getattr(self, key)
            if value is not None and not value > 0:
                raise InvalidValue(f"data.{key}", value, "expected a positive frequency or null")
        if self.l_freq_hz is not None and self.h_freq_hz is not None and self.l_freq_hz >= self.h_freq_hz:
            raise InvalidValue("data.l_freq_hz", self.l_freq_hz, f"expected it below data.h_freq_hz={self.h_freq_hz}")

    def recipe(self) -> dict[str, Any]:
        """Everything that the prepared samples depend on, for the cache key."""
        # Filters and readers are MNE's, so a new MNE may give other samples.
        return {
            **asdict(self),
            "kinds": list(self.kinds),
            "code": code_digest("prepare/recordings.py", "signal", "io"),
            "mne": version("mne"),
        }


def name_channels(recording: Recording) -> Recording:
    """Correct the type of channels that the file calls EEG although their names say EOG, ECG, trigger …"""
    channels = tuple(replace(c, kind=channel_kind(c.name, c.kind)) for c in recording.channels)
    changed = {
        new.name: new.kind for old, new in zip(recording.channels, channels, strict=True) if old.kind != new.kind
    }
    return (
        _noted(replace(recording, channels=channels), "name_channels", {"retyped": changed}) if changed else recording
    )


def pick_channels(recording: Recording, kinds: Sequence[str]) -> Recording:
    """Keep channels of these types.

    Raises:
        InvalidFile: if none is left.
    """
    kept = [channel.name for channel in recording.channels if channel.kind in kinds]
    if not kept:
        found = sorted({channel.kind for channel in recording.channels})
        raise InvalidFile(
            "channels", ", ".join(found) or "none", f"expected at least one of type {' or '.join(kinds)}",
            where=recording.source,
        )  # fmt: skip
    dropped = {channel.name: channel.kind for channel in recording.channels if channel.name not in kept}
    return _noted(recording.pick(kept), "pick_channels", {"dropped": dropped})


def band_filter(
    recording: Recording,
    l_freq_hz: float | None,
    h_freq_hz: float | None,
    notch_hz: float | None = None,
    highest_hz: float | None = None,
) -> Recording:
    """Zero-phase FIR notch and band-pass at the file's own rate.

    The low-pass never exceeds 0.9 × the Nyquist frequency, where a filter's transition band would leave the spectrum.

    Args:
        highest_hz: a further upper bound for the low-pass (from the rate that follows).
    """
    from mne.filter import filter_data, notch_filter

    bound = _NYQUIST_SHARE * recording.sfreq_hz / 2
    if highest_hz is not None:
        bound = min(bound, highest_hz)
    low_pass = None if h_freq_hz is None else min(h_freq_hz, bound)
    if l_freq_hz is not None and l_freq_hz >= (low_pass or bound):
        raise InvalidValue(
            "data.l_freq_hz", l_freq_hz, f"expected it below {low_pass or bound:g} Hz", where=recording.source
        )
    samples = np.ascontiguousarray(recording.samples(), dtype=np.float64)
    _expect_finite(samples, recording)
    lines: list[float] = []
    if notch_hz is not None:
        lines = [float(line) for line in np.arange(notch_hz, min(bound, low_pass or bound), notch_hz)]
        if lines:
            samples = notch_filter(samples, recording.sfreq_hz, lines, verbose="error")
    if l_freq_hz is not None or low_pass is not None:
        samples = filter_data(samples, recording.sfreq_hz, l_freq_hz, low_pass, verbose="error")
    facts = {"l_freq_hz": l_freq_hz, "h_freq_hz": low_pass, "notch_hz": lines}
    return _noted(_with_samples(recording, samples, recording.sfreq_hz), "band_filter", facts)


def resample(recording: Recording, sfreq_hz: float) -> Recording:
    """FFT resampling; annotations keep their times, trigger events move to the nearest new sample."""
    if recording.sfreq_hz == sfreq_hz:
        return recording
    from mne.filter import resample as mne_resample

    samples = mne_resample(
        recording.samples(), up=sfreq_hz, down=recording.sfreq_hz, npad="auto", method="fft", verbose="error"
    )
    return _noted(_with_samples(recording, samples, sfreq_hz), "resample", {"from_hz": recording.sfreq_hz})


def scale(recording: Recording, unit: float) -> Recording:
    """Divide by ``unit`` (SI); the channels then say what one unit is."""
    channels = tuple(
        Channel(c.name, c.kind, c.position, c.orientation, f"{unit:g} {c.unit}") for c in recording.channels
    )
    scaled = _with_samples(recording, recording.samples() / unit, recording.sfreq_hz)
    return _noted(replace(scaled, channels=channels), "scale", {"unit": unit})


def prepare_recording(recording: Recording, plan: Preparation) -> Recording:
    """All steps in order; samples of the result are float64 in units of ``plan.unit``."""
    named = pick_channels(name_channels(recording), plan.kinds)
    above = _NYQUIST_SHARE * plan.sfreq_hz / 2
    filtered = band_filter(named, plan.l_freq_hz, plan.h_freq_hz, plan.notch_hz, highest_hz=above)
    return scale(resample(filtered, plan.sfreq_hz), plan.unit)


def prepare_store(
    files: Sequence[RecordingFile],
    folder: Path,
    plan: Preparation,
    *,
    read: Callable[[Path], Recording],
    on_error: Literal["raise", "skip"] = "raise",
) -> list[dict[str, Any]]:
    """Prepare every file into a store at ``folder`` and write the manifest ``recordings.json`` beside it.

    Args:
        read: opens a file, :func:`brainlab.io.mne_reader.read_recording` or one of the same form.
        on_error: "skip" goes on without recordings that fail; "raise" prepares the rest, then fails with their names.

    Returns:
        the manifest's rows, one per file, in order.

    Raises:
        InvalidFile: if a recording failed and ``on_error`` is "raise", or if none is left.
    """
    if on_error not in ("raise", "skip"):
        raise InvalidValue("data.on_error", on_error, "expected raise or skip")
    rows: list[dict[str, Any]] = []
    errors: dict[str, InvalidValue] = {}
    with StoreWriter(folder) as writer:
        for file in files:
            row = {"file": str(file.path), "session": file.name, "subject": file.subject, "dataset": file.dataset}
            try:
                rows.append({**row, "status": "prepared", **_prepare_one(file, plan, read, writer)})
            except InvalidValue as error:
                if on_error == "skip":  # else the error at the end says it
                    log.warning("Recording %s was not prepared: %s", file.path.name, error)
                errors[str(file.path)] = error
                rows.append({**row, "status": "failed", "error": str(error)})
    (folder / MANIFEST).write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    if errors and (on_error == "raise" or len(errors) == len(rows)):
        hint = "data.on_error=skip goes on without" if len(errors) < len(rows) else "data.include chooses other files"
        if len(errors) == 1:
            raise next(iter(errors.values())).because_of("data.root", hint=hint)
        reasons = [f"{file}: {error.expected}" for file, error in errors.items()]
        more = f"; and {len(reasons) - _LISTED} more" if len(reasons) > _LISTED else ""
        raise InvalidFile(
            "recordings", f"{len(errors)} of {len(rows)}", f"cannot be used: {'; '.join(reasons[:_LISTED])}{more}",
            where="data.root", hint=hint,
        )  # fmt: skip
    return rows


def _prepare_one(
    file: RecordingFile, plan: Preparation, read: Callable[[Path], Recording], writer: StoreWriter
) -> dict[str, Any]:
    raw = read(file.path)
    ready = prepare_recording(raw, plan)
    samples = ready.samples().astype(np.float32)
    deviation_uv = samples.std(axis=1) * (plan.unit * 1e6)
    warnings = []
    flat = [name for name, value in zip(ready.ch_names, deviation_uv, strict=True) if value < 1e-3]
    if flat:
        warnings.append(f"flat channels: {', '.join(flat)}")
    typical = float(np.median(deviation_uv))
    if plan.kinds == ("eeg",) and not _PLAUSIBLE_UV[0] <= typical <= _PLAUSIBLE_UV[1]:
        warnings.append(f"typical standard deviation {typical:.3g} µV is unlike EEG: check the file's unit")
    for warning in warnings:
        log.warning("%s: %s", file.path.name, warning)
    events = _events(ready)
    facts = {
        "n_channels": ready.n_channels,
        "dropped": {c.name: channel_kind(c.name, c.kind) for c in raw.channels if c.name not in ready.ch_names},
        "sfreq_in_hz": raw.sfreq_hz,
        "duration_s": round(ready.duration_s, 3),
        "n_events": len(events),
        "median_sd_uv": round(typical, 3),
        "steps": ready.provenance.get("steps", []),
        "warnings": warnings,
    }
    names = {"subject": file.subject, "dataset": file.dataset, "recording": file.session, "file": file.path.name}
    writer.add_session(
        file.name, samples, plan.sfreq_hz, ready.channels, events=events, attrs={**names, "unit": plan.unit, **facts}
    )
    return facts


def _expect_finite(samples: np.ndarray, recording: Recording) -> None:
    bad = ~np.isfinite(samples).all(axis=1)
    if bad.any():
        names = ", ".join(np.asarray(recording.ch_names)[bad][:5])
        raise InvalidFile("samples", "nan", f"expected finite numbers in channel {names}", where=recording.source)


def _with_samples(recording: Recording, samples: np.ndarray, sfreq_hz: float) -> Recording:
    ratio = sfreq_hz / recording.sfreq_hz
    return Recording.from_array(
        samples,
        sfreq_hz,
        recording.channels,
        annotations=recording.annotations,
        events=[Event(round(event.sample * ratio), event.code) for event in recording.events],
        meas_date=recording.meas_date,
        provenance=recording.provenance,
    )


def _events(recording: Recording) -> list[dict[str, Any]]:
    """Annotations and trigger codes in order of time; ``onset_s`` counts from the first sample."""
    rate = recording.sfreq_hz
    marked: list[dict[str, Any]] = [
        {
            "sample": round(note.onset_s * rate),
            "onset_s": note.onset_s,
            # EEGLAB marks cuts with a duration that is not a number.
            "duration_s": note.duration_s if math.isfinite(note.duration_s) else 0.0,
            "description": note.description,
        }
        for note in recording.annotations
    ]
    marked += [{"sample": e.sample, "onset_s": e.sample / rate, "code": e.code} for e in recording.events]
    return sorted(marked, key=lambda event: event["sample"])


def _noted(recording: Recording, step: str, facts: dict[str, Any]) -> Recording:
    steps = [*recording.provenance.get("steps", []), {"step": step, **facts}]
    return replace(recording, provenance={**recording.provenance, "steps": steps})
