"""The NSD reader: volumes, design, table and pictures, and one clear sentence for each defect."""

import shutil

import h5py
import nibabel
import numpy as np
import pandas as pd
import pytest

from brainlab.datasets import nsd
from brainlab.errors import InvalidFile, InvalidValue, ShapeMismatch
from brainlab.synthetic.image_pairs import write_image_pairs


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    base = tmp_path_factory.mktemp("nsd")
    write_image_pairs(base / "things", base / "nsd", "tiny", seed=3, eeg_containers=())
    return base / "nsd"


@pytest.fixture
def root(pristine, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(pristine, tmp_path / "nsd")


def _betas(root, session=1, ending="hdf5"):
    return nsd.betas_folder(root, "subj01") / f"betas_session{session:02d}.{ending}"


def _fails(error, *words):
    class Check:
        def __enter__(self):
            self.raises = pytest.raises(error)
            self.caught = self.raises.__enter__()

        def __exit__(self, *exc):
            handled = self.raises.__exit__(*exc)
            for word in words:
                assert str(word) in str(self.caught.value)
            assert "\n" not in str(self.caught.value)
            return handled

    return Check()


def test_betas_are_percent_signal_change_of_the_masked_voxels(pristine):
    mask = nsd.read_mask(pristine, "subj01")
    betas = nsd.read_betas(pristine, "subj01", mask)
    assert betas.shape == (72, mask.sum())
    assert betas.dtype == np.float32
    # Voxel by voxel from the bytes that MATLAB would have written.
    with h5py.File(_betas(pristine, 2)) as file:
        stored = file["betas"][()]
    assert stored.dtype == np.int16
    assert stored.shape == (36, 5, 7, 6)
    for column, (x, y, z) in enumerate(np.argwhere(mask)):
        np.testing.assert_allclose(betas[36:, column], stored[:, z, y, x] / 300.0, rtol=1e-6)


def test_nifti_sessions_hold_the_same_numbers(root):
    mask = nsd.read_mask(root, "subj01")
    hdf5 = nsd.read_betas(root, "subj01", mask)
    for session in (1, 2):
        _betas(root, session).unlink()
    np.testing.assert_array_equal(nsd.read_betas(root, "subj01", mask), hdf5)


def test_the_mask_keeps_only_positive_voxels(pristine):
    path = pristine / "nsddata" / "ppdata" / "subj01" / "func1pt8mm" / "roi" / "nsdgeneral.nii.gz"
    raw = np.asanyarray(nibabel.load(path).dataobj)
    assert set(np.unique(raw)) == {-1, 0, 1}
    np.testing.assert_array_equal(nsd.read_mask(pristine, "subj01"), raw == 1)


@pytest.mark.parametrize("subject", ["subj01", "subj02"])
def test_design_table_and_behaviour_tell_the_same_story(pristine, subject):
    number = int(subject[4:])
    table = nsd.read_stim_info(pristine)
    ids = nsd.trial_image_ids(nsd.read_expdesign(pristine), subject, 72)
    for picture in range(len(table)):
        trials = sorted(np.flatnonzero(ids == picture) + 1)
        listed = [int(table[f"subject{number}_rep{r}"][picture]) for r in range(3)]
        assert [t for t in listed if t] == trials
        assert table[f"subject{number}"][picture] == (1 if trials else 0)
    responses = pd.read_csv(pristine / "nsddata" / "ppdata" / subject / "behav" / "responses.tsv", sep="\t")
    np.testing.assert_array_equal(responses["73KID"] - 1, ids)


def test_shared_pictures_are_those_that_all_subjects_see(pristine):
    design = nsd.read_expdesign(pristine)
    seen = [set(nsd.trial_image_ids(design, s, 72)) for s in ("subj01", "subj02")]
    table = nsd.read_stim_info(pristine)
    assert set(table.index[table["shared1000"]]) == seen[0] & seen[1]
    assert set(design.subject_im[0, design.shared_ix - 1] - 1) == seen[0] & seen[1]


def test_the_table_has_all_columns_of_the_release(pristine):
    assert tuple(nsd.read_stim_info(pristine).columns) == nsd.STIM_INFO_COLUMNS
    assert len(nsd.STIM_INFO_COLUMNS) == 40  # and the unnamed index makes 41


def test_pictures_come_in_the_order_asked_for(pristine):
    every = nsd.read_images(pristine, np.arange(40))
    assert every.shape == (40, 8, 8, 3)
    np.testing.assert_array_equal(nsd.read_images(pristine, [7, 2, 7]), every[[7, 2, 7]])
    np.testing.assert_array_equal(nsd.read_images(pristine, [39, 0]), every[[39, 0]])


def test_a_missing_root_lists_what_is_expected(tmp_path):
    with _fails(InvalidFile, tmp_path / "no", "nsddata_betas"):
        nsd.read_mask(tmp_path / "no", "subj01")


def test_an_unknown_subject_lists_those_present(pristine):
    with _fails(InvalidValue, "subject=subj07", "subj01, subj02"):
        nsd.read_mask(pristine, "subj07")


def test_an_unknown_preparation_lists_those_present(pristine):
    mask = nsd.read_mask(pristine, "subj01")
    with _fails(InvalidValue, "prep=betas_other", "betas_fithrf"):
        nsd.read_betas(pristine, "subj01", mask, prep="betas_other")


def test_a_mask_of_another_volume_is_refused(pristine):
    mask = nsd.read_mask(pristine, "subj01")[:, :, :-1]
    with _fails(ShapeMismatch, "(6, 7, 4)", "(6, 7, 5)", _betas(pristine)):
        nsd.read_betas(pristine, "subj01", mask)


def test_an_empty_mask_is_refused(root):
    path = root / "nsddata" / "ppdata" / "subj01" / "func1pt8mm" / "roi" / "nsdgeneral.nii.gz"
    nibabel.Nifti1Image(np.zeros((6, 7, 5), np.int16), np.eye(4)).to_filename(path)
    with _fails(InvalidFile, path, "> 0"):
        nsd.read_mask(root, "subj01")


@pytest.mark.parametrize("keep", [0, 100, 3000, -40])
def test_truncated_betas_are_refused(root, keep):
    path = _betas(root, 2)
    path.write_bytes(path.read_bytes()[:keep])
    with _fails(InvalidFile, path):
        nsd.read_betas(root, "subj01", nsd.read_mask(root, "subj01"))


def test_truncated_nifti_betas_are_refused(root):
    path = _betas(root, 1, "nii.gz")
    _betas(root).unlink()
    path.write_bytes(path.read_bytes()[:2000])
    with _fails(InvalidFile, path):
        nsd.read_betas(root, "subj01", nsd.read_mask(root, "subj01"))


def test_nan_betas_are_counted(root):
    mask = nsd.read_mask(root, "subj01")
    x, y, z = np.argwhere(mask)[0]
    with h5py.File(_betas(root), "r+") as file:
        betas = file["betas"][()] / np.float32(300)
        betas[4:7, z, y, x] = np.nan
        del file["betas"]
        file["betas"] = betas
    with _fails(InvalidFile, _betas(root), "3 NaN"):
        nsd.read_betas(root, "subj01", mask)


def test_float_betas_are_taken_as_percent(root):
    mask = nsd.read_mask(root, "subj01")
    before = nsd.read_betas(root, "subj01", mask)
    with h5py.File(_betas(root), "r+") as file:
        betas = file["betas"][()] / np.float32(300)
        del file["betas"]
        file["betas"] = betas
    np.testing.assert_allclose(nsd.read_betas(root, "subj01", mask), before, rtol=1e-6)


def test_a_session_without_trials_is_refused(root):
    with h5py.File(_betas(root), "w") as file:
        file["betas"] = np.empty((0, 5, 7, 6), np.int16)
    with _fails(InvalidFile, "found 0", _betas(root)):
        nsd.read_betas(root, "subj01", nsd.read_mask(root, "subj01"))


def test_a_file_without_betas_names_the_key(root):
    with h5py.File(_betas(root), "w") as file:
        file["other"] = np.zeros(3)
    with _fails(InvalidFile, "key=betas", "other", _betas(root)):
        nsd.read_betas(root, "subj01", nsd.read_mask(root, "subj01"))


def test_a_missing_session_in_between_is_named(root):
    _betas(root, 1).unlink()
    _betas(root, 1, "nii.gz").unlink()
    with _fails(InvalidFile, "session 1 of 2"):
        nsd.read_betas(root, "subj01", nsd.read_mask(root, "subj01"))


def test_more_trials_than_the_design_has_are_refused(pristine):
    with _fails(ShapeMismatch, "trials=73", "72"):
        nsd.trial_image_ids(nsd.read_expdesign(pristine), "subj01", 73)


@pytest.mark.parametrize("keep", [0, 50, 300])
def test_a_truncated_design_is_refused(root, keep):
    path = root / nsd.EXPERIMENT_FOLDER / "nsd_expdesign.mat"
    path.write_bytes(path.read_bytes()[:keep])
    with _fails(InvalidFile, path):
        nsd.read_expdesign(root)


def test_a_missing_column_is_named(root):
    path = root / nsd.EXPERIMENT_FOLDER / "nsd_stim_info_merged.csv"
    pd.read_csv(path, index_col=0).drop(columns="subject2_rep1").to_csv(path)
    with _fails(InvalidFile, "column=subject2_rep1", path):
        nsd.read_stim_info(root)


def test_a_picture_id_outside_the_file_is_refused(pristine):
    with _fails(InvalidValue, "40", "0 to 39"):
        nsd.read_images(pristine, [3, 40])


def test_truncated_pictures_are_refused(root):
    path = root / nsd.STIMULUS_FILE
    path.write_bytes(path.read_bytes()[:3000])
    with _fails(InvalidFile, path):
        nsd.read_images(root, [0, 39])
