"""Writes the raw layout of MOUS with planted activity: rest, heard and read sentences in a CTF 275 helmet, 50 Hz mains.

While a sentence lasts, alpha, mu and beta are weaker and theta is stronger than at rest. ``*_meg.fif`` files with CTF
coils stand for the ``*_meg.ds`` of the archive, as MNE writes no CTF folders.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from brainlab.synthetic.meg_archive import SimulatedArchive
from brainlab.synthetic.meg_sensors import ctf_array
from brainlab.synthetic.meg_tree import Quirk, Scanner, SessionPlan, TreeSize, smooth_boxes

__all__ = ["SimulatedMous"]

_SFREQ_HZ = 300.0
_FIXATION, _BLOCK, _QUESTION, _END = 20, 10, 40, 15


class SimulatedMous(SimulatedArchive):
    """MOUS' tree with simulated people in it: every second one at rest, the others hearing or reading sentences.

    Args:
        seed: same seed, same files.
    """

    name, title = "mous", "MOUS"
    sizes: ClassVar = {"tiny": TreeSize(4, 75.0, 24), "default": TreeSize(20, 120.0, 48)}
    empty_room = SessionPlan("sub-A2002/meg/sub-A2002_task-emptyroom_meg.fif", 1, "emptyroom", 10.0, "empty_room")

    def _scanner(self, n_sensors: int) -> Scanner:
        return Scanner(self.name, 2, ctf_array(n_sensors, "4504"), _SFREQ_HZ, 50.0, "UPPT001")

    def _session(self, number: int, quirk: Quirk, duration_s: float) -> SessionPlan:
        task = ("rest", "auditory", "rest", "visual")[(number - 1) % 4]
        events = condition = None
        if task != "rest":
            rng = np.random.default_rng([self.seed, 2, number, 4])
            events, spans = _sentences(duration_s, task == "visual", rng)
            condition = smooth_boxes(spans, duration_s, _SFREQ_HZ)
        subject = f"sub-{'V1' if task == 'visual' else 'A2'}{number + 1:03d}"
        path = f"{subject}/meg/{subject}_task-{task}_meg.fif"
        return SessionPlan(path, number, task, duration_s, quirk, events, condition)


def _sentences(
    duration_s: float, visual: bool, rng: np.random.Generator
) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Trigger codes (event, 2), and when a sentence lasts, in s.

    Fixation (20), then a sentence: heard ones have one start code, read ones a code per word; 15 ends it. A block opens
    with 10; some sentences are followed by a question (40).
    """
    events: list[tuple[float, int]] = []
    spans = []
    at, number = 1.5, 0
    while at + 9 < duration_s:
        if number % 4 == 0:
            events.append((at, _BLOCK))
            at += 1.0
        events.append((at, _FIXATION))
        at += rng.uniform(1.2, 1.8)
        n_words = int(rng.integers(8, 12))
        kind = int(rng.choice((1, 3, 5, 7)))
        for word in range(n_words if visual else 1):
            events.append((at + 0.35 * word, kind + word % 2 if visual else kind))
        end = at + 0.35 * n_words
        events.append((end, _END))
        spans.append((at, end))
        at = end + rng.uniform(0.4, 0.8)
        if rng.random() < 0.25:
            events.append((at, _QUESTION))
            at += 1.2
        number += 1
    samples = np.round(np.array([onset for onset, _ in events]) * _SFREQ_HZ).astype(np.int64)
    return np.stack([samples, np.array([code for _, code in events])], axis=1), spans
