"""Pooling heads against reference values."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from brainlab.models.pooling_heads import AttentionHead, MultiTokenHead


@pytest.fixture(scope="module")
def reference(golden_dir):
    return dict(np.load(golden_dir / "align" / "05_pooling_heads.npz"))


def test_attention_pooling_equals_the_reference(reference):
    head = AttentionHead(63, 1, 16)
    with torch.no_grad():
        head.queries.copy_(torch.from_numpy(reference["attn_queries"]))
        pooled = head.pool(torch.from_numpy(reference["feats"]).unsqueeze(2))
    torch.testing.assert_close(pooled, torch.from_numpy(reference["attn_out"]), rtol=0, atol=1e-4)


def test_multi_token_head_equals_the_reference(reference, recipe_weights):
    head = MultiTokenHead(63, 1, 64, n_layers=2).eval()
    state = head.state_dict()
    names = {name: tuple(shape) for name, shape in json.loads(str(reference["mtv_keys"])).items()}
    assert {name: tuple(value.shape) for name, value in state.items()} == names
    head.load_state_dict(recipe_weights(state))
    with torch.no_grad():
        out = head(torch.from_numpy(reference["feats"]).unsqueeze(2))
    torch.testing.assert_close(out, torch.from_numpy(reference["mtv_out"]), rtol=0, atol=1e-4)
