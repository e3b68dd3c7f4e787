"""What a data module of recordings says about itself in a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from brainlab.data.sources import manifest_of
from brainlab.prepare.sessions import manifest_table
from brainlab.types import Table

if TYPE_CHECKING:
    from brainlab.data.recordings import MixedRecordings

__all__ = ["describe", "tables"]


def describe(data: MixedRecordings) -> dict[str, Any]:
    """JSON-ready facts: what became of every recording, who is in which part, the layout and the codes."""
    rate = data.sfreq_hz
    numbers = {name: number for number, name in enumerate(data.session_names)}
    manifest = manifest_of(data.store.folder)
    return {
        "dataset": " + ".join(data.sources),
        "source": data.source,
        "folders": {name: source.root for name, source in data.sources.items()},
        "recordings": [_row(data, row, numbers.get(str(row.get("session")))) for row in manifest],
        "status": dict(Counter(str(row.get("status")) for row in manifest)),
        **({"left_out": data.left_out} if data.left_out else {}),
        **({"notes": data.notes} if data.notes else {}),
        "sfreq_hz": rate,
        "window_s": data.n_samples / rate,
        "stride_s": data.stride / rate,
        "split": data.assignment.kind,
        "split_file": str(data.split_path),
        **({"guard_s": data.assignment.guard / rate} if data.assignment.kind == "time" else {}),
        "parts": _parts(data),
        "layout": {
            "kind": data.layout_kind,
            "channels": data.n_channels,
            "channel_sets": len(set(data.channel_sets)),
            "systems": dict(Counter(data.layout.systems)),
            "types": dict(Counter(channel.kind for channel in data.channels)),
            "sensors": dict(Counter(channel.sensor or channel.kind for channel in data.channels)),
            "without_position": sum(channel.position is None for channel in data.channels),
        },
        "codes": _codes(data),
    }


def tables(data: MixedRecordings) -> list[Table]:
    """What became of every recording, and what each part holds."""
    manifest = [_with_place(data, row) for row in manifest_of(data.store.folder)]
    sessions = Table("sessions", "What became of every recording", *manifest_table(manifest))
    rows = tuple((part, *facts.values()) for part, facts in _parts(data).items())
    parts = Table("parts", f"Split by {data.assignment.kind}", ("part", "sessions", "seconds", "windows"), rows)
    return [sessions, parts]


def _parts(data: MixedRecordings) -> dict[str, dict[str, Any]]:
    return {
        part: {
            "sessions": len(set(rows[:, 0].tolist())),
            "seconds": round(float((rows[:, 2] - rows[:, 1]).sum()) / data.sfreq_hz, 2),
            "windows": len(data.windows[part]),
        }
        for part, rows in data.stretches.items()
    }


def _with_place(data: MixedRecordings, row: Mapping[str, Any]) -> dict[str, Any]:
    """A prepared recording that the split has no place for says so where others say why they are not there."""
    reason = data.left_out.get(str(row.get("session")))
    return {**row, "reason": f"in no part: {reason}"} if reason else dict(row)


def _row(data: MixedRecordings, row: Mapping[str, Any], number: int | None) -> dict[str, Any]:
    """One line of the manifest, with the seconds that each part has of the recording."""
    row = _with_place(data, row)
    if number is None:
        return row
    seconds = {}
    for part, rows in data.stretches.items():
        own = rows[rows[:, 0] == number]
        seconds[part] = round(float((own[:, 2] - own[:, 1]).sum()) / data.sfreq_hz, 2)
    return {**row, "n_channels": data.session(number).n_channels, "seconds": seconds}


def _codes(data: MixedRecordings) -> dict[str, Any] | None:
    tokenizer, store = data.tokenizer, data.code_store
    if tokenizer is None or store is None:
        return None
    per_frame = tokenizer.n_sites * tokenizer.n_levels
    return {
        "tokenizer": type(tokenizer).__name__,
        "fingerprint": tokenizer.fingerprint,
        "hop": tokenizer.hop,
        "n_sites": tokenizer.n_sites,
        "n_levels": tokenizer.n_levels,
        "vocab_size": tokenizer.vocab_size,
        "tokens_per_second": data.sfreq_hz / tokenizer.hop * per_frame,
        "tokens": per_frame * sum(session.n_frames for session in store.sessions),
        "folder": str(store.folder),
    }
