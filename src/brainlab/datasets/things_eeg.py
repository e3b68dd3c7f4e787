"""THINGS-EEG2: EEG of people who look at 16,740 pictures of objects (Gifford et al. 2022).

Where the files are, under one root:

* pictures: ``image_set/{training_images,test_images}/<NNNNN_concept>/<file>.jpg`` and ``image_set/image_metadata.npy``;
* epochs, in any of three containers, each with one folder per subject:

  ===============  ======================================================  ==========================================
  ``250hz``        ``Preprocessed_data_250Hz/sub-01/preprocessed_eeg_*``   63 channels × 250 samples from 0 s, a bare
                                                                           pickle that is named .npy
  ``250hz_white``  ``Preprocessed_data_250Hz_whiten/sub-01/*.pt``          the same whitened, a torch file, float16
  ``100hz``        ``project/eeg_dataset/preprocessed_data/sub-01/…``      17 channels × 100 samples from −0.2 s, a
                                                                           0-d object .npy
  ===============  ======================================================  ==========================================

Continuous recordings (``raw_data``) are not read here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, UInt8

from brainlab.errors import InvalidFile, InvalidValue, ShapeMismatch
from brainlab.io.safe_pickle import load_npy

__all__ = [
    "CHANNELS_17",
    "CHANNELS_63",
    "Container",
    "Epochs",
    "Float32View",
    "ImageIndex",
    "Part",
    "read_epochs",
    "read_image_index",
    "read_pictures",
    "subjects_present",
]

CHANNELS_63 = tuple(
    """
    Fp1 Fp2 AF7 AF3 AFz AF4 AF8 F7 F5 F3 F1 F2 F4 F6 F8 FT9 FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 FT8 FT10 T7 C5 C3 C1
    Cz C2 C4 C6 T8 TP9 TP7 CP5 CP3 CP1 CPz CP2 CP4 CP6 TP8 TP10 P7 P5 P3 P1 Pz P2 P4 P6 P8 PO7 PO3 POz PO4 PO8 O1
    Oz O2
    """.split()  # noqa: SIM905 – readable as a block
)
CHANNELS_17 = CHANNELS_63[CHANNELS_63.index("P7") :]

Part = Literal["training", "test"]
Container = Literal["250hz", "250hz_white", "100hz"]

_EPOCH_FOLDERS: dict[Container, tuple[str, ...]] = {
    "250hz": ("Preprocessed_data_250Hz",),
    "250hz_white": ("Preprocessed_data_250Hz_whiten",),
    "100hz": ("project/eeg_dataset/preprocessed_data", "eeg_dataset/preprocessed_data", "preprocessed_data"),
}
_N_CHANNELS: dict[Container, int] = {"250hz": 63, "250hz_white": 63, "100hz": 17}
_IMAGE_FOLDERS = ("image_set", "Image_set", "Image_set_Resize", "project/image_set")
_SPLIT_FOLDERS = {"train": ("training_images", "train_images"), "test": ("test_images",)}
_PICTURE_ENDINGS = {".jpg", ".jpeg", ".png"}


class Float32View:
    """An array of any float type that turns into float32 where it is read, so that no second copy is held.

    Supports ``shape``, ``len``, basic and integer-array indexing, and ``np.asarray`` (which does copy).
    """

    dtype = np.dtype(np.float32)

    def __init__(self, base: np.ndarray) -> None:
        self.base = base

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    @property
    def ndim(self) -> int:
        return self.base.ndim

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, key: Any) -> np.ndarray:
        return np.asarray(self.base[key], dtype=np.float32)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.base, dtype=dtype or np.float32, copy=True if copy is None else copy)


@dataclass(frozen=True)
class ImageIndex:
    """All pictures of the set, training before test, each part in the order of its paths.

    Attributes:
        paths: picture files; the position is the ``image_index``.
        concepts: what each picture shows: its folder's name after the first ``_``.
        split: ``"train"`` or ``"test"`` per picture.
        conditions: for ``"train"`` and ``"test"``, the image_index of condition i (row i of the epochs), from
            ``image_metadata.npy``; empty where that file is absent.
    """

    paths: tuple[Path, ...]
    concepts: tuple[str, ...]
    split: tuple[str, ...]
    conditions: Mapping[str, Int[np.ndarray, " condition"]]

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def image_index(self) -> Int[np.ndarray, " image"]:
        """0 … n − 1."""
        return np.arange(len(self.paths))

    @property
    def n_train(self) -> int:
        """Number of training pictures; they come first."""
        return self.split.count("train")


@dataclass(frozen=True)
class Epochs:
    """Trials of one subject and part.

    Attributes:
        data: (image, repetition, channel, time), float32 when indexed.
        ch_names: channel of each row.
        times_s: time of each sample after picture onset.
        image_index: position in :class:`ImageIndex` of the picture of each row of ``data``.
        sfreq_hz: sampling rate.
        amplitude_unit: ``"V"``, ``"uV"`` or ``"noise_sd"`` (whitened with the noise covariance). The files do not say;
            it is read off the amplitude: noise-normalised data have a spread near 1, EEG 5 to 100 µV.
        container: where it came from.
        path: the file.
    """

    data: Any
    ch_names: tuple[str, ...]
    times_s: Float[np.ndarray, " time"]
    image_index: Int[np.ndarray, " image"]
    sfreq_hz: float
    amplitude_unit: Literal["V", "uV", "noise_sd"]
    container: Container
    path: Path


def read_image_index(root: Path | str) -> ImageIndex:
    """List the pictures of the set.

    Raises:
        InvalidFile: if the root, a picture folder or its pictures are missing, or the metadata name a picture that is
            not there.
    """
    base, folders = _image_folders(_existing_root(root))
    paths: list[Path] = []
    split: list[str] = []
    for part, folder in folders.items():
        found = sorted(
            (p for p in folder.glob("*/*") if p.suffix.lower() in _PICTURE_ENDINGS),
            key=lambda p: (p.parent.name, p.name),
        )
        if not found:
            raise InvalidFile("images", folder, "expected pictures in <NNNNN_concept>/<file>.jpg, found none")
        odd = next((p for p in found if "_" not in p.parent.name), None)
        if odd is not None:
            raise InvalidFile("concept folder", odd.parent, "expected a name like 00001_aardvark")
        paths += found
        split += [part] * len(found)
    concepts = tuple(p.parent.name.split("_", 1)[1] for p in paths)
    metadata = base / "image_metadata.npy"
    conditions = _conditions(metadata, paths, split) if metadata.is_file() else {}
    return ImageIndex(tuple(paths), concepts, tuple(split), conditions)


def read_pictures(index: ImageIndex, which: Sequence[int], size: int) -> UInt8[np.ndarray, "image size size 3"]:
    """Pictures ``which`` of the index as RGB, scaled to ``size`` × ``size`` pixels (area average when shrinking).

    Raises:
        InvalidFile: if a picture cannot be decoded.
    """
    from PIL import Image

    pictures = np.empty((len(which), size, size, 3), np.uint8)
    for row, i in enumerate(which):
        path = index.paths[int(i)]
        try:
            with Image.open(path) as image:
                picture = image.convert("RGB")
                if picture.size != (size, size):
                    shrink = min(picture.size) >= size
                    picture = picture.resize((size, size), Image.Resampling.BOX if shrink else Image.Resampling.BICUBIC)
                pictures[row] = np.asarray(picture)
        except OSError as error:
            raise InvalidFile("image", path, f"expected a readable picture ({error})") from None
    return pictures


def subjects_present(root: Path | str, container: Container | None = None) -> tuple[str, ...]:
    """Subjects with a folder in ``container`` (any container if none is named), e.g. ``("sub-01", "sub-02")``."""
    base = Path(root)
    kinds = [container] if container else list(_EPOCH_FOLDERS)
    names = {p.name for k in kinds for f in _EPOCH_FOLDERS[k] for p in (base / f).glob("sub-*") if p.is_dir()}
    return tuple(sorted(names))


def read_epochs(
    root: Path | str,
    subject: str,
    part: Part,
    *,
    container: Container | None = None,
    index: ImageIndex | None = None,
) -> Epochs:
    """Read the preprocessed trials of one subject.

    The pickled containers cannot be mapped: their array is held in memory once, in the type of the file (8.3 GB for
    the training part of the 250 Hz float64 release, half of that for float32), and becomes float32 as it is indexed.
    The torch container is mapped and costs what is touched.

    Args:
        root: folder that holds the containers.
        subject: e.g. ``"sub-01"``.
        part: ``"training"`` or ``"test"``.
        container: which container; default the first that the subject has, in the order of the module docstring.
        index: the pictures, where they were listed already.

    Raises:
        InvalidValue: if the subject or part is unknown.
        InvalidFile: if a file is missing, truncated, lacks a key, or holds NaN.
        ShapeMismatch: if channels, samples or rows do not fit the layout or the pictures.
    """
    base = _existing_root(root)
    if part not in ("training", "test"):
        raise InvalidValue("part", part, "expected training or test")
    kind, folder = _subject_folder(base, subject, container)
    index = index or read_image_index(base)
    if kind == "250hz_white":
        path = folder / ("train.pt" if part == "training" else "test.pt")
        content = _torch_content(path)
    else:
        path = folder / f"preprocessed_eeg_{part}.npy"
        content = _npy_content(path)
    data = content["data"]
    names, times = _channels_and_times(content, kind, path)
    if "rows" in content:
        rows = _rows_by_suffix(content["rows"], index, path)
    else:
        rows = _rows_by_condition(index, "train" if part == "training" else "test", base)
    if len(rows) != len(data):
        raise ShapeMismatch(
            "image_metadata rows",
            len(rows),
            f"expected one row per image of the EEG, which has {len(data)}",
            where=str(path),
            hint="the pictures and the EEG must come from the same release",
        )
    spread = _checked_spread(data, path)
    return Epochs(
        data=data if data.dtype == np.float32 else Float32View(data),
        ch_names=names,
        times_s=times,
        image_index=rows,
        sfreq_hz=float(np.round(1.0 / np.median(np.diff(times)), 3)),
        amplitude_unit="V" if spread < 1e-3 else "noise_sd" if spread < 4.0 else "uV",
        container=kind,
        path=path,
    )


def _existing_root(root: Path | str) -> Path:
    base = Path(root)
    if not base.is_dir():
        raise InvalidFile(
            "root",
            base,
            "missing folder, expected the THINGS-EEG2 root that holds image_set and Preprocessed_data_250Hz, "
            "Preprocessed_data_250Hz_whiten or project/eeg_dataset/preprocessed_data",
        )
    return base


def _image_folders(base: Path) -> tuple[Path, dict[str, Path]]:
    for name in (*_IMAGE_FOLDERS, "."):
        folder = base / name
        found = {
            part: next((folder / n for n in names if (folder / n).is_dir()), None)
            for part, names in _SPLIT_FOLDERS.items()
        }
        if any(found.values()):
            missing = next((part for part, path in found.items() if path is None), None)
            if missing:
                raise InvalidFile("folder", folder, f"missing {' or '.join(_SPLIT_FOLDERS[missing])} beside the other")
            return folder, {part: path for part, path in found.items() if path is not None}
    raise InvalidFile(
        "root", base, "missing image_set/training_images and image_set/test_images, expected the pictures of the set"
    )


def _conditions(path: Path, paths: Sequence[Path], split: Sequence[str]) -> dict[str, np.ndarray]:
    content = load_npy(path)
    if not isinstance(content, dict):
        raise InvalidFile("image_metadata", path, f"expected a dictionary, found {type(content).__name__}")
    where = {(part, p.parent.name, p.name): i for i, (p, part) in enumerate(zip(paths, split, strict=True))}
    orders: dict[str, np.ndarray] = {}
    for part in ("train", "test"):
        keys = f"{part}_img_concepts", f"{part}_img_files"
        for key in keys:
            if key not in content:
                raise InvalidFile("key", key, "missing in the picture metadata", where=str(path))
        concepts, files = (list(content[key]) for key in keys)
        if len(concepts) != len(files):
            raise InvalidFile(
                keys[1], len(files), f"expected as many entries as {keys[0]} ({len(concepts)})", where=str(path)
            )
        order = np.empty(len(files), np.int64)
        for i, (concept, file) in enumerate(zip(concepts, files, strict=True)):
            position = where.get((part, str(concept), str(file)))
            if position is None:
                raise InvalidFile(
                    f"{keys[1]}[{i}]", f"{concept}/{file}", "expected a picture of the image set", where=str(path)
                )
            order[i] = position
        orders[part] = order
    return orders


def _subject_folder(base: Path, subject: str, container: Container | None) -> tuple[Container, Path]:
    if container is not None and container not in _EPOCH_FOLDERS:
        raise InvalidValue("container", container, f"expected one of {', '.join(_EPOCH_FOLDERS)}")
    kinds: list[Container] = [container] if container else list(_EPOCH_FOLDERS)
    for kind in kinds:
        for name in _EPOCH_FOLDERS[kind]:
            if (base / name / subject).is_dir():
                return kind, base / name / subject
    present = subjects_present(base, container)
    if not present:
        folders = ", ".join(f for k in kinds for f in _EPOCH_FOLDERS[k])
        raise InvalidFile("root", base, f"expected EEG in one of {folders}, found no sub-* folder there")
    raise InvalidValue("subject", subject, f"expected one of {', '.join(present)}", where=str(base))


def _key(content: Mapping[str, Any], key: str, path: Path) -> Any:
    if key not in content:
        raise InvalidFile(
            "key", key, f"missing, the file holds {', '.join(map(str, content)) or 'nothing'}", where=str(path)
        )
    return content[key]


def _npy_content(path: Path) -> dict[str, Any]:
    content = load_npy(path)
    if not isinstance(content, dict):
        raise InvalidFile("file", path, f"expected a dictionary, found {type(content).__name__}")
    return {
        "data": np.asarray(_key(content, "preprocessed_eeg_data", path)),
        "ch_names": _key(content, "ch_names", path),
        "times": _key(content, "times", path),
    }


def _torch_content(path: Path) -> dict[str, Any]:
    # Imported here: the torch container alone needs torch.
    from brainlab.io.torch_file import load_torch

    content = load_torch(path)
    if not isinstance(content, dict):
        raise InvalidFile("file", path, f"expected a dictionary, found {type(content).__name__}")
    pictures = np.asarray(_key(content, "img", path))
    return {
        "data": np.asarray(_key(content, "eeg", path)),
        "ch_names": _key(content, "ch_names", path),
        "times": _key(content, "times", path),
        # Every repetition of a row shows the same picture.
        "rows": [str(row) for row in (pictures if pictures.ndim == 1 else pictures[:, 0])],
    }


def _channels_and_times(content: Mapping[str, Any], kind: Container, path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    data = content["data"]
    if data.ndim != 4 or 0 in data.shape or data.dtype.kind != "f":
        raise ShapeMismatch(
            "EEG shape",
            f"{data.shape} {data.dtype}",
            "expected floats as (image, repetition, channel, time), at least one of each",
            where=str(path),
        )
    names = tuple(str(name) for name in content["ch_names"])
    expected = _N_CHANNELS[kind]
    for what, count in (("channels", data.shape[2]), ("ch_names", len(names))):
        if count != expected:
            raise ShapeMismatch(what, count, f"expected {expected} in this container", where=str(path))
    times = np.asarray(content["times"], np.float64).ravel()
    # The 250 Hz releases cut the baseline from the data but not from the times.
    first = int(np.searchsorted(times, -1e-9)) if len(times) > data.shape[3] else 0
    times = times[first : first + data.shape[3]]
    if len(times) < data.shape[3]:
        raise ShapeMismatch("times", len(times), f"expected {data.shape[3]} from 0 s on", where=str(path))
    return names, times


def _rows_by_condition(index: ImageIndex, part: str, base: Path) -> np.ndarray:
    if part not in index.conditions:
        raise InvalidFile(
            "root",
            base,
            "missing image_metadata.npy in the image set, expected it because the EEG files name no pictures",
        )
    return index.conditions[part]


def _rows_by_suffix(names: Sequence[str], index: ImageIndex, path: Path) -> np.ndarray:
    where = {(p.parent.parent.name[:4], p.parent.name, p.name): i for i, p in enumerate(index.paths)}
    rows = np.empty(len(names), np.int64)
    for i, name in enumerate(names):
        tail = name.replace("\\", "/").split("/")[-3:]
        position = where.get((tail[0][:4], tail[1], tail[2])) if len(tail) == 3 else None
        if position is None:
            raise InvalidFile(f"img[{i}]", name, "expected the path of a picture of the image set", where=str(path))
        rows[i] = position
    return rows


def _checked_spread(data: np.ndarray, path: Path) -> float:
    """Median channel standard deviation over the first pictures; refuses values that are not finite."""
    bad = 0
    spread = 0.0
    block = max(1, 2**24 // max(data[0].size, 1))
    for first in range(0, len(data), block):
        part = np.asarray(data[first : first + block])
        # A sum is finite only if all its terms are (or in the rare overflow, which the count then clears).
        if not np.isfinite(part.sum(dtype=np.float64)):
            bad += int(np.size(part) - np.count_nonzero(np.isfinite(part)))
        elif first == 0:
            spread = float(np.median(part[: min(32, len(part))].std(axis=(0, 1, 3), dtype=np.float64)))
    if bad:
        raise InvalidFile("EEG", path, f"expected finite samples, found {bad} NaN or infinite values")
    return spread
