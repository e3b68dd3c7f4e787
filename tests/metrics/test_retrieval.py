"""Retrieval counts pictures: repeats, ties and the order of the gallery change nothing."""

from __future__ import annotations

import math
from itertools import combinations, permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from brainlab.errors import InvalidValue
from brainlab.metrics import retrieval
from brainlab.metrics.alignment import unit_rows
from brainlab.metrics.retrieval import compat_metrics, picture_groups, retrieve, unique_gallery


def rows(n: int, dim: int = 5, seed: int = 0) -> torch.Tensor:
    return unit_rows(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)))


def brute_force_ranks(scores: list[list[float]], own: list[int], item_picture: list[int]) -> list[list[int]]:
    """All ranks that breaking ties in every order gives."""
    found = []
    for row, mine in zip(scores, own, strict=True):
        best: dict[int, float] = {}
        for score, picture in zip(row, item_picture, strict=True):
            best[picture] = max(best.get(picture, -math.inf), score)
        better = sum(value > best[mine] for value in best.values())
        tied = sum(value == best[mine] for value in best.values()) - 1
        found.append([better + 1 + i for i in range(tied + 1)])
    return found


# Small integers make ties common.
@st.composite
def galleries(draw):
    n_pictures = draw(st.integers(2, 5))
    item_picture = draw(
        st.permutations([*range(n_pictures), *draw(st.lists(st.integers(0, n_pictures - 1), max_size=4))])
    )
    own = draw(st.lists(st.integers(0, n_pictures - 1), min_size=1, max_size=6))
    vectors = st.lists(st.integers(-1, 1), min_size=2, max_size=2)
    gallery = draw(st.lists(vectors, min_size=len(item_picture), max_size=len(item_picture)))
    query = draw(st.lists(vectors, min_size=len(own), max_size=len(own)))
    return query, gallery, own, list(item_picture)


@settings(max_examples=100, deadline=None)
@given(galleries(), st.integers(1, 5))
def test_hits_and_ranks_are_means_over_all_ways_to_break_ties(case, k):
    query, gallery, own, item_picture = case
    scores = [[a[0] * b[0] + a[1] * b[1] for b in gallery] for a in query]
    ranks = retrieve(
        torch.tensor(query).float(), torch.tensor(gallery).float(), torch.tensor(own), torch.tensor(item_picture)
    )
    for i, possible in enumerate(brute_force_ranks(scores, own, item_picture)):
        assert float(ranks.rank()[i]) == pytest.approx(sum(possible) / len(possible))
        assert float(ranks.hits(k)[i]) == pytest.approx(sum(r <= k for r in possible) / len(possible))


@settings(max_examples=50, deadline=None)
@given(galleries(), st.randoms(use_true_random=False))
def test_the_order_of_the_gallery_changes_nothing(case, random):
    query, gallery, own, item_picture = case
    order = list(range(len(gallery)))
    random.shuffle(order)
    q, g = torch.tensor(query).float(), torch.tensor(gallery).float()
    before = retrieve(q, g, torch.tensor(own), torch.tensor(item_picture))
    after = retrieve(q, g[order], torch.tensor(own), torch.tensor(item_picture)[order])
    assert torch.equal(before.better, after.better)
    assert torch.equal(before.tied, after.tied)


@pytest.mark.parametrize("direction", ["there", "back"])
def test_perfect_prediction_with_repeated_targets_scores_one(direction):
    target = rows(6).repeat_interleave(4, dim=0)
    picture = torch.arange(6).repeat_interleave(4)
    gallery, pictures = unique_gallery(target, picture)
    arguments = (target, gallery, picture, pictures) if direction == "there" else (gallery, target, pictures, picture)
    assert float(retrieve(*arguments).hits(1).mean()) == 1.0
    # Item by item, the other three trials of the picture look like errors.
    assert compat_metrics(target, target)["top1"] == 0.25


def test_a_predictor_that_answers_the_same_for_every_item_scores_chance():
    gallery = rows(1).repeat(8, 1)
    ranks = retrieve(rows(5), gallery, torch.arange(5), torch.arange(8))
    torch.testing.assert_close(ranks.hits(1), torch.full((5,), 1 / 8))
    torch.testing.assert_close(ranks.hits(5), torch.full((5,), 5 / 8))
    torch.testing.assert_close(ranks.rank(), torch.full((5,), 4.5))
    torch.testing.assert_close(ranks.n_way(4), torch.full((5,), 1 / 4))


def test_blocks_do_not_change_the_result(monkeypatch):
    query, gallery = rows(23), rows(12, seed=1)
    own, items = torch.arange(23) % 7, torch.arange(12) % 7
    whole = retrieve(query, gallery, own, items, keep=3)
    monkeypatch.setattr(retrieval, "_BLOCK_SCORES", 25)
    blocks = retrieve(query, gallery, own, items, keep=3)
    assert torch.equal(whole.better, blocks.better)
    assert torch.equal(whole.top, blocks.top)


def test_top_lists_the_pictures_best_first():
    gallery = torch.eye(4)
    query = torch.tensor([[0.1, 0.9, 0.3, 0.2]])
    ranks = retrieve(query, gallery, torch.tensor([30]), torch.tensor([10, 20, 30, 40]), keep=3)
    assert ranks.top.tolist() == [[20, 30, 40]]
    assert ranks.rank().tolist() == [2.0]


@pytest.mark.parametrize("k", [1, 2])
def test_n_way_is_the_mean_over_all_choices_of_distractors(k):
    query, gallery = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.1], [0.9, 0], [0.5, 0.2], [0.7, 0], [0.1, 0.4]])
    ranks = retrieve(query, gallery, torch.tensor([0]), torch.arange(5))
    scores = (query @ gallery.T)[0].tolist()
    for n in (2, 3, 4, 5):
        hits = []
        for others in combinations(range(1, 5), n - 1):
            # The second distractor with the same score as the right picture comes first half of the time.
            for order in permutations((0, *others)):
                ranked = sorted(order, key=lambda item: -scores[item])
                hits.append(ranked.index(0) < k)
        assert float(ranks.n_way(n, k)) == pytest.approx(sum(hits) / len(hits))


def test_n_way_larger_than_the_gallery_is_refused():
    with pytest.raises(InvalidValue, match="ways"):
        retrieve(rows(3), rows(4), torch.arange(3), torch.arange(4)).n_way(5)


def test_embeddings_that_are_not_finite_are_refused_instead_of_ranked_first():
    query = rows(3)
    query[1, 0] = math.nan
    with pytest.raises(InvalidValue, match="diverge"):
        retrieve(query, rows(3), torch.arange(3), torch.arange(3))


def test_a_picture_that_the_gallery_lacks_is_named():
    with pytest.raises(InvalidValue, match="77"):
        retrieve(rows(2), rows(3), torch.tensor([0, 77]), torch.arange(3))


def test_pictures_that_share_an_fmri_picture_have_one_right_answer():
    image = torch.tensor([5, 5, 2, 9, 1])
    target = torch.tensor([[100, 200], [100, 200], [101, 201], [102, 201], [103, 999]])
    assert picture_groups(image, target).tolist() == [2, 2, 1, 1, 0]
    # A subject without a target says nothing about pictures.
    mask = torch.ones_like(target, dtype=torch.bool)
    mask[3, 1] = False
    assert picture_groups(image, target, mask).tolist() == [2, 2, 1, 3, 0]


def test_unique_gallery_holds_each_picture_once_with_unit_length():
    gallery, pictures = unique_gallery(rows(9), torch.tensor([4, 4, 1, 0, 1, 4, 0, 0, 1]))
    assert pictures.tolist() == [0, 1, 4]
    torch.testing.assert_close(gallery.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("k", [1, 5, 10])
def test_hits_on_a_unique_gallery_equal_torchmetrics(k):
    from torchmetrics.retrieval import RetrievalHitRate

    query, gallery = rows(40, dim=8), rows(30, dim=8, seed=1)
    own = torch.arange(40) % 30
    scores = query @ gallery.T
    peer = RetrievalHitRate(top_k=k)
    index = torch.arange(40)[:, None].expand(40, 30)
    peer.update(scores.flatten(), (own[:, None] == torch.arange(30)).flatten(), index.flatten())
    ours = retrieve(query, gallery, own, torch.arange(30)).hits(k).mean()
    torch.testing.assert_close(ours, peer.compute())


def test_compat_metrics_equal_the_loop():
    z, target = rows(14), rows(14, seed=3)
    scores = z @ target.T
    top1 = sum(int(scores[i].argmax()) == i for i in range(14)) / 14
    top10 = sum(i in scores[i].topk(10).indices.tolist() for i in range(14)) / 14
    found = compat_metrics(z, target)
    assert (found["top1"], found["top10"]) == (top1, top10)
    assert found["mse"] == pytest.approx(2 - 2 * found["cos_sim"], abs=1e-5)
