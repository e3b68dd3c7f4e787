"""The data module on real recordings: parts in time, statistics from the training part, two montages together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from brainlab.data.recordings import Recordings
from brainlab.datasets.recordings import AnyRecordings
from brainlab.prepare.steps.channels import Pick
from brainlab.prepare.steps.filters import BandPass, Resample
from brainlab.prepare.steps.scaling import RobustScale

STEPS = {
    "pick": Pick(("mag", "grad", "eeg")),
    "band_pass": BandPass(1.0, 40.0, phase="minimum"),
    "resample": Resample(100.0),
    "scale": RobustScale(),
}


def _data(real_data_dir: Path, cache: Path, include, **settings) -> Recordings:  # type: ignore[no-untyped-def]
    data = Recordings(
        cache_dir=str(cache), dataset=AnyRecordings(), simulator=None, root=str(real_data_dir / "eeg/eeglab"),
        include=include, steps=STEPS, split="time", fractions=(0.5, 0.2, 0.3), window_s=1.28, guard_s=1.28,
        batch_size=16, **settings,
    )  # fmt: skip
    data.prepare_data()
    data.setup("fit")
    return data


def test_parts_of_one_recording_keep_apart_and_scale_by_the_training_part(real_data_dir: Path, tmp_path: Path) -> None:
    data = _data(real_data_dir, tmp_path, "eeglab_data.set")
    (train,), (val,), (test,) = (data.stretches[part].tolist() for part in ("train", "val", "test"))
    assert train[2] + 128 <= val[1]
    assert val[2] + 128 <= test[1]
    first, last = data.scaler_span(0)
    assert last <= val[1] - 128
    signal = data.signal(0, first, last - first)
    low, middle, high = np.quantile(signal, [0.25, 0.5, 0.75], axis=1)
    np.testing.assert_allclose(middle, 0, atol=1e-4)
    np.testing.assert_allclose(high - low, 1, atol=1e-4)
    batch = next(iter(data.train_dataloader()))
    assert batch["signal"].shape == (16, 30, 128)
    for row in range(4):
        start = int(batch["start"][row])
        assert train[1] <= start <= train[2] - 128
        np.testing.assert_array_equal(batch["signal"][row], data.signal(0, start, 128))


def test_two_montages_share_one_layout_with_what_is_missing_marked(real_data_dir: Path, tmp_path: Path) -> None:
    data = _data(real_data_dir, tmp_path, "*.set")
    assert [session.n_channels for session in data.store.sessions] == [30, 15]
    present = np.array([data.present(session) for session in range(2)])
    assert present.sum(axis=1).tolist() == [30, 15]
    for batch in data.train_dataloader():
        mask = batch["present"].numpy()
        np.testing.assert_array_equal(mask, present[batch["session"].numpy()])
        assert not batch["signal"].numpy()[~mask].any()
        assert batch["signal"].numpy()[mask].any()


def test_files_of_different_rates_need_a_resampling_step(real_data_dir: Path, tmp_path: Path) -> None:
    from brainlab.errors import InvalidValue

    data = Recordings(
        cache_dir=str(tmp_path), dataset=AnyRecordings(), simulator=None, root=str(real_data_dir / "eeg/eeglab"),
        include="*.set", steps={"pick": Pick(("eeg",))}, split="time", window_s=1.28, guard_s=1.28,
    )  # fmt: skip
    with pytest.raises(InvalidValue, match=r"rates differ: 128 Hz.*256 Hz") as error:
        data.prepare_data()
    assert "\n" not in str(error.value)
