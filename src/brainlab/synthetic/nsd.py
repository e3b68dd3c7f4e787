"""Writes the raw layout of the Natural Scenes Dataset with a planted code, so that its reader runs without data.

The response of a voxel in a trial is β = b_v · c + noise, with c the latent vector of the picture: voxels of nsdgeneral
have b_v ≠ 0, all others only noise. Volumes are int16 (percent signal change × 300) in MATLAB's axis order, every
index file counts from 1, and the table, the design and the behaviour file tell the same story.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Int, UInt8

from brainlab.datasets.nsd import BETA_SCALE, DEFAULT_PREP, EXPERIMENT_FOLDER, STIM_INFO_COLUMNS, STIMULUS_FILE

__all__ = ["Schedule", "VoxelModel", "draw_mask", "make_schedule", "write_experiment", "write_images", "write_subject"]


@dataclass(frozen=True)
class Schedule:
    """Who sees what when; everything 0-based.

    Attributes:
        picture_ids: for each subject, the 73k ids of its pictures, the shared ones first and in the same order.
        order: number of the subject's picture in each trial, the same for all subjects.
        n_shared: pictures at the head of ``picture_ids`` that all subjects share.
        trials_per_session: trials in one session.
    """

    picture_ids: Int[np.ndarray, "subject picture"]
    order: Int[np.ndarray, " trial"]
    n_shared: int
    trials_per_session: int


def make_schedule(
    picture_ids: Int[np.ndarray, "subject picture"],
    n_shared: int,
    n_repetitions: int,
    trials_per_session: int,
    rng: np.random.Generator,
) -> Schedule:
    """Show every picture ``n_repetitions`` times in random order."""
    order = rng.permutation(np.repeat(np.arange(picture_ids.shape[1]), n_repetitions))
    if len(order) % trials_per_session:
        raise ValueError(f"{len(order)} trials do not fill sessions of {trials_per_session}")
    return Schedule(picture_ids, order, n_shared, trials_per_session)


@dataclass(frozen=True)
class VoxelModel:
    """The planted generator of one subject's responses.

    Attributes:
        weights: response per unit of each latent in each voxel of nsdgeneral, percent signal change.
        baseline: mean response of those voxels.
        noise_sd: standard deviation of a single trial.
    """

    weights: Float[np.ndarray, "voxel dim"]
    baseline: Float[np.ndarray, " voxel"]
    noise_sd: Float[np.ndarray, " voxel"]

    @classmethod
    def draw(cls, n_voxels: int, dim: int, snr: float, rng: np.random.Generator) -> VoxelModel:
        """Draw a generator whose voxels have ``snr`` = signal sd / noise sd of one trial on average."""
        noise = rng.uniform(1.0, 2.0, n_voxels)
        reach = snr * rng.gamma(4.0, 0.25, n_voxels)
        direction = rng.standard_normal((n_voxels, dim))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        return cls(direction * (reach * noise)[:, None], rng.normal(0.5, 0.5, n_voxels), noise)

    @property
    def information(self) -> Float[np.ndarray, "dim dim"]:
        """Fisher information of one trial on the latents."""
        white = self.weights / self.noise_sd[:, None]
        return white.T @ white

    def simulate(
        self, latents: Float[np.ndarray, "trial dim"], rng: np.random.Generator
    ) -> Float32[np.ndarray, "trial voxel"]:
        """One response per row of ``latents``, percent signal change."""
        clean = latents.astype(np.float32) @ self.weights.T.astype(np.float32) + self.baseline.astype(np.float32)
        noise = rng.standard_normal(clean.shape, dtype=np.float32) * self.noise_sd.astype(np.float32)
        return clean + noise


def draw_mask(shape: tuple[int, int, int], share: float) -> Int[np.ndarray, "x y z"]:
    """An nsdgeneral volume: 1 in a blob at the back, 0 in the rest of the head, −1 outside the scan."""
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    distance = np.sqrt(axes[0] ** 2 + (axes[1] + 0.5) ** 2 + axes[2] ** 2)
    mask = np.zeros(shape, np.int16)
    mask[distance <= np.quantile(distance, share)] = 1
    outside = np.abs(axes[1]) + np.abs(axes[2]) >= 1.9
    mask[outside & (mask == 0)] = -1
    return mask


def write_experiment(root: Path, schedule: Schedule, n_pictures: int, crop_px: int = 425) -> None:
    """The table of pictures (all columns, one row per picture) and the experimental design."""
    from scipy.io import savemat

    folder = root / EXPERIMENT_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    columns: dict[str, object] = {
        "cocoId": 100_000 + 7 * np.arange(n_pictures),
        "cocoSplit": ["train2017"] * n_pictures,
        "cropBox": ["(0, 0, 0.125, 0.125)"] * n_pictures,
        "loss": np.zeros(n_pictures),
        "nsdId": np.arange(n_pictures),
        "flagged": [False] * n_pictures,
        "BOLD5000": [False] * n_pictures,
        "shared1000": np.isin(np.arange(n_pictures), schedule.picture_ids[0, : schedule.n_shared]),
    }
    for s in range(8):
        seen = np.zeros(n_pictures, np.int64)
        trials = np.zeros((n_pictures, 3), np.int64)
        if s < len(schedule.picture_ids):
            ids = schedule.picture_ids[s]
            seen[ids] = 1
            # Trials of one picture, in the order in which they came, counted from 1; 0 = not shown.
            times = np.argsort(schedule.order, kind="stable").reshape(len(ids), -1)[:, :3] + 1
            trials[ids, : times.shape[1]] = times
        columns[f"subject{s + 1}"] = seen
        columns.update({f"subject{s + 1}_rep{r}": trials[:, r] for r in range(3)})
    pd.DataFrame({name: columns[name] for name in STIM_INFO_COLUMNS}).to_csv(folder / "nsd_stim_info_merged.csv")
    design = {
        "masterordering": (schedule.order + 1)[None].astype(np.float64),
        "subjectim": (schedule.picture_ids + 1).astype(np.float64),
        "sharedix": np.arange(1, schedule.n_shared + 1)[None].astype(np.float64),
        "stimpattern": np.ones((1, 1)),
    }
    savemat(folder / "nsd_expdesign.mat", design)


def write_images(root: Path, pictures: UInt8[np.ndarray, "image h w 3"]) -> None:
    """``imgBrick``: row = 73k id."""
    import h5py

    path = root / STIMULUS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("imgBrick", data=pictures, chunks=(1, *pictures.shape[1:]))


def write_subject(
    root: Path,
    number: int,
    schedule: Schedule,
    latents: Float[np.ndarray, "image dim"],
    mask: Int[np.ndarray, "x y z"],
    model: VoxelModel,
    rng: np.random.Generator,
    containers: Sequence[str] = ("hdf5",),
) -> None:
    """Mask, behaviour and response volumes of subject ``number`` (0-based).

    Args:
        latents: latent vector of every picture, by 73k id.
        containers: ``"hdf5"`` and/or ``"nii.gz"``, the same numbers in each.
    """
    import h5py
    import nibabel

    subject = f"subj{number + 1:02d}"
    prepared = root / "nsddata" / "ppdata" / subject
    roi = prepared / "func1pt8mm" / "roi"
    betas = root / "nsddata_betas" / "ppdata" / subject / "func1pt8mm" / DEFAULT_PREP
    for folder in (roi, prepared / "behav", betas):
        folder.mkdir(parents=True, exist_ok=True)
    affine = np.diag([1.8, 1.8, 1.8, 1.0])
    nibabel.Nifti1Image(mask, affine).to_filename(roi / "nsdgeneral.nii.gz")

    ids = schedule.picture_ids[number][schedule.order]
    _write_responses(prepared / "behav" / "responses.tsv", number, schedule, ids, rng)
    inside = np.nonzero(mask > 0)
    for first in range(0, len(ids), schedule.trials_per_session):
        trial_ids = ids[first : first + schedule.trials_per_session]
        volume = rng.standard_normal((len(trial_ids), *mask.shape), dtype=np.float32)
        volume[:, mask < 0] = 0.0
        volume[:, inside[0], inside[1], inside[2]] = model.simulate(latents[trial_ids], rng)
        stored = np.clip(np.rint(volume * BETA_SCALE), -32768, 32767).astype(np.int16)
        name = f"betas_session{first // schedule.trials_per_session + 1:02d}"
        if "hdf5" in containers:
            with h5py.File(betas / f"{name}.hdf5", "w") as file:
                # MATLAB writes (x, y, z, trial) column by column: the same bytes read here as (trial, z, y, x).
                file.create_dataset("betas", data=stored.transpose(0, 3, 2, 1), chunks=(len(trial_ids), 1, 1, 1))
        if "nii.gz" in containers:
            image = nibabel.Nifti1Image(stored.transpose(1, 2, 3, 0), affine)
            image.to_filename(betas / f"{name}.nii.gz")


def _write_responses(path: Path, number: int, schedule: Schedule, ids: np.ndarray, rng: np.random.Generator) -> None:
    trial = np.arange(len(ids))
    runs = 12
    per_run = -(-schedule.trials_per_session // runs)
    within = trial % schedule.trials_per_session
    seen_before = pd.Series(schedule.order).duplicated().to_numpy()
    table = pd.DataFrame(
        {
            "SUBJECT": number + 1,
            "SESSION": trial // schedule.trials_per_session + 1,
            "RUN": within // per_run + 1,
            "TRIAL": within % per_run + 1,
            "73KID": ids + 1,
            "10KID": schedule.order + 1,
            "TIME": 736_600 + trial * 4 / 86_400,
            "ISOLD": seen_before.astype(int),
            "ISCORRECT": (rng.random(len(ids)) < 0.85).astype(int),
            "RT": np.round(rng.normal(900, 150, len(ids)), 1),
            "CHANGEMIND": 0,
            "MEMORYRECENT": np.where(seen_before, 1, np.nan),
            "MEMORYFIRST": np.where(seen_before, 1, np.nan),
            "ISOLDCURRENT": seen_before.astype(int),
            "ISCORRECTCURRENT": 1,
            "TOTAL1": 1,
            "TOTAL2": 0,
            "BUTTON": 1,
            "MISSINGDATA": 0,
        }
    )
    table.to_csv(path, sep="\t", index=False)
