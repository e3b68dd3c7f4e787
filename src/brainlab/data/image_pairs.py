"""From the roots of THINGS-EEG2 and NSD to alignment records, step by step through the cache.

The order is things → nsd → embed → match → split → cluster → project → pack. The split comes before everything that
is fitted: clusters see training pairs, the ridge and the beta normalisation see NSD pictures of no held-out pair.
"""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int

from brainlab.data.picture_split import PictureSplitKind, split_pairs
from brainlab.data.splits import PARTS, Split
from brainlab.datasets import nsd, things_eeg
from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.io.cache import Cache, code_digest
from brainlab.io.records import write_records
from brainlab.prepare import image_pairs as steps
from brainlab.prepare.betas import BetaNormalisation
from brainlab.prepare.cluster import fit_clusters
from brainlab.prepare.embed import Descriptor, Encoder, OpenClipEncoder, read_embedding
from brainlab.prepare.epochs import scale_epochs, warn_if_unusual
from brainlab.prepare.match import MultiMatching, intersect_matchings, match
from brainlab.prepare.pack import PairTargets, alignment_rows, alignment_schema, records_name

__all__ = ["PairSettings", "PreparedPairs", "SplitKind", "prepare_pairs"]

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
class PreparedPairs:
    """Where everything lies, and what the report says about it."""

    folder: Path
    records: Path
    pairs: MultiMatching
    split: Split
    labels: Int[np.ndarray, " pair"]
    projections: Mapping[str, steps.Projection]
    concepts: tuple[str, ...]
    things_root: Path
    nsd_root: Path
    fingerprint: str
    facts: Mapping[str, Any]

    @cached_property
    def index(self) -> things_eeg.ImageIndex:
        """The pictures of THINGS."""
        return things_eeg.read_image_index(self.things_root)


def prepare_pairs(
    things_root: Path,
    nsd_root: Path,
    cache: Cache,
    settings: PairSettings,
    fingerprints: Mapping[str, str] | None = None,
) -> PreparedPairs:
    """Build what is missing and return where it is.

    Args:
        fingerprints: of the roots ``things`` and ``nsd`` where they are known (simulated data); default the files are
            hashed, and their hashes remembered.

    Raises:
        InvalidValue: for 0 pairs, or too few concepts for a split.
        InvalidFile, ShapeMismatch: whatever the files are refused for.
    """
    try:
        return _Pipeline(things_root, nsd_root, cache, settings, fingerprints).run()
    except InvalidValue as error:
        roots = {"data.things_root": things_root, "data.nsd_root": nsd_root}
        key = next((key for key, root in roots.items() if str(root) in str(error)), None)
        if fingerprints or key is None or "data." in error.name:
            raise
        raise error.because_of(key) from error


class _Pipeline:
    def __init__(
        self,
        things_root: Path,
        nsd_root: Path,
        cache: Cache,
        settings: PairSettings,
        fingerprints: Mapping[str, str] | None,
    ) -> None:
        self.things_root, self.nsd_root, self.cache, self.set = things_root, nsd_root, cache, settings
        self.known = dict(fingerprints or {})

    def run(self) -> PreparedPairs:
        s = self.set
        index = things_eeg.read_image_index(self.things_root)
        self._expect_subjects()
        eligible = np.arange(index.n_train if s.exclude_things_test else len(index))
        epochs = self._things(index)
        fmri = self._nsd()
        things, pictures = self._embed(index, eligible, fmri)
        matched = self._match(things, pictures, fmri)
        pairs = steps.load_pairs(matched / "pairs.csv", s.nsd_subjects)
        concepts = tuple(index.concepts[i] for i in pairs.left)
        split_folder, split = self._split(matched, pairs, concepts)
        clusters, labels = self._cluster(split_folder, pairs, split, things, pictures)
        projected = self._project(split_folder, pairs, split, fmri, pictures)
        folder = self._pack(split_folder, clusters, projected, epochs, pairs, split, labels)
        projections = {subject: steps.load_projection(path) for subject, path in projected.items()}
        facts = {
            "pictures": {
                "things": len(eligible),
                "nsd": {subject: int(projections[subject].facts["pictures"]) for subject in s.nsd_subjects},
            },
            "pairs": len(pairs),
            "pairs_per_split": {part: len(rows) for part, rows in split.parts().items()},
            "concepts_per_split": {part: len({concepts[row] for row in rows}) for part, rows in split.parts().items()},
            "split": s.split,
            "embedding": self.encoder_name,
            "matching": {
                "method": s.match,
                "similarity_median": float(np.median(pairs.mean_similarity)),
                "similarity_min": float(pairs.mean_similarity.min()),
            },
            "ridge": {subject: dict(projections[subject].facts) for subject in s.nsd_subjects},
        }
        return PreparedPairs(
            folder, folder / self.name, pairs, split, labels, projections, concepts, self.things_root, self.nsd_root,
            folder.name, facts,
        )  # fmt: skip

    def _expect_subjects(self) -> None:
        """Say at once who is missing, instead of after the others were prepared."""
        present = {
            "eeg_subjects": (self.things_root, things_eeg.subjects_present(self.things_root, self.set.eeg_container)),
            "nsd_subjects": (self.nsd_root, nsd.subjects_present(self.nsd_root)),
        }
        for key, (root, there) in present.items():
            absent = [name for name in getattr(self.set, key) if name not in there]
            if absent and there:  # the reader of an empty root says what it should hold
                raise InvalidValue(f"data.{key}", absent[0], f"expected one of {', '.join(there)}", where=str(root))

    # ---- steps -----------------------------------------------------------------------------------------------------

    def _things(self, index: things_eeg.ImageIndex) -> dict[str, Path]:
        start = time.monotonic()
        parts: tuple[things_eeg.Part, ...] = ("training",) if self.set.exclude_things_test else ("training", "test")
        folders = {}
        for subject in self.set.eeg_subjects:

            def build(folder: Path, subject: str = subject) -> None:
                for part in parts:
                    steps.save_epochs(
                        folder, self.things_root, subject, part, self.set.sfreq_hz, index, self.set.eeg_container
                    )

            recipe = {
                "subject": subject, "parts": list(parts), "sfreq_hz": self.set.sfreq_hz,
                "container": self.set.eeg_container,
            }  # fmt: skip
            folders[subject] = self._get("things_epochs", recipe, {"eeg": self._eeg_fingerprint(subject)}, build)
        facts = {subject: steps.load_epochs(folder, "training")[0] for subject, folder in folders.items()}
        names = {subject: fact.ch_names for subject, fact in facts.items()}
        first = self.set.eeg_subjects[0]
        for subject, ch_names in names.items():
            if ch_names != names[first]:
                raise ShapeMismatch(
                    f"channels of {subject}", len(ch_names), f"expected the {len(names[first])} channels of {first}",
                    hint="give all subjects the same container",
                )  # fmt: skip
        trials = sum(fact.n_images * fact.n_repetitions for fact in facts.values())
        self._say("things", f"{len(index)} pictures, {trials} training trials of {', '.join(folders)}", start)
        return folders

    def _nsd(self) -> dict[str, Path]:
        start = time.monotonic()
        folders = {}
        for subject in self.set.nsd_subjects:

            def build(folder: Path, subject: str = subject) -> None:
                steps.save_fmri(folder, self.nsd_root, subject, self.set.beta_prep)

            recipe = {"subject": subject, "prep": self.set.beta_prep}
            folders[subject] = self._get("nsd_betas", recipe, {"nsd": self._nsd_fingerprint(subject)}, build)
        shapes = {subject: steps.load_fmri(folder).betas.shape for subject, folder in folders.items()}
        told = ", ".join(f"{subject} {trials} trials × {voxels} voxels" for subject, (trials, voxels) in shapes.items())
        self._say("nsd", told, start)
        return folders

    def _embed(
        self, index: things_eeg.ImageIndex, eligible: np.ndarray, fmri: Mapping[str, Path]
    ) -> tuple[steps.Embedding, steps.Embedding]:
        start = time.monotonic()
        seen = np.unique(np.concatenate([steps.load_fmri(folder).picture for folder in fmri.values()]))
        recipe: dict[str, Any] = {"encoder": self.encoder_name}
        extra: dict[str, str] = {}
        encoder: Encoder | None = None
        if self.set.embedding == "file":
            path = Path(str(self.set.embedding_file))
            files = sorted(path.glob("*.npy")) if path.is_dir() else [path]
            extra["embedding_file"] = self.cache.fingerprint_files(files, path.parent)
        else:
            encoder = self._encoder()

        def build_things(folder: Path) -> None:
            if encoder is None:
                steps.save_embedding(folder, eligible, read_embedding(str(self.set.embedding_file), "things", eligible))
            else:
                steps.embed_things(folder, index, eligible.tolist(), encoder)

        def build_nsd(folder: Path) -> None:
            if encoder is None:
                steps.save_embedding(folder, seen, read_embedding(str(self.set.embedding_file), "nsd", seen))
            else:
                steps.embed_nsd(folder, self.nsd_root, seen.tolist(), encoder)

        inputs = {"pictures": self._picture_fingerprint(index), **extra}
        things = self._get("picture_embedding", {**recipe, "side": "things", "n": len(eligible)}, inputs, build_things)
        inputs = {"pictures": self._brick_fingerprint(), **{n: p.name for n, p in fmri.items()}, **extra}
        pictures = self._get("picture_embedding", {**recipe, "side": "nsd"}, inputs, build_nsd)
        loaded = steps.load_embedding(things), steps.load_embedding(pictures)
        widths = [embedding.rows.shape[1] for embedding in loaded]
        if widths[0] != widths[1]:
            raise ShapeMismatch("embeddings", f"{widths[0]} and {widths[1]}", "expected one width on both sides")
        self._keys = {"things": things.name, "nsd": pictures.name}
        self._say("embed", f"{len(eligible)} + {len(seen)} pictures, {widths[0]} values ({self.encoder_name})", start)
        return loaded

    def _match(self, things: steps.Embedding, pictures: steps.Embedding, fmri: Mapping[str, Path]) -> Path:
        start = time.monotonic()
        s = self.set

        def build(folder: Path) -> None:
            found = {}
            for subject in s.nsd_subjects:
                seen = np.unique(steps.load_fmri(fmri[subject]).picture)
                matching = match(
                    things.rows, pictures.at(seen), method=s.match, top_k=s.top_k, expansion=s.match_expansion,
                    min_similarity=s.min_similarity,
                )  # fmt: skip
                found[subject] = type(matching)(things.ids[matching.left], seen[matching.right], matching.similarity)
            pairs = intersect_matchings(found, target=s.target_intersection, on_shortfall=s.on_shortfall)
            if len(pairs) == 0:
                key, value = ("top_k", s.top_k) if s.min_similarity is None else ("min_similarity", s.min_similarity)
                raise InvalidValue(
                    f"data.{key}", value,
                    f"expected at least 1 picture matched in every one of {', '.join(s.nsd_subjects)}, found 0 pairs",
                    hint="raise data.top_k or lower data.min_similarity",
                )  # fmt: skip
            steps.save_pairs(folder / "pairs.csv", pairs)

        recipe = {
            "method": s.match, "top_k": s.top_k, "expansion": s.match_expansion, "min_similarity": s.min_similarity,
            "target_intersection": s.target_intersection, "on_shortfall": s.on_shortfall,
            "subjects": list(s.nsd_subjects),
        }  # fmt: skip
        folder = self._get("picture_pairs", recipe, self._keys, build)
        pairs = steps.load_pairs(folder / "pairs.csv", s.nsd_subjects)
        median = float(np.median(pairs.mean_similarity))
        self._say("match", f"{len(pairs)} pairs ({s.match}), median similarity {median:.3f}", start)
        return folder

    def _split(self, matched: Path, pairs: MultiMatching, concepts: tuple[str, ...]) -> tuple[Path, Split]:
        start = time.monotonic()
        s = self.set
        kind: PictureSplitKind = "concept" if s.split == "subject" else s.split

        def build(folder: Path) -> None:
            drawn = split_pairs(pairs, concepts, kind, s.fractions, s.split_seed)
            drawn.save(folder / "split.json")

        recipe = {"kind": kind, "fractions": list(s.fractions), "seed": s.split_seed}
        folder = self._get("picture_split", recipe, {"pairs": matched.name}, build)
        split = Split.load(folder / "split.json")
        counts = {part: len(rows) for part, rows in split.parts().items()}
        self._say("split", f"by {s.split}: " + ", ".join(f"{n} {part}" for part, n in counts.items()), start)
        return folder, split

    def _cluster(
        self, split_folder: Path, pairs: MultiMatching, split: Split, things: steps.Embedding, pictures: steps.Embedding
    ) -> tuple[Path, np.ndarray]:
        start = time.monotonic()
        s = self.set

        def build(folder: Path) -> None:
            left = things.at(pairs.left)
            right = np.mean([pictures.at(ids) for ids in pairs.right.values()], axis=0)
            rows = np.arange(len(pairs)) if s.cluster_fit == "all" else split.train
            clusters = fit_clusters(
                left[rows], right[rows], n_clusters=s.n_clusters, seed=s.cluster_seed, spherical=s.cluster_spherical
            )
            clusters.save(folder / "clusters.npz")
            np.save(folder / "labels.npy", clusters.label(left).astype(np.int64))

        recipe = {
            "n_clusters": s.n_clusters, "seed": s.cluster_seed, "spherical": s.cluster_spherical, "fit": s.cluster_fit,
        }  # fmt: skip
        folder = self._get("picture_clusters", recipe, {"split": split_folder.name, **self._keys}, build)
        labels = np.load(folder / "labels.npy")
        sizes = np.bincount(labels, minlength=s.n_clusters).tolist()
        self._say("cluster", f"{s.n_clusters} clusters of {', '.join(map(str, sizes))} pairs", start)
        return folder, labels

    def _project(
        self,
        split_folder: Path,
        pairs: MultiMatching,
        split: Split,
        fmri: Mapping[str, Path],
        pictures: steps.Embedding,
    ) -> dict[str, Path]:
        start = time.monotonic()
        s = self.set
        held = np.sort(np.concatenate([split.val, split.test]))
        held_pictures = np.unique(np.concatenate([ids[held] for ids in pairs.right.values()]))
        folders = {}
        for subject in s.nsd_subjects:
            ridge = (s.ridge_files or {}).get(subject)

            def build(folder: Path, subject: str = subject, ridge: str | None = ridge) -> None:
                steps.project_fmri(
                    folder, steps.load_fmri(fmri[subject]), pairs.right[subject], held_pictures,
                    held if s.fmri_take_mean else np.arange(len(pairs)), pictures, subject=subject,
                    embedding_name=self.encoder_name, normalisation=s.beta_normalisation, ridge_file=ridge,
                )  # fmt: skip

            inputs = {"split": split_folder.name, "betas": fmri[subject].name, **self._keys}
            if ridge is not None:
                inputs["ridge"] = self.cache.fingerprint_files([ridge], Path(ridge).parent)
            recipe = {
                "subject": subject,
                "normalisation": s.beta_normalisation,
                "every_repetition": not s.fmri_take_mean,
            }
            folders[subject] = self._get("nsd_targets", recipe, inputs, build)
        facts = {subject: steps.load_projection(folder).facts for subject, folder in folders.items()}
        told = ", ".join(
            f"{subject} {fact['ridge']}"
            + (f" (held-out R² {fact['cv_score']:.3f})" if fact["cv_score"] is not None else "")
            for subject, fact in facts.items()
        )
        self._say("project", told, start)
        return folders

    def _pack(
        self,
        split_folder: Path,
        clusters: Path,
        projected: Mapping[str, Path],
        epochs: Mapping[str, Path],
        pairs: MultiMatching,
        split: Split,
        labels: np.ndarray,
    ) -> Path:
        start = time.monotonic()
        s = self.set
        inputs = {"split": split_folder.name, "clusters": clusters.name}
        inputs |= {f"target/{subject}": folder.name for subject, folder in projected.items()}
        inputs |= {f"eeg/{subject}": folder.name for subject, folder in epochs.items()}
        recipe = {
            "name": self.name, "amplitude": s.amplitude, "eeg_take_mean": s.eeg_take_mean,
            "fmri_take_mean": s.fmri_take_mean, "split": s.split,
            "eeg_subjects": list(s.eeg_subjects), "nsd_subjects": list(s.nsd_subjects),
        }  # fmt: skip
        folder = self._get(
            "alignment_records", recipe, inputs, lambda f: self._write(f, projected, epochs, pairs, split, labels)
        )
        self._say("pack", f"{self.name}", start)
        return folder

    def _write(
        self,
        folder: Path,
        projected: Mapping[str, Path],
        epochs: Mapping[str, Path],
        pairs: MultiMatching,
        split: Split,
        labels: np.ndarray,
    ) -> None:
        s = self.set
        projections = [steps.load_projection(projected[subject]) for subject in s.nsd_subjects]
        widths = {subject: p.target.shape[1] for subject, p in zip(s.nsd_subjects, projections, strict=True)}
        if len(set(widths.values())) > 1:
            raise ShapeMismatch("ridge outputs", widths, "expected one width for all fMRI subjects")
        target = np.stack([p.target for p in projections], axis=1)
        targets = PairTargets(
            pairs.left, np.stack(list(pairs.right.values()), axis=1), target, np.ones(target.shape[:2], bool), labels
        )
        loaded = {
            subject: [
                steps.load_epochs(path, part) for part in ("training", "test") if (path / f"{part}.json").is_file()
            ]
            for subject, path in epochs.items()
        }
        facts = next(iter(loaded.values()))[0][0]

        def trials(subject: str) -> Iterator[tuple[int, np.ndarray]]:
            where = {int(i): (part, row) for part in loaded[subject] for row, i in enumerate(part[1])}
            for pair, image in enumerate(pairs.left.tolist()):
                (fact, _, samples), row = where[image]
                yield pair, scale_epochs(samples[row], s.amplitude, fact.amplitude_unit)

        for subject, read in loaded.items():
            fact, _, samples = read[0]
            sample, unit = samples[:: max(1, len(samples) // 64)], fact.amplitude_unit
            warn_if_unusual(scale_epochs(np.asarray(sample), s.amplitude, unit), subject, unit)
        reps = None if s.fmri_take_mean else {i: [p.reps[i] for p in projections] for i in range(len(pairs))}
        schema = alignment_schema(len(facts.ch_names), facts.n_times, len(projections), target.shape[2])
        streams = {number: trials(subject) for number, subject in enumerate(s.eeg_subjects)}
        part_of = np.full(len(pairs), -1)
        for number, part in enumerate(PARTS):
            part_of[split.parts()[part]] = number
        members: list[list[int]] = [[], [], []]
        used_by = _parts_by_subject(s.split, len(s.eeg_subjects))

        def counted() -> Iterator[dict[str, Any]]:
            for row, record in enumerate(
                alignment_rows(streams, targets, eeg_take_mean=s.eeg_take_mean, target_reps=reps)
            ):
                part = int(part_of[record["pair"]])
                if part >= 0 and used_by[part, record["subject"]]:
                    members[part].append(row)
                yield record

        # The lists of members grow with the records; write_records reads them after the last one.
        parts = dict(zip(PARTS, members, strict=True))
        write_records(folder / self.name, schema, counted(), self._header(facts), parts)
        names = np.array(PARTS, dtype=object)[part_of]
        steps.save_pairs(folder / "pairs.csv", pairs, labels, names.tolist())
        with (folder / f"{self.name}_things_image_split_info.csv").open("w", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(["things_img_idx", "split"])
            writer.writerows(sorted(zip(pairs.left.tolist(), names.tolist(), strict=True)))

    def _header(self, facts: steps.EpochFacts) -> dict[str, Any]:
        s = self.set
        return {
            "eeg_subjects": list(s.eeg_subjects),
            "nsd_subjects": list(s.nsd_subjects),
            "ch_names": list(facts.ch_names),
            "sfreq_hz": s.sfreq_hz,
            "amplitude": s.amplitude,
            "eeg_take_mean": s.eeg_take_mean,
            "fmri_take_mean": s.fmri_take_mean,
            "exclude_things_test": s.exclude_things_test,
            "split": s.split,
            "n_clusters": s.n_clusters,
        }

    # ---- names and fingerprints ------------------------------------------------------------------------------------

    @cached_property
    def name(self) -> str:
        s = self.set
        return records_name(s.eeg_subjects, s.nsd_subjects, s.exclude_things_test, s.sfreq_hz)

    @cached_property
    def encoder_name(self) -> str:
        return "file" if self.set.embedding == "file" else self._encoder().name

    def _encoder(self) -> Encoder:
        if self.set.embedding == "open_clip":
            return OpenClipEncoder(self.set.clip_model, self.set.clip_pretrained)
        return Descriptor()

    def _get(
        self, kind: str, recipe: Mapping[str, Any], inputs: Mapping[str, str], build: Callable[[Path], None]
    ) -> Path:
        return self.cache.get(kind, {**recipe, "code": code_digest("prepare", "signal", "datasets")}, inputs, build)

    def _say(self, step: str, told: str, start: float) -> None:
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
        files = nsd.session_files(self.nsd_root, subject, self.set.beta_prep)
        experiment = self.nsd_root / "nsddata" / "experiments" / "nsd"
        roi = self.nsd_root / "nsddata" / "ppdata" / subject / "func1pt8mm" / "roi" / "nsdgeneral.nii.gz"
        more = [experiment / "nsd_stim_info_merged.csv", experiment / "nsd_expdesign.mat", roi]
        return self.cache.fingerprint_files([*files, *(f for f in more if f.is_file())], self.nsd_root)

    def _brick_fingerprint(self) -> str:
        if "nsd" in self.known:
            return self.known["nsd"]
        brick = self.nsd_root / nsd.STIMULUS_FILE
        if self.set.embedding == "file" and not brick.is_file():
            return "none"
        return self.cache.fingerprint_files([brick], self.nsd_root)


def _parts_by_subject(kind: SplitKind, n_subjects: int) -> Bool[np.ndarray, "part subject"]:
    """Which EEG subjects' trials may stand in which part: with ``subject``, the last one is tested and no other."""
    used = np.ones((3, n_subjects), dtype=bool)
    if kind == "subject":
        used[:, -1] = False
        used[2] = ~used[2]
    return used
