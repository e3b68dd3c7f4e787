"""The retrieval protocol on data whose right answers are planted."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from brainlab.errors import InvalidValue
from brainlab.evaluation.embedding import embed_split
from brainlab.evaluation.retrieval import Retrieval
from brainlab.metrics.alignment import unit_rows

DIM, PICTURES, TRIALS = 16, 60, 4


class ReadsTheCode(nn.Module):
    """The EEG is code plus noise; dropout would ruin it if evaluation ran in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.9)
        self.gain = nn.Parameter(torch.ones(1))
        self.seen_grad: list[bool] = []

    def forward(self, eeg):
        self.seen_grad.append(torch.is_grad_enabled())
        return unit_rows(self.drop(self.gain * eeg[:, :DIM, 0, 0]))


class PlantedData:
    """Two fMRI subjects, two EEG subjects; ``noise`` is the EEG's, relative to a code of unit length."""

    source = "synthetic"

    def __init__(self, noise: float, shuffled: bool = False, seed: int = 0, pictures: int = PICTURES) -> None:
        generator = torch.Generator().manual_seed(seed)
        code = unit_rows(torch.randn(pictures, DIM, generator=generator))
        self.picture = torch.arange(pictures).repeat_interleave(TRIALS)
        n = len(self.picture)
        shown = code[torch.randperm(pictures, generator=generator)] if shuffled else code
        eeg = torch.zeros(n, DIM, 1, 3)
        eeg[:, :, 0, 0] = shown[self.picture] + noise / math.sqrt(DIM) * torch.randn(n, DIM, generator=generator)
        self.rows = {
            "eeg": eeg,
            "target": code[self.picture][:, None].repeat(1, 2, 1),
            "target_mask": torch.ones(n, 2, dtype=torch.bool),
            "image_id": self.picture + 1000,
            "target_id": (self.picture + 5)[:, None].repeat(1, 2),
            "label": self.picture % 5,
            "index": torch.arange(n),
            "subject": torch.arange(n) % 2,
        }

    def setup(self, stage: str) -> None:
        assert stage == "test"

    def describe(self) -> dict:
        return {"eeg_subjects": ["sub-01", "sub-02"]}

    def test_dataloader(self):
        for start in range(0, len(self.picture), 33):
            yield {name: values[start : start + 33] for name, values in self.rows.items()}

    def ceilings(self, split: str = "test") -> dict[str, float]:
        return {"bayes_single_trial": 0.9, "bayes_averaged": 0.99, "rep_to_rep": 0.8, "random_pair": 1 / PICTURES}

    def test_gallery(self) -> dict:
        ids = np.unique(self.picture.numpy() + 1000)

        def thumbnail(image_id: int, side: str) -> np.ndarray:
            value = np.random.default_rng(image_id).integers(0, 255, 3)
            return np.full((16, 16, 3), value // (1 if side == "eeg" else 2), dtype=np.uint8)

        names = [f"concept {i}" for i in ids]
        return {"ids": ids, "concepts": names, "labels": ids % 5, "thumbnails": thumbnail}


def judge(tmp_path, task=None, data=None, **keywords):
    settings = {"n_bootstrap": 300, "n_permutations": 100, **keywords}
    return Retrieval(**settings)(task or ReadsTheCode(), data or PlantedData(0.8), tmp_path)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return judge(tmp_path_factory.mktemp("good"))


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr(Retrieval, "_figures", lambda self, *arguments: ([], []))


def test_scores_of_a_good_decoder_are_read_against_chance_control_and_ceiling(good):
    found = good
    top1 = found.metric("top1")
    assert found.headline == "top1"
    assert top1.chance == pytest.approx(1 / PICTURES)
    assert top1.ceiling == 0.9
    assert top1.n == PICTURES * TRIALS
    assert 0.5 < top1.low < top1.value < top1.high < 1
    assert top1.control == pytest.approx(1 / PICTURES, abs=0.01)
    control = found.details["controls"]["top1"]
    assert control["chance_inside"]
    assert control["n_permutations"] == 100
    assert control["central_95"][0] <= 1 / PICTURES <= control["central_95"][1]
    assert found.details["ceilings"]["rep_to_rep"] == 0.8
    subjects = next(table for table in found.tables if table.name == "subjects")
    assert [row[:2] for row in subjects.rows] == [("sub-01", 120), ("sub-02", 120)]
    # Averaging trials removes noise.
    assert found.metric("top1_averaged").value > top1.value
    assert found.metric("top1_averaged").ceiling == 0.99
    assert found.metric("fmri_to_eeg_top1").value > 0.5


def test_all_directions_sizes_and_averages_are_reported(good):
    found = good
    names = {metric.name for metric in found.metrics}
    for prefix in ("", "fmri_to_eeg_"):
        for suffix in ("", "_averaged"):
            for name in ("top1", "top5", "top10", "median_rank", "top1_50way", "top5_50way"):
                assert f"{prefix}{name}{suffix}" in names
    assert {"mse", "cosine"} <= names
    assert not any("100way" in name for name in names)
    assert any("100-way, 200-way" in note for note in found.notes)
    for metric in found.metrics:
        assert metric.low <= metric.value <= metric.high, metric.name
    assert found.metric("mse").value == pytest.approx(2 - 2 * found.metric("cosine").value)
    assert found.metric("median_rank").chance == (PICTURES + 1) / 2
    assert found.metric("top1_50way").value > found.metric("top1").value


def test_perfect_prediction_of_repeated_targets_scores_one(tmp_path, no_figures):
    found = judge(tmp_path, data=PlantedData(0.0))
    assert found.metric("top1").value == found.metric("fmri_to_eeg_top1").value == 1.0
    assert found.metric("median_rank").value == 1.0
    assert found.metric("cosine").value == pytest.approx(1.0, abs=1e-5)
    assert found.details["compat"]["top1"] == pytest.approx(1 / TRIALS)


def test_pairs_that_mean_nothing_score_chance(tmp_path, no_figures):
    values = []
    for seed in range(5):
        found = judge(tmp_path, data=PlantedData(0.3, shuffled=True, seed=seed), n_bootstrap=10)
        values.append(found.metric("top1").value)
    assert np.mean(values) < 4 / PICTURES


def test_everything_is_json_and_the_same_for_the_same_seed(tmp_path, no_figures):
    a, b, c = judge(tmp_path / "a", seed=1), judge(tmp_path / "b", seed=1), judge(tmp_path / "c", seed=2)
    as_json = [json.dumps([[m.to_dict() for m in x.metrics], x.details, x.notes]) for x in (a, b, c)]
    assert as_json[0] == as_json[1]
    assert as_json[0] != as_json[2]
    for table in a.tables:
        assert all(len(row) == len(table.header) for row in table.rows)
        json.dumps(table.rows)


def test_figures_are_png_files_under_the_run(good):
    assert [f.name for f in good.figures] == [
        "similarity_matrix",
        "rank_histogram",
        "joint_embedding",
        "retrieved_pictures",
    ]
    for figure in good.figures:
        assert figure.path.parent.name == "figures"
        assert figure.path.read_bytes().startswith(b"\x89PNG")


def test_evaluation_leaves_the_task_as_it_was(tmp_path, no_figures):
    task = ReadsTheCode().train()
    task.drop.eval()
    judge(tmp_path, task)
    assert task.training
    assert not task.drop.training
    assert not any(task.seen_grad)


def test_averages_are_made_of_the_trials_of_one_subject_and_picture():
    data = PlantedData(0.5, pictures=3)
    split = embed_split(ReadsTheCode(), data.test_dataloader(), batch_size=2)
    assert split.n_pictures == 3
    assert split.averaged_picture.tolist() == [0, 0, 1, 1, 2, 2]
    mine = (data.picture == 1) & (data.rows["subject"] == 0)
    expected = unit_rows(data.rows["eeg"][mine][:, :, 0, 0].mean(dim=0))
    torch.testing.assert_close(split.averaged_z[2], expected)


def test_empty_or_single_picture_split_is_refused(tmp_path):
    with pytest.raises(InvalidValue, match="at least one example"):
        embed_split(ReadsTheCode(), [])
    with pytest.raises(InvalidValue, match="unique pictures"):
        judge(tmp_path, data=PlantedData(0.1, pictures=1))


@pytest.mark.parametrize("keywords", [{"n_bootstrap": 0}, {"n_permutations": 0}, {"batch_size": 0}, {"ways": [1]}])
def test_settings_that_cannot_be_are_named(keywords):
    with pytest.raises(InvalidValue, match=next(iter(keywords))):
        Retrieval(**keywords)
