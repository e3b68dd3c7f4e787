"""What a pair of pictures becomes: targets from the fMRI of one, trials from the EEG of the other, as records."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from brainlab.data.pair_sources import Embeddings, PairSources, SplitKind
from brainlab.data.splits import PARTS, Split
from brainlab.errors import ShapeMismatch
from brainlab.io.records import write_records
from brainlab.prepare import image_pairs as steps
from brainlab.prepare.epochs import scale_epochs, warn_if_unusual
from brainlab.prepare.match import MultiMatching
from brainlab.prepare.pack import PairTargets, alignment_rows, alignment_schema

__all__ = ["pack_records", "project_targets"]


def project_targets(
    sources: PairSources,
    split_folder: Path,
    pairs: MultiMatching,
    split: Split,
    fmri: Mapping[str, Path],
    embeddings: Embeddings,
) -> dict[str, Path]:
    """The fMRI side: betas of each person through a ridge into the space of the targets; folders by name.

    The ridge and the normalisation of the betas see no picture of a held-out pair.
    """
    start = time.monotonic()
    s = sources.settings
    held = np.sort(np.concatenate([split.val, split.test]))
    held_pictures = np.unique(np.concatenate([ids[held] for ids in pairs.right.values()]))
    folders = {}
    for subject in s.nsd_subjects:
        ridge = (s.ridge_files or {}).get(subject)

        def build(folder: Path, subject: str = subject, ridge: str | None = ridge) -> None:
            steps.project_fmri(
                folder, steps.load_fmri(fmri[subject]), pairs.right[subject], held_pictures,
                held if s.fmri_take_mean else np.arange(len(pairs)), embeddings.nsd, subject=subject,
                embedding_name=sources.encoder_name, normalisation=s.beta_normalisation, ridge_file=ridge,
            )  # fmt: skip

        inputs = {"split": split_folder.name, "betas": fmri[subject].name, **embeddings.keys}
        if ridge is not None:
            inputs["ridge"] = sources.cache.fingerprint_files([ridge], Path(ridge).parent)
        recipe = {
            "subject": subject,
            "normalisation": s.beta_normalisation,
            "every_repetition": not s.fmri_take_mean,
        }
        folders[subject] = sources.get("nsd_targets", recipe, inputs, build)
    facts = {subject: steps.load_projection(folder).facts for subject, folder in folders.items()}
    told = ", ".join(
        f"{subject} {fact['ridge']}"
        + (f" (held-out R² {fact['cv_score']:.3f})" if fact["cv_score"] is not None else "")
        for subject, fact in facts.items()
    )
    sources.say("project", told, start)
    return folders


def pack_records(
    sources: PairSources,
    split_folder: Path,
    clusters: Path,
    projected: Mapping[str, Path],
    epochs: Mapping[str, Path],
    pairs: MultiMatching,
    split: Split,
    labels: np.ndarray,
) -> Path:
    """Every trial with the targets of its pair, as records with the rows of each part; the folder they lie in."""
    start = time.monotonic()
    s = sources.settings
    inputs = {"split": split_folder.name, "clusters": clusters.name}
    inputs |= {f"target/{subject}": folder.name for subject, folder in projected.items()}
    inputs |= {f"eeg/{subject}": folder.name for subject, folder in epochs.items()}
    recipe = {
        "name": sources.name, "amplitude": s.amplitude, "eeg_take_mean": s.eeg_take_mean,
        "fmri_take_mean": s.fmri_take_mean, "split": s.split,
        "eeg_subjects": list(s.eeg_subjects), "nsd_subjects": list(s.nsd_subjects),
    }  # fmt: skip
    folder = sources.get(
        "alignment_records", recipe, inputs, lambda f: _write(sources, f, projected, epochs, pairs, split, labels)
    )
    sources.say("pack", f"{sources.name}", start)
    return folder


def _write(
    sources: PairSources,
    folder: Path,
    projected: Mapping[str, Path],
    epochs: Mapping[str, Path],
    pairs: MultiMatching,
    split: Split,
    labels: np.ndarray,
) -> None:
    s = sources.settings
    projections = [steps.load_projection(projected[subject]) for subject in s.nsd_subjects]
    widths = {subject: p.target.shape[1] for subject, p in zip(s.nsd_subjects, projections, strict=True)}
    if len(set(widths.values())) > 1:
        raise ShapeMismatch("ridge outputs", widths, "expected one width for all fMRI subjects")
    target = np.stack([p.target for p in projections], axis=1)
    targets = PairTargets(
        pairs.left, np.stack(list(pairs.right.values()), axis=1), target, np.ones(target.shape[:2], bool), labels
    )
    loaded = {
        subject: [steps.load_epochs(path, part) for part in ("training", "test") if (path / f"{part}.json").is_file()]
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
        for row, record in enumerate(alignment_rows(streams, targets, eeg_take_mean=s.eeg_take_mean, target_reps=reps)):
            part = int(part_of[record["pair"]])
            if part >= 0 and used_by[part, record["subject"]]:
                members[part].append(row)
            yield record

    # The lists of members grow with the records; write_records reads them after the last one.
    parts = dict(zip(PARTS, members, strict=True))
    write_records(folder / sources.name, schema, counted(), _header(sources, facts), parts)
    names = np.array(PARTS, dtype=object)[part_of]
    steps.save_pairs(folder / "pairs.csv", pairs, labels, names.tolist())
    with (folder / f"{sources.name}_things_image_split_info.csv").open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["things_img_idx", "split"])
        writer.writerows(sorted(zip(pairs.left.tolist(), names.tolist(), strict=True)))


def _header(sources: PairSources, facts: steps.EpochFacts) -> dict[str, Any]:
    s = sources.settings
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


def _parts_by_subject(kind: SplitKind, n_subjects: int) -> Bool[np.ndarray, "part subject"]:
    """Which EEG subjects' trials may stand in which part: with ``subject``, the last one is tested and no other."""
    used = np.ones((3, n_subjects), dtype=bool)
    if kind == "subject":
        used[:, -1] = False
        used[2] = ~used[2]
    return used
