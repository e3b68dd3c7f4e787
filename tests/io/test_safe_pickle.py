from __future__ import annotations

import builtins
import collections
import importlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from brainlab.errors import InvalidFile
from brainlab.io.safe_pickle import load_npy, load_pickle, loads_pickle


class Calls:
    """Pickles as a call of ``function`` with ``arguments``."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def attacks(marker: Path) -> dict[str, object]:
    command = f"touch {marker}"
    return {
        "posix.system": Calls(os.system, command),
        "builtins.eval": Calls(builtins.eval, f"open({str(marker)!r}, 'w')"),
        "builtins.exec": Calls(builtins.exec, f"open({str(marker)!r}, 'w')"),
        "builtins.getattr": Calls(getattr, "text", "upper"),
        "importlib.import_module": Calls(importlib.import_module, "antigravity"),
        "io.open": Calls(builtins.open, str(marker), "w"),
    }


@pytest.mark.parametrize("name", list(attacks(Path("x"))))
@pytest.mark.parametrize("place", ["bare", "in a list", "in an object array", "in a 0-d object array", "npy file"])
def test_a_pickle_that_runs_code_is_refused_by_name_and_nothing_runs(tmp_path, name, place):
    marker = tmp_path / "was_run"
    attack = attacks(marker)[name]
    file = tmp_path / "data.npy"
    if place == "npy file":
        np.save(file, np.array([{"x": [attack]}], dtype=object), allow_pickle=True)
    else:
        box = np.empty((), dtype=object)
        box[()] = attack
        value = {
            "bare": attack,
            "in a list": [1, [attack]],
            "in an object array": np.array([attack, None], dtype=object),
            "in a 0-d object array": box,
        }[place]
        file.write_bytes(pickle.dumps(value))
    with pytest.raises(InvalidFile) as error:
        load_npy(file)
    assert name in str(error.value)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)
    assert not marker.exists()


@pytest.mark.parametrize(
    "raw",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04\x8c\x0enumpy.testing.\x8c\x03run\x93.",
        b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
        b"(S'true'\nios\nsystem\n.",
        b"\x80\x04Pobject\n.",
    ],
    ids=["protocol 0 global", "stack global", "dotted name", "instance opcode", "persistent id"],
)
def test_handwritten_opcodes_are_refused(raw):
    with pytest.raises(InvalidFile):
        loads_pickle(raw, "here")


def test_bytes_in_other_codecs_are_refused():
    with pytest.raises(InvalidFile):
        loads_pickle(b"c_codecs\nencode\n(Vabc\nVrot13\ntR.", "here")


def example() -> dict:
    return {
        "data": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "names": ["Fp1", "Cz"],
        "texts": np.array(["a", "bc"]),
        "objects": np.array([{"x": 1}, None], dtype=object),
        "scalar": np.float64(2.5),
        "ordered": collections.OrderedDict(a=1),
        "set": {1, 2},
        "raw": b"\x00\xff",
        "complex": 1 + 2j,
        "half": np.array([1.5], dtype="f2"),
        "flag": np.bool_(True),
    }


def assert_equal(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, np.ndarray):
            assert found[key].dtype == value.dtype
            np.testing.assert_array_equal(found[key], value)
        else:
            assert found[key] == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_containers_come_back_from_every_protocol(tmp_path, protocol):
    file = tmp_path / "x.pkl"
    file.write_bytes(pickle.dumps(example(), protocol=protocol))
    assert_equal(load_pickle(file), example())


@pytest.mark.parametrize("protocol", [2, 4])
def test_module_names_of_numpy_1_and_2_are_both_known(protocol):
    raw = pickle.dumps(example(), protocol=protocol)
    for old, new in ((b"numpy._core.", b"numpy.core."), (b"numpy.core.", b"numpy._core.")):
        if old not in raw:
            continue
        if protocol == 4:  # strings carry their length, and the frame its own
            raw = pickle.dumps(example(), protocol=2)
        assert_equal(loads_pickle(raw.replace(old, new), "here"), example())


def test_npy_that_is_a_plain_array_is_read_or_mapped(tmp_path):
    for number, array in enumerate([np.arange(6.0).reshape(2, 3), np.asfortranarray(np.eye(3)), np.zeros((0, 4))]):
        file = tmp_path / f"{number}.npy"
        np.save(file, array)
        np.testing.assert_array_equal(load_npy(file), array)
        np.testing.assert_array_equal(load_npy(file, memory_map=True), array)


def test_npy_that_holds_one_object_gives_the_object(tmp_path):
    np.save(tmp_path / "x.npy", np.array(example(), dtype=object), allow_pickle=True)
    assert_equal(load_npy(tmp_path / "x.npy"), example())


def test_bare_pickle_called_npy_gives_its_content(tmp_path):
    (tmp_path / "x.npy").write_bytes(pickle.dumps(example(), protocol=4))
    assert_equal(load_npy(tmp_path / "x.npy"), example())


def test_large_arrays_of_a_bare_pickle_can_stay_on_disk(tmp_path):
    large = np.random.default_rng(0).standard_normal((300, 63, 10))
    fortran = np.asfortranarray(large.astype(np.float32))
    for protocol in (3, 4):
        content = {"large": large, "fortran": fortran, "names": ["a", "b"], "small": np.arange(3)}
        (tmp_path / "x.npy").write_bytes(pickle.dumps(content, protocol=protocol))
        found = load_npy(tmp_path / "x.npy", memory_map=True)
        assert_equal(found, content)
        assert not found["large"].flags.writeable


@pytest.mark.parametrize("keep", [0, 3, 7, 40, 0.5, 0.99])
@pytest.mark.parametrize("form", ["plain", "object", "pickle"])
@pytest.mark.parametrize("memory_map", [False, True])
def test_truncated_files_are_refused_in_one_sentence(tmp_path, form, keep, memory_map):
    file = tmp_path / "x.npy"
    array = np.arange(50_000.0)
    if form == "plain":
        np.save(file, array)
    elif form == "object":
        np.save(file, np.array({"data": array}, dtype=object), allow_pickle=True)
    else:
        file.write_bytes(pickle.dumps({"data": array}))
    raw = file.read_bytes()
    file.write_bytes(raw[: int(keep * len(raw)) if isinstance(keep, float) else keep])
    with pytest.raises(InvalidFile) as error:
        load_npy(file, memory_map=memory_map)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_and_other_content_are_refused(tmp_path):
    with pytest.raises(InvalidFile, match="readable"):
        load_npy(tmp_path / "none.npy")
    (tmp_path / "text.npy").write_text("hello")
    with pytest.raises(InvalidFile, match="header or a pickle"):
        load_npy(tmp_path / "text.npy")


def test_pandas_frames_need_to_be_asked_for(tmp_path):
    import pandas as pd

    # Frames of the years before Arrow strings: text columns and column names are objects.
    columns = pd.Index(["a", "b", "c"], dtype=object)
    frame = pd.DataFrame([[1, 0.5, "x"], [2, 1.5, "y"]], columns=columns).astype({"c": object})
    frame.to_pickle(tmp_path / "frame.pkl")
    with pytest.raises(InvalidFile, match="pandas"):
        load_pickle(tmp_path / "frame.pkl")
    pd.testing.assert_frame_equal(load_pickle(tmp_path / "frame.pkl", pandas=True), frame)
