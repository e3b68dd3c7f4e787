"""Writes THINGS-EEG2 and NSD together: two raw data sets whose pictures share one planted code.

Every picture has a latent vector. Pictures of one THINGS concept share its mean; the NSD partner of a THINGS picture
has the same latent vector but for a small deviation, and is drawn with another grain. EEG (:mod:`~brainlab.synthetic
.things_eeg`), fMRI (:mod:`~brainlab.synthetic.nsd`) and the picture's smooth colours are functions of that vector. Each
root gets ``planted.npz`` (arrays) and ``planted.json`` (parameters), from which :func:`planted_ceiling` computes what
the best possible decoder would score.

How hard it is: the information that one EEG trial holds (``eeg_information``) was set so that the best possible
decoder names the right one of 140 pictures (14 concepts × 10) in about 80 % of single trials.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from brainlab.datasets.things_eeg import CHANNELS_63
from brainlab.errors import InvalidFile, InvalidValue
from brainlab.synthetic import nsd, things_eeg
from brainlab.synthetic.latents import PictureRenderer, bayes_top1, concept_latents

__all__ = ["SIZES", "ImagePairs", "planted_ceiling", "write_image_pairs"]

Size = Literal["tiny", "default"]


@dataclass(frozen=True)
class ImagePairs:
    """Parameters of the two data sets; see the two presets in ``SIZES``.

    Attributes:
        n_train_concepts: THINGS training concepts.
        images_per_concept: pictures of each.
        n_test_images: THINGS test pictures, each of a concept of its own.
        n_eeg_subjects: people with EEG.
        train_repetitions: EEG trials per training picture.
        test_repetitions: EEG trials per test picture.
        eeg_containers: ``"250hz"`` and/or ``"100hz"``.
        picture_px: size of the THINGS pictures.
        latent_dim: length of a latent vector.
        within_concept_sd: spread of the pictures of one concept; total variance is 1.
        eeg_information: mean Fisher information of one EEG trial on one latent.
        subject_deviation: a subject's own part of the EEG patterns relative to the common part.
        noise_uv: standard deviation of the EEG noise.
        scalp_length: distance over which noise and topographies change, in head radii.
        sensor_share: share of noise variance that is independent between channels.
        n_components: damped waves that build the EEG time courses.
        n_modes: smooth topographies that build the EEG patterns.
        n_fmri_subjects: people with fMRI.
        shared_partners: NSD pictures that all fMRI subjects see and that have a THINGS partner.
        own_partners: such pictures that only one subject sees, per subject (each subject its own).
        shared_strangers: NSD pictures that all subjects see, without partner.
        fmri_repetitions: trials per NSD picture.
        trials_per_session: fMRI trials in one session.
        volume: voxels in x, y, z.
        roi_share: share of the volume inside nsdgeneral.
        fmri_snr: signal sd / noise sd of a voxel in one trial.
        fmri_containers: ``"hdf5"`` and/or ``"nii.gz"``.
        partner_deviation: standard deviation of a partner's latent vector from its THINGS picture, per latent.
        brick_px: size of the NSD pictures.
    """

    n_train_concepts: int = 105
    images_per_concept: int = 10
    n_test_images: int = 20
    n_eeg_subjects: int = 2
    train_repetitions: int = 4
    test_repetitions: int = 8
    eeg_containers: tuple[str, ...] = ("250hz",)
    picture_px: int = 224
    latent_dim: int = 16
    within_concept_sd: float = 0.8
    eeg_information: float = 1.25
    subject_deviation: float = 0.3
    noise_uv: float = 14.0
    scalp_length: float = 0.7
    sensor_share: float = 0.05
    n_components: int = 8
    n_modes: int = 8
    n_fmri_subjects: int = 2
    shared_partners: int = 300
    own_partners: int = 750
    shared_strangers: int = 150
    fmri_repetitions: int = 3
    trials_per_session: int = 600
    volume: tuple[int, int, int] = (14, 16, 12)
    roi_share: float = 0.14
    fmri_snr: float = 0.7
    fmri_containers: tuple[str, ...] = ("hdf5",)
    partner_deviation: float = 0.2
    brick_px: int = 64


SIZES: dict[str, ImagePairs] = {
    # Half the trials of the real data set: a first run on a laptop ends in minutes.
    "default": ImagePairs(train_repetitions=2),
    "tiny": ImagePairs(
        n_train_concepts=12,
        images_per_concept=2,
        n_test_images=6,
        eeg_containers=("250hz", "100hz"),
        # With so few pictures only a strong signal can be told from none.
        eeg_information=4.0,
        shared_partners=6,
        own_partners=16,
        shared_strangers=2,
        trials_per_session=36,
        volume=(6, 7, 5),
        roi_share=0.19,
        fmri_containers=("hdf5", "nii.gz"),
        brick_px=8,
    ),
}


def write_image_pairs(
    things_root: Path | str, nsd_root: Path | str, size: Size = "default", seed: int = 0, **parameters: Any
) -> None:
    """Write both raw trees.

    Args:
        things_root: folder for THINGS-EEG2; created.
        nsd_root: folder for NSD; created.
        size: preset.
        seed: same seed, same files.
        parameters: fields of :class:`ImagePairs` that differ from the preset.

    Raises:
        InvalidValue: if the size or a parameter is unknown or impossible.
    """
    p = _parameters(size, parameters)
    things_root, nsd_root = Path(things_root), Path(nsd_root)
    things_root.mkdir(parents=True, exist_ok=True)
    nsd_root.mkdir(parents=True, exist_ok=True)

    rng = np.random.default_rng([seed, 1])
    n_train = p.n_train_concepts * p.images_per_concept
    concept = np.concatenate(
        [
            np.repeat(np.arange(p.n_train_concepts), p.images_per_concept),
            p.n_train_concepts + np.arange(p.n_test_images),
        ]
    )
    things_latents = concept_latents(concept, p.latent_dim, p.within_concept_sd, rng)
    nsd_latents, partner, picture_ids = _nsd_pictures(p, things_latents[:n_train], rng)
    renderer = PictureRenderer.fitting(np.concatenate([things_latents, nsd_latents]))

    record = {"size": size, "seed": seed, **asdict(p), "picture_gain": renderer.gain}
    _write_things(things_root, p, seed, things_latents, n_train, concept, renderer, record)
    _write_nsd(nsd_root, p, seed, nsd_latents, partner, picture_ids, renderer, record)


def planted_ceiling(
    things_root: Path | str,
    subject: str,
    image_indices: Int[np.ndarray, " image"],
    n_trials: int = 1,
    seed: int = 0,
) -> float:
    """Top-1 of the best possible decoder of simulated EEG on the gallery ``image_indices``.

    The decoder knows the patterns, the noise covariance and the latent vectors of the gallery's pictures, all equally
    likely; see :func:`~brainlab.synthetic.latents.bayes_top1`.

    Args:
        things_root: a root that :func:`write_image_pairs` wrote.
        subject: e.g. ``"sub-01"``.
        image_indices: pictures of the gallery, as in :class:`~brainlab.datasets.things_eeg.ImageIndex`.
        n_trials: trials averaged before decoding.
        seed: of the simulated statistics.

    Raises:
        InvalidFile: if the root was not simulated.
        InvalidValue: if the subject is unknown.
    """
    path = Path(things_root) / "planted.npz"
    if not path.is_file():
        raise InvalidFile("file", path, "missing, only simulated data have a planted ceiling")
    with np.load(path) as planted:
        key = f"information_{subject}"
        if key not in planted:
            known = ", ".join(sorted(k.removeprefix("information_") for k in planted if k.startswith("information_")))
            raise InvalidValue("subject", subject, f"expected one of {known}", where=str(path))
        latents, information = planted["latents"][np.asarray(image_indices)], planted[key]
    return bayes_top1(latents, information, n_trials, np.random.default_rng(seed))


def _parameters(size: str, parameters: dict[str, Any]) -> ImagePairs:
    if size not in SIZES:
        raise InvalidValue("size", size, f"expected one of {', '.join(SIZES)}")
    known = {f.name for f in fields(ImagePairs)}
    for name in parameters:
        if name not in known:
            raise InvalidValue(name, parameters[name], f"unknown parameter, expected one of {', '.join(sorted(known))}")
    p = replace(SIZES[size], **parameters)
    trials = (p.shared_partners + p.own_partners + p.shared_strangers) * p.fmri_repetitions
    if trials % p.trials_per_session:
        raise InvalidValue(
            "trials_per_session", p.trials_per_session, f"expected a divisor of the {trials} fMRI trials"
        )
    if p.shared_partners + p.own_partners > p.n_train_concepts * p.images_per_concept:
        raise InvalidValue(
            "own_partners", p.own_partners, "expected at most one NSD partner per THINGS training picture"
        )
    return p


def _nsd_pictures(
    p: ImagePairs, things: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latents and THINGS partner (−1 = none) by 73k id, and each subject's ids with the shared ones first."""
    chosen = rng.permutation(len(things))[: p.shared_partners + p.own_partners]
    shared, own = chosen[: p.shared_partners], chosen[p.shared_partners :]
    strangers = concept_latents(np.arange(p.shared_strangers), p.latent_dim, p.within_concept_sd, rng)
    partner = np.concatenate([shared, np.full(p.shared_strangers, -1), *[own] * p.n_fmri_subjects])
    latents = np.empty((len(partner), p.latent_dim))
    has = partner >= 0
    deviation = rng.standard_normal((int(has.sum()), p.latent_dim)) * p.partner_deviation
    latents[has] = things[partner[has]] + deviation
    latents[~has] = strangers
    # Ids carry no order: neither partners nor subjects can be told from them.
    position = rng.permutation(len(partner))
    n_shared = p.shared_partners + p.shared_strangers
    common = rng.permutation(n_shared)
    rows = [
        np.concatenate([common, rng.permutation(n_shared + s * p.own_partners + np.arange(p.own_partners))])
        for s in range(p.n_fmri_subjects)
    ]
    by_id = np.empty(len(partner), np.int64)
    by_id[position] = np.arange(len(partner))
    return latents[by_id], partner[by_id], position[np.stack(rows)]


def _write_things(
    root: Path,
    p: ImagePairs,
    seed: int,
    latents: np.ndarray,
    n_train: int,
    concept: np.ndarray,
    renderer: PictureRenderer,
    record: dict[str, Any],
) -> None:
    train, test, train_things, test_things = things_eeg.concept_folders(p.n_train_concepts, p.n_test_images)
    things_eeg.write_image_set(
        root,
        list(zip(train, train_things, strict=True)),
        list(zip(test, test_things, strict=True)),
        p.images_per_concept,
        latents[:n_train],
        latents[n_train:],
        renderer,
        p.picture_px,
        np.random.default_rng([seed, 2]),
    )
    arrays: dict[str, np.ndarray] = {"latents": latents, "concept": concept}
    grids = {"250hz": np.arange(250) / 250.0, "100hz": np.arange(-20, 80) / 100.0}
    for s in range(p.n_eeg_subjects):
        subject = f"sub-{s + 1:02d}"
        for container, times in grids.items():
            if container not in p.eeg_containers:
                continue
            model = things_eeg.EegModel.draw(
                subject=s,
                dim=p.latent_dim,
                times_s=times,
                information=p.eeg_information,
                subject_deviation=p.subject_deviation,
                noise_uv=p.noise_uv,
                scalp_length=p.scalp_length,
                sensor_share=p.sensor_share,
                n_components=p.n_components,
                n_modes=p.n_modes,
                seed=seed,
            )
            for i, (part, rows, repetitions) in enumerate(
                (("training", latents[:n_train], p.train_repetitions), ("test", latents[n_train:], p.test_repetitions))
            ):
                rng = np.random.default_rng([seed, 3, s, i, len(times)])
                if container == "250hz":
                    things_eeg.write_eeg_250(root, subject, part, model, rows, repetitions, rng)
                else:
                    things_eeg.write_eeg_17(root, subject, part, model, rows, repetitions, times, rng)
            if container == "250hz":
                arrays[f"information_{subject}"] = model.information
                arrays[f"patterns_{subject}"] = model.patterns.astype(np.float32)
                arrays[f"evoked_{subject}"] = model.evoked.astype(np.float32)
                arrays["noise_spatial"] = model.spatial
                arrays["noise_temporal"] = model.temporal
    held_out = np.arange(min(n_train, 14 * p.images_per_concept))
    information = next((v for k, v in arrays.items() if k.startswith("information_")), None)
    if information is not None:
        rng = np.random.default_rng([seed, 4])
        record = record | {
            "ceiling_pictures": len(held_out),
            "ceiling_single_trial": bayes_top1(latents[held_out], information, 1, rng),
            "ceiling_averaged": bayes_top1(latents[held_out], information, p.train_repetitions, rng),
        }
    _save_planted(root, arrays, record | {"channels": CHANNELS_63})


def _write_nsd(
    root: Path,
    p: ImagePairs,
    seed: int,
    latents: np.ndarray,
    partner: np.ndarray,
    picture_ids: np.ndarray,
    renderer: PictureRenderer,
    record: dict[str, Any],
) -> None:
    schedule = nsd.make_schedule(
        picture_ids,
        p.shared_partners + p.shared_strangers,
        p.fmri_repetitions,
        p.trials_per_session,
        np.random.default_rng([seed, 5]),
    )
    nsd.write_experiment(root, schedule, len(latents))
    nsd.write_images(root, renderer.render(latents, p.brick_px, np.random.default_rng([seed, 6])))
    mask = nsd.draw_mask(p.volume, p.roi_share)
    arrays: dict[str, np.ndarray] = {"latents": latents, "things_partner": partner}
    for s in range(p.n_fmri_subjects):
        rng = np.random.default_rng([seed, 7, s])
        model = nsd.VoxelModel.draw(int((mask > 0).sum()), p.latent_dim, p.fmri_snr, rng)
        nsd.write_subject(root, s, schedule, latents, mask, model, rng, p.fmri_containers)
        arrays[f"information_subj{s + 1:02d}"] = model.information
        arrays[f"weights_subj{s + 1:02d}"] = model.weights
    _save_planted(root, arrays, record)


def _save_planted(root: Path, arrays: dict[str, np.ndarray], record: dict[str, Any]) -> None:
    np.savez(root / "planted.npz", **arrays)  # type: ignore[arg-type]
    (root / "planted.json").write_text(json.dumps(record, indent=2, default=list) + "\n")
