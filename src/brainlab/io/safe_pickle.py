"""Reading foreign pickles without running them.

A pickle is a program. These readers let it build only numpy arrays, scalars and Python's plain containers (and, on
request, pandas frames); every other global that it names is refused before it is imported. That covers the ``.npy``
files of public data sets that hold a dictionary, and pickles that merely carry that extension.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from brainlab.errors import InvalidFile
from brainlab.io.restricted import MappingUnpickler, Refused, RestrictedUnpickler

__all__ = ["load_npy", "load_pickle", "loads_pickle"]

_MAGIC = b"\x93NUMPY"


def _unpickle(stream: IO[bytes], name: str, where: Path | str, pandas: bool, memory_map: bool = False) -> Any:
    try:
        if memory_map:
            return MappingUnpickler(stream, where).load()
        return RestrictedUnpickler(stream, pandas=pandas).load()
    except Refused as refused:
        raise InvalidFile(
            name,
            where,
            f"expected only arrays and plain containers, but the pickle asks for {refused}; nothing of it was run",
            hint="do not open this file with pickle or numpy, which would run what it asks for",
        ) from None
    except MemoryError:
        raise
    except Exception as error:
        reason = "it ends too early" if isinstance(error, EOFError) or "truncated" in str(error) else str(error)
        raise InvalidFile(name, where, f"expected a complete pickle ({reason or type(error).__name__})") from None


def loads_pickle(content: bytes | memoryview, where: Path | str, *, pandas: bool = False) -> Any:
    """Read a pickle held in memory; ``where`` names its place in errors.

    Raises:
        InvalidFile: if it is damaged or asks for anything but arrays and plain containers.
    """
    return _unpickle(io.BytesIO(content), "pickle", where, pandas)


def load_pickle(path: Path | str, *, pandas: bool = False) -> Any:
    """Read a pickle file.

    Args:
        path: the file.
        pandas: also let it build pandas frames.

    Raises:
        InvalidFile: if it is missing, damaged, or asks for anything but arrays and plain containers.
    """
    return _opened(path, lambda stream: _unpickle(stream, "pickle", path, pandas))


def load_npy(path: Path | str, *, memory_map: bool = False) -> Any:
    """Read a file called ``.npy``, whatever it really holds.

    A plain array, an array of objects, a 0-d object array (its one object is returned, as ``.item()`` would), or a
    bare pickle without numpy's header.

    Args:
        path: the file.
        memory_map: leave a plain array, or the large arrays inside a pickle, on disk as read-only memory maps.

    Raises:
        InvalidFile: if it is missing, truncated, or asks for anything but arrays and plain containers.
    """
    return _opened(path, lambda stream: _read_npy(stream, Path(path), memory_map))


def _opened(path: Path | str, read: Callable[[IO[bytes]], Any]) -> Any:
    try:
        with open(path, "rb") as stream:
            return read(stream)
    except OSError as error:
        raise InvalidFile("file", path, f"expected a readable file ({error.strerror or error})") from None


def _read_npy(stream: IO[bytes], path: Path, memory_map: bool) -> Any:
    start = stream.read(len(_MAGIC))
    stream.seek(0)
    if start != _MAGIC:
        if not start:
            raise InvalidFile("npy", path, "expected an array or a pickle, the file is empty")
        if start[:1] != b"\x80" and start[:1] not in b"(cd}]l":
            raise InvalidFile("npy", path, "expected numpy's header or a pickle")
        return _unpickle(stream, "npy", path, pandas=False, memory_map=memory_map)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version in read_header:
            shape, fortran, dtype = read_header[version](stream)
        else:
            shape, fortran, dtype = np.lib.format._read_array_header(stream, version)  # type: ignore[attr-defined]
    except (ValueError, EOFError, TypeError) as error:
        raise InvalidFile("npy", path, f"expected a whole numpy header ({error})") from None
    if dtype.hasobject:
        content = _unpickle(stream, "npy", path, pandas=False, memory_map=memory_map)
        if not isinstance(content, np.ndarray):
            raise InvalidFile("npy", path, f"expected an array, the pickle holds a {type(content).__name__}")
        return content.item() if shape == () and content.size == 1 else content.reshape(shape)
    offset = stream.tell()
    expected = offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    found = path.stat().st_size
    if found < expected:
        raise InvalidFile("npy", path, f"expected {expected} bytes for an array of shape {shape}, found {found}")
    order = "F" if fortran else "C"
    if memory_map and 0 not in shape and shape:
        return np.memmap(path, dtype, "r", offset, shape, order)  # type: ignore[call-overload]
    flat = np.fromfile(stream, dtype, count=int(np.prod(shape, dtype=np.int64)))
    return flat.reshape(shape, order=order)  # type: ignore[call-overload]
