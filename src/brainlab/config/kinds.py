"""Compares values with the annotations of the parameters they are for, without importing either.

Only what an annotation says in plain terms is held against a value: numbers, strings, booleans, ``Literal``, lists,
mappings, and callables or modules, which must be built. Any other name says nothing here; then the value passes, and
the constructor decides.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["expected_instead"]

_NUMBERS = {"int": "a whole number", "float": "a number"}
_LISTS = {"list", "List", "Sequence", "tuple", "Tuple"}
_MAPPINGS = {"dict", "Dict", "Mapping"}
_BUILT = {"Callable", "Module"}


def expected_instead(annotation: ast.expr, value: Any) -> str | None:
    """What the parameter wants where ``value`` cannot be it, else None.

    >>> annotation = lambda text: ast.parse(text, mode="eval").body
    >>> expected_instead(annotation("int"), "abc"), expected_instead(annotation("float | None"), 3)
    ('expected a whole number', None)
    >>> expected_instead(annotation("Literal['a', 'b'] | None"), "c")
    'expected a, b or null'
    """
    if value is None or (isinstance(value, str) and "${" in value):
        return None  # null may be filled from the data, an interpolation of a chain's stage later
    words = []
    for part in _alternatives(annotation):
        said = _mismatch(part, value)
        if said is None:
            return None
        words += said
    if not words:
        return None
    return f"expected {words[0] if len(words) == 1 else ', '.join(words[:-1]) + ' or ' + words[-1]}"


def _mismatch(part: ast.expr, value: Any) -> list[str] | None:
    """Words for what ``part`` wants, or None where ``value`` may be that."""
    if isinstance(part, ast.Constant) and part.value is None:
        return ["null"]
    head = part.value if isinstance(part, ast.Subscript) else part
    name = head.attr if isinstance(head, ast.Attribute) else head.id if isinstance(head, ast.Name) else ""
    if name in _NUMBERS:
        fits = isinstance(value, int) or (isinstance(value, float) and (name == "float" or value.is_integer()))
        return None if fits else [_NUMBERS[name]]
    if name == "bool":
        return None if isinstance(value, bool) else ["true", "false"]
    if name == "str":
        return None if isinstance(value, str | int | float) else ["a text"]  # a tag may look like a number
    if name == "Literal" and isinstance(part, ast.Subscript):
        members = part.slice.elts if isinstance(part.slice, ast.Tuple) else [part.slice]
        known = [member.value for member in members if isinstance(member, ast.Constant)]
        return None if value in known or len(known) < len(members) else [str(word) for word in known]
    if name in _LISTS:
        return None if isinstance(value, list | tuple | str) else ["a list"]
    if name in _MAPPINGS:
        return None if isinstance(value, Mapping) else ["a mapping"]
    if name in _BUILT:
        return ["a mapping with _target_"] if isinstance(value, str | int | float) else None
    return None


def _alternatives(annotation: ast.expr) -> Iterator[ast.expr]:
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        yield from _alternatives(annotation.left)
        yield from _alternatives(annotation.right)
        return
    if isinstance(annotation, ast.Subscript):
        head = annotation.value
        name = head.attr if isinstance(head, ast.Attribute) else head.id if isinstance(head, ast.Name) else ""
        if name in ("Optional", "Union"):
            for each in annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]:
                yield from _alternatives(each)
            if name == "Optional":
                yield ast.Constant(None)
            return
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        try:
            yield from _alternatives(ast.parse(annotation.value, mode="eval").body)
        except SyntaxError:
            yield annotation
        return
    yield annotation
