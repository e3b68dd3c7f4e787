"""The paired data module on simulated data of the smallest size."""

from __future__ import annotations

import csv
import inspect
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from brainlab.data.things_nsd import ThingsNsdData
from brainlab.datasets import nsd
from brainlab.errors import BrainlabError, InvalidValue, ShapeMismatch
from brainlab.io.cache import Cache
from brainlab.prepare import image_pairs as steps
from brainlab.prepare.cluster import load_clusters
from brainlab.prepare.embed import describe_images

SHAPES = {"eeg": (63, 1, 200), "target": (2, 768), "target_mask": (2,), "target_id": (2,)}
SCALARS = ("image_id", "label", "subject", "index")


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


def prepared(cache_dir: str, **settings: Any) -> ThingsNsdData:
    data = ThingsNsdData(cache_dir=cache_dir, size="tiny", **settings)
    data.prepare_data()
    data.setup("fit")
    return data


@pytest.fixture(scope="module")
def data(cache_dir: str) -> ThingsNsdData:
    return prepared(cache_dir)


@pytest.fixture(scope="module")
def roots(data: ThingsNsdData) -> dict[str, str]:
    ready = data._ready
    return {"things_root": str(ready.things_root), "nsd_root": str(ready.nsd_root)}


def check_batch(batch: dict[str, torch.Tensor], n: int) -> None:
    assert {name: tuple(batch[name].shape) for name in SHAPES} == {name: (n, *shape) for name, shape in SHAPES.items()}
    assert all(batch[name].shape == (n,) and batch[name].dtype == torch.int64 for name in SCALARS)
    assert batch["eeg"].dtype == batch["target"].dtype == torch.float32
    assert batch["target_mask"].dtype == torch.bool
    assert batch["target_id"].dtype == torch.int64
    assert torch.allclose(batch["target"].norm(dim=-1), torch.ones(n, 2), atol=1e-5)


def test_batches_hold_the_alignment_keys(data: ThingsNsdData) -> None:
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for batch in loader:
            check_batch(batch, len(batch["index"]))
    assert data.source == "synthetic"
    assert dict(data.shapes).items() >= {"n_channels": 63, "n_patches": 1, "target_dim": 768}.items()


@pytest.mark.parametrize("batch_size", [1, 79])
def test_batches_of_one_keep_their_first_axis(cache_dir: str, batch_size: int) -> None:
    loader = prepared(cache_dir, batch_size=batch_size).train_dataloader()
    batches = list(loader)
    assert len(batches[-1]["index"]) == 1
    check_batch(batches[-1], 1)


def test_workers_read_the_same_batches(cache_dir: str, data: ThingsNsdData) -> None:
    here = list(data.val_dataloader())
    there = list(prepared(cache_dir, num_workers=1).val_dataloader())
    assert all(torch.equal(a[key], b[key]) for a, b in zip(here, there, strict=True) for key in a)


def test_order_depends_on_seed_and_epoch_only(cache_dir: str, data: ThingsNsdData) -> None:
    def order(module: ThingsNsdData, epoch: int) -> list[int]:
        loader = module.train_dataloader()
        assert module.train_sampler is not None
        module.train_sampler.set_epoch(epoch)
        return torch.cat([batch["index"] for batch in loader]).tolist()

    assert order(data, 3) == order(prepared(cache_dir), 3)
    assert order(data, 3) != order(data, 4)
    assert order(data, 3) != order(prepared(cache_dir, seed=1), 3)


def test_a_second_start_builds_nothing(cache_dir: str, data: ThingsNsdData, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing should be built")

    monkeypatch.setattr(Cache, "_build", refuse)
    again = prepared(cache_dir)
    assert again.fingerprint == data.fingerprint
    assert again.describe() == data.describe()


def test_every_setting_of_the_examples_changes_the_fingerprint(cache_dir: str, data: ThingsNsdData) -> None:
    found = {data.fingerprint}
    changes: list[dict[str, Any]] = [
        {"amplitude": "zscore"}, {"split_seed": 1}, {"n_clusters": 3}, {"sfreq_hz": 100.0, "patch_s": 0.5},
        {"beta_normalisation": "session"}, {"eeg_take_mean": True}, {"top_k": 22}, {"nsd_subjects": ["subj01"]},
        {"simulation_seed": 1},
    ]  # fmt: skip
    found |= {prepared(cache_dir, **change).fingerprint for change in changes}
    assert len(found) == 1 + len(changes)
    assert prepared(cache_dir, batch_size=3, seed=9).fingerprint == data.fingerprint


def test_files_go_through_the_same_steps(
    cache_dir: str, data: ThingsNsdData, roots: dict[str, str], tmp_path: Path
) -> None:
    files = prepared(cache_dir, **roots)
    assert files.source == "files"
    for ours, theirs in zip(data.test_dataloader(), files.test_dataloader(), strict=True):
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert "bayes_single_trial" not in files.ceilings()
    moved = {name: str(tmp_path / name) for name in roots}
    for name in roots:
        shutil.copytree(roots[name], moved[name])
    assert prepared(cache_dir, **moved).fingerprint == files.fingerprint
    eeg = Path(moved["things_root"]) / "Preprocessed_data_250Hz" / "sub-01" / "preprocessed_eeg_training.npy"
    content = bytearray(eeg.read_bytes())
    content[len(content) // 2] ^= 1
    eeg.write_bytes(content)
    assert prepared(cache_dir, **moved).fingerprint != files.fingerprint


def test_parts_share_no_concept_and_no_picture(data: ThingsNsdData) -> None:
    ready = data._ready
    columns = {part: data.records.gather(rows) for part, rows in data.records.splits.items()}
    concept_of = dict(zip(ready.pairs.left.tolist(), ready.concepts, strict=True))
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not set(columns[one]["target_id"].ravel()) & set(columns[other]["target_id"].ravel())
        concepts = [{concept_of[i] for i in columns[part]["image_id"].tolist()} for part in (one, other)]
        assert not concepts[0] & concepts[1]
    assert sum(len(rows) for rows in data.records.splits.values()) == len(data.records)


def test_tables_of_pairs_and_split_are_written(data: ThingsNsdData) -> None:
    ready = data._ready
    with (ready.folder / "pairs.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == [
        "things_image_index", "nsd_subj01_image_index", "nsd_subj02_image_index", "similarity_subj01",
        "similarity_subj02", "cluster_label", "split",
    ]  # fmt: skip
    with (ready.folder / f"{ready.records.name}_things_image_split_info.csv").open() as stream:
        split = {int(row["things_img_idx"]): row["split"] for row in csv.DictReader(stream)}
    assert split == {int(row["things_image_index"]): row["split"] for row in rows}
    test = data.records.gather(data.records.splits["test"])
    assert {split[int(i)] for i in test["image_id"]} == {"test"}


def test_labels_come_from_the_stored_centroids(cache_dir: str, data: ThingsNsdData) -> None:
    from brainlab.datasets.things_eeg import read_pictures

    ready = data._ready
    stored = [
        clusters
        for path in Path(cache_dir).glob("picture_clusters/*/clusters.npz")
        if np.array_equal(np.load(path.with_name("labels.npy")), ready.labels)
        for clusters in [load_clusters(path)]
        if len(clusters.centroids) == 5
    ]
    pictures = describe_images(read_pictures(ready.index, ready.pairs.left.tolist(), 224))
    assert any(np.array_equal(clusters.label(pictures), ready.labels) for clusters in stored)


def test_nothing_fitted_sees_held_out_trials(data: ThingsNsdData, tmp_path: Path) -> None:
    ready = data._ready
    betas = nsd.read_betas(ready.nsd_root, "subj01", nsd.read_mask(ready.nsd_root, "subj01"))
    picture = nsd.trial_image_ids(nsd.read_expdesign(ready.nsd_root), "subj01", len(betas))
    ids = np.unique(picture)
    embedding = steps.Embedding(ids, describe_images(nsd.read_images(ready.nsd_root, ids)))
    held = np.sort(np.concatenate([ready.split.val, ready.split.test]))
    held_pictures = ready.pairs.right["subj01"][held]
    weights = []
    for name, gain in (("as_is", 1.0), ("changed", 40.0)):
        changed = betas.copy()
        changed[np.isin(picture, held_pictures)] *= gain
        rows = embedding.rows.copy()
        rows[np.isin(ids, held_pictures)] *= gain
        (tmp_path / name).mkdir()
        steps.project_fmri(
            tmp_path / name, steps.Fmri(changed, picture, np.zeros(len(picture), int)), ready.pairs.right["subj01"],
            held_pictures, held, steps.Embedding(ids, rows), subject="subj01", embedding_name="e",
            normalisation="train", ridge_file=None,
        )  # fmt: skip
        weights.append((tmp_path / name / "ridge.safetensors").read_bytes())
    assert weights[0] == weights[1]
    facts = data.describe()["ridge"]["subj01"]
    held_anywhere = np.unique(np.concatenate([table[held] for table in ready.pairs.right.values()]))
    assert facts["pictures_fitted"] == len(ids) - np.isin(ids, held_anywhere).sum()


def test_targets_are_the_projected_mean_over_repetitions(data: ThingsNsdData) -> None:
    projection = data._ready.projections["subj01"]
    mean = np.nanmean(projection.reps, axis=1)
    assert np.allclose(mean, projection.target[projection.reps_of], atol=1e-3)
    assert (projection.n_repetitions == 3).all()


def test_one_subject_averages_and_crossed_repetitions(cache_dir: str, data: ThingsNsdData) -> None:
    pairs = len(data._ready.pairs)
    assert len(data.records) == 4 * pairs
    assert len(prepared(cache_dir, eeg_take_mean=True).records) == pairs
    crossed = prepared(cache_dir, fmri_take_mean=False)
    assert len(crossed.records) == 4 * 3 * pairs
    single = prepared(cache_dir, nsd_subjects=["subj02"])
    assert single.shapes["n_subjects"] == 1
    assert "subject_to_subject" not in single.ceilings()


def test_subject_split_tests_a_person_who_did_not_train(cache_dir: str) -> None:
    data = prepared(cache_dir, split="subject", eeg_subjects=["sub-01", "sub-02"])
    people = {part: set(data.records.gather(rows)["subject"]) for part, rows in data.records.splits.items()}
    assert people == {"train": {0}, "val": {0}, "test": {1}}
    both = prepared(cache_dir, eeg_subjects=["sub-01", "sub-02"])
    assert set(both.records.gather(both.records.splits["test"])["subject"]) == {0, 1}


def test_official_test_pictures_can_be_used(cache_dir: str) -> None:
    data = prepared(cache_dir, exclude_things_test=False)
    assert data._ready.records.name == "things_sub-01_nsd_subj01-subj02_200Hz"
    assert data.describe()["pictures"]["things"] == 30
    repeats = np.unique(data.records.gather(range(len(data.records)))["image_id"], return_counts=True)
    assert set(repeats[1]) <= {4, 8}


def test_17_channel_files_give_one_second_patches(cache_dir: str) -> None:
    data = prepared(cache_dir, eeg_container="100hz", amplitude="zscore")
    assert next(iter(data.val_dataloader()))["eeg"].shape[1:] == (17, 1, 200)


def test_precomputed_embeddings_replace_the_descriptor(
    cache_dir: str, data: ThingsNsdData, roots: dict[str, str], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    bricks = len(nsd.read_stim_info(roots["nsd_root"]))
    np.savez(
        tmp_path / "e.npz", things=rng.standard_normal((30, 12), dtype=np.float32),
        nsd=rng.standard_normal((bricks, 12), dtype=np.float32),
    )  # fmt: skip
    ours = prepared(cache_dir, embedding="file", embedding_file=str(tmp_path / "e.npz"))
    assert ours.shapes["target_dim"] == 12
    assert ours.describe()["embedding"] == "file"


def test_imported_ridge_sets_the_width(cache_dir: str, data: ThingsNsdData, tmp_path: Path) -> None:
    voxels = data.describe()["ridge"]["subj01"]["voxels"]

    def checkpoint(name: str, width: int) -> str:
        state = {"ridge.linears.0.weight": torch.randn(32, width), "ridge.linears.0.bias": torch.randn(32)}
        torch.save({"model_state_dict": state}, tmp_path / name)
        return str(tmp_path / name)

    files = {"subj01": checkpoint("a.pth", voxels), "subj02": checkpoint("b.pth", voxels)}
    assert prepared(cache_dir, ridge_files=files).shapes["target_dim"] == 32
    with pytest.raises(InvalidValue, match="beta_normalisation"):
        prepared(cache_dir, ridge_files=files, beta_normalisation="none")
    files["subj02"] = checkpoint("c.pth", voxels + 1)
    with pytest.raises(ShapeMismatch, match=rf"{voxels} voxels.*expected {voxels + 1}"):
        prepared(cache_dir, ridge_files=files)


def test_ceilings_bound_a_score(data: ThingsNsdData) -> None:
    ceilings = data.ceilings("test")
    assert {
        "bayes_single_trial", "bayes_averaged", "rep_to_rep", "subject_to_subject", "label_only", "random_pair",
    } <= set(ceilings)  # fmt: skip
    n = len(data._ready.split.test)
    assert ceilings["random_pair"] == 1 / n
    assert 1 / n <= ceilings["bayes_single_trial"] <= ceilings["bayes_averaged"] <= 1


def test_gallery_shows_both_sides(data: ThingsNsdData) -> None:
    gallery = data.test_gallery()
    n = len(data._ready.split.test)
    assert len(gallery["ids"]) == len(gallery["concepts"]) == len(gallery["labels"]) == n
    assert gallery["target_ids"].shape == (n, 2)
    for side in ("eeg", "fmri"):
        picture = gallery["thumbnails"](gallery["ids"][0], side)
        assert picture.shape == (96, 96, 3)
        assert picture.dtype == np.uint8
    with pytest.raises(InvalidValue, match="meg"):
        gallery["thumbnails"](gallery["ids"][0], "meg")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"things_root": "/somewhere"}, r"data\.nsd_root=null: expected a folder, because data\.things_root is set"),
        ({"nsd_root": "/somewhere"}, r"data\.things_root=null"),
        ({"split": "concepts"}, r"data\.split=concepts: expected one of concept"),
        ({"split": "subject"}, r"data\.eeg_subjects"),
        ({"embedding": "file"}, r"data\.embedding_file=null"),
        ({"ridge_files": {"subj01": "x"}}, r"data\.ridge_files.*subj02"),
        ({"fractions": [0.5, 0.1, 0.1]}, r"data\.fractions"),
        ({"eeg_subjects": []}, r"data\.eeg_subjects"),
        ({"eeg_subjects": ["sub-09"]}, "sub-09.*expected one of sub-01"),
        ({"nsd_subjects": ["subj03"]}, "subj03.*subj01"),
        ({"min_similarity": 1.5}, r"data\.min_similarity=1\.5: .*found 0 pairs"),
        ({"patch_s": 0.3}, r"data\.patch_s=0\.3"),
        ({"beta_prep": "betas_x"}, "betas_x"),
        ({"target_intersection": 999, "on_shortfall": "raise"}, "target_intersection=999"),
        ({"n_clusters": 300}, "n_clusters=300"),
    ],
)
def test_bad_settings_are_one_sentence(cache_dir: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BrainlabError, match=message) as caught:
        prepared(cache_dir, **settings)
    assert "\n" not in str(caught.value)
    assert not list(Path(cache_dir).glob("*/.*.tmp-*"))


def test_missing_roots_and_nan_samples_name_the_file(cache_dir: str, roots: dict[str, str], tmp_path: Path) -> None:
    import pickle

    with pytest.raises(BrainlabError, match="nowhere"):
        prepared(cache_dir, things_root=str(tmp_path / "nowhere"), nsd_root=roots["nsd_root"])
    copy = tmp_path / "things"
    shutil.copytree(roots["things_root"], copy)
    path = copy / "Preprocessed_data_250Hz" / "sub-01" / "preprocessed_eeg_training.npy"
    content = pickle.loads(path.read_bytes())
    content["preprocessed_eeg_data"][3, 0, 5, 7] = np.nan
    path.write_bytes(pickle.dumps(content, protocol=4))
    with pytest.raises(BrainlabError, match=r"preprocessed_eeg_training\.npy.*NaN"):
        prepared(cache_dir, things_root=str(copy), nsd_root=roots["nsd_root"])
    content["preprocessed_eeg_data"] = content["preprocessed_eeg_data"][:, :, :60]
    path.write_bytes(pickle.dumps(content, protocol=4))
    with pytest.raises(BrainlabError, match=r"60: expected 63.*preprocessed_eeg_training\.npy"):
        prepared(cache_dir, things_root=str(copy), nsd_root=roots["nsd_root"])


def test_yaml_files_name_only_keywords_of_the_module() -> None:
    import yaml

    conf = Path(__file__).parents[2] / "conf"
    keywords = set(inspect.signature(ThingsNsdData).parameters)
    ours = yaml.safe_load((conf / "data" / "things_nsd.yaml").read_text())
    assert set(ours) - {"_target_"} == keywords
    preset = yaml.safe_load((conf / "compat" / "brain2image.yaml").read_text())
    assert set(preset["data"]) <= keywords
