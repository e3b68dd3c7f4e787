"""The Natural Scenes Dataset: fMRI of people who look at photographs (Allen et al. 2022).

Where the files are, under one root (the layout of the public bucket):

* ``nsddata/experiments/nsd/nsd_stim_info_merged.csv`` – one row per picture;
* ``nsddata/experiments/nsd/nsd_expdesign.mat`` – which subject saw which picture in which trial;
* ``nsddata/ppdata/subj01/func1pt8mm/roi/nsdgeneral.nii.gz`` – the mask of visual cortex (1 in, 0 and −1 out);
* ``nsddata_betas/ppdata/subj01/func1pt8mm/<prep>/betas_sessionNN.{hdf5,nii.gz}`` – one response volume per trial;
* ``nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5`` – the pictures.

Picture ids are 0-based rows of the CSV ("73k ids"), although most files count from 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

from brainlab.errors import InvalidFile, InvalidValue, ShapeMismatch

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "BETA_SCALE",
    "DEFAULT_PREP",
    "STIM_INFO_COLUMNS",
    "Design",
    "betas_folder",
    "read_betas",
    "read_expdesign",
    "read_images",
    "read_mask",
    "read_stim_info",
    "session_files",
    "subjects_present",
    "trial_image_ids",
]

BETA_SCALE = 300.0  # int16 volumes hold percent signal change × 300
DEFAULT_PREP = "betas_fithrf"
EXPERIMENT_FOLDER = "nsddata/experiments/nsd"
STIMULUS_FILE = "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"
STIM_INFO_COLUMNS = (
    "cocoId", "cocoSplit", "cropBox", "loss", "nsdId", "flagged", "BOLD5000", "shared1000",
    *(f"subject{s}" for s in range(1, 9)),
    *(f"subject{s}_rep{r}" for s in range(1, 9) for r in range(3)),
)  # fmt: skip

_SESSION = re.compile(r"^betas_session(\d+)\.(hdf5|nii\.gz)$")


@dataclass(frozen=True)
class Design:
    """Which picture was shown when, 1-based as in the file.

    Attributes:
        master_ordering: for each trial, the number of the subject's picture that is shown; the same for all subjects.
        subject_im: for each subject and picture number, the 73k id. The first ``len(shared_ix)`` are the same for all.
        shared_ix: picture numbers that are shared.
        path: the file.
    """

    master_ordering: Int[np.ndarray, " trial"]
    subject_im: Int[np.ndarray, "subject picture"]
    shared_ix: Int[np.ndarray, " shared"]
    path: Path


def _existing_root(root: Path | str) -> Path:
    base = Path(root)
    if not base.is_dir():
        raise InvalidFile(
            "root", base, "missing folder, expected the NSD root that holds nsddata, nsddata_betas and nsddata_stimuli"
        )
    return base


def _existing_file(root: Path | str, name: str, what: str) -> Path:
    path = _existing_root(root) / name
    if not path.is_file():
        raise InvalidFile("file", path, f"missing, expected {what}")
    return path


def subjects_present(root: Path | str) -> tuple[str, ...]:
    """Subjects with response volumes, e.g. ``("subj01", "subj02")``."""
    folder = Path(root) / "nsddata_betas" / "ppdata"
    return tuple(sorted(p.name for p in folder.glob("subj*") if p.is_dir()))


def _subject_number(root: Path | str, subject: str) -> int:
    present = subjects_present(_existing_root(root))
    if subject not in present:
        listed = f"one of {', '.join(present)}" if present else "subjects under nsddata_betas/ppdata, found none"
        raise InvalidValue("subject", subject, f"expected {listed}", where=str(root))
    return int(subject[4:])


def read_stim_info(root: Path | str) -> pd.DataFrame:
    """The table of pictures, one row per 73k id in order.

    Raises:
        InvalidFile: if the file is missing, lacks a column, or its nsdId does not count the rows.
    """
    import pandas as pd

    path = _existing_file(root, f"{EXPERIMENT_FOLDER}/nsd_stim_info_merged.csv", "the table of pictures")
    try:
        table = pd.read_csv(path, index_col=0)
    except (ValueError, UnicodeDecodeError) as error:
        raise InvalidFile("file", path, f"expected a comma-separated table ({error})") from None
    missing = [column for column in STIM_INFO_COLUMNS if column not in table.columns]
    if missing:
        raise InvalidFile("column", missing[0], f"missing, {len(missing)} of the expected columns are", where=str(path))
    if not np.array_equal(table["nsdId"].to_numpy(), np.arange(len(table))):
        raise InvalidFile("nsdId", path, "expected the numbers of the rows, counted from 0")
    return table


def read_expdesign(root: Path | str) -> Design:
    """The experimental design.

    Raises:
        InvalidFile: if the file is missing or damaged, lacks a variable, or an index lies outside its table.
    """
    from scipy.io import loadmat

    path = _existing_file(root, f"{EXPERIMENT_FOLDER}/nsd_expdesign.mat", "the experimental design")
    try:
        content = loadmat(path, variable_names=["masterordering", "subjectim", "sharedix"])
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise InvalidFile("file", path, f"expected a complete MATLAB 5 file ({error})") from None
    for key in ("masterordering", "subjectim", "sharedix"):
        if key not in content:
            raise InvalidFile("variable", key, "missing in the experimental design", where=str(path))
    ordering = np.asarray(content["masterordering"]).ravel().astype(np.int64)
    pictures = np.atleast_2d(np.asarray(content["subjectim"])).astype(np.int64)
    shared = np.asarray(content["sharedix"]).ravel().astype(np.int64)
    if ordering.size == 0:
        raise InvalidFile("masterordering", path, "expected at least one trial, found 0")
    if ordering.min() < 1 or ordering.max() > pictures.shape[1]:
        raise InvalidFile(
            "masterordering", f"{ordering.min()}…{ordering.max()}",
            f"expected 1-based columns of subjectim, which has {pictures.shape[1]}", where=str(path),
        )  # fmt: skip
    return Design(ordering, pictures, shared, path)


def trial_image_ids(design: Design, subject: str, n_trials: int) -> Int[np.ndarray, " trial"]:
    """0-based 73k id of the picture of each of the first ``n_trials`` trials of ``subject``.

    Raises:
        InvalidValue: if the design has no such subject.
        ShapeMismatch: if it has fewer trials.
    """
    row = int(subject[4:]) - 1 if re.fullmatch(r"subj\d+", subject) else -1
    if not 0 <= row < len(design.subject_im):
        last = len(design.subject_im)
        raise InvalidValue("subject", subject, f"expected subj01 to subj{last:02d}", where=str(design.path))
    if n_trials > len(design.master_ordering):
        raise ShapeMismatch(
            "trials", n_trials, f"expected at most {len(design.master_ordering)}, the length of masterordering",
            where=str(design.path),
        )  # fmt: skip
    return design.subject_im[row, design.master_ordering[:n_trials] - 1] - 1


def read_mask(root: Path | str, subject: str, roi: str = "nsdgeneral") -> Bool[np.ndarray, "x y z"]:
    """Voxels of a region: where its volume is > 0.

    Raises:
        InvalidValue: if the subject is unknown.
        InvalidFile: if the volume is missing, damaged, or selects nothing.
    """
    _subject_number(root, subject)
    path = _existing_file(root, f"nsddata/ppdata/{subject}/func1pt8mm/roi/{roi}.nii.gz", f"the region {roi}")
    mask = _nifti(path)[0] > 0
    if mask.ndim != 3 or not mask.any():
        raise InvalidFile("mask", path, f"expected a volume with voxels > 0, found shape {mask.shape}")
    return mask


def betas_folder(root: Path | str, subject: str, prep: str = DEFAULT_PREP) -> Path:
    """The folder of a subject's response volumes.

    Raises:
        InvalidValue: if the subject or the preparation is unknown; those present are listed.
    """
    _subject_number(root, subject)
    parent = Path(root) / "nsddata_betas" / "ppdata" / subject / "func1pt8mm"
    folder = parent / prep
    if not folder.is_dir():
        present = ", ".join(sorted(p.name for p in parent.glob("betas_*"))) or "nothing"
        raise InvalidValue(
            "beta_prep", prep, f"expected a folder of response volumes, found {present}", where=str(parent)
        )
    return folder


def session_files(root: Path | str, subject: str, prep: str = DEFAULT_PREP) -> list[Path]:
    """Response volumes in session order, HDF5 before NIfTI where both are present.

    Raises:
        InvalidFile: if there is none, or a session in between is missing.
    """
    folder = betas_folder(root, subject, prep)
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        match = _SESSION.match(path.name)
        if match and (int(match[1]) not in found or match[2] == "hdf5"):
            found[int(match[1])] = path
    if not found:
        raise InvalidFile("folder", folder, "expected betas_session01.hdf5 or .nii.gz and so on, found none")
    absent = [number for number in range(1, max(found) + 1) if number not in found]
    if absent:
        # The trials are counted through all sessions: a gap would shift every later picture.
        raise InvalidFile("folder", folder, f"missing session {absent[0]} of {max(found)}")
    return [found[number] for number in sorted(found)]


def read_betas(
    root: Path | str, subject: str, mask: Bool[np.ndarray, "x y z"], prep: str = DEFAULT_PREP
) -> Float32[np.ndarray, "trial voxel"]:
    """Responses of the masked voxels in every trial of every session, in percent signal change.

    Voxels come in C order of the (x, y, z) mask. Integer volumes are divided by 300, float volumes taken as they are.
    HDF5 sessions are read plane by plane: memory is the result plus one plane, not a whole session.

    Raises:
        InvalidValue: if the subject or preparation is unknown.
        InvalidFile: if a session is missing, truncated, empty, or holds NaN.
        ShapeMismatch: if the mask is of another volume.
    """
    blocks = []
    for path in session_files(root, subject, prep):
        block = _hdf5_betas(path, mask) if path.suffix == ".hdf5" else _nifti_betas(path, mask)
        bad = block.size - int(np.count_nonzero(np.isfinite(block)))
        if bad:
            raise InvalidFile(
                "betas", path, f"expected finite responses, found {bad} NaN or infinite values in the mask"
            )
        blocks.append(block)
    return np.concatenate(blocks)


def read_images(root: Path | str, ids: Sequence[int] | Int[np.ndarray, " image"]) -> UInt8[np.ndarray, "image h w 3"]:
    """Pictures by 0-based 73k id, in the order asked for, repetitions allowed.

    Raises:
        InvalidFile: if the file is missing, truncated, or of another layout.
        InvalidValue: if an id lies outside it.
    """
    path = _existing_file(root, STIMULUS_FILE, "the pictures")
    wanted = np.asarray(ids, np.int64)
    order, back = np.unique(wanted, return_inverse=True)
    with _hdf5(path) as file:
        brick = _dataset(file, "imgBrick", path)
        if brick.ndim != 4 or brick.shape[-1] != 3 or brick.dtype != np.uint8:
            raise InvalidFile(
                "imgBrick", f"{brick.shape} {brick.dtype}", "expected uint8 (n, H, W, 3)", where=str(path)
            )
        if order.size and not 0 <= order[0] <= order[-1] < len(brick):
            raise InvalidValue(
                "image id", f"{order[0]}…{order[-1]}", f"expected 0 to {len(brick) - 1}", where=str(path)
            )
        try:
            # h5py resolves a long list of rows one by one; a dense selection is read as one range.
            if order.size and order[-1] - order[0] < 4 * order.size:
                pictures = brick[order[0] : order[-1] + 1][order - order[0]]
            else:
                pictures = brick[order] if order.size else np.empty((0, *brick.shape[1:]), np.uint8)
        except OSError as error:
            raise InvalidFile("imgBrick", path, f"expected complete pictures ({error})") from None
    return pictures[back]


def _hdf5(path: Path) -> Any:
    import h5py

    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InvalidFile("file", path, f"expected a complete HDF5 file ({error})") from None


def _dataset(file: Any, key: str, path: Path) -> Any:
    if key not in file:
        raise InvalidFile("key", key, f"missing, the file holds {', '.join(file) or 'nothing'}", where=str(path))
    return file[key]


def _check_volume(shape: tuple[int, ...], mask: np.ndarray, n_trials: int, path: Path) -> None:
    if shape != mask.shape:
        raise ShapeMismatch(
            "mask shape", mask.shape, f"expected the volume of the betas {shape} as (x, y, z)", where=str(path)
        )
    if n_trials == 0:
        raise InvalidFile("betas", path, "expected at least one trial, found 0")


def _hdf5_betas(path: Path, mask: np.ndarray) -> np.ndarray:
    with _hdf5(path) as file:
        betas = _dataset(file, "betas", path)
        if betas.ndim != 4:
            raise InvalidFile("betas", betas.shape, "expected (trial, z, y, x)", where=str(path))
        # Written by MATLAB, whose first axis is h5py's last.
        _check_volume(betas.shape[:0:-1], mask, betas.shape[0], path)
        x, y, z = np.nonzero(mask)
        out = np.empty((betas.shape[0], len(x)), np.float32)
        try:
            for plane in np.unique(z):
                here = z == plane
                out[:, here] = betas[:, plane][:, y[here], x[here]]
        except OSError as error:
            raise InvalidFile("betas", path, f"expected complete volumes ({error})") from None
        scale = betas.dtype.kind in "iu"
    if scale:
        out /= np.float32(BETA_SCALE)
    return out


def _nifti_betas(path: Path, mask: np.ndarray) -> np.ndarray:
    volume, is_integer = _nifti(path)
    if volume.ndim != 4:
        raise InvalidFile("betas", volume.shape, "expected (x, y, z, trial)", where=str(path))
    _check_volume(volume.shape[:3], mask, volume.shape[3], path)
    out = np.ascontiguousarray(volume[mask].T, dtype=np.float32)
    if is_integer:
        out /= np.float32(BETA_SCALE)
    return out


def _nifti(path: Path) -> tuple[np.ndarray, bool]:
    """The volume and whether it is stored as integers."""
    import zlib

    import nibabel

    try:
        image: Any = nibabel.load(path)
        return np.asanyarray(image.dataobj), image.get_data_dtype().kind in "iu"
    except (OSError, EOFError, ValueError, zlib.error, nibabel.filebasedimages.ImageFileError) as error:
        raise InvalidFile("file", path, f"expected a complete NIfTI volume ({error})") from None
