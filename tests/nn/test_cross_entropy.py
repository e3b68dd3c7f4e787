"""The chunked loss is the ordinary one, without its table of logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from brainlab.nn.cross_entropy import linear_cross_entropy, linear_scores


@pytest.fixture
def problem():
    torch.manual_seed(0)
    features = torch.randn(37, 8, requires_grad=True)
    weight = torch.randn(50, 8, requires_grad=True)
    return features, weight, torch.randint(50, (37,))


@pytest.mark.parametrize("chunk", [1, 10, 37, 1000])
def test_value_and_gradients_are_those_of_the_plain_loss(problem, chunk):
    features, weight, target = problem
    plain = F.cross_entropy(features @ weight.T, target, reduction="sum")
    wanted = torch.autograd.grad(3 * plain, (features, weight))
    ours = linear_cross_entropy(features, weight, target, chunk)
    found = torch.autograd.grad(3 * ours, (features, weight))
    assert torch.allclose(ours, plain, rtol=1e-5)
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_scores_are_those_of_single_tokens(problem):
    features, weight, target = problem
    logits = features @ weight.T
    nats, right = linear_scores(features, weight, target, chunk=10)
    assert torch.allclose(nats, F.cross_entropy(logits, target, reduction="none"), atol=1e-5)
    assert torch.equal(right, logits.argmax(-1) == target)


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.elements = max(self.elements, out.numel())
        return out


def test_no_tensor_is_larger_than_a_chunk_of_logits_or_the_weights():
    features = torch.randn(4096, 4, requires_grad=True)
    weight = torch.randn(300, 4, requires_grad=True)
    with Largest() as largest:
        linear_cross_entropy(features, weight, torch.randint(300, (4096,)), chunk=64).backward()
    assert largest.elements <= max(64 * 300, 4096 * 4)


def test_half_precision_stays_close(problem):
    features, weight, target = problem
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = linear_cross_entropy(features, weight, target, 10)
    rough.backward()
    assert features.grad is not None
    assert rough.dtype == features.grad.dtype == torch.float32
    assert torch.allclose(rough, F.cross_entropy(features @ weight.T, target, reduction="sum"), rtol=0.02)
