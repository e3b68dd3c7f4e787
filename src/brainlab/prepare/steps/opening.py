"""From a file to a session in memory: samples, channel types, trigger codes, marked stretches, the sensor system."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from brainlab.datasets.recordings import RecordingFile, channel_kind
from brainlab.errors import InvalidFile
from brainlab.io.mne_reader import annotations_of, channel_of, events_of, open_raw
from brainlab.io.recording import Channel
from brainlab.prepare.steps.session import RawSession, Step, TrainingSpan

__all__ = ["channels_of", "open_session", "system_of"]

# FIFF coil types of the sensors that make a system.
_COILS = (
    ("vectorview306", frozenset({3012, 3013, 3014, 3022, 3023, 3024})),
    ("neuromag122", frozenset({2})),
    ("ctf275", frozenset({5001})),
    ("kit", frozenset({6001})),
    ("bti", frozenset({4001, 4002})),
    ("artemis123", frozenset({7501})),
    ("opm", frozenset({8001, 8002, 8101})),
)


def system_of(raw: Any) -> str:
    """The sensor system of a recording; "eeg" without magnetic sensors, "meg" for an unknown system.

    Sensors of different systems are never the same sensor, whatever their names.
    """
    coils = {int(channel["coil_type"]) & 0xFFFF for channel in raw.info["chs"]}
    for name, known in _COILS:
        if coils & known:
            return name
    kinds = set(raw.get_channel_types())
    return (
        "meg" if kinds & {"mag", "grad"} else next((k for k in ("eeg", "ecog", "seeg", "dbs") if k in kinds), "other")
    )


def open_session(
    file: RecordingFile, steps: Mapping[str, Step], training_span: TrainingSpan | None = None
) -> RawSession:
    """Read a whole file into memory.

    Channels that the file calls EEG although their names say EOG, ECG, trigger … get that type.

    Args:
        steps: what will be done, so that filters know the rate that follows.
        training_span: samples that statistics may come from.

    Raises:
        InvalidFile: if it cannot be read.
    """
    raw, notes = open_raw(file.path)
    try:
        raw.load_data(verbose="ERROR")
    except Exception as error:
        # MNE's readers raise whatever their parsers do; the user gets one sentence and the cause behind it.
        reason = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
        raise InvalidFile("recording", file.path, f"expected readable samples ({reason})") from error
    kinds = zip(raw.ch_names, raw.get_channel_types(), strict=True)
    retyped = {name: to for name, kind in kinds if (to := channel_kind(name, kind)) != kind}
    if retyped:
        raw.set_channel_types(retyped, on_unit_change="ignore", verbose="ERROR")
    session = RawSession(
        raw=raw,
        file=file,
        events=events_of(raw, file.path) if "stim" in raw.get_channel_types() else (),
        annotations=list(annotations_of(raw)),
        sfreq_out_hz=next((step.sfreq_hz for step in steps.values() if hasattr(step, "sfreq_hz")), None),
        training_span=training_span,
        system=system_of(raw),
    )
    for note in notes:
        session.warn(note)
    if retyped:
        session.note("retyped", **retyped)
    return session


def channels_of(session: RawSession) -> tuple[Channel, ...]:
    """Channel records of the store: without the site suffix of CTF names, with the unit of the stored numbers."""
    found = []
    for number, name in enumerate(session.ch_names):
        channel = channel_of(session.raw, number)
        unit = session.units.get(name, channel.unit if session.scalers is None else "")
        found.append(replace(channel, unit=unit))
    if session.system == "ctf275":
        short = [channel.name.split("-")[0] for channel in found]
        if len(set(short)) == len(short):
            found = [replace(channel, name=name) for name, channel in zip(short, found, strict=True)]
    return tuple(found)
