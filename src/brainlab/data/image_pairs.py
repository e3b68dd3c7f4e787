"""From the roots of THINGS-EEG2 and NSD to alignment records, step by step through the cache.

The order is things → nsd → embed → match → split → cluster → project → pack. The split comes before everything that
is fitted: clusters see training pairs, the ridge and the beta normalisation see NSD pictures of no held-out pair. What
comes before pairing is in :mod:`brainlab.data.pair_sources`, what comes after in :mod:`brainlab.data.pair_records`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from brainlab.data.pair_records import pack_records, project_targets
from brainlab.data.pair_sources import Embeddings, PairSettings, PairSources
from brainlab.data.picture_split import PictureSplitKind, split_pairs
from brainlab.data.splits import Split
from brainlab.datasets import things_eeg
from brainlab.errors import InvalidValue
from brainlab.io.cache import Cache
from brainlab.prepare import image_pairs as steps
from brainlab.prepare.cluster import fit_clusters
from brainlab.prepare.match import MultiMatching, intersect_matchings, match

__all__ = ["PreparedPairs", "prepare_pairs"]


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
        return _prepare(PairSources(things_root, nsd_root, cache, settings, fingerprints))
    except InvalidValue as error:
        roots = {"data.things_root": things_root, "data.nsd_root": nsd_root}
        key = next((key for key, root in roots.items() if str(root) in str(error)), None)
        if fingerprints or key is None or "data." in error.name:
            raise
        raise error.because_of(key) from error


def _prepare(sources: PairSources) -> PreparedPairs:
    s = sources.settings
    index = things_eeg.read_image_index(sources.things_root)
    sources.expect_subjects()
    eligible = np.arange(index.n_train if s.exclude_things_test else len(index))
    epochs = sources.eeg(index)
    fmri = sources.fmri()
    embeddings = sources.embed(index, eligible, fmri)
    matched = _match(sources, embeddings, fmri)
    pairs = steps.load_pairs(matched / "pairs.csv", s.nsd_subjects)
    concepts = tuple(index.concepts[i] for i in pairs.left)
    split_folder, split = _split(sources, matched, pairs, concepts)
    clusters, labels = _cluster(sources, split_folder, pairs, split, embeddings)
    projected = project_targets(sources, split_folder, pairs, split, fmri, embeddings)
    folder = pack_records(sources, split_folder, clusters, projected, epochs, pairs, split, labels)
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
        "embedding": sources.encoder_name,
        "matching": {
            "method": s.match,
            "similarity_median": float(np.median(pairs.mean_similarity)),
            "similarity_min": float(pairs.mean_similarity.min()),
        },
        "ridge": {subject: dict(projections[subject].facts) for subject in s.nsd_subjects},
    }
    return PreparedPairs(
        folder, folder / sources.name, pairs, split, labels, projections, concepts, sources.things_root,
        sources.nsd_root, folder.name, facts,
    )  # fmt: skip


def _match(sources: PairSources, embeddings: Embeddings, fmri: Mapping[str, Path]) -> Path:
    start = time.monotonic()
    s = sources.settings

    things, pictures = embeddings.things, embeddings.nsd

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
    folder = sources.get("picture_pairs", recipe, embeddings.keys, build)
    pairs = steps.load_pairs(folder / "pairs.csv", s.nsd_subjects)
    median = float(np.median(pairs.mean_similarity))
    sources.say("match", f"{len(pairs)} pairs ({s.match}), median similarity {median:.3f}", start)
    return folder


def _split(sources: PairSources, matched: Path, pairs: MultiMatching, concepts: tuple[str, ...]) -> tuple[Path, Split]:
    start = time.monotonic()
    s = sources.settings
    kind: PictureSplitKind = "concept" if s.split == "subject" else s.split

    def build(folder: Path) -> None:
        drawn = split_pairs(pairs, concepts, kind, s.fractions, s.split_seed)
        drawn.save(folder / "split.json")

    recipe = {"kind": kind, "fractions": list(s.fractions), "seed": s.split_seed}
    folder = sources.get("picture_split", recipe, {"pairs": matched.name}, build)
    split = Split.load(folder / "split.json")
    counts = {part: len(rows) for part, rows in split.parts().items()}
    sources.say("split", f"by {s.split}: " + ", ".join(f"{n} {part}" for part, n in counts.items()), start)
    return folder, split


def _cluster(
    sources: PairSources, split_folder: Path, pairs: MultiMatching, split: Split, embeddings: Embeddings
) -> tuple[Path, np.ndarray]:
    start = time.monotonic()
    s = sources.settings

    def build(folder: Path) -> None:
        left = embeddings.things.at(pairs.left)
        right = np.mean([embeddings.nsd.at(ids) for ids in pairs.right.values()], axis=0)
        rows = np.arange(len(pairs)) if s.cluster_fit == "all" else split.train
        clusters = fit_clusters(
            left[rows], right[rows], n_clusters=s.n_clusters, seed=s.cluster_seed, spherical=s.cluster_spherical
        )
        clusters.save(folder / "clusters.npz")
        np.save(folder / "labels.npy", clusters.label(left).astype(np.int64))

    recipe = {
        "n_clusters": s.n_clusters, "seed": s.cluster_seed, "spherical": s.cluster_spherical, "fit": s.cluster_fit,
    }  # fmt: skip
    folder = sources.get("picture_clusters", recipe, {"split": split_folder.name, **embeddings.keys}, build)
    labels = np.load(folder / "labels.npy")
    sizes = np.bincount(labels, minlength=s.n_clusters).tolist()
    sources.say("cluster", f"{s.n_clusters} clusters of {', '.join(map(str, sizes))} pairs", start)
    return folder, labels
