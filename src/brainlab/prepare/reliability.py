"""How reproducible the fMRI targets are: what a perfect EEG decoder could at most be expected to reach."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

__all__ = ["repetition_cosines", "target_ceilings", "top1", "unit_rows"]


def unit_rows(rows: Float[np.ndarray, "*n dim"]) -> Float[np.ndarray, "*n dim"]:
    """Rows divided by their length; a zero row stays zero, a NaN row NaN."""
    norm = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.divide(rows, norm, out=np.zeros_like(rows), where=norm != 0)


def repetition_cosines(reps: Float[np.ndarray, "image rep dim"]) -> dict[str, Float[np.ndarray, " image"]]:
    """Cosine between repetitions of each picture: ``1-2``, ``1-3``, … and their ``mean``.

    Args:
        reps: embedded single repetitions; NaN rows where a picture was shown less often (their cosines are NaN).
    """
    unit = unit_rows(np.asarray(reps, dtype=np.float64))
    pairs = {
        f"{a + 1}-{b + 1}": (unit[:, a] * unit[:, b]).sum(axis=-1)
        for a in range(unit.shape[1])
        for b in range(a + 1, unit.shape[1])
    }
    if pairs:
        stacked = np.stack(list(pairs.values()))
        known = np.isfinite(stacked)
        total = np.where(known, stacked, 0.0).sum(axis=0)
        pairs["mean"] = np.divide(total, known.sum(axis=0), out=np.full(len(unit), np.nan), where=known.any(axis=0))
    return pairs


def top1(query: Float[np.ndarray, "image dim"], gallery: Float[np.ndarray, "image dim"]) -> float:
    """Share of queries whose most similar gallery row is their own (the first on a tie)."""
    return float((np.argmax(unit_rows(query) @ unit_rows(gallery).T, axis=1) == np.arange(len(query))).mean())


def target_ceilings(
    targets: Float[np.ndarray, "image subject dim"],
    reps: Mapping[str, Float[np.ndarray, "image rep dim"]],
    labels: Int[np.ndarray, " image"],
) -> dict[str, float]:
    """Retrieval among the fMRI targets themselves, to read a decoder's score against.

    Args:
        targets: unit target per picture and subject (means over repetitions).
        reps: subject → embedded single repetitions, NaN rows where there was none.
        labels: cluster of each picture.

    Returns:
        top-1 over the unique pictures: ``rep_to_rep`` (one repetition finds another of its picture in the same brain,
        over pictures with both), ``subject_to_subject`` (one subject's target finds the other's for the same pair),
        ``label_only`` (the cluster is known, the picture guessed), ``random_pair`` (nothing is known); each with
        ``_cosine``, the mean cosine of the two vectors. Keys that are not defined (one repetition, one subject, fewer
        than two pictures) are left out.
    """
    n, n_subjects = targets.shape[:2]
    result: dict[str, float] = {}
    if n < 2:
        return result
    hits, cosines = [], []
    for values in reps.values():
        known = np.isfinite(values).all(axis=-1)
        for a in range(values.shape[1]):
            for b in range(values.shape[1]):
                both = known[:, a] & known[:, b]
                if a == b or both.sum() < 2:
                    continue
                hits.append(top1(values[both, a], values[both, b]))
                cosines.append(float((unit_rows(values[both, a]) * unit_rows(values[both, b])).sum(axis=1).mean()))
    if hits:
        result |= {"rep_to_rep": float(np.mean(hits)), "rep_to_rep_cosine": float(np.mean(cosines))}
    across = [(a, b) for a in range(n_subjects) for b in range(n_subjects) if a != b]
    if across:
        result["subject_to_subject"] = float(np.mean([top1(targets[:, a], targets[:, b]) for a, b in across]))
        result["subject_to_subject_cosine"] = float(
            np.mean([(targets[:, a] * targets[:, b]).sum(axis=1).mean() for a, b in across])
        )
    mean = unit_rows(targets.mean(axis=1))
    similarity = mean @ mean.T
    names, member = np.unique(labels, return_inverse=True)
    same = member[:, None] == member[None, :]
    np.fill_diagonal(same, False)
    result["label_only"] = len(names) / n
    if same.any():
        result["label_only_cosine"] = float(similarity[same].mean())
    result["random_pair"] = 1.0 / n
    result["random_pair_cosine"] = float(similarity[~np.eye(n, dtype=bool)].mean())
    return result
