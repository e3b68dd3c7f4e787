"""Tokenising in pieces gives the codes of one pass; trained tokenizers load strictly."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from brainlab.errors import InvalidFile, InvalidValue, ShapeMismatch
from brainlab.io.codes import CodeStore
from brainlab.prepare.tokenise import TrainedTokenizer, encode_in_pieces, tokenise_store


class Causal(nn.Module):
    """Codes from a causal convolution over ``reach`` past samples, ``hop`` samples per frame."""

    def __init__(self, n_channels: int, hop: int = 4, reach: int = 11, levels: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hop, self.n_sites, self.n_levels, self.vocab_size = hop, 2, 1, levels
        self.receptive_field = reach
        self.conv = nn.Conv1d(n_channels, 2, reach + hop, stride=hop, dtype=torch.float64)

    def encode(self, signal: torch.Tensor) -> torch.Tensor:
        padded = nn.functional.pad(signal.double(), (self.receptive_field, 0))
        value = self.conv(padded)
        return ((value.tanh() + 1) / 2 * (self.vocab_size - 1)).round().long().transpose(1, 2)[..., None]

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes[..., 0].transpose(1, 2).repeat_interleave(self.hop, dim=2).float()


class Plain(Causal):
    """As a tokenizer object."""

    fingerprint = "plain"


@pytest.mark.parametrize("piece", [4, 7, 20, 64, 10_000])
def test_pieces_give_the_codes_of_one_pass(piece: int) -> None:
    tokenizer = Plain(3)
    signal = np.random.default_rng(1).standard_normal((3, 203)).astype(np.float32)
    whole = tokenizer.encode(torch.from_numpy(signal[None, :, :200]))[0].numpy()
    found = encode_in_pieces(lambda start, length: signal[:, start : start + length], 203, tokenizer, piece)
    assert found.shape == (50, 2, 1)
    np.testing.assert_array_equal(found, whole)


def test_every_segment_begins_anew(tmp_path: Path) -> None:
    tokenizer = Plain(2)
    signal = np.random.default_rng(2).standard_normal((2, 2, 150)).astype(np.float32)
    segments = [[(3, 60), (60, 150)], [(10, 12)]]
    tokenise_store(
        tmp_path,
        ["a", "b"],
        segments,
        lambda n, start, length: signal[n][:, start : start + length],
        tokenizer,
        piece=24,
    )
    codes = CodeStore(tmp_path)
    assert [session.n_frames for session in codes.sessions] == [14 + 22, 0]
    for start, frames in ((3, 14), (60, 22)):
        alone = tokenizer.encode(torch.from_numpy(signal[0][None, :, start : start + 4 * frames]))[0].numpy()
        np.testing.assert_array_equal(codes.read(0, start, frames), alone)


def checkpoint(folder: Path, network: nn.Module, prefix: str = "network.") -> Path:
    path = folder / "last.ckpt"
    state = {f"{prefix}{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": {**state, "loss.weight": torch.ones(2)} if prefix else state, "epoch": 3}, path)
    return path


@pytest.mark.parametrize("prefix", ["network.", "network._orig_mod.", ""])
def test_weights_of_a_training_are_loaded_and_the_network_is_at_rest(tmp_path: Path, prefix: str) -> None:
    trained = Causal(3)
    nn.init.normal_(trained.conv.weight)
    tokenizer = TrainedTokenizer(3, partial(Causal, hop=4), checkpoint(tmp_path, trained, prefix))
    assert not tokenizer.network.training
    assert not any(parameter.requires_grad for parameter in tokenizer.network.parameters())
    assert (tokenizer.hop, tokenizer.n_sites, tokenizer.n_levels, tokenizer.vocab_size) == (4, 2, 1, 8)
    signal = torch.randn(2, 3, 40)
    assert torch.equal(tokenizer.encode(signal), trained.encode(signal))
    assert tokenizer.decode(tokenizer.encode(signal)).shape == (2, 2, 40)


def test_a_fingerprint_changes_with_weights_and_settings_only(tmp_path: Path) -> None:
    network = Causal(3)
    first = TrainedTokenizer(3, partial(Causal, hop=4), checkpoint(tmp_path, network)).fingerprint
    assert TrainedTokenizer(3, partial(Causal, hop=4), checkpoint(tmp_path, network)).fingerprint == first
    assert TrainedTokenizer(3, partial(Causal, levels=9), checkpoint(tmp_path, network)).fingerprint != first
    with torch.no_grad():
        network.conv.bias += 0.5
    assert TrainedTokenizer(3, partial(Causal, hop=4), checkpoint(tmp_path, network)).fingerprint != first


def test_another_architecture_is_named_by_its_keys(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, Causal(3))
    with pytest.raises(ShapeMismatch, match=r"Causal\(hop=8\).*of another shape: conv\.weight \(2, 3, 15\) instead"):
        TrainedTokenizer(3, partial(Causal, hop=8), path)
    other = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ShapeMismatch, match=r"missing: conv\.bias, conv\.weight; unknown: 0\.bias, 0\.weight"):
        TrainedTokenizer(3, partial(Causal), checkpoint(tmp_path, other))


def test_no_checkpoint_and_a_damaged_one_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match=r"data\.tokenizer\.checkpoint=null: expected a checkpoint"):
        TrainedTokenizer(3, partial(Causal))
    (tmp_path / "bad.ckpt").write_bytes(b"nothing")
    with pytest.raises(
        InvalidFile, match=r"data\.tokenizer\.checkpoint=.*bad\.ckpt.*damaged.*experiment=meg_tokenizer"
    ):
        TrainedTokenizer(3, partial(Causal), tmp_path / "bad.ckpt")


class Harmful:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("form", ["pickle", "torch", "torch with a newer protocol"])
def test_a_file_that_asks_for_code_is_called_so_and_runs_none(tmp_path: Path, form: str) -> None:
    path, marker = tmp_path / "bad.ckpt", tmp_path / "ran"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Harmful(marker)))
    else:
        torch.save(Harmful(marker), path, pickle_protocol=4 if "newer" in form else 2)
    with pytest.raises(InvalidFile, match=r"data\.tokenizer\.checkpoint=.*nothing (of it )?was run"):
        TrainedTokenizer(3, partial(Causal), path)
    assert not marker.exists()


def test_the_data_that_trained_a_tokenizer_are_read_from_its_checkpoint(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, Causal(3))
    assert TrainedTokenizer(3, partial(Causal), path).trained_with is None
    state = torch.load(path)
    torch.save({**state, "brainlab": {"config": "seed: 1\ndata:\n  split: time\n  seed: 1\n"}}, path)
    assert TrainedTokenizer(3, partial(Causal), path).trained_with == {"split": "time", "seed": 1}
