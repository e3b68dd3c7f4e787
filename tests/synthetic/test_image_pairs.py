"""The simulated THINGS-EEG2 and NSD: one planted code, known noise, and a ceiling that a decoder really reaches."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.linalg import cholesky, solve
from scipy.signal import resample

from brainlab.datasets import nsd, things_eeg
from brainlab.errors import InvalidFile, InvalidValue
from brainlab.synthetic.image_pairs import SIZES, planted_ceiling, write_image_pairs
from brainlab.synthetic.latents import bayes_top1, concept_latents
from brainlab.synthetic.things_eeg import EegModel, concept_folders

# One default-size gallery of 14 concepts × 10 pictures, with as little around it as possible.
GALLERY = {
    "train_repetitions": 4,
    "n_train_concepts": 14,
    "n_test_images": 2,
    "n_eeg_subjects": 2,
    "picture_px": 16,
    "shared_partners": 4,
    "own_partners": 16,
    "shared_strangers": 4,
    "trials_per_session": 72,
    "volume": (6, 7, 5),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    base = tmp_path_factory.mktemp("tiny")
    write_image_pairs(base / "things", base / "nsd", "tiny", seed=0)
    return base


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    base = tmp_path_factory.mktemp("gallery")
    write_image_pairs(base / "things", base / "nsd", "default", seed=5, **GALLERY)
    return base / "things"


def _model(seed=0, subject=0, **changes):
    p = replace(SIZES["default"], **changes)
    names = ("subject_deviation", "noise_uv", "scalp_length", "sensor_share", "n_components", "n_modes")
    return EegModel.draw(
        subject=subject,
        dim=p.latent_dim,
        times_s=np.arange(250) / 250,
        information=p.eeg_information,
        seed=seed,
        **{name: getattr(p, name) for name in names},
    )


def _digest(root):
    # A zip archive stamps its members with the time of writing, HDF5 and NIfTI files do not.
    files = sorted(p for p in root.rglob("*") if p.is_file() and p.suffix not in {".npz", ".gz", ".mat"})
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_same_seed_same_files(tiny, tmp_path):
    write_image_pairs(tmp_path / "things", tmp_path / "nsd", "tiny", seed=0)
    assert _digest(tmp_path / "things") == _digest(tiny / "things")
    assert _digest(tmp_path / "nsd") == _digest(tiny / "nsd")
    with np.load(tiny / "nsd" / "planted.npz") as one, np.load(tmp_path / "nsd" / "planted.npz") as two:
        assert all(np.array_equal(one[key], two[key]) for key in one)


def test_another_seed_changes_the_data(tiny, tmp_path):
    write_image_pairs(tmp_path / "things", tmp_path / "nsd", "tiny", seed=1)
    one, two = (_digest(root) for root in (tmp_path / "things", tiny / "things"))
    assert one.keys() == two.keys()
    # Names and numbers of the concepts do not depend on the seed.
    assert [name for name in one if one[name] == two[name]] == ["image_set/image_metadata.npy"]


def test_unknown_or_impossible_parameters_are_refused(tmp_path):
    with pytest.raises(InvalidValue, match="n_subjects=3"):
        write_image_pairs(tmp_path / "a", tmp_path / "b", "tiny", n_subjects=3)
    with pytest.raises(InvalidValue, match="trials_per_session=35"):
        write_image_pairs(tmp_path / "a", tmp_path / "b", "tiny", trials_per_session=35)
    with pytest.raises(InvalidValue, match="size=huge"):
        write_image_pairs(tmp_path / "a", tmp_path / "b", "huge")
    assert not (tmp_path / "a").exists()


def test_concepts_of_training_and_test_differ_and_keep_both_numberings():
    train, test, train_things, test_things = concept_folders(140, 20)
    word = {name.split("_", 1)[1] for name in train}
    assert len(word) == 140
    assert not word & {name.split("_", 1)[1] for name in test}
    assert [int(name[:5]) for name in train] == list(range(1, 141))
    assert sorted(int(name[:5]) for name in train_things + test_things) == list(range(1, 161))
    assert train == sorted(train)


def test_partners_are_the_nearest_pictures(tiny):
    with np.load(tiny / "things" / "planted.npz") as things, np.load(tiny / "nsd" / "planted.npz") as other:
        latents, partner, source = other["latents"], other["things_partner"], things["latents"][:24]
    has = partner >= 0
    assert has.sum() == 6 + 2 * 16
    distance = np.linalg.norm(latents[has][:, None] - source[None], axis=-1)
    assert (distance.argmin(axis=1) == partner[has]).mean() > 0.95


def test_every_subject_has_a_partner_for_the_same_things_pictures(tiny):
    design = nsd.read_expdesign(tiny / "nsd")
    with np.load(tiny / "nsd" / "planted.npz") as planted:
        partner = planted["things_partner"]
    seen = [np.unique(nsd.trial_image_ids(design, s, 72)) for s in ("subj01", "subj02")]
    partners = [np.sort(partner[ids][partner[ids] >= 0]) for ids in seen]
    assert len(partners[0]) == 22
    np.testing.assert_array_equal(partners[0], partners[1])
    assert len(np.intersect1d(*seen)) == 8


def test_responses_follow_the_planted_weights(tiny):
    root = tiny / "nsd"
    betas = nsd.read_betas(root, "subj01", nsd.read_mask(root, "subj01"))
    ids = nsd.trial_image_ids(nsd.read_expdesign(root), "subj01", len(betas))
    with np.load(root / "planted.npz") as planted:
        expected = planted["latents"][ids] @ planted["weights_subj01"].T
    r = [np.corrcoef(betas[:, v], expected[:, v])[0, 1] for v in range(betas.shape[1])]
    # signal sd / noise sd = 0.7 on average: r = 0.7 / √(1 + 0.7²) = 0.57.
    assert 0.45 < np.mean(r) < 0.68


def test_eeg_looks_like_eeg():
    model = _model()
    assert np.sqrt(np.diag(model.spatial).mean()) == pytest.approx(14.0)
    power = np.abs(np.fft.rfft(model.patterns, axis=-1)) ** 2
    hz = np.fft.rfftfreq(250, 1 / 250)
    share = power.sum(axis=(0, 1)) / power.sum()
    assert share[hz <= 20].sum() > 0.97
    assert share[(hz >= 4) & (hz <= 20)].sum() > 0.2
    assert share[hz < 4].sum() > 0.1


def test_simulated_noise_has_the_planted_covariance():
    model = _model()
    trials = model.simulate(np.zeros((1, 16)), 800, np.random.default_rng(0))[0] - model.evoked
    spatial = np.einsum("nct,ndt->cd", trials, trials, optimize=True) / (800 * 250)
    np.testing.assert_allclose(spatial, model.spatial, atol=0.04 * model.spatial.max())
    whitened = solve(cholesky(model.spatial), trials[:200])
    temporal = np.einsum("nct,ncs->ts", whitened, whitened, optimize=True) / (200 * 63)
    np.testing.assert_allclose(temporal, model.temporal, atol=0.06)


def test_subjects_share_most_of_their_patterns():
    one, two = _model(subject=0).patterns.ravel(), _model(subject=1).patterns.ravel()
    assert 0.7 < np.corrcoef(one, two)[0, 1] < 0.98
    same = _model(subject=0, subject_deviation=0.0).patterns, _model(subject=1, subject_deviation=0.0).patterns
    np.testing.assert_allclose(*same)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_best_single_trial_score_of_the_default_size_is_near_eighty_percent(seed):
    latents = concept_latents(np.repeat(np.arange(14), 10), 16, 0.8, np.random.default_rng(seed))
    for subject in (0, 1):
        information = _model(seed=seed, subject=subject).information
        assert bayes_top1(latents, information, 1, np.random.default_rng(0)) == pytest.approx(0.80, abs=0.07)


@pytest.mark.parametrize("subject", ["sub-01", "sub-02"])
@pytest.mark.parametrize("n_trials", [1, 2])
def test_a_likelihood_decoder_of_the_written_eeg_reaches_the_ceiling(gallery, subject, n_trials):
    epochs = things_eeg.read_epochs(gallery, subject, "training")
    with np.load(gallery / "planted.npz") as planted:
        latents = planted["latents"][epochs.image_index]
        patterns, evoked = planted[f"patterns_{subject}"], planted[f"evoked_{subject}"]
        space, time = cholesky(planted["noise_spatial"]), cholesky(planted["noise_temporal"])

    def white(x):
        return (np.linalg.inv(space) @ x @ np.linalg.inv(time).T).reshape(len(x), -1)

    trials = np.asarray(epochs.data).reshape(140, 4 // n_trials, n_trials, 63, 250).mean(axis=2).reshape(-1, 63, 250)
    templates = white(np.einsum("ik,kct->ict", latents, patterns))
    score = white(trials - evoked) @ templates.T - 0.5 * np.sum(templates**2, axis=1)
    hit = np.argmax(score, axis=1) == np.repeat(np.arange(140), 4 // n_trials)
    ceiling = planted_ceiling(gallery, subject, epochs.image_index, n_trials)
    assert abs(hit.mean() - ceiling) < 3.5 * np.sqrt(ceiling * (1 - ceiling) / len(hit))


def test_a_ridge_regression_on_some_thousand_trials_comes_near_the_ceiling():
    rng = np.random.default_rng(0)
    concept = np.repeat(np.arange(126), 10)
    latents = concept_latents(concept, 16, 0.8, rng)
    model = _model()
    held_out = concept >= 112
    # The patterns end at 20 Hz: 50 Hz keeps them and makes the regression four times smaller.
    x = np.concatenate(
        [resample(model.simulate(part, 4, rng), 50, axis=-1) for part in np.array_split(latents, 9)]
    ).reshape(len(latents), 4, -1)
    train, test = x[~held_out].reshape(-1, x.shape[-1]), x[held_out].reshape(-1, x.shape[-1])
    target = np.repeat(latents[~held_out], 4, axis=0)
    x0, z0 = train.mean(0), target.mean(0)
    gram = (train - x0).T @ (train - x0)
    gram[np.diag_indices_from(gram)] += 3e-4 * np.trace(gram)
    predicted = (test - x0) @ solve(gram, (train - x0).T @ (target - z0).astype(np.float32))
    gallery = latents[held_out] - z0
    cosine = (predicted / np.linalg.norm(predicted, axis=1, keepdims=True)) @ (
        gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    ).T
    top1 = np.mean(np.argmax(cosine, axis=1) == np.repeat(np.arange(140), 4))
    ceiling = bayes_top1(latents[held_out], model.information, 1, rng)
    assert 0.6 * ceiling < top1 < ceiling


def test_the_parameters_and_the_ceiling_are_written_beside_the_data(gallery):
    record = json.loads((gallery / "planted.json").read_text())
    assert record["size"] == "default"
    assert record["n_train_concepts"] == 14
    assert record["ceiling_pictures"] == 140
    assert record["ceiling_single_trial"] == pytest.approx(planted_ceiling(gallery, "sub-01", np.arange(140)), abs=0.02)
    assert record["ceiling_averaged"] > record["ceiling_single_trial"]


def test_a_root_of_real_files_has_no_planted_ceiling(tmp_path):
    with pytest.raises(InvalidFile, match=r"planted\.npz"):
        planted_ceiling(tmp_path, "sub-01", np.arange(3))


def test_the_ceiling_of_an_unknown_subject_lists_those_present(gallery):
    with pytest.raises(InvalidValue, match="sub-01, sub-02"):
        planted_ceiling(gallery, "sub-07", np.arange(3))
