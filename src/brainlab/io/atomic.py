"""Files and folders that appear whole or not at all, also when the machine stops halfway."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

__all__ = ["disk_full", "fsync_tree", "is_disk_full", "naming", "new_folder", "overwrite", "write_atomically"]

_TEMPORARY = ".tmp-"
_ALMOST_NOTHING = 64 * 1024


def fsync_path(path: Path) -> None:
    """Flush one file, or the entries of one folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and FUSE file systems refuse fsync on folders; the rename is then as durable as they allow.
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EACCES):
            raise
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    """Flush every file and folder under ``folder``, so that a later rename never publishes empty files."""
    for current, _, names in os.walk(folder):
        for name in names:
            path = Path(current, name)
            if not path.is_symlink():
                fsync_path(path)
        fsync_path(Path(current))


def write_atomically(path: Path | str, content: bytes | str) -> None:
    """Write a file through a temporary sibling and a rename: readers see the old content or the new, never a part.

    Raises:
        OSError: if the disk is full or the folder is not writable; the temporary file is removed.
    """
    path = Path(path)
    raw = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}{_TEMPORARY}{secrets.token_hex(4)}")
    try:
        with naming(path):
            with open(temporary, "wb") as stream:
                stream.write(raw)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
            fsync_path(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def overwrite(path: Path | str, text: str) -> None:
    """Write over a text file on a disk without room for a copy; spaces fill it up to the size that it had.

    Raises:
        OSError: if it does not exist, or its blocks do not suffice; it then holds what it held, and spaces.
    """
    raw = text.encode("utf-8")
    with open(path, "r+b", buffering=0) as stream:
        missing = len(raw) - stream.seek(0, os.SEEK_END)
        if missing > 0 and stream.write(b" " * missing) < missing:
            raise disk_full(path)
        stream.seek(0)
        stream.write(raw + b" " * -missing)
        os.fsync(stream.fileno())


@contextlib.contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Errors of writing to an open file do not say which: name it where the operating system does not."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def new_folder(target: Path | str) -> Iterator[Path]:
    """Fill a temporary folder beside ``target``, which takes that name when the block ends without an error.

    Raises:
        FileExistsError: if ``target`` exists already and is not an empty folder.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}{_TEMPORARY}{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        yield temporary
        fsync_tree(temporary)
        os.rename(temporary, target)
        fsync_path(target.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if error.errno == errno.ENOTEMPTY:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def disk_full(path: Path | str) -> OSError:
    """The operating system's error for a full disk, naming ``path``."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def is_disk_full(error: BaseException, folder: Path | str) -> bool:
    """Whether ``error``, or what caused it, means that the disk under ``folder`` is full.

    Libraries hide the error number: numpy reports a short write, LMDB and torch a text of their own. So the chain of
    causes is searched, and a disk without free blocks counts too.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        text = str(seen)
        if "No space left on device" in text or "quota exceeded" in text.lower():
            return True
        if isinstance(seen, OSError) and re.search(r"\d+ requested and \d+ written|Not enough free space", text):
            return True
        seen = seen.__cause__ or seen.__context__
    try:
        return shutil.disk_usage(folder).free < _ALMOST_NOTHING
    except OSError:
        return False
