"""Writes the raw layout of Cam-CAN with planted activity: rest and a sensorimotor task, Vectorview 306, 50 Hz mains.

Around every trial of the task, alpha, mu and beta are weaker. Fine calibration and crosstalk of the system lie beside
the tree of subjects, as MaxFilter's users keep them.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from brainlab.datasets.camcan import CALIBRATION, CROSSTALK
from brainlab.synthetic.meg_archive import SimulatedArchive
from brainlab.synthetic.meg_sensors import vectorview_array
from brainlab.synthetic.meg_side_files import write_calibration, write_crosstalk
from brainlab.synthetic.meg_tree import Quirk, Scanner, SessionPlan, TreeSize, smooth_boxes

__all__ = ["SimulatedCamCan"]

_SFREQ_HZ = 250.0
_COHORT = "cc700"
_TONES = {6: "audiovis_300Hz", 7: "audiovis_600Hz", 8: "audiovis_1200Hz"}
_BUTTON = 4096


def _subject(number: int) -> str:
    return f"sub-CC{110000 + 33 * number}"


def _path(number: int, folder: str, name: str) -> str:
    return f"{_COHORT}/{_subject(number)}/{folder}/{name}_meg.fif"


class SimulatedCamCan(SimulatedArchive):
    """Cam-CAN's tree with simulated people in it: every third one does the task, the others rest.

    Args:
        seed: same seed, same files.
    """

    name, title, tree = "camcan", "Cam-CAN", _COHORT
    sizes: ClassVar = {"tiny": TreeSize(4, 75.0, 24), "default": TreeSize(20, 120.0, 48)}
    empty_room = SessionPlan(
        _path(1, "ses-rest/emptyroom", f"emptyroom_{_subject(1)[4:]}"), 1, "emptyroom", 10.0, "empty_room"
    )
    reads = ("datasets/camcan.py",)

    def write(self, folder: Path | str, size: Literal["tiny", "default"] = "default") -> list[Path]:
        """Write the tree and, beside it, fine calibration and crosstalk; see :meth:`SimulatedArchive.write`."""
        paths, root = super().write(folder, size), Path(folder)
        array = self._scanner(self.sizes[size].n_sensors).array
        write_calibration(root / CALIBRATION, array)
        write_crosstalk(root / CROSSTALK, array)
        # BIDS keeps a copy in a subject's folder, under a name that looks like a recording's.
        shutil.copyfile(root / CROSSTALK, paths[0].with_name(f"{_subject(1)}_ses-rest_acq-crosstalk_meg.fif"))
        return paths

    def _scanner(self, n_sensors: int) -> Scanner:
        return Scanner(self.name, 3, vectorview_array(n_sensors // 3), _SFREQ_HZ, 50.0, "STI101")

    def _session(self, number: int, quirk: Quirk, duration_s: float) -> SessionPlan:
        task = "smt" if number % 3 == 2 and not quirk else "rest"
        events = condition = None
        if task == "smt":
            events, spans = _trials(duration_s, np.random.default_rng([self.seed, 3, number, 4]))
            condition = smooth_boxes(spans, duration_s, _SFREQ_HZ)
        path = _path(number, f"ses-{task}/meg", f"{_subject(number)}_ses-{task}_task-{task}")
        return SessionPlan(path, number, task, duration_s, quirk, events, condition)

    def _events_table(self, session: SessionPlan) -> list[list[str]]:
        return _table(session.events, self.seed + session.number)


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
