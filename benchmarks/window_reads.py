"""How fast are random windows read? brainlab's store against braindecode (lazy FIF, zarr memory map) and torcheeg.

Every side serves the same batches of 64 windows × 64 channels × 200 samples of the same three recordings through a
torch ``DataLoader`` in this process (no workers), as contiguous float32 with labels, and the values are compared.
brainlab and braindecode's continuous data sets start a window at any sample; torcheeg and braindecode's
``WindowsDataset`` hold windows that were cut beforehand, so there brainlab reads windows with the same starts.

Peers live in an environment of their own, because torchaudio does not load beside a CPU-only torch::

    python -m venv .peers
    .peers/bin/pip install torch --index-url https://download.pytorch.org/whl/cpu
    .peers/bin/pip install braindecode==1.8.1 zarr huggingface_hub pandas h5py tqdm joblib
    .peers/bin/pip install --no-deps torcheeg==1.1.3
    .peers/bin/pip install lmdb filelock jaxtyping        # what brainlab's store needs
    PYTHONPATH=src .peers/bin/python benchmarks/window_reads.py

Packages that the peers import but do not need here (torchaudio, …) are replaced by empty stand-ins.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from side_by_side import environment, in_turns, report, stub_module

CHANNELS, SFREQ, MINUTES, SESSIONS = 64, 200.0, 10, 3
LENGTH, BATCH, BATCHES = 200, 64, 20
OURS = "brainlab store"
TARGETS = {
    "braindecode lazy FIF": 15.0,
    "braindecode zarr memory map": 5.0,
    "torcheeg LMDB, its data set class": 1.5,
    "torcheeg LMDB, bare reads": 1.5,
}
_NOT_NEEDED = (
    "torchaudio.functional", "torchaudio.transforms", "mne_connectivity.viz", "xmltodict", "torch_geometric.data",
    "torch_geometric.loader", "torch_geometric.nn", "torch_geometric.utils", "spectrum", "pywt",
)  # fmt: skip


def recordings() -> list[np.ndarray]:
    """Coloured noise in volts, in single precision as FIF keeps it."""
    rng = np.random.default_rng(0)
    n = int(MINUTES * 60 * SFREQ)
    return [(rng.standard_normal((CHANNELS, n)) * 2e-5).astype(np.float32) for _ in range(SESSIONS)]


def main() -> int:
    """Prepare all forms of the data, check that they agree, time them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9, help="timed epochs of each side")
    parser.add_argument("--folder", type=Path, help="where the data is written (default: a temporary folder)")
    options = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for name in _NOT_NEEDED:
        stub_module(name)
    print("window reads:", environment("numpy", "torch", "mne", "braindecode", "zarr", "torcheeg", "lmdb"))
    print(f"{BATCH} windows x {CHANNELS} channels x {LENGTH} samples float32 per batch, 1 thread, warm page cache")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        return 0 if compare(Path(folder), options.repeats) else 1


def compare(folder: Path, repeats: int) -> bool:
    """Time one epoch of the same batches on every side."""
    from torch.utils.data import DataLoader

    from brainlab.data.windows import Windows

    data = recordings()
    rng = np.random.default_rng(1)
    n_windows = BATCH * BATCHES
    sessions = rng.integers(0, SESSIONS, n_windows)
    anywhere = rng.integers(0, data[0].shape[1] - LENGTH + 1, n_windows)
    cut = rng.integers(0, data[0].shape[1] // LENGTH, n_windows) * LENGTH
    labels = np.arange(n_windows) % 5
    order = [rng.permutation(n_windows)[k : k + BATCH].tolist() for k in range(0, n_windows, BATCH)]

    store = our_store(folder / "store", data)
    ours = Windows(store, sessions, anywhere, LENGTH, labels)
    ours_cut = Windows(store, sessions, cut, LENGTH, labels)
    fif, zarr, zarr_cut = braindecode_sets(folder, data, sessions, anywhere, cut, labels)
    eeg, bare = torcheeg_sets(folder, data, sessions, cut, labels)

    def loader(dataset, **keywords):
        return DataLoader(dataset, batch_sampler=order, **keywords)

    def same(batch):
        return batch

    sides = {
        OURS: (loader(ours, collate_fn=same), lambda b: (b["signal"], b["label"]), anywhere),
        "brainlab store, starts of the cut windows": (
            loader(ours_cut, collate_fn=same), lambda b: (b["signal"], b["label"]), cut,
        ),
        "braindecode lazy FIF": (loader(fif), lambda b: (b[0], b[1]), anywhere),
        "braindecode zarr memory map": (loader(zarr), lambda b: (b[0], b[1]), anywhere),
        "braindecode zarr memory map, cut windows": (loader(zarr_cut), lambda b: (b[0], b[1]), cut),
        "torcheeg LMDB, its data set class": (loader(eeg), lambda b: (b[0], b[1]), cut),
        "torcheeg LMDB, bare reads": (loader(bare), lambda b: (b[0], b[1]), cut),
    }  # fmt: skip
    for name, (batches, pick, starts) in sides.items():
        check(name, batches, pick, order, data, sessions, starts, labels)
    print(f"equal on every side: {len(order)} batches, values and labels")
    times = in_turns({name: lambda b=batches: run(b) for name, (batches, _, _) in sides.items()}, repeats, BATCHES)
    return report(times, OURS, TARGETS)


def run(batches) -> None:
    """One epoch."""
    for _ in batches:
        pass


def check(name, batches, pick, order, data, sessions, starts, labels) -> None:
    """Stop unless every batch is contiguous float32 and holds the recordings' own numbers."""
    for indices, batch in zip(order, batches, strict=True):
        signal, label = pick(batch)
        expected = np.stack([data[sessions[i]][:, starts[i] : starts[i] + LENGTH] for i in indices])
        good = (
            tuple(signal.shape) == (BATCH, CHANNELS, LENGTH)
            and signal.is_contiguous()
            and str(signal.dtype) == "torch.float32"
            and np.array_equal(signal.numpy(), expected)
            and np.array_equal(np.asarray(label), labels[indices])
        )
        if not good:
            sys.exit(f"{name}: the batch differs from the recordings")


def our_store(folder: Path, data: list[np.ndarray]):
    """The recordings as a brainlab store."""
    from brainlab.io.store import Store, StoreWriter

    with StoreWriter(folder) as writer:
        for number, samples in enumerate(data):
            writer.add_session(f"session-{number}", samples, SFREQ, [f"EEG{k:03d}" for k in range(CHANNELS)])
    return Store(folder)


def braindecode_sets(folder, data, sessions, anywhere, cut, labels):
    """Continuous windows over lazy FIF and over its zarr memory map, and cut windows over the latter."""
    import mne
    import pandas as pd
    from braindecode.datasets.base import BaseConcatDataset, EEGWindowsDataset, WindowsDataset
    from braindecode.datautil.hub_formats import convert_to_zarr, load_from_zarr

    mne.set_log_level("ERROR")

    def table(session, starts):
        mine = np.flatnonzero(sessions == session)
        rows = {
            "i_window_in_trial": mine,
            "i_start_in_trial": starts[mine],
            "i_stop_in_trial": starts[mine] + LENGTH,
            "target": labels[mine],
        }
        return pd.DataFrame(rows)

    continuous, epochs = [], []
    for number, samples in enumerate(data):
        info = mne.create_info([f"EEG{k:03d}" for k in range(CHANNELS)], SFREQ, "eeg")
        path = folder / f"session-{number}_raw.fif"
        mne.io.RawArray(samples.astype(np.float64), info).save(path, fmt="single")
        raw = mne.io.read_raw_fif(path, preload=False)
        continuous.append(EEGWindowsDataset(raw, table(number, anywhere), description={"session": number}))
        metadata = table(number, cut)
        stacked = np.stack([samples[:, s : s + LENGTH] for s in metadata["i_start_in_trial"]]).astype(np.float64)
        events = np.column_stack([np.arange(len(metadata)), np.zeros(len(metadata), int), np.ones(len(metadata), int)])
        windows = mne.EpochsArray(stacked, info, events=events, metadata=metadata)
        epochs.append(WindowsDataset(windows, description={"session": number}))
    place = window_places(sessions)
    convert_to_zarr(BaseConcatDataset(continuous), folder / "continuous.zarr")
    convert_to_zarr(BaseConcatDataset(epochs), folder / "windows.zarr")
    return (
        Reordered(BaseConcatDataset(continuous), place),
        Reordered(load_from_zarr(folder / "continuous.zarr", preload=False), place),
        Reordered(load_from_zarr(folder / "windows.zarr", preload=False), place),
    )


def torcheeg_sets(folder, data, sessions, cut, labels):
    """torcheeg's data set over raw recordings cut side by side, and its LMDB reader alone."""
    import mne
    import torch
    from torch.utils.data import Dataset
    from torcheeg import transforms
    from torcheeg.datasets import MNERawDataset

    raws = []
    for samples in data:
        info = mne.create_info([f"EEG{k:03d}" for k in range(CHANNELS)], SFREQ, "eeg")
        raws.append(mne.io.RawArray(samples.astype(np.float64), info))

    def single(eeg):
        return {"eeg": eeg.astype(np.float32)}

    whole = MNERawDataset(
        raw_list=raws,
        info_list=[{"subject_id": 0, "trial_id": number} for number in range(len(raws))],
        chunk_size=LENGTH,
        overlap=0,
        offline_transform=single,
        online_transform=transforms.ToTensor(),
        label_transform=transforms.Select("label"),
        io_path=str(folder / "torcheeg"),
        io_size=1 << 30,
        verbose=False,
    )
    per_session = data[0].shape[1] // LENGTH
    rows = sessions * per_session + cut // LENGTH
    # A row is drawn more than once at times; its label is that of the draw, as on the other sides.
    chosen = whole.info.iloc[rows].reset_index(drop=True)
    chosen["label"] = labels
    whole.info = chosen
    records, clips = chosen["_record_id"].astype(str).tolist(), chosen["clip_id"].astype(str).tolist()

    class Bare(Dataset):
        def __len__(self):
            return len(clips)

        def __getitem__(self, index):
            return torch.from_numpy(whole.read_eeg(records[index], clips[index])), labels[index]

    return whole, Bare()


def window_places(sessions: np.ndarray) -> np.ndarray:
    """Where window i stands when windows are listed session by session."""
    place = np.empty(len(sessions), dtype=int)
    place[np.argsort(sessions, kind="stable")] = np.arange(len(sessions))
    return place


class Reordered:
    """A concatenated data set addressed by the numbers of the common list."""

    def __init__(self, dataset, place: np.ndarray) -> None:
        self.dataset, self.place = dataset, place.tolist()

    def __len__(self) -> int:
        return len(self.place)

    def __getitem__(self, index: int):
        return self.dataset[self.place[index]]


if __name__ == "__main__":
    sys.exit(main())
