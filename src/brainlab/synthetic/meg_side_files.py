"""What lies beside simulated MEG recordings: BIDS side files, fine calibration and crosstalk of a Vectorview."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import csc_array

from brainlab.synthetic.meg_sensors import SensorArray

__all__ = ["describe_dataset", "describe_recording", "write_calibration", "write_crosstalk"]

_BIDS_TYPES = {"ref_meg": "MEGREFMAG", "mag": "MEGMAG", "grad": "MEGGRADPLANAR"}
_BIDS_UNITS = {"ref_meg": "T", "mag": "T", "grad": "T/m"}

_FILE_ID, _DIRECTORY, _FREE_LIST, _BLOCK, _BLOCK_END = 100, 101, 106, 104, 105
_CREATOR, _DATE, _COMMENT, _NAMES, _DECOUPLER = 113, 204, 206, 3417, 800
_CORRECTION_BLOCK, _DECOUPLER_BLOCK = 500, 501
_INT, _STRING, _ID, _SPARSE_COLUMNS = 3, 10, 31, 0x40000000 | 0x00100000 | 4


def describe_dataset(root: Path, name: str, subjects: Sequence[str]) -> None:
    """``dataset_description.json`` and ``participants.tsv``."""
    root.mkdir(parents=True, exist_ok=True)
    facts = {"Name": f"simulated {name}", "BIDSVersion": "1.9.0", "DatasetType": "raw"}
    (root / "dataset_description.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    (root / "participants.tsv").write_text("\n".join(["participant_id", *subjects, ""]), encoding="utf-8")


def describe_recording(
    path: Path,
    array: SensorArray,
    stim: str,
    sfreq_hz: float,
    line_hz: float,
    events: Sequence[Sequence[str]] = (),
) -> None:
    """``_meg.json``, ``_channels.tsv`` and, where there are rows, ``_events.tsv``; the first row names the columns.

    No channel is marked as bad: finding them is what the preparation is for.
    """
    stem = path.name.removesuffix(".fif").removesuffix("_meg")
    task = next((part[5:] for part in stem.split("_") if part.startswith("task-")), "rest")
    facts = {"TaskName": task, "SamplingFrequency": sfreq_hz, "PowerLineFrequency": line_hz, "DewarPosition": "upright"}
    (path.parent / f"{stem}_meg.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    axial = array.system == "ctf"
    rows = ["name\ttype\tunits\tsampling_frequency"]
    for name, kind in zip(array.names, array.kinds, strict=True):
        word = "MEGGRADAXIAL" if axial and kind == "mag" else _BIDS_TYPES[kind]
        rows.append(f"{name}\t{word}\t{_BIDS_UNITS[kind]}\t{sfreq_hz:g}")
    rows.append(f"{stim}\tTRIG\tV\t{sfreq_hz:g}")
    (path.parent / f"{stem}_channels.tsv").write_text("\n".join([*rows, ""]), encoding="utf-8")
    if events:
        table = "\n".join("\t".join(row) for row in events)
        (path.parent / f"{stem}_events.tsv").write_text(f"{table}\n", encoding="utf-8")


def write_calibration(path: Path, array: SensorArray) -> None:
    """Fine calibration: every sensor where it is, with a gain (magnetometers) or an imbalance (gradiometers).

    A line holds the sensor's number, position, the three axes of its coil, and one value.
    """
    lines = []
    for number, (name, loc, kind) in enumerate(zip(array.names, array.loc, array.kinds, strict=True)):
        value = 1.0 + 1e-3 * np.sin(number) if kind == "mag" else 1e-3 * np.sin(number)
        lines.append(" ".join([str(int(name[3:])), *(f"{v:.6f}" for v in [*loc, value])]))
    path.write_text("\n".join([*lines, ""]), encoding="ascii")


def write_crosstalk(path: Path, array: SensorArray, leak: float = 1e-3) -> None:
    """A crosstalk FIF: each sensor takes up ``leak`` of the next one's signal.

    The format is that of MaxFilter's ``ct_sparse.fif``, written tag by tag: kind, type, size, place of the next tag (0:
    right behind), content, all big-endian.
    """
    n = len(array.names)
    matrix = csc_array(np.eye(n) + leak * np.eye(n, k=1))
    sparse = (
        matrix.data.astype(">f4").tobytes()
        + matrix.indices.astype(">i4").tobytes()
        + matrix.indptr.astype(">i4").tobytes()
        + np.array([matrix.nnz, n, n, 2], ">i4").tobytes()
    )
    identity = struct.pack(">5i", 65537, 0, 0, 0, 0)
    tags = [
        *((_FILE_ID, _ID, identity), _integer(_DIRECTORY, -1), _integer(_FREE_LIST, -1)),
        *(_integer(_BLOCK, _CORRECTION_BLOCK), _text(_CREATOR, "simulated"), _integer(_DATE, 0)),
        *(_text(_COMMENT, "cross-talk compensation matrix"), _integer(_BLOCK, _DECOUPLER_BLOCK)),
        *((_DECOUPLER, _SPARSE_COLUMNS, sparse), _text(_NAMES, ":".join(array.names))),
        *(_integer(_BLOCK_END, _DECOUPLER_BLOCK), _integer(_BLOCK_END, _CORRECTION_BLOCK)),
    ]
    content = b"".join(struct.pack(">4i", kind, form, len(body), 0) + body for kind, form, body in tags)
    path.write_bytes(content + struct.pack(">4i", 108, 0, 0, -1))


def _integer(kind: int, value: int) -> tuple[int, int, bytes]:
    return kind, _INT, struct.pack(">i", value)


def _text(kind: int, text: str) -> tuple[int, int, bytes]:
    return kind, _STRING, text.encode("latin-1")
