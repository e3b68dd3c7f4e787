"""From raw recordings to a store: every session through the same named steps, in parallel processes.

Each session is prepared into the cache under a key of its own (content of the file, steps, code), as a store of one
session; the store of all then links them. So one bad file costs nothing of the others, a changed file or one more file
costs one session, and two experiments that differ only in which sessions they take share the work. Every session,
prepared, discarded or failed, has a row in the manifest.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from brainlab.datasets.recordings import RecordingFile, companions
from brainlab.errors import InvalidFile, InvalidValue
from brainlab.io.atomic import write_atomically
from brainlab.io.cache import Cache, code_digest
from brainlab.io.store import Store, StoreWriter
from brainlab.prepare.processes import in_processes
from brainlab.prepare.session_store import Conditions, Outcome, SessionJob, prepare_into_cache
from brainlab.prepare.steps.session import Step, TrainingSpan, recipe_of

__all__ = ["MANIFEST", "manifest_table", "prepare_store", "recipe_of_steps"]

log = logging.getLogger(__name__)

MANIFEST = "sessions.json"
"""The store's list of what became of every session."""

_LISTED = 5
_RATE_TOLERANCE = 1e-6


def recipe_of_steps(
    steps: Mapping[str, Step | None], training_span: TrainingSpan | None = None, conditions: Conditions | None = None
) -> dict[str, Any]:
    """Everything, except the files, that prepared samples, events and conditions depend on: JSON-ready."""
    active = {name: step for name, step in steps.items() if step is not None}
    return {
        # A list: the order counts, and a key of the cache sorts maps.
        "steps": [[name, json.loads(json.dumps(recipe_of(step)))] for name, step in active.items()],
        "training_span": _recipe(training_span),
        "conditions": _recipe(conditions),
        # Filters and readers are MNE's, so a new MNE may give other samples.
        "code": code_digest("prepare/sessions.py", "prepare/session_store.py", "prepare/steps", "datasets", "io"),
        "mne": version("mne"),
        "scipy": version("scipy"),
    }


def _recipe(part: Any) -> Any:
    """What an object, or the object that a method belongs to, says about itself."""
    if part is None:
        return None
    owner = getattr(part, "__self__", part)
    said = owner.recipe() if hasattr(owner, "recipe") else None
    kind = part if hasattr(part, "__qualname__") else type(part)
    return {"name": f"{kind.__module__}.{kind.__qualname__}", "recipe": said}


def prepare_store(
    files: Sequence[RecordingFile],
    folder: Path,
    steps: Mapping[str, Step | None],
    *,
    cache: Cache,
    training_span: TrainingSpan | None = None,
    conditions: Conditions | None = None,
    n_workers: int = 1,
    on_error: Literal["raise", "skip"] = "raise",
    root: Path | str | None = None,
) -> list[dict[str, Any]]:
    """Prepare every file and fill ``folder`` with a store of them and the manifest ``sessions.json``.

    Args:
        files: the sessions, their names unique.
        folder: empty; for example what a cache gives to build in.
        steps: name → step, in order; None is a step that was switched off.
        cache: keeps the single sessions.
        training_span: picklable ``(file, n_samples, sfreq_hz) → (start, stop)`` with ``recipe()``: where statistics
            may come from; None allows the whole recording.
        conditions: picklable ``(file, events, annotations, n_samples, sfreq_hz, raw_sfreq_hz) → codes (time,)``.
        n_workers: processes; 1 works in this one.
        on_error: "skip" goes on without sessions that fail; "raise" prepares the rest, then fails with their names.
        root: folder that the names of files are taken relative to.

    Returns:
        the manifest's rows, one per file, in order: file, session, subject, dataset, task, status (prepared, discarded,
        failed), then facts, ``reason`` (with ``words`` and ``hint``) or ``error``.

    Raises:
        InvalidFile: if a session failed and ``on_error`` is "raise", or if none is left. The manifest then lies in the
            cache's folder ``manifests``, named in the sentence.
        InvalidValue: if the sessions differ in their sampling rate.
    """
    if on_error not in ("raise", "skip"):
        raise InvalidValue("data.on_error", on_error, "expected raise or skip")
    if n_workers < 1:
        raise InvalidValue("data.prepare_workers", n_workers, "expected at least 1")
    recipe = recipe_of_steps(steps, training_span, conditions)
    active = tuple((name, step) for name, step in steps.items() if step is not None)
    jobs: dict[int, SessionJob] = {}
    outcomes: dict[int, Outcome] = {}
    for number, file in enumerate(files):
        try:
            inputs = _inputs(file, active, cache)
        except InvalidFile as error:
            outcomes[number] = Outcome({}, error=error)
            continue
        # Names are not part of the key, except where the conditions look at them.
        recipe_here = {**recipe, "task": file.task if conditions is not None else ""}
        jobs[number] = SessionJob(file, active, training_span, conditions, cache.root, recipe_here, inputs)
    for number, outcome in _run(jobs, n_workers):
        outcomes[number] = outcome
        _report(files[number], outcome, len(outcomes), len(files), on_error)
    rows = [_row(file, outcomes[number]) for number, file in enumerate(files)]
    _refuse(files, rows, outcomes, on_error, cache)
    _write_union(files, folder, outcomes, root)
    (folder / MANIFEST).write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    return rows


def _inputs(file: RecordingFile, steps: Sequence[tuple[str, Step]], cache: Cache) -> dict[str, str]:
    if not file.path.exists():
        raise InvalidFile("recording", file.path, "expected an existing file")
    # Relative to its own folder: a data set that was moved keeps its prepared sessions.
    inputs = {"file": cache.fingerprint_files(companions(file.path), file.path.parent)}
    for name, step in steps:
        for number, path in enumerate(getattr(step, "files", ())):
            inputs[f"{name}.{number}"] = cache.fingerprint_files([path], path.parent)
    return inputs


def _row(file: RecordingFile, outcome: Outcome) -> dict[str, Any]:
    names = {
        "file": str(file.path), "session": file.name, "subject": file.subject, "dataset": file.dataset,
        "task": file.task,
    }  # fmt: skip
    if outcome.error is not None:
        return {**names, "status": "failed", "error": str(outcome.error)}
    return {**names, **outcome.facts}


def _report(file: RecordingFile, outcome: Outcome, done: int, total: int, on_error: str) -> None:
    """One line per session."""
    facts = outcome.facts
    if outcome.error is not None:
        if on_error == "skip":  # else the error at the end says it
            log.warning("Session %s was not prepared: %s", file.name, outcome.error)
        text = "failed"
    elif facts["status"] == "discarded":
        text = f"left out: {_why(facts, hint=True)}"
    else:
        text = f"{facts['n_channels']} channels, {facts['duration_s']:.0f} s at {facts['sfreq_hz']:g} Hz"
    log.info("session %d/%d %s: %s (%.1f s)", done, total, file.name, text, outcome.seconds)
    for warning in facts.get("warnings", ()):
        log.warning("%s: %s", file.path.name, warning)


def _refuse(
    files: Sequence[RecordingFile],
    rows: list[dict[str, Any]],
    outcomes: Mapping[int, Outcome],
    on_error: str,
    cache: Cache,
) -> None:
    """Stop where something failed that must not, where nothing is left, or where rates differ."""
    errors = {str(files[n].path): o.error for n, o in sorted(outcomes.items()) if o.error is not None}
    prepared = [row for row in rows if row["status"] == "prepared"]
    if errors and (on_error == "raise" or not prepared):
        kept = _keep_manifest(rows, cache)
        hint = "data.on_error=skip goes on without" if prepared else "data.include chooses other files"
        hint += f"; every session's fate is in {kept}"
        if len(errors) == 1:
            (error,) = errors.values()
            raise type(error)(
                error.name, error.value, error.expected, where=", ".join(filter(None, (error.where, "data.root"))),
                hint=f"{error.hint}; {hint}" if error.hint else hint,
            )  # fmt: skip
        reasons = [f"{file}: {error.expected}" for file, error in errors.items()]
        more = f"; and {len(reasons) - _LISTED} more" if len(reasons) > _LISTED else ""
        raise InvalidFile(
            "recordings", f"{len(errors)} of {len(rows)}", f"cannot be used: {'; '.join(reasons[:_LISTED])}{more}",
            where="data.root", hint=hint,
        )  # fmt: skip
    if not prepared:
        reasons = [f"{row['session']}: {_why(row)}" for row in rows]
        more = f"; and {len(reasons) - _LISTED} more" if len(reasons) > _LISTED else ""
        raise InvalidFile(
            "recordings", f"0 of {len(rows)}",
            f"expected at least one usable session, all were left out ({'; '.join(reasons[:_LISTED])}{more})",
            where="data.root",
            hint=f"{rows[0].get('hint') or 'the steps under data.steps judge them'}; details are in"
            f" {_keep_manifest(rows, cache)}",
        )  # fmt: skip
    rates: dict[float, str] = {}
    for row in prepared:
        if not any(math.isclose(row["sfreq_hz"], rate, rel_tol=_RATE_TOLERANCE) for rate in rates):
            rates[row["sfreq_hz"]] = Path(row["file"]).name
    if len(rates) > 1:
        listed = ", ".join(f"{rate:g} Hz ({name})" for rate, name in list(rates.items())[:_LISTED])
        raise InvalidValue(
            "data.steps.resample", None, f"expected a resample step, because the recordings' rates differ: {listed}",
            hint=f"data.steps.resample with sfreq_hz={min(rates):g} brings all to one rate",
        )  # fmt: skip


def _keep_manifest(rows: list[dict[str, Any]], cache: Cache) -> Path:
    """Write the manifest where a failed build does not take it along."""
    content = json.dumps(rows, indent=1, ensure_ascii=False)
    path = cache.root / "manifests" / f"{hashlib.sha256(content.encode()).hexdigest()[:16]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    return path


def _write_union(
    files: Sequence[RecordingFile], folder: Path, outcomes: Mapping[int, Outcome], root: Path | str | None
) -> None:
    above = None if root is None else Path(root).expanduser().absolute()
    with StoreWriter(folder) as writer:
        for number, file in enumerate(files):
            source = outcomes[number].folder
            if source is None:
                continue
            path = file.path.absolute()
            inside = above is not None and path.is_relative_to(above)
            names = {
                "subject": file.subject,
                "dataset": file.dataset,
                "task": file.task,
                "recording": file.session,
                "file": path.relative_to(above).as_posix() if inside and above is not None else path.name,
            }
            writer.adopt(Store(source).sessions[0], file.name, names)


def manifest_table(rows: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], tuple[tuple[Any, ...], ...]]:
    """Header and cells of the manifest, for a report."""
    header = ("session", "status", "channels", "seconds", "bad channels", "usable s", "why")
    cells = tuple(
        (
            row["session"],
            "imported" if _is_imported(row) else row["status"],
            row.get("n_channels", ""),
            row.get("duration_s", ""),
            ", ".join([*row.get("bads", ()), *row.get("interpolated", ())]),
            row.get("usable_s", ""),
            "; ".join(filter(None, (_why(row, hint=True) or row.get("error"), *row.get("warnings", ())))),
        )
        for row in rows
    )
    return header, cells


def _why(row: Mapping[str, Any], *, hint: bool = False) -> str:
    """Why a session was left out: the reason's code and its words; empty for others."""
    text = ": ".join(filter(None, (row.get("reason"), row.get("words"))))
    return f"{text}. Hint: {row['hint']}" if hint and text and row.get("hint") else text


def _is_imported(row: Mapping[str, Any]) -> bool:
    """Whether a session came prepared from an older system."""
    return row["status"] == "prepared" and any(step["step"] == "import_chunks" for step in row.get("steps", ()))


def _run(jobs: Mapping[int, SessionJob], n_workers: int) -> Iterator[tuple[int, Outcome]]:
    """Outcomes as they come; sessions that the cache has already start no process."""
    waiting: dict[int, SessionJob] = {}
    for number, job in jobs.items():
        if n_workers == 1 or job.is_cached:
            yield number, _checked(prepare_into_cache(job))
        else:
            waiting[number] = job
    if len(waiting) == 1:
        ((number, job),) = waiting.items()
        yield number, _checked(prepare_into_cache(job))
    elif waiting:
        for number, outcome in in_processes(prepare_into_cache, waiting, min(n_workers, len(waiting))):
            yield number, _checked(outcome or _killed(waiting[number]))


def _checked(outcome: Outcome) -> Outcome:
    """A full or unwritable cache is no session's fault: it ends everything at once."""
    if outcome.error is not None and outcome.error.name == "cache":
        raise outcome.error
    return outcome


def _killed(job: SessionJob) -> Outcome:
    return Outcome({}, error=InvalidFile(
        "recording", job.file.path, "expected a process to prepare it, but one was killed",
        hint="memory may be short: data.prepare_workers=1 prepares one session at a time",
    ))  # fmt: skip
