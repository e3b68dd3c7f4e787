"""The protocol for tokenizers: scores against controls, code use, bits, figures."""

from __future__ import annotations

import functools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from brainlab.data.sampling import already_collated
from brainlab.errors import InvalidValue
from brainlab.evaluation.tokenization import TokenizerQuality
from brainlab.models.braintokmix import BrainTokMix
from brainlab.tasks.tokenization import Tokenization


class _Windows(torch.utils.data.Dataset):
    def __init__(self, n: int, n_sessions: int) -> None:
        generator = torch.Generator().manual_seed(0)
        white = torch.randn(n, 5, 128 + 9, generator=generator)
        self.signal = torch.nn.functional.avg_pool1d(white, 10, 1)
        self.present = torch.ones(n, 5, dtype=torch.bool)
        self.present[:1, 2] = False
        self.session = torch.arange(n) % n_sessions

    def __len__(self) -> int:
        return len(self.signal)

    def __getitems__(self, index: list[int]) -> dict[str, torch.Tensor]:
        signal = self.signal[index] * self.present[index][..., None]
        return {"signal": signal, "present": self.present[index], "session": self.session[index]}


class _Data:
    """What the protocol needs of a data module."""

    sfreq_hz = 100.0
    ch_names = ("A", "B", "C", "D", "E")

    def __init__(self, n: int = 20, n_sessions: int = 7) -> None:
        self.n, self.n_sessions = n, n_sessions

    def test_dataloader(self) -> DataLoader:
        return DataLoader(_Windows(self.n, self.n_sessions), batch_size=6, collate_fn=already_collated)

    def session(self, number: int) -> SimpleNamespace:
        return SimpleNamespace(name=f"sub-{number:02d}")


@pytest.fixture(scope="module")
def task():
    """A network whose codes are coarse but whose decoder gives back much of the signal."""
    torch.manual_seed(0)
    network = functools.partial(BrainTokMix, n_filters=16, n_dim=16, codebook_size=32, n_neuro=2, n_levels=2)
    task = Tokenization(network=network, n_channels=5)
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-2)
    batch = _Windows(20, 7).__getitems__(list(range(20)))
    task.train()
    for _ in range(80):
        found = task.network(batch["signal"])
        loss = (found.signal - batch["signal"]).abs().mean() + found.commit
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return task


@pytest.fixture(scope="module")
def found(task, tmp_path_factory):
    return TokenizerQuality(n_bootstrap=100)(task, _Data(), tmp_path_factory.mktemp("run"))


def test_the_score_lies_between_control_and_ceiling(found):
    pcc = found.metric(found.headline)
    assert found.headline == "pcc"
    assert pcc.low <= pcc.value <= pcc.high
    assert abs(pcc.control) < 0.2 < pcc.value
    assert pcc.ceiling >= pcc.value - 0.05
    assert pcc.n == 20
    mae = found.metric("mae")
    assert mae.better == "lower"
    assert mae.value < mae.chance
    assert mae.value < mae.control


def test_absent_channels_are_left_out_of_the_means(found, task):
    windows = _Windows(20, 7).__getitems__(list(range(20)))
    with torch.no_grad():
        error = (task.network.eval()(windows["signal"]).signal - windows["signal"]).abs().mean(dim=-1)
    expected = np.mean([float(row[keep].mean()) for row, keep in zip(error, windows["present"], strict=True)])
    assert found.metric("mae").value == pytest.approx(expected, rel=1e-4)


def test_bits_follow_from_rates_and_use(found):
    details = found.details
    assert details["tokens_per_s"] == 25 * 2 * 2
    assert found.metric("bits_per_s").value == 100 * 5
    assert 0 < found.metric("entropy_bits_per_s").value <= 500
    assert details["raw_bits_per_s"] == 5 * 100 * 32
    assert details["compression"] == pytest.approx(32.0)
    assert 1 <= found.metric("perplexity").value <= 32
    assert 0 < found.metric("codes_used").value <= 1


def test_levels_add_to_the_reconstruction(found):
    first, both = found.details["pcc_up_to_level"]
    assert both == pytest.approx(found.metric("pcc").value, abs=1e-3)
    assert first < both
    bits, levels, sessions = found.tables
    assert [row[1] for row in bits.rows] == ["500", "1000", "2000", "4000"]
    mu_law = [float(row[2]) for row in bits.rows[1:]]
    assert mu_law == sorted(mu_law)
    assert mu_law[-1] > 0.99
    assert len(levels.rows) == 2
    assert [row[0] for row in sessions.rows] == [f"sub-{number:02d}" for number in range(7)]


def test_figures_and_json_are_complete(found):
    assert [figure.name for figure in found.figures] == ["traces", "spectra", "code_use"]
    assert all(figure.path.stat().st_size > 5000 for figure in found.figures)
    json.dumps(found.details)
    coherence = np.array(found.details["coherence"]["from codes"])
    assert ((coherence >= 0) & (coherence <= 1 + 1e-6)).all()
    assert len(found.details["frequency_hz"]) == len(coherence)


def test_judging_changes_nothing_in_the_task(task, tmp_path):
    before, mode = task.network.fingerprint, task.training
    TokenizerQuality(n_bootstrap=10)(task, _Data(), tmp_path)
    assert task.network.fingerprint == before
    assert task.training is mode


def test_a_single_session_is_resampled_in_blocks(task, tmp_path):
    found = TokenizerQuality(n_bootstrap=50)(task, _Data(12, 1), tmp_path)
    pcc = found.metric("pcc")
    assert found.details["bootstrap_groups"] == 12
    assert pcc.control is not None
    assert pcc.low < pcc.high


def test_no_test_window_is_one_clear_sentence(task, tmp_path):
    with pytest.raises(InvalidValue, match="expected a test part"):
        TokenizerQuality()(task, _Data(0), tmp_path)
    with pytest.raises(InvalidValue, match=r"evaluation.n_kept=0"):
        TokenizerQuality(n_kept=0)
