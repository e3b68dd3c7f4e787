"""What every network promises: builds without memory, gives gradients everywhere, and survives a round trip."""

from __future__ import annotations

import pytest
import torch

from brainlab.models.cbramod import CBraMod
from brainlab.models.pooling_heads import AttentionHead, FlattenHead, MultiTokenHead

SIZES = {"n_channels": 7, "n_patches": 2, "embed_dim": 24}
NETWORKS = {
    "cbramod": (lambda: CBraMod(n_layer=2), (2, 7, 3, 200)),
    "cbramod, one patch": (lambda: CBraMod(n_layer=2), (2, 7, 1, 200)),
    "flatten head": (lambda: FlattenHead(**SIZES), (2, 7, 2, 200)),
    "attention head": (lambda: AttentionHead(**SIZES), (2, 7, 2, 200)),
    "multi-token head": (lambda: MultiTokenHead(**SIZES), (2, 7, 2, 200)),
}


@pytest.fixture(params=NETWORKS, ids=list(NETWORKS))
def network(request):
    torch.manual_seed(0)
    build, shape = NETWORKS[request.param]
    return build, torch.randn(shape)


def test_network_builds_without_memory(network):
    build, _ = network
    with torch.device("meta"):
        module = build()
    assert all(parameter.is_meta for parameter in module.parameters())


def test_every_trainable_parameter_gets_a_finite_gradient(network):
    build, x = network
    module = build()
    module(x).square().mean().backward()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert bool(torch.isfinite(parameter.grad).all()), name


def test_saved_weights_give_the_same_numbers(network, tmp_path):
    build, x = network
    module = build().eval()
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    other = build().eval()
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True), strict=True)
    with torch.no_grad():
        assert torch.equal(module(x), other(x))


def test_evaluation_does_not_depend_on_the_batch(network):
    build, x = network
    module = build().eval()
    with torch.no_grad():
        assert torch.allclose(module(x)[:1], module(x[:1]), atol=1e-5)


def test_half_precision_autocast_stays_close(network):
    build, x = network
    module = build().eval()
    with torch.no_grad():
        exact = module(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = module(x).float()
    assert torch.nn.functional.cosine_similarity(exact.flatten(), rough.flatten(), dim=0) > 0.99
