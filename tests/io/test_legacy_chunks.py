from __future__ import annotations

import os
import shutil
import sys

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from brainlab.errors import InvalidFile
from brainlab.io.legacy_chunk_reader import read_chunk_tree
from brainlab.io.legacy_chunk_writer import write_chunks
from brainlab.io.legacy_chunks import convert_chunk_tree, is_chunk_tree
from brainlab.io.store import Store

NAMES = ["MEG0111", "MEG0112", "MEG0113"]
POS_2D = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])


def save(path, content):
    box = np.empty((), dtype=object)
    box[()] = content
    path.parent.mkdir(parents=True, exist_ok=True)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)  # for entries of many levels
    try:
        np.save(path, box, allow_pickle=True)
    finally:
        sys.setrecursionlimit(limit)


def chunk(data, **entries):
    return {
        "data": data, "ch_names": NAMES, "ch_types": [1, 1, 1], "pos_2d": POS_2D, "session": "s", "sfreq": 10.0,
        **entries,
    }  # fmt: skip


@pytest.fixture
def tree(tmp_path):
    """Twelve chunks of sub-01, so that 10 comes after 9, and one of sub-02 with another set of channels."""
    rng = np.random.default_rng(0)
    data = rng.standard_normal((3, 235))
    codes = np.zeros(235, dtype=int)
    codes[15:45], codes[100], codes[230:] = 208, 3, 7
    extra = {"pos_3d": np.full((3, 3), 0.1), "ori_3d": np.tile([0.0, 0.0, 1.0], (3, 1)), "residual_scale": 1.0}
    root = tmp_path / "tree"
    write_chunks(
        root / "sub-01_ses-1_rest", data, 10.0, NAMES, [1, 1, 1], POS_2D, chunk_s=2.0, bad_channels=["MEG0113"],
        events=codes, extra=extra,
    )  # fmt: skip
    write_chunks(root / "sub-02_rest", data[:2], 10.0, ["A", "B"], ["mag", "parcel"], POS_2D[:2], chunk_s=60.0)
    (root / ".hidden").mkdir()
    (root / ".hidden/0.npy").write_bytes(b"nothing")
    (root / "empty").mkdir()
    np.save(root / "sub-01_ses-1_rest/0_events.npy", np.zeros(3))
    np.save(root / "sub-01_ses-1_rest/session_stats.npy", np.zeros(3))
    (root / "notes.txt").write_text("x")
    return root, data, codes


def test_sessions_chunks_and_borders_are_found_in_numeric_order(tree):
    root, data, _ = tree
    assert is_chunk_tree(root)
    assert not is_chunk_tree(root / "sub-02_rest")
    assert not is_chunk_tree(root / "nowhere")
    first, second = read_chunk_tree(root)
    assert [path.name for path in first.files] == [f"{number}.npy" for number in range(12)]
    assert first.segments == [[start, min(start + 20, 235)] for start in range(0, 235, 20)]
    assert second.segments == [[0, 235]]
    np.testing.assert_array_equal(first.read(0, 235)[:2], data[:2])
    np.testing.assert_array_equal(first.read(17, 63)[:2], data[:2, 17:63])
    np.testing.assert_array_equal(first.read(200, 221)[1], data[1, 200:221])
    assert first.bads == ("MEG0113",)
    assert not first.read(0, 235)[2].any()


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 90), length=st.integers(1, 40), ends=st.tuples(st.integers(0, 90), st.integers(0, 90)))
def test_any_stretch_of_any_chunking_is_the_data_that_was_written(tmp_path_factory, n, length, ends):
    root = tmp_path_factory.mktemp("any")
    data = np.arange(2.0 * n).reshape(2, n)
    codes = (np.arange(n) // 7) % 3
    write_chunks(root / "s", data, 1.0, ["a", "b"], ["mag"] * 2, np.zeros((2, 2)), chunk_s=length, events=codes)
    (session,) = read_chunk_tree(root)
    start, stop = (min(end, n) for end in sorted(ends))
    np.testing.assert_array_equal(session.read(start, stop), data[:, start:stop])
    assert session.segments == [[a, min(a + length, n)] for a in range(0, n, length)]
    again = np.zeros(n, dtype=int)
    for first, last, code in session.conditions():
        again[first:last] = code
    np.testing.assert_array_equal(again, codes)


def test_types_positions_and_directions_are_the_true_ones(tree):
    first, second = read_chunk_tree(tree[0])
    assert [channel.kind for channel in first.channels] == ["mag", "grad", "grad"]
    assert first.channels[0].position == (0.1, 0.1, 0.1)
    assert first.channels[0].orientation == (0.0, 0.0, 1.0)
    assert [channel.kind for channel in second.channels] == ["mag", "parcel"]
    assert second.channels[0].position is None
    assert first.facts["pos_2d"] == POS_2D.tolist()
    assert first.facts["residual_scale"] == 1.0


def test_a_vectorview_name_decides_the_type_whatever_number_the_file_gives(tmp_path):
    names = ["MEG0111", "MEG 0112", "MEG0113", "MEG01134", "EEG001"]
    write_chunks(tmp_path / "s", np.ones((5, 8)), 10.0, names, [2, 2, 502, 1, 2], np.zeros((5, 2)))
    (session,) = read_chunk_tree(tmp_path)
    assert [channel.kind for channel in session.channels] == ["mag", "grad", "grad", "mag", "eeg"]
    assert [channel.sensor for channel in session.channels] == [
        "magnetometer", "planar gradiometer", "planar gradiometer", "", "electrode",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "types", "system"),
    [
        (["MLC11", "MRT21-2908", "EEG001"], [1, 1, 2], "ctf275"),
        (["MEG0111", "MEG0112"], [1, 2], "vectorview306"),
        (["MLC11", "MEG0111"], [1, 1], ""),
        (["A1", "MLC11"], [1, 1], ""),
        (["Cz", "Pz"], [2, 2], ""),
    ],
)  # fmt: skip
def test_names_tell_the_system_where_all_magnetic_sensors_agree(tmp_path, names, types, system):
    write_chunks(tmp_path / "tree/s", np.ones((len(names), 8)), 10.0, names, types, np.zeros((len(names), 2)))
    convert_chunk_tree(tmp_path / "tree", tmp_path / "store")
    assert Store(tmp_path / "store").sessions[0].attrs["system"] == system


def test_a_store_keeps_borders_events_and_bads_apart_from_the_samples(tree, tmp_path):
    root, data, _ = tree
    rows = convert_chunk_tree(root, tmp_path / "store")
    store = Store(tmp_path / "store")
    session = store.sessions[0]
    assert [row["session"] for row in rows] == [s.name for s in store.sessions] == ["sub-01_ses-1_rest", "sub-02_rest"]
    assert session.ch_names == tuple(NAMES)
    np.testing.assert_array_equal(store.read(0, 0, 235)[:2], data[:2].astype(np.float32))
    # Codes that last over chunk borders stay one stretch, and no code is ever a sample.
    assert session.attrs["conditions"] == [[15, 45, 208], [100, 101, 3], [230, 235, 7]]
    assert [(event["sample"], event["code"]) for event in session.events] == [(15, 208), (100, 3), (230, 7)]
    assert session.attrs["segments"][0] == [0, 20]
    assert session.attrs["bads"] == ["MEG0113"]
    assert session.attrs["subject"] == "sub-01"
    assert session.attrs["scalers"] is None
    assert store.sessions[1].events == ()
    # What the older system took its statistics from is not known, which must not read as "nothing".
    assert session.attrs["span"] is None
    assert session.attrs["statistics"] == "unknown"


def test_scalers_of_the_chunks_are_kept(tmp_path):
    scalers = {"centre": np.zeros(3), "scale": np.full(3, 2e-12), "unit": "T"}
    save(tmp_path / "tree/s/0.npy", chunk(np.ones((3, 8)), scalers=scalers))
    convert_chunk_tree(tmp_path / "tree", tmp_path / "store")
    attrs = Store(tmp_path / "store").sessions[0].attrs
    assert attrs["scalers"] == {"centre": [0.0] * 3, "scale": [2e-12] * 3, "unit": "T"}


def test_mu_law_codes_are_decoded_with_their_scale_and_refused_where_they_cannot_be(tmp_path):
    values = np.linspace(-1, 1, 48).reshape(3, 16)
    codes = np.floor((np.sign(values) * np.log1p(255 * np.abs(values)) / np.log(256) + 1) / 2 * 255 + 0.5)
    codes = codes.astype(np.uint8)
    events = np.vstack([codes, np.array([[0] * 8 + [208] * 8], dtype=np.uint8)])
    save(tmp_path / "tree/s/0.npy", chunk(events, mulaw_mu=255, mulaw_scale=4.0))
    (session,) = read_chunk_tree(tmp_path / "tree")
    # Near 1 a step of the code is 4.3 % of the value.
    np.testing.assert_allclose(session.read(0, 16), 4 * values, rtol=0.03, atol=1e-3)
    assert session.conditions() == [[8, 16, 208]]
    for name, content, reason in (
        ("no-mu", chunk(codes), "mulaw_mu"),
        ("predictor", chunk(codes, mulaw_mu=255, mulaw_scale=4.0, predictor_kind="ar1"), "predictor"),
        ("residuals", chunk(codes, mulaw_mu=255, predictor_kind="ar1", residual_scale=0.5), "predictor"),
    ):
        save(tmp_path / name / "s/0.npy", content)
        with pytest.raises(InvalidFile, match=reason) as error:
            read_chunk_tree(tmp_path / name)
        assert "\n" not in str(error.value)


def test_mu_law_codes_without_their_scale_are_decoded_between_minus_1_and_1_with_a_note(tmp_path):
    codes = np.array([[0, 128, 255]] * 3, dtype=np.uint8)
    entries = {"mulaw_mu": 255, "mulaw_mse": 1e-4, "predictor_kind": None, "residual_scale": 1.0}
    scalers = {"centre": np.zeros(3), "scale": np.full(3, 2e-12), "unit": "T"}
    save(tmp_path / "tree/s/0.npy", chunk(codes, **entries, scalers=scalers))
    (row,) = convert_chunk_tree(tmp_path / "tree", tmp_path / "store")
    assert len(row["warnings"]) == 1
    assert "scale of its mu-law codes is not in its chunks" in row["warnings"][0]
    store = Store(tmp_path / "store")
    np.testing.assert_allclose(store.read(0), [[-1.0, 8.6e-5, 1.0]] * 3, atol=1e-6)
    assert {channel.unit for channel in store.sessions[0].channels} == {""}
    assert store.sessions[0].attrs["scalers"] is None  # they count from amplitudes that nobody knows


class Calls:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("place", ["entry", "name", "type", "object array", "bare"])
def test_a_chunk_that_runs_code_is_refused_and_nothing_runs(tmp_path, place):
    marker = tmp_path / "was_run"
    attack = Calls(marker)
    array = np.array([attack, None, None], dtype=object)
    content = {
        "entry": chunk(np.ones((3, 8)), note=attack),
        "name": chunk(np.ones((3, 8)), ch_names=["a", attack, "c"]),
        "type": chunk(np.ones((3, 8)), ch_types=array),
        "object array": chunk(np.array([[attack] * 8] * 3, dtype=object)),
        "bare": attack,
    }[place]
    write_chunks(tmp_path / "tree/s", np.ones((3, 8)), 10.0, NAMES, [1, 1, 1], POS_2D)
    save(tmp_path / "tree/s/1.npy", content)
    with pytest.raises(InvalidFile, match=r"posix\.system") as error:
        convert_chunk_tree(tmp_path / "tree", tmp_path / "store")
    assert "1.npy" in str(error.value)
    assert not marker.exists()
    assert not (tmp_path / "store/index.json").exists()


def test_chunks_that_do_not_fit_together_are_one_sentence(tmp_path):
    good = chunk(np.ones((3, 8)))
    faults = {
        "rate": (chunk(np.ones((3, 8)), sfreq=20.0), "sfreq"),
        "names": (chunk(np.ones((3, 8)), ch_names=["a", "b", "c"]), "ch_names"),
        "rows": (chunk(np.ones((4, 8))), "number of rows"),
        "entry": ({key: value for key, value in good.items() if key != "sfreq"}, "sfreq"),
        "text": (chunk(np.array([["a"] * 8] * 3)), "numbers"),
        "list": ([1, 2], "dictionary"),
    }
    for name, (content, reason) in faults.items():
        save(tmp_path / name / "s/0.npy", good)
        save(tmp_path / name / "s/1.npy", content)
        with pytest.raises(InvalidFile, match=reason) as error:
            read_chunk_tree(tmp_path / name)
        assert "1.npy" in str(error.value)
        assert "\n" not in str(error.value)
    save(tmp_path / "named/s/first.npy", good)
    with pytest.raises(InvalidFile, match=r"first\.npy"):
        read_chunk_tree(tmp_path / "named")
    with pytest.raises(InvalidFile, match="folder"):
        read_chunk_tree(tmp_path / "nowhere")
    (tmp_path / "bare").mkdir()
    with pytest.raises(InvalidFile, match="session folders"):
        read_chunk_tree(tmp_path / "bare")
    save(tmp_path / "two/s/0.npy", chunk(np.ones((5, 8))))
    with pytest.raises(InvalidFile, match="at most one"):
        read_chunk_tree(tmp_path / "two")


def test_a_session_that_fails_costs_nothing_of_the_others_and_is_in_the_rows(tree, tmp_path):
    root, data, _ = tree
    broken = data.copy()
    broken[1, 50] = np.nan
    save(root / "sub-00_nan/0.npy", chunk(broken))
    save(root / "sub-03_list/0.npy", [1, 2])
    with pytest.raises(InvalidFile, match=r"2 of 4 sessions failed: .*finite.*dictionary") as error:
        convert_chunk_tree(root, tmp_path / "none")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "none/index.json").exists()
    rows = convert_chunk_tree(root, tmp_path / "store", on_error="skip")
    assert [row["status"] for row in rows] == ["failed", "prepared", "prepared", "failed"]
    assert "finite" in rows[0]["error"]
    store = Store(tmp_path / "store")
    assert [session.name for session in store.sessions] == ["sub-01_ses-1_rest", "sub-02_rest"]
    np.testing.assert_array_equal(store.read(1), data[:2].astype(np.float32))


def deep(levels):
    entry = []
    for _ in range(levels):
        entry = [entry]
    return entry


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("sfreq", None), ("sfreq", "abc"), ("sfreq", [10.0]), ("sfreq", -1.0), ("sfreq", np.nan), ("sfreq", True),
        ("ch_names", 5), ("ch_names", "abc"), ("ch_names", [1, 2, 3]), ("ch_names", None),
        ("ch_types", [1, None, 1]), ("ch_types", [1, 1.5, 1]), ("ch_types", 1),
        ("pos_3d", "x"), ("pos_3d", [[0.1], [0.1, 0.2], [0.3]]), ("pos_3d", 7), ("ori_3d", [["a", "b", "c"]] * 3),
        ("mulaw_mu", "a"), ("mulaw_mu", [1]), ("mulaw_scale", "a"), ("mulaw_scale", deep(3)), ("max_abs", {"a": 1}),
        ("predictor_kind", 5), ("bad_channels", 5), ("bad_channels", "MEG0111"), ("bad_channels", [None]),
        ("bad_channels", ["MEG0111", "zz"]), ("ch_names", ["a", "b", "a"]),
        ("scalers", 5), ("scalers", {"centre": [0.0], "scale": [1.0], "unit": "T"}), ("pos_2d", deep(3000)),
    ],
)  # fmt: skip
def test_an_entry_that_cannot_be_is_one_sentence_with_file_and_costs_nothing_of_the_others(tmp_path, entry, value):
    write_chunks(tmp_path / "tree/good", np.ones((3, 8)), 10.0, NAMES, [1, 1, 1], POS_2D)
    save(tmp_path / "tree/wrong/0.npy", chunk(np.ones((3, 8)), **{entry: value}))
    rows = convert_chunk_tree(tmp_path / "tree", tmp_path / "store", on_error="skip")
    assert [row["status"] for row in rows] == ["prepared", "failed"]
    assert "wrong/0.npy" in rows[1]["error"]
    assert (entry if entry != "pos_2d" else "levels") in rows[1]["error"]
    assert "\n" not in rows[1]["error"]


class Huge:
    def __init__(self, kind, *values):
        self.values = kind, values

    def __reduce__(self):
        return self.values


@pytest.mark.parametrize(
    "huge", [Huge(bytearray, 10**12), Huge(bytes, 10**12), Huge(list, range(10**12)), Huge(np.ndarray, (10**6, 10**6))]
)
def test_a_few_bytes_that_ask_for_a_terabyte_are_one_sentence(tmp_path, huge):
    save(tmp_path / "tree/wrong/0.npy", chunk(np.ones((3, 8)), note=huge))
    with pytest.raises(InvalidFile, match=r"wrong/0\.npy: expected"):
        convert_chunk_tree(tmp_path / "tree", tmp_path / "store")


@pytest.mark.parametrize("value", [1e12, -1e12, np.nan, np.inf])
def test_numbers_that_are_no_signal_are_refused_with_their_chunk_and_channel(tmp_path, value):
    data = np.ones((3, 30))
    data[1, 25] = value
    write_chunks(tmp_path / "tree/s", data, 10.0, NAMES, [1, 1, 1], POS_2D, chunk_s=1.0)
    with pytest.raises(InvalidFile, match=r"s/2\.npy: expected finite .*channel MEG0112, sample 5"):
        convert_chunk_tree(tmp_path / "tree", tmp_path / "store")


def test_a_session_without_samples_is_refused(tmp_path):
    save(tmp_path / "tree/s/0.npy", chunk(np.ones((3, 0))))
    with pytest.raises(InvalidFile, match="expected samples"):
        read_chunk_tree(tmp_path / "tree")


def test_rates_that_differ_between_sessions_are_refused_with_a_way_out_that_exists(tmp_path):
    save(tmp_path / "tree/a/0.npy", chunk(np.ones((3, 8))))
    save(tmp_path / "tree/b/0.npy", chunk(np.ones((3, 8)), sfreq=20.0))
    with pytest.raises(InvalidFile, match=r"10 Hz \(a\), 20 Hz \(b\).* Hint: imported chunks are not resampled"):
        convert_chunk_tree(tmp_path / "tree", tmp_path / "store")


def test_rates_that_differ_by_rounding_are_one(tmp_path):
    save(tmp_path / "tree/a/0.npy", chunk(np.ones((3, 8)), sfreq=1000.0))
    save(tmp_path / "tree/b/0.npy", chunk(np.ones((3, 8)), sfreq=1000.0005))
    assert len(convert_chunk_tree(tmp_path / "tree", tmp_path / "store")) == 2


def test_a_missing_chunk_is_noted_and_stays_a_border(tree, tmp_path):
    root = tmp_path / "gap"
    shutil.copytree(tree[0], root)
    (root / "sub-01_ses-1_rest/3.npy").unlink()
    session = read_chunk_tree(root)[0]
    assert "3 are missing" in session.notes[0]
    assert session.segments[3] == [60, 80]
    np.testing.assert_array_equal(session.read(60, 80)[0], tree[1][0, 80:100])


def test_a_chunk_cut_short_is_refused(tree):
    file = tree[0] / "sub-02_rest/0.npy"
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(InvalidFile, match=r"complete|too early"):
        read_chunk_tree(tree[0])
