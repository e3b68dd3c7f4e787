"""Writes the raw layout of Cam-CAN with planted activity: rest and a sensorimotor task, Vectorview 306, 50 Hz mains.

Around every trial of the task, alpha, mu and beta are weaker. Fine calibration and crosstalk of the system lie beside
the tree of subjects, as MaxFilter's users keep them.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from brainlab.datasets.camcan import CALIBRATION, CROSSTALK
from brainlab.io.cache import code_digest
from brainlab.synthetic.meg_sensors import vectorview_array
from brainlab.synthetic.meg_side_files import describe_dataset, describe_recording, write_calibration, write_crosstalk
from brainlab.synthetic.meg_tree import Scanner, SessionPlan, TreeSize, check_size, smooth_boxes, write_tree

__all__ = ["SIZES", "SimulatedCamCan"]

SIZES = {"tiny": TreeSize(4, 75.0, 24), "default": TreeSize(20, 120.0, 48)}
_SFREQ_HZ = 250.0
_COHORT = "cc700"
_FILES = ("camcan", "meg_sensors", "meg_side_files", "meg_sources", "meg_tree")
_TONES = {6: "audiovis_300Hz", 7: "audiovis_600Hz", 8: "audiovis_1200Hz"}
_BUTTON = 4096


@dataclass(frozen=True)
class SimulatedCamCan:
    """Cam-CAN's tree with simulated people in it: every third one does the task, the others rest.

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
        scanner = Scanner("camcan", 3, vectorview_array(plan.n_sensors // 3), _SFREQ_HZ, 50.0, "STI101")
        plans = self._plans(plan)
        paths = write_tree(root, scanner, plans, self.seed)
        subjects = sorted({path.relative_to(root).parts[1] for path in paths})
        describe_dataset(root / _COHORT, "Cam-CAN", subjects)
        for path, session in zip(paths, plans, strict=True):
            rows = _table(session.events, self.seed + session.number)
            describe_recording(path, scanner.array, scanner.stim, _SFREQ_HZ, 50.0, rows)
        write_calibration(root / CALIBRATION, scanner.array)
        write_crosstalk(root / CROSSTALK, scanner.array)
        # BIDS keeps a copy in a subject's folder, under a name that looks like a recording's.
        shutil.copyfile(
            root / CROSSTALK, paths[0].with_name(f"{subjects[0]}_ses-{plans[0].task}_acq-crosstalk_meg.fif")
        )
        return paths

    def recipe(self) -> dict[str, Any]:
        """What the files depend on, JSON-ready."""
        code = code_digest(*(f"synthetic/{name}.py" for name in _FILES), "datasets/camcan.py")
        return {"simulator": "camcan", "seed": self.seed, "code": code}

    def _plans(self, size: TreeSize) -> list[SessionPlan]:
        plans = []
        for number in range(1, size.n_subjects + 3):
            quirk: Any = {size.n_subjects + 1: "bads", size.n_subjects + 2: "short"}.get(number, "")
            task = "smt" if number % 3 == 2 and not quirk else "rest"
            duration_s = 12.0 if quirk == "short" else size.duration_s
            events = condition = None
            if task == "smt":
                events, spans = _trials(duration_s, np.random.default_rng([self.seed, 3, number, 4]))
                condition = smooth_boxes(spans, duration_s, _SFREQ_HZ)
            path = _path(number, f"ses-{task}/meg", f"_ses-{task}_task-{task}_meg.fif")
            plans.append(SessionPlan(path, number, task, duration_s, quirk, events, condition))
        room = f"{_COHORT}/{_subject(1)}/ses-rest/emptyroom/emptyroom_{_subject(1)[4:]}_meg.fif"
        return [*plans, SessionPlan(room, 1, "emptyroom", 10.0, "empty_room")]


def _subject(number: int) -> str:
    return f"sub-CC{110000 + 33 * number}"


def _path(number: int, folder: str, ending: str) -> str:
    return f"{_COHORT}/{_subject(number)}/{folder}/{_subject(number)}{ending}"


def _trials(duration_s: float, rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Codes (event, 2): a picture with a tone every 4 s or so and a button press after it; spans of trials in s."""
    events: list[tuple[float, int]] = []
    spans = []
    at = 2.0
    while at + 3 < duration_s:
        press = at + rng.uniform(0.35, 0.6)
        events += [(at, int(rng.choice(list(_TONES)))), (press, _BUTTON)]
        spans.append((at, press + 0.8))
        at += rng.uniform(3.2, 5.0)
    samples = np.round(np.array([onset for onset, _ in events]) * _SFREQ_HZ).astype(np.int64)
    return np.stack([samples, np.array([code for _, code in events])], axis=1), spans


def _table(events: np.ndarray | None, seed: int) -> list[list[str]]:
    """Rows of ``_events.tsv`` with the gaps that the archive's tables have."""
    if events is None:
        return []
    rng = np.random.default_rng([seed, 5])
    rows = [["onset", "duration", "trial_type", "value"]]
    for number, (sample, code) in enumerate(events):
        duration = "n/a" if code == _BUTTON else "0.3"
        # The first value of a table is known: a gap takes the value above it.
        value = "n/a" if code == _BUTTON and number > 1 and rng.random() < 0.1 else str(code)
        rows.append([f"{sample / _SFREQ_HZ:.4f}", duration, _TONES.get(int(code), "button"), value])
    return rows
