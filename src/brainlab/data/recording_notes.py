"""Remarks on recordings from when they were prepared, and doubts about held-out ones that no check can settle."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brainlab.data.recording_split import Assignment
from brainlab.data.sources import manifest_of
from brainlab.errors import BrainlabError
from brainlab.prepare.steps.filters import look_ahead_s

if TYPE_CHECKING:
    from brainlab.data.recordings import MixedRecordings

__all__ = ["notes_of"]

_LISTED = 5
_UNKNOWN = "whether it has seen what validates and tests here is unknown"


def notes_of(data: MixedRecordings) -> list[str]:
    """Sentences about the recordings, and about what the parts of a split may know of each other."""
    return [*_remarks(data), *_unknown_statistics(data), *_filters(data), *_tokenizer(data)]


def _remarks(data: MixedRecordings) -> list[str]:
    """What the manifest says about recordings in use; those that come from the cache were prepared in another log."""
    remarked: dict[str, list[str]] = defaultdict(list)
    used = set(data.session_names)
    for row in manifest_of(data.store.folder):
        if row["session"] in used:
            for text in row.get("warnings", ()):
                remarked[text].append(row["session"])
    often = sorted(remarked.items(), key=lambda each: -len(each[1]))
    said = [f"{_count(len(names), 'recording')} ({_some(names)}): {text}" for text, names in often[:_LISTED]]
    # Numbers and channel names make texts differ; hundreds of recordings would bury the doubts below.
    left = {name for _, names in often[_LISTED:] for name in names}
    if left:
        said.append(f"Other remarks on {_count(len(left), 'recording')} stand in the table of recordings.")
    return said


def _unknown_statistics(data: MixedRecordings) -> list[str]:
    names = [name for n, name in enumerate(data.session_names) if data.scaler_span(n) is None]
    if not names or data.assignment.kind != "time":
        return []
    return [
        f"Nobody knows which part of {_some(names)} its scales and bad channels were taken from (it was prepared"
        " before): with data.split=time they may come from the blocks that validate and test. data.split=subject or"
        " session has no such doubt."
    ]


def _filters(data: MixedRecordings) -> list[str]:
    if data.assignment.kind != "time":
        return []
    reach = 0.0
    for session in data.store.sessions:
        name = str(session.attrs.get("dataset", ""))
        source = data.sources[name] if name in data.sources else next(iter(data.sources.values()))
        if session.attrs.get("span") is not None:  # imported recordings went through none of these steps
            rate = session.attrs.get("sfreq_in_hz") or session.sfreq_hz
            reach = max(reach, look_ahead_s(source.steps, float(rate)))
    guard_s = data.assignment.guard / data.sfreq_hz
    if reach <= guard_s:
        return []
    guard = f"data.guard_s={guard_s:g}" if data.split_file is None else f"the guard of {guard_s:g} s in data.split_file"
    seconds = f"{reach:.1f} s" if reach != float("inf") else "the whole recording"
    return [
        f"The filters of data.steps look {seconds} ahead, further than {guard}: a training"
        " block ends with traces of the next part. phase: minimum for the filters, method: polyphase for resampling,"
        " or a longer guard keeps them apart."
    ]


def _tokenizer(data: MixedRecordings) -> list[str]:
    """Whether the tokenizer was trained on what is held out here, as far as its checkpoint tells."""
    tokenizer: Any = data.tokenizer
    if not hasattr(tokenizer, "trained_with"):
        return []  # nothing of it was trained
    settings: Mapping[str, Any] | None = tokenizer.trained_with
    if not settings:
        return [f"The tokenizer's checkpoint does not say which recordings it was trained on: {_UNKNOWN}."]
    if not _same_recordings(data, settings):
        return [f"The tokenizer was trained on other recordings, or on some prepared in another way: {_UNKNOWN}."]
    try:
        rows = _training_rows(data, settings)
    except (BrainlabError, OSError, KeyError, TypeError, ValueError):
        return [f"The tokenizer's split cannot be drawn again: {_UNKNOWN}."]
    seen, held = [], 0
    for number, name in enumerate(data.session_names):
        own = [row for part in ("val", "test") for row in data.assignment.rows[part][number]]
        held += bool(own)
        if any(start < last and first < stop for start, stop in own for first, last in rows[number]):
            seen.append(name)
    if not seen:
        return []
    return [
        f"The tokenizer was trained on {len(seen)} of the {held} recordings that validate or test here"
        f" ({_some(seen)}): for it they are not held out. The same data.split, data.fractions, data.guard_s and seed"
        " as in its training keep them apart."
    ]


def _training_rows(data: MixedRecordings, settings: Mapping[str, Any]) -> tuple[list[tuple[int, int]], ...]:
    """What trained the tokenizer, in samples of each recording: its split drawn again."""
    members = data.assignment.members
    if settings.get("split_file"):
        return Assignment.load(settings["split_file"], members).rows["train"]
    drawn, _ = Assignment.draw(
        members, settings["split"], settings["fractions"], int(settings["seed"]),
        sfreq_hz=data.sfreq_hz, guard_s=float(settings["guard_s"]), heldout_dataset=settings.get("heldout_dataset"),
    )  # fmt: skip
    return drawn.rows["train"]


def _same_recordings(data: MixedRecordings, settings: Mapping[str, Any]) -> bool:
    """Whether the settings that a tokenizer was trained with find and prepare the sessions that are here."""
    written = settings.get("sources") or {next(iter(data.sources)): settings}
    if list(written) != list(data.sources):
        return False
    for name, source in data.sources.items():
        node = written[name]
        if node.get("root") is None or source.root is None:
            simulated = node.get("root") is source.root is None and settings.get("size") == data.size
            if not simulated or not _alike(node.get("simulator"), source.simulator):
                return False
        elif Path(node["root"]).expanduser().resolve() != Path(source.root).expanduser().resolve():
            return False
        if any(_plain(node.get(key)) != _plain(getattr(source, key)) for key in ("include", "subject")):
            return False
        theirs = {key: step for key, step in (node.get("steps") or {}).items() if step is not None}
        ours = {key: step for key, step in source.steps.items() if step is not None}
        if list(theirs) != list(ours) or not all(_alike(theirs[key], ours[key]) for key in ours):
            return False
    return True


def _alike(node: Any, built: Any) -> bool:
    """Whether ``built`` is what ``node`` describes, by its class and by the settings that are written there."""
    if not isinstance(node, Mapping) or str(node.get("_target_")).rpartition(".")[2] != type(built).__name__:
        return False
    held = {field.name: getattr(built, field.name) for field in dataclasses.fields(built)}
    return all(_plain(held.get(key)) == _plain(value) for key, value in node.items() if not key.startswith("_"))


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' if n != 1 else ''}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
