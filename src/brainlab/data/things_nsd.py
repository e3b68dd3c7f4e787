"""EEG trials of THINGS pictures with the fMRI embedding of a similar NSD picture, seen by other people."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from brainlab.data.image_pairs import PreparedPairs, prepare_pairs
from brainlab.data.pair_sources import PairSettings, SplitKind
from brainlab.data.sampling import ResumableSampler, already_collated
from brainlab.data.splits import PARTS
from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.io.cache import Cache, code_digest
from brainlab.io.records import Records
from brainlab.prepare.reliability import repetition_cosines, target_ceilings, unit_rows
from brainlab.types import DataSource

__all__ = ["AlignmentTrials", "ThingsNsdData"]

log = logging.getLogger(__name__)

_THUMBNAIL_PX = 96
_EEG_SUBJECTS = 10  # of THINGS-EEG2


class AlignmentTrials(Dataset[dict[str, Tensor]]):
    """Records as batches: one gather per batch.

    A batch holds ``eeg`` (batch, channel, patch, time) float32 as scaled at packing; ``target`` (batch, subject, dim)
    float32 unit rows and ``target_mask`` (batch, subject); ``image_id``, ``label``, ``subject`` (of the EEG) and
    ``index`` (batch,) int64; ``target_id`` (batch, subject) int64.

    Args:
        records: the set.
        rows: record numbers of this part.
        patch_samples: samples per patch.
    """

    _FIELDS = ("eeg", "target", "target_mask", "target_id", "image_id", "label", "subject")

    def __init__(self, records: Records, rows: Int[np.ndarray, " example"], patch_samples: int) -> None:
        self.records, self.rows, self.patch_samples = records, rows, patch_samples

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        rows = self.rows[np.asarray(indices, dtype=np.int64)]
        batch = {name: torch.from_numpy(column) for name, column in self.records.gather(rows, self._FIELDS).items()}
        n, channels, times = batch["eeg"].shape
        batch["eeg"] = batch["eeg"].view(n, channels, times // self.patch_samples, self.patch_samples)
        batch["index"] = torch.from_numpy(rows)
        return batch

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}


class ThingsNsdData(LightningDataModule):
    """THINGS-EEG2 and NSD, paired through similar pictures; simulated where both roots are null.

    Args:
        things_root: folder of THINGS-EEG2; null simulates, and then ``nsd_root`` must be null too.
        nsd_root: folder of NSD.
        cache_dir: where prepared (and simulated) data are kept.
        size: of the simulation; ignored with files.
        subject: one person with EEG by number, in place of ``eeg_subjects``: what an array of preparations sweeps over.
        eeg_subjects: whose EEG.
        nsd_subjects: whose fMRI; several: only pictures matched in every one are used.
        eeg_container: which of the released files (see :mod:`brainlab.datasets.things_eeg`); null takes what is there.
        exclude_things_test: leave out the official test pictures of THINGS.
        sfreq_hz: rate of the EEG afterwards.
        patch_s: length of one patch; the window must be a multiple of it.
        amplitude: ``uv/100``, ``zscore``, ``robust`` (both per trial and channel) or ``none``.
        eeg_take_mean: average the trials of a picture at packing.
        fmri_take_mean: average the repetitions of a picture; false crosses EEG trials with fMRI repetitions.
        embedding: of pictures, for matching, clusters and the fitted ridge: ``descriptor``, ``open_clip`` or ``file``.
        embedding_file: see :func:`brainlab.prepare.embed.read_embedding`.
        clip_model: open_clip architecture.
        clip_pretrained: its weights: a tag, or a file.
        match: ``greedy``, ``optimal`` or ``candidate_list`` (as published code, may lose pairs).
        top_k: pairs per fMRI subject; null for all that exist.
        match_expansion: candidates per pair, ``candidate_list`` only.
        min_similarity: drop less similar pairs.
        target_intersection: pictures to keep of those matched in every fMRI subject; null for all.
        on_shortfall: what to do when there are fewer.
        split: ``concept`` (no concept in two parts), ``image``, ``subject`` (by concept, and the last EEG subject is
            tested while the others train and validate) or ``sklearn`` (pictures, as published code draws them).
        fractions: of the pairs for train, val and test.
        split_seed: of the split.
        n_clusters: picture clusters (labels).
        cluster_seed: of k-means.
        cluster_spherical: cluster directions instead of points.
        cluster_fit: ``train`` pairs, or ``all`` as published code does.
        beta_prep: which NSD betas.
        beta_normalisation: ``train`` (statistics of pictures in no held-out pair), ``session`` or ``none``.
        ridge_files: fMRI subject → MindEye2 checkpoint; null fits a ridge to the picture embedding.
        batch_size: trials per batch.
        num_workers: processes that read batches.
        seed: of the order of training batches.
        simulation_seed: of the simulated data.

    Raises:
        InvalidValue: for settings that contradict each other, such as one root without the other.
    """

    def __init__(
        self,
        *,
        cache_dir: str,
        things_root: str | None = None,
        nsd_root: str | None = None,
        size: Literal["tiny", "default"] = "default",
        subject: int | None = None,
        eeg_subjects: Sequence[str] = ("sub-01",),
        nsd_subjects: Sequence[str] = ("subj01", "subj02"),
        eeg_container: Literal["250hz", "250hz_white", "100hz"] | None = None,
        exclude_things_test: bool = True,
        sfreq_hz: float = 200.0,
        patch_s: float = 1.0,
        amplitude: Literal["uv/100", "zscore", "robust", "none"] = "uv/100",
        eeg_take_mean: bool = False,
        fmri_take_mean: bool = True,
        embedding: Literal["descriptor", "open_clip", "file"] = "descriptor",
        embedding_file: str | None = None,
        clip_model: str = "ViT-L-14",
        clip_pretrained: str = "openai",
        match: Literal["greedy", "optimal", "candidate_list"] = "greedy",
        top_k: int | None = None,
        match_expansion: int = 100,
        min_similarity: float | None = None,
        target_intersection: int | None = None,
        on_shortfall: Literal["warn", "raise"] = "warn",
        split: SplitKind = "concept",
        fractions: Sequence[float] = (0.8, 0.1, 0.1),
        split_seed: int = 42,
        n_clusters: int = 5,
        cluster_seed: int = 42,
        cluster_spherical: bool = False,
        cluster_fit: Literal["train", "all"] = "train",
        beta_prep: str = "betas_fithrf",
        beta_normalisation: Literal["train", "session", "none"] = "train",
        ridge_files: Mapping[str, str] | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
        simulation_seed: int = 0,
    ) -> None:
        super().__init__()
        if (things_root is None) != (nsd_root is None):
            missing, given = ("things_root", "nsd_root") if things_root is None else ("nsd_root", "things_root")
            raise InvalidValue(
                f"data.{missing}", None, f"expected a folder, because data.{given} is set",
                hint="set both for files, or neither for simulated data (also $BRAINLAB_THINGS_EEG and $BRAINLAB_NSD)",
            )  # fmt: skip
        for name, value, known in (
            ("size", size, ("tiny", "default")),
            ("split", split, ("concept", "image", "subject", "sklearn")),
            ("amplitude", amplitude, ("uv/100", "zscore", "robust", "none")),
            ("embedding", embedding, ("descriptor", "open_clip", "file")),
            ("match", match, ("greedy", "optimal", "candidate_list")),
            ("on_shortfall", on_shortfall, ("warn", "raise")),
            ("cluster_fit", cluster_fit, ("train", "all")),
            ("beta_normalisation", beta_normalisation, ("train", "session", "none")),
        ):
            if value not in known:
                raise InvalidValue(f"data.{name}", value, f"expected one of {', '.join(known)}")
        if subject is not None:
            if not isinstance(subject, int) or isinstance(subject, bool) or subject < 1:
                raise InvalidValue(
                    "data.subject", subject, "expected the number of a person with EEG, from 1 on, or null"
                )
            eeg_subjects = (f"sub-{subject:02d}",)
        for name, subjects in (("eeg_subjects", eeg_subjects), ("nsd_subjects", nsd_subjects)):
            if isinstance(subjects, str) or not subjects or len(set(subjects)) != len(subjects):
                raise InvalidValue(f"data.{name}", subjects, "expected a list of different subjects, at least one")
        if (embedding == "file") != (embedding_file is not None):
            raise InvalidValue(
                "data.embedding_file", embedding_file, "expected a file exactly when data.embedding=file"
            )
        if split == "subject" and len(eeg_subjects) < 2:
            raise InvalidValue(
                "data.eeg_subjects", list(eeg_subjects), "expected at least 2 subjects with data.split=subject"
            )
        unknown = set(ridge_files or {}) ^ set(nsd_subjects)
        if ridge_files is not None and unknown:
            raise InvalidValue(
                "data.ridge_files", dict(ridge_files), f"expected one file per fMRI subject ({min(unknown)})"
            )
        if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
            raise InvalidValue("data.fractions", list(fractions), "expected three numbers above 0 that sum to 1")
        for name, number, least in (
            ("batch_size", batch_size, 1),
            ("n_clusters", n_clusters, 1),
            ("num_workers", num_workers, 0),
            ("top_k", 1 if top_k is None else top_k, 1),
        ):
            if number < least:
                raise InvalidValue(f"data.{name}", number, f"expected at least {least}")
        for name, length in (("sfreq_hz", sfreq_hz), ("patch_s", patch_s)):
            if not length > 0:
                raise InvalidValue(f"data.{name}", length, "expected more than 0")
        self.settings = PairSettings(
            eeg_subjects=tuple(eeg_subjects),
            nsd_subjects=tuple(nsd_subjects),
            eeg_container=eeg_container,
            exclude_things_test=exclude_things_test,
            sfreq_hz=float(sfreq_hz),
            amplitude=amplitude,
            eeg_take_mean=eeg_take_mean,
            fmri_take_mean=fmri_take_mean,
            embedding=embedding,
            embedding_file=embedding_file,
            clip_model=clip_model,
            clip_pretrained=clip_pretrained,
            match=match,
            top_k=top_k,
            match_expansion=match_expansion,
            min_similarity=min_similarity,
            target_intersection=target_intersection,
            on_shortfall=on_shortfall,
            split=split,
            fractions=(float(fractions[0]), float(fractions[1]), float(fractions[2])),
            split_seed=split_seed,
            n_clusters=n_clusters,
            cluster_seed=cluster_seed,
            cluster_spherical=cluster_spherical,
            cluster_fit=cluster_fit,
            beta_prep=beta_prep,
            beta_normalisation=beta_normalisation,
            ridge_files=None if ridge_files is None else dict(ridge_files),
        )
        self.cache = Cache(cache_dir)
        self.things_root, self.nsd_root, self.subject = things_root, nsd_root, subject
        self.size: Literal["tiny", "default"] = size
        self.simulation_seed = simulation_seed
        self.patch_s = float(patch_s)
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.source: DataSource = "synthetic" if things_root is None else "files"
        self.fingerprint = ""
        self.train_sampler: ResumableSampler | None = None
        self._prepared: PreparedPairs | None = None
        self._records: Records | None = None

    # ---- preparation -----------------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Simulate where there are no roots, then build what the cache lacks."""
        if self.things_root is not None and self.nsd_root is not None:
            roots, known = (Path(self.things_root).expanduser(), Path(self.nsd_root).expanduser()), None
        else:
            simulated = self._simulate()
            roots = simulated / "things_eeg2", simulated / "nsd"
            known = {"things": f"simulated/{simulated.name}", "nsd": f"simulated/{simulated.name}"}
        try:
            self._prepared = prepare_pairs(*roots, self.cache, self.settings, known)
        except InvalidValue as error:
            if self.subject is None or error.name != "data.eeg_subjects":
                raise
            raise InvalidValue("data.subject", self.subject, error.expected, where=error.where) from error
        self.fingerprint = self._prepared.fingerprint

    def _simulate(self) -> Path:
        from brainlab.synthetic import image_pairs

        # Everyone of the real data set, whoever is asked for: the tasks of an array share one simulation.
        people = {} if self.subject is None else {"n_eeg_subjects": _EEG_SUBJECTS}

        def build(folder: Path) -> None:
            log.info("simulating THINGS-EEG2 and NSD of size %s", self.size)
            image_pairs.write_image_pairs(
                folder / "things_eeg2", folder / "nsd", self.size, self.simulation_seed, **people
            )

        # The code that draws the data is part of what they are.
        code = code_digest(*(f"synthetic/{name}.py" for name in ("image_pairs", "latents", "nsd", "things_eeg")))
        recipe = {"size": self.size, "seed": self.simulation_seed, "code": code, **people}
        return self.cache.get("image_pairs_simulated", recipe, {}, build)

    def setup(self, stage: str | None = None) -> None:
        """Open the records (of another process's preparation, where it was that one that prepared)."""
        if self._prepared is None:
            self.prepare_data()
        if self._records is not None and self._records.path == self._ready.records:
            return
        self._records = Records(self._ready.records)
        self._patch_samples = round(self.patch_s * self.settings.sfreq_hz)
        times = self._records.schema["eeg"][1][1]
        if self._patch_samples < 1 or times % self._patch_samples:
            raise ShapeMismatch(
                "data.patch_s",
                self.patch_s,
                f"expected patches that fill the window of {times / self.settings.sfreq_hz:g} s",
            )

    @property
    def _ready(self) -> PreparedPairs:
        if self._prepared is None:
            raise RuntimeError("call prepare_data() or setup() first")
        return self._prepared

    @property
    def records(self) -> Records:
        """The set of records; valid after ``setup``."""
        if self._records is None:
            raise RuntimeError("call setup() first")
        return self._records

    # ---- batches ---------------------------------------------------------------------------------------------------

    def dataset(self, part: str) -> AlignmentTrials:
        """Trials of ``train``, ``val`` or ``test``."""
        return AlignmentTrials(self.records, self.records.splits[part], self._patch_samples)

    def train_dataloader(self) -> DataLoader:
        trials = self.dataset("train")
        self.train_sampler = ResumableSampler(len(trials), self.batch_size, self.seed, shuffle=True)
        return self._loader(trials, self.train_sampler)

    def val_dataloader(self) -> DataLoader:
        return self._held_out("val")

    def test_dataloader(self) -> DataLoader:
        return self._held_out("test")

    def _held_out(self, part: str) -> DataLoader:
        trials = self.dataset(part)
        return self._loader(trials, ResumableSampler(len(trials), self.batch_size, self.seed, shuffle=False))

    def _loader(self, trials: AlignmentTrials, sampler: ResumableSampler) -> DataLoader:
        return DataLoader(trials, batch_sampler=sampler, num_workers=self.num_workers, collate_fn=already_collated)

    # ---- facts -----------------------------------------------------------------------------------------------------

    @property
    def shapes(self) -> Mapping[str, int]:
        """Sizes of a batch: n_channels, n_patches, patch_samples, n_subjects (fMRI), target_dim, n_labels."""
        channels, times = self.records.schema["eeg"][1]
        subjects, dim = self.records.schema["target"][1]
        return {
            "n_channels": channels,
            "n_patches": times // self._patch_samples,
            "patch_samples": self._patch_samples,
            "n_subjects": subjects,
            "target_dim": dim,
            "embed_dim": dim,
            "n_labels": self.settings.n_clusters,
        }

    @property
    def ch_names(self) -> tuple[str, ...]:
        """EEG channels in the order of the batches."""
        return tuple(self.records.header["ch_names"])

    def describe(self) -> dict[str, Any]:
        """Facts for the report."""
        facts = dict(self._ready.facts)
        return {
            "dataset": "things_nsd",
            "name": self._ready.records.name,
            "source": self.source,
            **({"size": self.size} if self.source == "synthetic" else {}),
            "eeg_subjects": list(self.settings.eeg_subjects),
            "nsd_subjects": list(self.settings.nsd_subjects),
            **facts,
            "trials": len(self.records),
            "trials_per_split": {part: len(self.records.splits[part]) for part in PARTS},
            "channels": self.shapes["n_channels"],
            "sfreq_hz": self.settings.sfreq_hz,
            "amplitude": self.settings.amplitude,
            "target_dim": self.shapes["target_dim"],
            "clusters": np.bincount(self._ready.labels, minlength=self.settings.n_clusters).tolist(),
            "fmri_reliability": self._reliability("test"),
            "saw_held_out_data": self._leaks(),
        }

    def _leaks(self) -> list[str]:
        """Choices of published work that look at held-out pairs; empty unless they were asked for."""
        asked = {
            "cluster labels": self.settings.cluster_fit == "all",
            "beta z-scores": self.settings.beta_normalisation == "session",
            "split by picture: concepts of test pictures were trained on": self.settings.split in ("image", "sklearn"),
        }
        return [what for what, leaks in asked.items() if leaks]

    def _reliability(self, part: str) -> dict[str, dict[str, float]]:
        """fMRI subject → mean cosine between the embedded repetitions of a picture, by pair of repetitions."""
        found = {subject: repetition_cosines(reps) for subject, reps in self._repetitions(part).items()}
        return {
            subject: {pair: round(float(np.nanmean(values)), 4) for pair, values in cosines.items() if len(values)}
            for subject, cosines in found.items()
        }

    def _repetitions(self, part: str) -> dict[str, Float[np.ndarray, "image rep dim"]]:
        rows = self._ready.split.parts()[part]
        return {
            subject: np.asarray(projection.reps[np.searchsorted(projection.reps_of, rows)])
            for subject, projection in self._ready.projections.items()
            if np.isin(rows, projection.reps_of).all()
        }

    # ---- evaluation ------------------------------------------------------------------------------------------------

    def test_gallery(self) -> dict[str, Any]:
        """Pictures of the test pairs.

        Returns:
            ``ids`` (n,) THINGS picture, ``target_ids`` (n, subject) NSD picture, ``concepts``, ``labels`` (n,), and
            ``thumbnails(id, side)`` → uint8 (96, 96, 3), where ``id`` is a THINGS picture of any pair and ``side`` is
            ``"eeg"`` for itself or ``"fmri"`` for the NSD picture of the first fMRI subject that it is paired with.
        """
        ready = self._ready
        rows = ready.split.test
        return {
            "ids": ready.pairs.left[rows],
            "target_ids": np.stack([ids[rows] for ids in ready.pairs.right.values()], axis=1),
            "concepts": [ready.concepts[row] for row in rows],
            "labels": ready.labels[rows],
            "thumbnails": self._thumbnails,
        }

    @cached_property
    def _thumbnails(self) -> Callable[..., UInt8[np.ndarray, "96 96 3"]]:
        ready = self._ready
        pair_of = {int(image): pair for pair, image in enumerate(ready.pairs.left)}
        first = next(iter(ready.pairs.right.values()))

        def thumbnail(image_id: int, side: str = "eeg") -> UInt8[np.ndarray, "96 96 3"]:
            from PIL import Image

            from brainlab.datasets.nsd import read_images
            from brainlab.datasets.things_eeg import read_pictures

            if side == "eeg":
                return read_pictures(ready.index, [int(image_id)], _THUMBNAIL_PX)[0]
            if side != "fmri" or int(image_id) not in pair_of:
                raise InvalidValue(
                    "picture", f"{image_id} ({side})", "expected a paired THINGS picture and eeg or fmri"
                )
            picture = read_images(ready.nsd_root, [int(first[pair_of[int(image_id)]])])[0]
            return np.asarray(Image.fromarray(picture).resize((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.BICUBIC))

        return thumbnail

    def ceilings(self, split: str = "test") -> dict[str, float]:
        """What a score on the unique pictures of a part can be read against (top-1).

        Returns:
            ``bayes_single_trial`` and ``bayes_averaged`` where the data are simulated (the best possible decoder of one
            trial, and of the mean over a picture's trials, of the EEG subjects in this part), and the keys of
            :func:`brainlab.prepare.reliability.target_ceilings`.
        """
        ready = self._ready
        rows = ready.split.parts()[split]
        result: dict[str, float] = {}
        if self.source == "synthetic" and len(rows) > 1:
            from brainlab.synthetic.image_pairs import planted_ceiling

            columns = self.records.gather(self.records.splits[split], ("subject", "image_id"))
            single, averaged = [], []
            for subject in np.unique(columns["subject"]).tolist():
                images = columns["image_id"][columns["subject"] == subject]
                n_trials = int(np.median(np.unique(images, return_counts=True)[1]))
                name = self.settings.eeg_subjects[subject]
                single.append(planted_ceiling(ready.things_root, name, ready.pairs.left[rows], 1))
                averaged.append(planted_ceiling(ready.things_root, name, ready.pairs.left[rows], n_trials))
            result["bayes_single_trial"] = float(np.mean(single))
            result["bayes_averaged"] = float(np.mean(averaged))
        targets = np.stack([np.asarray(projection.target[rows]) for projection in ready.projections.values()], axis=1)
        return result | target_ceilings(unit_rows(targets), self._repetitions(split), ready.labels[rows])
