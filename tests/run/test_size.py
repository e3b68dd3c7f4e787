"""The job that counts what a model costs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from launch import tiny_config

from brainlab.errors import ConfigError
from brainlab.run.execute import execute

MODEL = """{_target_: brainlab.tasks.forecasting.Forecasting,
  network: {_target_: brainlab.models.flat_gpt.FlatGPT, _partial_: true, width: 24, n_layers: 2, n_heads: 2,
            n_kv_heads: 1, ffn_width: 40, site_embedding: true},
  n_sites: null, n_levels: null, vocab_size: null, n_frames: null}"""
TOKENIZER = """{_target_: brainlab.prepare.tokenise.TrainedTokenizer, _partial_: true, checkpoint: "not/there.ckpt",
  network: {_target_: brainlab.models.braintokmix.BrainTokMix, _partial_: true, ratios: [2, 2], n_filters: 4,
            n_dim: 16, n_neuro: 2, codebook_size: 12, n_levels: 2}}"""
OVERRIDES = [
    "job={_target_: brainlab.run.size.Size, n_channels: 9, sfreq_hz: 100.0}",
    f"model={MODEL}".replace("\n", " "),
    f"data.tokenizer={TOKENIZER}".replace("\n", " "),
    "data.window_s=0.8",
    "evaluation=null",
]


@pytest.fixture(scope="module")
def sized(tmp_path_factory) -> tuple[Path, dict]:
    root = tmp_path_factory.mktemp("size")
    execute(tiny_config(root, *OVERRIDES), folder=root / "run", overrides=[])
    return root / "run", json.loads((root / "run" / "results.json").read_text())


def test_sizes_come_from_the_described_tokenizer_whose_weights_are_not_there(sized):
    network = sized[1]["details"]["network"]
    assert (network["n_sites"], network["n_levels"], network["vocab_size"]) == (2, 2, 12)
    assert network["n_frames"] == 20
    assert network["batch_size"] == 4


def test_parameters_and_memory_add_up(sized):
    network = sized[1]["details"]["network"]
    layer = 24 * 48 + 48 + 24 * 24 + 3 * 24 * 40 + 2 * 24
    assert network["parameters"] == 2 * 12 * 24 + 2 * 24 + 2 * layer + 24 == sized[1]["metrics"]["parameters"]["value"]
    assert network["kv_cache_bytes"] == 2 * 2 * 1 * 12 * (20 * 4) * 4
    parts = sum(network[f"{name}_bytes"] for name in ("weight", "gradient", "optimizer", "activation"))
    assert network["training_bytes"] == parts
    assert network["flops_per_step"] == pytest.approx(network["flops_per_token"] * 4 * 20 * 4, rel=1e-3)


def test_the_report_holds_the_table_and_no_data_were_touched(sized):
    folder, results = sized
    names = {row[0] for row in results["tables"][0]["rows"]}
    assert {"parameters", "training step", "key–value cache", "generating one second", "tokenizer parameters"} <= names
    assert "key–value cache" in (folder / "report.html").read_text()
    assert not (folder.parent / "cache").exists()


def test_other_models_are_refused_before_anything_starts(tmp_path):
    with pytest.raises(ConfigError, match="expected a model of codes"):
        execute(tiny_config(tmp_path, OVERRIDES[0]), folder=tmp_path / "run", overrides=[])
    assert not (tmp_path / "run").exists()


def test_a_model_without_tokenizer_needs_its_sizes(tmp_path):
    overrides = [OVERRIDES[0], OVERRIDES[1], "data.tokenizer=null", "data.window_s=0.8"]
    with pytest.raises(ConfigError, match="n_sites"):
        execute(tiny_config(tmp_path, *overrides), folder=tmp_path / "run", overrides=[])
