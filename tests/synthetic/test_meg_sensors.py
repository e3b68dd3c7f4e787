"""What simulated sensors see agrees with physics as MNE computes it."""

from __future__ import annotations

import numpy as np
import pytest

from brainlab.errors import InvalidValue
from brainlab.synthetic.meg_sensors import (
    CORTEX_RADIUS,
    HEAD_CENTRE,
    SensorArray,
    ctf_array,
    environment,
    head_to_device,
    leadfield,
    tangents,
    vectorview_array,
)
from brainlab.synthetic.meg_sources import cortex

mne = pytest.importorskip("mne")


@pytest.mark.parametrize("array", [ctf_array(20, "1609"), vectorview_array(7)], ids=["ctf", "vectorview"])
def test_the_leadfield_is_that_of_a_sphere_in_mne(array: SensorArray) -> None:
    to_device = head_to_device(array.system, np.array([0.05, -0.02, 0.1]), np.array([0.002, -0.003, 0.001]))
    place = cortex(12)
    ours = leadfield(array, place, to_device)[~array.is_reference]
    info = mne.create_info(list(array.names), 100.0, array.kinds)
    array.apply_to(info["chs"])
    with info._unlock():
        info["dev_head_t"] = mne.Transform("meg", "head", np.linalg.inv(to_device))
    info = mne.pick_info(info, np.flatnonzero(~array.is_reference))
    sphere = mne.make_sphere_model(HEAD_CENTRE, head_radius=None, verbose="error")
    inside = {"rr": CORTEX_RADIUS * place + HEAD_CENTRE, "nn": tangents(place)}
    source = mne.setup_volume_source_space(pos=inside, sphere_units="m", verbose="error")
    forward = mne.make_forward_solution(info, None, source, sphere, eeg=False, mindist=0, verbose="error")
    theirs = np.einsum("ckj,kj->ck", forward["sol"]["data"].reshape(len(ours), len(place), 3), tangents(place))
    # A coil of two centimetres is not a point, but nearly so at this distance.
    for kind in set(array.kinds) - {"ref_meg"}:
        rows = np.array([k == kind for k in array.kinds])[~array.is_reference]
        error = np.linalg.norm(ours[rows] - theirs[rows]) / np.linalg.norm(theirs[rows])
        assert error < 0.06, kind


def test_ctf_names_carry_the_serial_and_references_come_first() -> None:
    array = ctf_array(24, "1609")
    assert array.names[0] == "BG1-1609"
    assert array.kinds == ["ref_meg"] * 8 + ["mag"] * 24
    assert len(set(array.names)) == 32
    assert all(name.startswith("M") and name.endswith("-1609") for name in array.names[8:])


def test_two_subsets_of_a_helmet_share_their_names() -> None:
    assert {n.split("-")[0] for n in ctf_array(24, "1609").names} < {n.split("-")[0] for n in ctf_array(48, "4").names}


def test_vectorview_names_come_in_complete_triplets() -> None:
    array = vectorview_array(5)
    assert len(array.names) == 15
    plates = {name[:-1] for name in array.names}
    assert {name for plate in plates for name in (f"{plate}1", f"{plate}2", f"{plate}3")} == set(array.names)
    assert [kind for kind, name in zip(array.kinds, array.names, strict=True) if name.endswith("1")] == ["mag"] * 5


def test_references_determine_the_surroundings_and_gradiometers_do_not_see_a_uniform_field() -> None:
    array = ctf_array(24, "1609")
    outside = environment(array)
    assert np.linalg.matrix_rank(outside[:8]) == 8
    np.testing.assert_allclose(outside[3:, :3], 0, atol=1e-12)
    magnetometers = np.array(vectorview_array(5).kinds) == "mag"
    assert np.abs(environment(vectorview_array(5))[magnetometers, :3]).max() > 0.5


def test_more_sensors_than_there_are_is_refused() -> None:
    with pytest.raises(InvalidValue, match="expected 1 to 274"):
        ctf_array(275, "1")
