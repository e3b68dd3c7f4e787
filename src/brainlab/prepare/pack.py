"""Alignment records: one EEG trial with the fMRI target of the picture it is paired with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from brainlab.errors import ShapeMismatch
from brainlab.prepare.reliability import unit_rows

__all__ = ["PairTargets", "alignment_rows", "alignment_schema", "records_name"]


@dataclass(frozen=True)
class PairTargets:
    """What the EEG of each pair is aligned to.

    Attributes:
        image_id: EEG-side picture.
        target_id: fMRI-side picture per fMRI subject.
        target: embedding per fMRI subject; any length, stored as unit rows.
        target_mask: false where a subject has no target for the pair.
        label: picture cluster.
    """

    image_id: Int[np.ndarray, " pair"]
    target_id: Int[np.ndarray, "pair subject"]
    target: Float[np.ndarray, "pair subject dim"]
    target_mask: Bool[np.ndarray, "pair subject"]
    label: Int[np.ndarray, " pair"]

    def __post_init__(self) -> None:
        shape = self.target.shape
        for name, length in (
            ("target_id", shape[:2]),
            ("target_mask", shape[:2]),
            ("image_id", shape[:1]),
            ("label", shape[:1]),
        ):
            if getattr(self, name).shape != length:
                raise ShapeMismatch(name, getattr(self, name).shape, f"expected {length} to go with the targets")


def records_name(
    eeg_subjects: Sequence[str], nsd_subjects: Sequence[str], exclude_things_test: bool, sfreq_hz: float
) -> str:
    """Name of a set of records, for writer and reader alike.

    >>> records_name(["sub-01"], ["subj01", "subj02"], True, 200)
    'things_sub-01_nsd_subj01-subj02_no_things_test_200Hz'
    """
    test = "_no_things_test" if exclude_things_test else ""
    return f"things_{'-'.join(eeg_subjects)}_nsd_{'-'.join(nsd_subjects)}{test}_{sfreq_hz:g}Hz"


def alignment_schema(
    n_channels: int, n_times: int, n_subjects: int, dim: int
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Fields of one record: EEG already scaled, targets already unit rows."""
    return {
        "eeg": ("float32", (n_channels, n_times)),
        "target": ("float32", (n_subjects, dim)),
        "target_mask": ("bool", (n_subjects,)),
        "target_id": ("int64", (n_subjects,)),
        "image_id": ("int64", ()),
        "label": ("int64", ()),
        "subject": ("int64", ()),
        "repetition": ("int64", ()),
        "pair": ("int64", ()),
    }


def alignment_rows(
    epochs: Mapping[int, Iterator[tuple[int, Float[np.ndarray, "rep channel time"]]]],
    targets: PairTargets,
    *,
    eeg_take_mean: bool = False,
    target_reps: Mapping[int, Sequence[Float[np.ndarray, "rep dim"]]] | None = None,
) -> Iterator[dict[str, Any]]:
    """Records in order of EEG subject, pair, repetition.

    Args:
        epochs: number of the EEG subject → (pair, its scaled trials).
        targets: of every pair.
        eeg_take_mean: one record per pair, the mean of its trials.
        target_reps: pair → per fMRI subject, embedded single repetitions, NaN rows where there was none. With it, every
            EEG repetition meets every fMRI repetition j of the first subject, and repetition j mod n of the others.
    """
    unit = unit_rows(targets.target.astype(np.float32))
    for subject, pairs in epochs.items():
        for pair, trials in pairs:
            if eeg_take_mean:
                trials = trials.mean(axis=0, keepdims=True)
            choices = [unit[pair]] if target_reps is None else _crossed(target_reps[pair], unit[pair])
            for repetition, trial in enumerate(trials):
                for target in choices:
                    yield {
                        "eeg": trial,
                        "target": np.where(targets.target_mask[pair][:, None], target, 0.0),
                        "target_mask": targets.target_mask[pair],
                        "target_id": targets.target_id[pair],
                        "image_id": targets.image_id[pair],
                        "label": targets.label[pair],
                        "subject": subject,
                        "repetition": repetition,
                        "pair": pair,
                    }


def _crossed(reps: Sequence[np.ndarray], fallback: np.ndarray) -> list[np.ndarray]:
    known = [rows[np.isfinite(rows).all(axis=1)] for rows in reps]
    rows = [unit_rows(r.astype(np.float32)) if len(r) else f[None] for r, f in zip(known, fallback, strict=True)]
    return [np.stack([r[j % len(r)] for r in rows]) for j in range(len(rows[0]))]
