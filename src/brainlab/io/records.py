"""Paired examples of fixed shape in LMDB: typed raw buffers and a JSON header, no pickle.

Every field of the schema is a column; a column is cut into blocks of equally many examples, and each block is one
LMDB value of raw little-endian numbers. A batch is copied once, from the memory map into its contiguous array.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from brainlab.errors import InvalidFile, InvalidValue, ShapeMismatch
from brainlab.io.atomic import disk_full, is_disk_full
from brainlab.io.buffers import BufferPool
from brainlab.io.lmdb_file import open_readonly

__all__ = ["Records", "Schema", "write_records"]

Schema = Mapping[str, tuple[Any, Sequence[int]]]

_FORMAT = "brainlab-records"
_VERSION = 1
_HEADER = b"header"
_BLOCK_BYTES = 8 << 20


def _block_key(field: str, block: int) -> bytes:
    return f"block/{field}/{block:08d}".encode()


def write_records(
    path: Path | str,
    schema: Schema,
    rows: Mapping[str, np.ndarray] | Iterable[Mapping[str, Any]],
    header: Mapping[str, Any] | None = None,
    splits: Mapping[str, int | Sequence[int] | np.ndarray] | None = None,
) -> Path:
    """Write a set of records.

    Args:
        path: folder of the new environment.
        schema: field → (dtype, shape of one example).
        rows: columns with one entry per example, or an iterable of examples; stored in the schema's dtype.
        header: JSON-ready facts (subjects, rate, units …).
        splits: part → example numbers, or part → count (consecutive, in this order).

    Returns:
        ``path``.

    Raises:
        ShapeMismatch: if an example or column does not have the schema's shape.
        InvalidValue: if the fields differ from the schema, a float is not finite, or a split is out of range.
        OSError: if the disk is full.
    """
    import lmdb

    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    if (path / "data.mdb").exists():
        raise InvalidValue("path", path, "expected a folder without records")
    fields = {name: (_little(dtype), tuple(int(n) for n in shape)) for name, (dtype, shape) in schema.items()}
    if not fields:
        raise InvalidValue("schema", "{}", "expected at least one field")
    per_example = sum(dtype.itemsize * int(np.prod(shape)) for dtype, shape in fields.values())
    block = max(1, _BLOCK_BYTES // max(per_example, 1))
    environment = lmdb.open(str(path), map_size=1 << 24, sync=False, metasync=False, max_readers=1, lock=False)
    try:
        n = 0
        for number, columns in enumerate(_blocks(rows, fields, block)):
            count = len(next(iter(columns.values())))
            _put(environment, {_block_key(name, number): column.tobytes() for name, column in columns.items()})
            n += count
        parts = _parts(splits or {}, n)
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "n": n,
            "block": block,
            "schema": {name: [dtype.str, list(shape)] for name, (dtype, shape) in fields.items()},
            "splits": {part: len(numbers) for part, numbers in parts.items()},
            "header": dict(header or {}),
        }
        items = {f"split/{part}".encode(): numbers.astype("<i8").tobytes() for part, numbers in parts.items()}
        try:
            items[_HEADER] = json.dumps(content, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise InvalidValue("header", header, f"expected JSON values ({error})") from None
        _put(environment, items)
        environment.sync(True)
    except lmdb.Error as error:
        if is_disk_full(error, path):  # LMDB calls a short write an input/output error
            raise disk_full(path) from error
        raise
    finally:
        environment.close()
    return path


def _put(environment: Any, items: Mapping[bytes, bytes]) -> None:
    """One transaction; the map grows with the data, so that no size has to be guessed."""
    import lmdb

    while True:
        try:
            with environment.begin(write=True) as transaction:
                for key, value in items.items():
                    transaction.put(key, value)
            return
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()["map_size"])


def _little(dtype: Any) -> np.dtype[Any]:
    kind = np.dtype(dtype)
    if kind.hasobject or kind.kind not in "biufc":
        raise InvalidValue("dtype", kind, "expected a boolean, integer, float or complex type")
    return kind.newbyteorder("<")


def _blocks(
    rows: Mapping[str, np.ndarray] | Iterable[Mapping[str, Any]],
    fields: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]],
    block: int,
) -> Iterable[dict[str, np.ndarray]]:
    if isinstance(rows, Mapping):
        _same_fields(rows, fields)
        lengths = {name: len(column) for name, column in rows.items()}
        n = next(iter(lengths.values()))
        for name, length in lengths.items():
            if length != n:
                raise ShapeMismatch(name, length, f"expected {n} examples as in the other columns")
        for start in range(0, n, block):
            yield {name: _typed(name, rows[name][start : start + block], *fields[name], start) for name in fields}
        return
    waiting: list[Mapping[str, Any]] = []
    start = 0
    for row in rows:
        _same_fields(row, fields)
        waiting.append(row)
        if len(waiting) == block:
            yield _stacked(waiting, fields, start)
            start += len(waiting)
            waiting = []
    if waiting:
        yield _stacked(waiting, fields, start)


def _stacked(rows: list[Mapping[str, Any]], fields: Any, start: int) -> dict[str, np.ndarray]:
    columns = {}
    for name, (dtype, shape) in fields.items():
        for place, row in enumerate(rows):
            if np.shape(row[name]) != shape:
                raise ShapeMismatch(name, np.shape(row[name]), f"expected {shape} (example {start + place})")
        columns[name] = _typed(name, np.stack([np.asarray(row[name]) for row in rows]), dtype, shape, start)
    return columns


def _same_fields(row: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    if set(row) != set(fields):
        raise InvalidValue("fields", ", ".join(sorted(row)), f"expected {', '.join(sorted(fields))}")


def _typed(name: str, values: Any, dtype: np.dtype[Any], shape: tuple[int, ...], start: int) -> np.ndarray:
    array = np.asarray(values)
    if array.shape[1:] != shape:
        raise ShapeMismatch(name, array.shape[1:], f"expected {shape} per example")
    if array.dtype.kind in "fc" and not np.isfinite(array).all():
        example = int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[0])
        raise InvalidValue(name, "not finite", f"expected finite numbers (example {start + example})")
    return np.ascontiguousarray(array, dtype=dtype)


def _parts(splits: Mapping[str, int | Sequence[int] | np.ndarray], n: int) -> dict[str, np.ndarray]:
    parts, start = {}, 0
    for part, value in splits.items():
        if isinstance(value, (int, np.integer)):
            numbers = np.arange(start, start + int(value))
            start += int(value)
        else:
            numbers = np.asarray(value, dtype=np.int64)
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= n):
            raise InvalidValue(f"splits.{part}", int(numbers.max()), f"expected example numbers below {n}")
        parts[part] = numbers
    return parts


class Records:
    """A set of records, opened for reading at first use in each process; safe to pickle and to fork.

    Args:
        path: folder of the environment.

    Raises:
        InvalidFile: if it is missing, truncated, or not one of ours.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._views: dict[str, list[np.ndarray]] | None = None
        self._pool = BufferPool(8)
        environment = open_readonly(self.path)
        with environment.begin() as transaction:
            raw = transaction.get(_HEADER)
        if raw is None:
            raise InvalidFile("records", self.path, "expected brainlab records, this LMDB has no header of ours")
        try:
            content = json.loads(raw)
            if content["format"] != _FORMAT or content["version"] != _VERSION:
                raise InvalidFile("records", self.path, f"expected format {_FORMAT} version {_VERSION}")
            self._n: int = content["n"]
            self._block: int = content["block"]
            self.header: dict[str, Any] = content["header"]
            self.schema: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
                name: (np.dtype(dtype), tuple(shape)) for name, (dtype, shape) in content["schema"].items()
            }
            with environment.begin() as transaction:
                self.splits: dict[str, np.ndarray] = {
                    part: np.frombuffer(transaction.get(f"split/{part}".encode()) or b"", "<i8").astype(np.int64)
                    for part in content["splits"]
                }
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, InvalidFile):
                raise
            raise InvalidFile("records", self.path, f"expected a header of ours ({error})") from None
        self._open()

    def __len__(self) -> int:
        return self._n

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_views": None, "_transaction": None}

    def gather(
        self, indices: Int[np.ndarray, " example"] | Sequence[int], fields: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """A batch: field → contiguous array (example, *shape).

        Args:
            indices: example numbers, in any order.
            fields: which of the schema's fields; default all.

        Raises:
            InvalidValue: if a number or field is unknown.
        """
        columns = self._open()
        numbers = np.asarray(indices, dtype=np.int64)
        if numbers.size and (numbers.min() < 0 or numbers.max() >= self._n):
            raise InvalidValue(
                "index", int(numbers.max()), f"expected example numbers from 0 below {self._n}", where=str(self.path)
            )
        blocks, places = np.divmod(numbers, self._block)
        rows = list(zip(blocks.tolist(), places.tolist(), strict=True))
        batch = {}
        for name in self.schema if fields is None else fields:
            if name not in self.schema:
                raise InvalidValue("field", name, f"expected one of {', '.join(self.schema)}", where=str(self.path))
            dtype, shape = self.schema[name]
            out = self._pool.empty((len(rows), *shape), dtype)
            views = columns[name]
            for row, (block, place) in enumerate(rows):
                out[row] = views[block][place]
            batch[name] = out
        return batch

    def _open(self) -> dict[str, list[np.ndarray]]:
        if self._views is not None:
            return self._views
        # The map stays as it is while nobody writes, so one read transaction serves for the life of the process.
        self._transaction = open_readonly(self.path).begin(buffers=True)
        columns = {}
        for name, (dtype, shape) in self.schema.items():
            views = []
            for number, start in enumerate(range(0, self._n, self._block)):
                count = min(self._block, self._n - start)
                value = self._transaction.get(_block_key(name, number))
                if value is None or len(value) != count * dtype.itemsize * int(np.prod(shape)):
                    raise InvalidFile("records", self.path, f"expected block {number} of {name} with {count} examples")
                views.append(np.frombuffer(value, dtype).reshape(count, *shape))
            columns[name] = views
        self._views = columns
        return columns
