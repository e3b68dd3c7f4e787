"""Retrieval of held-out pictures: is the fMRI embedding that an EEG trial predicts the one of the picture it saw?

Every score is read against chance, a shuffled-pair control and, where known, a ceiling; every interval resamples
pictures, because trials of one picture are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from brainlab.errors import InvalidValue
from brainlab.evaluation.embedding import EmbeddedSplit, embed_split
from brainlab.metrics.retrieval import Ranks, compat_metrics, retrieve, unique_gallery
from brainlab.metrics.statistics import Control, bootstrap_mean, bootstrap_median, shuffled_pairs
from brainlab.plot.embedding import joint_embedding
from brainlab.plot.gallery import RetrievedRow, retrieved_pictures
from brainlab.plot.ranks import rank_histogram
from brainlab.plot.similarity import similarity_matrix
from brainlab.types import Evaluation, Figure, Metric, Table

__all__ = ["Retrieval"]

_TOP = (1, 5, 10)
_GALLERY_ROWS, _GALLERY_COLUMNS = 6, 5


@dataclass(frozen=True)
class _Direction:
    """One way to ask: queries, what they are ranked against, and whose trials they are."""

    prefix: str
    suffix: str
    words: str
    picture: np.ndarray
    ranks: Ranks


class Retrieval:
    """Protocol: embed the test split, rank unique pictures, compare with chance, controls and ceilings.

    The gallery holds each held-out picture once: the renormalised mean of the unit fMRI embeddings of the subjects who
    saw it. Single trials are the queries of the plain names (``top1``); ``…_averaged`` first averages the EEG over the
    trials of one picture and subject. ``fmri_to_eeg_…`` asks the other way round, a picture standing where its best
    EEG embedding stands.

    Args:
        n_bootstrap: resamplings of the pictures for each 95 % interval.
        n_permutations: shufflings of the pairs for each control.
        ways: sizes of the N-way galleries; those larger than the gallery are left out.
        batch_size: windows embedded at once where averaged EEG is embedded.
        seed: of the resamplings, the shufflings and the choice of example pictures.
    """

    def __init__(
        self,
        n_bootstrap: int = 2000,
        n_permutations: int = 200,
        ways: list[int] | None = None,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        for name, value in (
            ("n_bootstrap", n_bootstrap),
            ("n_permutations", n_permutations),
            ("batch_size", batch_size),
        ):
            if value < 1:
                raise InvalidValue(f"evaluation.{name}", value, "expected at least 1")
        self.n_bootstrap, self.n_permutations = n_bootstrap, n_permutations
        self.ways = [50, 100, 200] if ways is None else list(ways)
        if any(n < 2 for n in self.ways):
            raise InvalidValue("evaluation.ways", self.ways, "expected gallery sizes of at least 2")
        self.batch_size, self.seed = batch_size, seed

    def __call__(self, task: Any, data: Any, out: Path) -> Evaluation:
        """Judge ``task`` on the test split of ``data``; figures go to ``out/figures``."""
        data.setup("test")
        split = embed_split(task, data.test_dataloader(), self.batch_size)
        gallery, pictures = unique_gallery(split.target, split.picture)
        n = len(pictures)
        if n < 2:
            raise InvalidValue("test pictures", n, "expected at least 2 unique pictures to retrieve from")
        ceilings = {name: float(value) for name, value in data.ceilings(split="test").items() if value is not None}

        directions = _directions(split, gallery, pictures)
        controls: dict[str, Control] = {}
        metrics: list[Metric] = []
        for direction in directions:
            metrics += self._ranking(direction, ceilings, controls)
        metrics += self._distances(split, gallery, controls)
        compat = compat_metrics(split.z, split.target)

        single, averaged = directions[:2]
        figures, figure_notes = self._figures(data, out / "figures", split, gallery, single, averaged, ceilings)
        described = data.describe()
        leaks = [f"Held-out data were seen, as configured: {what}." for what in described.get("saw_held_out_data", [])]
        return Evaluation(
            headline="top1",
            metrics=metrics,
            figures=figures,
            tables=self._tables(described.get("eeg_subjects", []), split, single, ceilings, compat),
            notes=[*leaks, *self._notes(metrics[0], controls["top1"], n), *figure_notes],
            details={
                "gallery": {
                    "n_pictures": n,
                    "n_trials": len(split.z),
                    "n_averages": len(split.averaged_z),
                    "n_eeg_subjects": len(torch.unique(split.subject)),
                },
                "controls": {
                    name: {
                        "kind": "shuffled pairs",
                        "n_permutations": self.n_permutations,
                        "mean": control.mean,
                        "central_95": [control.low, control.high],
                        **({"chance": chance, "chance_inside": control.contains(chance)} if chance else {}),
                    }
                    for name, control in controls.items()
                    for chance in [next((m.chance for m in metrics if m.name == name), None)]
                },
                "ceilings": ceilings,
                "compat": compat,
            },
        )

    # ---- scores ----------------------------------------------------------------------------------------------------

    def _ranking(
        self, direction: _Direction, ceilings: Mapping[str, float], controls: dict[str, Control]
    ) -> list[Metric]:
        ranks, n = direction.ranks, direction.ranks.n_pictures
        metrics = []

        def add(name: str, values: Tensor, chance: float, k: int | None = None, **fields: Any) -> None:
            full = f"{direction.prefix}{name}{direction.suffix}"
            data = values.double().numpy()
            low, high = bootstrap_mean(data, direction.picture, self.n_bootstrap, self.seed)
            if k is not None:
                controls[full] = self._control(direction, k)
                fields["control"] = controls[full].mean
            metrics.append(
                Metric(full, float(data.mean()), low, high, chance=chance, n=len(data), note=direction.words, **fields)
            )

        for k in (k for k in _TOP if k < n):
            ceiling = None
            if k == 1 and not direction.prefix:
                ceiling = ceilings.get("bayes_averaged" if direction.suffix else "bayes_single_trial")
            add(f"top{k}", ranks.hits(k), k / n, k, ceiling=ceiling)
        for ways in (w for w in self.ways if w <= n):
            add(f"top1_{ways}way", ranks.n_way(ways), 1.0 / ways)
            if ways > 5:
                add(f"top5_{ways}way", ranks.n_way(ways, 5), 5.0 / ways)
        rank = ranks.rank().double().numpy()
        low, high = bootstrap_median(rank, direction.picture, self.n_bootstrap, self.seed)
        metrics.append(
            Metric(
                f"{direction.prefix}median_rank{direction.suffix}",
                float(np.median(rank)),
                low,
                high,
                chance=(n + 1) / 2,
                n=len(rank),
                better="lower",
                note=direction.words,
            )
        )
        return metrics

    def _control(self, direction: _Direction, k: int) -> Control:
        """Top-k when the pictures' right answers are permuted: the answers stay, the truth is shuffled."""
        pictures, asked = np.unique(direction.picture, return_inverse=True)
        answered = np.searchsorted(pictures, direction.ranks.top[:, :k].numpy())
        score = np.zeros((len(pictures), len(pictures)))
        np.add.at(score, (np.repeat(asked, answered.shape[1]), answered.reshape(-1)), 1.0 / len(asked))
        return shuffled_pairs(score, self.n_permutations, self.seed)

    def _distances(self, split: EmbeddedSplit, gallery: Tensor, controls: dict[str, Control]) -> list[Metric]:
        z, picture = split.z.double(), split.picture.numpy()
        cosine = (z * split.target.double()).sum(dim=1).numpy()
        summed = torch.zeros(len(gallery), z.shape[1], dtype=z.dtype).index_add_(0, split.picture, z)
        table = (summed @ gallery.double().T).numpy() / len(z)
        control = controls["cosine"] = shuffled_pairs(table, self.n_permutations, self.seed)
        low, high = bootstrap_mean(cosine, picture, self.n_bootstrap, self.seed)
        n = len(cosine)
        note = "between unit vectors; control: shuffled pairs"
        # The squared distance of unit vectors is 2 − 2·cosine, summed over dimensions.
        return [
            Metric("cosine", float(cosine.mean()), low, high, control=control.mean, n=n, note=note),
            Metric(
                "mse",
                2 - 2 * float(cosine.mean()),
                2 - 2 * high,
                2 - 2 * low,
                control=2 - 2 * control.mean,
                n=n,
                better="lower",
                note=note,
            ),
        ]

    # ---- words -----------------------------------------------------------------------------------------------------

    def _notes(self, top1: Metric, control: Control, n_pictures: int) -> list[str]:
        chance, low = 1.0 / n_pictures, top1.low or 0.0
        inside = "inside" if control.contains(chance) else "OUTSIDE"
        notes = [
            f"Gallery: {n_pictures} unique held-out pictures; chance {chance:.4f}. Top-1 {top1.value:.3f} is "
            f"{top1.value / chance:.1f} × chance, the lower end of its 95 % interval {low / chance:.1f} × chance.",
            f"Shuffled pairs ({self.n_permutations} permutations): mean {control.mean:.4f}, central 95 % "
            f"[{control.low:.4f}, {control.high:.4f}]; chance lies {inside}.",
        ]
        if top1.ceiling is not None:
            notes.append(
                f"Ceiling: the best possible decoder of single trials reaches {top1.ceiling:.3f} on this gallery."
            )
        left_out = [n for n in self.ways if n > n_pictures]
        if left_out:
            notes.append(f"Left out, larger than the gallery: {', '.join(f'{n}-way' for n in left_out)}.")
        return notes

    def _tables(
        self,
        names: Sequence[str],
        split: EmbeddedSplit,
        single: _Direction,
        ceilings: Mapping[str, float],
        compat: Mapping[str, float],
    ) -> list[Table]:
        hits = single.ranks.hits(1).double().numpy()
        rows = []
        for subject in torch.unique(split.subject).tolist():
            mine = (split.subject == subject).numpy()
            low, high = bootstrap_mean(hits[mine], single.picture[mine], self.n_bootstrap, self.seed)
            name = names[subject] if subject < len(names) else str(subject)
            rows.append((name, int(mine.sum()), round(float(hits[mine].mean()), 4), round(low, 4), round(high, 4)))
        tables = [
            Table(
                "subjects",
                "Single-trial top-1 of each EEG subject",
                ("subject", "trials", "top-1", "low", "high"),
                tuple(rows),
            )
        ]
        if ceilings:
            tables.append(
                Table(
                    "ceilings",
                    "What scores can be read against",
                    ("ceiling", "value"),
                    tuple((name, round(value, 4) if math.isfinite(value) else "–") for name, value in ceilings.items()),
                )
            )
        tables.append(
            Table(
                "compat",
                "As earlier alignment code counts (every trial an item of its own); for comparison with it only",
                ("metric", "value"),
                tuple((name, round(value, 4)) for name, value in compat.items()),
            )
        )
        return tables

    # ---- figures ---------------------------------------------------------------------------------------------------

    def _figures(
        self,
        data: Any,
        folder: Path,
        split: EmbeddedSplit,
        gallery: Tensor,
        single: _Direction,
        averaged: _Direction,
        ceilings: Mapping[str, float],
    ) -> tuple[list[Figure], list[str]]:
        mean_z, _ = unique_gallery(split.z, split.picture)
        label = split.label[split.first_trial()].numpy()
        ranks = {"single trial": single.ranks.rank().numpy(), "mean over trials": averaged.ranks.rank().numpy()}
        best = {
            name: ceilings[key]
            for name, key in (("single trial", "bayes_single_trial"), ("mean over trials", "bayes_averaged"))
            if key in ceilings
        }
        similarity = (mean_z @ gallery.T).numpy()
        figures = [
            Figure(
                "similarity_matrix",
                "Cosine of every EEG embedding with every fMRI embedding; the right pairs are on the diagonal.",
                similarity_matrix(folder / "similarity_matrix.png", similarity, label, data.source),
            ),
            Figure(
                "rank_histogram",
                "Rank of the right picture among the held-out pictures, against chance and the best possible decoder.",
                rank_histogram(folder / "rank_histogram.png", ranks, len(gallery), data.source, best),
            ),
            Figure(
                "joint_embedding",
                "EEG and fMRI embeddings of the held-out pictures on their first two principal components.",
                joint_embedding(folder / "joint_embedding.png", mean_z.numpy(), gallery.numpy(), data.source),
            ),
        ]
        examples = self._examples(data.test_gallery(), split, single)
        if examples is None:
            return figures, ["No sheet of retrieved pictures: the data set ships no pictures."]
        figures.append(
            Figure(
                "retrieved_pictures",
                f"{len(examples)} single trials drawn at random: the picture shown during the EEG and the "
                f"{_GALLERY_COLUMNS} fMRI-side pictures that its embedding retrieves; hits have a thick frame.",
                retrieved_pictures(folder / "retrieved_pictures.png", examples, len(gallery), data.source),
            )
        )
        return figures, []

    def _examples(
        self, pictures: Mapping[str, Any], split: EmbeddedSplit, single: _Direction
    ) -> list[RetrievedRow] | None:
        """Trials of pictures drawn at random (not the best ones) with what they retrieve."""
        thumbnail = pictures.get("thumbnails")
        if thumbnail is None:
            return None
        first = split.first_trial()
        concept = dict(zip(np.asarray(pictures["ids"]).tolist(), pictures["concepts"], strict=True))
        image = split.image_id[first].tolist()
        generator = np.random.default_rng(self.seed)
        chosen = generator.choice(len(first), size=min(_GALLERY_ROWS, len(first)), replace=False)
        ranks = single.ranks.rank()
        rows = []
        for picture in chosen.tolist():
            trial = int(generator.choice(np.flatnonzero(single.picture == picture)))
            found = single.ranks.top[trial, :_GALLERY_COLUMNS].tolist()
            rows.append(
                RetrievedRow(
                    shown=thumbnail(image[picture], "eeg"),
                    retrieved=[thumbnail(image[other], "fmri") for other in found],
                    hit=[other == picture for other in found],
                    rank=float(ranks[trial]),
                    title=str(concept.get(image[picture], "")),
                )
            )
        return rows


def _directions(split: EmbeddedSplit, gallery: Tensor, pictures: Tensor) -> list[_Direction]:
    """EEG → fMRI and back, each with single trials and with averaged EEG."""
    keep = max(_TOP)
    sides = (
        ("", "single EEG trials", split.z, split.picture),
        ("_averaged", "EEG averaged over the trials of a picture", split.averaged_z, split.averaged_picture),
    )
    there = [
        _Direction("", suffix, f"EEG → fMRI, {what}", own.numpy(), retrieve(z, gallery, own, pictures, keep))
        for suffix, what, z, own in sides
    ]
    back = [
        _Direction(
            "fmri_to_eeg_", suffix, f"fMRI → EEG, {what}", pictures.numpy(), retrieve(gallery, z, pictures, own, keep)
        )
        for suffix, what, z, own in sides
    ]
    return there + back
