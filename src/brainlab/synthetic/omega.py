"""Writes the raw layout of OMEGA with planted activity: rest in a CTF 275 helmet, 60 Hz mains.

MNE writes no CTF folders: ``*_meg.fif`` files with CTF coils, reference channels and compensation matrices stand for
the ``*_meg.ds`` of the archive.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from brainlab.synthetic.meg_archive import SimulatedArchive
from brainlab.synthetic.meg_sensors import ctf_array
from brainlab.synthetic.meg_tree import Quirk, Scanner, SessionPlan, TreeSize

__all__ = ["SimulatedOmega"]

_SFREQ_HZ = 300.0


def _path(number: int, task: str) -> str:
    name = f"sub-{number:04d}_ses-01_task-{task}_run-01_meg.fif"
    return f"sub-{number:04d}/ses-01/meg/{name}"


class SimulatedOmega(SimulatedArchive):
    """OMEGA's tree with simulated people in it.

    Args:
        seed: same seed, same files.
    """

    name, title = "omega", "OMEGA"
    sizes: ClassVar = {"tiny": TreeSize(4, 75.0, 24), "default": TreeSize(60, 150.0, 48)}
    empty_room = SessionPlan(_path(1, "noise"), 1, "noise", 10.0, "empty_room")

    def _scanner(self, n_sensors: int) -> Scanner:
        return Scanner(self.name, 1, ctf_array(n_sensors, "1609"), _SFREQ_HZ, 60.0, "UPPT001")

    def _session(self, number: int, quirk: Quirk, duration_s: float) -> SessionPlan:
        events = _pulses(duration_s, np.random.default_rng([self.seed, 1, number, 4]))
        return SessionPlan(_path(number, "rest"), number, "rest", duration_s, quirk, events)


def _pulses(duration_s: float, rng: np.random.Generator) -> np.ndarray:
    """(event, 2): marks without meaning about every 10 s, codes 1 to 3."""
    onset = np.arange(2.0, duration_s - 1.0, 10.0)
    onset += rng.uniform(0.0, 3.0, len(onset))
    onset = onset[onset < duration_s - 1.0]
    return np.stack([np.round(onset * _SFREQ_HZ).astype(np.int64), rng.integers(1, 4, len(onset))], axis=1)
