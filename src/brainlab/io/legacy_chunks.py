"""Old trees of pickled chunks, ``<root>/<session>/<i>.npy``, into a store; nothing in them is executed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

from brainlab.errors import InvalidFile, InvalidValue
from brainlab.io.legacy_chunk_reader import LOST_SCALE, ChunkSession, chunk_folders, read_chunk_session
from brainlab.io.store import StoreWriter

__all__ = ["convert_chunk_tree", "is_chunk_tree"]

log = logging.getLogger(__name__)

_LISTED = 5


def is_chunk_tree(root: Path | str) -> bool:
    """Whether a folder holds sessions of numbered chunks; looks at names only."""
    root = Path(root)
    if not root.is_dir():
        return False
    folders = (path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return any((folder / "0.npy").is_file() for folder in folders)


def convert_chunk_tree(
    root: Path | str, folder: Path | str, *, on_error: Literal["raise", "skip"] = "raise"
) -> list[dict[str, Any]]:
    """Write all sessions of a chunk tree into a store, one chunk in memory at a time.

    Chunks become segments of their session, the row of events its conditions and events, ``bad_channels`` its bads.

    Args:
        root: the tree.
        folder: of the new store.
        on_error: "skip" goes on without sessions that cannot be read; "raise" names all of them in the end.

    Returns:
        one row for each session: name, status (prepared or failed) and what was found, or the error.

    Raises:
        InvalidFile: if a session failed and ``on_error`` is "raise", or none is left; nothing is a store then.
    """
    rows: list[dict[str, Any]] = []
    errors: list[InvalidValue] = []
    with StoreWriter(folder) as writer:
        for name, files in chunk_folders(Path(root)):
            subject = next((part for part in name.split("_") if part.startswith("sub-")), name)
            row = {"file": str(files[0].parent), "session": name, "subject": subject}
            try:
                rows.append({**row, "status": "prepared", **_convert(read_chunk_session(name, files), subject, writer)})
            except InvalidValue as error:
                log.warning("Session %s was not imported: %s", name, error)
                errors.append(error)
                rows.append({**row, "status": "failed", "error": str(error)})
        if errors and (on_error == "raise" or len(errors) == len(rows)):
            if len(errors) == 1:
                raise errors[0]
            listed = "; ".join(f"{error.value}: {error.expected}" for error in errors[:_LISTED])
            more = f"; and {len(errors) - _LISTED} more" if len(errors) > _LISTED else ""
            raise InvalidFile("chunk tree", root, f"{len(errors)} of {len(rows)} sessions failed: {listed}{more}")
        _expect_one_rate(rows, root)
    return rows


def _expect_one_rate(rows: list[dict[str, Any]], root: Path | str) -> None:
    rates = {row["sfreq_hz"]: row["session"] for row in reversed(rows) if row["status"] == "prepared"}
    if rates and max(rates) - min(rates) > 1e-6 * max(rates):
        listed = ", ".join(f"{rate:g} Hz ({name})" for rate, name in sorted(rates.items())[:_LISTED])
        raise InvalidFile(
            "chunk tree", root, f"expected sessions of one sampling rate, found {listed}",
            hint="imported chunks are not resampled: put the sessions of each rate into a folder of their own",
        )  # fmt: skip


def _convert(session: ChunkSession, subject: str, writer: StoreWriter) -> dict[str, Any]:
    rate, conditions = session.sfreq_hz, session.conditions()
    events = [
        {"sample": start, "onset_s": start / rate, "duration_s": (stop - start) / rate, "code": code}
        for start, stop, code in conditions
    ]
    folder = session.files[0].parent
    facts = {
        "n_channels": len(session.channels), "sfreq_hz": rate, "sfreq_in_hz": rate,
        "duration_s": round(session.n_samples / rate, 3), "usable_s": round(session.n_samples / rate, 3),
        "n_events": len(events), "system": session.system,
        "bads": list(session.bads), "interpolated": [], "dropped": {},
        "steps": [{"step": "import_chunks", "chunks": len(session.files)}], "warnings": list(session.notes),
    }  # fmt: skip
    names = {
        "subject": subject, "dataset": folder.parent.resolve().name, "task": session.name.rsplit("_", 1)[-1],
        "recording": session.name, "file": session.name,
    }  # fmt: skip
    attrs = {
        # Nobody knows which samples the older system took its statistics from.
        **names, **facts, "segments": session.segments, "span": None, "statistics": "unknown",
        "scalers": None if LOST_SCALE in session.notes else session.facts.get("scalers"), "conditions": conditions,
        "legacy": session.facts,
    }  # fmt: skip
    writer.add_session(session.name, session.recording(), events=events, attrs=attrs)
    for note in session.notes:
        log.warning("%s: %s", session.name, note)
    return facts
