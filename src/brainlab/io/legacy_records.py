"""Old LMDB sets whose values are pickles, as earlier alignment and pretraining code wrote them: reader and converter.

Three schemas are understood: EEG–fMRI pairs (``meta_info`` and keys ``<split>_<pair>_<combination>``), EEG–CLIP pairs
of the same form, and pretraining sets with a key list under ``__keys__``. Values pass the restricted unpickler, so a
set from elsewhere cannot run code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from brainlab.errors import InvalidFile
from brainlab.io.lmdb_file import open_readonly
from brainlab.io.records import write_records
from brainlab.io.safe_pickle import loads_pickle

__all__ = ["LegacyRecords", "convert_legacy"]

_META = b"meta_info"
_KEYS = b"__keys__"
_KEY = re.compile(rb"^(train|val|test)_(\d{5,})_(\d{5,})$")
_PARTS = ("train", "val", "test")


class LegacyRecords:
    """An old set, opened for reading.

    Args:
        path: folder of the environment.

    Attributes:
        meta: the set's own description (empty for pretraining sets).
        keys: part → keys in byte order; a plain key list counts as train.

    Raises:
        InvalidFile: if it is missing, truncated, of another schema, or holds a pickle that asks for code.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.keys: dict[str, list[bytes]] = {part: [] for part in _PARTS}
        self.meta: dict[str, Any] = {}
        with open_readonly(self.path).begin() as transaction:
            meta, listed = transaction.get(_META), transaction.get(_KEYS)
            if listed is not None:
                self._listed(loads_pickle(listed, f"{self.path}, key __keys__"))
            elif meta is not None:
                self.meta = dict(loads_pickle(meta, f"{self.path}, key meta_info"))
                self._enumerated(transaction)
            else:
                raise InvalidFile("legacy records", self.path, "expected a key meta_info or __keys__")
        if not any(self.keys.values()):
            raise InvalidFile("legacy records", self.path, "expected at least one example")

    def _listed(self, listed: Any) -> None:
        parts = listed if isinstance(listed, dict) else {"train": listed}
        if set(parts) - set(_PARTS) or not all(isinstance(keys, list | tuple) for keys in parts.values()):
            raise InvalidFile("legacy records", self.path, "expected __keys__ to list the keys of train, val, test")
        for part, keys in parts.items():
            self.keys[part] = [key if isinstance(key, bytes) else str(key).encode() for key in keys]

    def _enumerated(self, transaction: Any) -> None:
        with transaction.cursor() as cursor:
            for part in _PARTS:
                prefix = f"{part}_".encode()
                if not cursor.set_range(prefix):
                    continue
                for key in cursor.iternext(keys=True, values=False):
                    if not key.startswith(prefix):
                        break
                    if _KEY.match(key):
                        self.keys[part].append(bytes(key))

    def __len__(self) -> int:
        return sum(len(keys) for keys in self.keys.values())

    def example(self, key: bytes) -> dict[str, Any]:
        """One example in the newest form of its schema.

        Pairs: ``eeg``, ``nsd_data`` (a list of subject, fmri, nsd_img_idx), ``label``, ``things_img_idx``; the older
        flat form is wrapped as one subject ``legacy_single_subject``. Pretraining: ``sample`` and, where there is
        one, ``label``.

        Raises:
            InvalidFile: naming file and key.
        """
        where = f"{self.path}, key {key.decode(errors='replace')}"
        with open_readonly(self.path).begin(buffers=True) as transaction:
            raw = transaction.get(key)
            if raw is None:
                raise InvalidFile("legacy records", where, "expected this key")
            value = loads_pickle(raw, where)
        if isinstance(value, np.ndarray):
            return {"sample": value}
        if not isinstance(value, dict):
            raise InvalidFile("legacy records", where, f"expected an array or a dictionary, not {type(value).__name__}")
        if "sample" in value or "clip_H_cls_embedding" in value:
            return value
        if "nsd_data" not in value and "fmri" in value:
            entry = {"subject": "legacy_single_subject", "fmri": value["fmri"], "nsd_img_idx": value["nsd_img_idx"]}
            value = {name: value[name] for name in value if name not in ("fmri", "nsd_img_idx")} | {"nsd_data": [entry]}
        missing = {"eeg", "things_img_idx"} - set(value)
        if missing:
            raise InvalidFile("legacy records", where, f"expected the field {sorted(missing)[0]}")
        return value

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for keys in self.keys.values():
            for key in keys:
                yield self.example(key)


def convert_legacy(path: Path | str, out: Path | str) -> Path:
    """Rewrite an old set as typed records; parts and the set's description are kept.

    Fields of pairs: ``eeg`` as stored, ``fmri`` (subject, …), ``nsd_img_idx`` (subject,), ``things_img_idx``,
    ``label``; the subjects' names stand in the header.

    Raises:
        InvalidFile: if examples differ in fields, shapes or subjects.
    """
    old = LegacyRecords(path)
    rows = (_flat(example) for example in old)
    first = next(rows)
    subjects = first.pop("subjects", None)
    schema = {
        name: ("<i8" if np.asarray(value).dtype.kind in "iub" else "<f4", np.shape(value))
        for name, value in first.items()
    }

    def typed() -> Iterator[dict[str, Any]]:
        yield first
        for row in rows:
            if row.pop("subjects", None) != subjects:
                raise InvalidFile("legacy records", path, f"expected the subjects {subjects} in every example")
            if {name: np.shape(value) for name, value in row.items()} != {name: schema[name][1] for name in schema}:
                raise InvalidFile("legacy records", path, "expected the same fields and shapes in every example")
            yield row

    header = {"converted_from": str(path), "meta": _plain(old.meta)}
    if subjects is not None:
        header["nsd_subjects"] = list(subjects)
    return write_records(
        out, schema, typed(), header=header, splits={part: len(keys) for part, keys in old.keys.items()}
    )


def _flat(example: dict[str, Any]) -> dict[str, Any]:
    row = {name: value for name, value in example.items() if name != "nsd_data"}
    entries = example.get("nsd_data")
    if entries is None:
        return row
    return row | {
        "subjects": tuple(str(entry["subject"]) for entry in entries),
        "fmri": np.stack([np.asarray(entry["fmri"]) for entry in entries]),
        "nsd_img_idx": np.asarray([entry["nsd_img_idx"] for entry in entries]),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value
