"""The losses equal plain loops and do not care how often a picture was drawn."""

from __future__ import annotations

import math

import pytest
import torch

from brainlab.errors import ShapeMismatch
from brainlab.metrics.alignment import (
    info_nce,
    mean_target,
    mse_distance,
    picture_nll,
    prototype_distance,
    same_picture,
    unit_rows,
)


def rows(n: int, dim: int = 6, seed: int = 0) -> torch.Tensor:
    return unit_rows(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def naive_info_nce(z, target, scale, image):
    """Loops and lists only: pictures first, trials inside."""
    n = len(z)
    per_picture: dict[int, list[float]] = {}
    for i in range(n):
        others: dict[int, list[float]] = {}
        for j in range(n):
            if image[j] != image[i]:
                others.setdefault(image[j], []).append(math.exp(scale * float(z[i] @ target[j])))
        negative = sum(sum(values) / len(values) for values in others.values())
        losses = []
        for p in range(n):
            if image[p] == image[i]:
                positive = math.exp(scale * float(z[i] @ target[p]))
                losses.append(-math.log(positive / (positive + negative)))
        per_picture.setdefault(image[i], []).append(sum(losses) / len(losses))
    means = [sum(values) / len(values) for values in per_picture.values()]
    return sum(means) / len(means)


def test_info_nce_equals_the_loop_with_repeated_pictures():
    image = [3, 1, 3, 2, 7, 1, 3]
    z, target = rows(7), rows(7, seed=1)
    same = same_picture(torch.tensor(image))
    assert float(info_nce(z, target, 5.0, same)) == pytest.approx(naive_info_nce(z, target, 5.0, image), rel=1e-10)
    both = naive_info_nce(z, target, 5.0, image) + naive_info_nce(target, z, 5.0, image)
    assert float(info_nce(z, target, 5.0, same, symmetric=True)) == pytest.approx(both / 2, rel=1e-10)


def test_info_nce_without_repeats_is_cross_entropy_of_the_diagonal():
    z, target = rows(9), rows(9, seed=1)
    reference = torch.nn.functional.cross_entropy(z @ target.T / 0.07, torch.arange(9))
    torch.testing.assert_close(info_nce(z, target, 1 / 0.07), reference)


@pytest.mark.parametrize("repeats", [[4, 4, 4, 4, 4], [1, 3, 2, 5, 1]])
def test_perfect_prediction_has_the_same_loss_with_and_without_repeated_pictures(repeats):
    target = rows(5)
    image = torch.repeat_interleave(torch.arange(5), torch.tensor(repeats))
    once = info_nce(target, target, 1 / 0.07, symmetric=True)
    often = info_nce(target[image], target[image], 1 / 0.07, same_picture(image), symmetric=True)
    torch.testing.assert_close(often, once)


def test_same_picture_pairs_are_never_negatives():
    # Two trials of one picture alone in a batch: nothing to tell apart, nothing to learn.
    z = rows(2).requires_grad_()
    loss = info_nce(z, rows(2, seed=1), 10.0, same_picture(torch.tensor([5, 5])))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(z.grad, torch.zeros_like(z))


def test_pictures_count_as_the_same_if_they_share_the_fmri_picture():
    same = same_picture(torch.tensor([1, 2, 3]), torch.tensor([10, 11, 10]))
    assert same.int().tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_batch_of_one_has_a_finite_loss_and_gradient():
    z = rows(1).requires_grad_()
    loss = info_nce(z, rows(1, seed=1), 14.0) + mse_distance(z, rows(1, seed=1))
    loss = loss + prototype_distance(z, rows(1, seed=1), torch.tensor([0]))
    loss.backward()
    assert torch.isfinite(z.grad).all()
    assert float(z.grad.abs().sum()) > 0


def test_mse_of_unit_rows_is_two_minus_two_cosine():
    z, target = rows(8), rows(8, seed=1)
    cosine = sum(float(a @ b) for a, b in zip(z, target, strict=True)) / 8
    assert float(mse_distance(z, target)) == pytest.approx(2 - 2 * cosine)


def test_prototype_distance_equals_the_loop():
    label = torch.tensor([4, 0, 4, 2, 0, 0])
    z, target = rows(6), rows(6, seed=1)
    expected = 0.0
    for c in (0, 2, 4):
        members = [i for i in range(6) if int(label[i]) == c]
        p = sum(z[i] for i in members) / len(members)
        q = sum(target[i] for i in members) / len(members)
        expected += float(((p / p.norm() - q / q.norm()) ** 2).sum()) / 3
    assert float(prototype_distance(z, target, label)) == pytest.approx(expected)


def test_mean_target_leaves_absent_subjects_out():
    target = unit_rows(torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)))
    mask = torch.tensor([[True, True, False], [False, False, True]])
    mean = mean_target(target, mask)
    torch.testing.assert_close(mean[0], unit_rows(target[0, :2].mean(dim=0)))
    torch.testing.assert_close(mean[1], target[1, 2])
    weighted = mean_target(target, mask, torch.tensor([1.0, 3.0, 1.0]))
    torch.testing.assert_close(weighted[0], unit_rows(target[0, 0] + 3 * target[0, 1]))


def test_picture_nll_does_not_depend_on_blocks():
    z, gallery = rows(11), rows(4, seed=1)
    picture = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2])
    reference = float(torch.nn.functional.cross_entropy(8 * z @ gallery.T, picture))
    for block in (1, 3, 100):
        assert picture_nll(z, gallery, picture, 8.0, block) == pytest.approx(reference, rel=1e-6)


def test_embedding_of_another_width_than_the_target_is_refused():
    with pytest.raises(ShapeMismatch, match="embed_dim"):
        mse_distance(rows(3, dim=4), rows(3, dim=5))
