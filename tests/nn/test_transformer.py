from __future__ import annotations

import torch
from torch import nn

from brainlab.nn.transformer import PostNormLayer


def test_equals_torch_encoder_layer_with_gradients():
    torch.manual_seed(0)
    theirs = nn.TransformerEncoderLayer(20, 4, 32, dropout=0.0, batch_first=True)
    ours = PostNormLayer(20, 4, 32, dropout=0.0)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(3, 7, 20, requires_grad=True)
    g = torch.randn(3, 7, 20)
    a, b = ours(x), theirs(x)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    expected = dict(
        zip(dict(theirs.named_parameters()), torch.autograd.grad(b, tuple(theirs.parameters()), g), strict=True)
    )
    for name, gradient in zip(
        dict(ours.named_parameters()), torch.autograd.grad(a, tuple(ours.parameters()), g), strict=True
    ):
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)


def test_dropout_acts_in_training_only():
    layer = PostNormLayer(20, 4, 32, dropout=0.5)
    x = torch.randn(2, 5, 20)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))
