"""What the tables beside a BIDS recording say: kinds, units and states of channels, positions, events, length.

Found by BIDS's rule of inheritance: a sidecar applies when all entities of its name are among the recording's, in
the recording's folder or one above it, the nearest first. Tables are UTF-8 with or without a byte order mark; ``n/a``
is an empty cell.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from brainlab.errors import InvalidFile

__all__ = ["apply_sidecars", "sidecar", "sidecar_facts", "stated_units", "table"]

_KINDS = {
    "EEG": "eeg", "EOG": "eog", "HEOG": "eog", "VEOG": "eog", "ECG": "ecg", "EMG": "emg", "MISC": "misc",
    "OTHER": "misc", "REF": "misc", "GSR": "gsr", "TEMP": "temperature", "RESP": "resp", "TRIG": "stim",
    "SEEG": "seeg", "ECOG": "ecog", "DBS": "dbs", "AUDIO": "misc", "PD": "misc", "ADC": "misc", "DAC": "misc",
}  # fmt: skip
_METRES = {"m": 1.0, "cm": 1e-2, "mm": 1e-3}
# Axes of the coordinate systems that need no landmarks: columns of the table → right, front, up.
_AXES = {
    "captrak": ((0, 1.0), (1, 1.0), (2, 1.0)),
    "elektaneuromag": ((0, 1.0), (1, 1.0), (2, 1.0)),
    "ctf": ((1, -1.0), (0, 1.0), (2, 1.0)),
    "eeglab": ((1, -1.0), (0, 1.0), (2, 1.0)),
}
_HEAD_M = (0.02, 0.3)
_POSITIONED = ("eeg", "seeg", "ecog", "dbs")
_LENGTH_SHARE = 0.01
# What says where samples are of no use or not continuous.
_KEPT_MARKS = ("bad", "edge", "boundary")


def apply_sidecars(raw: Any, path: Path) -> list[str]:
    """Let the tables beside ``path`` correct an MNE object in place; nothing happens for other files.

    Kinds are taken from ``_channels.tsv`` except among MEG sensors, whose coils the file knows better; channels of
    status bad join ``raw.info["bads"]``. Positions come from ``_electrodes.tsv`` where the file has none. Events of
    ``_events.tsv`` replace the file's own marks, apart from those that start with "bad", "edge" or "boundary".

    Returns:
        one note for each thing that disagrees or could not be used.

    Raises:
        InvalidFile: if a table cannot be read.
    """
    if not path.name.startswith("sub-"):
        return []
    return [*_channels(raw, path), *_electrodes(raw, path), *_events(raw, path), *_facts(raw, path)]


def sidecar(path: Path, ending: str) -> Path | None:
    """The nearest file of this ending (``channels.tsv``, ``eeg.json`` …) that applies to the recording."""
    return next(_sidecars(path, ending), None)


def sidecar_facts(path: Path) -> dict[str, Any]:
    """The recording's JSON sidecars, merged, the nearest winning.

    Raises:
        InvalidFile: if one is not JSON.
    """
    suffix = _stem(path).rsplit("_", 1)[-1]
    facts: dict[str, Any] = {}
    for file in reversed(list(_sidecars(path, f"{suffix}.json"))):
        facts |= _json(file)
    return facts


def stated_units(path: Path) -> dict[str, str]:
    """Channel → unit of those that ``_channels.tsv`` gives in volts or a fraction of them.

    Raises:
        InvalidFile: if the table cannot be read.
    """
    file = sidecar(path, "channels.tsv")
    rows = table(file) if file else []
    return {row["name"]: row["units"] for row in rows if "name" in row and _volts(row.get("units")) is not None}


def table(path: Path) -> list[dict[str, str]]:
    """Rows of a tab-separated table; ``n/a`` and empty cells are left out of their row.

    Raises:
        InvalidFile: if it is not text in columns.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.reader(stream, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidFile("table", path, f"expected tab-separated UTF-8 text ({error})") from None
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    if not rows:
        return []
    header = [cell.strip() for cell in rows[0]]
    found = []
    for row in rows[1:]:
        cells = {name: cell.strip() for name, cell in zip(header, row, strict=False)}
        found.append({name: cell for name, cell in cells.items() if cell and cell.lower() != "n/a"})
    return found


def _stem(path: Path) -> str:
    return path.name.split(".", 1)[0]


def _sidecars(path: Path, ending: str) -> Iterator[Path]:
    """All that apply, the nearest first and without a ``space-`` entity before with one."""
    mine = set(_stem(path).split("_")[:-1])
    folder = path.parent
    while True:
        fitting = []
        for file in folder.glob(f"*{ending}"):
            entities = {part for part in file.name[: -len(ending)].split("_") if part}
            needed = {entity for entity in entities if not entity.startswith("space-")}
            whole = file.name == ending or file.name.endswith(f"_{ending}")
            if whole and needed <= mine and file.is_file():
                fitting.append((len(entities) != len(needed), -len(needed), file.name, file))
        yield from (file for *_, file in sorted(fitting))
        if (folder / "dataset_description.json").is_file() or not _below_root(folder):
            return
        folder = folder.parent


def _below_root(folder: Path) -> bool:
    return folder.name in ("eeg", "meg", "ieeg") or folder.name.startswith(("sub-", "ses-"))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InvalidFile("sidecar", path, f"expected JSON ({error})") from None
    if not isinstance(content, dict):
        raise InvalidFile("sidecar", path, "expected a JSON object")
    return content


def _channels(raw: Any, path: Path) -> list[str]:
    file = sidecar(path, "channels.tsv")
    if file is None:
        return []
    short = {name.split("-")[0]: name for name in raw.ch_names}
    kinds, bads, unknown, units = {}, [], [], []
    have = dict(zip(raw.ch_names, raw.get_channel_types(), strict=True))
    original = getattr(raw, "_orig_units", None) or {}
    for row in table(file):
        said = row.get("name", "")
        name = said if said in have else short.get(said)
        if name is None:
            unknown.append(said)
            continue
        kind = _KINDS.get(row.get("type", "").upper())
        if kind and have[name] not in ("mag", "grad", "ref_meg") and have[name] != kind:
            kinds[name] = kind
        if row.get("status", "").lower() == "bad":
            bads.append(name)
        if _volts(row.get("units")) and _volts(original.get(name)) and _differ(row["units"], original[name]):
            units.append(f"{name} ({original[name]}, not {row['units']})")
    notes = []
    if kinds:
        raw.set_channel_types(kinds, on_unit_change="ignore", verbose="ERROR")
    if bads:
        raw.info["bads"] = list(dict.fromkeys([*raw.info["bads"], *bads]))
    if unknown:
        notes.append(f"{file.name} names channels that the file lacks: {_listed(unknown)}")
    if units:
        notes.append(f"{file.name} disagrees on units, the recording's own are used: {_listed(units)}")
    return notes


def _volts(unit: str | None) -> float | None:
    spelled = (unit or "").replace("μ", "µ").replace("u", "µ")
    return {"V": 1.0, "mV": 1e-3, "µV": 1e-6, "nV": 1e-9}.get(spelled)


def _differ(first: str, second: str) -> bool:
    return _volts(first) != _volts(second)


def _electrodes(raw: Any, path: Path) -> list[str]:
    import mne

    kinds = raw.get_channel_types()
    lacking = [
        name
        for name, kind, channel in zip(raw.ch_names, kinds, raw.info["chs"], strict=True)
        if kind in _POSITIONED and not (np.isfinite(channel["loc"][:3]).all() and channel["loc"][:3].any())
    ]
    file = sidecar(path, "electrodes.tsv") if lacking else None
    # A montage replaces all digitised points, and those of an MEG file are what its head position rests on.
    if file is None or "mag" in kinds or "grad" in kinds:
        return []
    space = next((part for part in file.name.split("_") if part.startswith("space-")), None)
    frames = list(_sidecars(path, "coordsystem.json"))
    frame = next((f for f in frames if (space in f.name.split("_") if space else "space-" not in f.name)), None)
    if frame is None:
        return [f"{file.name} has no coordinate system beside it, its positions are left out"]
    facts = _json(frame)
    system = next((str(facts[key]) for key in facts if key.endswith("EEGCoordinateSystem")), "")
    unit = next((str(facts[key]) for key in facts if key.endswith("EEGCoordinateUnits")), "")
    places = {}
    for row in table(file):
        try:
            place = np.array([float(row[axis]) for axis in "xyz"])
        except (KeyError, ValueError):
            continue
        if row.get("name") in lacking and np.isfinite(place).all():
            places[row["name"]] = place * _METRES.get(unit, math.nan)
    if not places:
        return []
    typical = float(np.median(np.linalg.norm(list(places.values()), axis=1)))
    if not _HEAD_M[0] <= typical <= _HEAD_M[1]:
        return [f"{file.name} puts sensors {typical:.3g} m from the origin (unit {unit!r}), which is no head; left out"]
    marks = _landmarks(facts)
    if marks is not None:
        montage = mne.channels.make_dig_montage(places, **marks, coord_frame="unknown")
    elif (axes := _AXES.get(system.lower())) is not None:
        turned = {name: np.array([sign * place[axis] for axis, sign in axes]) for name, place in places.items()}
        montage = mne.channels.make_dig_montage(turned, coord_frame="head")
    else:
        return [f"{frame.name} names the coordinate system {system or 'n/a'} without landmarks; positions are left out"]
    raw.set_montage(montage, on_missing="ignore", verbose="ERROR")
    return []


def _landmarks(facts: dict[str, Any]) -> dict[str, np.ndarray] | None:
    coordinates = facts.get("AnatomicalLandmarkCoordinates")
    scale = _METRES.get(str(facts.get("AnatomicalLandmarkCoordinateUnits")))
    if not isinstance(coordinates, dict) or scale is None:
        return None
    found = {}
    for key, name in (("NAS", "nasion"), ("LPA", "lpa"), ("RPA", "rpa")):
        try:
            point = np.array(coordinates.get(key), dtype=float) * scale
        except (TypeError, ValueError):
            return None
        if point.shape != (3,) or not np.isfinite(point).all():
            return None
        found[name] = point
    return found


def _events(raw: Any, path: Path) -> list[str]:
    import mne

    file = sidecar(path, "events.tsv")
    if file is None:
        return []
    onsets, durations, names, dropped = [], [], [], 0
    for row in table(file):
        onset = _number(row.get("onset"))
        if onset is None or not 0 <= onset < raw.n_times / raw.info["sfreq"]:
            dropped += 1
            continue
        onsets.append(onset)
        durations.append(max(_number(row.get("duration")) or 0.0, 0.0))
        names.append(row.get("trial_type") or row.get("value") or "event")
    if not onsets and not dropped:
        return []
    kept = [mark for mark in raw.annotations if str(mark["description"]).lower().startswith(_KEPT_MARKS)]
    onsets += [mark["onset"] - raw.first_time for mark in kept]
    durations += [mark["duration"] for mark in kept]
    names += [mark["description"] for mark in kept]
    # Onsets without an origin count from the first sample, as BIDS's do.
    raw.set_annotations(mne.Annotations(onsets, durations, names), verbose="ERROR")
    return [f"{dropped} rows of {file.name} have no onset inside the recording and are left out"] if dropped else []


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _facts(raw: Any, path: Path) -> list[str]:
    facts, notes = sidecar_facts(path), []
    rate, length = facts.get("SamplingFrequency"), facts.get("RecordingDuration")
    found_s = raw.n_times / raw.info["sfreq"]
    if isinstance(rate, int | float) and abs(rate - raw.info["sfreq"]) > 1e-3 * raw.info["sfreq"]:
        notes.append(f"the sidecar says {rate:g} Hz, the recording {raw.info['sfreq']:g} Hz, which is used")
    if isinstance(length, int | float) and abs(length - found_s) > max(1.0, _LENGTH_SHARE * found_s):
        notes.append(f"the sidecar says {length:g} s, the recording holds {found_s:g} s")
    line = facts.get("PowerLineFrequency")
    if isinstance(line, int | float) and raw.info["line_freq"] is None:
        raw.info["line_freq"] = float(line)
    return notes


def _listed(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
