"""Reading foreign pickles without running them.

A pickle is a program. These readers let it build only numpy arrays, scalars and Python's plain containers (and, on
request, pandas frames); every other global that it names is refused before it is imported. That covers the ``.npy``
files of public data sets that hold a dictionary, and pickles that merely carry that extension.
"""

from __future__ import annotations

import collections
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from brainlab.errors import InvalidFile

__all__ = ["load_npy", "load_pickle", "loads_pickle"]

_MAGIC = b"\x93NUMPY"
_BUILTINS = (
    "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "range", "set",
    "slice", "str", "tuple",
)  # fmt: skip
_NUMPY_SCALARS = (
    "bool", "bool_", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32",
    "float64", "longdouble", "complex64", "complex128", "str_", "bytes_", "datetime64", "timedelta64",
)  # fmt: skip
_PANDAS = {
    ("pandas", "Index"),
    ("pandas", "RangeIndex"),
    ("pandas.core.frame", "DataFrame"),
    ("pandas.core.series", "Series"),
    ("pandas.core.indexes.base", "Index"),
    ("pandas.core.indexes.base", "_new_Index"),
    ("pandas.core.indexes.range", "RangeIndex"),
    ("pandas.core.indexes.numeric", "Int64Index"),
    ("pandas.core.internals.managers", "BlockManager"),
    ("pandas.core.internals.managers", "SingleBlockManager"),
    ("pandas.core.internals.blocks", "new_block"),
    ("pandas._libs.internals", "_unpickle_block"),
    ("pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked"),
    ("pandas.core.arrays.string_", "StringDtype"),
    ("pandas.core.arrays.string_", "StringArray"),
}


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    # Protocols 0–2 write bytes as _codecs.encode(text, "latin1"); no other codec is looked up for them.
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


def _scalar(dtype: np.dtype[Any], raw: Any = b"") -> Any:
    if dtype.hasobject:
        raise pickle.UnpicklingError("an object scalar")
    return np.frombuffer(raw.encode("latin1") if isinstance(raw, str) else raw, dtype, count=1)[0]


def _from_buffer(buffer: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: str, axis_order: Any = None) -> Any:
    if dtype.hasobject:
        raise pickle.UnpicklingError("objects in a raw buffer")
    flat = np.frombuffer(buffer, dtype)
    if order == "K" and axis_order is not None:
        return flat.reshape(shape, order="C").transpose(axis_order)
    return flat.reshape(shape, order=order)  # type: ignore[call-overload]


def _allowed() -> dict[tuple[str, str], Any]:
    table: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("_codecs", "encode"): _latin1,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }
    for name in _BUILTINS:
        for module in ("builtins", "__builtin__"):
            table[module, name] = getattr(__import__("builtins"), name)
    for core in ("numpy.core", "numpy._core"):
        table[f"{core}.multiarray", "_reconstruct"] = np.ndarray(0).__reduce__()[0]
        table[f"{core}.multiarray", "scalar"] = _scalar
        table[f"{core}.numeric", "_frombuffer"] = _from_buffer
    for name in _NUMPY_SCALARS:
        table["numpy", name] = getattr(np, name)
    return table


_ALLOWED = _allowed()


class _Refused(Exception):
    """The pickle names a global that is not on the list."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: IO[bytes], *, pandas: bool) -> None:
        # Python 2 wrote array bytes as text; latin1 gives every byte back. Python 3's pickles do not look at this.
        super().__init__(stream, encoding="latin1")
        self._pandas = pandas

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if self._pandas and (module, name) in _PANDAS:
            return super().find_class(module, name)
        raise _Refused(f"{module}.{name}")

    def persistent_load(self, identity: Any) -> Any:
        raise _Refused("a persistent object")


def _unpickle(stream: IO[bytes], name: str, where: Path | str, pandas: bool) -> Any:
    try:
        return _Unpickler(stream, pandas=pandas).load()
    except _Refused as refused:
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

    A plain array (memory-mapped on request), an array of objects, a 0-d object array (its one object is returned, as
    ``.item()`` would), or a bare pickle without numpy's header.

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
        return _unpickle(stream, "npy", path, pandas=False)
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
        content = _unpickle(stream, "npy", path, pandas=False)
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
