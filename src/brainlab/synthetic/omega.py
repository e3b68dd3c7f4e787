"""Writes the raw layout of OMEGA with planted activity: rest in a CTF 275 helmet, 60 Hz mains.

MNE writes no CTF folders: ``*_meg.fif`` files with CTF coils, reference channels and compensation matrices stand for
the ``*_meg.ds`` of the archive.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from brainlab.io.cache import code_digest
from brainlab.synthetic.meg_sensors import ctf_array
from brainlab.synthetic.meg_side_files import describe_dataset, describe_recording
from brainlab.synthetic.meg_tree import Scanner, SessionPlan, TreeSize, check_size, write_tree

__all__ = ["SIZES", "SimulatedOmega"]

SIZES = {"tiny": TreeSize(4, 75.0, 24), "default": TreeSize(60, 150.0, 48)}
_SFREQ_HZ = 300.0
_FILES = ("omega", "meg_sensors", "meg_side_files", "meg_sources", "meg_tree")


@dataclass(frozen=True)
class SimulatedOmega:
    """OMEGA's tree with simulated people in it.

    Args:
        seed: same seed, same files.
    """

    seed: int = 0

    def write(self, folder: Path | str, size: Literal["tiny", "default"] = "default") -> list[Path]:
        """Write the tree: usable sessions, then one with too many bad channels, a too short one, an empty room.

        Returns:
            the recordings' paths.

        Raises:
            InvalidValue: if ``size`` is unknown.
        """
        plan, root = check_size(size, SIZES), Path(folder)
        scanner = Scanner("omega", 1, ctf_array(plan.n_sensors, "1609"), _SFREQ_HZ, 60.0, "UPPT001")
        paths = write_tree(root, scanner, self._plans(plan), self.seed)
        describe_dataset(root, "OMEGA", sorted({path.relative_to(root).parts[0] for path in paths}))
        for path in paths:
            describe_recording(path, scanner.array, scanner.stim, _SFREQ_HZ, 60.0)
        return paths

    def recipe(self) -> dict[str, Any]:
        """What the files depend on, JSON-ready."""
        code = code_digest(*(f"synthetic/{name}.py" for name in _FILES))
        return {"simulator": "omega", "seed": self.seed, "code": code}

    def _plans(self, size: TreeSize) -> list[SessionPlan]:
        plans = []
        for number in range(1, size.n_subjects + 3):
            quirk: Any = {size.n_subjects + 1: "bads", size.n_subjects + 2: "short"}.get(number, "")
            duration_s = 12.0 if quirk == "short" else size.duration_s
            events = _pulses(duration_s, np.random.default_rng([self.seed, 1, number, 4]))
            plans.append(SessionPlan(_path(number, "rest"), number, "rest", duration_s, quirk, events))
        plans.append(SessionPlan(_path(1, "noise"), 1, "noise", 10.0, "empty_room"))
        return plans


def _path(number: int, task: str) -> str:
    name = f"sub-{number:04d}_ses-01_task-{task}_run-01_meg.fif"
    return f"sub-{number:04d}/ses-01/meg/{name}"


def _pulses(duration_s: float, rng: np.random.Generator) -> np.ndarray:
    """(event, 2): marks without meaning about every 10 s, codes 1 to 3."""
    onset = np.arange(2.0, duration_s - 1.0, 10.0)
    onset += rng.uniform(0.0, 3.0, len(onset))
    onset = onset[onset < duration_s - 1.0]
    return np.stack([np.round(onset * _SFREQ_HZ).astype(np.int64), rng.integers(1, 4, len(onset))], axis=1)
