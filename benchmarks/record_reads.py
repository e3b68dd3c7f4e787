"""How fast are shuffled paired examples read? brainlab's typed records against the pickled LMDB schema.

Both sides hold the same pairs, EEG (1, 63, 200) float32 and fMRI (1, 4096) float32 with two picture numbers and a
label, and give the same batches of 64: EEG divided by 100, fMRI rows of unit length. The peer is that schema as its
data set class reads it: one ``pickle.loads`` per item, division and L2 norm per item, stacked by ``collate``. Records
are scaled once, when they are written. The ratio to unpickling and stacking alone, without any arithmetic, is printed
too.

Needs brainlab's environment only::

    python benchmarks/record_reads.py
"""

from __future__ import annotations

import argparse
import os
import pickle
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from side_by_side import environment, in_turns, report

PAIRS, BATCH = 2560, 64
OURS = "brainlab records"
TARGETS = {"pickled LMDB as its data set class reads it": 3.0}


def pairs():
    """The examples of the pickled schema, one after another."""
    rng = np.random.default_rng(0)
    for number in range(PAIRS):
        yield {
            "eeg": (rng.standard_normal((1, 63, 200)) * 20).astype(np.float32),
            "nsd_data": [
                {
                    "subject": "sub-01",
                    "fmri": rng.standard_normal((1, 4096)).astype(np.float32),
                    "nsd_img_idx": int(rng.integers(73000)),
                }
            ],
            "label": number % 5,
            "things_img_idx": int(rng.integers(16540)),
        }


def prepared(pair: dict) -> dict:
    """What a network receives of one pair."""
    fmri = pair["nsd_data"][0]["fmri"]
    norm = np.linalg.norm(fmri)
    return {
        "eeg": pair["eeg"] / 100.0,
        "fmri": fmri / norm if norm > 0 else fmri,
        "nsd_img_idx": pair["nsd_data"][0]["nsd_img_idx"],
        "label": pair["label"],
        "things_img_idx": pair["things_img_idx"],
    }


def as_is(pair: dict) -> dict:
    """The arrays of one pair, untouched."""
    entry = pair["nsd_data"][0]
    return {
        "eeg": pair["eeg"],
        "fmri": entry["fmri"],
        "nsd_img_idx": entry["nsd_img_idx"],
        "label": pair["label"],
        "things_img_idx": pair["things_img_idx"],
    }


def main() -> int:
    """Write both forms, check that they agree, time them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9, help="timed epochs of each side")
    options = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    print("record reads:", environment("numpy", "torch", "lmdb"))
    print(f"{PAIRS} pairs, batches of {BATCH}: EEG (1, 63, 200) and fMRI (1, 4096) float32, 1 thread, warm page cache")
    with tempfile.TemporaryDirectory() as folder:
        return 0 if compare(Path(folder), options.repeats) else 1


def compare(folder: Path, repeats: int) -> bool:
    """Time one epoch of the same shuffled batches on every side."""
    import lmdb
    import torch
    from torch.utils.data import DataLoader, Dataset

    from brainlab.io.records import Records, write_records

    environment_ = lmdb.open(str(folder / "pickled"), map_size=1 << 32)
    with environment_.begin(write=True) as transaction:
        for number, pair in enumerate(pairs()):
            transaction.put(f"train_{number:05d}_00000".encode(), pickle.dumps(pair))
    schema = {
        "eeg": ("f4", (1, 63, 200)),
        "fmri": ("f4", (1, 4096)),
        "nsd_img_idx": ("i8", ()),
        "label": ("i8", ()),
        "things_img_idx": ("i8", ()),
    }
    write_records(folder / "typed", schema, (prepared(pair) for pair in pairs()))

    class Pickled(Dataset):
        def __init__(self, finish):
            self.finish = finish

        def __len__(self):
            return PAIRS

        def __getitem__(self, index):
            with environment_.begin() as transaction:
                raw = transaction.get(f"train_{index:05d}_00000".encode())
            return self.finish(pickle.loads(raw))

    class Typed(Dataset):
        def __init__(self):
            self.records = Records(folder / "typed")

        def __len__(self):
            return len(self.records)

        def __getitems__(self, indices):
            return {name: torch.from_numpy(column) for name, column in self.records.gather(indices).items()}

    def same(batch):
        return batch

    shuffled = np.random.default_rng(1).permutation(PAIRS)
    order = [shuffled[k : k + BATCH].tolist() for k in range(0, PAIRS, BATCH)]
    typed = DataLoader(Typed(), batch_sampler=order, collate_fn=same)
    pickled = DataLoader(Pickled(prepared), batch_sampler=order)
    alone = DataLoader(Pickled(as_is), batch_sampler=order)
    for mine, theirs in zip(typed, pickled, strict=True):
        for name in schema:
            if mine[name].shape != theirs[name].shape or not torch.equal(mine[name], theirs[name]):
                sys.exit(f"{name}: the batches differ")
    print(f"equal on both sides: {len(order)} batches, every field")

    def run(batches):
        for _ in batches:
            pass

    ways = {
        OURS: lambda: run(typed),
        "pickled LMDB as its data set class reads it": lambda: run(pickled),
        "pickled LMDB, unpickling and stacking alone": lambda: run(alone),
    }
    return report(in_turns(ways, repeats, len(order)), OURS, TARGETS)


if __name__ == "__main__":
    sys.exit(main())
