"""What a name is and which parameters it takes, from source alone."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from brainlab.config.signatures import NotFound, find_definition

MODULE = '''
from dataclasses import dataclass, field
from fractions import Fraction as reached
import os
import os.path as where

class Base:
    def __init__(self, a, b=1, *, c, d=2): ...

class Child(Base):
    """Takes what Base takes."""

class Open(Base):
    def __init__(self, e, **rest): ...

class Plain: ...

@dataclass
class Record:
    x: int
    y: float = 0.0
    z: list = field(default_factory=list)
    hidden: int = field(init=False, default=0)

@dataclass
class Longer(Record):
    w: int = 1

def function(p, q=3): ...

class Many:
    def __init__(self, *rest): ...

Alias = Base
made = object()
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "sigpack"
    folder.mkdir()
    (folder / "__init__.py").write_text("from .inner import *\nfrom .inner import Base as Renamed\n")
    (folder / "inner.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    find_definition.cache_clear()
    from brainlab.config import signatures

    signatures._module_file.cache_clear()
    signatures._source.cache_clear()
    return "sigpack"


@pytest.mark.parametrize(
    ("name", "kind", "parameters", "required", "is_open"),
    [
        ("inner.Base", "class", ("a", "b", "c", "d"), ("a", "c"), False),
        ("inner.Child", "class", ("a", "b", "c", "d"), ("a", "c"), False),
        ("inner.Open", "class", ("e",), ("e",), True),
        ("inner.Plain", "class", (), (), False),
        ("inner.Record", "class", ("x", "y", "z"), ("x",), False),
        ("inner.Longer", "class", ("x", "y", "z", "w"), ("x",), False),
        ("inner.function", "function", ("p", "q"), ("p",), False),
        ("Base", "class", ("a", "b", "c", "d"), ("a", "c"), False),
        ("Renamed", "class", ("a", "b", "c", "d"), ("a", "c"), False),
        ("inner.Alias", "class", ("a", "b", "c", "d"), ("a", "c"), False),
    ],
)
def test_parameters_are_read_through_bases_reexports_and_aliases(package, name, kind, parameters, required, is_open):
    found = find_definition(f"{package}.{name}")

    assert (found.kind, found.parameters, found.required, found.open) == (kind, parameters, required, is_open)
    assert found.module == "sigpack.inner"


def test_any_number_of_positional_values_is_known(package):
    assert find_definition(f"{package}.inner.Many").variadic
    assert not find_definition(f"{package}.inner.Base").variadic


def test_names_for_literals_are_spelled_out_also_one_import_away(tmp_path, package):
    folder = tmp_path / package
    (folder / "kinds.py").write_text("from typing import Literal\nFar = Literal['c', 'd']\n")
    (folder / "user.py").write_text(
        "from typing import Literal, TypeAlias\nfrom .kinds import Far as Renamed\n"
        "Near: TypeAlias = Literal['a']\nOther = dict\n"
        "class Base:\n    def __init__(self, near: Near | None, far: Renamed = 'c', other: Other = None): ...\n"
        "class Child(Base): ...\n"
    )
    found = find_definition(f"{package}.user.Child").annotations

    assert {name: ast.unparse(each) for name, each in found.items()} == {
        "near": "Literal['a'] | None",
        "far": "Literal['c', 'd']",
        "other": "Other",
    }


@pytest.mark.parametrize(
    ("name", "kind", "real"),
    [
        ("inner.os", "module", "os"),
        ("inner.where", "module", "os.path"),
        ("inner.os.path", "unknown", "os.path"),
        ("inner.reached", "class", "fractions.Fraction"),
        ("inner.Base.__init__", "method", "sigpack.inner.Base.__init__"),
        ("inner", "module", "sigpack.inner"),
        ("inner.made", "unknown", "sigpack.inner.made"),
    ],
)
def test_a_name_says_where_it_really_comes_from(package, name, kind, real):
    found = find_definition(f"{package}.{name}")

    assert (found.kind, found.name) == (kind, real)


@pytest.mark.parametrize(
    "name", ["sigpack.inner.Nothing", "sigpack.nowhere.Base", "no_such_package.x", "sigpack..x", "a b"]
)
def test_what_does_not_exist_is_not_found(package, name):
    with pytest.raises(NotFound):
        find_definition(name)


def test_nothing_is_imported():
    code = (
        "import sys; from brainlab.config.signatures import find_definition as f;"
        "print(f('lightning.pytorch.Trainer').parameters[0], f('torch.nn.Linear').required,"
        "[m for m in ('torch', 'lightning') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert shown.split(maxsplit=1) == ["accelerator", "('in_features', 'out_features') []\n"]


def test_the_source_agrees_with_the_imported_signature():
    import inspect

    from torch.optim import AdamW
    from torch.utils.data import DataLoader

    for found in (AdamW, DataLoader):
        expected = list(inspect.signature(found.__init__).parameters)[1:]
        assert list(find_definition(f"{found.__module__}.{found.__qualname__}").parameters) == expected
