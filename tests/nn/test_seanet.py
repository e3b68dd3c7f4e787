"""The causal encoder and decoder: what depends on what, and for how long."""

from __future__ import annotations

import pytest
import torch

from brainlab.errors import InvalidValue
from brainlab.nn.seanet import CausalConv1d, CausalConvTranspose1d, SEANetDecoder, SEANetEncoder

SIZES = [
    {"ratios": (2, 2), "kernel": 5, "last_kernel": 5, "residual_layers": 2},
    {"ratios": (2, 3), "kernel": 3, "last_kernel": 1, "residual_layers": 1},
    {"ratios": (4,), "kernel": 7, "last_kernel": 3, "residual_layers": 0},
    {"ratios": (1, 2), "kernel": 1, "last_kernel": 3, "residual_layers": 3},
]


@pytest.fixture(params=SIZES, ids=lambda sizes: str(sizes["ratios"]))
def networks(request):
    torch.manual_seed(0)
    settings = {"n_filters": 4, **request.param}
    return SEANetEncoder(3, 6, **settings).double(), SEANetDecoder(3, 6, **settings).double()


def _changed(before: torch.Tensor, after: torch.Tensor) -> list[int]:
    return (before != after).any(dim=1).any(dim=0).nonzero().flatten().tolist()


def test_a_latent_depends_on_its_own_frame_and_the_receptive_field_before_it(networks):
    encoder = networks[0]
    hop, n_frames = encoder.hop, 40
    x = torch.randn(1, 3, n_frames * hop, dtype=torch.double)
    latent = encoder(x)
    assert latent.shape == (1, 6, n_frames)
    for at in range(0, 20 * hop, 3):
        other = x.clone()
        other[..., at] += 1.0
        changed = _changed(latent, encoder(other))
        assert changed[0] >= at // hop
        assert changed[-1] <= (at + encoder.receptive_field) // hop
    # Both bounds are reached: neither the past nor the own frame is overstated.
    reach = [_changed(latent, encoder(_bumped(x, at))) for at in range(10 * hop, 11 * hop)]
    assert min(changed[0] for changed in reach) == 10
    assert max(changed[-1] for changed in reach) == (11 * hop - 1 + encoder.receptive_field) // hop


def _bumped(x: torch.Tensor, at: int) -> torch.Tensor:
    other = x.clone()
    other[..., at] += 1.0
    return other


def test_a_sample_depends_on_its_own_frame_and_known_frames_before_it(networks):
    decoder = networks[1]
    latent = torch.randn(1, 6, 40, dtype=torch.double)
    signal = decoder(latent)
    assert signal.shape == (1, 3, 40 * decoder.hop)
    changed = _changed(signal, decoder(_bumped(latent, 5)))
    assert changed[0] >= 5 * decoder.hop
    assert changed[-1] < (5 + decoder.past_frames + 1) * decoder.hop


def test_pieces_with_their_past_give_the_same_latents_and_samples(networks):
    encoder, decoder = networks
    hop, past = encoder.hop, -(-encoder.receptive_field // encoder.hop)
    x = torch.randn(2, 3, 120 * hop, dtype=torch.double)
    latent = encoder(x)
    lead = min(past, 50)
    piece = encoder(x[..., (50 - lead) * hop :])[..., lead:]
    torch.testing.assert_close(piece, latent[..., 50:])
    lead = min(decoder.past_frames, 50)
    torch.testing.assert_close(decoder(latent[..., 50 - lead :])[..., lead * hop :], decoder(latent)[..., 50 * hop :])


def test_an_incomplete_last_frame_is_filled_with_zeros(networks):
    encoder = networks[0]
    x = torch.randn(1, 3, 5 * encoder.hop + 1, dtype=torch.double)
    filled = torch.cat([x, torch.zeros(1, 3, encoder.hop - 1, dtype=torch.double)], dim=-1)
    torch.testing.assert_close(encoder(x), encoder(filled))


def test_weight_norm_gives_each_output_channel_its_gain():
    layer = CausalConv1d(3, 5, 4)
    with torch.no_grad():
        layer.gain.copy_(torch.arange(1.0, 6.0))
    torch.testing.assert_close(layer.filters.flatten(1).norm(dim=1), layer.gain.detach())
    up = CausalConvTranspose1d(3, 5, 4, 2)
    with torch.no_grad():
        up.gain.copy_(torch.arange(1.0, 6.0))
    torch.testing.assert_close(up.filters.transpose(0, 1).flatten(1).norm(dim=1), up.gain.detach())


def test_a_recurrent_layer_remembers_everything():
    encoder = SEANetEncoder(2, 4, n_filters=4, ratios=(2,), lstm_layers=1)
    decoder = SEANetDecoder(2, 4, n_filters=4, ratios=(2,), lstm_layers=1)
    assert encoder.receptive_field > 10**12
    assert decoder.past_frames > 10**12
    assert decoder(encoder(torch.randn(1, 2, 20))).shape == (1, 2, 20)


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"n_filters": 0}, "n_filters"), ({"ratios": ()}, "ratios"), ({"residual_layers": -1}, "residual_layers")],
)
def test_impossible_sizes_are_refused(settings, name):
    with pytest.raises(InvalidValue, match=name):
        SEANetEncoder(2, 4, **{"n_filters": 4, **settings})
    with pytest.raises(InvalidValue, match="kernel"):
        CausalConv1d(1, 1, 2, stride=3)
    with pytest.raises(InvalidValue, match="kernel"):
        CausalConvTranspose1d(1, 1, 2, 3)
