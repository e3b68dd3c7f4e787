"""Canonical layouts: two systems never share a channel, absent rows are zero and marked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from brainlab.data.layout import (
    CanonicalStore,
    PlanarSensors,
    canonical_layout,
    channel_sets,
    position_layout,
)
from brainlab.errors import InvalidValue
from brainlab.io.legacy_chunk_writer import write_chunks
from brainlab.io.legacy_chunks import convert_chunk_tree
from brainlab.io.recording import Channel
from brainlab.io.store import Store, StoreWriter


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict:
    return json.loads((golden_dir / "meg/04_datasplitter.json").read_text())


def planar(golden: dict):
    return position_layout(
        [
            PlanarSensors(entry["ch_names"], entry["pos_2d"], entry["ch_types"], entry["pos_3d"], entry["ori_3d"])
            for entry in golden["tree"]
        ]
    )


def test_position_keyed_layout_is_the_golden_one(golden: dict) -> None:
    found, known = planar(golden), golden["layout"]
    assert list(found.names) == known["names"]
    assert list(found.types) == known["types"]
    np.testing.assert_allclose(found.pos_2d, known["pos_2d"], atol=1e-6)
    np.testing.assert_allclose(found.ori_3d, known["ori_3d"], atol=1e-6)
    # The reference divides the first place by sightings that have none; ours is the mean over those that have one.
    np.testing.assert_allclose(found.pos_3d[1:], known["pos_3d"][1:], atol=1e-6)
    np.testing.assert_allclose(found.pos_3d[0], np.array(known["pos_3d"][0]) * 12 / 8, atol=1e-5)
    keys = [f"{entry['dataset']}/{entry['session']}" for entry in golden["tree"]]
    assert {key: places.tolist() for key, places in zip(keys, found.places, strict=True)} == golden[
        "session_channel_map"
    ]


def test_an_item_of_the_golden_tree_is_exact(golden: dict, golden_dir: Path) -> None:
    known = np.load(golden_dir / "meg/04_sample_item.npz", allow_pickle=False)
    dataset, session, _, start = (str(word) for word in known["index"])
    number = next(
        n for n, e in enumerate(golden["tree"]) if (e["dataset"], e["session"]) == (dataset, session)
    )  # fmt: skip
    layout = planar(golden)
    window = known["chunk"][:, int(start) : int(start) + 100]
    np.testing.assert_array_equal(layout.place(window, number), known["x"])
    np.testing.assert_array_equal(np.asarray(layout.types), known["ch_type"])
    np.testing.assert_allclose(layout.pos_2d, known["pos"], atol=1e-6)


def written(folder: Path, entries: list[tuple[str, str, list[Channel]]]) -> Store:
    with StoreWriter(folder) as writer:
        for number, (name, system, channels) in enumerate(entries):
            samples = np.arange(len(channels) * 50, dtype=np.float32).reshape(len(channels), 50) + 1000 * (number + 1)
            writer.add_session(name, samples, 10.0, channels, attrs={"system": system})
    return Store(folder)


def test_two_systems_share_no_channel_and_jitter_makes_no_duplicates(tmp_path: Path) -> None:
    place = (0.1, 0.2, 0.3)
    near = (0.104, 0.2, 0.3)
    store = written(
        tmp_path,
        [
            ("a", "ctf275", [Channel("MLC11-2908", "mag", place, (0, 0, 1.0)), Channel("MLC12-2908", "mag", place)]),
            ("b", "ctf275", [Channel("MLC12-4408", "mag", place), Channel("MLC11-4408", "mag", near, (0, 0.6, 0.8))]),
            ("c", "vectorview306", [Channel("MLC11", "mag", place), Channel("MLC12", "grad", place)]),
        ],
    )
    layout = canonical_layout(store.sessions)
    assert [channel.name for channel in layout.channels] == [
        "ctf275:MLC11", "ctf275:MLC12", "vectorview306:MLC11", "vectorview306:MLC12",
    ]  # fmt: skip
    assert [places.tolist() for places in layout.places] == [[0, 1], [1, 0], [2, 3]]
    assert layout.channels[0].position == pytest.approx((0.102, 0.2, 0.3))
    assert np.linalg.norm(layout.channels[0].orientation) == pytest.approx(1.0)
    assert layout.channels[1].orientation is None
    assert layout.present(2).tolist() == [False, False, True, True]
    assert channel_sets(store.sessions) == [0, 1, 2]


def test_windows_of_several_sets_come_in_one_order_with_zeros_where_nothing_is(tmp_path: Path) -> None:
    store = written(
        tmp_path,
        [
            ("a", "eeg", [Channel("Cz"), Channel("Pz")]),
            ("b", "eeg", [Channel("Oz"), Channel("Cz")]),
            ("c", "eeg", [Channel("Cz"), Channel("Pz")]),
        ],
    )
    seen = CanonicalStore(store, canonical_layout(store.sessions))
    batch = seen.gather(np.array([1, 0, 2, 1]), np.array([3, 0, 7, 9]), 5)
    assert batch.shape == (4, 3, 5)
    for window, session, start in zip(batch, (1, 0, 2, 1), (3, 0, 7, 9), strict=True):
        raw = store.read(session, start, 5)
        for name, row in zip(["Cz", "Pz", "Oz"], window, strict=True):
            names = store.sessions[session].ch_names
            np.testing.assert_array_equal(row, raw[names.index(name)] if name in names else np.zeros(5))


def test_one_name_for_two_electrodes_is_refused_or_kept_apart_but_never_averaged(tmp_path: Path) -> None:
    vertex, ear, near = (0.0, 0.0, 0.1), (-0.08, 0.0, 0.0), (0.01, 0.01, 0.1)
    store = written(
        tmp_path,
        [
            ("biosemi", "eeg", [Channel("A1", "eeg", vertex), Channel("Cz", "eeg", vertex)]),
            ("other_head", "eeg", [Channel("A1", "eeg", near), Channel("Cz", "eeg")]),
            ("ears", "eeg", [Channel("A1", "eeg", ear), Channel("Cz", "eeg", near)]),
        ],
    )
    with pytest.raises(InvalidValue, match=r"channel=A1: .* 13 cm apart in biosemi and ears .*data\.layout=separate"):
        canonical_layout(store.sessions)
    layout = canonical_layout(store.sessions, merge=False)
    assert [channel.name for channel in layout.channels] == ["eeg:A1", "Cz", "eeg:A1#2"]
    assert layout.channels[2].position == pytest.approx(ear)
    assert [places.tolist() for places in layout.places] == [[0, 1], [0, 1], [2, 1]]
    assert channel_sets(store.sessions) == [0, 0, 1]
    assert canonical_layout(store.sessions[:2]).channels[0].position == pytest.approx((0.005, 0.005, 0.1))


@pytest.mark.parametrize(
    ("system", "kind", "n_channels"),
    [
        ("ctf275", "mag", 1), ("vectorview306", "grad", 1), ("neuromag122", "grad", 1), ("artemis123", "mag", 1),
        ("ctf275", "eeg", 2), ("eeg", "seeg", 2), ("opm", "mag", 2), ("kit", "mag", 2), ("bti", "mag", 2),
        ("meg", "mag", 2), ("other", "ref_meg", 2), ("eeg", "eog", 1), ("other", "parcel", 1),
    ],
)  # fmt: skip
def test_places_count_only_where_the_name_does_not_tell_the_sensor(
    tmp_path: Path, system: str, kind: str, n_channels: int
) -> None:
    channels = [[Channel("A1", kind, (0.0, 0.0, z))] for z in (0.05, 0.09)]
    store = written(tmp_path, [("a", system, channels[0]), ("b", system, channels[1])])
    assert canonical_layout(store.sessions, merge=False).n_channels == n_channels
    assert len(set(channel_sets(store.sessions))) == n_channels
    if n_channels == 1:
        assert canonical_layout(store.sessions).channels[0].position == pytest.approx((0.0, 0.0, 0.07))
    else:
        with pytest.raises(InvalidValue, match=r"channel=A1: .* 4 cm apart in a and b"):
            canonical_layout(store.sessions)


def test_a_magnetometer_and_a_gradiometer_of_one_name_are_two_channels(tmp_path: Path) -> None:
    mag, grad = (Channel("A1", "mag", sensor=sensor) for sensor in ("magnetometer", "axial gradiometer"))
    entries = [("wh2500", "bti", [mag]), ("wh3600", "bti", [grad]), ("unknown", "bti", [Channel("A1", "mag")])]
    store = written(tmp_path, entries)
    layout = canonical_layout(store.sessions)
    assert [(channel.name, channel.kind, channel.sensor) for channel in layout.channels] == [
        ("bti:A1 (magnetometer)", "mag", "magnetometer"),
        ("bti:A1 (axial gradiometer)", "mag", "axial gradiometer"),
        ("bti:A1 (mag)", "mag", ""),
    ]
    assert channel_sets(store.sessions) == [0, 1, 2]


def test_what_a_file_says_of_electrodes_beyond_their_kind_makes_no_second_channel(tmp_path: Path) -> None:
    store = written(tmp_path, [("a", "eeg", [Channel("Cz", sensor="electrode")]), ("b", "eeg", [Channel("Cz")])])
    assert canonical_layout(store.sessions).n_channels == 1


@pytest.mark.parametrize("merge", [True, False])
def test_imported_chunks_of_two_helmets_are_one_layout_without_duplicates(
    golden: dict, tmp_path: Path, merge: bool
) -> None:
    for entry in golden["tree"]:
        folder = tmp_path / entry["dataset"] / entry["session"]
        data = np.ones((len(entry["ch_names"]), sum(entry["lengths"])))
        places = {key: entry[key] for key in ("pos_3d", "ori_3d") if entry[key] is not None}
        write_chunks(folder, data, 100.0, entry["ch_names"], entry["ch_types"], entry["pos_2d"], extra=places)
    sessions = []
    for dataset in ("alpha", "beta"):
        convert_chunk_tree(tmp_path / dataset, tmp_path / f"store_{dataset}")
        sessions += Store(tmp_path / f"store_{dataset}").sessions
    layout = canonical_layout(sessions, merge=merge)
    assert [(system, channel.name) for system, channel in zip(layout.systems, layout.channels, strict=True)] == [
        *(("ctf275", name) for name in golden["tree"][0]["ch_names"]),
        ("vectorview306", "MEG0111"), ("vectorview306", "MEG0112"),
    ]  # fmt: skip
    assert [channel.kind for channel in layout.channels[-2:]] == ["mag", "grad"]
    assert [channel.sensor for channel in layout.channels] == [
        *["axial gradiometer"] * 5, "magnetometer", "planar gradiometer",
    ]  # fmt: skip


def test_a_name_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    store = written(tmp_path, [("a", "eeg", [Channel("Cz"), Channel("Cz")])])
    with pytest.raises(InvalidValue, match=r"channel=Cz: expected every name once \(a\)"):
        canonical_layout(store.sessions)
