"""Content-hash cache: what was prepared once under a setting is found again, and never under another setting.

A result lives in ``<root>/<kind>/<key>``, where ``key`` is a hash of the step's kind, its recipe (settings and code
version) and the fingerprints of its inputs. It is written to a temporary folder beside that name under a file lock and
renamed when it is complete, so that eight sweep tasks starting together build it once, and a killed or failed build
leaves nothing that a reader could take for a result.

The manifest holds size, hash and time of every file. Whoever opens the result compares sizes and times, which costs
nothing; only a file whose time changed is hashed, once: an honest copy passes, overwritten data do not.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from brainlab import __version__
from brainlab.errors import InvalidFile, InvalidValue
from brainlab.io.atomic import fsync_path, fsync_tree, is_disk_full, write_atomically

__all__ = ["Cache", "canonical_json", "code_digest", "fingerprint_files"]

log = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_LOCK_HINT_S = 5.0
_ROOT_HINT = "point BRAINLAB_CACHE or paths.cache to a folder that has room and is writable"


def canonical_json(value: Any) -> str:
    """One spelling per content: sorted keys, no spaces, no NaN.

    Raises:
        InvalidValue: if the value holds something that JSON has no exact form for.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    except (TypeError, ValueError) as error:
        raise InvalidValue(
            "recipe",
            value,
            f"expected only strings, finite numbers, booleans, null, lists and string-keyed maps ({error})",
        ) from None


@lru_cache
def code_digest(*rooms: str) -> str:
    """A hash over the source files of brainlab's rooms (files or packages); of all of them without arguments.

    Part of a step's recipe, so that a result of older code is never taken for one of today's.

    >>> code_digest("signal") == code_digest("signal") != code_digest("io")
    True
    """
    package = Path(__file__).parents[1]
    paths = [package / room for room in rooms] or [package]
    files = sorted(file for path in paths for file in ([path] if path.is_file() else path.rglob("*.py")))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


class Cache:
    """Folders of prepared results under one root.

    Args:
        root: folder; created when something is first built.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).expanduser().absolute()

    def key(self, kind: str, recipe: Mapping[str, Any], inputs: Mapping[str, str] | None = None) -> str:
        """The 16 hexadecimal digits that name the result of this recipe on these inputs."""
        content = canonical_json({"kind": kind, "recipe": dict(recipe), "inputs": dict(inputs or {})})
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def path(self, kind: str, recipe: Mapping[str, Any], inputs: Mapping[str, str] | None = None) -> Path:
        """Where the result lies, or would lie."""
        return self.root / kind / self.key(kind, recipe, inputs)

    def has(self, kind: str, recipe: Mapping[str, Any], inputs: Mapping[str, str] | None = None) -> bool:
        """Whether the result is there."""
        return (self.path(kind, recipe, inputs) / _MANIFEST).is_file()

    def get(
        self,
        kind: str,
        recipe: Mapping[str, Any],
        inputs: Mapping[str, str] | None,
        build: Callable[[Path], None],
    ) -> Path:
        """The folder with this result; ``build(folder)`` fills it when it does not exist yet.

        Args:
            kind: sort of result, a plain folder name such as ``"things_eeg_epochs"``.
            recipe: every setting that the result depends on, JSON values, with the step's code version.
            inputs: name → fingerprint of every input.
            build: writes the result into the empty folder it is given.

        Raises:
            InvalidFile: if the disk is full, the root is not writable, or a stored result was damaged.
            Exception: whatever ``build`` raises; nothing of its work remains.
        """
        if not kind or "/" in kind or kind.startswith("."):
            raise InvalidValue("kind", repr(kind), "expected a plain folder name")
        target = self.path(kind, recipe, inputs)
        if (target / _MANIFEST).is_file():
            _check_files(target)
            return target
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            lock = self._lock(target)
        except OSError as error:
            raise self._refused(error) from error
        try:
            if not (target / _MANIFEST).is_file():
                self._sweep(target)
                self._build(target, kind, recipe, inputs or {}, build)
        finally:
            lock.release()
        _check_files(target)
        return target

    def fingerprint_files(self, paths: Iterable[Path | str], root: Path | str) -> str:
        """:func:`fingerprint_files`, remembered in this cache by size and times of each file."""
        return fingerprint_files(paths, root, memo=self.root / "fingerprints")

    def _lock(self, target: Path) -> FileLock:
        lock = FileLock(target.with_name(f".{target.name}.lock"))
        try:
            lock.acquire(timeout=_LOCK_HINT_S)
        except Timeout:
            log.info("Waiting for another run that prepares %s", target)
            lock.acquire()
        return lock

    def _build(
        self,
        target: Path,
        kind: str,
        recipe: Mapping[str, Any],
        inputs: Mapping[str, str],
        build: Callable[[Path], None],
    ) -> None:
        temporary = target.with_name(f".{target.name}.tmp-{secrets.token_hex(4)}")
        started = time.monotonic()
        try:
            temporary.mkdir()
            build(temporary)
            wall_s = time.monotonic() - started
            fsync_tree(temporary)  # before the times are noted: a network file system sets its own when it flushes
            manifest = {
                "kind": kind,
                "key": target.name,
                "recipe": dict(recipe),
                "inputs": dict(inputs),
                "brainlab": __version__,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "wall_s": round(wall_s, 3),
                "files": _sizes(temporary),
                "contents": _contents(temporary),
            }
            write_atomically(temporary / _MANIFEST, json.dumps(manifest, indent=1, sort_keys=True))
            if target.exists():  # a folder without a manifest is no result of ours
                shutil.rmtree(target)
            os.rename(temporary, target)
            fsync_path(target.parent)
        except BaseException as error:
            full = is_disk_full(error, target.parent)
            shutil.rmtree(temporary, ignore_errors=True)
            if full and isinstance(error, Exception):
                raise self._refused(error, full=True) from error
            raise

    def _sweep(self, target: Path) -> None:
        """Remove what killed builds left: temporary folders whose lock nobody else holds (``target``'s is ours)."""
        for leftover in target.parent.glob(".*.tmp-*"):
            owner = leftover.name.split(".tmp-")[0]
            if owner == f".{target.name}":
                shutil.rmtree(leftover, ignore_errors=True)
                continue
            try:
                with FileLock(target.parent / f"{owner}.lock", blocking=False):
                    shutil.rmtree(leftover, ignore_errors=True)
            except Timeout:
                continue

    def _refused(self, error: BaseException, full: bool = False) -> InvalidFile:
        if full or is_disk_full(error, self.root if self.root.exists() else self.root.anchor):
            return InvalidFile(
                "cache", self.root, "expected room to write, but the disk is full; nothing was kept", hint=_ROOT_HINT
            )
        reason = getattr(error, "strerror", None) or error
        return InvalidFile("cache", self.root, f"expected a writable folder ({reason})", hint=_ROOT_HINT)


def _sizes(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock.mdb"
    }


def _contents(folder: Path) -> dict[str, tuple[str, int]]:
    """Hash and time of every file; a store hashed its samples as it wrote or linked them."""
    from brainlab.io.store import known_hashes

    known = known_hashes(folder)
    return {
        name: (known.get(name) or _file_hash(folder / name, None), (folder / name).stat().st_mtime_ns)
        for name in _sizes(folder)
    }


def _check_files(folder: Path) -> None:
    manifest_path = folder / _MANIFEST
    hint = f"delete the folder {folder} and run again; it will be prepared anew"
    try:
        manifest = json.loads(manifest_path.read_text())
        files = {str(name): int(size) for name, size in manifest["files"].items()}
        # Results of earlier versions have no hashes: their sizes must do.
        written = {str(name): (str(sha), int(at)) for name, (sha, at) in manifest.get("contents", {}).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidFile("manifest", manifest_path, f"expected a readable manifest ({error})", hint=hint) from None
    touched = {}
    for name, size in files.items():
        try:
            found = os.stat(folder / name)
        except OSError:
            raise InvalidFile("cached file", folder / name, "expected it to exist", hint=hint) from None
        if found.st_size != size:
            raise InvalidFile("cached file", folder / name, f"expected {size} bytes, found {found.st_size}", hint=hint)
        if name in written and written[name][1] != found.st_mtime_ns:
            touched[name] = found.st_mtime_ns
    if not touched:
        return
    log.info("checking %d files of %s, changed or copied since they were written", len(touched), folder)
    for name in touched:
        sha, expected = _file_hash(folder / name, None, hint), written[name][0]
        if sha != expected:
            raise InvalidFile(
                "cached file", folder / name,
                f"expected the content that was written (sha256 {expected[:12]}…), found other (sha256 {sha[:12]}…)",
                hint=hint.replace(f"{folder}", " and ".join(map(str, _sharing(folder, name)))),
            )  # fmt: skip
    manifest["contents"] |= {name: (written[name][0], at) for name, at in touched.items()}
    try:
        write_atomically(manifest_path, json.dumps(manifest, indent=1, sort_keys=True))
    except OSError as error:  # a cache that others own is hashed at each start
        log.debug("The new times of %s were not remembered: %s", folder, error)


def _sharing(folder: Path, name: str) -> list[Path]:
    """This result and the others whose files are links to the same data: all of them are damaged."""
    number, others = (folder / name).stat().st_ino, []
    if (folder / name).stat().st_nlink > 1:
        manifests = sorted(folder.parents[1].glob(f"[!.]*/[!.]*/{_MANIFEST}"))
        others = [
            found.parent
            for found in manifests
            if found.parent != folder and any(path.lstat().st_ino == number for path in found.parent.rglob("*"))
        ]
    return [folder, *others]


def fingerprint_files(paths: Iterable[Path | str], root: Path | str, *, memo: Path | str | None = None) -> str:
    """Hash of the contents and relative names of files.

    Args:
        paths: the files; their order does not matter.
        root: folder that the names are taken relative to, so that a moved data set keeps its fingerprint.
        memo: folder that remembers the hash of each file by its size, times and inode.

    Returns:
        64 hexadecimal digits.

    Raises:
        InvalidFile: if a file is missing or unreadable.
    """
    root = Path(root).absolute()
    digest = hashlib.sha256()
    named = []
    for path in paths:
        path = Path(path).absolute()
        named.append((path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name, path))
    for name, path in sorted(named):
        digest.update(f"{name}\0{_file_hash(path, Path(memo) if memo is not None else None)}\n".encode())
    return digest.hexdigest()


def _file_hash(path: Path, memo: Path | None, hint: str | None = None) -> str:
    try:
        stat = path.stat()
        identity = [str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        note = memo / (hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:32] + ".txt") if memo else None
        if note is not None and note.is_file():
            known = note.read_text().strip()
            if len(known) == 64:
                return known
        with open(path, "rb") as stream:
            result = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InvalidFile("file", path, f"expected a readable file ({error.strerror or error})", hint=hint) from None
    # A file changed within the clock's grain would keep its times: only remember what has been at rest for a while.
    if note is not None and time.time() - max(stat.st_mtime, stat.st_ctime) > 2:
        try:
            note.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(note, result)
        except OSError as error:
            log.debug("The hash of %s was not remembered: %s", path, error)
    return result
