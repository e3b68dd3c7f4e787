"""The steps from two raw picture data sets to paired examples: each fills one folder and has one reader.

Settings and index arrays come in; which part of a split an index belongs to is the caller's business.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from brainlab.datasets import nsd, things_eeg
from brainlab.errors import InvalidFile, InvalidValue, ShapeMismatch
from brainlab.prepare.betas import BetaNormalisation, average_by_picture, normalise_betas
from brainlab.prepare.embed import Encoder
from brainlab.prepare.epochs import resample_epochs
from brainlab.prepare.match import MultiMatching
from brainlab.prepare.ridge import Ridge, check_betas, fit_ridge, import_mindeye2_ridge

__all__ = [
    "Embedding", "EpochFacts", "Fmri", "Projection", "embed_nsd", "embed_things", "load_embedding", "load_epochs",
    "load_fmri", "load_pairs", "load_projection", "project_fmri", "save_epochs", "save_fmri", "save_pairs",
]  # fmt: skip

_PICTURE_PX = 224
_CHUNK = 256


@dataclass(frozen=True)
class EpochFacts:
    """What is known of one part of one subject's epochs; the samples lie beside it in ``<part>.npy``."""

    subject: str
    part: str
    ch_names: tuple[str, ...]
    sfreq_hz: float
    amplitude_unit: str
    container: str
    n_images: int
    n_repetitions: int
    n_times: int


def save_epochs(
    folder: Path,
    root: Path | str,
    subject: str,
    part: things_eeg.Part,
    sfreq_hz: float,
    index: things_eeg.ImageIndex,
    container: things_eeg.Container | None = None,
) -> None:
    """Resample one part of a subject's epochs into ``<part>.npy`` (image, repetition, channel, time) float32."""
    epochs = things_eeg.read_epochs(root, subject, part, container=container, index=index)
    n_images, n_reps, n_channels = epochs.data.shape[:3]
    n_times = 0
    # Not through a writable memory map: on a full disk that kills the process instead of raising an error.
    with open(folder / f"{part}.npy", "wb") as stream:
        for start in range(0, n_images, 64):
            block = resample_epochs(epochs.data[start : start + 64], epochs.sfreq_hz, sfreq_hz)
            if not n_times:
                n_times = block.shape[-1]
                shape = (n_images, n_reps, n_channels, n_times)
                np.lib.format.write_array_header_1_0(
                    stream, {"descr": "<f4", "fortran_order": False, "shape": shape}
                )  # fmt: skip
            stream.write(np.ascontiguousarray(block, dtype="<f4").data)
    if not n_times:
        raise InvalidFile("EEG", epochs.path, "expected at least one picture, found 0")
    facts = EpochFacts(
        subject=subject,
        part=part,
        ch_names=tuple(epochs.ch_names),
        sfreq_hz=sfreq_hz,
        amplitude_unit=epochs.amplitude_unit,
        container=epochs.container,
        n_images=n_images,
        n_repetitions=n_reps,
        n_times=n_times,
    )
    np.save(folder / f"{part}_image_index.npy", np.asarray(epochs.image_index, dtype=np.int64))
    (folder / f"{part}.json").write_text(json.dumps(asdict(facts)))


def load_epochs(folder: Path, part: str) -> tuple[EpochFacts, Int[np.ndarray, " image"], np.ndarray]:
    """Facts, image_index of each row, and the mapped samples."""
    facts = json.loads((folder / f"{part}.json").read_text())
    facts["ch_names"] = tuple(facts["ch_names"])
    return (
        EpochFacts(**facts),
        np.load(folder / f"{part}_image_index.npy"),
        np.load(folder / f"{part}.npy", mmap_mode="r"),
    )


@dataclass(frozen=True)
class Fmri:
    """Single trials of one subject: betas in percent signal change, 0-based 73k id and session of each."""

    betas: Float[np.ndarray, "trial voxel"]
    picture: Int[np.ndarray, " trial"]
    session: Int[np.ndarray, " trial"]


def save_fmri(folder: Path, root: Path | str, subject: str, prep: str) -> None:
    """Masked betas and the picture of each trial."""
    design = nsd.read_expdesign(root)
    pictures = nsd.read_stim_info(root)
    betas = nsd.read_betas(root, subject, nsd.read_mask(root, subject), prep)
    picture = nsd.trial_image_ids(design, subject, len(betas))
    if len(picture) and int(picture.max()) >= len(pictures):
        raise ShapeMismatch(
            "73k id",
            int(picture.max()),
            f"expected a row of the {len(pictures)} in nsd_stim_info_merged.csv",
            where=str(root),
        )
    sessions = len(nsd.session_files(root, subject, prep))
    if len(betas) % sessions:
        raise ShapeMismatch("trials", len(betas), f"expected {sessions} sessions of equal length ({subject}, {root})")
    np.save(folder / "betas.npy", betas)
    np.savez(
        folder / "trials.npz",
        picture=picture.astype(np.int64),
        session=np.arange(len(betas)) // (len(betas) // sessions),
    )


def load_fmri(folder: Path) -> Fmri:
    """What :func:`save_fmri` wrote, betas mapped."""
    with np.load(folder / "trials.npz") as trials:
        return Fmri(np.load(folder / "betas.npy", mmap_mode="r"), trials["picture"], trials["session"])


@dataclass(frozen=True)
class Embedding:
    """One row per picture id, ids ascending."""

    ids: Int[np.ndarray, " n"]
    rows: Float[np.ndarray, "n dim"]

    def at(self, ids: Int[np.ndarray, " m"]) -> Float[np.ndarray, "m dim"]:
        """Rows of these pictures."""
        return self.rows[np.searchsorted(self.ids, ids)]


def embed_things(folder: Path, index: things_eeg.ImageIndex, ids: Sequence[int], encoder: Encoder) -> None:
    """Embed THINGS pictures, decoded at 224 px."""
    wanted = np.asarray(sorted(ids), dtype=np.int64)
    chunks = (wanted[start : start + _CHUNK] for start in range(0, len(wanted), _CHUNK))
    _save_embedding(folder, wanted, [encoder(things_eeg.read_pictures(index, c.tolist(), _PICTURE_PX)) for c in chunks])


def embed_nsd(folder: Path, root: Path | str, ids: Sequence[int], encoder: Encoder) -> None:
    """Embed NSD pictures at the size of the file."""
    wanted = np.asarray(sorted(ids), dtype=np.int64)
    chunks = (wanted[start : start + _CHUNK] for start in range(0, len(wanted), _CHUNK))
    _save_embedding(folder, wanted, [encoder(nsd.read_images(root, chunk)) for chunk in chunks])


def save_embedding(folder: Path, ids: Int[np.ndarray, " n"], rows: Float[np.ndarray, "n dim"]) -> None:
    """Store rows that were computed elsewhere."""
    order = np.argsort(ids, kind="stable")
    _save_embedding(folder, np.asarray(ids)[order], [np.asarray(rows)[order]])


def _save_embedding(folder: Path, ids: np.ndarray, chunks: list[np.ndarray]) -> None:
    if not len(ids):
        raise InvalidValue("pictures", 0, "expected at least one picture to embed")
    np.save(folder / "ids.npy", ids)
    np.save(folder / "rows.npy", np.concatenate(chunks).astype(np.float32))


def load_embedding(folder: Path) -> Embedding:
    """What the embedding steps wrote."""
    return Embedding(np.load(folder / "ids.npy"), np.load(folder / "rows.npy", mmap_mode="r"))


def save_pairs(
    path: Path,
    pairs: MultiMatching,
    cluster_label: Int[np.ndarray, " pair"] | None = None,
    split: Sequence[str] | None = None,
) -> None:
    """Write the table of pairs: picture numbers of both sides, similarities and, once known, cluster and split.

    One fMRI subject gives the columns things_image_index, nsd_image_index, similarity; several give one picture and one
    similarity per subject.
    """
    subjects = list(pairs.right)
    single = len(subjects) == 1
    header = ["things_image_index"]
    header += ["nsd_image_index"] if single else [f"nsd_{s}_image_index" for s in subjects]
    header += ["similarity"] if single else [f"similarity_{s}" for s in subjects]
    columns: list[Any] = [pairs.left, *pairs.right.values()]
    columns += [[f"{value:.10f}" for value in values] for values in pairs.similarity.values()]
    for name, values in (("cluster_label", cluster_label), ("split", split)):
        if values is not None:
            header.append(name)
            columns.append(values)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(zip(*columns, strict=True))


def load_pairs(path: Path, subjects: Sequence[str]) -> MultiMatching:
    """Read what :func:`save_pairs` wrote.

    Raises:
        InvalidFile: if the file is missing or lacks a column.
    """
    try:
        with path.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        single = len(subjects) == 1
        ids = {s: "nsd_image_index" if single else f"nsd_{s}_image_index" for s in subjects}
        scores = {s: "similarity" if single else f"similarity_{s}" for s in subjects}
        return MultiMatching(
            np.array([int(row["things_image_index"]) for row in rows], dtype=np.int64),
            {s: np.array([int(row[ids[s]]) for row in rows], dtype=np.int64) for s in subjects},
            {s: np.array([float(row[scores[s]]) for row in rows]) for s in subjects},
        )
    except (OSError, KeyError, ValueError) as error:
        raise InvalidFile("pairs", path, f"expected a table of pairs of {', '.join(subjects)} ({error})") from error


@dataclass(frozen=True)
class Projection:
    """One fMRI subject's targets.

    Attributes:
        target: embedding of the mean over repetitions, per pair, of any length.
        n_repetitions: trials that went into it.
        reps: single repetitions of the pairs in ``reps_of``; NaN rows where there was none.
        reps_of: pair numbers.
        facts: ridge name, penalty, cross-validated score, pictures fitted, voxels.
    """

    target: Float[np.ndarray, "pair dim"]
    n_repetitions: Int[np.ndarray, " pair"]
    reps: Float[np.ndarray, "held rep dim"]
    reps_of: Int[np.ndarray, " held"]
    facts: Mapping[str, Any]


def project_fmri(
    folder: Path,
    fmri: Fmri,
    pair_picture: Int[np.ndarray, " pair"],
    held_out_pictures: Int[np.ndarray, " picture"],
    reps_of: Int[np.ndarray, " held"],
    embedding: Embedding,
    *,
    subject: str,
    embedding_name: str,
    normalisation: BetaNormalisation,
    ridge_file: str | None,
) -> None:
    """Normalise the betas, fit (or import) the ridge, and embed every pair's picture.

    Args:
        pair_picture: this subject's picture of each pair.
        held_out_pictures: pictures of validation and test pairs, of any subject: neither the normalisation nor the
            ridge may look at their trials.
        reps_of: pairs whose single repetitions are kept.
        embedding: of every picture this subject saw.
        ridge_file: MindEye2 checkpoint of this subject; None fits a ridge.

    Raises:
        ShapeMismatch: if an imported ridge has another voxel count.
        InvalidValue: if the betas' scale does not fit an imported ridge, or too few pictures are left to fit on.
    """
    allowed = ~np.isin(fmri.picture, held_out_pictures)
    betas = normalise_betas(fmri.betas, fmri.session, mode=normalisation, train=allowed)
    ids, mean, count = average_by_picture(betas, fmri.picture)
    if ridge_file is None:
        fit_on = ~np.isin(ids, held_out_pictures)
        if fit_on.sum() < 3:
            raise InvalidValue(
                "ridge pictures", int(fit_on.sum()), f"expected at least 3 pictures of {subject} in no held-out pair"
            )
        ridge = fit_ridge(mean[fit_on], embedding.at(ids[fit_on]), name=f"fitted:{embedding_name}")
    else:
        ridge = import_mindeye2_ridge(ridge_file)
        check_betas(betas, ridge.n_voxels, ridge=ridge.name, where=f"betas of {subject}")
    ridge.save(folder / "ridge.safetensors")
    place = np.searchsorted(ids, pair_picture)
    np.save(folder / "target.npy", ridge.project(mean[place]))
    np.save(folder / "reps.npy", _repetitions(ridge, betas, fmri.picture, pair_picture[reps_of]))
    np.savez(folder / "counts.npz", n_repetitions=count[place], reps_of=reps_of)
    facts = {
        "ridge": ridge.name,
        "penalty": None if np.isnan(ridge.penalty) else ridge.penalty,
        "cv_score": None if np.isnan(ridge.cv_score) else ridge.cv_score,
        "pictures_fitted": ridge.n_fitted,
        "pictures": len(ids),
        "trials": len(betas),
        "voxels": ridge.n_voxels,
        "beta_normalisation": normalisation,
    }
    (folder / "facts.json").write_text(json.dumps(facts))


def _repetitions(ridge: Ridge, betas: np.ndarray, picture: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    order = np.argsort(picture, kind="stable")
    first = np.searchsorted(picture[order], wanted, side="left")
    last = np.searchsorted(picture[order], wanted, side="right")
    most = int((last - first).max()) if len(wanted) else 0
    reps = np.full((len(wanted), most, len(ridge.bias)), np.nan, dtype=np.float32)
    known: Bool[np.ndarray, "held rep"] = np.arange(most)[None, :] < (last - first)[:, None]
    trials = order[(first[:, None] + np.arange(most)[None, :])[known]]
    reps[known] = ridge.project(betas[trials])
    return reps


def load_projection(folder: Path) -> Projection:
    """What :func:`project_fmri` wrote."""
    with np.load(folder / "counts.npz") as counts:
        return Projection(
            np.load(folder / "target.npy", mmap_mode="r"),
            counts["n_repetitions"],
            np.load(folder / "reps.npy", mmap_mode="r"),
            counts["reps_of"],
            json.loads((folder / "facts.json").read_text()),
        )
