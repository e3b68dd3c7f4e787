"""The two unpicklers behind :mod:`brainlab.io.safe_pickle`, and the list of what a pickle may ask for."""

from __future__ import annotations

import collections
import os
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

__all__ = ["MappingUnpickler", "Refused", "RestrictedUnpickler"]

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
    ("pandas", "DataFrame"),
    ("pandas", "Series"),
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


def _filled(kind: Callable[..., Any]) -> Callable[..., Any]:
    """A container of what the pickle holds; a number or a range would make a few bytes fill the memory."""

    def make(*given: Any) -> Any:
        if any(isinstance(value, int | range) for value in given):
            raise pickle.UnpicklingError(f"{kind.__name__} of a length that it does not hold")
        return kind(*given)

    return make


_FILLED = ("bytearray", "bytes", "frozenset", "list", "set", "tuple")


def _allowed() -> dict[tuple[str, str], Any]:
    table: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("_codecs", "encode"): _latin1,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }
    for name in _BUILTINS:
        for module in ("builtins", "__builtin__"):
            kind = getattr(__import__("builtins"), name)
            table[module, name] = _filled(kind) if name in _FILLED else kind
    for core in ("numpy.core", "numpy._core"):
        table[f"{core}.multiarray", "_reconstruct"] = np.ndarray(0).__reduce__()[0]
        table[f"{core}.multiarray", "scalar"] = _scalar
        table[f"{core}.numeric", "_frombuffer"] = _from_buffer
    for name in _NUMPY_SCALARS:
        table["numpy", name] = getattr(np, name)
    return table


_ALLOWED = _allowed()


class Refused(Exception):
    """The pickle names a global that is not on the list."""


class RestrictedUnpickler(pickle.Unpickler):
    """Builds arrays, scalars and plain containers only.

    Raises:
        Refused: naming the global that was asked for; it was not imported.
    """

    def __init__(self, stream: IO[bytes], *, pandas: bool = False) -> None:
        # Python 2 wrote array bytes as text; latin1 gives every byte back. Python 3's pickles do not look at this.
        super().__init__(stream, encoding="latin1")
        self._pandas = pandas

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if self._pandas and (module, name) in _PANDAS:
            return super().find_class(module, name)
        raise Refused(f"{module}.{name}")

    def persistent_load(self, identity: Any) -> Any:
        raise Refused("a persistent object")


class _OnDisk:
    """Where the bytes of a large array lie in the file."""

    def __init__(self, offset: int, length: int) -> None:
        self.offset, self.length = offset, length


_MEMO = rb"(?:\x94|q.|r.{4})?"
_FRAME = rb"(?:\x95.{8})?"
# What follows the bytes of an array: they close the tuple of its state, which is then set.
_CLOSES_ARRAY = re.compile(rb"^" + _FRAME + _MEMO + rb"t" + _MEMO + rb"b", re.DOTALL)
_LARGE = 1 << 20


# The pure-Python implementation: the one in C offers no hook where bytes are read.
_PythonUnpickler: Any = vars(pickle)["_Unpickler"]


class MappingUnpickler(_PythonUnpickler):
    """Like :class:`RestrictedUnpickler`, but large arrays stay in the file as read-only memory maps.

    Public EEG sets come as pickles of 8 GB; this reads their dictionary in milliseconds. It builds on the standard
    library's own Python implementation, which is slow for many small objects and quick for few large arrays.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(_PythonUnpickler.dispatch)

    def __init__(self, stream: IO[bytes], path: Path | str) -> None:
        super().__init__(stream, encoding="latin1")
        self._stream, self._path = stream, path
        self._size = os.fstat(stream.fileno()).st_size

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        raise Refused(f"{module}.{name}")

    def persistent_load(self, identity: Any) -> Any:
        raise Refused("a persistent object")

    def _load_bytes(self, length: int) -> None:
        offset = self._stream.tell()
        in_frame = self._unframer.current_frame is not None
        if in_frame or length < _LARGE or offset + length > self._size:
            self.append(self.read(length))
            return
        self._stream.seek(offset + length)
        after = self._stream.read(24)
        closes_array = _CLOSES_ARRAY.match(after) is not None
        self._stream.seek(offset + length if closes_array else offset)
        self.append(_OnDisk(offset, length) if closes_array else self.read(length))

    def _load_binbytes(self) -> None:
        self._load_bytes(struct.unpack("<I", self.read(4))[0])

    def _load_binbytes8(self) -> None:
        self._load_bytes(struct.unpack("<Q", self.read(8))[0])

    def _load_build(self) -> None:
        state = self.stack[-1]
        if not (isinstance(state, tuple) and any(isinstance(part, _OnDisk) for part in state)):
            _PythonUnpickler.load_build(self)
            return
        array = self.stack[-2]
        if type(array) is not np.ndarray or len(state) != 5 or state[2].hasobject:
            raise pickle.UnpicklingError("large bytes where an array was expected")
        self.stack.pop()
        _, shape, dtype, fortran, raw = state
        if int(np.prod(shape, dtype=np.int64)) * dtype.itemsize != raw.length:
            raise pickle.UnpicklingError(f"{raw.length} bytes for an array of shape {shape}")
        mapped = np.memmap(self._path, dtype, "r", raw.offset, shape, "F" if fortran else "C")
        self.stack[-1] = mapped
        for number, known in self.memo.items():
            if known is array:
                self.memo[number] = mapped

    dispatch[pickle.BINBYTES[0]] = _load_binbytes
    dispatch[pickle.BINBYTES8[0]] = _load_binbytes8
    dispatch[pickle.BUILD[0]] = _load_build
