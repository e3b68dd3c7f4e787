"""What is taken from THINGS-EEG2 and NSD before they are paired: EEG trials and fMRI betas of each person, and what the
pictures look like. Every result lies in the cache under its settings and the fingerprints of the files behind it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from brainlab.datasets import nsd, things_eeg
from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.io.cache import Cache, code_digest
from brainlab.prepare import image_pairs as steps
from brainlab.prepare.betas import BetaNormalisation
from brainlab.prepare.embed import Descriptor, Encoder, OpenClipEncoder, read_embedding
from brainlab.prepare.pack import records_name

__all__ = ["Embeddings", "PairSettings", "PairSources", "SplitKind"]

log = logging.getLogger(__name__)

SplitKind = Literal["concept", "image", "subject", "sklearn"]

_THINGS_EEG_FILES = ("*/{0}/*", "project/eeg_dataset/preprocessed_data/{0}/*", "eeg_dataset/preprocessed_data/{0}/*")


@dataclass(frozen=True)
class PairSettings:
    """Every setting that a prepared set of records depends on; :class:`~brainlab.data.things_nsd.ThingsNsdData`
    documents them."""

    eeg_subjects: tuple[str, ...]
    nsd_subjects: tuple[str, ...]
    eeg_container: things_eeg.Container | None
    exclude_things_test: bool
    sfreq_hz: float
    amplitude: Literal["uv/100", "zscore", "robust", "none"]
    eeg_take_mean: bool
    fmri_take_mean: bool
    embedding: Literal["descriptor", "open_clip", "file"]
    embedding_file: str | None
    clip_model: str
    clip_pretrained: str
    match: Literal["greedy", "optimal", "candidate_list"]
    top_k: int | None
    match_expansion: int
    min_similarity: float | None
    target_intersection: int | None
    on_shortfall: Literal["warn", "raise"]
    split: SplitKind
    fractions: tuple[float, float, float]
    split_seed: int
    n_clusters: int
    cluster_seed: int
    cluster_spherical: bool
    cluster_fit: Literal["train", "all"]
    beta_prep: str
    beta_normalisation: BetaNormalisation
    ridge_files: Mapping[str, str] | None


@dataclass(frozen=True)
class Embeddings:
    """The pictures of both data sets in one space, and the cache's keys of both."""

    things: steps.Embedding
    nsd: steps.Embedding
    keys: Mapping[str, str]


class PairSources:
    """The raw roots and what the cache holds of them.

    Args:
        things_root: folder of THINGS-EEG2.
        nsd_root: folder of NSD.
        cache: where results are kept.
        settings: what they depend on.
        fingerprints: of the roots ``things`` and ``nsd`` where they are known (simulated data).
    """

    def __init__(
        self,
        things_root: Path,
        nsd_root: Path,
        cache: Cache,
        settings: PairSettings,
        fingerprints: Mapping[str, str] | None = None,
    ) -> None:
        self.things_root, self.nsd_root, self.cache, self.settings = things_root, nsd_root, cache, settings
        self.known = dict(fingerprints or {})

    def expect_subjects(self) -> None:
        """Say at once who is missing, instead of after the others were prepared."""
        present = {
            "eeg_subjects": (
                self.things_root,
                things_eeg.subjects_present(self.things_root, self.settings.eeg_container),
            ),
            "nsd_subjects": (self.nsd_root, nsd.subjects_present(self.nsd_root)),
        }
        for key, (root, there) in present.items():
            absent = [name for name in getattr(self.settings, key) if name not in there]
            if absent and there:  # the reader of an empty root says what it should hold
                raise InvalidValue(f"data.{key}", absent[0], f"expected one of {', '.join(there)}", where=str(root))

    def eeg(self, index: things_eeg.ImageIndex) -> dict[str, Path]:
        """Trials of each person, resampled; their folders by name."""
        start = time.monotonic()
        parts: tuple[things_eeg.Part, ...] = (
            ("training",) if self.settings.exclude_things_test else ("training", "test")
        )
        folders = {}
        for subject in self.settings.eeg_subjects:

            def build(folder: Path, subject: str = subject) -> None:
                for part in parts:
                    steps.save_epochs(
                        folder,
                        self.things_root,
                        subject,
                        part,
                        self.settings.sfreq_hz,
                        index,
                        self.settings.eeg_container,
                    )

            recipe = {
                "subject": subject, "parts": list(parts), "sfreq_hz": self.settings.sfreq_hz,
                "container": self.settings.eeg_container,
            }  # fmt: skip
            folders[subject] = self.get("things_epochs", recipe, {"eeg": self._eeg_fingerprint(subject)}, build)
        facts = {subject: steps.load_epochs(folder, "training")[0] for subject, folder in folders.items()}
        names = {subject: fact.ch_names for subject, fact in facts.items()}
        first = self.settings.eeg_subjects[0]
        for subject, ch_names in names.items():
            if ch_names != names[first]:
                raise ShapeMismatch(
                    f"channels of {subject}", len(ch_names), f"expected the {len(names[first])} channels of {first}",
                    hint="give all subjects the same container",
                )  # fmt: skip
        trials = sum(fact.n_images * fact.n_repetitions for fact in facts.values())
        self.say("things", f"{len(index)} pictures, {trials} training trials of {', '.join(folders)}", start)
        return folders

    def fmri(self) -> dict[str, Path]:
        """Betas of each person inside ``nsdgeneral``; their folders by name."""
        start = time.monotonic()
        folders = {}
        for subject in self.settings.nsd_subjects:

            def build(folder: Path, subject: str = subject) -> None:
                steps.save_fmri(folder, self.nsd_root, subject, self.settings.beta_prep)

            recipe = {"subject": subject, "prep": self.settings.beta_prep}
            folders[subject] = self.get("nsd_betas", recipe, {"nsd": self._nsd_fingerprint(subject)}, build)
        shapes = {subject: steps.load_fmri(folder).betas.shape for subject, folder in folders.items()}
        told = ", ".join(f"{subject} {trials} trials × {voxels} voxels" for subject, (trials, voxels) in shapes.items())
        self.say("nsd", told, start)
        return folders

    def embed(self, index: things_eeg.ImageIndex, eligible: np.ndarray, fmri: Mapping[str, Path]) -> Embeddings:
        """The pictures that may be paired: of THINGS the ``eligible`` ones, of NSD those that somebody saw."""
        start = time.monotonic()
        seen = np.unique(np.concatenate([steps.load_fmri(folder).picture for folder in fmri.values()]))
        recipe: dict[str, Any] = {"encoder": self.encoder_name}
        extra: dict[str, str] = {}
        encoder: Encoder | None = None
        if self.settings.embedding == "file":
            path = Path(str(self.settings.embedding_file))
            files = sorted(path.glob("*.npy")) if path.is_dir() else [path]
            extra["embedding_file"] = self.cache.fingerprint_files(files, path.parent)
        else:
            encoder = self._encoder()

        def build_things(folder: Path) -> None:
            if encoder is None:
                steps.save_embedding(
                    folder, eligible, read_embedding(str(self.settings.embedding_file), "things", eligible)
                )
            else:
                steps.embed_things(folder, index, eligible.tolist(), encoder)

        def build_nsd(folder: Path) -> None:
            if encoder is None:
                steps.save_embedding(folder, seen, read_embedding(str(self.settings.embedding_file), "nsd", seen))
            else:
                steps.embed_nsd(folder, self.nsd_root, seen.tolist(), encoder)

        inputs = {"pictures": self._picture_fingerprint(index), **extra}
        things = self.get("picture_embedding", {**recipe, "side": "things", "n": len(eligible)}, inputs, build_things)
        inputs = {"pictures": self._brick_fingerprint(), **{n: p.name for n, p in fmri.items()}, **extra}
        pictures = self.get("picture_embedding", {**recipe, "side": "nsd"}, inputs, build_nsd)
        loaded = steps.load_embedding(things), steps.load_embedding(pictures)
        widths = [embedding.rows.shape[1] for embedding in loaded]
        if widths[0] != widths[1]:
            raise ShapeMismatch("embeddings", f"{widths[0]} and {widths[1]}", "expected one width on both sides")
        self.say("embed", f"{len(eligible)} + {len(seen)} pictures, {widths[0]} values ({self.encoder_name})", start)
        return Embeddings(*loaded, {"things": things.name, "nsd": pictures.name})

    # ---- names and fingerprints ------------------------------------------------------------------------------------

    @cached_property
    def name(self) -> str:
        """What the records are called."""
        s = self.settings
        return records_name(s.eeg_subjects, s.nsd_subjects, s.exclude_things_test, s.sfreq_hz)

    @cached_property
    def encoder_name(self) -> str:
        """What the pictures are embedded by."""
        return "file" if self.settings.embedding == "file" else self._encoder().name

    def _encoder(self) -> Encoder:
        if self.settings.embedding == "open_clip":
            return OpenClipEncoder(self.settings.clip_model, self.settings.clip_pretrained)
        return Descriptor()

    def get(
        self, kind: str, recipe: Mapping[str, Any], inputs: Mapping[str, str], build: Callable[[Path], None]
    ) -> Path:
        """The cache's folder with this result; the code that makes it is part of what it depends on."""
        return self.cache.get(kind, {**recipe, "code": code_digest("prepare", "signal", "datasets")}, inputs, build)

    def say(self, step: str, told: str, start: float) -> None:
        """One line on a step that is done."""
        log.info("prepare %s: %s (%.1f s)", step, told, time.monotonic() - start)

    def _eeg_fingerprint(self, subject: str) -> str:
        if "things" in self.known:
            return self.known["things"]
        files = [
            f for pattern in _THINGS_EEG_FILES for f in self.things_root.glob(pattern.format(subject)) if f.is_file()
        ]
        metadata = [f for depth in ("", "*/", "*/*/") for f in self.things_root.glob(f"{depth}image_metadata.npy")]
        return self.cache.fingerprint_files({*files, *metadata}, self.things_root)

    def _picture_fingerprint(self, index: things_eeg.ImageIndex) -> str:
        return self.known.get("things") or self.cache.fingerprint_files(index.paths, self.things_root)

    def _nsd_fingerprint(self, subject: str) -> str:
        if "nsd" in self.known:
            return self.known["nsd"]
        files = nsd.session_files(self.nsd_root, subject, self.settings.beta_prep)
        experiment = self.nsd_root / "nsddata" / "experiments" / "nsd"
        roi = self.nsd_root / "nsddata" / "ppdata" / subject / "func1pt8mm" / "roi" / "nsdgeneral.nii.gz"
        more = [experiment / "nsd_stim_info_merged.csv", experiment / "nsd_expdesign.mat", roi]
        return self.cache.fingerprint_files([*files, *(f for f in more if f.is_file())], self.nsd_root)

    def _brick_fingerprint(self) -> str:
        if "nsd" in self.known:
            return self.known["nsd"]
        brick = self.nsd_root / nsd.STIMULUS_FILE
        if self.settings.embedding == "file" and not brick.is_file():
            return "none"
        return self.cache.fingerprint_files([brick], self.nsd_root)
