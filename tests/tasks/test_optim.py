"""Which parameters decay, at which rate they learn, and how the rate moves."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from brainlab.errors import InvalidValue
from brainlab.models.cbramod import CBraMod
from brainlab.models.pooling_heads import AttentionHead, MultiTokenHead
from brainlab.tasks.optim import build_optimizer, build_scheduler, cosine_with_warmup, two_rate_groups


def names_by_decay(encoder: nn.Module, head: nn.Module) -> dict[bool, set[str]]:
    groups = two_rate_groups(encoder, [head], 1e-4, 5.0, 0.05)
    whole = {
        id(p): f"{part}.{n}" for part, m in (("encoder", encoder), ("head", head)) for n, p in m.named_parameters()
    }
    return {
        decayed: {whole[id(p)] for group in groups if (group["weight_decay"] > 0) == decayed for p in group["params"]}
        for decayed in (True, False)
    }


def test_norms_biases_tokens_queries_and_positions_do_not_decay():
    found = names_by_decay(CBraMod(n_layer=1, dim_feedforward=32), MultiTokenHead(5, 1, 16, n_layers=1))
    for name in (
        "encoder.encoder.layers.0.norm1.weight",
        "encoder.patch_embedding.proj_in.1.weight",
        "encoder.encoder.layers.0.linear1.bias",
        "encoder.encoder.layers.0.self_attn_s.in_proj_bias",
        "head.tokens",
        "head.pos_embed",
        "head.mlp.0.weight",
    ):
        assert name in found[False]
    for name in (
        "encoder.encoder.layers.0.linear1.weight",
        "encoder.encoder.layers.0.self_attn_s.in_proj_weight",
        "encoder.patch_embedding.proj_in.0.weight",
        "head.mlp.1.weight",
    ):
        assert name in found[True]
    assert "head.queries" in names_by_decay(nn.Linear(2, 2), AttentionHead(5, 1, 16))[False]


def test_embeddings_and_batch_norms_do_not_decay():
    head = nn.Sequential(nn.Embedding(4, 3), nn.BatchNorm1d(3), nn.RMSNorm(3), nn.Linear(3, 3))
    assert names_by_decay(nn.Linear(2, 2), head)[True] == {"encoder.weight", "head.3.weight"}


def test_every_trainable_parameter_is_in_one_group():
    encoder, head = CBraMod(n_layer=1, dim_feedforward=32), MultiTokenHead(5, 1, 16, n_layers=1)
    groups = two_rate_groups(encoder, [head], 1e-4, 5.0, 0.05)
    listed = [id(p) for group in groups for p in group["params"]]
    trainable = [id(p) for m in (encoder, head) for p in m.parameters() if p.requires_grad]
    assert sorted(listed) == sorted(trainable)
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates == pytest.approx({"encoder": 1e-4, "encoder_no_decay": 1e-4, "head": 5e-4, "head_no_decay": 5e-4})


def test_shared_parameter_learns_at_the_encoders_rate_only():
    encoder, head = nn.Linear(3, 3), nn.Linear(3, 3)
    head.weight = encoder.weight
    groups = two_rate_groups(encoder, [head], 1e-4, 5.0, 0.0)
    owners = [group["name"] for group in groups for p in group["params"] if p is encoder.weight]
    assert owners == ["encoder"]


def test_nothing_to_train_is_refused():
    with pytest.raises(InvalidValue, match="trainable"):
        two_rate_groups(nn.Linear(2, 2).requires_grad_(False), [], 1e-4, 5.0, 0.0)


@pytest.mark.parametrize("name", ["AdamW", "SGD", "RAdam", "Rprop"])
def test_any_torch_optimizer_is_built_by_name(name):
    groups = two_rate_groups(nn.Linear(2, 2), [nn.Linear(2, 2)], 1e-3, 5.0, 0.05)
    optimizer = build_optimizer(groups, name)
    assert type(optimizer) is getattr(torch.optim, name)
    assert {group["lr"] for group in optimizer.param_groups} == {1e-3, 5e-3}


def test_optimizer_options_reach_the_optimizer_and_unknown_ones_get_a_hint():
    groups = two_rate_groups(nn.Linear(2, 2), [], 1e-3, 5.0, 0.05)
    assert build_optimizer(groups, "AdamW", {"betas": [0.9, 0.95]}).param_groups[0]["betas"] == (0.9, 0.95)
    with pytest.raises(InvalidValue, match=r"did you mean AdamW\?"):
        build_optimizer(groups, "AdmW")
    with pytest.raises(InvalidValue, match=r"did you mean betas\?"):
        build_optimizer(groups, "AdamW", {"beta": [0.9, 0.95]})


def test_cosine_warms_up_peaks_and_ends_at_the_same_floor_for_every_group():
    first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([{"params": [first], "lr": 1e-3}, {"params": [second], "lr": 5e-3}])
    schedule = cosine_with_warmup(optimizer, total_steps=100, warmup_fraction=0.1, eta_min=1e-5)
    rates = []
    for _ in range(101):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx([1e-3 / 11, 5e-3 / 11])
    assert rates[10] == pytest.approx([1e-3, 5e-3])
    for peak, column in ((1e-3, 0), (5e-3, 1)):
        for step in (10, 40, 77, 100):
            expected = 1e-5 + (peak - 1e-5) * 0.5 * (1 + math.cos(math.pi * (step - 10) / 90))
            assert rates[step][column] == pytest.approx(expected)
    assert rates[100] == pytest.approx([1e-5, 1e-5])
    assert all(a[0] <= b[0] for a, b in itertools.pairwise(rates[:11]))


def test_unbounded_training_length_is_refused():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(InvalidValue, match="max_epochs"):
        cosine_with_warmup(optimizer, math.inf)
    with pytest.raises(InvalidValue, match="warmup_fraction"):
        cosine_with_warmup(optimizer, 10, 1.0)


def test_a_schedule_whose_rate_would_rise_is_refused():
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=5e-5)
    with pytest.raises(InvalidValue, match=r"eta_min=0\.0001: expected at most the peak rate model\.lr=5e-05.*null\.$"):
        build_scheduler(optimizer, "CosineAnnealingLR", {"eta_min": 1e-4}, 10)
    build_scheduler(optimizer, "CosineAnnealingLR", {"eta_min": 5e-5}, 10)
