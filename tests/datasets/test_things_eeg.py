"""The THINGS-EEG2 reader: three containers, one meaning, and one clear sentence for each defect."""

import pickle
import shutil

import numpy as np
import pytest

from brainlab.datasets.things_eeg import (
    CHANNELS_17,
    CHANNELS_63,
    Float32View,
    read_epochs,
    read_image_index,
    read_pictures,
    subjects_present,
)
from brainlab.errors import InvalidFile, InvalidValue, ShapeMismatch
from brainlab.synthetic.image_pairs import write_image_pairs


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    base = tmp_path_factory.mktemp("things")
    write_image_pairs(base / "things", base / "nsd", "tiny", seed=3)
    return base / "things"


@pytest.fixture
def root(pristine, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(pristine, tmp_path / "things")


def _container(root):
    return root / "Preprocessed_data_250Hz" / "sub-01" / "preprocessed_eeg_training.npy"


def _rewrite(path, **changes):
    content = pickle.loads(path.read_bytes()) | changes
    path.write_bytes(pickle.dumps({k: v for k, v in content.items() if v is not None}, protocol=4))


def _fails(error, *words, root, **keywords):
    with pytest.raises(error) as caught:
        read_epochs(root, keywords.pop("subject", "sub-01"), keywords.pop("part", "training"), **keywords)
    message = str(caught.value)
    for word in words:
        assert str(word) in message
    assert "\n" not in message


def test_images_are_indexed_training_first_in_the_order_of_their_paths(pristine):
    index = read_image_index(pristine)
    assert len(index) == 30
    assert index.n_train == 24
    assert list(index.split) == ["train"] * 24 + ["test"] * 6
    train = [p.relative_to(pristine).as_posix() for p in index.paths[:24]]
    assert train == sorted(train)
    assert index.concepts[0] == "acorn"
    assert index.paths[0].parent.name == "00001_acorn"


def test_a_concept_keeps_what_follows_the_first_underscore(root):
    first = root / "image_set" / "training_images" / "00001_acorn"
    first.rename(first.with_name("00001_acorn_cup"))
    (root / "image_set" / "image_metadata.npy").unlink()
    assert read_image_index(root).concepts[0] == "acorn_cup"


@pytest.mark.parametrize(
    ("container", "channels", "n_times", "first_s", "sfreq_hz", "unit"),
    [("250hz", CHANNELS_63, 250, 0.0, 250.0, "uV"), ("100hz", CHANNELS_17, 100, -0.2, 100.0, "noise_sd")],
)
def test_both_pickled_containers_are_read(pristine, container, channels, n_times, first_s, sfreq_hz, unit):
    epochs = read_epochs(pristine, "sub-02", "training", container=container)
    assert epochs.data.shape == (24, 4, len(channels), n_times)
    assert epochs.ch_names == tuple(channels)
    assert epochs.data[:2].dtype == np.float32
    assert len(epochs.times_s) == n_times
    assert epochs.times_s[0] == pytest.approx(first_s)
    assert epochs.sfreq_hz == sfreq_hz
    assert epochs.amplitude_unit == unit


def test_rows_of_the_test_part_point_behind_the_training_pictures(pristine):
    epochs = read_epochs(pristine, "sub-01", "test")
    assert epochs.data.shape == (6, 8, 63, 250)
    np.testing.assert_array_equal(epochs.image_index, np.arange(24, 30))


def test_rows_follow_the_metadata_where_it_is_not_in_the_order_of_the_paths(root):
    path = root / "image_set" / "image_metadata.npy"
    content = np.load(path, allow_pickle=True).item()
    content = {key: value[::-1] for key, value in content.items()}
    np.save(path, np.array(content, dtype=object), allow_pickle=True)
    np.testing.assert_array_equal(read_epochs(root, "sub-01", "training").image_index, np.arange(24)[::-1])


def test_float64_data_become_float32_where_they_are_indexed(root):
    before = np.array(read_epochs(root, "sub-01", "training").data)
    _rewrite(_container(root), preprocessed_eeg_data=before.astype(np.float64))
    data = read_epochs(root, "sub-01", "training").data
    assert isinstance(data, Float32View)
    assert data[3:5].dtype == np.float32
    np.testing.assert_array_equal(data[3:5], before[3:5])
    np.testing.assert_array_equal(np.asarray(data), before)


def test_the_torch_container_names_its_pictures(root):
    import torch

    source = read_epochs(root, "sub-01", "training")
    index = read_image_index(root)
    order = np.random.default_rng(0).permutation(24)
    folder = root / "Preprocessed_data_250Hz_whiten" / "sub-01"
    folder.mkdir(parents=True)
    name = ["/data/Image_set/train_images/" + "/".join(index.paths[i].parts[-2:]) for i in order]
    content = {
        "eeg": torch.from_numpy(source.data[order] / 14).half(),
        "label": torch.zeros(24, 4, dtype=torch.int64),
        "img": [[n] * 4 for n in name],
        "ch_names": list(CHANNELS_63),
        "times": torch.arange(-50, 250) / 250,
    }
    torch.save(content, folder / "train.pt")
    epochs = read_epochs(root, "sub-01", "training", container="250hz_white")
    np.testing.assert_array_equal(epochs.image_index, order)
    assert epochs.amplitude_unit == "noise_sd"
    np.testing.assert_allclose(epochs.data[:3], source.data[order[:3]] / 14, atol=0.02)


def test_pictures_are_read_in_the_order_asked_for_and_scaled(pristine):
    index = read_image_index(pristine)
    pictures = read_pictures(index, [5, 2], 16)
    assert pictures.shape == (2, 16, 16, 3)
    np.testing.assert_array_equal(pictures[1], read_pictures(index, [2], 16)[0])
    # Area averages: shrinking in two steps gives the same up to rounding.
    full = read_pictures(index, [5], 224)[0].astype(float).reshape(16, 14, 16, 14, 3).mean(axis=(1, 3))
    assert np.abs(full - pictures[0]).max() <= 1.0


def test_subjects_are_listed(pristine):
    assert subjects_present(pristine) == ("sub-01", "sub-02")


def test_a_missing_root_lists_what_is_expected(tmp_path):
    _fails(InvalidFile, tmp_path / "no", "image_set", "Preprocessed_data_250Hz", root=tmp_path / "no")


def test_a_root_without_eeg_lists_the_containers(root):
    shutil.rmtree(root / "Preprocessed_data_250Hz")
    shutil.rmtree(root / "project")
    _fails(InvalidFile, "Preprocessed_data_250Hz_whiten", "project/eeg_dataset/preprocessed_data", root=root)


def test_a_root_without_pictures_is_refused(root):
    shutil.rmtree(root / "image_set")
    _fails(InvalidFile, "training_images", root, root=root)


def test_an_unknown_subject_lists_those_present(pristine):
    _fails(InvalidValue, "subject=sub-09", "sub-01, sub-02", root=pristine, subject="sub-09")


def test_an_unknown_part_is_refused(pristine):
    _fails(InvalidValue, "part=train", root=pristine, part="train")


@pytest.mark.parametrize("keep", [0, 10, 4000, -8])
def test_a_truncated_container_is_refused(root, keep):
    path = _container(root)
    path.write_bytes(path.read_bytes()[:keep])
    _fails(InvalidFile, path, root=root)


@pytest.mark.parametrize("keep", [64, 4000, -8])
def test_a_truncated_object_array_is_refused(root, keep):
    path = root / "project" / "eeg_dataset" / "preprocessed_data" / "sub-01" / "preprocessed_eeg_training.npy"
    path.write_bytes(path.read_bytes()[:keep])
    _fails(InvalidFile, path, root=root, container="100hz")


def test_a_missing_part_names_the_file(root):
    _container(root).unlink()
    _fails(InvalidFile, _container(root), root=root)


@pytest.mark.parametrize("key", ["preprocessed_eeg_data", "ch_names", "times"])
def test_a_missing_key_is_named(root, key):
    _rewrite(_container(root), **{key: None})
    _fails(InvalidFile, f"key={key}", _container(root), root=root)


def test_a_wrong_channel_count_names_the_expected_one(root):
    data = np.array(read_epochs(root, "sub-01", "training").data)
    _rewrite(_container(root), preprocessed_eeg_data=data[:, :, :62])
    _fails(ShapeMismatch, "channels=62", "expected 63", _container(root), root=root)


def test_channel_names_must_be_as_many_as_channels(root):
    _rewrite(_container(root), ch_names=list(CHANNELS_63[:-1]))
    _fails(ShapeMismatch, "ch_names=62", "expected 63", root=root)


def test_too_few_times_are_refused(root):
    _rewrite(_container(root), times=np.arange(200) / 250)
    _fails(ShapeMismatch, "times=200", root=root)


def test_rows_must_be_as_many_as_the_metadata_says(root):
    data = np.array(read_epochs(root, "sub-01", "training").data)
    _rewrite(_container(root), preprocessed_eeg_data=data[:23])
    _fails(ShapeMismatch, "image_metadata rows=24", "23", root=root)


def test_no_trials_are_refused(root):
    _rewrite(_container(root), preprocessed_eeg_data=np.empty((24, 0, 63, 250), np.float32))
    _fails(ShapeMismatch, "at least one", _container(root), root=root)


def test_nan_samples_are_counted(root):
    data = np.array(read_epochs(root, "sub-01", "training").data)
    data[7, 1, 3, :5] = np.nan
    data[20, 0, 0, 0] = np.inf
    _rewrite(_container(root), preprocessed_eeg_data=data)
    _fails(InvalidFile, _container(root), "6 NaN or infinite", root=root)


def test_metadata_that_name_an_absent_picture_are_refused(root):
    index = read_image_index(root)
    index.paths[4].unlink()
    _fails(InvalidFile, "train_img_files[4]", index.paths[4].name, root=root)


def test_missing_metadata_are_named(root):
    (root / "image_set" / "image_metadata.npy").unlink()
    _fails(InvalidFile, "image_metadata.npy", root=root)


def test_a_container_that_would_run_code_is_refused(root, tmp_path):
    target = tmp_path / "touched"

    class Evil:
        def __reduce__(self):
            return (open, (str(target), "w"))

    _container(root).write_bytes(pickle.dumps({"preprocessed_eeg_data": Evil()}, protocol=4))
    _fails(InvalidFile, _container(root), root=root)
    assert not target.exists()
