"""BrainTokMix: the published sizes, codes in pieces, and what a tokenizer promises."""

from __future__ import annotations

import pytest
import torch

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.models.braintokmix import BrainTokMix
from brainlab.types import Tokenizer

SMALL = {"n_filters": 8, "n_dim": 16, "codebook_size": 32}


def _network(**settings: object) -> BrainTokMix:
    torch.manual_seed(0)
    return BrainTokMix(5, **{**SMALL, **settings}).eval()  # type: ignore[arg-type]


def test_published_sizes_give_400_codes_per_second():
    with torch.device("meta"):
        network = BrainTokMix(68)
    assert network.hop == 4
    assert (network.n_sites, network.n_levels, network.vocab_size) == (4, 4, 16384)
    assert 100 / network.hop * network.n_sites * network.n_levels == 400
    assert tuple(network.quantiser.codebooks.shape) == (4, 16384, 1024)
    assert sum(parameter.numel() for parameter in network.parameters()) == 294_371_464


def test_shapes_of_the_published_window():
    network = BrainTokMix(68, n_filters=4, n_dim=16, codebook_size=16).eval()
    codes = network.encode(torch.randn(2, 68, 1024))
    assert codes.shape == (2, 256, 4, 4)
    assert codes.flatten(1).shape == (2, 4096)
    assert network.decode(codes).shape == (2, 68, 1024)


@pytest.mark.parametrize("settings", [{}, {"ratios": (2, 3)}, {"fsq_levels": [5, 4]}, {"codebook_dim": 2}])
def test_codes_and_signals_do_not_depend_on_the_pieces_they_are_made_in(settings):
    whole, pieces = _network(**settings), _network(chunk_frames=7, **settings)
    x = torch.randn(2, 5, 60 * whole.hop)
    codes = whole.encode(x)
    assert torch.equal(pieces.encode(x), codes)
    torch.testing.assert_close(pieces.decode(codes), whole.decode(codes), atol=1e-5, rtol=0)
    found = whole(x)
    assert torch.equal(found.codes, codes)
    torch.testing.assert_close(found.signal, whole.decode(codes), atol=1e-5, rtol=0)


def test_a_recurrent_network_in_pieces_gives_the_codes_of_one_pass():
    x = torch.randn(1, 5, 80)
    whole, pieces = _network(lstm_layers=1), _network(lstm_layers=1, chunk_frames=6)
    assert torch.equal(whole.encode(x), pieces.encode(x))


def test_later_samples_change_no_earlier_code():
    network = _network()
    x = torch.randn(1, 5, 200)
    other = x.clone()
    other[..., 100:] += 5
    assert torch.equal(network.encode(x)[:, :25], network.encode(other)[:, :25])


def test_it_is_a_tokenizer():
    network = _network()
    assert isinstance(network, Tokenizer)
    assert network.receptive_field == network.encoder.receptive_field > 0


def test_windows_of_any_length_come_back_with_their_length():
    assert _network()(torch.randn(1, 5, 43)).signal.shape == (1, 5, 43)
    assert _network().without_codes(torch.randn(1, 5, 43)).shape == (1, 5, 43)


def test_fewer_levels_give_a_coarser_signal():
    network = _network()
    codes = network.encode(torch.randn(1, 5, 40))
    assert network.decode(codes[..., :1]).shape == (1, 5, 40)


def test_encoding_in_training_mode_learns_nothing():
    network = _network().train()
    before = network.fingerprint
    network.encode(torch.randn(2, 5, 40))
    assert network.fingerprint == before


def test_the_fingerprint_follows_weights_codebooks_and_sizes():
    network = _network()
    prints = [network.fingerprint, _network(ratios=(4, 1)).fingerprint, _network(n_neuro=2).fingerprint]
    with torch.no_grad():
        network.quantiser.codebooks[0, 0, 0] += 1e-3
    prints.append(network.fingerprint)
    with torch.no_grad():
        network.decoder.last.bias[0] += 1e-3
    prints.append(network.fingerprint)
    assert len(set(prints)) == len(prints)
    assert _network().fingerprint == prints[0]


def test_saved_weights_give_the_same_codes(tmp_path):
    network = _network().train()
    network(torch.randn(4, 5, 64))
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    torch.manual_seed(7)
    other = BrainTokMix(5, **SMALL).eval()
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True), strict=True)
    x = torch.randn(1, 5, 80)
    assert torch.equal(other.encode(x), network.eval().encode(x))


def test_every_parameter_gets_a_finite_gradient():
    for settings in ({}, {"fsq_levels": [4, 4]}, {"codebook_dim": 3}):
        network = _network(**settings).train()
        found = network(torch.randn(2, 5, 64))
        (found.signal.square().mean() + found.commit).backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert bool(torch.isfinite(parameter.grad).all()), name


def test_what_does_not_fit_is_refused():
    with pytest.raises(InvalidValue, match="n_neuro=3"):
        _network(n_neuro=3)
    network = _network()
    with pytest.raises(ShapeMismatch, match=r"\(batch, 5, time\)"):
        network.encode(torch.randn(1, 4, 40))
    with pytest.raises(ShapeMismatch, match="multiple of 4"):
        network.encode(torch.randn(1, 5, 41))
    with pytest.raises(ShapeMismatch, match=r"\(batch, frame, 4, 4"):
        network.decode(torch.zeros(1, 10, 2, 4, dtype=torch.long))
    with pytest.raises(InvalidValue, match=r"codes=0…32: expected 0…31"):
        network.decode(torch.arange(33).view(1, 33, 1, 1).expand(1, 33, 4, 4))
