from __future__ import annotations

import pytest
import torch

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.models.pooling_heads import AttentionHead, FlattenHead, MultiTokenHead
from brainlab.models.query_alignment import QueryAlignmentHead

HEADS = [FlattenHead, AttentionHead, MultiTokenHead, QueryAlignmentHead]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("patches", [1, 3])
@pytest.mark.parametrize("batch", [1, 2])
def test_gives_one_embedding_per_window_and_every_parameter_a_gradient(head, patches, batch):
    torch.manual_seed(0)
    module = head(n_channels=5, n_patches=patches, embed_dim=24, width=20)
    out = module(torch.randn(batch, 5, patches, 20))
    assert out.shape == (batch, 24)
    (out**2).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("shape", [(2, 4, 1, 20), (2, 5, 2, 20), (2, 5, 1, 21), (2, 5, 20)])
def test_features_of_another_shape_are_refused(head, shape):
    with pytest.raises(ShapeMismatch, match="features"):
        head(5, 1, 24, width=20)(torch.zeros(shape))


@pytest.mark.parametrize("head", [AttentionHead, MultiTokenHead, QueryAlignmentHead])
def test_an_unknown_treatment_of_patches_is_refused(head):
    with pytest.raises(InvalidValue, match="average or concatenate"):
        head(5, 2, 24, width=20, patches="mean")


@pytest.mark.parametrize(
    ("head", "settings"),
    [
        (FlattenHead, {"mlp_layers": 0}),
        (FlattenHead, {"n_channels": 0}),
        (AttentionHead, {"n_queries": 0}),
        (MultiTokenHead, {"n_tokens": 0}),
        (MultiTokenHead, {"n_heads": 3}),
        (QueryAlignmentHead, {"query": "fmri"}),
        (QueryAlignmentHead, {"n_heads": 5}),
        (QueryAlignmentHead, {"target_share": 1.0}),
    ],
)
def test_settings_that_cannot_work_are_refused(head, settings):
    with pytest.raises(InvalidValue, match=next(iter(settings))):
        head(**{"n_channels": 5, "n_patches": 1, "embed_dim": 24, "width": 20, **settings})


def test_flatten_head_has_the_size_of_the_published_one():
    with torch.device("meta"):
        head = FlattenHead(63, 1, 4096)
    assert [tuple(p.shape) for p in head.parameters()] == [(4096, 12600), (4096,), (4096, 4096), (4096,)]
    assert sum(p.numel() for p in head.parameters()) == 68_395_008


def test_attention_head_does_not_scale_its_scores():
    head = AttentionHead(3, 1, 4, width=2, n_queries=1)
    with torch.no_grad():
        head.queries.copy_(torch.tensor([[2.0, 0.0]]))
    tokens = torch.tensor([[1.0, 5.0], [0.0, 1.0], [-1.0, 2.0]])
    weights = torch.softmax(torch.tensor([2.0, 0.0, -2.0]), 0)
    torch.testing.assert_close(head.pool(tokens.view(1, 3, 1, 2))[0], weights @ tokens)


def test_average_and_concatenate_see_several_patches_differently():
    torch.manual_seed(0)
    features = torch.randn(1, 3, 2, 8)
    average = AttentionHead(3, 2, 4, width=8)
    concatenate = AttentionHead(3, 2, 4, width=8, patches="concatenate")
    concatenate.load_state_dict(average.state_dict())
    torch.testing.assert_close(average.pool(features), average.pool(features.flip(2)))
    constant = features[:, :, :1].expand(-1, -1, 2, -1)
    torch.testing.assert_close(average.pool(constant), concatenate.pool(constant))
    assert not torch.allclose(average.pool(features), concatenate.pool(features))


def test_multi_token_head_lists_every_patch_when_concatenating():
    assert MultiTokenHead(3, 2, 4, width=8, patches="concatenate").pos_embed.shape == (1, 4 + 6, 8)
    assert MultiTokenHead(3, 2, 4, width=8).pos_embed.shape == (1, 4 + 3, 8)


@pytest.mark.parametrize("head", [FlattenHead, AttentionHead, MultiTokenHead])
def test_works_under_bfloat16_autocast(head):
    module = head(5, 1, 24, width=20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = module(torch.randn(2, 5, 1, 20).bfloat16())
    out.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())
