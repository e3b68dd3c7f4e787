"""The chunked loss is the ordinary one, without its table of logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from brainlab.nn.cross_entropy import expected_codes, linear_cross_entropy, linear_scores, soft_cross_entropy


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
    scores = linear_scores(features, weight, target, chunk=10)
    assert torch.allclose(scores.nats, F.cross_entropy(logits, target, reduction="none"), atol=1e-5)
    assert torch.equal(scores.likeliest, logits.argmax(-1))
    above = (logits > logits.gather(1, target[:, None])).sum(dim=1)
    assert torch.equal(scores.top5, above < 5)
    assert 0 < scores.top5.sum() < len(target)


def test_of_five_codes_or_fewer_every_one_is_among_the_best_five():
    scores = linear_scores(torch.randn(6, 2), torch.randn(4, 2), torch.randint(4, (6,)), chunk=4)
    assert scores.top5.all()


@pytest.mark.parametrize("chunk", [10, 1000])
@pytest.mark.parametrize("smoothing", [0.1, 1.0])
def test_smoothed_labels_are_those_of_torch(problem, chunk, smoothing):
    features, weight, target = problem
    plain = F.cross_entropy(features @ weight.T, target, reduction="sum", label_smoothing=smoothing)
    wanted = torch.autograd.grad(3 * plain, (features, weight))
    ours = linear_cross_entropy(features, weight, target, chunk, smoothing)
    found = torch.autograd.grad(3 * ours, (features, weight))
    assert torch.allclose(ours, plain, rtol=1e-5)
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_soft_targets_weigh_every_code(problem):
    features, weight, target = problem
    logits = features @ weight.T
    share = torch.rand(37, 50).softmax(dim=-1)
    by_hand = -sum(share[i] @ torch.log(logits[i].exp() / logits[i].exp().sum()) for i in range(37)).item() / 37
    assert soft_cross_entropy(logits, share).item() == pytest.approx(by_hand, rel=1e-5)
    one_hot = F.one_hot(target, 50).float()
    assert torch.allclose(soft_cross_entropy(logits, one_hot), F.cross_entropy(logits, target))
    folded = soft_cross_entropy(logits[:36].view(4, 9, 50), share[:36].view(4, 9, 50))
    assert torch.allclose(folded, soft_cross_entropy(logits[:36], share[:36]))


@pytest.mark.parametrize("chunk", [10, 1000])
def test_expected_codes_and_their_gradients_are_those_of_the_plain_mean(problem, chunk):
    features, weight, _ = problem
    plain = (features @ weight.T).softmax(dim=-1) @ torch.arange(50.0)
    wanted = torch.autograd.grad(plain.square().sum(), (features, weight))
    ours = expected_codes(features, weight, chunk)
    found = torch.autograd.grad(ours.square().sum(), (features, weight))
    assert torch.allclose(ours, plain, rtol=1e-5)
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-2)


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


@pytest.mark.parametrize(
    "compute",
    [
        lambda features, weight, target: linear_cross_entropy(features, weight, target, chunk=64),
        lambda features, weight, target: linear_cross_entropy(features, weight, target, 64, label_smoothing=0.1),
        lambda features, weight, _: expected_codes(features, weight, chunk=64).sum(),
    ],
)
def test_no_tensor_is_larger_than_a_chunk_of_logits_or_the_weights(compute):
    features = torch.randn(4096, 4, requires_grad=True)
    weight = torch.randn(300, 4, requires_grad=True)
    with Largest() as largest:
        compute(features, weight, torch.randint(300, (4096,))).backward()
    assert largest.elements <= max(64 * 300, 4096 * 4)


def test_half_precision_stays_close(problem):
    features, weight, target = problem
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = linear_cross_entropy(features, weight, target, 10)
    rough.backward()
    assert features.grad is not None
    assert rough.dtype == features.grad.dtype == torch.float32
    assert torch.allclose(rough, F.cross_entropy(features @ weight.T, target, reduction="sum"), rtol=0.02)
