"""Writes the raw layout of MOUS with planted activity: rest, heard and read sentences in a CTF 275 helmet, 50 Hz mains.

While a sentence lasts, alpha, mu and beta are weaker and theta is stronger than at rest. ``*_meg.fif`` files with CTF
coils stand for the ``*_meg.ds`` of the archive, as MNE writes no CTF folders.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from brainlab.io.cache import code_digest
from brainlab.synthetic.meg_sensors import ctf_array
from brainlab.synthetic.meg_side_files import describe_dataset, describe_recording
from brainlab.synthetic.meg_tree import Scanner, SessionPlan, TreeSize, check_size, smooth_boxes, write_tree

__all__ = ["SIZES", "SimulatedMous"]

SIZES = {"tiny": TreeSize(4, 75.0, 24), "default": TreeSize(20, 120.0, 48)}
_SFREQ_HZ = 300.0
_FILES = ("mous", "meg_sensors", "meg_side_files", "meg_sources", "meg_tree")
_FIXATION, _BLOCK, _QUESTION, _END = 20, 10, 40, 15


@dataclass(frozen=True)
class SimulatedMous:
    """MOUS' tree with simulated people in it: every second one at rest, the others hearing or reading sentences.

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
        scanner = Scanner("mous", 2, ctf_array(plan.n_sensors, "4504"), _SFREQ_HZ, 50.0, "UPPT001")
        plans = self._plans(plan)
        paths = write_tree(root, scanner, plans, self.seed)
        describe_dataset(root, "MOUS", sorted({path.relative_to(root).parts[0] for path in paths}))
        for path in paths:
            describe_recording(path, scanner.array, scanner.stim, _SFREQ_HZ, 50.0)
        return paths

    def recipe(self) -> dict[str, Any]:
        """What the files depend on, JSON-ready."""
        code = code_digest(*(f"synthetic/{name}.py" for name in _FILES))
        return {"simulator": "mous", "seed": self.seed, "code": code}

    def _plans(self, size: TreeSize) -> list[SessionPlan]:
        plans = []
        for number in range(1, size.n_subjects + 3):
            quirk: Any = {size.n_subjects + 1: "bads", size.n_subjects + 2: "short"}.get(number, "")
            task = ("rest", "auditory", "rest", "visual")[(number - 1) % 4]
            duration_s = 12.0 if quirk == "short" else size.duration_s
            events = condition = None
            if task != "rest":
                rng = np.random.default_rng([self.seed, 2, number, 4])
                events, spans = _sentences(duration_s, task == "visual", rng)
                condition = smooth_boxes(spans, duration_s, _SFREQ_HZ)
            subject = f"sub-{'V1' if task == 'visual' else 'A2'}{number + 1:03d}"
            path = f"{subject}/meg/{subject}_task-{task}_meg.fif"
            plans.append(SessionPlan(path, number, task, duration_s, quirk, events, condition))
        room = "sub-A2002/meg/sub-A2002_task-emptyroom_meg.fif"
        return [*plans, SessionPlan(room, 1, "emptyroom", 10.0, "empty_room")]


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
