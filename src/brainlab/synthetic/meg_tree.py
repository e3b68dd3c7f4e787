"""Writes a tree of simulated MEG recordings: planted activity through sensors, with everything that spoils real files.

A recording is ``leadfield @ sources + environment + sensor noise + drift``; the environment (slow fields and mains
hum) reaches the reference sensors too. Two channels of each recording are bad (one dead, one noisy), one burst of
muscle-like noise hits some sensors in its first seconds, ``first_samp`` is not zero, and the codes on the trigger
channel are those of the saved plan. ``planted.json`` keeps every parameter, ``planted/<name>.npz`` leadfields, events
and conditions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from numpy.random import Generator
from scipy.signal import lfilter

from brainlab.errors import InvalidFile, InvalidValue
from brainlab.synthetic.meg_sensors import SensorArray, environment, head_to_device, leadfield
from brainlab.synthetic.meg_sources import OSCILLATORS, Sources, cortex, session_sources

__all__ = [
    "Scanner",
    "SessionPlan",
    "TreeSize",
    "check_size",
    "planted_sources",
    "read_planted",
    "smooth_boxes",
    "write_tree",
]

Quirk = Literal["", "bads", "short", "empty_room"]

_DIPOLE = 8e-9  # A·m per standard deviation of activity
_TURN_RAD, _SHIFT_M = 0.06, 0.004
_HUM_T, _SLOW_T = 4e-12, 3e-12
_GRADIENT_PER_FIELD = 3.0  # 1/m; what comes from some metres away is nearly uniform
_BURST_S, _BURST_GAIN = 2.5, 25.0
_NOISY_GAIN = 10.0
_PULSE_S = 0.06
_BAD_SHARE = 0.2


@dataclass(frozen=True)
class TreeSize:
    """How much is simulated.

    Attributes:
        n_subjects: people whose recording is usable, one each.
        duration_s: length of a usable recording.
        n_sensors: MEG channels without references.
    """

    n_subjects: int
    duration_s: float
    n_sensors: int


@dataclass(frozen=True)
class Scanner:
    """What makes the recordings of one laboratory.

    Attributes:
        key: number of the data set, part of every seed.
        line_hz: mains frequency.
        stim: name of the trigger channel.
    """

    dataset: str
    key: int
    array: SensorArray
    sfreq_hz: float
    line_hz: float
    stim: str


@dataclass(frozen=True)
class SessionPlan:
    """One recording to write.

    Attributes:
        path: below the root of the tree.
        number: number of the person, part of the seed.
        task: what the person does.
        duration_s: length.
        quirk: what is wrong with it.
        events: (event, 2) sample from the first one, and code.
        condition: 0 to 1 at every sample, how much of a task holds; None at rest.
    """

    path: str
    number: int
    task: str
    duration_s: float
    quirk: Quirk = ""
    events: Int[np.ndarray, "event 2"] | None = None
    condition: Float[np.ndarray, " time"] | None = None

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.rsplit("/", 1)[-1].removesuffix(".fif")


def check_size(size: str, sizes: Mapping[str, TreeSize]) -> TreeSize:
    """The size called so.

    Raises:
        InvalidValue: if there is none.
    """
    if size not in sizes:
        raise InvalidValue("data.size", size, f"unknown; expected one of {', '.join(sizes)}")
    return sizes[size]


def smooth_boxes(
    spans_s: Sequence[tuple[float, float]], duration_s: float, sfreq_hz: float, edge_s: float = 0.3
) -> Float[np.ndarray, " time"]:
    """1 inside every span, 0 outside, with raised-cosine edges of ``edge_s`` around onset and end."""
    boxes = np.zeros(round(duration_s * sfreq_hz))
    for start_s, stop_s in spans_s:
        boxes[round(start_s * sfreq_hz) : round(stop_s * sfreq_hz)] = 1.0
    edge = np.hanning(round(edge_s * sfreq_hz) + 2)
    return np.clip(np.convolve(boxes, edge / edge.sum(), mode="same"), 0.0, 1.0)


def write_tree(root: Path, scanner: Scanner, plans: Sequence[SessionPlan], seed: int) -> list[Path]:
    """Write every planned recording and its ground truth.

    Returns:
        the recordings' paths, in the order of the plans.
    """
    root.mkdir(parents=True, exist_ok=True)
    (root / "planted").mkdir(exist_ok=True)
    sessions = {plan.name: _write_session(root, scanner, plan, seed) for plan in plans}
    facts = {
        "dataset": scanner.dataset,
        "seed": seed,
        "sfreq_hz": scanner.sfreq_hz,
        "line_hz": scanner.line_hz,
        "dipole_am": _DIPOLE,
        "oscillators": [asdict(rhythm) for rhythm in OSCILLATORS],
        "sessions": sessions,
    }
    (root / "planted.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    return [root / plan.path for plan in plans]


def read_planted(root: Path | str) -> dict[str, Any]:
    """The ground truth that :func:`write_tree` saved.

    Raises:
        InvalidFile: if there is none.
    """
    path = Path(root) / "planted.json"
    if not path.is_file():
        raise InvalidFile("planted", path, "expected the ground truth of a simulated tree")
    return json.loads(path.read_text(encoding="utf-8"))


def planted_sources(root: Path | str, name: str) -> Sources:
    """The sources of one recording of a simulated tree: their spectra, their linear model, and further draws of them.

    Raises:
        InvalidFile: if the tree has no ground truth.
        InvalidValue: if it has no such recording.
    """
    facts = read_planted(root)
    if name not in facts["sessions"]:
        raise InvalidValue("session", name, f"expected one of {', '.join(facts['sessions'])}")
    return session_sources(facts["sessions"][name]["key"], facts["sfreq_hz"])


def _write_session(root: Path, scanner: Scanner, plan: SessionPlan, seed: int) -> dict[str, Any]:
    key = [seed, scanner.key, plan.number]
    rng = np.random.default_rng([*key, 3])
    n, array = round(plan.duration_s * scanner.sfreq_hz), scanner.array
    to_device = head_to_device(array.system, _TURN_RAD * rng.standard_normal(3), _SHIFT_M * rng.standard_normal(3))
    gains = _DIPOLE * leadfield(array, cortex(), to_device)
    sources = session_sources(key, scanner.sfreq_hz)
    if plan.quirk == "empty_room":
        brain = np.zeros((len(array.names), n))
    else:
        brain = gains @ sources.draw(n, rng, plan.condition)
    scale = brain.std(axis=1)  # 0 for reference sensors
    data = brain + environment(array) @ _outside(n, scanner, rng)
    data += array.noise[:, None] * np.sqrt(scanner.sfreq_hz / 2) * rng.standard_normal(data.shape)
    data += _drift(array, n, scanner.sfreq_hz, rng)
    bads, burst = {}, None
    if plan.quirk != "empty_room":
        # A short recording is too short and nothing else.
        burst = None if plan.quirk == "short" else _add_burst(data, scale, scanner.sfreq_hz, rng)
        bads = _spoil(data, array, scale, plan.quirk == "bads", rng)
    first_samp = int(rng.integers(20, 60) * scanner.sfreq_hz + rng.integers(1, 97))
    events = np.zeros((0, 2), np.int64) if plan.events is None else plan.events
    _save(root / plan.path, scanner, data, to_device, events, first_samp, plan.number)
    np.savez(
        root / "planted" / f"{plan.name}.npz",
        leadfield=gains[~array.is_reference],
        head_to_device=to_device,
        event_samples=events[:, 0],
        event_codes=events[:, 1],
        condition=np.zeros(0) if plan.condition is None else plan.condition.astype(np.float32),
    )
    facts = {
        "path": plan.path,
        "key": key,
        "task": plan.task,
        "duration_s": plan.duration_s,
        "first_samp": first_samp,
        "quirk": plan.quirk,
        "bads": bads,
        "burst_s": burst,
        "n_events": len(events),
    }
    return facts if plan.quirk == "empty_room" else {**facts, **sources.describe()}


def _outside(n: int, scanner: Scanner, rng: Generator) -> Float[np.ndarray, "8 time"]:
    """Uniform field (T) and gradients (T/m) of the surroundings: slow changes, mains hum and its first harmonic."""
    size = np.r_[np.ones(3), np.full(5, _GRADIENT_PER_FIELD)]
    keep = np.exp(-2 * np.pi * 0.1 / scanner.sfreq_hz)
    # Two poles: above 1 Hz, where the brain is listened to, next to nothing is left.
    slow = lfilter([(1 - keep) ** 2], [1, -2 * keep, keep**2], rng.standard_normal((8, n)) * np.sqrt(4 / (1 - keep)))
    field = _SLOW_T * size[:, None] * slow
    turn = 2 * np.pi * scanner.line_hz * np.arange(n) / scanner.sfreq_hz
    loudness = 1 + 0.1 * np.sin(2 * np.pi * 0.03 * np.arange(n) / scanner.sfreq_hz + rng.uniform(0, 2 * np.pi))
    for harmonic, share in ((1, 1.0), (2, 0.3)):
        if harmonic * scanner.line_hz >= scanner.sfreq_hz / 2:
            continue
        phase = rng.uniform(0, 2 * np.pi, (8, 1))
        amplitude = share * _HUM_T * size * rng.uniform(0.3, 1.0, 8)
        field += amplitude[:, None] * loudness * np.cos(harmonic * turn + phase)
    return field


def _drift(array: SensorArray, n: int, sfreq_hz: float, rng: Generator) -> Float[np.ndarray, "sensor time"]:
    """Offsets and slow wandering of each sensor for itself."""
    knots = max(int(n / sfreq_hz / 10) + 2, 3)
    walk = np.cumsum(rng.standard_normal((len(array.names), knots)), axis=1) + 5 * rng.standard_normal(
        (len(array.names), 1)
    )
    at = np.linspace(0, knots - 1, n)
    before = np.minimum(at.astype(int), knots - 2)
    share = (1 - np.cos(np.pi * (at - before))) / 2
    return 60 * array.noise[:, None] * (walk[:, before] * (1 - share) + walk[:, before + 1] * share)


def _add_burst(data: np.ndarray, scale: np.ndarray, sfreq_hz: float, rng: Generator) -> list[float]:
    """Muscle-like noise on half of the sensors; onset and end in s.

    It lies between the fifth and the tenth second, so that one long clean stretch is left behind it.
    """
    onset = float(rng.uniform(5.2, 7.2))
    start, stop = round(onset * sfreq_hz), round((onset + _BURST_S) * sfreq_hz)
    if stop > data.shape[1]:
        raise InvalidValue("duration_s", data.shape[1] / sfreq_hz, "expected at least 10 s")
    sensors = np.flatnonzero(scale > 0)
    hit = rng.choice(sensors, max(len(sensors) // 2, 1), replace=False)
    noise = rng.standard_normal((len(hit), stop - start))
    noise = np.diff(noise, axis=1, prepend=0) + 0.5 * noise
    data[hit, start:stop] += _BURST_GAIN * scale[hit, None] * np.hanning(stop - start) * noise
    return [round(onset, 4), round(onset + _BURST_S, 4)]


def _spoil(data: np.ndarray, array: SensorArray, scale: np.ndarray, many: bool, rng: Generator) -> dict[str, str]:
    """Make two channels bad, or a fifth of them; names and what is wrong."""
    sensors = np.flatnonzero(scale > 0)
    count = max(2, int(np.ceil(_BAD_SHARE * len(sensors)))) if many else 2
    planar = np.array(array.kinds) == "grad"
    bads = {}
    for number, row in enumerate(rng.choice(sensors, count, replace=False)):
        if number % 2:
            alike = scale[(scale > 0) & (planar == planar[row])]
            data[row] += _NOISY_GAIN * np.median(alike) * rng.standard_normal(data.shape[1])
        else:
            data[row] = 1e-3 * array.noise[row] * rng.standard_normal(data.shape[1])
        bads[array.names[row]] = "noisy" if number % 2 else "flat"
    return bads


def _save(
    path: Path,
    scanner: Scanner,
    data: np.ndarray,
    to_device: np.ndarray,
    events: np.ndarray,
    first_samp: int,
    number: int,
) -> None:
    import mne

    array = scanner.array
    info = mne.create_info([*array.names, scanner.stim], scanner.sfreq_hz, [*array.kinds, "stim"])
    array.apply_to(info["chs"])
    dig = mne.channels.make_dig_montage(
        nasion=[0, 0.1, 0], lpa=[-0.08, 0, 0], rpa=[0.08, 0, 0], hsp=_head_shape(), coord_frame="head"
    )
    info.set_montage(dig, on_missing="ignore", verbose="error")
    with info._unlock():
        info["dev_head_t"] = mne.Transform("meg", "head", np.linalg.inv(to_device))
        info["line_freq"] = scanner.line_hz
        if array.system == "ctf":
            info["comps"] = _compensation(array)
    trigger = np.zeros((1, data.shape[1]))
    width = round(_PULSE_S * scanner.sfreq_hz)
    for sample, code in events:
        trigger[0, sample : sample + width] = code
    raw = mne.io.RawArray(np.vstack([data, trigger]), info, first_samp=first_samp, verbose="error")
    raw.set_meas_date(datetime(2015, 1, 1, 9, tzinfo=UTC) + timedelta(days=number))
    path.parent.mkdir(parents=True, exist_ok=True)
    raw.save(path, fmt="single", overwrite=True, verbose="error")


def _compensation(array: SensorArray) -> list[dict[str, Any]]:
    """Gradient compensation of first and third grade: what the references say about the surroundings of a sensor."""
    outside = environment(array)
    reference = array.is_reference
    names = np.array(array.names)
    found = []
    for grade, kind in ((1, 0x47314252), (3, 0x47334252)):
        use = reference & (np.char.startswith(names, "G") | (grade == 3))
        weights = outside[~reference] @ np.linalg.pinv(outside[use])
        rows, columns = names[~reference].tolist(), names[use].tolist()
        table = {"nrow": len(rows), "ncol": len(columns), "row_names": rows, "col_names": columns, "data": weights}
        ones = {"rowcals": np.ones(len(rows)), "colcals": np.ones(len(columns))}
        found.append({"ctfkind": kind, "kind": grade, "save_calibrated": True, "data": table, **ones})
    return found


def _head_shape() -> np.ndarray:
    """Points on a head of 95 mm, as a digitiser pen takes them."""
    return cortex(60) * 0.095 + np.array([0.0, 0.0, 0.04])
