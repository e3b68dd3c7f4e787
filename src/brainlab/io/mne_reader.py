"""Any recording as an MNE object, or as a :class:`~brainlab.io.recording.Recording`, in SI units."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from brainlab.errors import InvalidFile, InvalidValue
from brainlab.io.bids_sidecars import apply_sidecars, sidecar_facts, stated_units
from brainlab.io.brainvision import open_with_format, read_header, true_format
from brainlab.io.neuroscan import Neuroscan, is_neuroscan
from brainlab.io.recording import Annotation, Channel, Event, Position, Recording

__all__ = ["annotations_of", "channel_of", "events_of", "open_raw", "read_recording", "trigger_codes"]

# Formats without channel types call every sensor "eeg"; these names leave no doubt.
_KIND_BY_NAME = (
    (re.compile(r"^[vh]?eog\W?[\w+-]*$", re.IGNORECASE), "eog"),
    (re.compile(r"^(ecg|ekg)\W?\w*$", re.IGNORECASE), "ecg"),
    (re.compile(r"^emg\W?\w*$", re.IGNORECASE), "emg"),
)
# At ERROR, MNE would not even raise the warnings that become notes here.
_HEARD = "WARNING"
_MEG = ("mag", "grad", "ref_meg")
_ELECTRODES = ("eeg", "seeg", "ecog", "dbs")
# FIFF's coil types of sensors. MNE calls axial gradiometers magnetometers, since both measure in tesla.
_COILS = {
    "planar gradiometer": (2, 3011, 3012, 3013, 3014, 3015),
    "axial gradiometer": (2001, 4002, 5001, 6001, 7001, 7501, 9001, 9101, 9102),
    "magnetometer": (2000, 3021, 3022, 3023, 3024, 3025, 4001, 7002, 8001, 8002, 8101, 8201),
}
_SENSORS = {coil: sensor for sensor, coils in _COILS.items() for coil in coils}

# What a file is called says nothing of what is in it.
_NO_NEWS = ("naming conventions",)
# Where MNE tells formats apart by the ending alone, these are not on its list.
_BTI_CONFIG = ("config", "Config")
_DATA_KINDS = ("eeg", "mag", "grad", "seeg", "ecog", "dbs")


def open_raw(path: Path | str, *, kinds: Mapping[str, str] | None = None) -> tuple[Any, list[str]]:
    """Open a recording as an MNE object; samples stay on disk where the format allows it.

    Formats: what ``mne.io.read_raw`` knows (FIF, split and compressed too, CTF, KIT, EDF, BDF, GDF, BrainVision,
    EEGLAB, Neuroscan and ANT, EGI, Persyst …), folders and files of BTi/4D, EGI's simple binary, and Neuroscan files
    that MNE refuses. A BrainVision header that states the wrong number format is corrected, and the tables of a BIDS
    recording are applied (:mod:`brainlab.io.bids_sidecars`).

    Args:
        path: file (or folder, for formats that are one).
        kinds: channel name → MNE's channel type, where the file's own types are wrong. Without an entry here,
            channels that the file calls eeg but that are named EOG…, VEOG…, HEOG…, ECG…, EKG… or EMG… get that kind.

    Returns:
        the MNE object, and one note for everything that is not as the file says it.

    Raises:
        InvalidFile: if it cannot be read, or can be read in more than one way.
        InvalidValue: if ``kinds`` names an unknown channel or kind.
    """
    path = Path(path)
    if not path.exists():
        raise InvalidFile("recording", path, "expected an existing file")
    if path.is_file() and path.stat().st_size == 0:
        raise InvalidFile("recording", path, "expected samples, the file is empty")
    raw, notes = _open(path)
    if not raw.n_times:
        raise InvalidFile("recording", path, "expected samples, the file holds none")
    _expect_names_once(raw, path, notes)
    notes += apply_sidecars(raw, path)
    _set_kinds(raw, path, kinds or {})
    return raw, notes


def read_recording(path: Path | str, *, kinds: Mapping[str, str] | None = None, events: bool = True) -> Recording:
    """Open a recording; samples stay on disk where the format allows it.

    Args:
        path: file (or folder, for formats that are one), as in :func:`open_raw`.
        kinds: channel name → kind, where the file's own types are wrong.
        events: also decode the trigger channels, which reads them whole.

    Returns:
        samples in V, T or T/m; positions in metres; annotation onsets and event samples from the first sample, also
        where the file's own clock starts earlier.

    Raises:
        InvalidFile: if it cannot be read, or can be read in more than one way.
        InvalidValue: if ``kinds`` names an unknown channel or kind.
    """
    path = Path(path)
    raw, notes = open_raw(path, kinds=kinds)
    channels = tuple(channel_of(raw, number) for number in range(len(raw.ch_names)))
    return Recording(
        read=_Samples(raw, path),
        n_samples=int(raw.n_times),
        sfreq_hz=float(raw.info["sfreq"]),
        channels=channels,
        annotations=annotations_of(raw),
        events=events_of(raw, path) if events and any(channel.kind == "stim" for channel in channels) else (),
        meas_date=raw.info["meas_date"],
        provenance={
            "file": str(path),
            "reader": f"mne {type(raw).__name__}",
            "first_sample": int(raw.first_samp),
            "highpass_hz": float(raw.info["highpass"]),
            "lowpass_hz": float(raw.info["lowpass"]),
            "line_hz": raw.info["line_freq"],
            "bads": list(raw.info["bads"]),
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

    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            raw = _read(path, notes)
        except InvalidFile:
            raise
        except Exception as error:
            # MNE's readers raise whatever their parsers do; the user gets one sentence and the cause behind it.
            raise InvalidFile(
                "recording", path, f"expected a complete file that MNE {mne.__version__} reads ({_first_line(error)})"
            ) from error
    heard = {_first_line(one.message) for one in caught if issubclass(one.category, RuntimeWarning)}
    return raw, [*notes, *sorted(text for text in heard if not any(part in text for part in _NO_NEWS))]


def _read(path: Path, notes: list[str]) -> Any:
    import mne

    ending = path.suffix.lower()
    if ending in (".vhdr", ".ahdr"):
        return _read_brainvision(path, notes)
    if ending == ".cnt" and is_neuroscan(path):
        return _read_neuroscan(path, notes)
    if (bti := _bti_parts(path)) is not None:
        return mne.io.read_raw_bti(*bti, rename_channels=False, preload=False, verbose=_HEARD)
    if ending in (".raw", ".egi") and path.is_file():
        return mne.io.read_raw_egi(path, preload=False, verbose=_HEARD)
    if path.name.lower().endswith((".fif", ".fif.gz")):
        # True lets recordings under active shielding in and says that they need Maxwell filtering.
        return mne.io.read_raw_fif(path, allow_maxshield=True, preload=False, verbose=_HEARD)
    return mne.io.read_raw(path, preload=False, verbose=_HEARD)


def _read_brainvision(path: Path, notes: list[str]) -> Any:
    import mne

    header = read_header(path)
    if header is not None:
        in_bids = path.name.startswith("sub-")
        length = sidecar_facts(path).get("RecordingDuration") if in_bids else None
        name, note = true_format(header, float(length) if isinstance(length, int | float) and length > 0 else None)
        notes += [note] if note else []
        # Without a unit MNE takes microvolts.
        stated = stated_units(path) if in_bids and header.without_unit else {}
        units = {channel: stated[channel] for channel in header.without_unit if channel in stated}
        if name != header.format or units:
            return open_with_format(header, name, units)
    return mne.io.read_raw_brainvision(path, preload=False, verbose=_HEARD)


def _read_neuroscan(path: Path, notes: list[str]) -> Any:
    import mne

    try:
        return mne.io.read_raw_cnt(path, preload=False, verbose=_HEARD)
    except Exception:
        # Whatever its parser stumbled over: the reader of our own says what is wrong with the header.
        file = Neuroscan.open(path)
        notes += ["MNE refuses the file, brainlab's own reader took it", *file.notes]
    from brainlab.io.lazy_raw import LazyRaw

    info = mne.create_info(list(file.ch_names), file.sfreq_hz, "eeg", verbose="ERROR")
    info["bads"] = [name for name in file.bads if name in info["ch_names"]]
    raw = LazyRaw(info, file.read, file.n_samples, path)
    onsets = [sample / file.sfreq_hz for sample, _ in file.events]
    raw.set_annotations(mne.Annotations(onsets, [0.0] * len(onsets), [text for _, text in file.events]))
    return raw


def _bti_parts(path: Path) -> tuple[str, str, str | None] | None:
    """Data, config and head shape of a BTi/4D recording, given its folder or its data file."""
    folder = path if path.is_dir() else path.parent
    config = next((folder / name for name in _BTI_CONFIG if (folder / name).is_file()), None)
    if config is None or (path.is_file() and "," not in path.name):
        return None
    data = path if path.is_file() else next((file for file in sorted(folder.glob("[ce],rf*")) if file.is_file()), None)
    if data is None:
        return None
    shape = folder / "hs_file"
    return str(data), str(config), str(shape) if shape.is_file() else None


def _first_line(error: object) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    # A failed check inside MNE carries the place in its code first and what went wrong last.
    text = next((line for line in lines if not line.startswith('File "')), "")
    return re.split(r"\.\s+(?=[A-Z])", text, maxsplit=1)[0].rstrip(".") or type(error).__name__


def _expect_names_once(raw: Any, path: Path, notes: list[str]) -> None:
    """Refuse two sensors of one name, which MNE numbers: a layout could not tell them apart."""
    if not any("not unique" in note for note in notes):
        return
    counted: dict[str, int] = {}
    for name, kind in zip(raw.ch_names, raw.get_channel_types(), strict=True):
        stem, _, number = name.rpartition("-")
        if kind in _DATA_KINDS and number.isdigit() and any(f"'{stem}'" in note for note in notes):
            counted[stem] = counted.get(stem, 0) + 1
    twice = sorted(stem for stem, n in counted.items() if n > 1)
    if twice:
        raise InvalidFile("recording", path, f"expected every channel name once, found {', '.join(twice)} repeatedly")


def _set_kinds(raw: Any, path: Path, kinds: Mapping[str, str]) -> None:
    unknown = sorted(set(kinds) - set(raw.ch_names))
    if unknown:
        raise InvalidValue("kinds", unknown[0], f"expected one of {', '.join(raw.ch_names)}", where=str(path))
    meant = dict(kinds)
    for name, kind in zip(raw.ch_names, raw.get_channel_types(), strict=True):
        if kind == "eeg" and name not in meant:
            found = next((found for pattern, found in _KIND_BY_NAME if pattern.match(name)), None)
            meant |= {name: found} if found else {}
    if not meant:
        return
    try:
        raw.set_channel_types(meant, on_unit_change="ignore", verbose="ERROR")
    except (KeyError, ValueError) as error:
        raise InvalidValue(
            "kinds", meant, f"expected MNE's channel types ({_first_line(error)})", where=str(path)
        ) from None


def channel_of(raw: Any, number: int) -> Channel:
    """One channel of an MNE object: its kind, place (m), direction, SI unit and, from its coil, what sensor it is."""
    import mne
    from mne.io.constants import FIFF

    info = raw.info["chs"][number]
    kind = mne.channel_type(raw.info, number)
    units = {FIFF.FIFF_UNIT_V: "V", FIFF.FIFF_UNIT_T: "T", FIFF.FIFF_UNIT_T_M: "T/m"}
    location = np.asarray(info["loc"], dtype=float)
    return Channel(
        name=info["ch_name"],
        kind=kind,
        position=_triple(location[:3]) if kind in (*_MEG, *_ELECTRODES, "eog") else None,
        orientation=_unit(_triple(location[9:12])) if kind in _MEG else None,
        unit=units.get(info["unit"], ""),
        sensor=_sensor(kind, int(info["coil_type"]) & 0xFFFF),  # above are bits of the gradient compensation
    )


def _sensor(kind: str, coil: int) -> str:
    if kind in _ELECTRODES:
        return "electrode"
    return _SENSORS.get(coil, "") if kind in ("mag", "grad") else ""


def _triple(values: np.ndarray) -> Position | None:
    # MNE writes NaN or zeros where it knows nothing; no sensor sits in the origin of head coordinates.
    if not np.isfinite(values).all() or not values.any():
        return None
    return float(values[0]), float(values[1]), float(values[2])


def _unit(direction: Position | None) -> Position | None:
    """The same of length 1: files keep directions in single precision, some to three digits."""
    if direction is None:
        return None
    length = math.hypot(*direction)
    return direction[0] / length, direction[1] / length, direction[2] / length


def annotations_of(raw: Any) -> tuple[Annotation, ...]:
    """The marks of an MNE object, onsets from its first sample."""
    # In an MNE object onsets count from the file's clock, which starts first_time before the first sample.
    return tuple(
        Annotation(float(onset - raw.first_time), float(duration), str(description))
        for onset, duration, description in zip(
            raw.annotations.onset, raw.annotations.duration, raw.annotations.description, strict=True
        )
    )


def events_of(raw: Any, path: Path) -> tuple[Event, ...]:
    """The codes on the trigger channels of an MNE object, at its rate and from its first sample.

    Raises:
        InvalidFile: if the channels cannot be read; ``path`` is named.
    """
    try:
        return trigger_codes(raw)
    except Exception as error:
        raise InvalidFile("recording", path, f"expected readable trigger channels ({_first_line(error)})") from error


def trigger_codes(raw: Any, channel: str | None = None, min_duration_s: float = 0.0) -> tuple[Event, ...]:
    """Every change of a trigger channel to another code than 0, also to a smaller one, and what it starts with.

    A channel that goes 0, 40, 10, 0 says 40 and 10. A code that is there already at the first sample is an event at
    sample 0, whatever its length, since its beginning is unknown. Of a channel that is never 0 nobody knows at which
    level it rests: there only rises count, as in MNE's own default.

    Args:
        raw: MNE object.
        channel: trigger channel; default all of them.
        min_duration_s: what is shorter is no code.

    Returns:
        events at the rate of ``raw``, from its first sample, in order of time.
    """
    import mne

    if channel is not None:
        names = [channel]
    else:
        names = [raw.ch_names[pick] for pick in mne.pick_types(raw.info, meg=False, stim=True, exclude=[])]
    resting = {name: bool((raw.get_data(picks=[name], verbose="ERROR") == 0).any()) for name in names}
    found = []
    for at_zero in (True, False):
        lines = [name for name in names if resting[name] is at_zero]
        if lines:
            # MNE's default takes only rises, so that a code after a larger one would be lost.
            found += mne.find_events(
                raw, stim_channel=lines, min_duration=min_duration_s, shortest_event=1,
                consecutive=True if at_zero else "increasing", initial_event=at_zero, verbose="ERROR",
            ).tolist()  # fmt: skip
    found = sorted(set(map(tuple, found)))
    # MNE counts from the file's clock, which starts first_samp before the first sample.
    return tuple(Event(int(sample - raw.first_samp), int(code)) for sample, _, code in found)
