"""Any file that MNE reads, as a :class:`~brainlab.io.recording.Recording` in SI units."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from brainlab.errors import InvalidFile, InvalidValue
from brainlab.io.recording import Annotation, Channel, Event, Position, Recording

__all__ = ["read_recording"]

# Formats without channel types call every sensor "eeg"; these names leave no doubt.
_KIND_BY_NAME = (
    (re.compile(r"^[vh]?eog\W?[\w+-]*$", re.IGNORECASE), "eog"),
    (re.compile(r"^(ecg|ekg)\W?\w*$", re.IGNORECASE), "ecg"),
    (re.compile(r"^emg\W?\w*$", re.IGNORECASE), "emg"),
)
_MEG = ("mag", "grad", "ref_meg")


def read_recording(path: Path | str, *, kinds: Mapping[str, str] | None = None, events: bool = True) -> Recording:
    """Open a recording; samples stay on disk where the format allows it.

    Args:
        path: file (or folder, for formats that are one).
        kinds: channel name → kind, where the file's own types are wrong. Without an entry here, channels that the
            file calls eeg but that are named EOG…, VEOG…, HEOG…, ECG…, EKG… or EMG… get that kind.
        events: also decode the trigger channels, which reads them whole.

    Returns:
        samples in V, T or T/m; positions in metres; annotation onsets and event samples from the first sample, also
        where the file's own clock starts earlier.

    Raises:
        InvalidFile: if MNE cannot read it.
        InvalidValue: if ``kinds`` names an unknown channel.
    """
    path = Path(path)
    if not path.exists():
        raise InvalidFile("recording", path, "expected an existing file")
    if path.is_file() and path.stat().st_size == 0:
        raise InvalidFile("recording", path, "expected samples, the file is empty")
    raw, notes = _open(path)
    unknown = sorted(set(kinds or {}) - set(raw.ch_names))
    if unknown:
        raise InvalidValue("kinds", unknown[0], f"expected one of {', '.join(raw.ch_names)}", where=str(path))
    channels = tuple(_channel(raw, number, kinds or {}) for number in range(len(raw.ch_names)))
    return Recording(
        read=_Samples(raw, path),
        n_samples=int(raw.n_times),
        sfreq_hz=float(raw.info["sfreq"]),
        channels=channels,
        annotations=_annotations(raw),
        events=_events(raw, path) if events and any(channel.kind == "stim" for channel in channels) else (),
        meas_date=raw.info["meas_date"],
        provenance={
            "file": str(path),
            "reader": f"mne {type(raw).__name__}",
            "first_sample": int(raw.first_samp),
            "highpass_hz": float(raw.info["highpass"]),
            "lowpass_hz": float(raw.info["lowpass"]),
            "line_hz": raw.info["line_freq"],
            "notes": notes,
        },
    )


class _Samples:
    """Reads stretches of an MNE object; a damaged body shows only here."""

    def __init__(self, raw: Any, path: Path) -> None:
        self.raw, self.path = raw, path

    def __call__(self, picks: Any, start: int, stop: int) -> np.ndarray:
        try:
            return self.raw.get_data(picks=list(picks), start=start, stop=stop, verbose="ERROR")
        except Exception as error:
            raise InvalidFile(
                "recording", self.path, f"expected readable samples {start} to {stop} ({_first_line(error)})"
            ) from error


def _open(path: Path) -> tuple[Any, list[str]]:
    import mne

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            raw = mne.io.read_raw(path, preload=False, verbose="ERROR")
        except Exception as error:
            # MNE's readers raise whatever their parsers do; the user gets one sentence and the cause behind it.
            raise InvalidFile(
                "recording", path, f"expected a complete file that MNE {mne.__version__} reads ({_first_line(error)})"
            ) from error
    return raw, sorted({_first_line(warning.message) for warning in caught if warning.category is RuntimeWarning})


def _first_line(error: object) -> str:
    first = re.split(r"\n|\.\s+(?=[A-Z])", str(error).strip(), maxsplit=1)[0]
    return first.rstrip(".") or type(error).__name__


def _channel(raw: Any, number: int, kinds: Mapping[str, str]) -> Channel:
    import mne
    from mne.io.constants import FIFF

    info = raw.info["chs"][number]
    name, kind = info["ch_name"], mne.channel_type(raw.info, number)
    if name in kinds:
        kind = kinds[name]
    elif kind == "eeg":
        kind = next((found for pattern, found in _KIND_BY_NAME if pattern.match(name)), kind)
    units = {FIFF.FIFF_UNIT_V: "V", FIFF.FIFF_UNIT_T: "T", FIFF.FIFF_UNIT_T_M: "T/m"}
    location = np.asarray(info["loc"], dtype=float)
    return Channel(
        name=name,
        kind=kind,
        position=_triple(location[:3]) if kind in (*_MEG, "eeg", "eog", "seeg", "ecog", "dbs") else None,
        orientation=_triple(location[9:12]) if kind in _MEG else None,
        unit=units.get(info["unit"], ""),
    )


def _triple(values: np.ndarray) -> Position | None:
    # MNE writes NaN or zeros where it knows nothing; no sensor sits in the origin of head coordinates.
    if not np.isfinite(values).all() or not values.any():
        return None
    return float(values[0]), float(values[1]), float(values[2])


def _annotations(raw: Any) -> tuple[Annotation, ...]:
    # In an MNE object onsets count from the file's clock, which starts first_time before the first sample.
    return tuple(
        Annotation(float(onset - raw.first_time), float(duration), str(description))
        for onset, duration, description in zip(
            raw.annotations.onset, raw.annotations.duration, raw.annotations.description, strict=True
        )
    )


def _events(raw: Any, path: Path) -> tuple[Event, ...]:
    import mne

    try:
        found = mne.find_events(raw, shortest_event=1, verbose="ERROR")
    except Exception as error:
        raise InvalidFile("recording", path, f"expected readable trigger channels ({_first_line(error)})") from error
    return tuple(Event(int(sample - raw.first_samp), int(code)) for sample, _, code in found)
