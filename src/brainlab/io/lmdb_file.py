"""Opening LMDB environments for reading: shared within a process, usable after a fork, refused when truncated."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import lmdb

from brainlab.errors import InvalidFile

__all__ = ["check_lmdb", "open_readonly"]

_META_MAGIC = 0xBEEFC0DE
_PAGE_HEADER = 16
_META = struct.Struct("<II Q Q 48s 48s Q Q")
_open: WeakValueDictionary[str, Any] = WeakValueDictionary()


def check_lmdb(path: Path | str) -> Path:
    """The data file of an environment (a folder, or a single file), after comparing its size with its meta page.

    LMDB maps the file into memory, so reading past the end of a truncated copy would kill the process instead of
    raising an error; this looks before anything is mapped.

    Raises:
        InvalidFile: if it is missing, no LMDB file, or shorter than its own meta page promises.
    """
    path = Path(path)
    data = path / "data.mdb" if path.is_dir() else path
    try:
        with open(data, "rb") as stream:
            start = stream.read(_PAGE_HEADER + _META.size)
            first = _meta(start)
            second = None
            if first is not None:
                stream.seek(first[0])
                second = _meta(stream.read(_PAGE_HEADER + _META.size))
            size = os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise InvalidFile("lmdb", data, f"expected a readable LMDB file ({error.strerror})") from None
    if first is None or second is None:
        raise InvalidFile("lmdb", data, "expected an LMDB file, its first pages are something else or missing")
    page_size, last_page, _ = max(first, second, key=lambda meta: meta[2])
    needed = (last_page + 1) * page_size
    if size < needed:
        raise InvalidFile("lmdb", data, f"expected {needed} bytes, found {size}: the file is truncated")
    return data


def _meta(raw: bytes) -> tuple[int, int, int] | None:
    """Page size, last page in use and transaction number of one meta page."""
    if len(raw) < _PAGE_HEADER + _META.size:
        return None
    magic, version, _, _, free, _, last_page, transaction = _META.unpack_from(raw, _PAGE_HEADER)
    # Later library versions raise the data version only for what we do not use (encryption, checksums).
    if magic != _META_MAGIC or version & 0xFFFF not in (1, 2, 999):
        return None
    page_size = int.from_bytes(free[:4], "little")
    if page_size < 256 or page_size & (page_size - 1):
        return None
    return page_size, last_page, transaction


def open_readonly(path: Path | str) -> lmdb.Environment:
    """The environment at ``path`` for reading, without lock file, so that read-only folders work too.

    The same environment is handed out again within a process, because LMDB must not map one file twice there. A forked
    worker may go on using it: without a lock file there is no reader table that both would write to.

    Raises:
        InvalidFile: if it is missing, foreign or truncated.
    """
    path = Path(path)
    key = os.path.realpath(path)
    environment = _open.get(key)
    if environment is None:
        check_lmdb(path)
        try:
            environment = lmdb.open(
                str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False, max_readers=1
            )
        except lmdb.Error as error:
            raise InvalidFile("lmdb", path, f"expected a readable LMDB environment ({error})") from None
        _open[key] = environment
    return environment
