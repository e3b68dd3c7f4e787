"""One source of recordings: a data set's files (or its simulator) and the steps that prepare them."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from brainlab.datasets.recordings import RecordingFile, companions, recordings_of
from brainlab.errors import InvalidValue
from brainlab.io.cache import Cache, code_digest
from brainlab.io.legacy_chunks import convert_chunk_tree, is_chunk_tree
from brainlab.io.store import Store, StoreWriter
from brainlab.prepare.sessions import MANIFEST, prepare_store, recipe_of_steps
from brainlab.types import DataSource

__all__ = ["DatasetFiles", "Simulator", "Source", "manifest_of", "prepare_source", "unite"]

log = logging.getLogger(__name__)

Span = Callable[[RecordingFile, int, float], tuple[int, int]]
OnError = Literal["raise", "skip"]


class DatasetFiles(Protocol):
    """What a source needs of a data set: its recordings and, where it has any, their conditions."""

    name: str

    def find(self, root: str | Path, include: str | Sequence[str] = "*") -> list[RecordingFile]: ...


class Simulator(Protocol):
    """Writes recordings in a data set's own layout."""

    def write(self, folder: Path, size: str) -> Any: ...

    def recipe(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Source:
    """Recordings of one data set and how they are prepared.

    Args:
        dataset: knows where the files are and what they mean.
        simulator: writes them where there is no root.
        root: folder of the data set; null simulates.
        include: glob pattern or patterns below ``root``.
        subject: recordings of this person only, by name or number.
        steps: ordered, by name; a step that is null is left out.
    """

    dataset: Any
    simulator: Any = None
    root: str | None = None
    include: str | Sequence[str] = "*"
    subject: str | int | None = None
    steps: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.root is None and self.include not in ("*", ["*"], ("*",)):
            raise InvalidValue(
                "data.include", self.include,
                "expected data.root with it, since data.root=null runs on simulated recordings",
            )  # fmt: skip
        if self.root is None and self.simulator is None:
            raise InvalidValue("data.root", None, "expected a folder of recordings, since nothing simulates them")
        for name, step in self.steps.items():
            if step is None:
                continue
            if not callable(step):
                raise InvalidValue(f"data.steps.{name}", step, "expected a step with _target_, or null")
            if not dataclasses.is_dataclass(step) or isinstance(step, type):
                raise InvalidValue(
                    f"data.steps.{name}", type(step).__name__,
                    "expected a dataclass that changes a session in place when called; its fields are its settings",
                )  # fmt: skip

    @property
    def kind(self) -> DataSource:
        """Whether the recordings come from files or from the simulator."""
        return "synthetic" if self.root is None else "files"


def prepare_source(
    source: Source,
    cache: Cache,
    *,
    size: str,
    training_span: Any,
    on_error: OnError = "raise",
    n_workers: int = 1,
) -> Path:
    """The prepared store of a source, built where the cache does not have it.

    Returns:
        folder of the store, with its manifest beside it.

    Raises:
        InvalidFile: recordings failed and ``on_error`` is "raise", or nothing is left.
    """
    folder = Path(source.root).expanduser() if source.root is not None else _simulated(source, cache, size)
    if source.root is not None and is_chunk_tree(folder):
        return _imported(source, cache, folder, on_error)
    files = source.dataset.find(folder, source.include)
    if source.subject is not None:
        files = recordings_of(source.subject, files)
    steps = {name: step for name, step in source.steps.items() if step is not None}
    conditions = getattr(source.dataset, "conditions", None)
    recipe = {
        "sessions": [[file.name, file.subject, file.session, file.task, file.dataset] for file in files],
        "on_error": on_error,
        **recipe_of_steps(steps, training_span, conditions),
    }

    def prepare(target: Path) -> None:
        prepare_store(
            files,
            target,
            steps,
            cache=cache,
            training_span=training_span,
            conditions=conditions,
            n_workers=n_workers,
            on_error=on_error,
            root=folder,
        )

    return cache.get("recordings", _plain(recipe), _contents([file.path for file in files], cache, folder), prepare)


def _contents(paths: Sequence[Path], cache: Cache, folder: Path) -> dict[str, str]:
    """Fingerprints of recordings; one that cannot be read stands for itself and fails alone, later.

    Trees that another program fills hold links to files that were never fetched.
    """
    parts: set[Path] = set()
    unreadable = {}
    for path in paths:
        try:
            own = companions(path)
            for part in own:
                with part.open("rb"):
                    pass
        except OSError as error:
            unreadable[f"unreadable {path.relative_to(folder)}"] = error.strerror or type(error).__name__
        else:
            parts.update(own)
    return {"files": cache.fingerprint_files(sorted(parts), folder), **unreadable}


def _imported(source: Source, cache: Cache, folder: Path, on_error: OnError) -> Path:
    """The store of a tree of pickled chunks, which an older system has prepared: no step is applied again."""
    if source.include not in ("*", ["*"], ("*",)) or source.subject is not None:
        name = "data.subject" if source.subject is not None else "data.include"
        raise InvalidValue(
            name, source.subject if source.subject is not None else source.include,
            "expected nothing but the default, since a tree of prepared chunks is imported as a whole",
        )  # fmt: skip
    log.info("%s holds recordings that were prepared before: they are imported, data.steps is not applied", folder)

    def build(target: Path) -> None:
        note = {"note": "imported; data.steps was not applied"}
        rows = [{**row, **note} for row in convert_chunk_tree(folder, target, on_error=on_error)]
        (target / MANIFEST).write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")

    parts = sorted(path for path in folder.glob("*/*.npy") if not path.parent.name.startswith("."))
    inputs = _contents(parts, cache, folder)
    recipe = {"import": "chunks", "name": folder.resolve().name, "on_error": on_error, "code": code_digest("io")}
    return cache.get("recordings", recipe, inputs, build)


def _simulated(source: Source, cache: Cache, size: str) -> Path:
    if size not in ("tiny", "default"):
        raise InvalidValue("data.size", size, "expected tiny or default")
    recipe = {"size": size, **source.simulator.recipe()}
    return cache.get(
        f"{source.dataset.name}_simulated", _plain(recipe), {}, lambda target: source.simulator.write(target, size)
    )


def unite(folders: Mapping[str, Path], cache: Cache) -> Path:
    """One store of the sessions of several; names get their source's name in front, ``dataset`` becomes it."""
    if len(folders) == 1:
        return next(iter(folders.values()))
    stores = {name: Store(folder) for name, folder in folders.items()}

    def build(target: Path) -> None:
        with StoreWriter(target) as writer:
            for name, store in stores.items():
                for session in store.sessions:
                    writer.adopt(session, f"{name}_{session.name}", {"dataset": name})
        rows = [
            {**row, "session": f"{name}_{row['session']}", "dataset": name}
            for name, folder in folders.items()
            for row in manifest_of(folder)
        ]
        (target / MANIFEST).write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")

    inputs = {name: store.fingerprint for name, store in stores.items()}
    return cache.get("recordings_united", {"order": list(folders), "code": code_digest("io/store.py")}, inputs, build)


def manifest_of(folder: Path) -> list[dict[str, Any]]:
    """What became of every recording of a prepared store, in the order of the files."""
    rows: list[dict[str, Any]] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return rows


def _plain(value: Any) -> Any:
    """JSON values only: settings may arrive as tuples, paths or dataclasses."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
