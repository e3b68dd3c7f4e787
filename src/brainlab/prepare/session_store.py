"""One session through all steps into a store of its own, which the cache keeps with what became of the session."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from brainlab.datasets.conditions import fits
from brainlab.datasets.recordings import RecordingFile
from brainlab.errors import InvalidFile, InvalidValue
from brainlab.io.cache import Cache
from brainlab.io.mne_reader import channel_of
from brainlab.io.recording import Event
from brainlab.io.store import StoreWriter
from brainlab.prepare.steps.channels import Pick
from brainlab.prepare.steps.checks import MissingSamples, Units
from brainlab.prepare.steps.opening import channels_of, open_session
from brainlab.prepare.steps.session import Discarded, RawSession, Step, TrainingSpan, moved

__all__ = ["Conditions", "Outcome", "SessionJob", "prepare_into_cache", "prepare_session"]

Conditions = Callable[..., Any]

_KIND = "recording_sessions"
_OUTCOME = "outcome.json"
_STORE = "store"


@dataclass(frozen=True)
class SessionJob:
    """One session to prepare; it travels to a worker process."""

    file: RecordingFile
    steps: tuple[tuple[str, Step], ...]
    training_span: TrainingSpan | None
    conditions: Conditions | None
    cache: Path
    recipe: dict[str, Any]
    inputs: dict[str, str]

    @property
    def is_cached(self) -> bool:
        """Whether the cache holds it already."""
        return Cache(self.cache).has(_KIND, self.recipe, self.inputs)


@dataclass(frozen=True)
class Outcome:
    """What became of one session: where its store lies, or why there is none."""

    facts: dict[str, Any]
    folder: Path | None = None
    error: InvalidValue | None = None
    seconds: float = 0.0


def prepare_session(
    file: RecordingFile,
    steps: Mapping[str, Step | None],
    training_span: TrainingSpan | None = None,
) -> RawSession:
    """One recording through all steps, in memory.

    Missing samples and implausible units are looked for first, unless steps of the configuration do, and channels
    that hold no brain signal never reach a store.

    Raises:
        Discarded: if a step leaves the session out.
        InvalidValue: if it cannot be read or prepared; the sentence names the file.
    """
    active = {name: step for name, step in steps.items() if step is not None}
    session = open_session(file, active, training_span)
    for check in (MissingSamples, Units):
        if not any(isinstance(step, check) for step in active.values()):
            check()(session)
    for name, step in active.items():
        try:
            step(session)
        except Discarded as left_out:
            left_out.warnings, left_out.steps = list(session.warnings), list(session.facts)
            raise
        except InvalidValue as error:
            raise _of_step(error, name, step, file) from error
        except Exception as error:
            # A step is mostly MNE, which raises whatever its parts do; the user gets one sentence and the cause.
            reason = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
            raise InvalidFile(
                f"data.steps.{name}", type(step).__name__, f"expected a recording that it can handle ({reason})",
                where=str(file.path),
            ) from error  # fmt: skip
    if not any(isinstance(step, Pick) for step in active.values()):
        Pick(("mag", "grad", "eeg", "seeg", "ecog", "dbs"))(session)
    return session


def _of_step(error: InvalidValue, name: str, step: Step, file: RecordingFile) -> InvalidValue:
    """The same error with the step's key, where it is about a field of the step, and with the file."""
    own: set[str] = {field.name for field in fields(step)} if is_dataclass(step) else set()
    path, where = str(file.path), error.where
    if not where or where == type(step).__name__:
        where = path
    elif path not in f"{where} {error.value}":
        where = f"{where}, {path}"
    key = f"data.steps.{name}.{error.name}" if error.name in own else error.name
    return type(error)(key, error.value, error.expected, where=where, hint=error.hint)


def prepare_into_cache(job: SessionJob) -> Outcome:
    """Prepare one session into the cache, or find it there."""
    started = time.monotonic()
    try:
        folder = Cache(job.cache).get(_KIND, job.recipe, job.inputs, partial(_build, job))
        facts = json.loads((folder / _OUTCOME).read_text(encoding="utf-8"))
    except InvalidValue as error:
        return Outcome({}, error=error, seconds=time.monotonic() - started)
    except MemoryError as error:
        refused = InvalidFile(
            "recording", job.file.path, f"expected it to fit into memory ({error})",
            hint="data.prepare_workers=1 prepares one session at a time",
        )  # fmt: skip
        return Outcome({}, error=refused, seconds=time.monotonic() - started)
    found = folder / _STORE if facts["status"] == "prepared" else None
    return Outcome(facts, found, seconds=time.monotonic() - started)


def _build(job: SessionJob, folder: Path) -> None:
    try:
        session = prepare_session(job.file, dict(job.steps), job.training_span)
    except Discarded as left_out:
        facts: dict[str, Any] = {
            "status": "discarded",
            "reason": left_out.reason,
            "words": left_out.words,
            "hint": left_out.hint,
            "details": left_out.facts,
            "steps": left_out.steps,
            "warnings": left_out.warnings,
        }
    else:
        facts = {"status": "prepared", **_write(session, job, folder / _STORE)}
    (folder / _OUTCOME).write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")


def _write(session: RawSession, job: SessionJob, folder: Path) -> dict[str, Any]:
    """A store of one session; returns the facts of its row in the manifest."""
    n_samples, rate = session.n_samples, session.sfreq_hz
    channels = channels_of(session)
    events = _events(session)
    conditions = _conditions(session, job.conditions)  # before the warnings are written down
    segments = [[0, n_samples]] if session.segments is None else [list(pair) for pair in session.segments]
    bads = [c.name for c, name in zip(channels, session.ch_names, strict=True) if name in session.raw.info["bads"]]
    facts = {
        "n_channels": len(channels),
        "sfreq_hz": rate,
        "sfreq_in_hz": session.sfreq_in_hz,
        "duration_s": round(n_samples / rate, 3),
        "usable_s": round(sum(stop - start for start, stop in segments) / rate, 3),
        "n_events": len(events),
        "system": session.system,
        "bads": bads,
        "interpolated": session.interpolated,
        "dropped": session.dropped,
        "steps": session.facts,
        "warnings": session.warnings,
    }
    attrs = {
        **facts,
        "segments": segments,
        "span": [min(n_samples, round(second * rate)) for second in session.used_span_s],
        "scalers": _scalers(session),
        "conditions": conditions,
    }
    with StoreWriter(folder) as writer:
        try:
            writer.add_session("session", session.samples, rate, channels, events, attrs)
        except InvalidValue as error:  # the writer knows neither the file nor the steps
            raise _of_file(error, session) from error
    return facts


def _scalers(session: RawSession) -> dict[str, Any] | None:
    if session.scalers is None:
        return None
    units = [channel_of(session.raw, number).unit for number in range(len(session.ch_names))]
    return {
        "centre": session.scalers.centre.tolist(),
        "scale": session.scalers.scale.tolist(),
        "unit": units[0] if len(set(units)) == 1 else units,
    }


def _events(session: RawSession) -> list[dict[str, Any]]:
    """Annotations and trigger codes in order of time; ``onset_s`` counts from the first sample."""
    n_samples, rate = session.n_samples, session.sfreq_hz
    marked: list[dict[str, Any]] = [
        {
            "sample": min(max(0, round(note.onset_s * rate)), n_samples - 1),
            "onset_s": note.onset_s,
            # EEGLAB marks cuts with a duration that is not a number.
            "duration_s": note.duration_s if math.isfinite(note.duration_s) else 0.0,
            "description": note.description,
        }
        for note in session.annotations
        if note.onset_s < n_samples / rate
    ]
    marked += [
        {
            "sample": moved(event.sample, session.sfreq_in_hz, rate, n_samples),
            "onset_s": event.sample / session.sfreq_in_hz,
            "code": event.code,
        }
        for event in session.events
    ]
    return sorted(marked, key=lambda event: event["sample"])


def _conditions(session: RawSession, conditions: Conditions | None) -> list[list[int]]:
    """[start, stop, code] of every stretch of one condition other than 0."""
    if conditions is None:
        return []

    try:
        dense = _dense(session, conditions, session.events)
    except InvalidValue as error:
        if all(fits(event.code) for event in session.events):
            raise _of_file(error, session) from error
        dense = _without_wide_codes(session, conditions)
    if dense is None or not len(dense):
        return []
    codes = np.asarray(dense)
    edges = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
    return [[a, b, int(codes[a])] for a, b in pairwise(edges) if codes[a] != 0]


def _dense(session: RawSession, conditions: Conditions, events: tuple[Event, ...]) -> Any:
    n_samples, rate = session.n_samples, session.sfreq_hz
    return conditions(session.file, events, session.annotations, n_samples, rate, session.sfreq_in_hz)


def _without_wide_codes(session: RawSession, conditions: Conditions) -> Any:
    """The same where a trigger code that cannot be a condition only ends the one before it, with a warning."""
    wide = sorted({event.code for event in session.events if not fits(event.code)})
    try:
        events = tuple(event if fits(event.code) else Event(event.sample, 0) for event in session.events)
        dense = _dense(session, conditions, events)
    except InvalidValue as error:
        raise _of_file(error, session) from error
    session.warn(f"trigger codes that 16 bits do not hold are no conditions: {', '.join(map(str, wide[:5]))}")
    return dense


def _of_file(error: InvalidValue, session: RawSession) -> InvalidValue:
    """The same error with the recording's file, unless it names it."""
    if session.source in f"{error.where} {error.value}":
        return error
    return type(error)(error.name, error.value, error.expected, where=session.source, hint=error.hint)
