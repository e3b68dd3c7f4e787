"""What every data module promises, checked on tiny simulated data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from brainlab.config.build import build
from brainlab.config.search_path import conf_dir

RECORDINGS = ("omega", "mous", "camcan", "meg_mix", "recordings")
DATA = sorted(path.stem for path in (Path(conf_dir()) / "data").glob("*.yaml"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def module(name: str, cache: Path, *words: str, **changes):
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        words = (*words, *(f"data.{key}={value}" for key, value in changes.items()))
        cfg = compose(
            "config",
            [
                *("experiment=none", f"data={name}", "model=align_cbramod", f"paths.cache={cache}"),
                *("data.size=tiny", "data.batch_size=4", *words),
            ],
        )
    data = build(cfg.data, path="data")
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    return data


def loaders(data):
    return {
        "train": data.train_dataloader(),
        "val": data.val_dataloader(),
        "test": data.test_dataloader(),
    }


def samples_of(batch):
    """The recorded samples, under the name that the module's family has for them."""
    return batch["eeg"] if "eeg" in batch else batch["signal"]


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a if isinstance(a[key], torch.Tensor))


@pytest.mark.parametrize("name", DATA)
def test_module_says_what_it_holds(name, cache):
    data = module(name, cache)
    assert data.source == "synthetic"
    assert isinstance(data.fingerprint, str)
    assert len(data.fingerprint) >= 16
    assert all(isinstance(size, int) and size > 0 for size in data.shapes.values())
    assert json.loads(json.dumps(data.describe()))


@pytest.mark.parametrize("name", DATA)
def test_same_settings_give_the_same_batches_and_fingerprint(name, cache):
    first, second = module(name, cache), module(name, cache)
    assert first.fingerprint == second.fingerprint
    for part in ("train", "val", "test"):
        ours, theirs = list(loaders(first)[part]), list(loaders(second)[part])
        assert len(ours) == len(theirs) > 0
        assert all(same(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", DATA)
def test_workers_do_not_change_the_batches(name, cache):
    alone, helped = module(name, cache), module(name, cache, num_workers=2)
    ours, theirs = list(alone.train_dataloader()), list(helped.train_dataloader())
    assert len(ours) == len(theirs)
    assert all(same(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", DATA)
def test_batches_are_finite_and_fit_the_shapes(name, cache):
    data = module(name, cache)
    for part, loader in loaders(data).items():
        for batch in loader:
            samples = samples_of(batch)
            assert samples.dtype == torch.float32
            assert bool(torch.isfinite(samples).all()), part
            if "n_channels" in data.shapes:
                assert samples.shape[1] == data.shapes["n_channels"]


@pytest.mark.parametrize("name", DATA)
def test_one_example_is_a_batch(name, cache):
    data = module(name, cache, batch_size=1)
    batch = next(iter(data.train_dataloader()))
    assert samples_of(batch).shape[0] == 1


@pytest.mark.parametrize("name", RECORDINGS)
def test_recordings_come_as_codes_where_a_tokenizer_is_chosen(name, cache):
    data = module(name, cache, "tokenizer=mu_law", windows_per_epoch=12)
    sizes = data.shapes
    for loader in loaders(data).values():
        batch = next(iter(loader))
        assert batch["codes"].dtype == torch.int64
        assert batch["codes"].shape[1:] == (sizes["n_frames"], sizes["n_sites"], sizes["n_levels"])
        assert 0 <= batch["codes"].min() <= batch["codes"].max() < sizes["vocab_size"]
        session, start = int(batch["session"][0]), int(batch["start"][0])
        signal = torch.from_numpy(data.signal(session, start, data.n_samples))
        assert torch.equal(data.tokenizer.encode(signal[None])[0], batch["codes"][0])
        back = data.tokenizer.decode(batch["codes"][:1])[0]
        # What lies outside the range of the compander takes its outermost code; its bins are widest there.
        assert (back - signal.clamp(-5.0, 5.0)).abs().max() < 0.15
