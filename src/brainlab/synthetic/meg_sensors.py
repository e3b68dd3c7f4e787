"""Where the sensors of simulated MEG are and what they see: brain sources in a sphere, and fields from far away.

Positions, orientations and coil types of the CTF 275 and the Vectorview 306 are MNE's canonical ones. The brain is a
conducting sphere, whose field has a closed form (Sarvas 1987, Phys. Med. Biol. 32, eq. 25); a coil is taken as a point.
Everything from outside is a uniform field plus its five independent gradients, which reference sensors above the helmet
see too, so that gradient compensation removes exactly what it removes in real recordings.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float

from brainlab.errors import InvalidValue

__all__ = [
    "CORTEX_RADIUS",
    "HEAD_CENTRE",
    "SensorArray",
    "ctf_array",
    "environment",
    "head_to_device",
    "leadfield",
    "tangents",
    "vectorview_array",
]

HEAD_CENTRE = np.array([0.0, 0.0, 0.04])
"""Middle of the conducting sphere in head coordinates, m."""

CORTEX_RADIUS = 0.07
"""Distance of the sources from it, m."""

_MU0_4PI = 1e-7
_AXIAL, _PLANAR, _MAGNETOMETER = 5001, 3012, 3024
_REF_MAGNETOMETER, _REF_DIAGONAL, _REF_OFF_DIAGONAL = 5002, 5003, 5004
_BASELINE = {_AXIAL: 0.05, _PLANAR: 0.0168, _REF_DIAGONAL: 0.0786, _REF_OFF_DIAGONAL: 0.0786}
_HELMET_CENTRE = {"ctf": np.array([0.0, -0.004, -0.019]), "vectorview": np.array([0.0, 0.015, -0.011])}
_REFERENCES = (
    *(("BG1", _REF_MAGNETOMETER, 0, 0), ("BG2", _REF_MAGNETOMETER, 1, 1), ("BG3", _REF_MAGNETOMETER, 2, 2)),
    *(("G11", _REF_DIAGONAL, 0, 0), ("G12", _REF_OFF_DIAGONAL, 0, 1), ("G13", _REF_OFF_DIAGONAL, 0, 2)),
    *(("G22", _REF_DIAGONAL, 1, 1), ("G23", _REF_OFF_DIAGONAL, 1, 2)),
)
"""Name, coil, axis of the coil, axis of the difference."""


@dataclass(frozen=True)
class SensorArray:
    """Some sensors of one system.

    Attributes:
        system: "ctf" or "vectorview".
        names: as the system's files write them.
        coils: MNE's coil types.
        loc: position (m, device coordinates) and the three axes of the coil, as MNE keeps them.
        noise: white noise of a sensor in its unit per √Hz.
    """

    system: str
    names: tuple[str, ...]
    coils: tuple[int, ...]
    loc: Float[np.ndarray, "sensor 12"]
    noise: Float[np.ndarray, " sensor"]

    @property
    def is_reference(self) -> np.ndarray:
        """(sensor) bool."""
        return np.isin(self.coils, [_REF_MAGNETOMETER, _REF_DIAGONAL, _REF_OFF_DIAGONAL])

    @property
    def kinds(self) -> list[str]:
        """MNE's channel types."""
        planar = np.array(self.coils) == _PLANAR
        return ["ref_meg" if ref else "grad" if p else "mag" for ref, p in zip(self.is_reference, planar, strict=True)]

    def apply_to(self, chs: list[dict[str, Any]]) -> None:
        """Write coil, place and unit into the channel entries of an MNE info, in the order of the names."""
        from mne.io.constants import FIFF

        for entry, coil, loc, kind in zip(chs, self.coils, self.loc, self.kinds, strict=False):
            entry["coil_type"] = coil
            entry["loc"] = loc.copy()
            entry["coord_frame"] = FIFF.FIFFV_COORD_DEVICE
            entry["kind"] = FIFF.FIFFV_REF_MEG_CH if kind == "ref_meg" else FIFF.FIFFV_MEG_CH
            entry["unit"] = FIFF.FIFF_UNIT_T_M if kind == "grad" else FIFF.FIFF_UNIT_T


@lru_cache
def _canonical(system: str) -> tuple[tuple[str, ...], tuple[int, ...], np.ndarray]:
    import mne

    if not hasattr(mne.channels, "read_meg_canonical_info"):
        raise InvalidValue("mne", mne.__version__, "expected MNE 1.12 or newer, which knows where MEG sensors are")
    info = mne.channels.read_meg_canonical_info(system, verbose="error")
    loc = np.array([entry["loc"] for entry in info["chs"]], dtype=float)
    return tuple(info["ch_names"]), tuple(int(entry["coil_type"]) for entry in info["chs"]), loc


def ctf_array(n_sensors: int, serial: str) -> SensorArray:
    """Axial gradiometers spread over the CTF 275 helmet, and eight reference sensors above it.

    Args:
        n_sensors: how many gradiometers.
        serial: what follows the dash in every name, as in MLC11-1609.
    """
    names, coils, loc = _canonical("ctf275")
    chosen = _spread(loc[:, :3], n_sensors)
    centre = np.array([0.0, 0.0, 0.19])
    axes = np.eye(3)
    reference = []
    for _, _, along, across in _REFERENCES:
        # The middle axis completes a right-handed frame; the first is the direction of the difference.
        first = axes[across] if across != along else axes[(along + 1) % 3]
        reference.append(np.concatenate([centre, first, np.cross(axes[along], first), axes[along]]))
    return SensorArray(
        system="ctf",
        names=tuple(
            f"{name.split('-')[0]}-{serial}" for name in (*(r[0] for r in _REFERENCES), *np.take(names, chosen))
        ),
        coils=(*(r[1] for r in _REFERENCES), *(coils[k] for k in chosen)),
        loc=np.vstack([reference, loc[chosen]]),
        noise=np.r_[np.full(len(_REFERENCES), 10e-15), np.full(n_sensors, 5e-15)],
    )


def vectorview_array(n_triplets: int) -> SensorArray:
    """Two planar gradiometers and a magnetometer at each of ``n_triplets`` places of the Vectorview 306 helmet."""
    names, coils, loc = _canonical("neuromag")
    plates = {name[:-1]: loc[k, :3] for k, name in enumerate(names)}
    chosen = _spread(np.array(list(plates.values())), n_triplets)
    wanted = {list(plates)[k] for k in chosen}
    rows = [k for k, name in enumerate(names) if name[:-1] in wanted]
    rows.sort(key=lambda k: names[k])
    planar = np.array([coils[k] == _PLANAR for k in rows])
    return SensorArray(
        system="vectorview",
        names=tuple(names[k].replace(" ", "") for k in rows),
        coils=tuple(coils[k] for k in rows),
        loc=loc[rows],
        noise=np.where(planar, 2.5e-13, 3.0e-15),
    )


def head_to_device(
    system: str, turn_rad: Float[np.ndarray, " axis"], shift_m: Float[np.ndarray, " axis"]
) -> np.ndarray:
    """(4, 4) transform of a head that sits in the middle of the helmet, but for a small turn and shift."""
    x, y, z = turn_rad
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    transform = np.eye(4)
    transform[:3, :3] = about_z @ about_y @ about_x
    transform[:3, 3] = _HELMET_CENTRE[system] + shift_m - transform[:3, :3] @ HEAD_CENTRE
    return transform


def leadfield(
    array: SensorArray, place: Float[np.ndarray, "source 3"], to_device: Float[np.ndarray, "4 4"]
) -> Float[np.ndarray, "sensor source"]:
    """What each sensor measures of a tangential unit dipole (1 A·m) at each place; 0 for reference sensors.

    Args:
        array: the sensors.
        place: unit vectors from the middle of the head.
        to_device: head → device coordinates.
    """
    rotation, middle = to_device[:3, :3], to_device[:3, :3] @ HEAD_CENTRE + to_device[:3, 3]
    sources = CORTEX_RADIUS * place @ rotation.T
    moments = tangents(place) @ rotation.T
    gains = _read_out(array, lambda points: _sphere_field(points - middle, sources, moments))
    gains[array.is_reference] = 0.0
    return gains


def tangents(place: Float[np.ndarray, "source 3"]) -> Float[np.ndarray, "source 3"]:
    """Directions of the dipoles: neighbours point alike, so that a patch has the smooth topography of a gyrus."""
    tangent = np.cross(place, np.array([0.3, 1.0, 0.2]))
    return tangent / np.linalg.norm(tangent, axis=1, keepdims=True)


def environment(array: SensorArray) -> Float[np.ndarray, "sensor 8"]:
    """What each sensor measures of a uniform field (1 T, along three axes) and of its five gradients (1 T/m)."""
    gradients = np.zeros((5, 3, 3))
    gradients[0, 0, 0], gradients[0, 2, 2] = 1, -1
    gradients[1, 1, 1], gradients[1, 2, 2] = 1, -1
    for number, (i, j) in enumerate(((0, 1), (0, 2), (1, 2))):
        gradients[2 + number, i, j] = gradients[2 + number, j, i] = 1

    def field(points: np.ndarray) -> np.ndarray:
        uniform = np.broadcast_to(np.eye(3), (len(points), 3, 3))
        return np.concatenate([uniform, np.einsum("kij,nj->nik", gradients, points)], axis=2)

    return _read_out(array, field)


def _read_out(array: SensorArray, field: Any) -> np.ndarray:
    """``field(points) -> (point, 3, column)`` through the coils of every sensor."""
    centre, first, normal = array.loc[:, :3], array.loc[:, 3:6], array.loc[:, 9:12]
    coils = np.array(array.coils)
    baseline = np.array([_BASELINE.get(coil, 0.0) for coil in array.coils])[:, None]
    planar = np.isin(coils, [_PLANAR, _REF_OFF_DIAGONAL])[:, None]
    axial, diagonal = (coils == _AXIAL)[:, None], (coils == _REF_DIAGONAL)[:, None]
    plus = centre + np.where(planar, baseline / 2 * first, np.where(diagonal, baseline / 2 * normal, 0.0))
    minus = np.where(axial, centre + baseline * normal, 2 * centre - plus)
    value = np.einsum("nik,ni->nk", field(plus), normal)
    other = np.einsum("nik,ni->nk", field(minus), normal)
    value = np.where(baseline > 0, value - other, value)
    return np.where((coils == _PLANAR)[:, None], value / _BASELINE[_PLANAR], value)


def _sphere_field(points: np.ndarray, sources: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """(point, 3, source) in T: dipoles in a conducting sphere around the origin."""
    r, r0 = points[:, None], sources[None]
    a = r - r0
    a_abs, r_abs = np.linalg.norm(a, axis=2), np.linalg.norm(r, axis=2)
    along = (a * r).sum(2) / a_abs
    f = a_abs * (r_abs * a_abs + r_abs**2 - (r0 * r).sum(2))
    grad = (a_abs**2 / r_abs + along + 2 * a_abs + 2 * r_abs)[..., None] * r - (a_abs + 2 * r_abs + along)[
        ..., None
    ] * r0
    cross = np.cross(moments, sources)[None]
    field = (f[..., None] * cross - (cross * r).sum(2)[..., None] * grad) / f[..., None] ** 2
    return _MU0_4PI * field.transpose(0, 2, 1)


def _spread(points: np.ndarray, n: int) -> np.ndarray:
    """Rows of ``n`` points as far from each other as a greedy choice makes them, sorted."""
    if not 0 < n <= len(points):
        raise InvalidValue("n_sensors", n, f"expected 1 to {len(points)}")
    chosen = [int(points[:, 2].argmax())]
    distance = np.linalg.norm(points - points[chosen[0]], axis=1)
    while len(chosen) < n:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return np.sort(chosen)
